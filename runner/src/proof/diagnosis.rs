//! What the inspection of the disks adds to a failure: which driver is missing in which initramfs, which name of fstab no longer exists.

use super::signs::{Cause, Certainty, Failure};
use crate::engine::DiskBus;
use serde_json::Value;

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
    /// `initrd.img-6.1.0-28-amd64`.
    file: String,
    missing: Vec<String>,
    /// Of all kernels, or of the one that boots: the foresight is certain.
    certain: bool,
}

/// Root systems that were found on the disks.
fn roots(inspection: &Value) -> impl Iterator<Item = &Value> {
    inspection["roots"].as_array().into_iter().flatten()
}

/// Which initramfs lacks a driver of `bus`: that of `kernel` where it is known, else one only if all of them do.
pub(super) fn lacking(inspection: Option<&Value>, bus: DiskBus, kernel: Option<&str>) -> Option<Lacking> {
    let images: Vec<&Value> = roots(inspection?)
        .flat_map(|root| root["kernel_images"].as_array().into_iter().flatten())
        .collect();
    let judged = |image: &&Value| -> Option<Lacking> {
        let has = |list: &str, name: &str| {
            image[list]
                .as_array()
                .is_some_and(|names| names.iter().any(|found| found.as_str() == Some(name)))
        };
        image["drivers"].as_array()?;
        let missing: Vec<String> = drivers(bus)
            .iter()
            .filter(|name| !has("drivers", name) && !has("builtin", name))
            .map(|&name| name.to_owned())
            .collect();
        Some(Lacking {
            file: image["initramfs"].as_str()?.to_owned(),
            missing,
            certain: true,
        })
    };
    let fits = |image: &&&Value| kernel.is_none_or(|kernel| image["version"].as_str() == Some(kernel));
    let mut found: Vec<Lacking> = images.iter().filter(fits).filter_map(judged).collect();
    if found.is_empty() || found.iter().any(|image| image.missing.is_empty()) {
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
}

/// The failure that must come when every initramfs lacks a driver of `bus`.
pub(super) fn foresee(inspection: Option<&Value>, bus: DiskBus) -> Option<Failure> {
    let lacking = lacking(inspection, bus, None)?;
    Some(Failure {
        certainty: Certainty::Final,
        cause: Cause::Root,
        reason: "no root device: the system waits for its disk".to_owned(),
        advice: format!(
            "Run `esxodus fixup`, which puts {} into the initramfs, or try another bus (`prove --search`)",
            lacking.missing.join(" and ")
        ),
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
pub(super) fn explain(mut failure: Failure, inspection: Option<&Value>, bus: DiskBus, kernel: Option<&str>) -> Failure {
    match failure.cause {
        Cause::Root => {
            if let Some(lacking) = lacking(inspection, bus, kernel) {
                failure.reason = format!("{}; {}", failure.reason, lacking.words(bus));
                failure.advice = format!(
                    "Run `esxodus fixup`, which puts {} into the initramfs, or try another bus (`prove --search`)",
                    lacking.missing.join(" and ")
                );
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
            let wrong: Vec<String> = inspection
                .into_iter()
                .flat_map(roots)
                .flat_map(|root| root["fstab"].as_array().into_iter().flatten())
                .filter_map(|entry| Some((entry["spec"].as_str()?, entry["file"].as_str()?)))
                .filter(|(spec, file)| wrong_on(spec, bus) && *file != "/")
                .map(|(spec, file)| format!("{spec} ({file})"))
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
    use serde_json::{Value, json};

    fn guest() -> Value {
        json!({"roots": [{
            "fstab": [{"spec": "/dev/sda1", "file": "/"}, {"spec": "/dev/sdb1", "file": "/srv/data"}, {"spec": "UUID=1", "file": "/boot"}],
            "kernel_images": [
                {"version": "6.1.0-28-amd64", "initramfs": "initrd.img-6.1.0-28-amd64", "drivers": ["mptspi", "ahci", "sd_mod"], "builtin": []},
                {"version": "6.1.0-30-amd64", "initramfs": "initrd.img-6.1.0-30-amd64", "drivers": ["virtio_blk", "sd_mod"], "builtin": ["virtio_pci"]},
            ],
        }]})
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
