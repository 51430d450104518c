//! Virtio drivers in every initramfs, without running anything of the guest: the missing modules are taken from the guest's own
//! `/lib/modules` and put behind the image as one more archive.

use super::devices;
use super::names::Resolver;
use super::network;
use super::plan::Plan;
use crate::initramfs::{self, Addition, Initramfs, MAX_FILE, Maker};
use crate::kmod::Modules;
use reports::schema::{DriverPlace, KernelFacts};
use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

/// What finds a root on virtio-blk or virtio-scsi. Not `virtio_net`: a NIC that comes up in the initramfs may get its name there, before
/// the rules of the system that keep its old one.
const WANTED: [&str; 4] = ["virtio_pci", "virtio_blk", "virtio_scsi", "sd_mod"];
/// Told in facts, not needed to find a root.
const TOLD: [&str; 5] = ["virtio_net", "virtio_console", "ahci", "ata_piix", "nvme"];
const FOR_BLK: [&str; 2] = ["virtio_pci", "virtio_blk"];
const FOR_SCSI: [&str; 3] = ["virtio_pci", "virtio_scsi", "sd_mod"];
const STRANGE: &str = "made by a program that is not known here, so whether it loads the drivers in it is not known";
/// Largest kernel module with its debug information stripped, with room.
const MAX_MODULE: u64 = 64 << 20;
/// Stays free on the file system of an image that grows, in bytes.
const SPARE: u64 = 1 << 20;

/// The option in `/boot/config-VERSION` that builds the driver.
fn option(name: &str) -> &'static str {
    match name {
        "virtio_pci" => "CONFIG_VIRTIO_PCI",
        "virtio_blk" => "CONFIG_VIRTIO_BLK",
        "virtio_scsi" => "CONFIG_SCSI_VIRTIO",
        "sd_mod" => "CONFIG_BLK_DEV_SD",
        "virtio_net" => "CONFIG_VIRTIO_NET",
        "ahci" => "CONFIG_SATA_AHCI",
        "ata_piix" => "CONFIG_ATA_PIIX",
        "nvme" => "CONFIG_BLK_DEV_NVME",
        _ => "CONFIG_VIRTIO_CONSOLE",
    }
}

/// A kernel with its initramfs, as far as they could be read.
struct Kernel {
    version: String,
    /// Path in the guest and length of the image.
    image: Option<(String, u64)>,
    initramfs: Option<Initramfs>,
    unreadable: Option<String>,
    modules: Option<Modules>,
    config: String,
}

/// Images in `/boot` that start a system: no kdump images, no backups.
fn images(plan: &Plan) -> Vec<String> {
    let is_image = |name: &str| {
        let starts = ["initrd", "initramfs"].iter().any(|start| name.starts_with(start));
        let other = ["kdump", ".old", ".bak", "-bak", "fallback.old", ".rpmsave", ".sig"];
        starts && !other.iter().any(|part| name.contains(part))
    };
    let mut found = Vec::new();
    for name in plan.names("/boot") {
        if is_image(&name) {
            found.push(format!("/boot/{name}"));
        }
    }
    // kernel-install's layout: MACHINE-ID/VERSION/initrd.
    for base in ["/boot", "/boot/efi", "/efi"] {
        for id in plan
            .names(base)
            .iter()
            .filter(|name| name.len() == 32 && name.bytes().all(|byte| byte.is_ascii_hexdigit()))
        {
            for version in plan.names(&format!("{base}/{id}")) {
                let folder = format!("{base}/{id}/{version}");
                found.extend(
                    plan.names(&folder)
                        .into_iter()
                        .filter(|name| is_image(name))
                        .map(|name| format!("{folder}/{name}")),
                );
            }
        }
    }
    // A link would be looked at twice.
    found.retain(|path| std::fs::symlink_metadata(plan.place(path)).is_ok_and(|data| data.is_file()));
    found
}

