//! What happens to one unit: read, inflate, test for zero, hash, compress or write.

use super::error::ConvertError;
use super::hash;
use super::journal::{ABSENT, Outcome, PLANNED_ZERO, STORED};
use super::options::Compress;
use super::plan::Unit;
use super::pool::{Permit, Pool, Slot};
use super::share::Sharing;
use super::target::Target;
use super::zero::is_zero;
use crate::image::map::{DiskSource, Run, RunSource, SourceHandle};
use crate::image::{ImageError, ImageErrorKind};
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::sync::atomic::AtomicBool;

/// Compressed bytes read in one call.
const READ_BYTES: u64 = 4 << 20;
/// Bytes between two grains that are read along rather than skipped.
const READ_GAP: u64 = 16 << 10;
/// Granularity of holes in raw targets.
const RAW_HOLE: usize = 4096;
/// Streams shorter than this are probably zeros.
const SHORT_STREAM: usize = 128;
/// Bound on a grain that inflates to more than its visible part.
const MAX_GRAIN: usize = 2 << 20;

/// How clusters reach the target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    /// Workers write to planned places.
    Planned,
    /// Workers compress, the ledger places and writes.
    Packed,
    /// Guest offset is file offset.
    Raw,
}

/// What all workers of a disk share.
pub(super) struct Context<'a> {
    pub(super) source: &'a dyn DiskSource,
    pub(super) target: &'a Target,
    pub(super) pool: &'a Pool,
    pub(super) mode: Mode,
    pub(super) compress: Compress,
    pub(super) cluster_bytes: usize,
    pub(super) leaf_bytes: u64,
    pub(super) hash: bool,
    pub(super) sharing: Sharing,
    pub(super) cancel: &'a AtomicBool,
}

/// A finished unit.
pub(super) struct Done {
    pub(super) sequence: u64,
    pub(super) outcome: Outcome,
    /// Bytes of clusters that the ledger writes, and where each cluster's are.
    pub(super) bytes: Vec<u8>,
    pub(super) ranges: Vec<Range<usize>>,
    pub(super) _permit: Permit,
}

/// A compressed grain that can be moved as it is: its deflate stream in [`Done::bytes`].
#[derive(Debug, Clone)]
struct Passed {
    stream: Range<usize>,
    /// Whether the grain was inflated into the guest buffer as well.
    inflated: bool,
}

fn index(value: u64) -> usize {
    usize::try_from(value).expect("inside a buffer in memory")
}

fn bytes_of(length: usize) -> u64 {
    u64::try_from(length).expect("a buffer in memory")
}

