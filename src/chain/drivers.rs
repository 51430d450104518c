//! Whether a converted guest drives virtio: what the run folder knows of it, never what the source declares.

use super::folder::RunFolder;
use super::inside;
use reports::schema::{
    DeepFacts, DriverPlace, KernelFacts, Manifest, ProofRecord, ProofVerdict, SystemFacts, SystemKind,
};
use runner::fixup::FixupOutcome;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::time::SystemTime;

/// The hardware that the guest's definitions are written for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Drivers {
    /// Drivers for virtio are proven in the guest; else it gets what it drove on VMware, or the nearest to it.
    pub(crate) virtio: bool,
    /// How that is known.
    pub(crate) why: String,
}

impl Drivers {
    /// For people.
    pub(crate) fn words(&self) -> String {
        let hardware = if self.virtio {
            "for virtio"
        } else {
            "for hardware that the guest drove at the source, or the nearest to it"
        };
        format!("machine definitions are {hardware}: {}", self.why)
    }

    fn no(why: impl Into<String>) -> Self {
        Self {
            virtio: false,
            why: why.into(),
        }
    }

    fn yes(why: impl Into<String>) -> Self {
        Self {
            virtio: true,
            why: why.into(),
        }
    }
}

/// Decides from the run folder: a boot proof first, else what a look inside found together with what a fix-up added. A record that is
/// older than a disk says nothing of the disk as it is now.
///
/// # Errors
/// A record can't be read.
pub(crate) fn known(folder: &RunFolder, manifest: &Manifest) -> anyhow::Result<Drivers> {
    let since = last_written(folder, manifest);
    let fresh = |name: &str| is_fresh(folder, name, since);
    let proof = if fresh(RunFolder::PROOF) {
        folder.read::<ProofRecord>(RunFolder::PROOF)?
    } else {
        None
    };
    if let Some(decided) = proof.as_ref().and_then(by_proof) {
        return Ok(decided);
    }
    let seen: Option<DeepFacts> = if fresh(RunFolder::DEEP) {
        folder.read(RunFolder::DEEP)?
    } else if fresh(RunFolder::INSPECTION) {
        inside::seen_by_proof(folder)?
    } else {
        None
    };
    let Some(seen) = seen else {
        return Ok(Drivers::no(
            "nobody looked inside the converted disks yet. `esxodus fixup OUT` makes a Linux guest ready for virtio and writes them \
             anew; so does a boot proof on virtio (`esxodus prove OUT`)",
        ));
    };
    let history: Vec<FixupOutcome> = folder.read(RunFolder::FIXUP)?.unwrap_or_default();
    Ok(by_facts(&seen, &grown(&history)))
}

/// Whether somebody looked into the disks as they are now.
pub(crate) fn looked_inside(folder: &RunFolder, manifest: &Manifest) -> bool {
    let since = last_written(folder, manifest);
    [RunFolder::DEEP, RunFolder::INSPECTION]
        .iter()
        .any(|name| is_fresh(folder, name, since))
}

fn last_written(folder: &RunFolder, manifest: &Manifest) -> Option<SystemTime> {
    let disks = manifest.disks.iter();
    disks.filter_map(|disk| modified(folder, &disk.file)).max()
}

fn is_fresh(folder: &RunFolder, name: &str, since: Option<SystemTime>) -> bool {
    matches!((modified(folder, name), since), (Some(record), Some(disks)) if record >= disks)
}

fn modified(folder: &RunFolder, name: &str) -> Option<SystemTime> {
    std::fs::metadata(folder.path(name)).ok()?.modified().ok()
}

/// What a boot says; `None` where it decides nothing.
fn by_proof(proof: &ProofRecord) -> Option<Drivers> {
    let tried: Vec<&str> = if proof.tries.is_empty() {
        vec![proof.devices.as_str()]
    } else {
        proof.tries.iter().map(|attempt| attempt.bus.as_str()).collect()
    };
    if proof.verdict != ProofVerdict::Proven {
        return None;
    }
    if proof.devices.starts_with("virtio-scsi") {
        return Some(Drivers::yes(format!("it was seen to boot with {}", proof.devices)));
    }
    if !proof.devices.starts_with("virtio") && tried.iter().any(|bus| bus.starts_with("virtio")) {
        return Some(Drivers::no(format!(
            "it was seen to boot with {}, and not with virtio",
            proof.devices
        )));
    }
    // A boot from virtio-blk says nothing of virtio-scsi, which the definitions would use.
    None
}

