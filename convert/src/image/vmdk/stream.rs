//! streamOptimized read front to back: from a pipe, an HTTP body, `tar -xO`. Nothing is sought, nothing is kept but
//! what the cross-check of the tables needs.
//!
//! The markers carry the guest position of each grain, so the data can be used as it arrives. The tables behind the grains
//! (or in front of them, as qemu-img and disklib write them) are then compared with what was met.

use std::collections::{BTreeMap, HashMap};
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};

use crate::image::bytes::{SECTOR, le32, sector_up, to_u64, to_usize};
use crate::image::{ImageError, ImageErrorKind};

use super::descriptor::{Descriptor, MAX_TEXT};
use super::header::{HostedHeader, MAGIC, MAX_DIRECTORY};
use super::marker::{Marker, check_grain, torn_at};
use crate::image::storage::Storage;

/// Metadata in front of the grains that is kept for the cross-check, in bytes.
const KEPT_FRONT: u64 = 16 << 20;
/// Grains that may wait for their table before the cross-check is given up.
const MAX_PENDING: usize = 1 << 20;

/// One grain as it arrived.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamGrain {
    /// Guest offset in bytes.
    pub guest_offset: u64,
    /// Guest bytes, clipped by the end of the disk.
    pub grain_bytes: u32,
    /// Where its marker was in the stream.
    pub marker_offset: u64,
    /// The zlib stream.
    pub data: Vec<u8>,
}

/// What was met, at the end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamSummary {
    /// Grains.
    pub grains: u64,
    /// Whether guest offsets only ever rose. Where not, the output must be seekable.
    pub ascending: bool,
    /// Whether tables were there and agreed with every grain.
    pub cross_checked: bool,
    /// Oddities.
    pub notes: Vec<String>,
}

/// Yields the grains of a stream in the order of the file.
#[derive(Debug)]
pub struct GrainStream<R> {
    reader: R,
    path: PathBuf,
    /// Bytes read so far.
    position: u64,
    header: HostedHeader,
    descriptor: Option<Descriptor>,
    virtual_bytes: u64,
    check: CrossCheck,
    seen: Ranges,
    last: Option<u64>,
    grains: u64,
    ascending: bool,
    ended: bool,
    notes: Vec<String>,
}

/// Compares tables with the grains met.
#[derive(Debug, Default)]
struct CrossCheck {
    /// The metadata in front, where the tables are in it.
    front: Option<Vec<u8>>,
    /// Sector of a grain that no table named yet → its number.
    pending: HashMap<u64, u64>,
    /// Table number → the sector where it lies.
    tables: BTreeMap<u64, u64>,
    directory: Option<u64>,
    given_up: bool,
}

/// A set of grain numbers, as ranges.
#[derive(Debug, Default)]
struct Ranges(BTreeMap<u64, u64>);

impl Ranges {
    /// Adds; `false` where it was there.
    fn insert(&mut self, value: u64) -> bool {
        let before = self.0.range(..=value).next_back().map(|(start, end)| (*start, *end));
        if before.is_some_and(|(_, end)| value < end) {
            return false;
        }
        let mut start = value;
        let mut end = value + 1;
        if let Some((first, last)) = before.filter(|(_, last)| *last == value) {
            start = first;
            debug_assert_eq!(last, value, "adjacent");
        }
        if let Some(next) = self.0.remove(&end) {
            end = next;
        }
        self.0.insert(start, end);
        true
    }
}

