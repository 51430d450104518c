//! Changes that make a guest root ready for KVM. Runs inside that root; a plan is made first, then applied or only shown.
//! No program of the guest runs, but for an initramfs that can't be made ready otherwise (`regenerate`).

mod devices;
mod kernels;
mod loader;
mod names;
mod network;
mod plan;
mod regenerate;
mod selinux;
mod services;
mod virtio;

use esxodus_agent::protocol::{Change, FixupWish};
use plan::Plan;
use reports::schema::KernelFacts;
use serde_json::{Value, json};
use std::io;
use std::path::Path;

pub(crate) use devices::{names_in_boot_entries, roots_in_boot_entries};
pub(crate) use kernels::kernels;
pub(crate) use names::{VolumeId, parse as parse_disk_name};
pub(crate) use network::interfaces;

/// The kernels of a root, and the program that made their images.
pub(crate) type Kernels = (Vec<KernelFacts>, Option<&'static str>);

/// What the appliance tells the process inside the root.
#[derive(Debug, Default, serde::Serialize, serde::Deserialize)]
pub(crate) struct Task {
    pub(crate) wish: FixupWish,
    /// The volumes on the disks; the one with the root is marked.
    pub(crate) volumes: Vec<VolumeId>,
}

/// The plan for the tree below `root`, and what its kernels are before.
fn plan(root: &Path, task: &Task) -> (Plan, virtio::Found) {
    let mut plan = Plan::new(root);
    let resolver = names::Resolver::new(&task.volumes, &task.wish.disks);
    devices::plan(&mut plan, &resolver, task.wish.serial_console);
    network::plan(&mut plan, &task.wish.nics);
    let found = virtio::plan(&mut plan, &resolver, task.wish.guest_tools);
    loader::plan(&mut plan);
    services::plan(&mut plan);
    (plan, found)
}

/// Makes the changes asked for, or lists them; with the facts of before.
pub(crate) fn fixup(task: &str) -> io::Result<Value> {
    let task: Task = serde_json::from_str(task).map_err(io::Error::other)?;
    let (mut plan, found) = plan(Path::new("/"), &task);
    let facts = crate::inspect::facts((found.kernels, found.maker));
    let mut changes;
    if task.wish.dry_run {
        changes = plan.changes();
        changes.extend(found.rebuilds.iter().map(regenerate::Rebuild::planned));
    } else {
        plan.apply()?;
        changes = plan.changes();
        changes.extend(regenerate::all(&mut plan, &found.rebuilds));
    }
    Ok(json!({
        "changes": changes,
        "notes": plan.notes(),
        "dry_run": task.wish.dry_run,
        "facts": facts,
    }))
}

/// Takes earlier changes back, or lists what would be.
pub(crate) fn undo(task: &str) -> io::Result<Value> {
    let (changes, dry_run): (Vec<Change>, bool) = serde_json::from_str(task).map_err(io::Error::other)?;
    let (changes, notes) = plan::undo(Path::new("/"), &changes, dry_run)?;
    Ok(json!({"changes": changes, "notes": notes, "dry_run": dry_run}))
}
