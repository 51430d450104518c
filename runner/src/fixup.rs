//! Making a converted guest ready for KVM, by the appliance: the host's kernel never mounts the guest's file systems.
//!
//! Looks first, on throw-away overlays; the real disks are opened for writing only where there is something to change. A second
//! run finds nothing to change and leaves the disks as they are.

use crate::appliance::Appliance;
use crate::engine::{self, Choice, DiskFormat};
use crate::qemu::overlay;
use crate::{Result, RunnerError};
use agent::protocol::{FixupWish, NicName};
use convert::machine::Machine;
use reports::schema::DeepFacts;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::time::Duration;

pub use agent::protocol::{Change, Undo};

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
    /// Adds a serial console to the kernels' command lines.
    pub serial_console: bool,
    /// Opens LUKS volumes: a passphrase, or the bytes of a key file.
    pub key: Option<Vec<u8>>,
    /// Only say what would be changed.
    pub dry_run: bool,
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
    /// Changes were taken back, not made.
    #[serde(default)]
    pub undone: bool,
}

/// What a visit of the appliance is for.
enum Errand<'c> {
    Fixup,
    Undo(&'c [Change]),
}

/// Fixes up the guest. `keep` gets the plan before the real disks are opened for writing: it is what an undo needs.
///
/// # Errors
/// The appliance can't be had or doesn't answer; no Linux root is on the disks; stopped; `keep` fails.
pub fn fixup(
    request: &FixupRequest,
    keep: &mut dyn FnMut(&FixupOutcome) -> std::io::Result<()>,
    cancel: &AtomicBool,
) -> Result<FixupOutcome> {
    look_then_write(request, &Errand::Fixup, keep, cancel)
}

/// Takes `changes` back, the last one first. What was changed by somebody else since stays, and is said in the notes.
///
/// # Errors
/// As [`fixup`].
pub fn undo(request: &FixupRequest, changes: &[Change], cancel: &AtomicBool) -> Result<FixupOutcome> {
    let outcome = look_then_write(request, &Errand::Undo(changes), &mut |_| Ok(()), cancel)?;
    Ok(FixupOutcome {
        undone: true,
        ..outcome
    })
}

/// Looks into the guest; nothing is written.
///
/// # Errors
/// The appliance can't be had or doesn't answer; stopped.
pub fn inspect(request: &FixupRequest, cancel: &AtomicBool) -> Result<DeepFacts> {
    let scratch = scratch(request)?;
    let overlays = overlays(request, scratch.path())?;
    let (value, refused) = in_appliance(request, &overlays, scratch.path(), cancel, &mut |appliance| {
        appliance.inspect(cancel)
    })?;
    let mut facts: DeepFacts = serde_json::from_value(value["deep"].clone())
        .map_err(|error| RunnerError::Agent(format!("its facts about the guest: {error}")))?;
    facts.notes.extend(refused);
    Ok(facts)
}

fn scratch(request: &FixupRequest) -> Result<tempfile::TempDir> {
    tempfile::Builder::new()
        .prefix(".fixup-")
        .tempdir_in(&request.out)
        .map_err(|error| RunnerError::io("creating", &request.out, error))
}

fn overlays(request: &FixupRequest, scratch: &Path) -> Result<Vec<(PathBuf, DiskFormat)>> {
    let disks = request.disks.iter().enumerate();
    disks
        .map(|(index, (disk, format))| {
            let path = overlay(disk, *format, scratch, &format!("look-{index}"))?;
            Ok((path, DiskFormat::Qcow2))
        })
        .collect()
}

fn look_then_write(
    request: &FixupRequest,
    errand: &Errand<'_>,
    keep: &mut dyn FnMut(&FixupOutcome) -> std::io::Result<()>,
    cancel: &AtomicBool,
) -> Result<FixupOutcome> {
    let scratch = scratch(request)?;
    let seen = visit(
        request,
        &overlays(request, scratch.path())?,
        true,
        errand,
        scratch.path(),
        cancel,
    )?;
    if request.dry_run || seen.changes.is_empty() {
        return Ok(FixupOutcome {
            dry_run: request.dry_run,
            ..seen
        });
    }
    keep(&FixupOutcome { dry_run: false, ..seen })
        .map_err(|error| RunnerError::io("keeping the plan in", &request.out, error))?;
    visit(request, &request.disks, false, errand, scratch.path(), cancel)
}

fn visit(
    request: &FixupRequest,
    disks: &[(PathBuf, DiskFormat)],
    dry_run: bool,
    errand: &Errand<'_>,
    scratch: &Path,
    cancel: &AtomicBool,
) -> Result<FixupOutcome> {
    let (value, refused) = in_appliance(request, disks, scratch, cancel, &mut |appliance| match errand {
        Errand::Undo(changes) => appliance.undo(changes.to_vec(), dry_run, cancel),
        Errand::Fixup => {
            let wish = FixupWish {
                nics: source_names(&request.machine),
                serial_console: request.serial_console,
                dry_run,
            };
            appliance.fixup(wish, cancel)
        }
    })?;
    let mut outcome: FixupOutcome =
        serde_json::from_value(value).map_err(|error| RunnerError::Agent(format!("its list of changes: {error}")))?;
    outcome.notes.extend(refused);
    Ok(outcome)
}

/// Starts the appliance, opens what the key fits, asks, and stops it in order in every case: what was written must be in the image.
fn in_appliance(
    request: &FixupRequest,
    disks: &[(PathBuf, DiskFormat)],
    scratch: &Path,
    cancel: &AtomicBool,
    ask: &mut dyn FnMut(&mut Appliance) -> Result<serde_json::Value>,
) -> Result<(serde_json::Value, Vec<String>)> {
    let choice = engine::fitting(&request.choice, disks);
    let engine = engine::engine(choice.engine);
    let mut appliance = Appliance::start(&*engine, choice.accelerator, disks, scratch, DEADLINE, cancel)?;
    let refused = request
        .key
        .as_deref()
        .map(|key| appliance.unlock(key, cancel))
        .transpose();
    let answer = refused.and_then(|refused| Ok((ask(&mut appliance)?, refused.unwrap_or_default())));
    appliance.stop(cancel)?;
    answer
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
