//! Markers of streamOptimized extents: what one says, where the footer is, and the walk over all of them.

use crate::image::bytes::{SECTOR, le32, le64, sector_up};
use crate::image::inflate::COMPRESSED_SLACK;
use crate::image::storage::Storage;
use crate::image::{ImageError, ImageErrorKind};

use super::context::Context;
use super::header::{HostedHeader, MAGIC};

/// Bytes of a grain marker in front of its data.
pub(crate) const GRAIN_HEADER: u64 = 12;
/// Most grains that a walk keeps in memory (8 bytes each, 128 MiB): 1 TiB of populated 64 KiB grains.
const MAX_WALKED: usize = 16 << 20;
/// How far from the end the footer is searched, in bytes.
const FOOTER_SEARCH: u64 = 1 << 20;

/// A marker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Marker {
    /// A grain: first sector in the virtual disk and compressed bytes.
    Grain {
        /// Sector in the virtual disk.
        lba: u64,
        /// Compressed bytes.
        size: u32,
    },
    /// End of stream.
    End,
    /// A grain table, this many sectors.
    Table(u64),
    /// The grain directory.
    Directory(u64),
    /// The footer.
    Footer(u64),
    /// Progress, undocumented: skipped.
    Progress(u64),
    /// Unknown type and its sectors.
    Unknown(u32, u64),
}

impl Marker {
    /// Reads the first 16 bytes of a sector.
    #[must_use]
    pub fn parse(bytes: &[u8]) -> Self {
        let (value, size) = (le64(bytes, 0), le32(bytes, 8));
        if size != 0 {
            return Self::Grain { lba: value, size };
        }
        match le32(bytes, 12) {
            0 => Self::End,
            1 => Self::Table(value),
            2 => Self::Directory(value),
            3 => Self::Footer(value),
            4 => Self::Progress(value),
            other => Self::Unknown(other, value),
        }
    }
}

/// Checks a grain marker against the header: the grain's guest offset in bytes.
pub(crate) fn check_grain(header: &HostedHeader, lba: u64, size: u32) -> Result<u64, String> {
    let guest = lba
        .checked_mul(SECTOR)
        .filter(|guest| *guest < header.capacity)
        .ok_or_else(|| {
            format!(
                "grain marker names sector {lba}, the disk has {} sectors",
                header.capacity / SECTOR
            )
        })?;
    if guest % header.grain != 0 {
        return Err(format!(
            "grain marker names sector {lba}, which begins no grain of {} sectors",
            header.grain / SECTOR
        ));
    }
    let most = header.grain + COMPRESSED_SLACK;
    if u64::from(size) > most {
        return Err(format!(
            "grain marker announces {size} compressed bytes, at most {most} are allowed"
        ));
    }
    Ok(guest)
}

/// Searches the footer: at EOF − 1024, else, where the header states no directory, backwards up to 1 MiB. The offset of the footer and what it says.
pub(crate) fn find_footer(
    context: Context<'_>,
    storage: &Storage,
    header: &HostedHeader,
) -> Result<Option<(u64, HostedHeader)>, ImageError> {
    let end = storage.length / SECTOR * SECTOR;
    if end < 4 * SECTOR {
        return Ok(None);
    }
    let tail = storage.read_vec(context.files, end - 3 * SECTOR, 2 * SECTOR, "footer")?;
    if let Some(found) = footer_in(storage, end - 3 * SECTOR, &tail, header) {
        if storage.length > end {
            context.notes.add(format!(
                "{}: {} bytes behind the end of the stream are ignored",
                storage.path.display(),
                storage.length - end
            ));
        }
        return Ok(Some(found));
    }
    if header.directory.is_some_and(|directory| directory != 0) {
        return Ok(None);
    }
    let start = end.saturating_sub(FOOTER_SEARCH);
    let area = storage.read_vec(context.files, start, end - start, "footer")?;
    let mut at = area.len() / 512 * 512;
    while at >= 1024 {
        at -= 512;
        if at < 512 {
            break;
        }
        let offset = start + u64::try_from(at - 512).unwrap_or(0);
        if let Some(found) = footer_in(storage, offset, &area[at - 512..at + 512], header) {
            let tail = storage.length - found.0 - SECTOR;
            if tail < SECTOR {
                context.notes.add(format!(
                    "{}: no end-of-stream marker behind the footer",
                    storage.path.display()
                ));
            } else if tail > SECTOR {
                context.notes.add(format!(
                    "{}: {} bytes behind the end of the stream are ignored",
                    storage.path.display(),
                    tail - SECTOR
                ));
            }
            return Ok(Some(found));
        }
    }
    Ok(None)
}

/// A footer marker and a plausible footer in these two sectors.
fn footer_in(storage: &Storage, offset: u64, two: &[u8], header: &HostedHeader) -> Option<(u64, HostedHeader)> {
    if !matches!(Marker::parse(two), Marker::Footer(_)) || le32(two, 512) != MAGIC {
        return None;
    }
    let footer = HostedHeader::parse(storage, offset + SECTOR, &two[512..1024]).ok()?;
    let fits = footer.directory.is_some() && footer.capacity == header.capacity && footer.grain == header.grain;
    (fits && footer.entries_per_table == header.entries_per_table).then_some((offset + SECTOR, footer))
}

/// One grain found by walking.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Walked {
    /// Grain number in the extent.
    pub(crate) grain: u32,
    /// Sector of its marker, which knows the rest.
    pub(crate) sector: u32,
}

