//! Disk images: one folder a format, one trait for whatever can be mapped and read.

mod bytes;
mod error;
pub mod gate;
pub mod inflate;
pub mod map;
pub(crate) mod notes;
mod open;
pub mod qcow2;
mod segments;
mod storage;
pub mod summary;
pub mod vmdk;

pub use error::{ImageError, ImageErrorKind};
pub use open::{DiskChunk, DiskLocation, OpenOptions, open};
pub use summary::{DiskSummary, describe};
