//! qcow2, the format that QEMU runs guests from: a single-pass writer and a read-only reader.
//!
//! Source of every number: `docs/interop/qcow2.rst` of the QEMU tree. All fields are big-endian.
//!
//! The writer's layout keeps memory independent of the disk's size and data strictly appended:
//!
//! ```text
//! [header][L1][first refcount blocks][data, with each L2 table behind the data it maps][refcount table]
//! ```
//!
//! The refcount block for a stretch of the file is that stretch's first cluster. The header is written last, after
//! everything else has reached the disk: a torn file has no magic number and nothing opens it.

mod codec;
mod header;
mod layout;
mod reader;
mod refcount;
mod tables;
mod writer;

pub use codec::{CompressedFormat, Deflater, Encoder};
pub use header::{Header, HeaderError};
pub use layout::Placer;
pub use reader::{DataFileRule, Qcow2Image};
pub use tables::{Geometry, GeometryError, L2Entry, compressed_entry, parse_l2_entry, stored_entry};
pub use writer::{Qcow2Writer, write_data_file_shell};
