//! The kernels of a guest, each with its initramfs, and which drivers of KVM's disks they reach.

use super::plan::Plan;
use crate::initramfs::{Initramfs, MAX_FILE, Maker};
use crate::kmod::Modules;
use reports::schema::{DriverPlace, KernelFacts};
use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

/// What finds a root on virtio-blk or virtio-scsi. Not `virtio_net`: a NIC that comes up in the initramfs may get its name there, before
/// the rules of the system that keep its old one.
pub(super) const WANTED: [&str; 4] = ["virtio_pci", "virtio_blk", "virtio_scsi", "sd_mod"];
/// Told in facts, not needed to find a root.
const TOLD: [&str; 5] = ["virtio_net", "virtio_console", "ahci", "ata_piix", "nvme"];
pub(super) const FOR_BLK: [&str; 2] = ["virtio_pci", "virtio_blk"];
pub(super) const FOR_SCSI: [&str; 3] = ["virtio_pci", "virtio_scsi", "sd_mod"];
pub(super) const STRANGE: &str =
    "made by a program that is not known here, so whether it loads the drivers in it is not known";

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
pub(super) struct Kernel {
    pub(super) version: String,
    /// Path in the guest and length of the image.
    pub(super) image: Option<(String, u64)>,
    pub(super) initramfs: Option<Initramfs>,
    pub(super) unreadable: Option<String>,
    /// It is no damage: only its packing is one that is not read here.
    pub(super) strange_packing: bool,
    pub(super) modules: Option<Modules>,
    /// `/boot/config-VERSION`.
    pub(super) config: String,
}

/// Images in `/boot` that start a system: no kdump images, no backups.
fn images(plan: &Plan) -> Vec<String> {
    let is_image = |name: &str| {
        let starts = ["initrd", "initramfs"].iter().any(|start| name.starts_with(start));
        let other = [
            "kdump", ".old", ".bak", "-bak", ".orig", ".save", ".rpmsave", ".sig", ".pre-v2v",
        ];
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
    /// The kernel with the image at a path in the guest. The image's own version counts; `version` is for one that has none.
    pub(super) fn of(plan: &Plan, version: String, image: Option<String>) -> Self {
        let (mut initramfs, mut unreadable, mut length, mut strange_packing) = (None, None, 0, false);
        if let Some(path) = &image {
            match read_image(&plan.place(path)).and_then(|bytes| {
                length = bytes.len() as u64;
                Initramfs::read(&bytes)
            }) {
                Ok(read) => initramfs = Some(read),
                Err(error) => {
                    strange_packing = error.kind() == io::ErrorKind::Unsupported;
                    unreadable = Some(error.to_string());
                }
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
            strange_packing,
            modules,
            version,
        }
    }

    pub(super) fn place(&self, name: &str) -> DriverPlace {
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

    /// Does a kernel with this image reach all of them?
    pub(super) fn boots(&self, drivers: &[&str]) -> bool {
        drivers
            .iter()
            .all(|name| matches!(self.place(name), DriverPlace::BuiltIn | DriverPlace::Initramfs))
    }

    /// Was the image made by a program whose way to load drivers is not known here?
    fn is_strange(&self) -> bool {
        self.initramfs.as_ref().is_some_and(|read| read.maker == Maker::Unknown)
    }

    pub(super) fn facts(&self) -> KernelFacts {
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
pub(super) fn for_each(plan: &mut Plan, each: &mut dyn FnMut(&mut Plan, &Kernel)) {
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
