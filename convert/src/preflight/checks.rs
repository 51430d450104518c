//! The register of checks that need only the source's files.

use super::{Check, Subject};
use crate::machine::{
    ControllerBus, DiskMode, FirmwareKind, MacOrigin, OsFamily, RemovableKind, SourceKind, Tpm, identity,
};
use crate::targets::plan::{DiskBus, Plan, Target};
use reports::schema::Severity::{Block, Info, Warn};
use reports::schema::{KeyClass, Severity};

/// The newest virtual hardware version known here.
const NEWEST_HARDWARE: u32 = 22;

const fn check(
    id: &'static str,
    severity: Severity,
    condition: &'static str,
    message: &'static str,
    fix: &'static str,
    run: fn(&Subject<'_>) -> Vec<String>,
) -> Check {
    Check {
        id,
        severity,
        condition,
        message,
        fix,
        run,
    }
}

/// Raised by a reader; nothing to look for here.
fn noticed(_: &Subject<'_>) -> Vec<String> {
    Vec::new()
}

/// Living source keys that `wanted` picks, as `key = "value"`.
fn keys(subject: &Subject<'_>, wanted: impl Fn(&str, &str) -> bool) -> Vec<String> {
    subject
        .accounting
        .keys
        .iter()
        .filter(|key| !key.why.starts_with("left over") && wanted(&key.key.to_ascii_lowercase(), key.value.trim()))
        .map(|key| {
            let value: String = key.value.chars().take(80).collect();
            format!("{} = \"{value}\"", key.key)
        })
        .collect()
}

fn is_true(value: &str) -> bool {
    value.eq_ignore_ascii_case("true") || value == "1"
}

fn when(condition: bool, evidence: impl FnOnce() -> String) -> Vec<String> {
    if condition { vec![evidence()] } else { Vec::new() }
}

/// Evidence for each disk whose header `wanted` picks.
fn headers(subject: &Subject<'_>, wanted: impl Fn(&crate::source::bare::DiskHeader) -> Option<String>) -> Vec<String> {
    subject
        .machine
        .disks
        .iter()
        .zip(subject.disks)
        .filter_map(|(disk, header)| wanted(header).map(|seen| format!("{} ({}): {seen}", disk.name(), disk.file)))
        .collect()
}

fn disks(subject: &Subject<'_>, wanted: impl Fn(&crate::machine::Disk) -> bool) -> Vec<String> {
    subject
        .machine
        .disks
        .iter()
        .filter(|disk| wanted(disk))
        .map(|disk| format!("{}: {}", disk.name(), disk.file))
        .collect()
}

fn controllers(subject: &Subject<'_>, wanted: impl Fn(&crate::machine::Controller) -> bool) -> Vec<String> {
    subject
        .machine
        .controllers
        .iter()
        .filter(|controller| wanted(controller))
        .map(|controller| format!("{}{}: {}", controller.bus.prefix(), controller.index, controller.model))
        .collect()
}

fn nics(subject: &Subject<'_>, wanted: impl Fn(&crate::machine::Nic) -> bool) -> Vec<String> {
    subject
        .machine
        .nics
        .iter()
        .filter(|nic| wanted(nic))
        .map(|nic| {
            format!(
                "ethernet{}: model {}, MAC {}, network {}, slot {}",
                nic.index,
                nic.model.as_deref().unwrap_or("absent"),
                nic.mac.as_deref().unwrap_or("none"),
                nic.network.as_deref().unwrap_or("none"),
                nic.pci_slot.map_or("none".to_owned(), |slot| slot.to_string())
            )
        })
        .collect()
}

/// Does a kind of VMDK that we read stand here?
fn known_type(create_type: &str) -> bool {
    matches!(
        create_type.to_ascii_lowercase().as_str(),
        "" | "monolithicsparse"
            | "monolithicflat"
            | "twogbmaxextentsparse"
            | "twogbmaxextentflat"
            | "streamoptimized"
            | "vmfs"
            | "vmfsthin"
            | "vmfspreallocated"
            | "vmfseagerzeroedthick"
            | "vmfssparse"
            | "sesparse"
            | "vsansparse"
            | "custom"
            | "2gbmaxextentsparse"
            | "2gbmaxextentflat"
            | "vmfsrawdevicemap"
            | "vmfspassthroughrawdevicemap"
            | "vmfsrdm"
            | "vmfsrdmp"
    )
}

/// All checks, in the order of the documentation.
pub const CHECKS: &[Check] = &[
    // Source description
    check(
        "vmx.unparsable-line",
        Warn,
        "a line is neither blank, comment nor `key = \"value\"`",
        "A line of the VMX file makes no sense and was left out.",
        "Save the guest's settings anew in vSphere, or delete the line.",
        noticed,
    ),
    check(
        "vmx.duplicate-key",
        Warn,
        "the same key twice with different values",
        "A key has two values; the first is used. Other readers take the last.",
        "Remove one of the lines.",
        noticed,
    ),
    check(
        "vmx.key-unknown",
        Warn,
        "a key that is not in the accounting table",
        "The effect of the key is not known here; it is not carried over.",
        "Check whether the guest needs it, and report the key.",
        |s| {
            s.accounting
                .keys
                .iter()
                .filter(|key| key.class == KeyClass::Unknown)
                .map(|key| format!("{} = \"{}\"", key.key, key.value.chars().take(80).collect::<String>()))
                .collect()
        },
    ),
    check(
        "vmx.unquoted-value",
        Warn,
        "a value without quotes",
        "A value has no quotes; it was read to the end of the line.",
        "Put the value in double quotes.",
        noticed,
    ),
    check(
        "vmx.raw-quote",
        Warn,
        "a double quote inside a value that is not written `|22`",
        "A value holds a bare quote; it was read up to the last quote of the line.",
        "Write `|22` for the quote inside.",
        noticed,
    ),
    check(
        "vmx.malformed-escape",
        Warn,
        "`|` that two hex digits don't follow",
        "An escape is incomplete; it was left as it stands.",
        "Write `|7C` for a bar.",
        noticed,
    ),
    check(
        "vmx.encoding-unsupported",
        Block,
        "`.encoding` names an unknown charset and the file isn't ASCII",
        "Names would be corrupted.",
        "Convert the file to UTF-8 and set `.encoding = \"UTF-8\"`.",
        noticed,
    ),
    check(
        "vmx.encoding-guess",
        Warn,
        "bytes that are not of the declared charset",
        "Text was read as windows-1252, which may be wrong.",
        "Compare the names; convert the file to UTF-8.",
        noticed,
    ),
    check(
        "vmx.present-false-leftover",
        Info,
        "keys of a device with `present = \"FALSE\"`",
        "A removed device left keys behind; they are ignored.",
        "Nothing to do.",
        noticed,
    ),
    check(
        "vmx.present-missing",
        Warn,
        "a device without a readable `present`",
        "It isn't said whether the device is there; it is kept.",
        "Remove the device from the result if the guest didn't have it.",
        noticed,
    ),
    check(
        "vmx.odd-version",
        Warn,
        "`virtualHW.version` below 4 or `config.version` other than 8",
        "The file is of a version that nobody writes any more.",
        "Check the result with care.",
        noticed,
    ),
    check(
        "vmx.value-unreadable",
        Warn,
        "an identity that can't be read",
        "A value is malformed and was left out; the guest gets a new one.",
        "Correct the line.",
        noticed,
    ),
    check(
        "vm.name-missing",
        Warn,
        "no `displayName`, no name or id in the OVF",
        "The file's name is used as the guest's name.",
        "Give a name in the map.",
        noticed,
    ),
    check(
        "vm.name-non-ascii",
        Warn,
        "a name or disk file outside of ASCII",
        "The target's name will differ; the original is kept in its description.",
        "Give a name in the map.",
        |s| {
            when(!s.machine.name.is_ascii(), || s.machine.name.clone())
                .into_iter()
                .chain(disks(s, |disk| !disk.file.is_ascii()))
                .collect()
        },
    ),
    check(
        "vm.name-invalid",
        Warn,
        "a name that Proxmox VE or KubeVirt refuses",
        "The guest is renamed on the target; the original is kept in its description.",
        "Give a name in the map.",
        |s| {
            let name = &s.machine.name;
            let fits = !name.is_empty()
                && name.len() < 64
                && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '.')
                && name.starts_with(|c: char| c.is_ascii_alphanumeric())
                && name.ends_with(|c: char| c.is_ascii_alphanumeric());
            when(!fits, || {
                format!(
                    "\"{name}\" becomes {}",
                    Plan::new(s.machine, Target::Kubevirt, false).name
                )
            })
        },
    ),
    check(
        "vm.guessed",
        Warn,
        "a bare disk was given",
        "There is no description: CPUs, memory, firmware and NICs are guesses (1 vCPU, 1 GiB, BIOS, no NIC).",
        "Give the .vmx or .ovf, or correct the result.",
        noticed,
    ),
    check(
        "vm.sheet-only",
        Warn,
        "a guest that is known from a spreadsheet of RVTools only",
        "Keys, snapshot chains and files were not looked at: what the sheet doesn't say is not judged.",
        "Assess the guest's folder too; both may be given at once.",
        noticed,
    ),
    check(
        "vm.template",
        Info,
        "a `.vmtx` file",
        "This is a template, not a guest that ran.",
        "Nothing to do.",
        |s| when(s.machine.template, || s.machine.source.display().to_string()),
    ),
    check(
        "vm.hw-version-old",
        Info,
        "`virtualHW.version` below 7",
        "There is no changed block tracking on such hardware, so only a cold copy works.",
        "Nothing to do for a cold copy.",
        |s| {
            s.machine
                .hw_version
                .filter(|version| *version < 7)
                .map(|version| format!("version {version}"))
                .into_iter()
                .collect()
        },
    ),
    check(
        "vm.hw-version-new",
        Warn,
        "a hardware version above 22",
        "The version is newer than what is known here; keys of it may be unknown.",
        "Read the accounting with care.",
        |s| {
            s.machine
                .hw_version
                .filter(|version| *version > NEWEST_HARDWARE)
                .map(|version| format!("version {version}"))
                .into_iter()
                .collect()
        },
    ),
    check(
        "ovf.source-foreign",
        Warn,
        "an OVF that VMware didn't write",
        "Sub-types may mean something else; MACs and firmware are often missing.",
        "Check controllers, firmware and NICs.",
        noticed,
    ),
    check(
        "ovf.controller-unknown",
        Warn,
        "a disk without a known controller",
        "The bus and order of the disk are a guess.",
        "Check which disk the guest boots from.",
        noticed,
    ),
    check(
        "ovf.cores-per-socket-invalid",
        Warn,
        "`vmw:CoresPerSocket` of 0 or above the number of vCPUs",
        "The value is ignored.",
        "Correct the OVF, or the topology on the target.",
        noticed,
    ),
    check(
        "ovf.several-configurations",
        Block,
        "several deployment configurations and none chosen",
        "CPU and memory depend on the configuration; the default was read.",
        "Choose one with --deployment.",
        noticed,
    ),
    check(
        "ovf.disk-reference",
        Warn,
        "a disk item whose HostResource leads nowhere",
        "The item is left out: no file belongs to it.",
        "Check the list of disks.",
        noticed,
    ),
    check(
        "ovf.several-hardware-sections",
        Warn,
        "more than one VirtualHardwareSection in a guest",
        "The first section is used.",
        "Choose the section in the file.",
        noticed,
    ),
    check(
        "ovf.empty-disk",
        Info,
        "a disk without a file",
        "The disk is empty; it is made with the stated capacity.",
        "Nothing to do.",
        noticed,
    ),
    check(
        "ova.manifest-mismatch",
        Block,
        "a sum in the manifest differs from the file's",
        "The package is damaged or was changed.",
        "Download it again; or go on with --no-verify-manifest.",
        noticed,
    ),
    check(
        "ova.manifest-file-missing",
        Warn,
        "the manifest names a file that is not there",
        "The package is incomplete.",
        "Check where it came from.",
        noticed,
    ),
    check(
        "ova.certificate",
        Info,
        "a `.cert` file",
        "The package carries a signature; it is recognised, not trusted.",
        "Verify it with the publisher's certificate where that matters.",
        noticed,
    ),
    check(
        "ova.needs-extracting",
        Info,
        "the package or a disk in it is compressed",
        "It can't be read in place; a temporary copy is made.",
        "Nothing to do, given the space.",
        noticed,
    ),
    check(
        "ova.file-size",
        Block,
        "a file is shorter or longer than the OVF says",
        "The package was cut, or its description belongs to another.",
        "Download it again.",
        noticed,
    ),
    check(
        "ova.chunks",
        Block,
        "pieces of a split file are missing or of the wrong size",
        "The disk can't be joined.",
        "Copy all pieces.",
        noticed,
    ),
    // Disks
    check(
        "disk.none",
        Block,
        "no hard disk",
        "There is nothing to move: the wrong file, or the disks were removed.",
        "Name the description of the guest.",
        |s| when(s.machine.disks.is_empty(), || s.machine.source.display().to_string()),
    ),
    check(
        "disk.file-missing",
        Block,
        "a disk's file is not there",
        "The disk can't be read.",
        "Copy the file beside the description, or say where its datastore is.",
        noticed,
    ),
    check(
        "disk.file-duplicate",
        Block,
        "two disks with the same file",
        "Both would be copied, and the guest would see two disks drift apart.",
        "Remove one of them.",
        |s| {
            let all = &s.machine.disks;
            all.iter()
                .enumerate()
                .filter(|(number, disk)| {
                    !disk.file.is_empty() && all[..*number].iter().any(|other| other.file == disk.file)
                })
                .map(|(_, disk)| format!("{}: {}", disk.name(), disk.file))
                .collect()
        },
    ),
    check(
        "disk.path-outside",
        Block,
        "a file name that leaves the allowed folders",
        "The file is not opened, for safety.",
        "Allow its folder, if it is meant.",
        noticed,
    ),
    check(
        "disk.capacity-invalid",
        Block,
        "a capacity of 0",
        "The description of the disk is wrong.",
        "Clone the disk anew with `vmkfstools -i`.",
        |s| {
            disks(s, |disk| disk.capacity_bytes == Some(0))
                .into_iter()
                .chain(headers(s, |header| {
                    (header.sectors == Some(0)).then(|| "0 sectors".to_owned())
                }))
                .collect()
        },
    ),
    check(
        "disk.extent-size-mismatch",
        Block,
        "an extent's file is missing or shorter than its descriptor says",
        "The copy is torn: data is missing.",
        "Copy the extent again.",
        |s| headers(s, |header| (!header.torn.is_empty()).then(|| header.torn.join("; "))),
    ),
    check(
        "disk.type-unsupported",
        Block,
        "an unknown `createType`",
        "This kind of VMDK is not read.",
        "Clone it with `vmkfstools -i SOURCE -d thin TARGET`.",
        |s| {
            headers(s, |header| {
                (!known_type(&header.create_type)).then(|| format!("createType = \"{}\"", header.create_type))
            })
        },
    ),
    check(
        "disk.parent-missing",
        Block,
        "a delta without its parent",
        "The snapshot chain is incomplete.",
        "Copy the guest's whole folder.",
        |s| {
            headers(s, |header| {
                header
                    .parent
                    .as_ref()
                    .filter(|_| !header.parent_found)
                    .map(|parent| format!("parent {parent}"))
            })
        },
    ),
    check(
        "disk.cid-mismatch",
        Block,
        "`parentCID` differs from the parent's `CID`",
        "The base was written to after the snapshot: the data may not belong together.",
        "Consolidate the snapshots on ESXi.",
        |s| headers(s, |header| header.parent_changed.clone()),
    ),
    check(
        "disk.encrypted",
        Block,
        "encryption keys in the description or the disk",
        "Encrypted data can't be read.",
        "Decrypt the guest in vSphere first (change its storage policy).",
        |s| {
            let mut found = keys(s, |key, value| {
                (key.starts_with("encryption.") || key == "datafilekey") && !value.is_empty()
            });
            found.extend(headers(s, |header| {
                header.encrypted.then(|| "the disk is encrypted".to_owned())
            }));
            found
        },
    ),
    check(
        "disk.rdm-physical",
        Block,
        "a raw device map in physical mode",
        "The data is on a LUN, not in the file.",
        "Convert it to a VMDK, or attach the LUN by hand.",
        |s| {
            headers(s, |header| {
                matches!(
                    header.create_type.to_ascii_lowercase().as_str(),
                    "vmfspassthroughrawdevicemap" | "vmfsrdmp"
                )
                .then(|| header.create_type.clone())
            })
        },
    ),
    check(
        "disk.rdm-virtual",
        Warn,
        "a raw device map in virtual mode",
        "The disk is copied as an image, not mapped.",
        "Clone it to a VMDK first.",
        |s| {
            headers(s, |header| {
                matches!(
                    header.create_type.to_ascii_lowercase().as_str(),
                    "vmfsrawdevicemap" | "vmfsrdm"
                )
                .then(|| header.create_type.clone())
            })
        },
    ),
    check(
        "disk.shared",
        Block,
        "a disk or bus shared between guests",
        "A cluster's disk would be copied once for each guest.",
        "Make a plan for the cluster: one copy, all its guests in one batch.",
        |s| {
            disks(s, |disk| disk.shared)
                .into_iter()
                .chain(controllers(s, |controller| controller.shared_bus.is_some()))
                .collect()
        },
    ),
    check(
        "disk.independent-persistent",
        Warn,
        "mode `independent-persistent`",
        "The disk is outside of snapshots, so only a cold copy is consistent.",
        "Copy while the guest is off.",
        |s| disks(s, |disk| disk.mode == DiskMode::IndependentPersistent),
    ),
    check(
        "disk.independent-nonpersistent",
        Warn,
        "mode `independent-nonpersistent`",
        "The guest expects that its writes are lost at power-off; only Proxmox VE and libvirt can do that.",
        "Decide whether the disk shall keep its writes.",
        |s| disks(s, |disk| disk.mode == DiskMode::IndependentNonpersistent),
    ),
    check(
        "disk.sesparse",
        Info,
        "a delta in seSparse format",
        "The disk needs the native reader; other tools can't read it.",
        "Nothing to do.",
        |s| {
            headers(s, |header| {
                header
                    .extents
                    .iter()
                    .any(|kind| kind == "SESPARSE")
                    .then(|| "SESPARSE".to_owned())
            })
        },
    ),
    check(
        "disk.enable-uuid",
        Warn,
        "`disk.EnableUUID = TRUE`",
        "Serials are cut to 20 characters and WWNs change, so names under /dev/disk/by-id change.",
        "Use file system UUIDs in the guest's fstab and multipath configuration.",
        |s| keys(s, |key, value| key == "disk.enableuuid" && is_true(value)),
    ),
    check(
        "disk.device-type-unknown",
        Warn,
        "an unknown `deviceType` with a file",
        "It is taken for a disk.",
        "Check the list of disks.",
        noticed,
    ),
    check(
        "disk.count-exceeds-bus",
        Block,
        "more disks than Proxmox VE has places for",
        "Not all disks fit: 31 SCSI and 16 VirtIO.",
        "Move disks to another guest.",
        |s| {
            let plan = Plan::new(s.machine, Target::Proxmox, false);
            let blk = plan.disks.iter().filter(|disk| disk.bus == DiskBus::VirtioBlk).count();
            when(blk > 16, || format!("{} disks", s.machine.disks.len()))
        },
    ),
    check(
        "disk.count-exceeds-limit",
        Warn,
        "more than 165 disks",
        "KubeVirt guests lose network connectivity above it (CNV-91554).",
        "Use fewer disks.",
        |s| {
            when(s.machine.disks.len() > 165, || {
                format!("{} disks", s.machine.disks.len())
            })
        },
    ),
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
    // State
    check(
        "vm.suspended",
        Block,
        "`checkpoint.vmState` is set",
        "The guest is suspended: its memory isn't moved, and its file systems are open.",
        "Resume it and shut it down cleanly.",
        |s| keys(s, |key, value| key == "checkpoint.vmstate" && !value.is_empty()),
    ),
    check(
        "snapshot.present",
        Info,
        "snapshots",
        "The present state is moved, the history is not.",
        "Nothing to do.",
        |s| {
            let links: usize = s.disks.iter().map(|header| header.depth).max().unwrap_or(0);
            when(!s.machine.snapshots.is_empty() || links > 0, || {
                format!(
                    "{} in the list, chains of up to {} links",
                    s.machine.snapshots.len(),
                    links + 1
                )
            })
        },
    ),
    check(
        "snapshot.many",
        Warn,
        "chains of more than 3 snapshots",
        "Reading is slow.",
        "Consolidate the snapshots first.",
        |s| {
            let links: usize = s
                .disks
                .iter()
                .map(|header| header.depth)
                .max()
                .unwrap_or(0)
                .max(s.machine.snapshots.len());
            when(links > 3, || format!("{links} levels"))
        },
    ),
    check(
        "cbt.vm-disabled",
        Info,
        "`ctkEnabled` is not TRUE",
        "No changed block tracking: a warm copy would read everything twice.",
        "Nothing to do for a cold copy.",
        |s| {
            when(
                s.machine.source_kind == SourceKind::Vmx
                    && keys(s, |key, value| key == "ctkenabled" && is_true(value)).is_empty(),
                || "ctkEnabled is off or absent".to_owned(),
            )
        },
    ),
    check(
        "vm.fault-tolerance",
        Info,
        "Fault Tolerance is on",
        "The feature is lost.",
        "Plan for high availability on the target.",
        |s| {
            keys(s, |key, value| {
                (key.starts_with("fault.tolerance") || key == "ftcpt.enabled") && is_true(value)
            })
        },
    ),
    // Firmware
    check(
        "firmware.unknown",
        Block,
        "`firmware` other than bios and efi",
        "It isn't known how the guest boots.",
        "Correct the value.",
        noticed,
    ),
    check(
        "firmware.nvram-lost",
        Warn,
        "UEFI",
        "Firmware variables are not converted: boot entries are lost, and firmware falls back to \\EFI\\BOOT\\BOOTX64.EFI.",
        "See that the fallback loader is there; `fixup` does it.",
        |s| {
            when(s.machine.firmware.kind == FirmwareKind::Uefi, || {
                s.machine
                    .firmware
                    .nvram
                    .clone()
                    .unwrap_or_else(|| "firmware = efi".to_owned())
            })
        },
    ),
    check(
        "secureboot.enabled",
        Warn,
        "Secure Boot is on",
        "It needs SMM, q35 and Microsoft's keys on the target; loaders trusted through VMware's keys only don't start.",
        "Nothing to do for signed distributions; otherwise turn Secure Boot off.",
        |s| when(s.machine.firmware.secure_boot, || "Secure Boot on".to_owned()),
    ),
    check(
        "secureboot.without-uefi",
        Warn,
        "Secure Boot asked for on a BIOS guest",
        "BIOS has no Secure Boot; the key is ignored.",
        "Correct the firmware if the guest boots by UEFI.",
        |s| {
            if s.machine.firmware.kind == FirmwareKind::Bios {
                keys(s, |key, value| {
                    (key == "uefi.secureboot.enabled" || key.ends_with("efisecurebootenabled")) && is_true(value)
                })
            } else {
                Vec::new()
            }
        },
    ),
    check(
        "tpm.present",
        Warn,
        "a virtual TPM",
        "A new, empty TPM is made; keys sealed in the old one are lost.",
        "Have the recovery keys of BitLocker or LUKS at hand.",
        |s| when(s.machine.firmware.tpm == Tpm::V2, || "vTPM".to_owned()),
    ),
    check(
        "windows.vbs-hvci",
        Warn,
        "virtualisation-based security is on",
        "It needs nested virtualisation on the target.",
        "Use the host's CPU model, or turn it off.",
        |s| {
            keys(s, |key, value| {
                (key.starts_with("windows.vbs")
                    || key.starts_with("vbs.")
                    || key == "vvtd.enable"
                    || key.ends_with("vbsenabled"))
                    && is_true(value)
            })
        },
    ),
    // CPU and memory
    check(
        "cpu.topology-not-divisible",
        Warn,
        "vCPUs not divisible by cores per socket",
        "QEMU takes whole sockets only; every vCPU becomes a socket.",
        "Check licences that count sockets.",
        noticed,
    ),
    check(
        "cpu.cores-per-socket-gt-vcpus",
        Warn,
        "more cores per socket than vCPUs",
        "One socket is used.",
        "Check licences that count sockets.",
        noticed,
    ),
    check(
        "cpu.count-missing",
        Warn,
        "no number of vCPUs",
        "One vCPU is assumed.",
        "Check the number of vCPUs.",
        noticed,
    ),
    check(
        "cpu.hot-add",
        Warn,
        "CPU hot-add",
        "The source doesn't say up to how many; the target gets no room to grow.",
        "Set a maximum on the target.",
        |s| when(s.machine.cpu.hot_add, || "vcpu.hotadd".to_owned()),
    ),
    check(
        "mem.hot-add",
        Warn,
        "memory hot-add",
        "The source doesn't say up to how much; the target gets no room to grow.",
        "Set a maximum on the target.",
        |s| when(s.machine.memory.hot_add, || "mem.hotadd".to_owned()),
    ),
    check(
        "cpu.affinity",
        Warn,
        "CPU affinity",
        "Pinning is not carried over.",
        "Pin on the target where it is still wanted.",
        |s| s.machine.cpu.affinity.clone().into_iter().collect(),
    ),
    check(
        "numa.affinity",
        Warn,
        "NUMA node affinity",
        "It is not carried over.",
        "Set it on the target where it is still wanted.",
        |s| s.machine.cpu.numa_affinity.clone().into_iter().collect(),
    ),
    check(
        "cpu.shares-or-limits",
        Warn,
        "CPU shares, limit or reservation",
        "Shares become cpuunits (Proxmox VE) and shares (libvirt); a limit in MHz and a reservation have no equivalent.",
        "Set cpulimit (or its like) on the target where a limit is still wanted.",
        |s| {
            let cpu = &s.machine.cpu;
            let shares = cpu
                .shares
                .as_ref()
                .filter(|shares| !shares.eq_ignore_ascii_case("normal"));
            when(
                shares.is_some() || cpu.limit_mhz.is_some() || cpu.reservation_mhz.is_some(),
                || {
                    format!(
                        "shares {}, limit {:?} MHz, reservation {:?} MHz",
                        cpu.shares.as_deref().unwrap_or("normal"),
                        cpu.limit_mhz,
                        cpu.reservation_mhz
                    )
                },
            )
        },
    ),
    check(
        "mem.reserved-or-limited",
        Warn,
        "memory reserved, locked or limited",
        "It is not carried over.",
        "Turn ballooning off, or reserve huge pages on the target.",
        |s| {
            let memory = &s.machine.memory;
            when(
                memory.reservation_mib.is_some() || memory.limit_mib.is_some_and(|limit| limit < memory.mib),
                || {
                    format!(
                        "reservation {:?} MiB, limit {:?} MiB, size {} MiB",
                        memory.reservation_mib, memory.limit_mib, memory.mib
                    )
                },
            )
        },
    ),
    check(
        "mem.size-missing",
        Warn,
        "no memory size",
        "32 MiB is VMware's default; hardly any guest starts with it.",
        "Set the memory on the target.",
        noticed,
    ),
    check(
        "mem.size-odd",
        Warn,
        "memory not a multiple of 4 MiB",
        "VMware would have refused it.",
        "Check the memory size.",
        noticed,
    ),
    check(
        "cpu.latency-sensitivity",
        Warn,
        "latency sensitivity is not normal",
        "It needs pinning and isolation on the target.",
        "Pin and isolate CPUs on the target.",
        |s| {
            s.machine
                .cpu
                .latency_sensitivity
                .clone()
                .filter(|value| !value.eq_ignore_ascii_case("normal"))
                .into_iter()
                .collect()
        },
    ),
    check(
        "cpu.masks-evc",
        Warn,
        "CPU masks or an EVC baseline",
        "Masks are not carried over.",
        "Choose a CPU model that is not newer than the baseline.",
        |s| {
            s.accounting
                .keys
                .iter()
                .filter(|key| key.class == KeyClass::DroppedWarning && key.why.contains("CPU model"))
                .map(|key| key.key.clone())
                .take(8)
                .collect()
        },
    ),
    check(
        "mem.hotplug-cap",
        Info,
        "memory hot-add and more than 512 GiB",
        "Memory hot-plug of Proxmox VE ends at 512 GiB with 40 address bits.",
        "Set `cpu: host`, or leave hot-plug off.",
        |s| {
            when(s.machine.memory.hot_add && s.machine.memory.mib > 512 * 1024, || {
                format!("{} MiB", s.machine.memory.mib)
            })
        },
    ),
    check(
        "device.pci-passthrough",
        Block,
        "a passed-through PCI device",
        "The device is the old host's.",
        "Remove it first; pass one through on the target afterwards.",
        |s| s.machine.passthrough.clone(),
    ),
    check(
        "device.vgpu",
        Block,
        "a vGPU profile",
        "The GPU is the old host's.",
        "Remove it first; configure one on the target afterwards.",
        |s| {
            keys(s, |key, value| {
                key.starts_with("pcipassthru") && key.contains("vgpu") && !value.is_empty()
            })
        },
    ),
    check(
        "device.usb",
        Warn,
        "an attached USB device",
        "Devices are not moved.",
        "Plug it in on the target and pass it through.",
        |s| s.machine.usb.devices.clone(),
    ),
    check(
        "device.parallel",
        Warn,
        "a parallel port",
        "It is dropped.",
        "Use a network print server or a USB adapter.",
        |s| {
            s.machine
                .parallel
                .iter()
                .map(|port| format!("parallel{}", port.index))
                .collect()
        },
    ),
    check(
        "device.serial",
        Info,
        "a serial port",
        "It becomes a socket on Proxmox VE and a pty elsewhere; a network concentrator is lost.",
        "Connect it anew.",
        |s| {
            s.machine
                .serial
                .iter()
                .map(|port| format!("serial{}: {}", port.index, port.kind))
                .collect()
        },
    ),
    // Network and identity
    check(
        "nic.network-unmapped",
        Warn,
        "a NIC without a network",
        "The source doesn't say which network; with a map it has to be named by its MAC.",
        "Add the NIC's MAC to the guest's part of the map.",
        |s| nics(s, |nic| nic.network.is_none()),
    ),
    check(
        "nic.mac-conflict",
        Block,
        "the same MAC twice in the guest",
        "Two NICs can't share a MAC on one network.",
        "Change one of them.",
        |s| {
            let all = &s.machine.nics;
            nics(s, |nic| {
                nic.mac.is_some() && all.iter().filter(|other| other.mac == nic.mac).count() > 1
            })
        },
    ),
    check(
        "nic.mac-missing",
        Warn,
        "a NIC without a MAC",
        "The target makes a new one; what is bound to the old one is lost.",
        "Set the MAC on the target.",
        |s| nics(s, |nic| nic.mac.is_none()),
    ),
    check(
        "nic.mac-oui",
        Info,
        "a MAC outside of VMware's ranges",
        "It was set by hand; it is kept.",
        "Nothing to do.",
        |s| {
            nics(s, |nic| {
                nic.mac.as_deref().is_some_and(|mac| !identity::is_vmware_mac(mac))
            })
        },
    ),
    check(
        "nic.mac-ambiguous",
        Warn,
        "a static and another generated MAC, or no address type",
        "Two MACs are written; the one that the address type names is used.",
        "Compare with what the guest had.",
        noticed,
    ),
    check(
        "nic.mac-type-missing",
        Info,
        "no address type",
        "The static address is used if there is one.",
        "Nothing to do.",
        |s| {
            if s.machine.source_kind == SourceKind::Vmx {
                nics(s, |nic| nic.mac_origin == MacOrigin::Unknown)
            } else {
                Vec::new()
            }
        },
    ),
    check(
        "nic.rename-risk",
        Warn,
        "a Linux guest with a NIC in a PCI slot",
        "Names such as ens192 come from the slot. QEMU and libvirt (on q35) keep it, Proxmox VE and KubeVirt can't.",
        "Let `fixup` write rules that name NICs by MAC.",
        |s| {
            if s.machine.os.family == OsFamily::Linux || s.machine.os.family == OsFamily::Windows {
                nics(s, |nic| nic.pci_slot.is_some())
            } else {
                Vec::new()
            }
        },
    ),
    check(
        "nic.slot-not-reproduced",
        Info,
        "a PCI slot above 1023",
        "The name that the guest made of this slot is not known for certain (ens161 for 1184 is a hypothesis), so it isn't kept.",
        "Let `fixup` write rules that name NICs by MAC.",
        |s| nics(s, |nic| nic.pci_slot.is_some_and(|slot| slot > 1023)),
    ),
    check(
        "nic.start-disconnected",
        Info,
        "a NIC that starts disconnected",
        "The link is made down (by hand on QEMU).",
        "Nothing to do.",
        |s| nics(s, |nic| !nic.connected),
    ),
    check(
        "nic.model-obsolete",
        Warn,
        "vmxnet, vmxnet2, vlance or flexible",
        "E1000 or PCnet is used instead.",
        "Check that the guest has a driver.",
        |s| {
            nics(s, |nic| {
                matches!(
                    nic.model.as_deref(),
                    Some("vmxnet" | "vmxnet2" | "vlance" | "flexible" | "pcnet32")
                )
            })
        },
    ),
    check(
        "net.vlan-unknown",
        Info,
        "NICs on a network",
        "The VLAN is not in the files; it is the port group's.",
        "Give the tag in the map.",
        |s| {
            if s.machine.source_kind == SourceKind::Vmx {
                nics(s, |nic| nic.network.is_some() && nic.vlan.is_none())
            } else {
                Vec::new()
            }
        },
    ),
    check(
        "os.id-unknown",
        Warn,
        "a guest OS id that is in no table",
        "Drivers, clock and buses are guesses.",
        "Say which OS it is, or look inside with --deep.",
        noticed,
    ),
    check(
        "os.id-stale",
        Warn,
        "an id that stands for several releases",
        "The declared id doesn't name the release; what is really installed decides.",
        "Look inside with --deep.",
        |s| {
            let id = s.machine.os.declared.to_ascii_lowercase();
            when(
                id.contains("hyperv") || id.starts_with("windows8srv") || id.starts_with("windows8server"),
                || format!("guestOS = \"{}\"", s.machine.os.declared),
            )
        },
    ),
    check(
        "windows.sha1-drivers",
        Warn,
        "Windows XP to Server 2008 R2",
        "Only drivers signed with SHA-1 load.",
        "Use the old set of virtio drivers.",
        |s| {
            when(
                matches!(
                    s.machine.os.pve_ostype.as_str(),
                    "wxp" | "w2k" | "w2k3" | "w2k8" | "wvista" | "win7"
                ),
                || s.machine.os.title.clone(),
            )
        },
    ),
    check(
        "time.tools-sync",
        Warn,
        "VMware Tools kept the time",
        "Nothing keeps the clock after the move.",
        "Configure NTP in the guest.",
        |s| {
            keys(s, |key, value| {
                (key == "tools.synctime"
                    || key.starts_with("time.synchronize.")
                    || key.ends_with("tools.synctimewithhost"))
                    && is_true(value)
            })
        },
    ),
    check(
        "guest.cloud-init-data",
        Warn,
        "cloud-init or vApp data in the VMX",
        "The data source of VMware is gone on the target.",
        "Give the data another way, or turn cloud-init off.",
        |s| {
            keys(s, |key, value| {
                (key.starts_with("guestinfo.metadata")
                    || key.starts_with("guestinfo.userdata")
                    || key == "guestinfo.ovfenv")
                    && !value.is_empty()
            })
        },
    ),
    check(
        "genid.kubevirt",
        Info,
        "a VM generation id",
        "KubeVirt has no field for it; the other targets keep it.",
        "Mind domain controllers: a changed id starts safety measures.",
        |s| when(s.machine.identity.generation_id.is_some(), || "vm.genid".to_owned()),
    ),
    check(
        "identity.uuid-missing",
        Info,
        "no SMBIOS UUID",
        "The target makes a new one; licences bound to it ask anew.",
        "Nothing to do.",
        |s| {
            when(s.machine.identity.smbios_uuid.is_none(), || {
                "uuid.bios is absent".to_owned()
            })
        },
    ),
    check(
        "notes.dropped",
        Info,
        "notes",
        "They are carried to Proxmox VE, libvirt and KubeVirt; a QEMU script has no place for them.",
        "Nothing to do.",
        |s| {
            when(!s.machine.notes.is_empty(), || {
                format!("{} characters", s.machine.notes.chars().count())
            })
        },
    ),
    // Targets
    check(
        "target.limit-vcpu",
        Block,
        "more than 1024 vCPUs",
        "KVM takes 1024 as kernels are built by default, so QEMU refuses to start the guest.",
        "Lower the number of vCPUs, or use a kernel with a higher CONFIG_KVM_MAX_NR_VCPUS.",
        |s| when(s.machine.cpu.vcpus > 1024, || format!("{} vCPUs", s.machine.cpu.vcpus)),
    ),
    check(
        "target.limit-nic",
        Block,
        "more than 32 NICs",
        "Proxmox VE has 32.",
        "Remove NICs.",
        |s| when(s.machine.nics.len() > 32, || format!("{} NICs", s.machine.nics.len())),
    ),
    check(
        "target.limit-serial",
        Warn,
        "more than 4 serial ports",
        "Further ports are dropped.",
        "Use fewer ports.",
        |s| {
            when(s.machine.serial.len() > 4, || {
                format!("{} ports", s.machine.serial.len())
            })
        },
    ),
    check(
        "target.phys-bits",
        Info,
        "more than about 1 TiB of memory",
        "The default CPU model of Proxmox VE has 40 address bits; the host's model is used.",
        "All nodes need the same CPUs for live migration.",
        |s| {
            when(s.machine.memory.mib > 1_000 * 1024, || {
                format!("{} MiB", s.machine.memory.mib)
            })
        },
    ),
];