impl<R: Read> GrainStream<R> {
    /// Reads header and descriptor. `shown` names the stream in messages.
    ///
    /// # Errors
    /// No stream, a delta, a disk of several extents, damage.
    pub fn new(mut reader: R, shown: &Path) -> Result<Self, ImageError> {
        let mut first = vec![0; 512];
        let error = |kind, offset, text: String| ImageError::new(kind, shown, text).at(offset);
        let got = fill(&mut reader, &mut first, shown, 0)?;
        if got < first.len() {
            return Err(error(
                ImageErrorKind::Truncated,
                0,
                format!("the stream has {got} bytes, the header alone 512"),
            ));
        }
        if le32(&first, 0) != MAGIC {
            return Err(error(
                ImageErrorKind::Damaged,
                0,
                format!("the stream begins with {:02x?}, not with KDMV", &first[..4]),
            ));
        }
        let nowhere = Storage::new(shown, Vec::new())?;
        let header = HostedHeader::parse(&nowhere, 0, &first)?;
        if !header.markers {
            return Err(error(
                ImageErrorKind::Unsupported,
                8,
                "only streamOptimized disks can be read front to back".into(),
            )
            .advise("Write it to a file first"));
        }
        let start = sector_up(
            header
                .overhead
                .max(header.descriptor_offset.saturating_add(header.descriptor_length))
                .max(SECTOR),
        );
        let kept = start.min(KEPT_FRONT);
        let mut front = first;
        read_more(&mut reader, &mut front, kept - SECTOR, shown)?;
        skip(&mut reader, start - kept, shown, kept)?;
        let mut descriptor = None;
        let mut virtual_bytes = header.capacity;
        if header.descriptor_offset > 0 && header.descriptor_length > 0 {
            let end = header.descriptor_offset + header.descriptor_length;
            if header.descriptor_length > MAX_TEXT || end > kept {
                return Err(error(
                    ImageErrorKind::Limit,
                    28,
                    format!("the descriptor ends at byte {end}, at most {MAX_TEXT} bytes of text are read"),
                ));
            }
            let text = &front[to_usize(header.descriptor_offset)..to_usize(end)];
            let parsed = Descriptor::parse(shown, header.descriptor_offset, text)?;
            if parsed.has_parent() || parsed.extents.len() != 1 {
                return Err(error(
                    ImageErrorKind::Unsupported,
                    header.descriptor_offset,
                    "the stream is a delta or one of several extents".into(),
                )
                .advise("Write it to a folder with its other files first"));
            }
            virtual_bytes = parsed.sectors() * SECTOR;
            descriptor = Some(parsed);
        }
        let tables_in_front = header.directory.is_some_and(|directory| {
            directory >= SECTOR && directory.saturating_add(header.directory_entries() * 4) <= kept
        });
        if tables_in_front && start > kept {
            return Err(error(
                ImageErrorKind::Limit,
                64,
                format!("{start} bytes of tables in front, at most {KEPT_FRONT} are kept for comparison"),
            )
            .advise("Write it to a file first"));
        }
        Ok(Self {
            reader,
            path: shown.to_owned(),
            position: start,
            check: CrossCheck {
                front: tables_in_front.then_some(front),
                ..CrossCheck::default()
            },
            header,
            descriptor,
            virtual_bytes,
            seen: Ranges::default(),
            last: None,
            grains: 0,
            ascending: true,
            ended: false,
            notes: Vec::new(),
        })
    }

    /// The header.
    #[must_use]
    pub fn header(&self) -> &HostedHeader {
        &self.header
    }

    /// The embedded descriptor.
    #[must_use]
    pub fn descriptor(&self) -> Option<&Descriptor> {
        self.descriptor.as_ref()
    }

    /// Guest-visible size in bytes.
    #[must_use]
    pub fn virtual_bytes(&self) -> u64 {
        self.virtual_bytes
    }

    /// Bytes read so far.
    #[must_use]
    pub fn position(&self) -> u64 {
        self.position
    }

    /// The next grain; `None` at the end of the stream, after the tables agreed.
    ///
    /// # Errors
    /// Truncation, with marker, bytes announced and present; damage; tables that contradict the grains.
    pub fn next_grain(&mut self) -> Result<Option<StreamGrain>, ImageError> {
        while !self.ended {
            let at = self.position;
            let mut head = [0; 16];
            let got = self.fill(&mut head[..12])?;
            if got < 12 {
                self.end_without_marker(at, got)?;
                break;
            }
            if let Marker::Grain { lba, size } = Marker::parse(&head) {
                return self.grain(at, lba, size).map(Some);
            }
            let mut rest = [0; 500];
            if self.fill(&mut rest)? < rest.len() {
                return Err(self.error(ImageErrorKind::Truncated, at, "the stream ends inside a marker"));
            }
            head[12..].copy_from_slice(&rest[..4]);
            match Marker::parse(&head) {
                Marker::Grain { .. } => {}
                Marker::End => {
                    self.ended = true;
                    self.finish_check(at)?;
                }
                Marker::Table(count) => self.table(at, count)?,
                Marker::Directory(count) => self.directory(at, count)?,
                Marker::Footer(count) => self.footer(at, count)?,
                Marker::Progress(count) => self.pass(count, at)?,
                Marker::Unknown(kind, _) => {
                    return Err(self.error(ImageErrorKind::Damaged, at, format!("marker of unknown type {kind}")));
                }
            }
        }
        Ok(None)
    }

