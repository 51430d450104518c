//! seSparse extents: every snapshot on VMFS6.
//!
//! No vendor document; after QEMU's `vmdk_open_se_sparse`, checked on a genuine ESXi file. Region sizes describe regions
//! and not the file, so each grain is checked against the file instead.

use crate::image::bytes::{MAX_DISK, SECTOR, le64, to_usize};
use crate::image::map::{RunSource, SourceHandle};
use crate::image::segments::Segments;
use crate::image::storage::Storage;
use crate::image::{ImageError, ImageErrorKind};

use super::context::{Context, Window, push_stored};
use super::header::MAX_DIRECTORY;
use super::sharing::{Directory, refuse_shared_tables};

/// Magic of the constant header.
pub(crate) const MAGIC: u64 = 0xcafe_babe;
const MAGIC_VOLATILE: u64 = 0xcafe_cafe;
const VERSION: u64 = 0x2_0000_0001;
/// Bytes of a grain.
const GRAIN: u64 = 4096;
/// Entries of a grain table.
const ENTRIES: u64 = 4096;
/// Bytes of a grain table: 64 sectors.
const TABLE: u64 = ENTRIES * 8;
const COVERAGE: u64 = GRAIN * ENTRIES;

/// An opened seSparse extent.
#[derive(Debug)]
pub(crate) struct SeSparseExtent {
    storage: Storage,
    capacity: u64,
    directory: u64,
    tables: u64,
    tables_length: u64,
    grains: u64,
}

impl SeSparseExtent {
    /// Reads and validates both headers.
    pub(crate) fn open(files: &[SourceHandle], storage: Storage) -> Result<Self, ImageError> {
        let bytes = storage.read_vec(files, 0, 512, "seSparse header")?;
        let damaged = |offset: u64, text: String| storage.error(ImageErrorKind::Damaged, offset, text);
        let exact = |at: usize, name: &str, wanted: u64| -> Result<(), ImageError> {
            let found = le64(&bytes, at);
            if found == wanted {
                Ok(())
            } else {
                Err(damaged(
                    u64::try_from(at).unwrap_or(0),
                    format!("{name} is {found:#x}, only {wanted:#x} is known"),
                ))
            }
        };
        exact(8, "seSparse version", VERSION)?;
        exact(24, "grain size in sectors", GRAIN / SECTOR)?;
        exact(32, "grain table size in sectors", TABLE / SECTOR)?;
        exact(40, "flags", 0)?;
        for at in [48, 56, 64, 72] {
            exact(at, "reserved field", 0)?;
        }
        let sectors = |at: usize, name: &str| -> Result<u64, ImageError> {
            let value = le64(&bytes, at);
            let bytes = value
                .checked_mul(SECTOR)
                .filter(|bytes| *bytes <= i64::MAX.unsigned_abs() / 4);
            bytes.ok_or_else(|| {
                storage.error(
                    ImageErrorKind::Limit,
                    u64::try_from(at).unwrap_or(0),
                    format!("{name} is {value} sectors, above 2^61 bytes"),
                )
            })
        };
        let capacity = sectors(16, "capacity")?;
        if capacity > MAX_DISK {
            return Err(storage.error(
                ImageErrorKind::Limit,
                16,
                format!("capacity {capacity} bytes is above 1 PiB; ESXi's largest disk has 62 TB"),
            ));
        }
        let volatile = sectors(80, "volatile header offset")?;
        let journal = storage.read_vec(files, volatile, 512, "volatile header")?;
        let magic = le64(&journal, 0);
        if magic != MAGIC_VOLATILE {
            return Err(damaged(
                volatile,
                format!("volatile header magic {magic:#x}, {MAGIC_VOLATILE:#x} is right"),
            ));
        }
        if le64(&journal, 24) != 0 {
            return Err(storage
                .error(
                    ImageErrorKind::Unsupported,
                    volatile + 24,
                    "the journal has to be replayed first, which only ESXi does",
                )
                .advise("Power the guest off cleanly, or delete the snapshot there, and copy again"));
        }
        let directory = sectors(128, "grain directory offset")?;
        let directory_length = sectors(136, "grain directory size")?;
        let needed = capacity.div_ceil(COVERAGE) * 8;
        if needed > directory_length || needed > MAX_DIRECTORY {
            return Err(storage.error(
                ImageErrorKind::Limit,
                16,
                format!(
                    "capacity {capacity} bytes needs a directory of {needed} bytes; its region has {directory_length}, at most {MAX_DIRECTORY} are accepted"
                ),
            ));
        }
        storage.check(directory, needed, "grain directory")?;
        let tables = sectors(144, "grain tables offset")?;
        let whole = Directory {
            at: directory,
            entries: needed / 8,
            entry_bytes: 8,
            table_bytes: TABLE,
        };
        refuse_shared_tables(files, &storage, whole, |entry| {
            (entry & 0xffff_ffff).checked_mul(TABLE)?.checked_add(tables)
        })?;
        Ok(Self {
            capacity,
            directory,
            tables,
            tables_length: sectors(152, "grain tables size")?,
            grains: sectors(192, "grains offset")?,
            storage,
        })
    }

