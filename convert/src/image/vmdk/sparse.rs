//! Hosted sparse extents (KDMV), plain and compressed: grain directory → grain tables → grains.
//!
//! Nothing of the tables is kept: each call reads the slice of the directory and the tables that its window needs,
//! adjacent tables in one read. Of a compressed grain the exact length is in the 12-byte marker before the data. Markers
//! are read in bulk where the grains lie dense (eight or more within 64 KiB), and one by one elsewhere: a 12-byte read
//! costs about a hundredth of inflating the grain, while reading whole spans only for their markers would read the data
//! twice.

use std::ops::Range;

use crate::image::bytes::{SECTOR, le32, le64, to_u64, to_usize};
use crate::image::inflate::COMPRESSED_SLACK;
use crate::image::map::{RunSource, SourceHandle};
use crate::image::segments::Segments;
use crate::image::storage::Storage;
use crate::image::{ImageError, ImageErrorKind};

use super::context::{Context, Window, push_stored};
use super::header::HostedHeader;
use super::marker::{GRAIN_HEADER, Walked, find_footer, walk};
use super::sharing::{Directory, refuse_shared_tables};

/// Tables handled at once.
const BATCH: u64 = 512;
/// Markers within this many bytes of file are read together …
const BULK_SPAN: u64 = 64 << 10;
/// … where they are at least this many.
const BULK_GRAINS: usize = 8;

/// An opened hosted sparse extent.
#[derive(Debug)]
pub(crate) struct HostedExtent {
    storage: Storage,
    header: HostedHeader,
    tables: Tables,
    /// Byte ranges that hold metadata; no table and no grain may lie there.
    reserved: Vec<Range<u64>>,
}

#[derive(Debug)]
enum Tables {
    /// In the file, read when needed.
    Directory { primary: u64, redundant: Option<u64> },
    /// Rebuilt from the markers, ascending by grain.
    Walked(Vec<Walked>),
}

/// What a grain-table entry means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Entry {
    Absent,
    Zero,
    At(u64),
}

impl HostedExtent {
    /// Opens the extent in `storage` with its header already parsed.
    pub(crate) fn open(
        files: &mut Vec<SourceHandle>,
        notes: &crate::image::notes::Notes,
        salvage: bool,
        link: usize,
        mut storage: Storage,
        header: HostedHeader,
    ) -> Result<Self, ImageError> {
        if header.compressed {
            storage.stitch(files, header.grain, header.grain + COMPRESSED_SLACK, link)?;
        }
        let context = Context { files, notes, salvage };
        let shown = storage.path.display().to_string();
        if header.unclean {
            notes.add(format!(
                "{shown}: the extent was not closed cleanly; its two directories are compared while reading"
            ));
        }
        let bytes = header.directory_entries() * 4;
        let fits = |offset: &u64| *offset >= SECTOR && storage.check(*offset, bytes, "grain directory").is_ok();
        // vmdktool states the directory in the header and writes a footer as well; where there is a footer, it counts.
        let footer = if header.markers {
            find_footer(context, &storage, &header)?
        } else {
            None
        };
        let stated = footer
            .as_ref()
            .and_then(|(_, footer)| footer.directory)
            .or(header.directory);
        let primary = stated.filter(fits);
        let redundant = header.redundant.filter(fits);
        let tables = match (primary, redundant) {
            (Some(primary), redundant) => Tables::Directory { primary, redundant },
            (None, Some(redundant)) => {
                notes.add(format!(
                    "{shown}: the grain directory's offset is impossible ({stated:?}); the redundant one is used"
                ));
                Tables::Directory {
                    primary: redundant,
                    redundant: None,
                }
            }
            (None, None) if header.markers => Tables::Walked(walk(context, &storage, &header)?),
            (None, None) => {
                let offset = stated.unwrap_or(0);
                return Err(storage
                    .error(
                        ImageErrorKind::Truncated,
                        offset,
                        format!(
                            "the grain directory of {bytes} bytes lies outside of the file of {} bytes",
                            storage.length
                        ),
                    )
                    .advise("The file is cut or damaged; copy it again"));
            }
        };
        let mut reserved = Vec::from([Range { start: 0, end: SECTOR }]);
        if header.descriptor_offset > 0 {
            reserved.push(header.descriptor_offset..header.descriptor_offset.saturating_add(header.descriptor_length));
        }
        if let Tables::Directory { primary, redundant } = &tables {
            let whole = Directory {
                at: *primary,
                entries: header.directory_entries(),
                entry_bytes: 4,
                table_bytes: header.table_bytes(),
            };
            refuse_shared_tables(files, &storage, whole, |sector| sector.checked_mul(SECTOR))?;
            for offset in std::iter::once(primary).chain(redundant) {
                reserved.push(*offset..offset.saturating_add(bytes));
            }
        }
        Ok(Self {
            storage,
            header,
            tables,
            reserved,
        })
    }

