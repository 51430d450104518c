//! OVF descriptions (0.9, 1.x, 2.x) and OVA packages.
//!
//! Reading is two steps: `normal` resolves name spaces by URI and writes a plain document; serde-xml-rs reads that into
//! [`Envelope`]. serde-xml-rs takes prefixes literally, and writers differ in theirs.

mod envelope;
mod error;
pub mod manifest;
mod normal;
pub mod tar;
mod units;

pub use envelope::{Config, DiskEntry, Envelope, FileEntry, Hardware, Item, OperatingSystem, VirtualSystem, parse};
pub use error::OvfError;
pub use units::scale;

/// Longest document accepted, in bytes.
pub const MAX_DOCUMENT_BYTES: usize = 16 << 20;
/// Deepest nesting accepted.
pub const MAX_DEPTH: usize = 256;