/// Rebuilds the tables of a stream by reading every marker from the front: for files without a (usable) directory.
pub(crate) fn walk(context: Context<'_>, storage: &Storage, header: &HostedHeader) -> Result<Vec<Walked>, ImageError> {
    let shown = storage.path.display();
    let mut grains: Vec<Walked> = Vec::new();
    let mut at = sector_up(
        header
            .overhead
            .max(header.descriptor_offset + header.descriptor_length)
            .max(SECTOR),
    );
    let mut ended = false;
    let mut directory_seen = false;
    let mut ascending = true;
    while at < storage.length {
        let left = storage.length - at;
        let mut bytes = [0; 16];
        if left < 16 {
            break;
        }
        storage.read(context.files, at, &mut bytes, "marker")?;
        let skip = |count: u64, name: &str| -> Result<u64, ImageError> {
            let length = count.checked_mul(SECTOR).and_then(|length| length.checked_add(SECTOR));
            length.filter(|length| *length <= left).ok_or_else(|| {
                storage.error(
                    ImageErrorKind::Truncated,
                    at,
                    format!("{name} marker announces {count} sectors, {left} bytes are left in the file"),
                )
            })
        };
        let step = match Marker::parse(&bytes) {
            Marker::Grain { lba, size } => {
                let guest = match check_grain(header, lba, size) {
                    Ok(guest) => guest,
                    Err(text) => {
                        context.damage(storage.error(ImageErrorKind::Damaged, at, text))?;
                        break;
                    }
                };
                let present = left.saturating_sub(GRAIN_HEADER);
                if u64::from(size) > present {
                    context.damage(torn(storage, grains.len(), at, guest, size, present))?;
                    ended = true;
                    break;
                }
                let grain = u32::try_from(guest / header.grain)
                    .map_err(|_| storage.error(ImageErrorKind::Limit, at, "more than 2^32 grains"))?;
                let sector = u32::try_from(at / SECTOR).map_err(|_| {
                    let text = "the stream has no directory and its grains go on above 2 TiB";
                    storage.error(ImageErrorKind::Limit, at, text)
                })?;
                if grains.len() >= MAX_WALKED {
                    return Err(storage
                        .error(
                            ImageErrorKind::Limit,
                            at,
                            format!("the stream has no directory and more than {MAX_WALKED} grains"),
                        )
                        .advise("Export the disk again, so that the stream has its footer"));
                }
                ascending &= grains.last().is_none_or(|last| last.grain < grain);
                grains.push(Walked { grain, sector });
                sector_up(GRAIN_HEADER + u64::from(size))
            }
            Marker::End => {
                ended = true;
                break;
            }
            Marker::Table(count) => skip(count, "grain-table")?,
            Marker::Directory(count) => {
                directory_seen = true;
                skip(count, "grain-directory")?
            }
            Marker::Footer(count) => skip(count, "footer")?,
            Marker::Progress(count) => skip(count, "progress")?,
            Marker::Unknown(kind, count) => {
                let error = storage.error(
                    ImageErrorKind::Damaged,
                    at,
                    format!("marker of unknown type {kind} with {count} sectors"),
                );
                context.damage(error)?;
                break;
            }
        };
        at += step;
    }
    if !ended && !directory_seen && header.directory.is_none() {
        context.damage(
            storage
                .error(
                    ImageErrorKind::Truncated,
                    at.min(storage.length),
                    format!(
                        "the stream ends after {} complete grains without directory, footer or end marker",
                        grains.len()
                    ),
                )
                .advise("Export or copy it again; salvage mode reads the grains that are there"),
        )?;
    }
    if !ascending {
        // By place where the grain is the same, so that with salvage the first one counts.
        grains.sort_unstable_by_key(|walked| (walked.grain, walked.sector));
        if let Some(pair) = grains.windows(2).find(|pair| pair[0].grain == pair[1].grain) {
            let guest = u64::from(pair[1].grain) * header.grain;
            let error = storage.error(
                ImageErrorKind::Damaged,
                u64::from(pair[1].sector) * SECTOR,
                format!("a second grain for guest offset {guest}"),
            );
            context.damage(error)?;
            grains.dedup_by_key(|walked| walked.grain);
        }
    }
    context.notes.add(format!(
        "{shown}: no usable footer; {} grains found by walking the markers",
        grains.len()
    ));
    Ok(grains)
}

/// A grain that the file's end cuts.
pub(crate) fn torn(storage: &Storage, before: usize, marker: u64, guest: u64, size: u32, present: u64) -> ImageError {
    torn_at(&storage.path, before, marker, guest, size, present)
}

/// As [`torn`], for streams that have no storage.
pub(crate) fn torn_at(
    path: &std::path::Path,
    before: usize,
    marker: u64,
    guest: u64,
    size: u32,
    present: u64,
) -> ImageError {
    ImageError::new(
        ImageErrorKind::Truncated,
        path,
        format!(
            "truncated: grain marker {} (guest offset {guest}, LBA {}) announces {size} bytes, {present} present; it would end at {}. \
             {before} complete grains lie before it",
            before + 1,
            guest / SECTOR,
            marker + GRAIN_HEADER + u64::from(size)
        ),
    )
    .at(marker)
    .advise("Export or copy the disk again; salvage mode reads the complete grains")
}
