//! The nested lab: QEMU's TCG emulates a CPU with SVM, a Debian kernel in it (level 1) has a complete `/dev/kvm`, our VMM
//! runs there and boots a stock kernel (level 2). One boot of level 1 runs a list of cases.

use std::{
    collections::BTreeMap,
    ffi::OsStr,
    fs::{self, File},
    io::Write as _,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

/// One run at level 1.
pub(crate) struct Case {
    /// Name; letters and dashes.
    pub(crate) name: &'static str,
    /// Shell script for level 1. `$B` is busybox; `l2 ACTION [VMM-ARGUMENT]…` boots level 2.
    pub(crate) script: String,
    /// Ends the case at level 1, in seconds.
    pub(crate) seconds: u32,
}

/// What a case printed and returned.
#[derive(Debug, Clone, Default)]
pub(crate) struct CaseResult {
    pub(crate) output: String,
    pub(crate) code: Option<i32>,
}

impl CaseResult {
    /// The VMM's last word, as JSON.
    pub(crate) fn exit(&self) -> serde_json::Value {
        self.output
            .lines()
            .rev()
            .find_map(|line| line.trim().strip_prefix("VMM-EXIT "))
            .and_then(|json| serde_json::from_str(json).ok())
            .unwrap_or(serde_json::Value::Null)
    }

    pub(crate) fn reason(&self) -> String {
        self.exit()["reason"].as_str().unwrap_or("none").to_owned()
    }
}

/// The parts of a lab image.
pub(crate) struct Lab {
    pub(crate) dir: tempfile::TempDir,
    kernel: PathBuf,
    modules: PathBuf,
    vmm: PathBuf,
    pub(crate) extra: Vec<(PathBuf, PathBuf)>,
    /// qcow2 images that level 1 has as `/dev/vdb` and so on; they stay as they are.
    pub(crate) disks: Vec<PathBuf>,
    _turn: MutexGuard<'static, ()>,
}

/// One lab at a time: two on one host would only pass their deadlines.
static TURN: Mutex<()> = Mutex::new(());

/// KVM modules, and those that let level 1 write its results to a disk.
const LEVEL1_MODULES: [&str; 9] = [
    "irqbypass",
    "kvm",
    "kvm-amd",
    "virtio_ring",
    "virtio",
    "virtio_pci_legacy_dev",
    "virtio_pci_modern_dev",
    "virtio_pci",
    "virtio_blk",
];
const LEVEL2_MODULES: [&str; 14] = [
    "virtio_ring",
    "virtio",
    "virtio_mmio",
    "virtio_pci_legacy_dev",
    "virtio_pci_modern_dev",
    "virtio_pci",
    "virtio_blk",
    "failover",
    "net_failover",
    "virtio_net",
    "af_packet",
    "rng-core",
    "virtio-rng",
    "button",
];

impl Lab {
    /// Collects the parts; `Err` says why the lab cannot run here.
    pub(crate) fn new() -> Result<Self, String> {
        for program in [
            "qemu-system-x86_64",
            "qemu-img",
            "cpio",
            "gzip",
            "mkfs.ext4",
            "lz4",
            "xz",
            "zstd",
        ] {
            find_program(program).ok_or(format!("{program} is not installed"))?;
        }
        if !Path::new("/bin/busybox").exists() {
            return Err("/bin/busybox (busybox-static) is not installed".into());
        }
        let cache = std::env::var_os("ESXODUS_CACHE").map_or_else(
            || PathBuf::from(std::env::var_os("HOME").unwrap_or_default()).join(".cache/esxodus"),
            PathBuf::from,
        );
        let kernel = cache.join("kernel/current/vmlinuz");
        let modules = cache.join("kernel/current/modules");
        if !kernel.exists() || !modules.exists() {
            return Err("no Debian cloud kernel in the cache; run scripts/setup.sh".into());
        }
        let vmm = build_vmm()?;
        Ok(Self {
            dir: tempfile::tempdir().map_err(|error| error.to_string())?,
            kernel,
            modules,
            vmm,
            extra: Vec::new(),
            disks: Vec::new(),
            _turn: TURN.lock().unwrap_or_else(PoisonError::into_inner),
        })
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Puts a host file into level 1's root.
    pub(crate) fn add(&mut self, host: impl Into<PathBuf>, target: &str) {
        self.extra.push((host.into(), target.into()));
    }

    /// Puts a program with its libraries into level 1's root, at the same paths.
    pub(crate) fn add_program(&mut self, program: &Path) {
        let libraries = Command::new("ldd").arg(program).output().expect("ldd");
        let text = String::from_utf8_lossy(&libraries.stdout).into_owned();
        let files = text.split_whitespace().filter(|word| word.starts_with('/'));
        for file in files.map(Path::new).chain([program]) {
            let target = file.strip_prefix("/").expect("an absolute path");
            self.extra.push((file.to_owned(), target.to_owned()));
        }
    }

    /// An ext4 file system with busybox and `/sbin/init`, as a qcow2 base image.
    pub(crate) fn ext4_base(&self, init: &str) -> PathBuf {
        let root = self.path("disk-root");
        for dir in ["bin", "sbin", "proc", "dev", "sys", "data"] {
            fs::create_dir_all(root.join(dir)).expect("mkdir");
        }
        fs::copy("/bin/busybox", root.join("bin/busybox")).expect("copy");
        std::os::unix::fs::symlink("busybox", root.join("bin/sh")).expect("symlink");
        script(&root.join("sbin/init"), init);
        fs::write(root.join("data/original"), "from the host\n").expect("write");
        let raw = self.path("base.raw");
        File::create(&raw)
            .and_then(|file| file.set_len(24 << 20))
            .expect("create");
        run(
            "mkfs.ext4",
            ["-q", "-F", "-d"].map(OsStr::new),
            [root.as_os_str(), raw.as_os_str()],
        );
        let base = self.path("base.qcow2");
        run(
            "qemu-img",
            ["convert", "-f", "raw", "-O", "qcow2"].map(OsStr::new),
            [raw.as_os_str(), base.as_os_str()],
        );
        base
    }

    /// Runs the cases in one boot of level 1; what they put into `/out` arrives in the folder `out`.
    pub(crate) fn run(&self, cases: &[Case], level1_cpus: u32) -> BTreeMap<&'static str, CaseResult> {
        self.level2();
        self.level1(cases);
        let out = self.path("out.tar");
        File::create(&out)
            .and_then(|file| file.set_len(64 << 20))
            .expect("create");
        let limit: u32 = 60 + cases.iter().map(|case| case.seconds).sum::<u32>();
        let log = self.qemu(&out, level1_cpus, Duration::from_secs(limit.into()));
        let folder = self.path("out");
        fs::create_dir_all(&folder).expect("mkdir");
        let _ = Command::new("tar")
            .arg("-xf")
            .arg(&out)
            .arg("-C")
            .arg(&folder)
            .stderr(Stdio::null())
            .status();
        if let Some(keep) = std::env::var_os("ESXODUS_LAB_LOG") {
            fs::write(keep, &log).expect("keep log");
        }
        split(cases, &log)
    }

    fn module(&self, name: &str) -> Option<PathBuf> {
        walk(&self.modules, &format!("{name}.ko"))
    }

    fn copy_modules(&self, names: &[&str], root: &Path) {
        fs::create_dir_all(root.join("mod")).expect("mkdir");
        for (index, name) in names.iter().enumerate() {
            // Built-in ones have no file.
            if let Some(file) = self.module(name) {
                fs::copy(file, root.join(format!("mod/{index:02}-{name}.ko"))).expect("copy");
            }
        }
    }

    fn level2(&self) {
        let root = self.path("l2");
        busybox(&root);
        self.copy_modules(&LEVEL2_MODULES, &root);
        script(&root.join("init"), include_str!("level2.sh"));
        pack(&root, &self.path("l2.gz"));
        // Behind the other archive, it puts the program for disk measurements beside it.
        let tool = self.path("l2-tool");
        fs::create_dir_all(tool.join("bin")).expect("mkdir");
        fs::copy(&self.vmm, tool.join("bin/vmm")).expect("copy");
        pack(&tool, &self.path("l2-tool.gz"));
    }

    fn level1(&self, cases: &[Case]) {
        let root = self.path("l1");
        busybox(&root);
        self.copy_modules(&LEVEL1_MODULES, &root);
        // Loaded by the cases that want them.
        for name in ["tun", "dummy"] {
            if let Some(module) = self.module(name) {
                fs::copy(module, root.join(format!("{name}.ko"))).expect("copy");
            }
        }
        self.fill(&root);
        fs::create_dir_all(root.join("cases")).expect("mkdir");
        let mut order = String::new();
        for case in cases {
            let text = format!("#!/bin/sh\nROOT=\n. /functions\n{}\n", case.script);
            script(&root.join("cases").join(case.name), &text);
            order.push_str(&format!("{} {}\n", case.name, case.seconds));
        }
        fs::write(root.join("cases.txt"), order).expect("write");
        script(&root.join("init"), include_str!("level1.sh"));
        pack(&root, &self.path("l1.gz"));
    }

    /// Runs the cases on this host; what they put into `$ROOT/out` arrives in the folder `out`.
    pub(crate) fn run_here(&self, cases: &[Case]) -> BTreeMap<&'static str, CaseResult> {
        self.level2();
        let root = self.path("here");
        for folder in ["bin", "tmp"] {
            fs::create_dir_all(root.join(folder)).expect("mkdir");
        }
        self.fill(&root);
        fs::create_dir_all(self.path("out")).expect("mkdir");
        std::os::unix::fs::symlink("../out", root.join("out")).expect("symlink");
        let mut results = BTreeMap::new();
        for case in cases {
            let text = format!("ROOT={}\n. \"$ROOT/functions\"\n{}\n", root.display(), case.script);
            let output = Command::new("/bin/busybox")
                .args(["timeout", &case.seconds.to_string(), "/bin/busybox", "sh", "-c", &text])
                .stdin(Stdio::null())
                .output()
                .expect("busybox");
            let mut said = String::from_utf8_lossy(&output.stdout).replace('\r', "");
            said.push_str(&String::from_utf8_lossy(&output.stderr));
            let result = CaseResult {
                output: said,
                code: output.status.code(),
            };
            results.insert(case.name, result);
        }
        results
    }

    /// Puts what the cases need below `root`.
    fn fill(&self, root: &Path) {
        fs::copy(&self.vmm, root.join("bin/vmm")).expect("copy");
        fs::copy(&self.kernel, root.join("vmlinuz")).expect("copy");
        fs::write(root.join("vmlinux"), uncompressed(&self.kernel)).expect("write");
        for archive in ["l2.gz", "l2-tool.gz"] {
            fs::copy(self.path(archive), root.join(archive)).expect("copy");
        }
        for (host, target) in &self.extra {
            let target = root.join(target);
            fs::create_dir_all(target.parent().expect("below the root")).expect("mkdir");
            fs::copy(host, &target).expect("copy");
        }
        fs::write(root.join("functions"), include_str!("functions.sh")).expect("write");
    }

    fn qemu(&self, out: &Path, cpus: u32, limit: Duration) -> String {
        let log = self.path("log");
        let file = File::create(&log).expect("create");
        let drive = format!("file={},if=none,id=out,format=raw", out.display());
        let mut command = Command::new("qemu-system-x86_64");
        command
            .args(["-accel", "tcg,thread=multi", "-cpu", "EPYC,+svm,+npt", "-m", "2560"])
            .args(["-smp", &cpus.to_string()])
            .args(["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"])
            .args(["-serial", "stdio", "-drive", &drive])
            .args(["-device", "virtio-blk-pci,drive=out"])
            .arg("-kernel")
            .arg(&self.kernel)
            .arg("-initrd")
            .arg(self.path("l1.gz"))
            .args(["-append", "console=ttyS0 quiet panic=-1"])
            .stdin(Stdio::null())
            .stdout(file)
            .stderr(Stdio::null());
        for (index, disk) in self.disks.iter().enumerate() {
            let drive = format!(
                "file={},if=none,id=guest{index},format=qcow2,snapshot=on",
                disk.display()
            );
            let device = format!("virtio-blk-pci,drive=guest{index}");
            command.args(["-drive", &drive, "-device", &device]);
        }
        let mut child = command.spawn().expect("qemu starts");
        let end = Instant::now() + limit;
        loop {
            if child.try_wait().expect("wait").is_some() {
                break;
            }
            if Instant::now() > end {
                child.kill().expect("kill");
                child.wait().expect("reap");
                break;
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        String::from_utf8_lossy(&fs::read(&log).expect("log")).into_owned()
    }
}

/// Cuts the log into cases.
fn split(cases: &[Case], log: &str) -> BTreeMap<&'static str, CaseResult> {
    let mut results = BTreeMap::new();
    for case in cases {
        let begin = format!("CASE-BEGIN {}\r\n", case.name);
        let end = format!("CASE-END {} ", case.name);
        let mut result = CaseResult::default();
        if let Some((_, rest)) = log.split_once(&begin) {
            match rest.split_once(&end) {
                Some((output, code)) => {
                    result.output = output.replace('\r', "");
                    result.code = code.lines().next().and_then(|code| code.trim().parse().ok());
                }
                None => result.output = rest.replace('\r', ""),
            }
        }
        results.insert(case.name, result);
    }
    results
}

/// The ELF file inside a bzImage (Linux boot protocol: `setup_sects`, `payload_offset`, `payload_length`), by the tool of
/// its compression.
fn uncompressed(kernel: &Path) -> Vec<u8> {
    let image = fs::read(kernel).expect("readable");
    let word = |at: usize| u32::from_le_bytes(image[at..at + 4].try_into().expect("four bytes"));
    let place = |at: usize| usize::try_from(word(at)).expect("64-bit host");
    let start = (usize::from(image[0x1f1]) + 1) * 512 + place(0x248);
    // The last word is the uncompressed size.
    let payload = &image[start..start + place(0x24c) - 4];
    let tool = match payload {
        [0x02, 0x21, 0x4c, 0x18, ..] => "lz4",
        [0xfd, b'7', b'z', ..] => "xz",
        [0x28, 0xb5, 0x2f, 0xfd, ..] => "zstd",
        _ => "gzip",
    };
    let mut child = Command::new(tool)
        .args(["-d", "-c"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("checked at the start");
    let mut input = child.stdin.take().expect("piped");
    let payload = payload.to_vec();
    let writer = std::thread::spawn(move || input.write_all(&payload));
    let output = child.wait_with_output().expect("ends");
    let _ = writer.join();
    assert!(
        output.stdout.starts_with(b"\x7fELF"),
        "{tool} found no kernel in {}",
        kernel.display()
    );
    output.stdout
}

/// The static build of the VMM program.
fn build_vmm() -> Result<PathBuf, String> {
    if let Some(path) = std::env::var_os("ESXODUS_LAB_VMM") {
        return Ok(path.into());
    }
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    let target = manifest.join("../target");
    let status = Command::new(env!("CARGO"))
        .current_dir(manifest)
        .env("RUSTFLAGS", "-C target-feature=+crt-static")
        .env("CARGO_TARGET_DIR", &target)
        .args(["build", "--quiet", "--release", "--example", "vmm"])
        .args(["--target", "x86_64-unknown-linux-gnu"])
        .status()
        .map_err(|error| error.to_string())?;
    if !status.success() {
        return Err("the static build of the VMM failed".into());
    }
    Ok(target.join("x86_64-unknown-linux-gnu/release/examples/vmm"))
}

pub(crate) fn find_program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .chain([PathBuf::from("/usr/sbin"), PathBuf::from("/sbin")])
        .map(|dir| dir.join(name))
        .find(|file| file.exists())
}

fn run<'a>(program: &str, first: impl IntoIterator<Item = &'a OsStr>, second: impl IntoIterator<Item = &'a OsStr>) {
    let program = find_program(program).expect("checked at the start");
    let output = Command::new(&program)
        .args(first)
        .args(second)
        .output()
        .expect("starts");
    assert!(
        output.status.success(),
        "{}: {}",
        program.display(),
        String::from_utf8_lossy(&output.stderr)
    );
}

fn busybox(root: &Path) {
    fs::create_dir_all(root.join("bin")).expect("mkdir");
    fs::copy("/bin/busybox", root.join("bin/busybox")).expect("copy");
    std::os::unix::fs::symlink("busybox", root.join("bin/sh")).expect("symlink");
}

fn script(path: &Path, text: &str) {
    let mut file = File::create(path).expect("create");
    file.write_all(text.as_bytes()).expect("write");
    file.set_permissions(fs::Permissions::from_mode(0o755)).expect("chmod");
}

fn pack(root: &Path, target: &Path) {
    let status = Command::new("sh")
        .arg("-c")
        .arg("find . | cpio -o -H newc --quiet | gzip -1 >\"$0\"")
        .arg(target)
        .current_dir(root)
        .status()
        .expect("sh");
    assert!(status.success());
}

fn walk(dir: &Path, name: &str) -> Option<PathBuf> {
    for entry in fs::read_dir(dir).ok()?.flatten() {
        let path = entry.path();
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            if let Some(found) = walk(&path, name) {
                return Some(found);
            }
        } else if path.file_name() == Some(OsStr::new(name)) {
            return Some(path);
        }
    }
    None
}
