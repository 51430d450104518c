//! Power state, snapshots, change tracking.

use super::super::evidence::{disks, is_true, keys, when};
use super::super::{Check, Needs, check, raised};
use crate::machine::SourceKind;
use reports::schema::Severity::{Block, Info, Warn};

/// The checks, in the order of the documentation.
pub(super) const CHECKS: &[Check] = &[
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
    check(
        "vm.running",
        Info,
        "`cleanShutdown = \"FALSE\"`, or a guest that is powered on in the sheet",
        "The guest ran when its files were read, or it was not shut down cleanly: a copy of a running guest is torn.",
        "Shut the guest down before the copy.",
        |s| {
            keys(s, |key, value| {
                key == "cleanshutdown" && value.eq_ignore_ascii_case("false")
            })
        },
    ),
    check(
        "cbt.disk-disabled",
        Info,
        "`ctkEnabled` for the guest, but not for one of its disks",
        "A warm copy would read that disk twice as a whole.",
        "Nothing to do for a cold copy.",
        |s| {
            if keys(s, |key, value| key == "ctkenabled" && is_true(value)).is_empty() {
                return Vec::new();
            }
            let tracked = keys(s, |key, value| key.ends_with(".ctkenabled") && is_true(value));
            // Where no disk has the key, the one of the guest holds for all.
            if tracked.is_empty() {
                return Vec::new();
            }
            disks(s, |disk| {
                let name = format!("{}.", disk.name());
                !tracked.iter().any(|key| key.to_ascii_lowercase().starts_with(&name))
            })
        },
    ),
    raised(
        "snapshot.consolidation-needed",
        Warn,
        Needs::Sheet,
        "`Consolidation Needed` is true in the sheet",
        "Disks of removed snapshots are still in the chain.",
        "Consolidate the disks in vSphere first.",
    ),
    raised(
        "tools.not-running",
        Warn,
        Needs::Sheet,
        "the guest is on, and the sheet says that VMware Tools don't run",
        "The host can't shut it down cleanly, and its addresses are not known.",
        "Shut it down from inside.",
    ),
];
