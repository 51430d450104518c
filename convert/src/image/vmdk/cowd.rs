//! COWD extents (`vmfsSparse`): ESX snapshots on VMFS5 and redo logs.
//!
//! Specification: VMware *Virtual Disk Format 5.0*, "ESX Server Sparse Extent". Grains are 512 bytes by default, so runs
//! of consecutive entries are joined.

use crate::image::bytes::{SECTOR, le32, to_usize};
use crate::image::map::{RunSource, SourceHandle};
use crate::image::notes::Notes;
use crate::image::segments::Segments;
use crate::image::storage::Storage;
use crate::image::{ImageError, ImageErrorKind};

use super::context::{Context, Window, push_stored};
use super::sharing::{Directory, refuse_shared_tables};

/// `COWD`.
pub(crate) const MAGIC: u32 = 0x4457_4f43;
/// Bytes of the header.
const HEADER: u64 = 2048;
/// Entries of a grain table.
const ENTRIES: u64 = 4096;
/// Bytes of a grain table.
const TABLE: u64 = ENTRIES * 4;

/// An opened COWD extent.
#[derive(Debug)]
pub(crate) struct CowdExtent {
    storage: Storage,
    capacity: u64,
    grain: u64,
    directory: u64,
    directory_bytes: u64,
}

impl CowdExtent {
    /// Reads and validates the header.
    pub(crate) fn open(files: &[SourceHandle], notes: &Notes, storage: Storage) -> Result<Self, ImageError> {
        let bytes = storage.read_vec(files, 0, HEADER, "COWD header")?;
        let damaged = |offset: u64, text: String| storage.error(ImageErrorKind::Damaged, offset, text);
        let version = le32(&bytes, 4);
        if version != 1 {
            return Err(damaged(4, format!("COWD version {version}, only 1 is known")));
        }
        if le32(&bytes, 8) & 4 != 0 {
            notes.add(format!("{}: the extent is marked inconsistent", storage.path.display()));
        }
        if le32(&bytes, 1648) != 0 {
            notes.add(format!("{}: the extent was not closed cleanly", storage.path.display()));
        }
        let sectors = u64::from(le32(&bytes, 12));
        let grain = u64::from(le32(&bytes, 16));
        if !(1..=2048).contains(&grain) {
            return Err(damaged(
                16,
                format!("grain size {grain} sectors, 1 to 2048 are allowed"),
            ));
        }
        let needed = sectors.div_ceil(grain * ENTRIES);
        let stated = u64::from(le32(&bytes, 24));
        if stated < needed {
            return Err(damaged(
                24,
                format!("{stated} directory entries, {needed} are needed for {sectors} sectors"),
            ));
        }
        let directory = u64::from(le32(&bytes, 20)) * SECTOR;
        if directory < HEADER {
            return Err(damaged(
                20,
                format!(
                    "the grain directory at sector {} lies in the header",
                    directory / SECTOR
                ),
            ));
        }
        storage.check(directory, needed * 4, "grain directory")?;
        let whole = Directory {
            at: directory,
            entries: needed,
            entry_bytes: 4,
            table_bytes: TABLE,
        };
        refuse_shared_tables(files, &storage, whole, |sector| sector.checked_mul(SECTOR))?;
        Ok(Self {
            capacity: sectors * SECTOR,
            grain: grain * SECTOR,
            directory,
            directory_bytes: needed * 4,
            storage,
        })
    }

    /// Guest bytes by the extent's own header.
    pub(crate) fn capacity(&self) -> u64 {
        self.capacity
    }

    fn inside(&self, at: u64, length: u64) -> bool {
        let end = at + length;
        at >= HEADER
            && end <= self.storage.length
            && !(at < self.directory + self.directory_bytes && self.directory < end)
    }

    /// Appends the window's segments to `out`.
    pub(crate) fn map(&self, context: Context<'_>, window: Window, out: &mut Segments) -> Result<(), ImageError> {
        let limit = window.extent.min(self.capacity);
        let end = window.end.min(limit);
        let mut at = window.start.min(end);
        let coverage = self.grain * ENTRIES;
        let mut directory = Vec::new();
        let first = at / coverage;
        if at < end {
            let count = (end - 1) / coverage - first + 1;
            directory =
                self.storage
                    .read_vec(context.files, self.directory + first * 4, count * 4, "grain directory")?;
        }
        while at < end {
            let number = at / coverage;
            let stop = ((number + 1) * coverage).min(end);
            let sector = u64::from(le32(&directory, to_usize((number - first) * 4)));
            if sector == 0 {
                out.push(window.base + at, stop - at, None);
            } else if self.inside(sector * SECTOR, TABLE) {
                self.table(context, window, limit, sector * SECTOR, at, stop, out)?;
            } else {
                let text = format!(
                    "directory entry {number} names a table at sector {sector}, past the end or inside the metadata"
                );
                context.damage(
                    self.storage
                        .error(ImageErrorKind::Damaged, self.directory + number * 4, text),
                )?;
                out.push(window.base + at, stop - at, Some(RunSource::Zero));
            }
            at = stop;
        }
        let reached = end.max(window.start);
        out.push(window.base + reached, window.end - reached, None);
        Ok(())
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
        let first = start / self.grain;
        let count = (end - 1) / self.grain - first + 1;
        let entries = self
            .storage
            .read_vec(context.files, table + first % ENTRIES * 4, count * 4, "grain table")?;
        for (number, entry) in (first..).zip(entries.chunks_exact(4)) {
            let grain_start = number * self.grain;
            let from = grain_start.max(start);
            let to = (grain_start + self.grain).min(end);
            let sector = u64::from(le32(entry, 0));
            let source = match sector {
                0 => None,
                1 => Some(RunSource::Zero),
                _ if self.inside(sector * SECTOR, self.grain.min(limit - grain_start)) => {
                    push_stored(
                        &self.storage,
                        window.base,
                        from,
                        to,
                        sector * SECTOR + (from - grain_start),
                        out,
                    )?;
                    continue;
                }
                _ => {
                    let text = format!(
                        "the grain for guest offset {grain_start} is said to lie at sector {sector}, past the end or inside the metadata"
                    );
                    context.damage(
                        self.storage
                            .error(ImageErrorKind::Damaged, table + number % ENTRIES * 4, text),
                    )?;
                    Some(RunSource::Zero)
                }
            };
            out.push(window.base + from, to - from, source);
        }
        Ok(())
    }
}
