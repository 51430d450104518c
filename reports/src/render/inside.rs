//! What is inside the guest, and what was changed there.

use super::format::bytes;
use super::view::{Badge, badge, clean};
use crate::schema::{DeepFacts, DriverPlace, FixupFacts, GuestReport, KernelFacts, SystemFacts};
use serde::Serialize;

#[derive(Debug, Serialize)]
pub(super) struct Kernel {
    pub(super) version: String,
    pub(super) image: String,
    pub(super) badge: Badge,
    pub(super) drivers: String,
}

#[derive(Debug, Serialize)]
pub(super) struct System {
    pub(super) name: String,
    pub(super) device: String,
    /// Label and value; the unknown is left out.
    pub(super) facts: Vec<(&'static str, String)>,
    pub(super) kernels: Vec<Kernel>,
}

#[derive(Debug, Serialize)]
pub(super) struct Volume {
    pub(super) device: String,
    pub(super) size: String,
    pub(super) content: String,
    pub(super) mounted_at: String,
    pub(super) free: String,
}

/// The inside in words.
#[derive(Debug, Serialize)]
pub(super) struct Inside {
    pub(super) systems: Vec<System>,
    pub(super) volumes: Vec<Volume>,
    pub(super) notes: Vec<String>,
}

#[derive(Debug, Serialize)]
pub(super) struct ChangeRow {
    pub(super) path: String,
    pub(super) badge: Badge,
    pub(super) why: String,
    pub(super) before: Option<String>,
    pub(super) after: String,
}

fn unknown() -> String {
    "unknown".to_owned()
}

pub(super) fn inside(deep: &DeepFacts) -> Inside {
    let volumes = deep.volumes.iter().map(|volume| {
        let content = clean(volume.content.as_deref().unwrap_or("not recognised"));
        Volume {
            device: clean(&volume.device),
            size: bytes(volume.bytes),
            content: match &volume.state {
                Some(state) => format!("{content}, {}", clean(state)),
                None => content,
            },
            mounted_at: clean(volume.mounted_at.as_deref().unwrap_or("-")),
            free: volume.free_bytes.map_or_else(unknown, bytes),
        }
    });
    Inside {
        systems: deep.systems.iter().map(system).collect(),
        volumes: volumes.collect(),
        notes: deep.notes.iter().map(|note| clean(note)).collect(),
    }
}

fn system(system: &SystemFacts) -> System {
    let mut facts: Vec<(&'static str, String)> = Vec::new();
    let mut add = |label, value: Option<&str>| {
        if let Some(value) = value.filter(|value| !value.is_empty()) {
            facts.push((label, clean(value)));
        }
    };
    add("Version", Some(&system.version));
    add("Init system", Some(&system.init));
    add("Boot loader", system.boot_loader.as_deref());
    add("Initramfs by", system.initramfs_tool.as_deref());
    let table: Vec<String> = system
        .fstab
        .iter()
        .map(|line| format!("{} at {} ({})", line.spec, line.file, line.kind))
        .collect();
    add("fstab", Some(&table.join("; ")));
    add("crypttab", Some(&system.crypttab.join("; ")));
    add(
        "Boot entries by the bus's name",
        Some(&system.boot_device_names.join(", ")),
    );
    let nics: Vec<String> = system
        .interfaces
        .iter()
        .map(|(name, file)| format!("{name} in {file}"))
        .collect();
    add("Interfaces configured", Some(&nics.join(", ")));
    add("VMware Tools", system.vmware_tools.as_deref());
    add("QEMU guest agent", system.qemu_guest_agent.as_deref());
    add("SELinux", system.selinux.then_some("configured"));
    add("Not shut down", system.hibernation.as_deref());
    System {
        name: clean(if system.name.is_empty() {
            "unknown system"
        } else {
            &system.name
        }),
        device: clean(&system.device),
        facts,
        kernels: system.kernels.iter().map(kernel).collect(),
    }
}

fn kernel(kernel: &KernelFacts) -> Kernel {
    let badge = match (&kernel.unreadable, kernel.boots_virtio_blk, kernel.boots_virtio_scsi) {
        (Some(_), ..) => badge("warn", "not readable"),
        (None, true, true) => badge("good", "finds virtio disks"),
        (None, true, false) => badge("good", "finds virtio-blk disks, not virtio-scsi"),
        (None, false, true) => badge("good", "finds virtio-scsi disks, not virtio-blk"),
        (None, false, false) => badge("bad", "finds no virtio disk"),
    };
    let drivers = kernel.drivers.iter().map(|(name, place)| {
        let place = match place {
            DriverPlace::BuiltIn => "built in",
            DriverPlace::Initramfs => "in the initramfs",
            DriverPlace::Modules => "only on the root",
            DriverPlace::Missing => "missing",
        };
        format!("{} {place}", clean(name))
    });
    Kernel {
        version: clean(&kernel.version),
        image: clean(kernel.initramfs.as_deref().unwrap_or("no initramfs")),
        badge,
        drivers: kernel
            .unreadable
            .as_deref()
            .map(clean)
            .into_iter()
            .chain(drivers)
            .collect::<Vec<_>>()
            .join(", "),
    }
}

pub(super) fn changes(report: &GuestReport) -> Vec<ChangeRow> {
    let row = |change: &FixupFacts| ChangeRow {
        path: clean(&change.path),
        badge: match (change.undone, &change.before) {
            (true, _) => badge("quiet", "taken back"),
            (false, None) => badge("good", "new"),
            (false, Some(_)) => badge("good", "changed"),
        },
        why: clean(&change.why),
        before: change.before.as_deref().map(clean),
        after: clean(&change.after),
    };
    report.fixup.iter().map(row).collect()
}