    /// The account of the stream, after [`GrainStream::next_grain`] returned `None`.
    #[must_use]
    pub fn finish(self) -> StreamSummary {
        let checked =
            self.ended && !self.check.given_up && (self.check.front.is_some() || self.check.directory.is_some());
        StreamSummary {
            grains: self.grains,
            ascending: self.ascending,
            cross_checked: checked,
            notes: self.notes,
        }
    }

    fn error(&self, kind: ImageErrorKind, offset: u64, text: impl Into<String>) -> ImageError {
        ImageError::new(kind, &self.path, text).at(offset)
    }

    fn fill(&mut self, buffer: &mut [u8]) -> Result<usize, ImageError> {
        let got = fill(&mut self.reader, buffer, &self.path, self.position)?;
        self.position += to_u64(got);
        Ok(got)
    }

    fn pass(&mut self, sectors: u64, at: u64) -> Result<(), ImageError> {
        let bytes = sectors
            .checked_mul(SECTOR)
            .filter(|bytes| *bytes <= MAX_DIRECTORY)
            .ok_or_else(|| {
                self.error(
                    ImageErrorKind::Damaged,
                    at,
                    format!(
                        "marker announces {sectors} sectors, at most {} are accepted",
                        MAX_DIRECTORY / SECTOR
                    ),
                )
            })?;
        skip(&mut self.reader, bytes, &self.path, self.position)?;
        self.position += bytes;
        Ok(())
    }

    fn grain(&mut self, at: u64, lba: u64, size: u32) -> Result<StreamGrain, ImageError> {
        let guest =
            check_grain(&self.header, lba, size).map_err(|text| self.error(ImageErrorKind::Damaged, at, text))?;
        if guest >= self.virtual_bytes {
            return Err(self.error(
                ImageErrorKind::Damaged,
                at,
                format!(
                    "grain for guest offset {guest}, the disk has {} bytes",
                    self.virtual_bytes
                ),
            ));
        }
        let number = guest / self.header.grain;
        let mut data = vec![0; to_usize(u64::from(size))];
        let got = self.fill(&mut data)?;
        if got < data.len() {
            let before = usize::try_from(self.grains).unwrap_or(usize::MAX);
            return Err(torn_at(&self.path, before, at, guest, size, to_u64(got)));
        }
        let padding = sector_up(self.position) - self.position;
        let mut pad = [0; 512];
        // A missing tail of the padding loses nothing; the next marker is then what is missing.
        self.fill(&mut pad[..to_usize(padding)])?;
        if !self.seen.insert(number) {
            return Err(self.error(
                ImageErrorKind::Damaged,
                at,
                format!("a second grain for guest offset {guest}"),
            ));
        }
        self.ascending &= self.last.is_none_or(|last| last < number);
        self.last = Some(number);
        self.grains += 1;
        self.note_grain(at / SECTOR, number)?;
        let bytes = self
            .header
            .grain
            .min(self.virtual_bytes - guest)
            .min(self.header.capacity - guest);
        Ok(StreamGrain {
            guest_offset: guest,
            grain_bytes: u32::try_from(bytes).expect("a grain has at most 1 MiB"),
            marker_offset: at,
            data,
        })
    }

    fn note_grain(&mut self, sector: u64, number: u64) -> Result<(), ImageError> {
        if let Some(front) = &self.check.front {
            let entry = front_entry(front, &self.header, number);
            if entry != Some(sector) {
                let text = format!(
                    "the grain table in front says {entry:?} for grain {number}, its marker is at sector {sector}"
                );
                return Err(self.error(ImageErrorKind::Damaged, sector * SECTOR, text));
            }
        } else if !self.check.given_up {
            if self.check.pending.len() >= MAX_PENDING {
                self.check.given_up = true;
                self.check.pending = HashMap::new();
                self.notes.push(format!(
                    "{}: too many grains without a table, the tables are not compared",
                    self.path.display()
                ));
            } else {
                self.check.pending.insert(sector, number);
            }
        }
        Ok(())
    }

