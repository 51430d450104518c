//! From any mapped disk to a qcow2 or raw file: all processors busy, memory bounded, nothing lost.
//!
//! ```text
//! planner ──▶ workers (one a processor) ────────────────▶ ledger (in order) ──▶ journal
//! units       read, inflate, zero test, hash, compress    layout, tables,
//!             uncompressed: write to planned places       compressed clusters
//! ```
//!
//! The file is written as `NAME.partial` beside `NAME.journal` and gets its name when it is complete and synced. What is
//! written where depends on the source's content and the options only, never on timing or the number of workers.

mod data_file;
mod disk;
mod error;
mod hash;
mod journal;
mod ledger;
mod manifest;
mod many;
mod options;
mod pack;
mod pipeline;
mod plan;
mod pool;
mod read;
mod settle;
mod share;
mod stream;
mod target;
mod verify;
mod worker;
mod zero;

pub use disk::{convert_disk, discard_journal};
pub use error::ConvertError;
pub use manifest::mode_name;
pub use many::{DiskJob, convert_disks};
pub use options::{Compress, CopyOptions, Preallocation, Reflink, TargetFormat};
pub use stream::convert_stream;
pub use verify::{VerifyOptions, VerifyOutcome, hash_source, hash_target, verify};
pub use zero::is_zero;