/// Paths of initramfs archives that fix-ups gave virtio drivers and that no undo took them from.
fn grown(history: &[FixupOutcome]) -> BTreeSet<String> {
    let since = history
        .iter()
        .rposition(|outcome| outcome.undone)
        .map_or(0, |last| last + 1);
    history[since..]
        .iter()
        .filter(|outcome| !outcome.dry_run)
        .flat_map(|outcome| &outcome.changes)
        .filter(|change| change.why.contains("virtio"))
        .map(|change| change.path.clone())
        .collect()
}

fn by_facts(facts: &DeepFacts, grown: &BTreeSet<String>) -> Drivers {
    let ready = |system: &SystemFacts| -> Result<String, String> {
        if system.kind != SystemKind::Linux {
            return Err(format!(
                "{} is no Linux; a boot proof on virtio (`esxodus prove OUT --search`) would decide",
                system.name
            ));
        }
        if system.kernels.is_empty() {
            return Err(format!("no kernel of {} was found", system.name));
        }
        // Which kernel starts by default is the boot loader's affair, so each of them has to.
        match system.kernels.iter().find(|kernel| !drives_virtio(kernel, grown)) {
            Some(kernel) => Err(format!(
                "kernel {} of {} does not find a root on virtio-scsi",
                kernel.version, system.name
            )),
            None => Ok(format!("every kernel of {} finds its root on virtio-scsi", system.name)),
        }
    };
    let found: Result<Vec<String>, String> = facts.systems.iter().map(ready).collect();
    match found {
        Ok(words) if words.is_empty() => Drivers::no("no operating system was found on the disks"),
        Ok(words) => Drivers::yes(words.join("; ")),
        Err(why) => Drivers::no(why),
    }
}

fn drives_virtio(kernel: &KernelFacts, grown: &BTreeSet<String>) -> bool {
    let grew = kernel.initramfs.as_ref().is_some_and(|path| grown.contains(path));
    let network = kernel.drivers.get("virtio_net") != Some(&DriverPlace::Missing);
    network && (kernel.boots_virtio_scsi || grew)
}

#[cfg(test)]
mod tests {
    use super::{by_facts, grown, known};
    use crate::chain::RunFolder;
    use reports::schema::{DeepFacts, Manifest};
    use runner::fixup::FixupOutcome;
    use serde_json::json;
    use std::collections::BTreeSet;
    use std::path::Path;
    use std::time::{Duration, SystemTime};

    fn guest(ready: [bool; 2]) -> DeepFacts {
        let kernel = |name: &str, ready: bool| json!({"version": name, "initramfs": format!("/boot/initrd.img-{name}"), "boots_virtio_scsi": ready});
        let value =
            json!({"systems": [{"name": "Debian 12", "kernels": [kernel("6.1", ready[0]), kernel("6.5", ready[1])]}]});
        serde_json::from_value(value).expect("facts")
    }

    fn outcome(path: &str, undone: bool) -> FixupOutcome {
        let change = json!({"path": path, "before": "x", "after": "y", "why": "kernel 6.5 finds no virtio disk without them", "undo": {"how": "restore"}});
        serde_json::from_value(json!({"changes": [change], "notes": [], "dry_run": false, "undone": undone}))
            .expect("an outcome")
    }

    #[test]
    fn every_kernel_has_to_find_its_root_on_virtio_scsi() {
        let nothing = BTreeSet::new();
        assert!(by_facts(&guest([true, true]), &nothing).virtio);
        let no = by_facts(&guest([true, false]), &nothing);
        assert!(!no.virtio && no.why.contains("6.5"), "{no:?}");
        assert!(!by_facts(&DeepFacts::default(), &nothing).virtio);
        let mut windows = guest([true, true]);
        windows.systems[0].kind = reports::schema::SystemKind::Windows;
        assert!(!by_facts(&windows, &nothing).virtio);
    }