impl Context<'_> {
    /// Handles `unit`.
    pub(super) fn process(&self, unit: Unit, slot: &mut Slot) -> Result<Done, ConvertError> {
        let length = index(unit.length);
        let clusters = length.div_ceil(self.cluster_bytes);
        let padded = clusters * self.cluster_bytes;
        if slot.guest.len() < padded {
            slot.guest.resize(padded, 0);
        }
        let shared = self.sharing.share(self, &unit)?;
        let mut done = Done {
            sequence: unit.sequence,
            outcome: Outcome {
                offset: unit.offset,
                length: unit.length,
                ..Outcome::default()
            },
            bytes: Vec::new(),
            ranges: Vec::new(),
            _permit: unit.permit,
        };
        clear_gaps(&mut slot.guest[..padded], unit.offset, &unit.runs);
        let mut passed = vec![
            None;
            if matches!(self.compress, Compress::Keep { .. }) {
                clusters
            } else {
                0
            }
        ];
        self.read(unit.offset, &unit.runs, &shared, slot, &mut done.bytes, &mut passed)?;
        if self.hash {
            done.outcome.leaves = hash::leaves(unit.offset, &slot.guest[..length], self.leaf_bytes);
        }
        match self.mode {
            Mode::Planned => self.write_planned(&unit.places, length, &shared, slot, &mut done)?,
            Mode::Packed => self.pack(length, &passed, slot, &mut done)?,
            Mode::Raw => self.write_raw(length, &shared, slot, &mut done)?,
        }
        Ok(done)
    }

    fn read(
        &self,
        start: u64,
        runs: &[Run],
        shared: &[bool],
        slot: &mut Slot,
        moved: &mut Vec<u8>,
        passed: &mut [Option<Passed>],
    ) -> Result<(), ConvertError> {
        let files = self.source.files();
        let mut packed: Vec<(&Run, usize, u64, u32)> = Vec::new();
        for run in runs {
            match run.source {
                RunSource::Raw { file, offset } => {
                    let from = index(run.offset - start);
                    let out = from..from + index(run.length);
                    self.read_raw(&files[file], offset, out, shared, &mut slot.guest)?;
                }
                RunSource::Deflate {
                    file,
                    offset,
                    compressed,
                    ..
                } => packed.push((run, file, offset, compressed)),
                RunSource::Hole | RunSource::Zero => {}
            }
        }
        packed.sort_by_key(|&(_, file, offset, _)| (file, offset));
        let mut rest = packed.as_slice();
        while let Some(&(_, file, first, compressed)) = rest.first() {
            let handle = &files[file];
            let mut end = first + u64::from(compressed);
            let mut count = 1;
            for &(_, other, offset, compressed) in &rest[1..] {
                let reach = end.max(offset + u64::from(compressed));
                if other != file || offset > end + READ_GAP || reach - first > READ_BYTES {
                    break;
                }
                end = reach;
                count += 1;
            }
            let length = index(end - first);
            if slot.packed.len() < length {
                slot.packed.resize(length, 0);
            }
            let mut packed = std::mem::take(&mut slot.packed);
            self.pread(handle, first, &mut packed[..length])?;
            for &(run, _, offset, compressed) in &rest[..count] {
                let from = index(offset - first);
                let stream = &packed[from..from + index(u64::from(compressed))];
                self.grain(handle, start, run, stream, slot, moved, passed)?;
            }
            slot.packed = packed;
            rest = &rest[count..];
        }
        Ok(())
    }

    /// Reads a raw run; shared clusters only where their content is to be hashed.
    fn read_raw(
        &self,
        handle: &SourceHandle,
        offset: u64,
        out: Range<usize>,
        shared: &[bool],
        guest: &mut [u8],
    ) -> Result<(), ConvertError> {
        if self.hash || shared.is_empty() {
            return self.pread(handle, offset, &mut guest[out]);
        }
        let mut at = out.start;
        while at < out.end {
            let cluster = at / self.cluster_bytes;
            let end = out.end.min((cluster + 1) * self.cluster_bytes);
            if !shared[cluster] {
                let from = offset + bytes_of(at - out.start);
                self.pread(handle, from, &mut guest[at..end])?;
            }
            at = end;
        }
        Ok(())
    }

    fn pread(&self, handle: &SourceHandle, offset: u64, out: &mut [u8]) -> Result<(), ConvertError> {
        self.pool.throttle(bytes_of(out.len()), self.cancel);
        handle.file.read_exact_at(out, offset).map_err(|error| {
            let length = out.len();
            if error.kind() == std::io::ErrorKind::UnexpectedEof {
                ImageError::new(
                    ImageErrorKind::Truncated,
                    &handle.path,
                    format!("the file ends before the {length} bytes that were to be read"),
                )
                .at(offset)
                .advise("Copy the file again and compare its length with the original's")
                .into()
            } else {
                ImageError::io(&handle.path, "reading", error)
                    .at(offset)
                    .advise("Check the disk that holds the source, then resume")
                    .into()
            }
        })
    }

    /// Inflates one grain into the guest buffer, or moves it, or both.
    #[expect(clippy::too_many_arguments, reason = "the pieces of a slot are borrowed apart")]
    fn grain(
        &self,
        handle: &SourceHandle,
        start: u64,
        run: &Run,
        stream: &[u8],
        slot: &mut Slot,
        moved: &mut Vec<u8>,
        passed: &mut [Option<Passed>],
    ) -> Result<(), ConvertError> {
        let RunSource::Deflate {
            offset,
            grain_start,
            grain_bytes,
            ..
        } = run.source
        else {
            unreachable!("called for compressed runs only");
        };
        let damaged = |message: String| -> ConvertError {
            ImageError::new(ImageErrorKind::Damaged, &handle.path, message)
                .at(offset)
                .advise("Export the disk again; the copy is damaged")
                .into()
        };
        let grain = index(u64::from(grain_bytes));
        let from = index(run.offset - start);
        let visible = index(run.length);
        let whole = run.offset == grain_start && visible == grain;
        if let Compress::Keep { trust } = self.compress
            && whole
            && grain == self.cluster_bytes
            && from.is_multiple_of(self.cluster_bytes)
            && movable(stream, self.cluster_bytes)
        {
            let inflated = !trust || stream.len() < SHORT_STREAM;
            let begin = moved.len();
            moved.extend_from_slice(&stream[2..stream.len() - 4]);
            passed[from / self.cluster_bytes] = Some(Passed {
                stream: begin..moved.len(),
                inflated,
            });
            if !inflated {
                return Ok(());
            }
        }
        if whole {
            let out = &mut slot.guest[from..from + grain];
            match slot.inflate.zlib_decompress(stream, out) {
                Ok(found) if found == grain => return Ok(()),
                Ok(found) => return self.short_grain(found, run, &mut out[found..]).map_err(damaged),
                Err(libdeflater::DecompressionError::InsufficientSpace) => {}
                Err(error) => return Err(damaged(format!("the grain does not inflate: {error}"))),
            }
        }
        // Only a part is visible, or the last grain goes on behind the disk's end.
        let room = self
            .source
            .compressed_grain_bytes()
            .map_or(grain.next_power_of_two(), index)
            .max(grain)
            .min(MAX_GRAIN.max(grain));
        slot.scratch.resize(room, 0);
        let found = slot
            .inflate
            .zlib_decompress(stream, &mut slot.scratch)
            .map_err(|error| damaged(format!("the grain does not inflate to at most {room} bytes: {error}")))?;
        slot.scratch[found..].fill(0);
        if found < grain {
            self.short_grain(found, run, &mut []).map_err(damaged)?;
        }
        let skip = index(run.offset - grain_start);
        slot.guest[from..from + visible].copy_from_slice(&slot.scratch[skip..skip + visible]);
        Ok(())
    }

    /// A grain that inflates short is legal at the end of the disk only.
    fn short_grain(&self, found: usize, run: &Run, rest: &mut [u8]) -> Result<(), String> {
        let RunSource::Deflate {
            grain_start,
            grain_bytes,
            ..
        } = run.source
        else {
            unreachable!("called for compressed runs only");
        };
        if grain_start + u64::from(grain_bytes) < self.source.virtual_bytes() {
            return Err(format!("the grain inflates to {found} bytes instead of {grain_bytes}"));
        }
        rest.fill(0);
        Ok(())
    }

    fn write_planned(
        &self,
        places: &[u64],
        length: usize,
        shared: &[bool],
        slot: &mut Slot,
        done: &mut Done,
    ) -> Result<(), ConvertError> {
        let mut pending: Option<(u64, Range<usize>)> = None;
        for (cluster, &place) in places.iter().enumerate() {
            let from = cluster * self.cluster_bytes;
            let to = from + self.cluster_bytes;
            let is_shared = shared.get(cluster).copied().unwrap_or(false);
            let code = if place == 0 {
                ABSENT
            } else if !is_shared && is_zero(&slot.guest[from..to]) {
                PLANNED_ZERO
            } else {
                STORED
            };
            done.outcome.codes.push(code);
            if code != STORED {
                continue;
            }
            done.outcome.data_bytes += bytes_of(to.min(length) - from);
            if is_shared {
                continue;
            }
            match &mut pending {
                Some((at, range)) if range.end == from && *at + bytes_of(range.len()) == place => range.end = to,
                _ => {
                    if let Some((at, range)) = pending.replace((place, from..to)) {
                        self.target.write(&slot.guest[range], at)?;
                    }
                }
            }
        }
        if let Some((at, range)) = pending {
            self.target.write(&slot.guest[range], at)?;
        }
        Ok(())
    }

    fn write_raw(&self, length: usize, shared: &[bool], slot: &mut Slot, done: &mut Done) -> Result<(), ConvertError> {
        let offset = done.outcome.offset;
        let mut begin = None;
        let mut at = 0;
        while at < length {
            let end = length.min(at + RAW_HOLE);
            let is_shared = shared.get(at / self.cluster_bytes).copied().unwrap_or(false);
            let data = !is_shared && !is_zero(&slot.guest[at..end]);
            if data || is_shared {
                done.outcome.data_bytes += bytes_of(end - at);
            }
            if data && begin.is_none() {
                begin = Some(at);
            }
            if !data && let Some(from) = begin.take() {
                self.target.write(&slot.guest[from..at], offset + bytes_of(from))?;
            }
            at = end;
        }
        if let Some(from) = begin {
            self.target.write(&slot.guest[from..length], offset + bytes_of(from))?;
        }
        Ok(())
    }

    fn pack(
        &self,
        length: usize,
        passed: &[Option<Passed>],
        slot: &mut Slot,
        done: &mut Done,
    ) -> Result<(), ConvertError> {
        let guest = std::mem::take(&mut slot.guest);
        let result = self.pack_clusters(length, passed, &guest, slot, done);
        slot.guest = guest;
        result
    }

    fn pack_clusters(
        &self,
        length: usize,
        passed: &[Option<Passed>],
        guest: &[u8],
        slot: &mut Slot,
        done: &mut Done,
    ) -> Result<(), ConvertError> {
        let encoder = slot
            .encoder(self.compress)
            .map_err(|error| ConvertError::Options(format!("the compressor does not start: {error}")))?;
        let size = self.cluster_bytes;
        for cluster in 0..length.div_ceil(size) {
            let from = cluster * size;
            let content = &guest[from..from + size];
            let move_it = passed.get(cluster).and_then(Option::as_ref);
            if move_it.is_none_or(|passed| passed.inflated) && is_zero(content) {
                done.outcome.codes.push(ABSENT);
                done.ranges.push(0..0);
                continue;
            }
            done.outcome.data_bytes += bytes_of(size.min(length - from));
            let (code, range) = if let Some(passed) = move_it {
                (passed.stream.len(), passed.stream.clone())
            } else {
                let begin = done.bytes.len();
                done.bytes.resize(begin + size, 0);
                // A cluster that does not shrink by a byte is stored, as QEMU does it.
                match encoder.compress(content, &mut done.bytes[begin..begin + size - 1]) {
                    Some(found) => {
                        done.bytes.truncate(begin + found);
                        (found, begin..begin + found)
                    }
                    None => {
                        done.bytes[begin..].copy_from_slice(content);
                        (0, begin..begin + size)
                    }
                }
            };
            done.outcome.codes.push(match code {
                0 => STORED,
                length => u32::try_from(length).expect("less than a cluster"),
            });
            done.ranges.push(range);
        }
        Ok(())
    }
}

/// Whether a zlib stream can be a qcow2 cluster once header and checksum are cut off.
fn movable(stream: &[u8], cluster_bytes: usize) -> bool {
    let [first, second, ..] = *stream else { return false };
    let method_and_dictionary = first & 0x0f == 8 && second & 0x20 == 0;
    let check = (u32::from(first) << 8 | u32::from(second)).is_multiple_of(31);
    // 12 bytes: header, checksum, and a deflate stream that can hold anything at all.
    method_and_dictionary && check && stream.len() >= 12 && stream.len() - 6 < cluster_bytes - 1
}

/// Clears what `runs` leave out.
fn clear_gaps(guest: &mut [u8], start: u64, runs: &[Run]) {
    let mut at = 0;
    for run in runs {
        let from = index(run.offset - start);
        guest[at..from].fill(0);
        at = from + index(run.length);
    }
    guest[at..].fill(0);
}
