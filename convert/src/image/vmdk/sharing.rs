//! Grain tables that share their place, which only a crafted directory has.

use crate::image::bytes::{le32, le64, to_u64, to_usize};
use crate::image::map::SourceHandle;
use crate::image::storage::Storage;
use crate::image::{ImageError, ImageErrorKind};

/// A grain directory and what its entries name.
#[derive(Debug, Clone, Copy)]
pub(super) struct Directory {
    /// Byte offset in the storage.
    pub(super) at: u64,
    /// Entries.
    pub(super) entries: u64,
    /// Bytes of an entry: 4 or 8.
    pub(super) entry_bytes: u64,
    /// Bytes of a grain table.
    pub(super) table_bytes: u64,
}

/// Refuses a directory that names more grain tables than the file has room for. Every table has a place of its own in what any
/// program writes; a file of some MiB whose million entries share one table would keep each walk through the disk busy for minutes or
/// hours. `place` gives the byte offset that an entry names. A file that is as large as all its tables together is not even asked.
pub(super) fn refuse_shared_tables(
    files: &[SourceHandle],
    storage: &Storage,
    directory: Directory,
    place: impl Fn(u64) -> Option<u64>,
) -> Result<(), ImageError> {
    /// Entries read at once.
    const BATCH: u64 = 1 << 17;
    let room = storage.length / directory.table_bytes;
    let mut named = 0;
    let mut first = 0;
    while directory.entries > room && first < directory.entries {
        let count = BATCH.min(directory.entries - first);
        let width = directory.entry_bytes;
        let bytes = storage.read_vec(files, directory.at + first * width, count * width, "grain directory")?;
        let inside = |entry: &&[u8]| {
            let raw = if width == 8 {
                le64(entry, 0)
            } else {
                u64::from(le32(entry, 0))
            };
            let end = place(raw).and_then(|at| at.checked_add(directory.table_bytes));
            raw != 0 && end.is_some_and(|end| end <= storage.length)
        };
        named += to_u64(bytes.chunks_exact(to_usize(width)).filter(inside).count());
        first += count;
    }
    if named <= room {
        return Ok(());
    }
    let text = format!(
        "the grain directory names {named} grain tables of {} bytes, and the file has room for {room}: tables share their place",
        directory.table_bytes
    );
    Err(storage
        .error(ImageErrorKind::Damaged, directory.at, text)
        .advise("No program writes such a file; copy it again, and do not trust where it came from"))
}