fn read_image(path: &Path) -> io::Result<Vec<u8>> {
    let file = File::open(path)?;
    let length = file.metadata()?.len();
    if length > MAX_FILE {
        return Err(io::Error::other(format!("it has {length} bytes, more than is read")));
    }
    let mut bytes = Vec::new();
    file.take(MAX_FILE).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// The version in a file's name: `initrd.img-6.1.0-42-amd64`, `initramfs-5.14.0-427.el9.x86_64.img`.
fn version_in_name<'v>(path: &str, versions: &'v [String]) -> Option<&'v String> {
    versions
        .iter()
        .filter(|version| path.contains(version.as_str()))
        .max_by_key(|version| version.len())
}

impl Kernel {
    fn of(plan: &Plan, version: String, image: Option<String>) -> Self {
        let (mut initramfs, mut unreadable, mut length) = (None, None, 0);
        if let Some(path) = &image {
            match read_image(&plan.place(path)).and_then(|bytes| {
                length = bytes.len() as u64;
                Initramfs::read(&bytes)
            }) {
                Ok(read) => initramfs = Some(read),
                Err(error) => unreadable = Some(error.to_string()),
            }
        }
        let version = initramfs
            .as_ref()
            .and_then(|read| read.version.clone())
            .unwrap_or(version);
        let modules = ["/lib/modules", "/usr/lib/modules"]
            .iter()
            .find_map(|base| Modules::read(&plan.place(&format!("{base}/{version}"))).ok());
        Self {
            config: plan.text(&format!("/boot/config-{version}")).unwrap_or_default(),
            image: image.map(|path| (path, length)),
            initramfs,
            unreadable,
            modules,
            version,
        }
    }

    fn place(&self, name: &str) -> DriverPlace {
        let built_in = |name: &str| {
            self.modules.as_ref().is_some_and(|modules| modules.is_built_in(name))
                || self
                    .config
                    .lines()
                    .any(|line| line.strip_prefix(option(name)) == Some("=y"))
        };
        let closure = self
            .modules
            .as_ref()
            .map(|modules| modules.closure(name))
            .unwrap_or_default();
        let here = |name: &str| {
            self.initramfs
                .as_ref()
                .is_some_and(|read| read.modules.contains_key(name))
        };
        if closure.is_empty() && built_in(name) {
            return DriverPlace::BuiltIn;
        }
        // A driver without what it needs cannot be loaded.
        if here(name)
            && closure
                .iter()
                .all(|need| here(need) || self.modules.as_ref().is_some_and(|modules| modules.is_built_in(need)))
        {
            return DriverPlace::Initramfs;
        }
        if closure.is_empty() {
            DriverPlace::Missing
        } else {
            DriverPlace::Modules
        }
    }

    fn boots(&self, drivers: &[&str]) -> bool {
        drivers
            .iter()
            .all(|name| matches!(self.place(name), DriverPlace::BuiltIn | DriverPlace::Initramfs))
    }

    /// Was the image made by a program whose way to load drivers is not known here?
    fn is_strange(&self) -> bool {
        self.initramfs.as_ref().is_some_and(|read| read.maker == Maker::Unknown)
    }

    fn facts(&self) -> KernelFacts {
        let built_in = |drivers: &[&str]| drivers.iter().all(|name| self.place(name) == DriverPlace::BuiltIn);
        let readable = self.initramfs.is_some() || self.image.is_none();
        let boots = |drivers: &[&str]| readable && self.boots(drivers) && (!self.is_strange() || built_in(drivers));
        let unreadable = self.is_strange().then(|| STRANGE.to_owned());
        KernelFacts {
            version: self.version.clone(),
            initramfs: self.image.as_ref().map(|(path, _)| path.clone()),
            unreadable: self.unreadable.clone().or(unreadable),
            drivers: WANTED
                .iter()
                .chain(&TOLD)
                .map(|name| ((*name).to_owned(), self.place(name)))
                .collect(),
            boots_virtio_blk: boots(&FOR_BLK),
            boots_virtio_scsi: boots(&FOR_SCSI),
        }
    }
}

