//! The domain really starts: under a libvirtd of its own, with QEMU's software emulation, from a disk that says so.
//!
//! The daemon runs as an unprivileged session with configuration, sockets and state in a folder of the test's, so that
//! nothing of the machine's own libvirt is read or touched.

use crate::support::{import, tool};
use esxodus_convert::targets::{Target, TargetContext, TargetDisk, write_all};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// `nobody`: libvirtd refuses to be a session daemon of root.
const NOBODY: u32 = 65_534;
const BOOTED: &str = "ESXODUS-BOOTED";
const DEADLINE: Duration = Duration::from_secs(90);

/// A boot sector that writes [`BOOTED`] to the first serial port and halts.
fn boot_disk() -> Vec<u8> {
    // xor ax,ax; mov ds,ax; mov dx,0x3f8; mov si,0x7c16; again: lodsb; test al,al; jz end; out dx,al; jmp again;
    // end: hlt; jmp end; nop
    let code: [u8; 22] = [
        0x31, 0xc0, 0x8e, 0xd8, 0xba, 0xf8, 0x03, 0xbe, 0x16, 0x7c, 0xac, 0x84, 0xc0, 0x74, 0x03, 0xee, 0xeb, 0xf8,
        0xf4, 0xeb, 0xfd, 0x90,
    ];
    let mut disk = code.to_vec();
    disk.extend(BOOTED.bytes());
    disk.extend(b"\r\n\0");
    disk.resize(510, 0);
    disk.extend([0x55, 0xaa]);
    disk.resize(1 << 20, 0);
    disk
}

struct Session {
    folder: tempfile::TempDir,
    daemon: Option<Child>,
}

