//! Hard disks and their files.

use super::super::evidence::{controllers, disks, headers, is_true, keys, noticed, when};
use super::super::{Check, check};
use crate::machine::DiskMode;
use crate::targets::plan::{DiskBus, Plan, Target};
use reports::schema::Severity::{Block, Info, Warn};

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

/// The checks, in the order of the documentation.
pub(super) const CHECKS: &[Check] = &[
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
        "Allow its folder with `--allow-path`, if it is meant.",
        |s| {
            headers(s, |header| {
                (!header.refused.is_empty()).then(|| header.refused.join("; "))
            })
        },
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
        "a disk or bus shared between guests, or (`assess`) a file that two guests name",
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
];
