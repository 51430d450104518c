//! Making a converted guest ready for KVM, by the appliance: the host's kernel never mounts the guest's file systems.
//!
//! Looks first, on throw-away overlays; the real disks are opened for writing only where there is something to change. A second
//! run finds nothing to change and leaves the disks as they are.

use crate::appliance::Appliance;
use crate::engine::{Choice, DiskFormat};
use crate::qemu::{Qemu, overlay};
use crate::{Result, RunnerError};
use agent::protocol::NicName;
use convert::machine::Machine;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::time::Duration;

/// The appliance must answer within this, on a slow host under emulation too.
const DEADLINE: Duration = Duration::from_secs(120);

/// What to fix up.
#[derive(Debug, Clone)]
pub struct FixupRequest {
    /// The machine as it was at the source.
    pub machine: Machine,
    /// Its converted disks.
    pub disks: Vec<(PathBuf, DiskFormat)>,
    /// Run folder, for overlays while it looks.
    pub out: PathBuf,
    /// Engine and accelerator.
    pub choice: Choice,
    /// Only say what would be changed.
    pub dry_run: bool,
}

/// A change to a file of the guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// Path in the guest.
    pub path: String,
    /// Its text before; absent where there was no file.
    pub before: Option<String>,
    /// Its text after.
    pub after: String,
    /// Why, in words.
    pub why: String,
}

/// What was changed, or would be.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct FixupOutcome {
    /// The changes. None: the guest is ready already.
    pub changes: Vec<Change>,
    /// What was looked at and left alone, in words.
    pub notes: Vec<String>,
    /// Nothing was written.
    pub dry_run: bool,
}

/// Fixes up the guest.
///
/// # Errors
/// The appliance can't be had or doesn't answer; no Linux root is on the disks; stopped.
pub fn fixup(request: &FixupRequest, cancel: &AtomicBool) -> Result<FixupOutcome> {
    let scratch = tempfile::Builder::new()
        .prefix(".fixup-")
        .tempdir_in(&request.out)
        .map_err(|error| RunnerError::io("creating", &request.out, error))?;
    let mut overlays = Vec::new();
    for (index, (disk, format)) in request.disks.iter().enumerate() {
        let path = overlay(disk, *format, scratch.path(), &format!("look-{index}"))?;
        overlays.push((path, DiskFormat::Qcow2));
    }
    let seen = visit(request, &overlays, true, scratch.path(), cancel)?;
    if request.dry_run || seen.changes.is_empty() {
        return Ok(FixupOutcome {
            dry_run: request.dry_run,
            ..seen
        });
    }
    visit(request, &request.disks, false, scratch.path(), cancel)
}

fn visit(
    request: &FixupRequest,
    disks: &[(PathBuf, DiskFormat)],
    dry_run: bool,
    scratch: &Path,
    cancel: &AtomicBool,
) -> Result<FixupOutcome> {
    let mut appliance = Appliance::start(&Qemu, request.choice.accelerator, disks, scratch, DEADLINE, cancel)?;
    let answer = appliance.fixup(source_names(&request.machine), dry_run, cancel);
    // Switched off in order in every case: what was written must be in the image.
    appliance.stop(cancel)?;
    serde_json::from_value(answer?).map_err(|error| RunnerError::Agent(format!("its list of changes: {error}")))
}

/// The names that Linux gave the NICs on VMware: `ens<slot>`, for slots that belong to one NIC.
fn source_names(machine: &Machine) -> Vec<NicName> {
    machine
        .nics
        .iter()
        .filter_map(|nic| {
            let slot = nic.pci_slot?;
            Some(NicName {
                name: format!("ens{slot}"),
                mac: nic.mac.as_ref()?.to_ascii_lowercase(),
            })
        })
        .collect()
}