    /// Guest bytes by the extent's own header.
    pub(crate) fn capacity(&self) -> u64 {
        self.header.capacity
    }

    /// Grain size where grains are compressed.
    pub(crate) fn compressed_grain(&self) -> Option<u64> {
        self.header.compressed.then_some(self.header.grain)
    }

    /// What it is.
    pub(crate) fn kind(&self) -> &'static str {
        if self.header.markers {
            "streamOptimized"
        } else if self.header.compressed {
            "hosted sparse, compressed"
        } else {
            "hosted sparse"
        }
    }

    /// Appends the window's segments to `out`.
    pub(crate) fn map(&self, context: Context<'_>, window: Window, out: &mut Segments) -> Result<(), ImageError> {
        let limit = window.extent.min(self.header.capacity);
        let end = window.end.min(limit);
        let mut at = window.start.min(end);
        let rest = at.max(window.start);
        match &self.tables {
            Tables::Directory { primary, redundant } => {
                while at < end {
                    let table = at / self.header.coverage();
                    let stop = table
                        .saturating_add(BATCH)
                        .saturating_mul(self.header.coverage())
                        .min(end);
                    self.map_batch(context, window, limit, (*primary, *redundant), at..stop, out)?;
                    at = stop;
                }
            }
            Tables::Walked(grains) => self.emit_walked(context, window, limit, at, end, grains, out)?,
        }
        let reached = end.max(rest);
        out.push(window.base + reached, window.end - reached, None);
        Ok(())
    }

    /// Maps the tables of one batch; tables that neither directory has cost nothing.
    fn map_batch(
        &self,
        context: Context<'_>,
        window: Window,
        limit: u64,
        directories: (u64, Option<u64>),
        part: Range<u64>,
        out: &mut Segments,
    ) -> Result<(), ImageError> {
        let coverage = self.header.coverage();
        let first = part.start / coverage;
        let count = (part.end - 1) / coverage - first + 1;
        let directory = |at: u64| {
            self.storage
                .read_vec(context.files, at + first * 4, count * 4, "grain directory")
        };
        let main = directory(directories.0)?;
        let spare = directories.1.map(directory).transpose()?;
        let words = |index: u64| to_usize(index * 4)..to_usize(index * 4 + 4);
        let empty = |index: u64| {
            main[words(index)] == [0; 4] && spare.as_ref().is_none_or(|spare| spare[words(index)] == [0; 4])
        };
        let mut index = 0;
        while index < count {
            let absent = empty(index);
            let mut next = index + 1;
            while next < count && empty(next) == absent {
                next += 1;
            }
            let from = ((first + index) * coverage).max(part.start);
            let to = (first + next).saturating_mul(coverage).min(part.end);
            if absent {
                out.push(window.base + from, to - from, None);
            } else {
                let bytes = to_usize(index * 4)..to_usize(next * 4);
                let slices = (&main[bytes.clone()], spare.as_ref().map(|spare| &spare[bytes]));
                let entries = self.entries(context, directories.0, slices, from..to, limit)?;
                self.emit(context, window, limit, from, to, &entries, out)?;
            }
            index = next;
        }
        Ok(())
    }

    /// The entries of all grains that `part` touches. `slices` are the two directories' entries of the same tables.
    fn entries(
        &self,
        context: Context<'_>,
        primary: u64,
        slices: (&[u8], Option<&[u8]>),
        part: Range<u64>,
        limit: u64,
    ) -> Result<Vec<Entry>, ImageError> {
        let (coverage, grain) = (self.header.coverage(), self.header.grain);
        let (start, end) = (part.start, part.end);
        let (main, spare) = slices;
        let first = start / coverage;
        let count = to_u64(main.len() / 4);
        let mut main_tables = Vec::with_capacity(to_usize(count));
        let mut spare_tables = Vec::with_capacity(to_usize(count));
        let mut lost = vec![false; to_usize(count)];
        for (index, lost) in lost.iter_mut().enumerate() {
            let stated = u64::from(le32(main, index * 4));
            let other = spare.map_or(0, |spare| u64::from(le32(spare, index * 4)));
            let good = |sector: u64| sector != 0 && self.inside(sector * SECTOR, self.header.table_bytes());
            let other = good(other).then_some(other);
            if stated == 0 || good(stated) {
                main_tables.push((stated != 0).then_some(stated));
            } else {
                let at = primary + (first + to_u64(index)) * 4;
                let text = format!(
                    "grain directory entry {} names a table at sector {stated}, which is {}",
                    first + to_u64(index),
                    self.why(stated * SECTOR, self.header.table_bytes())
                );
                match other {
                    Some(_) => context.notes.add(format!(
                        "{}: {text}; the redundant table is used",
                        self.storage.path.display()
                    )),
                    None => {
                        context.damage(self.storage.error(ImageErrorKind::Damaged, at, text))?;
                        *lost = true;
                    }
                }
                main_tables.push(None);
            }
            spare_tables.push(other);
        }
        let main = self.tables(context, &main_tables)?;
        let spare = if spare_tables.iter().any(Option::is_some) {
            Some(self.tables(context, &spare_tables)?)
        } else {
            None
        };
        let first_grain = start / grain;
        let last_grain = (end - 1) / grain;
        let mut entries = Vec::with_capacity(to_usize(last_grain - first_grain + 1));
        for number in first_grain..=last_grain {
            let slot = to_usize(number - first * self.header.entries_per_table);
            let table = slot / to_usize(self.header.entries_per_table);
            if lost[table] {
                entries.push(Entry::Zero);
                continue;
            }
            let stated = le32(&main, slot * 4);
            let other = spare.as_ref().map_or(0, |spare| le32(spare, slot * 4));
            let need = grain.min(limit - number * grain);
            entries.push(self.entry(context, number, stated, other, need)?);
        }
        Ok(entries)
    }

    /// Decides between the primary entry and the redundant one (0 where there is none).
    fn entry(
        &self,
        context: Context<'_>,
        number: u64,
        stated: u32,
        other: u32,
        need: u64,
    ) -> Result<Entry, ImageError> {
        let need = if self.header.compressed { GRAIN_HEADER } else { need };
        let meaning = |raw: u32| match raw {
            0 => Some(Entry::Absent),
            1 if self.header.zeroed_entries => Some(Entry::Zero),
            _ => {
                let at = u64::from(raw) * SECTOR;
                self.inside(at, need).then_some(Entry::At(at))
            }
        };
        if (stated == other || other == 0)
            && let Some(entry) = meaning(stated)
        {
            return Ok(entry);
        }
        let guest = number * self.header.grain;
        let shown = self.storage.path.display();
        let aligned =
            |raw: u32| self.header.compressed || raw < 2 || (u64::from(raw) * SECTOR).is_multiple_of(self.header.grain);
        match (meaning(stated), meaning(other).filter(|_| other != 0)) {
            (Some(Entry::Absent), Some(entry)) | (None, Some(entry)) => {
                context.notes.add(format!("{shown}: grain-table entry for guest offset {guest} is {stated}, the redundant one ({other}) is used"));
                Ok(entry)
            }
            (Some(_), Some(entry)) if !aligned(stated) && aligned(other) => {
                context.notes.add(format!(
                    "{shown}: grain-table entry for guest offset {guest} is misaligned ({stated}), the redundant one ({other}) is used"
                ));
                Ok(entry)
            }
            (Some(entry), Some(_)) => {
                context.notes.add(format!(
                    "{shown}: the two grain tables differ for guest offset {guest} ({stated}, redundant {other}); the primary one is used"
                ));
                Ok(entry)
            }
            (Some(entry), None) => Ok(entry),
            (None, None) => {
                let at = u64::from(stated) * SECTOR;
                let kind = if at.saturating_add(need) > self.storage.length {
                    ImageErrorKind::Truncated
                } else {
                    ImageErrorKind::Damaged
                };
                let text = format!(
                    "the grain for guest offset {guest} is said to lie here, which is {}",
                    self.why(at, need)
                );
                context.damage(
                    self.storage
                        .error(kind, at, text)
                        .advise("Copy the file again; salvage mode reads such grains as zeros"),
                )?;
                Ok(Entry::Zero)
            }
        }
    }

    fn inside(&self, at: u64, length: u64) -> bool {
        let Some(end) = at.checked_add(length) else {
            return false;
        };
        end <= self.storage.length && !self.reserved.iter().any(|range| at < range.end && range.start < end)
    }

    fn why(&self, at: u64, length: u64) -> String {
        if at.saturating_add(length) > self.storage.length {
            format!(
                "past the end of the file ({length} bytes needed at {at}, the file has {})",
                self.storage.length
            )
        } else {
            "inside the header, the descriptor or the directory".to_owned()
        }
    }

    /// The tables at these sectors, one behind the other; zeros for `None`.
    fn tables(&self, context: Context<'_>, sectors: &[Option<u64>]) -> Result<Vec<u8>, ImageError> {
        let size = to_usize(self.header.table_bytes());
        let mut out = vec![0; size * sectors.len()];
        let mut index = 0;
        while index < sectors.len() {
            let Some(start) = sectors[index] else {
                index += 1;
                continue;
            };
            let mut count = 1;
            let follows = |count: usize| start * SECTOR + to_u64(count) * self.header.table_bytes();
            while sectors
                .get(index + count)
                .is_some_and(|next| next.is_some_and(|next| next * SECTOR == follows(count)))
            {
                count += 1;
            }
            self.storage.read(
                context.files,
                start * SECTOR,
                &mut out[index * size..(index + count) * size],
                "grain table",
            )?;
            index += count;
        }
        Ok(out)
    }

    #[expect(clippy::too_many_arguments, reason = "one window, cut in two directions")]
    fn emit(
        &self,
        context: Context<'_>,
        window: Window,
        limit: u64,
        start: u64,
        end: u64,
        entries: &[Entry],
        out: &mut Segments,
    ) -> Result<(), ImageError> {
        let grain = self.header.grain;
        let first = start / grain;
        let mut lengths = Vec::new();
        if self.header.compressed {
            let wanted: Vec<(u64, u64)> = (first..)
                .zip(entries)
                .filter_map(|(number, entry)| {
                    if let Entry::At(at) = entry {
                        Some((number * grain, *at))
                    } else {
                        None
                    }
                })
                .collect();
            lengths = self.lengths(context, &wanted)?;
        }
        let mut lengths = lengths.into_iter();
        for (number, entry) in (first..).zip(entries) {
            let grain_start = number * grain;
            let from = grain_start.max(start);
            let to = (grain_start + grain).min(end);
            match entry {
                Entry::Absent => out.push(window.base + from, to - from, None),
                Entry::Zero => out.push(window.base + from, to - from, Some(RunSource::Zero)),
                Entry::At(at) if self.header.compressed => {
                    let found = lengths.next().flatten();
                    let Some(compressed) = found else {
                        out.push(window.base + from, to - from, Some(RunSource::Zero));
                        continue;
                    };
                    let data = at + self.marker_bytes();
                    self.push_grain(context, window, limit, grain_start, from..to, data, compressed, out)?;
                }
                Entry::At(at) => push_stored(&self.storage, window.base, from, to, at + (from - grain_start), out)?,
            }
        }
        Ok(())
    }

    #[expect(clippy::too_many_arguments, reason = "all of one grain's coordinates")]
    fn push_grain(
        &self,
        context: Context<'_>,
        window: Window,
        limit: u64,
        grain_start: u64,
        visible: Range<u64>,
        data: u64,
        compressed: u32,
        out: &mut Segments,
    ) -> Result<(), ImageError> {
        let (file, offset) = self.storage.contiguous(context.files, data, u64::from(compressed))?;
        let bytes = self.header.grain.min(limit - grain_start);
        let source = RunSource::Deflate {
            file,
            offset,
            compressed,
            grain_start: window.base + grain_start,
            grain_bytes: u32::try_from(bytes).expect("a grain has at most 1 MiB"),
        };
        out.push(window.base + visible.start, visible.end - visible.start, Some(source));
        Ok(())
    }

    #[expect(clippy::too_many_arguments, reason = "one window, cut in two directions")]
    fn emit_walked(
        &self,
        context: Context<'_>,
        window: Window,
        limit: u64,
        start: u64,
        end: u64,
        grains: &[Walked],
        out: &mut Segments,
    ) -> Result<(), ImageError> {
        let size = self.header.grain;
        let mut at = start;
        let first = grains.partition_point(|walked| (u64::from(walked.grain) + 1) * size <= start);
        let wanted: Vec<(u64, u64)> = grains[first..]
            .iter()
            .map(|walked| (u64::from(walked.grain) * size, u64::from(walked.sector) * SECTOR))
            .take_while(|(grain_start, _)| *grain_start < end)
            .collect();
        let lengths = self.lengths(context, &wanted)?;
        for ((grain_start, marker), compressed) in wanted.into_iter().zip(lengths) {
            let from = grain_start.max(at);
            let to = (grain_start + size).min(end);
            out.push(window.base + at, from - at, None);
            at = to;
            let Some(compressed) = compressed else {
                out.push(window.base + from, to - from, Some(RunSource::Zero));
                continue;
            };
            let data = marker + self.marker_bytes();
            self.push_grain(context, window, limit, grain_start, from..to, data, compressed, out)?;
        }
        out.push(window.base + at, end.max(at) - at, None);
        Ok(())
    }

    /// Bytes between the entry's sector and the data: a marker, or a bare length.
    fn marker_bytes(&self) -> u64 {
        if self.header.markers { GRAIN_HEADER } else { 4 }
    }

    /// The compressed length of each grain `(guest offset in the extent, file offset)`; `None` for one that salvage drops.
    fn lengths(&self, context: Context<'_>, grains: &[(u64, u64)]) -> Result<Vec<Option<u32>>, ImageError> {
        let head = self.marker_bytes();
        let mut order: Vec<usize> = (0..grains.len()).collect();
        order.sort_by_key(|index| grains[*index].1);
        let mut lengths = vec![None; grains.len()];
        let mut bulk = Vec::new();
        let mut at = 0;
        while at < order.len() {
            let start = grains[order[at]].1;
            let mut stop = at + 1;
            while stop < order.len() && grains[order[stop]].1 + head - start <= BULK_SPAN {
                stop += 1;
            }
            if stop - at < BULK_GRAINS {
                stop = at + 1;
            }
            let span = grains[order[stop - 1]].1 + head - start;
            bulk.resize(to_usize(span), 0);
            self.storage.read(context.files, start, &mut bulk, "grain marker")?;
            for index in &order[at..stop] {
                let (guest, offset) = grains[*index];
                let begin = to_usize(offset - start);
                match self.length(context, guest, offset, &bulk[begin..begin + to_usize(head)]) {
                    Ok(length) => lengths[*index] = Some(length),
                    Err(error) => context.damage(error)?,
                }
            }
            at = stop;
        }
        Ok(lengths)
    }

    fn length(&self, context: Context<'_>, guest: u64, offset: u64, head: &[u8]) -> Result<u32, ImageError> {
        let size = if self.header.markers {
            let lba = le64(head, 0);
            if lba != guest / SECTOR {
                context.notes.add(format!(
                    "{}: the table places the grain at byte {offset} at sector {}, its marker says {lba}; the table counts",
                    self.storage.path.display(),
                    guest / SECTOR
                ));
            }
            le32(head, 8)
        } else {
            le32(head, 0)
        };
        let most = self.header.grain + COMPRESSED_SLACK;
        if size == 0 || u64::from(size) > most {
            let text = format!(
                "the grain for guest offset {guest} announces {size} compressed bytes, 1 to {most} are allowed"
            );
            return Err(self.storage.error(ImageErrorKind::Damaged, offset, text));
        }
        let present = self.storage.length.saturating_sub(offset + self.marker_bytes());
        if u64::from(size) > present {
            let text = format!(
                "truncated: the grain for guest offset {guest} announces {size} bytes, {present} present; it would end at {}",
                offset + self.marker_bytes() + u64::from(size)
            );
            return Err(self
                .storage
                .error(ImageErrorKind::Truncated, offset, text)
                .advise("Export or copy the disk again"));
        }
        Ok(size)
    }
}
