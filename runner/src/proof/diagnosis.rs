//! What the inspection of the disks adds to a failure: which driver is missing in which initramfs, which name of fstab no longer exists.

use super::signs::{Cause, Certainty, Failure};
use crate::engine::DiskBus;
use reports::schema::{DeepFacts, DriverPlace, KernelFacts};

/// Modules without which a kernel does not see a disk on `bus`. The transports below them come with them.
fn drivers(bus: DiskBus) -> &'static [&'static str] {
    match bus {
        DiskBus::VirtioBlk => &["virtio_pci", "virtio_blk"],
        DiskBus::VirtioScsi => &["virtio_pci", "virtio_scsi", "sd_mod"],
        DiskBus::Sata => &["ahci", "sd_mod"],
        DiskBus::Ide => &["ata_piix", "sd_mod"],
    }
}

/// An initramfs that lacks a driver.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Lacking {
    /// `/boot/initrd.img-6.1.0-28-amd64`.
    file: String,
    missing: Vec<&'static str>,
}

/// What `kernel` lacks for `bus`; a driver that the inspection says nothing about is not claimed to be missing.
fn judge(kernel: &KernelFacts, bus: DiskBus) -> Lacking {
    let early = |place: &DriverPlace| matches!(place, DriverPlace::BuiltIn | DriverPlace::Initramfs);
    let lacks = |name: &&'static str| kernel.drivers.get(*name).is_some_and(|place| !early(place));
    Lacking {
        file: kernel
            .initramfs
            .clone()
            .unwrap_or_else(|| format!("of kernel {}", kernel.version)),
        missing: drivers(bus).iter().copied().filter(lacks).collect(),
    }
}

/// Which initramfs lacks a driver of `bus`: that of the kernel `version` where it is known, else one only if all of them do.
fn lacking(deep: Option<&DeepFacts>, bus: DiskBus, version: Option<&str>) -> Option<Lacking> {
    let kernels = deep?.systems.iter().flat_map(|system| &system.kernels);
    let fits = |kernel: &&KernelFacts| version.is_none_or(|version| kernel.version == version);
    let mut found: Vec<Lacking> = kernels.filter(fits).map(|kernel| judge(kernel, bus)).collect();
    if found.is_empty() || found.iter().any(|kernel| kernel.missing.is_empty()) {
        return None;
    }
    Some(found.swap_remove(0))
}

impl Lacking {
    fn words(&self, bus: DiskBus) -> String {
        format!(
            "the initramfs {} has no {}, and the disk is on {}",
            self.file,
            self.missing.join(" and no "),
            bus.name()
        )
    }

    fn advice(&self) -> String {
        if !self
            .missing
            .iter()
            .any(|name| name.starts_with("virtio") || *name == "sd_mod")
        {
            return "Try a bus whose driver it has (`prove --search`)".to_owned();
        }
        format!(
            "Run `esxodus fixup`, which puts {} into the initramfs, or try another bus (`prove --search`)",
            self.missing.join(" and ")
        )
    }
}

/// The failure that must come when every initramfs lacks a driver of `bus`.
pub(super) fn foresee(deep: Option<&DeepFacts>, bus: DiskBus) -> Option<Failure> {
    let lacking = lacking(deep, bus, None)?;
    Some(Failure {
        certainty: Certainty::Final,
        cause: Cause::Root,
        reason: "no root device: the system waits for its disk".to_owned(),
        advice: lacking.advice(),
    })
}

/// Is it a name that another bus changes?
fn by_bus(name: &str) -> bool {
    ["/dev/sd", "/dev/hd", "/dev/vd", "/dev/disk/by-path/"]
        .iter()
        .any(|prefix| name.starts_with(prefix))
}

/// The device names that `bus` gives.
fn names(bus: DiskBus) -> &'static str {
    match bus {
        DiskBus::VirtioBlk => "vda, vdb…",
        DiskBus::VirtioScsi | DiskBus::Sata | DiskBus::Ide => "sda, sdb…",
    }
}

fn wrong_on(name: &str, bus: DiskBus) -> bool {
    by_bus(name) && name.starts_with("/dev/vd") != (bus == DiskBus::VirtioBlk)
}