    fn body(&mut self, at: u64, sectors: u64, most: u64, what: &str) -> Result<Vec<u8>, ImageError> {
        let bytes = sectors
            .checked_mul(SECTOR)
            .filter(|bytes| *bytes <= most)
            .ok_or_else(|| {
                self.error(
                    ImageErrorKind::Damaged,
                    at,
                    format!(
                        "{what} of {sectors} sectors announced, at most {} are allowed",
                        most / SECTOR
                    ),
                )
            })?;
        let mut body = Vec::new();
        read_more(&mut self.reader, &mut body, bytes, &self.path)?;
        self.position += bytes;
        Ok(body)
    }

    fn table(&mut self, at: u64, sectors: u64) -> Result<(), ImageError> {
        let sector = self.position / SECTOR;
        let body = self.body(at, sectors, sector_up(self.header.table_bytes()), "grain table")?;
        if self.check.front.is_some() || self.check.given_up {
            return Ok(());
        }
        let mut table = None;
        for (slot, entry) in (0_u64..)
            .zip(body.chunks_exact(4))
            .take(to_usize(self.header.entries_per_table))
        {
            let entry = u64::from(le32(entry, 0));
            if entry == 0 || (entry == 1 && self.header.zeroed_entries) {
                continue;
            }
            let number = self.check.pending.remove(&entry);
            let fits = number.is_some_and(|number| {
                number % self.header.entries_per_table == slot
                    && *table.get_or_insert(number / self.header.entries_per_table)
                        == number / self.header.entries_per_table
            });
            if !fits {
                let text = format!("grain-table entry {slot} names sector {entry}, the markers say {number:?}");
                return Err(self.error(ImageErrorKind::Damaged, at, text));
            }
        }
        if let Some(table) = table {
            self.check.tables.insert(table, sector);
        }
        Ok(())
    }

    fn directory(&mut self, at: u64, sectors: u64) -> Result<(), ImageError> {
        let sector = self.position / SECTOR;
        let body = self.body(
            at,
            sectors,
            sector_up(self.header.directory_entries() * 4),
            "grain directory",
        )?;
        for (table, wanted) in &self.check.tables {
            let index = to_usize(*table) * 4;
            let found = body.get(index..index + 4).map(|entry| u64::from(le32(entry, 0)));
            if found != Some(*wanted) {
                let text = format!("grain directory entry {table} is {found:?}, the table lies at sector {wanted}");
                return Err(self.error(ImageErrorKind::Damaged, at, text));
            }
        }
        self.check.directory = Some(sector);
        Ok(())
    }

    fn footer(&mut self, at: u64, sectors: u64) -> Result<(), ImageError> {
        let body = self.body(at, sectors, SECTOR, "footer")?;
        if body.len() < 512 || le32(&body, 0) != MAGIC {
            return Err(self.error(ImageErrorKind::Damaged, at, "the footer is no copy of the header"));
        }
        let nowhere = Storage::new(&self.path, Vec::new())?;
        let footer = HostedHeader::parse(&nowhere, at + SECTOR, &body)?;
        if footer.capacity != self.header.capacity || footer.grain != self.header.grain {
            return Err(self.error(
                ImageErrorKind::Damaged,
                at,
                "the footer's capacity or grain size isn't the header's",
            ));
        }
        if let (Some(sector), Some(stated)) = (self.check.directory, footer.directory)
            && sector * SECTOR != stated
        {
            let text = format!(
                "the footer places the directory at byte {stated}, it was met at {}",
                sector * SECTOR
            );
            return Err(self.error(ImageErrorKind::Damaged, at, text));
        }
        Ok(())
    }

    fn end_without_marker(&mut self, at: u64, got: usize) -> Result<(), ImageError> {
        if self.check.front.is_none() && self.check.directory.is_none() {
            let text = format!(
                "the stream ends after {} complete grains without directory, footer or end marker",
                self.grains
            );
            return Err(self
                .error(ImageErrorKind::Truncated, at, text)
                .advise("Export or copy it again"));
        }
        self.ended = true;
        self.finish_check(at)?;
        self.notes.push(format!(
            "{}: no end-of-stream marker ({got} bytes where it should be); the tables are complete",
            self.path.display()
        ));
        Ok(())
    }

