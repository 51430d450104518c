//! Controllers and removable drives.

use super::super::evidence::{controllers, noticed, when};
use super::super::{Check, Needs, check, raised};
use crate::machine::{ControllerBus, FirmwareKind, RemovableKind};
use reports::schema::Severity::{Block, Info, Warn};

/// The checks, in the order of the documentation.
pub(super) const CHECKS: &[Check] = &[
    check(
        "cdrom.image-attached",
        Warn,
        "a connected CD drive with an image",
        "The image is not moved; the drive stays, empty.",
        "Attach the image on the target if the guest needs it.",
        |s| {
            s.machine
                .removable
                .iter()
                .filter(|drive| drive.kind == RemovableKind::Cdrom && drive.connected)
                .filter_map(|drive| drive.image.as_ref().map(|image| format!("{}: {image}", drive.name)))
                .collect()
        },
    ),
    check(
        "cdrom.several",
        Info,
        "more than one CD drive",
        "One drive is kept.",
        "Nothing to do.",
        |s| {
            let count = s
                .machine
                .removable
                .iter()
                .filter(|drive| drive.kind == RemovableKind::Cdrom)
                .count();
            when(count > 1, || format!("{count} drives"))
        },
    ),
    raised(
        "cdrom.kubevirt",
        Info,
        Needs::Targets,
        "a CD drive, and KubeVirt",
        "KubeVirt refuses a drive without a volume unless a feature gate is set: the guest gets none there.",
        "Add a `cdrom` disk with its volume where the guest needs an image.",
    ),
    check(
        "floppy.attached",
        Warn,
        "a connected floppy drive",
        "The drive is dropped.",
        "Copy what is on it.",
        |s| {
            s.machine
                .removable
                .iter()
                .filter(|drive| drive.kind == RemovableKind::Floppy && drive.connected)
                .map(|drive| format!("{}: {}", drive.name, drive.image.as_deref().unwrap_or("no image")))
                .collect()
        },
    ),
    check(
        "scsi.mixed-controllers",
        Warn,
        "disks on SCSI controllers of different models",
        "Proxmox VE has one model for the whole guest; the order of disks may change.",
        "Check which disk the guest boots from.",
        |s| {
            let mut models: Vec<&str> = s
                .machine
                .controllers
                .iter()
                .filter(|controller| {
                    controller.bus == ControllerBus::Scsi
                        && s.machine
                            .disks
                            .iter()
                            .any(|disk| disk.bus == ControllerBus::Scsi && disk.controller == controller.index)
                })
                .map(|controller| controller.model.as_str())
                .collect();
            models.sort_unstable();
            models.dedup();
            when(models.len() > 1, || models.join(", "))
        },
    ),
    check(
        "scsi.buslogic",
        Warn,
        "a BusLogic controller",
        "QEMU has no such device; IDE or SATA is used until virtio is proven.",
        "Check that the guest has a driver.",
        |s| controllers(s, |controller| controller.model == "buslogic"),
    ),
    check(
        "scsi.lsi-with-uefi",
        Warn,
        "UEFI with an LSI controller, or one without a model",
        "OVMF has no LSI driver, so the disks go to SATA until virtio is proven.",
        "Nothing to do where the boot proof succeeds.",
        |s| {
            if s.machine.firmware.kind == FirmwareKind::Uefi {
                controllers(s, |controller| {
                    controller.bus == ControllerBus::Scsi
                        && (controller.model.is_empty() || controller.model.starts_with("lsi"))
                })
            } else {
                Vec::new()
            }
        },
    ),
    check(
        "scsi.model-missing",
        Info,
        "a SCSI controller without `virtualDev`",
        "VMware chooses by the guest OS; here SATA is used until virtio is proven.",
        "Nothing to do.",
        |s| {
            controllers(s, |controller| {
                controller.bus == ControllerBus::Scsi && controller.model.is_empty()
            })
        },
    ),
    check(
        "scsi.controller-absent",
        Warn,
        "disks on a controller with `present = \"FALSE\"`",
        "The disks are dropped with their controller.",
        "Set the controller to present if the disks are wanted.",
        noticed,
    ),
    check(
        "nvme.not-native",
        Warn,
        "an NVMe controller",
        "Proxmox VE, libvirt and KubeVirt have no NVMe disks; SCSI or SATA is used and device names change.",
        "Use UUIDs in the guest's fstab and boot loader.",
        |s| controllers(s, |controller| controller.bus == ControllerBus::Nvme),
    ),
    check(
        "device.scsi-passthrough",
        Block,
        "a raw SCSI, CD or disk device of the host",
        "The device is the host's; it isn't moved.",
        "Remove it first.",
        noticed,
    ),
];