    /// Guest bytes by the extent's own header.
    pub(crate) fn capacity(&self) -> u64 {
        self.capacity
    }

    /// Appends the window's segments to `out`.
    pub(crate) fn map(&self, context: Context<'_>, window: Window, out: &mut Segments) -> Result<(), ImageError> {
        let limit = window.extent.min(self.capacity);
        let end = window.end.min(limit);
        let mut at = window.start.min(end);
        let first = at / COVERAGE;
        let mut directory = Vec::new();
        if at < end {
            let count = (end - 1) / COVERAGE - first + 1;
            directory =
                self.storage
                    .read_vec(context.files, self.directory + first * 8, count * 8, "grain directory")?;
        }
        while at < end {
            let number = at / COVERAGE;
            let stop = ((number + 1) * COVERAGE).min(end);
            match self.table_at(le64(&directory, to_usize((number - first) * 8)), number) {
                Ok(None) => out.push(window.base + at, stop - at, None),
                Ok(Some(table)) => self.table(context, window, limit, table, at, stop, out)?,
                Err(error) => {
                    context.damage(error)?;
                    out.push(window.base + at, stop - at, Some(RunSource::Zero));
                }
            }
            at = stop;
        }
        let reached = end.max(window.start);
        out.push(window.base + reached, window.end - reached, None);
        Ok(())
    }

    fn table_at(&self, entry: u64, number: u64) -> Result<Option<u64>, ImageError> {
        if entry == 0 {
            return Ok(None);
        }
        let at = self.directory + number * 8;
        if entry >> 32 != 0x1000_0000 {
            let text = format!("directory entry {number} is {entry:#x}; the upper half must be 0x10000000");
            return Err(self.storage.error(ImageErrorKind::Damaged, at, text));
        }
        let offset = (entry & 0xffff_ffff) * TABLE;
        let table = self.tables.saturating_add(offset);
        if offset + TABLE > self.tables_length || table.saturating_add(TABLE) > self.storage.length {
            let text = format!(
                "directory entry {number} names table {}, the region holds {}",
                entry & 0xffff_ffff,
                self.tables_length / TABLE
            );
            return Err(self.storage.error(ImageErrorKind::Damaged, at, text));
        }
        Ok(Some(table))
    }

    #[expect(clippy::too_many_arguments, reason = "one table's part of a window")]
    fn table(
        &self,
        context: Context<'_>,
        window: Window,
        limit: u64,
        table: u64,
        start: u64,
        end: u64,
        out: &mut Segments,
    ) -> Result<(), ImageError> {
        let first = start / GRAIN;
        let count = (end - 1) / GRAIN - first + 1;
        let entries = self
            .storage
            .read_vec(context.files, table + first % ENTRIES * 8, count * 8, "grain table")?;
        for (number, entry) in (first..).zip(entries.chunks_exact(8)) {
            let grain_start = number * GRAIN;
            let from = grain_start.max(start);
            let to = (grain_start + GRAIN).min(end);
            let entry = le64(entry, 0);
            let source = match (entry >> 60, entry) {
                (0, 0) => None,
                (1 | 2, _) => Some(RunSource::Zero),
                (3, _) => {
                    let index = ((entry & 0x0fff_0000_0000_0000) >> 48) | ((entry & 0x0000_ffff_ffff_ffff) << 12);
                    let need = GRAIN.min(limit - grain_start);
                    let place = index
                        .checked_mul(GRAIN)
                        .and_then(|offset| offset.checked_add(self.grains))
                        .filter(|place| place.checked_add(need).is_some_and(|end| end <= self.storage.length));
                    if let Some(place) = place {
                        push_stored(&self.storage, window.base, from, to, place + (from - grain_start), out)?;
                        continue;
                    }
                    let text = format!(
                        "grain index {index} for guest offset {grain_start} lies past the end of the file of {} bytes",
                        self.storage.length
                    );
                    context.damage(self.storage.error(
                        ImageErrorKind::Truncated,
                        table + number % ENTRIES * 8,
                        text,
                    ))?;
                    Some(RunSource::Zero)
                }
                (kind, _) => {
                    let text = format!(
                        "grain-table entry {entry:#x} for guest offset {grain_start} is of kind {kind}, 1 to 3 are known"
                    );
                    context.damage(
                        self.storage
                            .error(ImageErrorKind::Damaged, table + number % ENTRIES * 8, text),
                    )?;
                    Some(RunSource::Zero)
                }
            };
            out.push(window.base + from, to - from, source);
        }
        Ok(())
    }
}
