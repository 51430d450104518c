//! VMX: one text file a guest, `key = "value"` a line. VMware publishes no grammar; what is read here is the common ground
//! of three independent readers, decided case by case where they differ.
//!
//! [`parse`] reads bytes into a [`VmxFile`]: every line that holds a key is kept, in order, with its line number, so that
//! each can be accounted for. Meaning is given elsewhere (`machine::from_vmx`).

mod error;
mod file;
mod lexer;
pub mod snapshots;

pub use error::VmxError;
pub use file::{Entry, VmxFile};
pub use lexer::parse;

/// Longest file accepted, in bytes. Real ones are a few KiB.
pub const MAX_FILE_BYTES: usize = 4 << 20;
/// Longest line accepted, in bytes.
pub const MAX_LINE_BYTES: usize = 64 << 10;
/// Most entries accepted.
pub const MAX_ENTRIES: usize = 100_000;