/// Is the kernel of this version there, and not only modules of it?
fn has_kernel(plan: &Plan, version: &str) -> bool {
    let mut places: Vec<String> = ["vmlinuz", "vmlinux", "Image", "image", "kernel"]
        .iter()
        .map(|name| format!("/boot/{name}-{version}"))
        .collect();
    places.extend(["/lib/modules", "/usr/lib/modules"].map(|base| format!("{base}/{version}/vmlinuz")));
    for base in ["/boot", "/boot/efi", "/efi"] {
        let ids = plan.names(base).into_iter().filter(|name| name.len() == 32);
        places.extend(ids.map(|id| format!("{base}/{id}/{version}/linux")));
    }
    places.iter().any(|path| plan.exists(path))
}

/// Calls `each` with every kernel; one at a time, since each takes memory.
fn for_each(plan: &mut Plan, each: &mut dyn FnMut(&mut Plan, &Kernel)) {
    let mut versions: Vec<String> = Vec::new();
    for base in ["/lib/modules", "/usr/lib/modules"] {
        let new: Vec<String> = plan
            .names(base)
            .into_iter()
            .filter(|name| !versions.contains(name))
            .collect();
        versions.extend(new);
    }
    let mut seen = BTreeSet::new();
    for path in images(plan) {
        let named = version_in_name(&path, &versions).cloned().unwrap_or_default();
        let kernel = Kernel::of(plan, named, Some(path));
        seen.insert(kernel.version.clone());
        each(plan, &kernel);
    }
    // What a removed kernel left behind starts nothing. Where no kernel is found at all, the folders are the only sign of one.
    let any = !seen.is_empty() || versions.iter().any(|version| has_kernel(plan, version));
    for version in versions.into_iter().filter(|version| !seen.contains(version)) {
        if any && !has_kernel(plan, &version) {
            continue;
        }
        let kernel = Kernel::of(plan, version, None);
        each(plan, &kernel);
    }
}

/// The kernels of the tree below `root`, and the program that made their images.
pub(crate) fn kernels(root: &Path) -> (Vec<KernelFacts>, Option<&'static str>) {
    let (mut found, mut maker) = (Vec::new(), None);
    for_each(&mut Plan::new(root), &mut |_, kernel| {
        maker = maker.or_else(|| kernel.initramfs.as_ref().map(|read| read.maker.name()));
        found.push(kernel.facts());
    });
    (found, maker)
}

/// Plans what every image lacks, and the configuration that keeps it there when the image is made again. Returns what [`kernels`] does, of
/// before: reading an image is what takes long.
pub(super) fn plan(plan: &mut Plan, resolver: &Resolver<'_>) -> (Vec<KernelFacts>, Option<&'static str>) {
    let (mut found, mut maker) = (Vec::new(), None);
    for_each(plan, &mut |plan, kernel| {
        maker = maker.or_else(|| kernel.initramfs.as_ref().map(|read| read.maker.name()));
        found.push(kernel.facts());
        let label = format!("kernel {}", kernel.version);
        match (&kernel.image, &kernel.initramfs, &kernel.unreadable) {
            (Some((path, _)), _, Some(why)) => {
                plan.note(format!(
                    "{path}: not readable ({why}); make it again with the guest's own tool and virtio drivers"
                ));
            }
            (Some((path, length)), Some(read), _) => {
                if let Err(error) = grow(plan, kernel, (path, *length), read, resolver) {
                    plan.note(format!("{path}: virtio drivers could not be added: {error}"));
                }
            }
            _ if !kernel.boots(&FOR_BLK) && !kernel.boots(&FOR_SCSI) => {
                plan.note(format!(
                    "{label}: no initramfs was found, and virtio is not built in: it does not boot from virtio disks"
                ));
            }
            _ => {}
        }
    });
    keep(plan);
    (found, maker)
}

