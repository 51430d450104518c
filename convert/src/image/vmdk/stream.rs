//! streamOptimized read front to back: from a pipe, an HTTP body, `tar -xO`. Nothing is sought, nothing is kept but
//! what the cross-check of the tables needs.
//!
//! The markers carry the guest position of each grain, so the data can be used as it arrives. The tables behind the grains
//! (or in front of them, as qemu-img and disklib write them) are then compared with what was met.

use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};

use crate::image::bytes::{SECTOR, le32, sector_up, to_u64, to_usize};
use crate::image::{ImageError, ImageErrorKind};

use super::cross_check::CrossCheck;
use super::descriptor::{Access, Descriptor, MAX_TEXT};
use super::header::{HostedHeader, MAGIC, MAX_DIRECTORY};
use super::line::{no_access_note, own_line};
use super::marker::{Marker, check_grain, torn_at};
use super::seen::{Came, Seen};
use crate::image::storage::Storage;

/// Metadata in front of the grains that is kept for the cross-check, in bytes.
const KEPT_FRONT: u64 = 16 << 20;
/// The directory behind the grains is compared in pieces of this many bytes.
const DIRECTORY_PIECE: u64 = 1 << 20;

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
    /// Grains from here on are checked and not handed out: the end of the disk, or 0 where its extent is `NOACCESS`.
    visible: u64,
    hidden: u64,
    check: CrossCheck,
    seen: Seen,
    last: Option<u64>,
    grains: u64,
    ascending: bool,
    ended: bool,
    notes: Vec<String>,
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
        let mut visible = header.capacity;
        let mut notes = Vec::new();
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
            let line = &parsed.extents[own_line(shown, &parsed)?];
            notes.extend(parsed.notes.iter().cloned());
            virtual_bytes = parsed.sectors() * SECTOR;
            visible = virtual_bytes;
            if virtual_bytes != header.capacity {
                notes.push(format!(
                    "{}: descriptor line {} says {virtual_bytes} bytes, the extent's header {}; the descriptor counts",
                    shown.display(),
                    line.line,
                    header.capacity
                ));
            }
            if line.access == Access::None {
                notes.push(no_access_note(shown, line));
                visible = 0;
            }
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
            check: CrossCheck::new(tables_in_front.then_some(front)),
            header,
            descriptor,
            virtual_bytes,
            visible,
            hidden: 0,
            seen: Seen::default(),
            last: None,
            grains: 0,
            ascending: true,
            ended: false,
            notes,
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
                match self.grain(at, lba, size)? {
                    Some(grain) => return Ok(Some(grain)),
                    None => continue,
                }
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
        let mut notes = self.notes;
        if self.hidden > 0 {
            notes.push(format!(
                "{}: {} grains lie where the descriptor shows no data of this file and are left out",
                self.path.display(),
                self.hidden
            ));
        }
        StreamSummary {
            grains: self.grains,
            ascending: self.ascending,
            cross_checked: self.ended && self.check.agreed(),
            notes,
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

    /// Reads a grain; `None` for one that the disk doesn't show.
    fn grain(&mut self, at: u64, lba: u64, size: u32) -> Result<Option<StreamGrain>, ImageError> {
        let guest =
            check_grain(&self.header, lba, size).map_err(|text| self.error(ImageErrorKind::Damaged, at, text))?;
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
        match self.seen.insert(number) {
            Came::First => {}
            Came::Again => {
                return Err(self.error(
                    ImageErrorKind::Damaged,
                    at,
                    format!("a second grain for guest offset {guest}"),
                ));
            }
            Came::Unknown => {
                let text = format!(
                    "a grain for guest offset {guest} out of order, among too many to know whether it came before"
                );
                return Err(self
                    .error(ImageErrorKind::Limit, at, text)
                    .advise("Write the stream to a file first and convert that"));
            }
        }
        self.ascending &= self.last.is_none_or(|last| last < number);
        self.last = Some(number);
        self.grains += 1;
        let given_up = self
            .check
            .grain(&self.header, at / SECTOR, number)
            .map_err(|text| self.error(ImageErrorKind::Damaged, at, text))?;
        self.note_given_up(given_up);
        if guest >= self.visible {
            self.hidden += 1;
            return Ok(None);
        }
        let bytes = self
            .header
            .grain
            .min(self.virtual_bytes - guest)
            .min(self.header.capacity - guest);
        Ok(Some(StreamGrain {
            guest_offset: guest,
            grain_bytes: u32::try_from(bytes).expect("a grain has at most 1 MiB"),
            marker_offset: at,
            data,
        }))
    }

    fn note_given_up(&mut self, given_up: bool) {
        if given_up {
            self.notes.push(format!(
                "{}: too many grains or tables to keep in mind, the tables are not compared",
                self.path.display()
            ));
        }
    }

    /// The bytes that a metadata marker announces, at most `most`.
    fn announced(&self, at: u64, sectors: u64, most: u64, what: &str) -> Result<u64, ImageError> {
        sectors
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
            })
    }

    fn body(&mut self, bytes: u64) -> Result<Vec<u8>, ImageError> {
        let mut body = Vec::new();
        read_more(&mut self.reader, &mut body, bytes, &self.path)?;
        self.position += bytes;
        Ok(body)
    }

    fn table(&mut self, at: u64, sectors: u64) -> Result<(), ImageError> {
        let sector = self.position / SECTOR;
        let bytes = self.announced(at, sectors, sector_up(self.header.table_bytes()), "grain table")?;
        let body = self.body(bytes)?;
        let given_up = self
            .check
            .table(&self.header, sector, &body)
            .map_err(|text| self.error(ImageErrorKind::Damaged, at, text))?;
        self.note_given_up(given_up);
        Ok(())
    }

    fn directory(&mut self, at: u64, sectors: u64) -> Result<(), ImageError> {
        let most = sector_up(self.header.directory_entries() * 4);
        let bytes = self.announced(at, sectors, most, "grain directory")?;
        self.check.begin_directory(self.position / SECTOR);
        let mut done = 0;
        while done < bytes {
            let piece = self.body(DIRECTORY_PIECE.min(bytes - done))?;
            self.check
                .directory_part(done / 4, &piece)
                .map_err(|text| self.error(ImageErrorKind::Damaged, at, text))?;
            done += to_u64(piece.len());
        }
        self.check
            .end_directory()
            .map_err(|text| self.error(ImageErrorKind::Damaged, at, text))
    }

    fn footer(&mut self, at: u64, sectors: u64) -> Result<(), ImageError> {
        let bytes = self.announced(at, sectors, SECTOR, "footer")?;
        let body = self.body(bytes)?;
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
        if let (Some(sector), Some(stated)) = (self.check.directory(), footer.directory)
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
        if !self.check.has_directory() {
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

    fn finish_check(&mut self, at: u64) -> Result<(), ImageError> {
        self.check
            .finish(&self.header, self.grains)
            .map_err(|(kind, text)| self.error(kind, at, text))?;
        if !self.check.has_directory() {
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
