//! VMDK: every kind that VMware and others write.
//!
//! Files are told apart by their magic and by the type word of each extent line, never by `createType`.

mod context;
mod cowd;
mod cross_check;
pub mod descriptor;
mod disk;
mod extents;
mod flat;
pub mod header;
mod line;
mod link;
pub mod marker;
mod opener;
pub(crate) mod parent;
mod seen;
mod sesparse;
mod sharing;
mod sparse;
pub mod stream;

pub(crate) use disk::{Disk, SALVAGE_BYTES};
pub(crate) use link::{Sniffed, sniff};
pub(crate) use opener::Opener;
