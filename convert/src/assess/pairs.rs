//! What only shows when guests are seen beside each other: a MAC, a disk or a name that two of them claim.
//!
//! Keeps a few words a guest, never a machine, so that thousands fit.

use crate::machine::Machine;
use crate::preflight;
use crate::source::DiskPlace;
use crate::targets::{Plan, Target};
use reports::schema::{EstateGuest, Finding};
use std::collections::HashMap;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

/// Who claimed what first.
#[derive(Debug, Default)]
pub(super) struct Pairs {
    macs: HashMap<String, usize>,
    /// By device and inode: the file that is meant, whichever way leads to it.
    disks: HashMap<(u64, u64), usize>,
    names: HashMap<String, usize>,
    /// Findings to add when all guests are known: the guest's number, and the finding.
    found: Vec<(usize, Finding)>,
}

impl Pairs {
    /// Looks at the guest that will be `guests[number]`.
    pub(super) fn see(&mut self, number: usize, guests: &[EstateGuest], machine: &Machine, places: &[DiskPlace]) {
        // Templates are not started, and their clones keep much of them.
        if machine.template {
            return;
        }
        let mut clash = |first: Option<usize>, id: &str, what: &str| {
            let Some(first) = first.filter(|first| *first != number) else {
                return;
            };
            let Some(other) = guests.get(first) else { return };
            let told = |name: &str, source: &str| format!("{what}, also of \"{name}\" ({source})");
            self.found
                .push((number, preflight::finding(id, told(&other.name, &other.source))));
            let source = machine.source.display().to_string();
            self.found
                .push((first, preflight::finding(id, told(&machine.name, &source))));
        };
        for mac in machine.nics.iter().filter_map(|nic| nic.mac.as_ref()) {
            let first = *self.macs.entry(mac.clone()).or_insert(number);
            clash(Some(first), "nic.mac-conflict", mac);
        }
        for place in places.iter().filter(|place| place.window.is_none()) {
            if let Some(file) = identity(&place.path) {
                let first = *self.disks.entry(file).or_insert(number);
                if first != number {
                    let path = place.path.canonicalize().unwrap_or_else(|_| place.path.clone());
                    clash(Some(first), "disk.shared", &path.display().to_string());
                }
            }
        }
        // The strictest form: what differs here differs everywhere.
        let name = Plan::new(machine, Target::Kubevirt, false).name;
        let first = *self.names.entry(name.clone()).or_insert(number);
        clash(Some(first), "vm.name-exists", &format!("name {name} on the target"));
    }

    /// Takes what was found.
    pub(super) fn into_findings(self) -> Vec<(usize, Finding)> {
        self.found
    }
}

/// Device and inode of a file; `None` where there is none.
fn identity(path: &Path) -> Option<(u64, u64)> {
    let meta = std::fs::metadata(path).ok()?;
    Some((meta.dev(), meta.ino()))
}