/// Settings in an image that name disks of the old bus, by UUID; and the names of NICs, where one comes up in the image.
fn settings(
    plan: &Plan,
    kernel: &Kernel,
    read: &Initramfs,
    resolver: &Resolver<'_>,
) -> (Vec<initramfs::Text>, Vec<String>) {
    let (mut texts, mut words) = (Vec::new(), Vec::new());
    for (path, bytes) in read.texts.iter().filter(|(path, _)| initramfs::is_setting(path)) {
        let Ok(text) = std::str::from_utf8(bytes) else { continue };
        let edited = devices::by_uuid(resolver, text);
        if !edited.why.is_empty() {
            texts.push((path.clone(), edited.text));
            words.extend(edited.why);
        }
    }
    if matches!(
        kernel.place("virtio_net"),
        DriverPlace::BuiltIn | DriverPlace::Initramfs
    ) {
        for (path, text) in network::links(plan) {
            let inside = path.trim_start_matches('/').to_owned();
            if read.texts.get(&inside).map(Vec::as_slice) != Some(text.as_bytes()) {
                words.push(format!("{inside} keeps a NIC's name"));
                texts.push((inside, text));
            }
        }
    }
    (texts, words)
}

fn grow(
    plan: &mut Plan,
    kernel: &Kernel,
    image: (&str, u64),
    read: &Initramfs,
    resolver: &Resolver<'_>,
) -> io::Result<()> {
    let (path, length) = image;
    let bootable = WANTED.iter().all(|name| kernel.boots(&[*name]));
    if read.maker == Maker::Unknown {
        let built_in = |name: &&str| kernel.place(name) == DriverPlace::BuiltIn;
        return if WANTED.iter().all(built_in) {
            Ok(())
        } else {
            Err(io::Error::other(format!("it is {STRANGE}")))
        };
    }
    let (texts, mut words) = settings(plan, kernel, read, resolver);
    if bootable && texts.is_empty() {
        return Ok(());
    }
    if read.maker == Maker::Mkinitrd {
        return Err(io::Error::other(
            "SUSE's mkinitrd loads a fixed list; run mkinitrd in the guest with the virtio modules in INITRD_MODULES",
        ));
    }
    let mut add = Addition {
        files: Vec::new(),
        load: Vec::new(),
        texts,
    };
    let mut missing = BTreeSet::new();
    if !bootable {
        missing = drivers(plan, kernel, read, &mut add)?;
    }
    if missing.is_empty() && add.texts.is_empty() {
        return Ok(());
    }
    let file_length = usize::try_from(length).map_err(io::Error::other)?;
    let bytes = initramfs::append(read, file_length, kernel.modules.as_ref(), &kernel.version, &add)?;
    let space = rustix::fs::statvfs(plan.place(path))?;
    let free = space.f_bavail.saturating_mul(space.f_frsize);
    if free < bytes.len() as u64 + SPARE {
        return Err(io::Error::other(format!(
            "{} bytes are needed, {free} are free",
            bytes.len()
        )));
    }
    let mut was = format!("{length} bytes, made by {}", read.maker.name());
    let mut parts: Vec<String> = Vec::new();
    if !missing.is_empty() {
        let names: Vec<&str> = missing.iter().map(String::as_str).collect();
        let names = names.join(", ");
        was.push_str(&format!(", without {names}"));
        parts.push(format!("{names} and their index files"));
        words.insert(
            0,
            format!("kernel {} finds no virtio disk without them", kernel.version),
        );
    }
    parts.extend(add.texts.iter().map(|(path, _)| path.clone()));
    let gets = format!(
        "{} bytes: an archive with {}",
        length + bytes.len() as u64,
        parts.join(", ")
    );
    plan.append(path, length, bytes, (was, gets), words.join("; "));
    Ok(())
}