    /// Every grain must be in a table, and every entry of the tables in front must have come.
    fn finish_check(&mut self, at: u64) -> Result<(), ImageError> {
        if let Some(front) = &self.check.front {
            let mut stated = 0_u64;
            for table in 0..self.header.directory_entries() {
                let first = table * self.header.entries_per_table;
                let last =
                    (first + self.header.entries_per_table).min(self.header.capacity.div_ceil(self.header.grain));
                stated += to_u64(
                    (first..last)
                        .filter(|number| front_entry(front, &self.header, *number).is_some_and(|entry| entry > 1))
                        .count(),
                );
            }
            if stated != self.grains {
                let text = format!(
                    "the tables name {stated} grains, {} came: the stream is incomplete",
                    self.grains
                );
                return Err(self.error(ImageErrorKind::Truncated, at, text));
            }
        } else if self.check.directory.is_some() && !self.check.pending.is_empty() {
            let text = format!("{} grains are in no table", self.check.pending.len());
            return Err(self.error(ImageErrorKind::Damaged, at, text));
        } else if self.check.directory.is_none() {
            self.notes.push(format!(
                "{}: the stream has no directory, nothing to compare with",
                self.path.display()
            ));
        }
        Ok(())
    }
}

impl<R: Read> Iterator for GrainStream<R> {
    type Item = Result<StreamGrain, ImageError>;

    fn next(&mut self) -> Option<Self::Item> {
        let next = self.next_grain().transpose();
        if matches!(next, Some(Err(_))) {
            self.ended = true;
        }
        next
    }
}

/// The sector that the tables in front name for a grain.
fn front_entry(front: &[u8], header: &HostedHeader, number: u64) -> Option<u64> {
    let at = |offset: u64| {
        let offset = usize::try_from(offset).ok()?;
        front
            .get(offset..offset.checked_add(4)?)
            .map(|entry| u64::from(le32(entry, 0)))
    };
    let table = at(header.directory? + number / header.entries_per_table * 4)?;
    if table == 0 {
        return None;
    }
    at(table * SECTOR + number % header.entries_per_table * 4)
}

/// Reads until the buffer is full or the stream ends.
fn fill(reader: &mut impl Read, buffer: &mut [u8], path: &Path, at: u64) -> Result<usize, ImageError> {
    let mut got = 0;
    while got < buffer.len() {
        match reader.read(&mut buffer[got..]) {
            Ok(0) => break,
            Ok(count) => got += count,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(ImageError::io(path, "reading the stream", error).at(at + to_u64(got))),
        }
    }
    Ok(got)
}

/// Appends exactly `length` bytes; memory grows with what arrives, not with what is announced.
fn read_more(reader: &mut impl Read, into: &mut Vec<u8>, length: u64, path: &Path) -> Result<(), ImageError> {
    let got = reader
        .by_ref()
        .take(length)
        .read_to_end(into)
        .map_err(|error| ImageError::io(path, "reading the stream", error))?;
    if to_u64(got) < length {
        let text = format!("the stream ends after {got} of {length} bytes of metadata");
        return Err(ImageError::new(ImageErrorKind::Truncated, path, text));
    }
    Ok(())
}

fn skip(reader: &mut impl Read, length: u64, path: &Path, at: u64) -> Result<(), ImageError> {
    let got = std::io::copy(&mut reader.by_ref().take(length), &mut std::io::sink())
        .map_err(|error| ImageError::io(path, "reading the stream", error).at(at))?;
    if got < length {
        let text = format!("the stream ends {} bytes too early, inside metadata", length - got);
        return Err(ImageError::new(ImageErrorKind::Truncated, path, text).at(at + got));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_enters_the_ranges_once_and_neighbours_merge() {
        let mut ranges = Ranges::default();
        for value in [5, 7, 6, 1, 0] {
            assert!(ranges.insert(value), "{value}");
        }
        for value in [5, 7, 6, 1, 0] {
            assert!(!ranges.insert(value), "{value}");
        }
        assert_eq!(ranges.0, BTreeMap::from([(0, 2), (5, 8)]));
    }
}
