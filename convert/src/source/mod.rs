//! One door for every source: a VMX, an OVF, an OVA, a bare VMDK, or a folder that holds one of them.
//!
//! Sources are opened read-only and never changed. A file that a description names is opened only where it lies inside the
//! description's folder, or in a folder that the user allowed.

mod bare;
mod certificate;
mod error;
mod gate;
pub mod header;
mod open;
mod package;
mod unpack;

pub use error::ImportError;
pub use open::open;
pub use package::verify_manifest;

use crate::machine::Machine;
use reports::schema::{Accounting, Finding};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// What the user may say about an import.
#[derive(Debug, Clone, Default)]
pub struct ImportOptions {
    /// Which guest, where a source holds several: by name or id.
    pub system: Option<String>,
    /// Which deployment configuration of an OVF.
    pub deployment: Option<String>,
    /// Folders beside the description's own that files may lie in.
    pub allow: Vec<PathBuf>,
    /// Folders that datastores are mounted at, by the name or id in `/vmfs/volumes/NAME/`.
    pub datastores: BTreeMap<String, PathBuf>,
    /// Accept a parent disk whose CID isn't the child's `parentCID`: no check fires then.
    pub ignore_cid_mismatch: bool,
    /// What is damaged will be read as zeros: short flat extents are no reason to stop then.
    pub salvage: bool,
    /// Don't compare the manifest of an OVA with its files.
    pub skip_manifest: bool,
    /// Leave out of the accounting what each key becomes on each target: who judges thousands of guests shows none of it.
    pub skip_target_values: bool,
    /// Checks to suppress, with the reason.
    pub suppress: BTreeMap<String, String>,
}

/// Where the bytes of a disk lie.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct DiskPlace {
    /// The file; the OVA where the disk is a member of one. Empty where the gate refused it.
    pub path: PathBuf,
    /// Offset and length in `path`, in bytes, where the disk is a part of it.
    pub window: Option<(u64, u64)>,
    /// Pieces to be joined in order (path, offset, length), where the disk is split.
    pub chunks: Vec<(PathBuf, u64, u64)>,
}

/// A source, read.
#[derive(Debug)]
pub struct Imported {
    /// The machine.
    pub machine: Machine,
    /// What became of each key.
    pub accounting: Accounting,
    /// Findings of the preflight checks that need only the files.
    pub findings: Vec<Finding>,
    /// The description's folder.
    pub folder: PathBuf,
    /// Where each disk of `machine.disks` lies, in that order.
    pub disks: Vec<DiskPlace>,
    /// What the head of each of them says.
    pub headers: Vec<header::DiskHeader>,
    /// Temporary files (an unpacked package, unpacked disks); removed when this is dropped.
    pub temporary: Vec<tempfile::TempDir>,
}