/// The drivers that an image lacks, into `add`; their names.
fn drivers(plan: &mut Plan, kernel: &Kernel, read: &Initramfs, add: &mut Addition) -> io::Result<BTreeSet<String>> {
    let modules = kernel
        .modules
        .as_ref()
        .ok_or_else(|| io::Error::other(format!("kernel {} has no modules.dep", kernel.version)))?;
    let folder = ["/lib/modules", "/usr/lib/modules"]
        .iter()
        .map(|base| plan.place(&format!("{base}/{}", kernel.version)))
        .find(|folder| folder.join("modules.dep").is_file())
        .ok_or_else(|| io::Error::other("its modules are gone"))?;
    let (mut missing, mut nowhere) = (BTreeSet::new(), Vec::new());
    for name in WANTED {
        match kernel.place(name) {
            DriverPlace::BuiltIn => continue,
            DriverPlace::Missing => nowhere.push(name),
            DriverPlace::Initramfs => add.load.push(name),
            DriverPlace::Modules => {
                add.load.push(name);
                let absent = |need: &&str| !read.modules.contains_key(*need) && !modules.is_built_in(need);
                let needs = modules.closure(name).into_iter().filter(absent);
                missing.extend(needs.map(str::to_owned));
            }
        }
    }
    if !nowhere.is_empty() {
        plan.note(format!(
            "kernel {}: has no {} at all, neither built in nor as a module",
            kernel.version,
            nowhere.join(", ")
        ));
    }
    for name in &missing {
        let relative = modules
            .path(name)
            .ok_or_else(|| io::Error::other(format!("{name} is not in modules.dep")))?;
        let mut packed = Vec::new();
        let told = |error: io::Error| io::Error::other(format!("{relative}: {error}"));
        File::open(folder.join(relative))
            .map_err(told)?
            .take(MAX_MODULE)
            .read_to_end(&mut packed)
            .map_err(told)?;
        let bytes = initramfs::module(relative, &packed, MAX_MODULE).map_err(told)?;
        if !bytes.starts_with(b"\x7fELF") {
            return Err(told(io::Error::other("not a kernel module")));
        }
        let plain = relative.find(".ko").map_or(relative, |at| &relative[..at + 3]);
        add.files.push((plain.to_owned(), bytes));
    }
    Ok(missing)
}

/// Configuration for the next time that an image is made.
fn keep(plan: &mut Plan) {
    let why = "the next initramfs keeps the virtio drivers";
    let list = "/etc/initramfs-tools/modules";
    if let Some(text) = plan.text(list) {
        let there = |name: &str| text.lines().any(|line| line.split_whitespace().next() == Some(name));
        let new: Vec<&str> = WANTED.into_iter().filter(|name| !there(name)).collect();
        if !new.is_empty() {
            let end = if text.is_empty() || text.ends_with('\n') {
                ""
            } else {
                "\n"
            };
            let added = format!("{text}{end}# esxodus: drivers of KVM's disks\n{}\n", new.join("\n"));
            plan.set(list, added, why);
        }
    }
    if plan.exists("/etc/dracut.conf.d") || plan.exists("/etc/dracut.conf") {
        let text = format!(
            "# Written by esxodus: drivers of KVM's disks.\nadd_drivers+=\" {} \"\n",
            WANTED.join(" ")
        );
        plan.set("/etc/dracut.conf.d/90-esxodus-virtio.conf", text, why);
    }
    if plan.exists("/etc/mkinitcpio.conf") {
        let text = format!(
            "# Written by esxodus: drivers of KVM's disks.\nMODULES+=({})\n",
            WANTED.join(" ")
        );
        plan.set("/etc/mkinitcpio.conf.d/esxodus-virtio.conf", text, why);
    }
}

#[cfg(test)]
mod tests {
    use super::{Resolver, kernels, plan};
    use crate::fixup::VolumeId;
    use crate::fixup::plan::{Plan, undo};
    use crate::kmod::test_kernel;
    use esxodus_agent::cpio::Archive;
    use reports::schema::DriverPlace;
    use std::fs;
    use std::io::Write;
    use std::path::{Path, PathBuf};
    use std::process::{Command, Stdio};

    const VERSION: &str = "6.1.0-9-test";