/// Makes the failure's reason as precise as the inspection allows.
pub(super) fn explain(mut failure: Failure, deep: Option<&DeepFacts>, bus: DiskBus, kernel: Option<&str>) -> Failure {
    match failure.cause {
        Cause::Root => {
            if let Some(lacking) = lacking(deep, bus, kernel) {
                failure.reason = format!("{}; {}", failure.reason, lacking.words(bus));
                failure.advice = lacking.advice();
            } else if let Some(name) = failure
                .reason
                .split_whitespace()
                .map(|word| word.trim_matches(['"', '\'', ',', ';', ':']))
                .find(|word| wrong_on(word, bus))
            {
                let words = format!("on {} the disks are called {}", bus.name(), names(bus));
                failure.advice =
                    format!("{name} names the root by its bus: {words}. Run `esxodus fixup`, which names it by UUID");
                failure.reason = format!("{}; {words}", failure.reason);
            }
        }
        Cause::Mount => {
            let mounts = deep
                .into_iter()
                .flat_map(|deep| &deep.systems)
                .flat_map(|system| &system.fstab);
            let wrong: Vec<String> = mounts
                .filter(|mount| wrong_on(&mount.spec, bus) && mount.file != "/")
                .map(|mount| format!("{} ({})", mount.spec, mount.file))
                .collect();
            if !wrong.is_empty() {
                failure.reason = format!(
                    "{}; fstab names {}, and on {} the disks are called {}",
                    failure.reason,
                    wrong.join(", "),
                    bus.name(),
                    names(bus)
                );
                "Run `esxodus fixup`, which names them by UUID, or try another bus (`prove --search`)"
                    .clone_into(&mut failure.advice);
            }
        }
        Cause::BootLoader | Cause::Grub | Cause::Panic | Cause::WindowsDisk => {}
    }
    failure
}

#[cfg(test)]
mod tests {
    use super::{explain, foresee, lacking};
    use crate::engine::DiskBus;
    use crate::proof::signs;
    use reports::schema::DeepFacts;
    use serde_json::json;

    fn guest() -> DeepFacts {
        let value = json!({"systems": [{
            "fstab": [
                {"spec": "/dev/sda1", "file": "/"}, {"spec": "/dev/sdb1", "file": "/srv/data"}, {"spec": "UUID=1", "file": "/boot"},
            ],
            "kernels": [
                {"version": "6.1.0-28-amd64", "initramfs": "/boot/initrd.img-6.1.0-28-amd64",
                 "drivers": {"virtio_pci": "modules", "virtio_blk": "missing", "virtio_scsi": "modules"}},
                {"version": "6.1.0-30-amd64", "initramfs": "/boot/initrd.img-6.1.0-30-amd64",
                 "drivers": {"virtio_pci": "built-in", "virtio_blk": "initramfs", "virtio_scsi": "modules"}},
            ],
        }]});
        serde_json::from_value(value).expect("facts")
    }

    #[test]
    fn the_missing_driver_and_the_initramfs_are_named() {
        let seen = signs::failure("ALERT!  UUID=1234 does not exist.  Dropping to a shell!").expect("no root");
        let found = explain(seen.clone(), Some(&guest()), DiskBus::VirtioBlk, Some("6.1.0-28-amd64"));
        assert!(
            found.reason.contains("UUID=1234")
                && found
                    .reason
                    .contains("initrd.img-6.1.0-28-amd64 has no virtio_pci and no virtio_blk"),
            "{}",
            found.reason
        );
        assert!(found.advice.contains("esxodus fixup"), "{}", found.advice);
        // The other kernel has it, partly built in.
        let found = explain(seen.clone(), Some(&guest()), DiskBus::VirtioBlk, Some("6.1.0-30-amd64"));
        assert_eq!(found.reason, seen.reason);
        assert!(lacking(Some(&guest()), DiskBus::Sata, Some("6.1.0-28-amd64")).is_none());
        assert_eq!(
            explain(seen.clone(), None, DiskBus::VirtioBlk, None),
            seen,
            "without an inspection nothing is claimed"
        );
    }

    #[test]
    fn a_failure_is_foreseen_only_when_no_kernel_could_boot() {
        assert!(
            foresee(Some(&guest()), DiskBus::VirtioBlk).is_none(),
            "one of the kernels has the drivers"
        );
        assert!(foresee(Some(&guest()), DiskBus::VirtioScsi).is_some());
        assert!(foresee(Some(&guest()), DiskBus::Sata).is_none());
        assert!(foresee(None, DiskBus::VirtioBlk).is_none());
    }

    #[test]
    fn fstab_names_that_the_bus_changes_are_told() {
        let seen = signs::failure("You are in emergency mode. After logging in, type").expect("emergency");
        let found = explain(seen.clone(), Some(&guest()), DiskBus::VirtioBlk, None);
        assert!(
            found.reason.contains("/dev/sdb1 (/srv/data)") && !found.reason.contains("UUID=1"),
            "{}",
            found.reason
        );
        assert_eq!(explain(seen.clone(), Some(&guest()), DiskBus::Sata, None), seen);
        let root = signs::failure("ALERT!  /dev/sda1 does not exist.  Dropping to a shell!").expect("no root");
        let found = explain(root, Some(&guest()), DiskBus::VirtioBlk, Some("6.1.0-30-amd64"));
        assert!(found.reason.contains("called vda"), "{}", found.reason);
    }
}