    #[test]
    fn what_a_fixup_added_counts_until_it_is_taken_back() {
        let added = outcome("/boot/initrd.img-6.5", false);
        assert!(by_facts(&guest([true, false]), &grown(std::slice::from_ref(&added))).virtio);
        let undone = [added, outcome("/boot/initrd.img-6.5", true)];
        assert!(!by_facts(&guest([true, false]), &grown(&undone)).virtio);
    }

    /// A run folder with one disk, and the manifest that names it.
    fn folder(root: &Path) -> (RunFolder, Manifest) {
        let folder = RunFolder::create(root, false).unwrap();
        std::fs::write(root.join("disks/a.qcow2"), "disk").unwrap();
        folder.write(RunFolder::MACHINE, &json!({})).unwrap();
        let manifest = json!({
            "schema": 1, "tool": "test", "created": "2026-11-29T00:00:00Z",
            "disks": [{
                "name": "scsi0:0", "file": "disks/a.qcow2", "format": "qcow2", "virtual_bytes": 512, "data_bytes": 4,
                "file_bytes": 4, "sources": [], "mode": "copy", "seconds": 1.0, "notes": [],
            }],
        });
        (folder, serde_json::from_value(manifest).unwrap())
    }

    fn proof(verdict: &str, devices: &str, tries: &[&str]) -> serde_json::Value {
        let tries: Vec<_> = tries
            .iter()
            .map(|bus| json!({"bus": bus, "nic": "", "firmware": "bios", "verdict": "failed", "reason": "", "seconds": 1.0, "evidence": ""}))
            .collect();
        json!({"created": "2026-11-29T00:00:00Z", "tool": "test", "schema": 1, "verdict": verdict, "reason": "r", "engine": "qemu",
               "accelerator": "tcg", "engine_reason": "", "firmware": "bios", "devices": devices, "milestones": [], "evidence": [],
               "tries": tries, "seconds": 1.0})
    }

    #[test]
    fn a_record_older_than_the_disks_says_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let (folder, manifest) = folder(dir.path());
        assert!(!known(&folder, &manifest).unwrap().virtio, "nobody looked");
        folder.write(RunFolder::DEEP, &guest([true, true])).unwrap();
        assert!(known(&folder, &manifest).unwrap().virtio);
        let disk = std::fs::File::options()
            .write(true)
            .open(dir.path().join("disks/a.qcow2"))
            .unwrap();
        disk.set_modified(SystemTime::now() + Duration::from_secs(60)).unwrap();
        assert!(!known(&folder, &manifest).unwrap().virtio, "the disk was written since");
    }

    #[test]
    fn a_boot_goes_before_what_was_seen_inside() {
        let dir = tempfile::tempdir().unwrap();
        let (folder, manifest) = folder(dir.path());
        let mut windows = guest([false, false]);
        windows.systems[0].kind = reports::schema::SystemKind::Windows;
        folder.write(RunFolder::DEEP, &windows).unwrap();
        for (record, virtio) in [
            (proof("proven", "sata, e1000e", &[]), false),
            (
                proof("proven", "virtio-scsi, virtio-net", &["sata", "virtio-scsi"]),
                true,
            ),
            (proof("failed", "virtio-scsi, virtio-net", &[]), false),
        ] {
            folder.write(RunFolder::PROOF, &record).unwrap();
            assert_eq!(known(&folder, &manifest).unwrap().virtio, virtio, "{record}");
        }
        folder.write(RunFolder::DEEP, &guest([true, true])).unwrap();
        folder
            .write(
                RunFolder::PROOF,
                &proof("proven", "sata, e1000e", &["virtio-blk", "sata"]),
            )
            .unwrap();
        assert!(
            !known(&folder, &manifest).unwrap().virtio,
            "virtio was tried and did not boot"
        );
    }
}