    /// An initramfs as VMware's hardware needs it: the SCSI core, no virtio.
    fn image(maker: &str) -> Vec<u8> {
        let mut archive = Archive::default();
        for folder in ["usr", "usr/lib", "usr/lib/modules", "etc"] {
            archive.folder(folder);
        }
        archive.link("lib", "usr/lib");
        archive.folder(&format!("usr/lib/modules/{VERSION}"));
        archive.file(
            &format!("usr/lib/modules/{VERSION}/kernel/drivers/scsi/scsi_common.ko"),
            0o644,
            b"old",
        );
        match maker {
            "initramfs-tools" => {
                archive.file("scripts/functions", 0o644, b"");
                archive.file("conf/modules", 0o644, b"mptspi\nvirtio_pci");
            }
            _ => archive.file("usr/lib/initrd-release", 0o644, b""),
        }
        archive.finish()
    }

    fn packed(program: &[&str], bytes: &[u8]) -> Option<Vec<u8>> {
        let Some((name, arguments)) = program.split_first() else {
            return Some(bytes.to_vec());
        };
        let started = Command::new(name)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn();
        let Ok(mut child) = started else {
            eprintln!("SKIP: {name} is not installed");
            return None;
        };
        child.stdin.take()?.write_all(bytes).ok()?;
        Some(child.wait_with_output().ok()?.stdout)
    }

