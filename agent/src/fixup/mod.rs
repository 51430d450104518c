//! Changes that make a guest root ready for KVM. Runs inside that root; a plan is made first, then applied or only shown.
//! No program of the guest runs.

mod devices;
mod network;
mod plan;
mod services;
pub(crate) mod virtio;

use esxodus_agent::protocol::{Change, FixupWish};
use plan::Plan;
use serde_json::{Value, json};
use std::io;
use std::path::Path;

pub(crate) use devices::{VolumeId, names_in_boot_entries, parse as parse_disk_name};
pub(crate) use network::interfaces;

/// What the appliance tells the process inside the root.
#[derive(Debug, Default, serde::Serialize, serde::Deserialize)]
pub(crate) struct Task {
    pub(crate) wish: FixupWish,
    /// The volumes on the disks; the one with the root is marked.
    pub(crate) volumes: Vec<VolumeId>,
}

/// The plan for the tree below `root`.
fn plan(root: &Path, task: &Task) -> Plan {
    let mut plan = Plan::new(root);
    virtio::plan(&mut plan);
    devices::plan(&mut plan, &task.volumes, task.wish.serial_console);
    network::plan(&mut plan, &task.wish.nics);
    services::plan(&mut plan);
    plan
}

/// Makes the changes asked for, or lists them.
pub(crate) fn fixup(task: &str) -> io::Result<Value> {
    let task: Task = serde_json::from_str(task).map_err(io::Error::other)?;
    let plan = plan(Path::new("/"), &task);
    if !task.wish.dry_run {
        plan.apply()?;
    }
    Ok(json!({"changes": plan.changes(), "notes": plan.notes(), "dry_run": task.wish.dry_run}))
}

/// Takes earlier changes back, or lists what would be.
pub(crate) fn undo(task: &str) -> io::Result<Value> {
    let (changes, dry_run): (Vec<Change>, bool) = serde_json::from_str(task).map_err(io::Error::other)?;
    let (changes, notes) = plan::undo(Path::new("/"), &changes, dry_run)?;
    Ok(json!({"changes": changes, "notes": notes, "dry_run": dry_run}))
}