impl Session {
    /// `None` where something is missing; the reason is printed.
    fn start() -> Option<Self> {
        let daemon = ["/usr/sbin/libvirtd", "/usr/bin/libvirtd"]
            .into_iter()
            .find(|path| Path::new(path).is_file());
        let Some(daemon) = daemon else {
            println!("SKIP: libvirtd is not installed");
            return None;
        };
        if !["virsh", "setpriv", "qemu-system-x86_64"].into_iter().all(tool) {
            return None;
        }
        // The names of sockets may have 108 bytes, so the folder's name is short.
        let folder = tempfile::Builder::new()
            .prefix("exl")
            .tempdir_in("/tmp")
            .expect("temporary folder");
        for name in ["config/libvirt", "run", "cache", "home", "disks"] {
            std::fs::create_dir_all(folder.path().join(name)).expect("folder");
        }
        std::fs::write(
            folder.path().join("config/libvirt/qemu.conf"),
            "stdio_handler = \"file\"\nsecurity_driver = \"none\"\nremember_owner = 0\n",
        )
        .expect("file");
        let mut session = Self { folder, daemon: None };
        session.hand_over();
        let log = std::fs::File::create(session.path("daemon.log")).expect("file");
        let child = session
            .command(daemon)
            .args(["--timeout", "120"])
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("libvirtd starts");
        session.daemon = Some(child);
        let socket = session.path("run/libvirt/libvirt-sock");
        assert!(
            wait(|| socket.exists()),
            "libvirtd opens no socket: {}",
            session.read("daemon.log")
        );
        Some(session)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn read(&self, name: &str) -> String {
        String::from_utf8_lossy(&std::fs::read(self.path(name)).unwrap_or_default()).into_owned()
    }

    /// Gives everything in the folder to the one that the daemon runs as.
    fn hand_over(&self) {
        if is_root() {
            let done = Command::new("chown")
                .arg("-R")
                .arg(NOBODY.to_string())
                .arg(self.folder.path())
                .status()
                .expect("runs");
            assert!(done.success());
        }
    }

    fn command(&self, program: &str) -> Command {
        let mut command = if is_root() {
            let mut command = Command::new("setpriv");
            let id = NOBODY.to_string();
            command.args(["--reuid", &id, "--regid", &id, "--clear-groups", program]);
            command
        } else {
            Command::new(program)
        };
        command
            .env("XDG_CONFIG_HOME", self.path("config"))
            .env("XDG_RUNTIME_DIR", self.path("run"))
            .env("XDG_CACHE_HOME", self.path("cache"))
            .env("HOME", self.path("home"))
            .stdin(Stdio::null());
        command
    }

    fn virsh(&self, arguments: &[&str]) -> Output {
        self.command("virsh")
            .args(["-c", "qemu:///session"])
            .args(arguments)
            .output()
            .expect("virsh runs")
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        if let Some(daemon) = &mut self.daemon {
            // A daemon that is already gone is what we want.
            let _ = daemon.kill();
            let _ = daemon.wait();
        }
    }
}

fn is_root() -> bool {
    use std::os::unix::fs::MetadataExt as _;
    std::fs::metadata("/proc/self").is_ok_and(|meta| meta.uid() == 0)
}

fn wait(mut done: impl FnMut() -> bool) -> bool {
    let end = Instant::now() + DEADLINE;
    while Instant::now() < end {
        if done() {
            return true;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    done()
}

/// What differs on a host without KVM and with the daemon as a session: the accelerator, the CPU that it offers, the network,
/// and a file in place of the pty so that the test can read it.
fn for_emulation(domain: &str, serial: &Path) -> String {
    let start = domain.find("<serial ").expect("a serial port");
    let end = start + domain[start..].find("</serial>").expect("it ends");
    format!(
        "{}<serial type=\"file\"><source path=\"{}\"/><target port=\"0\"/>{}",
        &domain[..start],
        serial.display(),
        &domain[end..]
    )
    .replacen("type=\"kvm\"", "type=\"qemu\"", 1)
    .replace("<cpu mode=\"host-model\"", "<cpu mode=\"maximum\"")
    // A session has no networks of the host's.
    .replace("<interface type=\"network\">", "<interface type=\"user\">")
    .replace("      <source network=\"default\"/>\n", "")
}

#[test]
fn the_domain_starts_under_libvirtd_and_its_disk_boots() {
    let Some(session) = Session::start() else { return };
    let common = "displayName = \"real start\"\nmemSize = \"128\"\nnumvcpus = \"2\"\nserial0.present = \"TRUE\"\n\
                  uuid.bios = \"56 4d 12 34 56 78 9a bc-de f0 12 34 56 78 9a bc\"\nannotation = \"a & <b>\"\n";
    let cases = [
        (
            "pvscsi",
            "guestOS = \"debian12-64\"\nscsi0.virtualDev = \"pvscsi\"\nscsi0:0.present = \"TRUE\"\nscsi0:0.fileName = \"a.vmdk\"\n",
            true,
            true,
        ),
        (
            "sata",
            "guestOS = \"debian12-64\"\nsata0:0.present = \"TRUE\"\nsata0:0.fileName = \"a.vmdk\"\n",
            false,
            true,
        ),
        (
            "ide",
            "guestOS = \"winXPPro\"\nide0:0.present = \"TRUE\"\nide0:0.fileName = \"a.vmdk\"\n",
            false,
            true,
        ),
        // A NIC in its slot, one that is unplugged, and an empty drive beside the disk.
        (
            "nics",
            "guestOS = \"debian12-64\"\nscsi0:0.present = \"TRUE\"\nscsi0:0.fileName = \"a.vmdk\"\n\
             ethernet0.present = \"TRUE\"\nethernet0.virtualDev = \"vmxnet3\"\nethernet0.pciSlotNumber = \"160\"\n\
             ethernet1.present = \"TRUE\"\nethernet1.virtualDev = \"e1000e\"\nethernet1.startConnected = \"FALSE\"\n\
             sata0:0.present = \"TRUE\"\nsata0:0.deviceType = \"cdrom-raw\"\n",
            false,
            true,
        ),
        // The disk has no loader for UEFI: that the domain runs is what is shown.
        (
            "uefi",
            "guestOS = \"debian12-64\"\nfirmware = \"efi\"\nscsi0:0.present = \"TRUE\"\nscsi0:0.fileName = \"a.vmdk\"\n",
            true,
            false,
        ),
        (
            "secure",
            "guestOS = \"windows2019srv-64\"\nfirmware = \"efi\"\nuefi.secureBoot.enabled = \"TRUE\"\nvtpm.present = \"TRUE\"\n\
             sata0:0.present = \"TRUE\"\nsata0:0.fileName = \"a.vmdk\"\n",
            false,
            false,
        ),
    ];
    // libvirt makes the TPM's state with it.
    let has_tpm = tool("swtpm_setup");
    for (name, text, virtio_proven, boots) in cases {
        if text.contains("vtpm") && !has_tpm {
            continue;
        }
        let machine = import(format!("{common}{text}").as_bytes()).machine;
        let disk = format!("disks/{name}.raw");
        std::fs::write(session.path(&disk), boot_disk()).expect("disk");
        let context = TargetContext {
            disks: vec![TargetDisk {
                path: disk.into(),
                format: "raw".to_owned(),
                virtual_bytes: 1 << 20,
            }],
            map: None,
            virtio_proven,
        };
        write_all(&machine, &context, session.folder.path(), &[Target::Libvirt]).expect("writable");
        let serial = session.path(&format!("{name}.out"));
        let domain = for_emulation(&session.read("targets/libvirt.xml"), &serial);
        let path = session.path(&format!("{name}.xml"));
        std::fs::write(&path, &domain).expect("file");
        session.hand_over();
        let shown = path.display().to_string();
        let started = session.virsh(&["create", &shown]);
        assert!(
            started.status.success(),
            "{name}: {}\n{domain}\n{}",
            String::from_utf8_lossy(&started.stderr),
            session.read("daemon.log")
        );
        let id = machine.identity.smbios_uuid.as_ref().expect("the source has one");
        let uuid = &esxodus_convert::machine::identity::target_uuid(id);
        let state = session.virsh(&["domstate", uuid]);
        let state = String::from_utf8_lossy(&state.stdout).trim().to_owned();
        let said =
            boots && wait(|| std::fs::read(&serial).is_ok_and(|said| String::from_utf8_lossy(&said).contains(BOOTED)));
        let destroyed = session.virsh(&["destroy", uuid]);
        assert_eq!(state, "running", "{name}");
        assert_eq!(said, boots, "{name}: the guest said {:?}", std::fs::read(&serial));
        assert!(
            destroyed.status.success(),
            "{name}: {}",
            String::from_utf8_lossy(&destroyed.stderr)
        );
    }
}