    /// A guest's root with one kernel, whose modules are those of the appliance.
    fn tree(kernel: &Path, image: &[u8], name: &str) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for folder in ["boot", "lib/modules", "etc/initramfs-tools", "etc/dracut.conf.d"] {
            fs::create_dir_all(dir.path().join(folder)).unwrap();
        }
        std::os::unix::fs::symlink(kernel, dir.path().join("lib/modules").join(VERSION)).unwrap();
        fs::write(dir.path().join("etc/initramfs-tools/modules"), "# list\nmptspi").unwrap();
        fs::write(dir.path().join("boot").join(name), image).unwrap();
        dir
    }

    fn fixed(root: &Path) -> Plan {
        let volumes = [VolumeId {
            disk: Some(0),
            partition: Some(5),
            content: Some("swap".into()),
            uuid: Some("5555".into()),
            is_root: false,
        }];
        let mut made = Plan::new(root);
        plan(&mut made, &Resolver::new(&volumes, &[]));
        made
    }

    /// What the kernel would see in the end, unpacked by the independent program.
    fn unpacked(image: &[u8], from: usize) -> PathBuf {
        let dir = tempfile::tempdir().unwrap().keep();
        let mut child = Command::new("cpio")
            .args(["-id", "--quiet"])
            .current_dir(&dir)
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(&image[from..]).unwrap();
        assert!(child.wait().unwrap().success());
        dir
    }

    #[test]
    fn an_initramfs_of_every_packing_gets_virtio_once_and_loses_it_by_undo() {
        let Some(kernel) = test_kernel() else { return };
        let packings: [&[&str]; 5] = [
            &[],
            &["gzip"],
            &["xz", "--check=crc32"],
            &["zstd", "-q"],
            &["lz4", "-lq"],
        ];
        for (packing, maker, name) in packings.into_iter().flat_map(|packing| {
            [
                (packing, "initramfs-tools", format!("initrd.img-{VERSION}")),
                (packing, "dracut", format!("initramfs-{VERSION}.img")),
            ]
        }) {
            // Microcode comes first, unpacked, as distributions put it there.
            let mut microcode = Archive::default();
            microcode.folder("kernel");
            let Some(body) = packed(packing, &image(maker)) else {
                continue;
            };
            let before = [microcode.finish(), body].concat();
            let dir = tree(&kernel, &before, &name);
            let path = dir.path().join("boot").join(&name);
            let (found, tool) = kernels(dir.path());
            assert_eq!(tool, Some(maker), "{packing:?}");
            assert_eq!((found.len(), found[0].version.as_str()), (1, VERSION));
            assert_eq!(found[0].drivers["virtio_blk"], DriverPlace::Modules);
            assert!(!found[0].boots_virtio_blk && !found[0].boots_virtio_scsi);

            let mut made = fixed(dir.path());
            assert!(made.notes().is_empty(), "{packing:?}: {:?}", made.notes());
            assert!(fs::read(&path).unwrap() == before, "a plan writes nothing");
            made.apply().unwrap();
            let after = fs::read(&path).unwrap();
            assert!(after.starts_with(&before), "{packing:?}: only something behind it");
            let (found, _) = kernels(dir.path());
            assert!(
                found[0].boots_virtio_blk && found[0].boots_virtio_scsi,
                "{packing:?}: {found:?}"
            );
            assert!(
                fixed(dir.path()).changes().is_empty(),
                "{packing:?}: a second run changes nothing"
            );

            if !packing.contains(&"lz4") {
                let end = unpacked(&after, before.len().next_multiple_of(4));
                let folder = end.join("usr/lib/modules").join(VERSION);
                let dep = fs::read_to_string(folder.join("modules.dep")).unwrap();
                assert!(
                    dep.contains("kernel/drivers/block/virtio_blk.ko: kernel/drivers/virtio/virtio"),
                    "{dep}"
                );
                assert!(dep.contains("scsi_common.ko:"), "what was there stays known: {dep}");
                assert!(folder.join("kernel/drivers/block/virtio_blk.ko").is_file());
                assert!(
                    fs::symlink_metadata(end.join("lib")).is_err(),
                    "a link of the image must not become a folder"
                );
                let list = if maker == "dracut" {
                    "etc/modules-load.d/esxodus-virtio.conf"
                } else {
                    "conf/modules"
                };
                let list = fs::read_to_string(end.join(list)).unwrap();
                let expected = if maker == "dracut" {
                    "virtio_pci\n"
                } else {
                    "mptspi\nvirtio_pci\n"
                };
                assert_eq!(list, format!("{expected}virtio_blk\nvirtio_scsi\nsd_mod\n"));
                fs::remove_dir_all(end).unwrap();
            }
            let kept = fs::read_to_string(dir.path().join("etc/initramfs-tools/modules")).unwrap();
            assert!(
                kept.starts_with("# list\nmptspi\n") && kept.contains("\nvirtio_blk\n"),
                "{kept}"
            );
            assert!(dir.path().join("etc/dracut.conf.d/90-esxodus-virtio.conf").is_file());
            undo(dir.path(), &made.changes(), false).unwrap();
            assert!(
                fs::read(&path).unwrap() == before,
                "{packing:?}: undo cuts it off again"
            );
        }
    }

    #[test]
    fn settings_inside_an_image_lose_the_names_of_the_old_bus_and_get_those_of_nics() {
        let Some(kernel) = test_kernel() else { return };
        for (maker, setting, before, after) in [
            (
                "initramfs-tools",
                "conf/conf.d/resume",
                "RESUME=/dev/sda5\n",
                "RESUME=UUID=5555\n",
            ),
            (
                "dracut",
                "etc/cmdline.d/95resume.conf",
                "resume=/dev/sda5\n",
                "resume=UUID=5555\n",
            ),
        ] {
            let mut more = Archive::default();
            more.file(setting, 0o644, before.as_bytes());
            let name = format!("initrd.img-{VERSION}");
            let before = [image(maker), more.finish()].concat();
            let dir = tree(&kernel, &before, &name);
            let link = "etc/systemd/network/10-esxodus-ens192.link";
            fs::create_dir_all(dir.path().join("etc/systemd/network")).unwrap();
            fs::write(dir.path().join(link), "[Match]\n").unwrap();
            // Only an image that can bring a NIC up needs its name.
            fixed(dir.path()).apply().unwrap();
            let path = dir.path().join("boot").join(&name);
            let grown = fs::read(&path).unwrap();
            let end = unpacked(&grown, before.len().next_multiple_of(4));
            assert_eq!(fs::read_to_string(end.join(setting)).unwrap(), after, "{maker}");
            assert!(!end.join(link).exists());
            fs::remove_dir_all(end).unwrap();
            assert!(
                fixed(dir.path()).changes().is_empty(),
                "{maker}: a second run changes nothing"
            );

            let with_net = {
                let mut net = Archive::default();
                let modules = crate::kmod::Modules::read(&kernel).unwrap();
                for module in modules.closure("virtio_net") {
                    let inside = modules.path(module).unwrap();
                    net.file(&format!("usr/lib/modules/{VERSION}/{inside}"), 0o644, b"");
                }
                [grown.clone(), net.finish()].concat()
            };
            fs::write(&path, &with_net).unwrap();
            fixed(dir.path()).apply().unwrap();
            let end = unpacked(&fs::read(&path).unwrap(), with_net.len().next_multiple_of(4));
            assert_eq!(fs::read_to_string(end.join(link)).unwrap(), "[Match]\n");
            assert!(!end.join(setting).exists(), "what is right already is not put in again");
            fs::remove_dir_all(end).unwrap();
            assert!(
                fixed(dir.path()).changes().is_empty(),
                "{maker}: a second run changes nothing"
            );
        }
    }

    #[test]
    fn an_image_of_an_unknown_maker_is_neither_grown_nor_said_to_boot() {
        let Some(kernel) = test_kernel() else { return };
        let mut archive = Archive::default();
        archive.file(
            &format!("lib/modules/{VERSION}/kernel/drivers/scsi/scsi_common.ko"),
            0o644,
            b"",
        );
        archive.file("init", 0o755, b"#!/bin/sh\n");
        let dir = tree(&kernel, &archive.finish(), &format!("initrd-{VERSION}"));
        let made = fixed(dir.path());
        assert!(made.changes().iter().all(|change| !change.path.starts_with("/boot")));
        assert!(
            made.notes().iter().any(|note| note.contains("not known")),
            "{:?}",
            made.notes()
        );
        let (found, _) = kernels(dir.path());
        assert!(!found[0].boots_virtio_blk && found[0].unreadable.is_some(), "{found:?}");
    }

    #[test]
    fn modules_that_a_removed_kernel_left_behind_are_no_kernel() {
        let Some(kernel) = test_kernel() else { return };
        let dir = tree(&kernel, &image("dracut"), &format!("initramfs-{VERSION}.img"));
        fs::create_dir_all(dir.path().join("lib/modules/5.10.0-1-removed/kernel")).unwrap();
        assert!(fixed(dir.path()).notes().is_empty());
        assert_eq!(kernels(dir.path()).0.len(), 1);
        fs::write(dir.path().join("boot/vmlinuz-5.10.0-1-removed"), "").unwrap();
        assert_eq!(kernels(dir.path()).0.len(), 2);
        assert!(
            fixed(dir.path())
                .notes()
                .iter()
                .any(|note| note.contains("5.10.0-1-removed"))
        );
    }

    #[test]
    fn damaged_and_unknown_images_are_said_and_left_alone() {
        let Some(kernel) = test_kernel() else { return };
        let whole = image("dracut");
        for (bytes, word) in [
            (&whole[..whole.len() / 2], "cut"),
            (b"\x89LZO rest", "lzo"),
            (b"not an initramfs", "unknown"),
            (b"", "empty"),
        ] {
            let dir = tree(&kernel, bytes, &format!("initrd.img-{VERSION}"));
            let made = fixed(dir.path());
            assert!(
                made.notes().iter().any(|note| note.contains(word)),
                "{word}: {:?}",
                made.notes()
            );
            assert!(made.changes().iter().all(|change| !change.path.starts_with("/boot")));
        }
    }

    #[test]
    fn kdump_images_and_backups_are_not_touched() {
        let Some(kernel) = test_kernel() else { return };
        for name in [
            format!("initramfs-{VERSION}kdump.img"),
            format!("initrd.img-{VERSION}.old"),
        ] {
            let dir = tree(&kernel, &image("dracut"), &name);
            assert!(
                fixed(dir.path())
                    .changes()
                    .iter()
                    .all(|change| !change.path.starts_with("/boot")),
                "{name}"
            );
        }
    }
}
