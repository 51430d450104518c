//! Reading the runs of a unit: raw stretches, and compressed grains in bulk.

use super::error::ConvertError;
use super::options::Compress;
use super::pool::{Outbox, Slot};
use super::worker::{Context, Passed, bytes_of, index};
use crate::image::map::{Run, RunSource, SourceHandle};
use crate::image::vmdk::SALVAGE_BYTES;
use crate::image::{ImageError, ImageErrorKind};
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

/// Compressed bytes read in one call.
const READ_BYTES: u64 = 4 << 20;
/// Bytes between two grains that are read along rather than skipped.
const READ_GAP: u64 = 16 << 10;
/// Streams shorter than this are probably zeros.
const SHORT_STREAM: usize = 128;
/// Bound on a grain that inflates to more than its visible part.
const MAX_GRAIN: usize = 2 << 20;

impl Context<'_> {
    /// Fills the guest buffer with what `runs` hold, `moved` with compressed grains where they are kept, and `passed` with
    /// what is known of them.
    /// `streams` are the compressed grains of `runs` where they came along with them.
    pub(super) fn read(
        &self,
        start: u64,
        (runs, streams): (&[Run], &[Vec<u8>]),
        shared: &[bool],
        slot: &mut Slot,
        moved: &mut Outbox,
        passed: &mut [Option<Passed>],
    ) -> Result<(), ConvertError> {
        let keeps = self.moves_grains();
        if !streams.is_empty() {
            let path = &self.source.files()[0].path;
            for (run, stream) in runs.iter().zip(streams) {
                let at = if keeps { moved.push(stream).start } else { 0 };
                self.grain(path, start, run, (stream, at), slot, passed)?;
            }
            return Ok(());
        }
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
            let grains = rest[..count].iter().map(|&(run, _, offset, compressed)| {
                let from = index(offset - first);
                (run, from..from + index(u64::from(compressed)))
            });
            if keeps {
                // Read to where it is written from.
                self.pread(handle, first, moved.room(length))?;
                let read = moved.commit(length);
                for (run, range) in grains {
                    let at = read.start + range.start;
                    let stream = moved.at(at..at + range.len());
                    self.grain(&handle.path, start, run, (stream, at), slot, passed)?;
                }
            } else {
                let mut packed = std::mem::take(&mut slot.packed);
                if packed.len() < length {
                    packed.resize(length, 0);
                }
                self.pread(handle, first, &mut packed[..length])?;
                for (run, range) in grains {
                    self.grain(&handle.path, start, run, (&packed[range], 0), slot, passed)?;
                }
                slot.packed = packed;
            }
            rest = &rest[count..];
        }
        Ok(())
    }

    /// Whether compressed grains can become clusters as they are. Where their sizes differ they are not gathered for it: a
    /// unit of small grains would take many times its size.
    fn moves_grains(&self) -> bool {
        matches!(self.compress, Compress::Keep { .. })
            && self.source.compressed_grain_bytes() == Some(bytes_of(self.cluster_bytes))
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
        let Err(error) = handle.file.read_exact_at(out, offset) else {
            return Ok(());
        };
        if error.kind() == std::io::ErrorKind::UnexpectedEof {
            let length = out.len();
            return Err(ImageError::new(
                ImageErrorKind::Truncated,
                &handle.path,
                format!("the file ends before the {length} bytes that were to be read"),
            )
            .at(offset)
            .advise("Copy the file again and compare its length with the original's")
            .into());
        }
        let failed = |error, at| {
            ImageError::io(&handle.path, "reading", error)
                .at(at)
                .advise("Check the disk that holds the source, then resume")
        };
        self.source.damage(failed(error, offset))?;
        // Salvage: what can be read in small pieces is kept, the rest is zeros.
        for (number, piece) in out.chunks_mut(SALVAGE_BYTES).enumerate() {
            let at = offset + bytes_of(number * SALVAGE_BYTES);
            if let Err(error) = handle.file.read_exact_at(piece, at) {
                piece.fill(0);
                self.source.damage(failed(error, at))?;
            }
        }
        Ok(())
    }

    /// Inflates one grain into the guest buffer, or moves it, or both. What salvage drops of it reads as zeros. `at` is where
    /// the stream lies in the outbox; it counts only where grains are moved.
    fn grain(
        &self,
        path: &Path,
        start: u64,
        run: &Run,
        (stream, at): (&[u8], usize),
        slot: &mut Slot,
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
        let grain = index(u64::from(grain_bytes));
        let from = index(run.offset - start);
        let visible = index(run.length);
        let is_cluster = self.moves_grains()
            && run.offset == grain_start
            && visible == grain
            && grain == self.cluster_bytes
            && from.is_multiple_of(self.cluster_bytes);
        let movable = is_cluster && movable(stream, self.cluster_bytes);
        let trusted = self.compress == Compress::Keep { trust: true } && stream.len() >= SHORT_STREAM;
        if !(movable && trusted)
            && let Err(message) = self.inflate(run, grain_start, grain, stream, start, slot)
        {
            let error = ImageError::new(ImageErrorKind::Damaged, path, message)
                .at(offset)
                .advise("Export the disk again; the copy is damaged");
            self.source.damage(error)?;
            slot.guest[from..from + visible].fill(0);
            return Ok(());
        }
        if movable {
            passed[from / self.cluster_bytes] = Some(Passed::Moved {
                stream: at + 2..at + stream.len() - 4,
                inflated: !trusted,
            });
        } else if is_cluster && stream.len() >= self.cluster_bytes {
            passed[from / self.cluster_bytes] = Some(Passed::Stored);
        }
        Ok(())
    }

    /// The visible part of a grain, inflated into the guest buffer with its checksum verified; else what is wrong with it.
    fn inflate(
        &self,
        run: &Run,
        grain_start: u64,
        grain: usize,
        stream: &[u8],
        start: u64,
        slot: &mut Slot,
    ) -> Result<(), String> {
        let from = index(run.offset - start);
        let visible = index(run.length);
        if run.offset == grain_start && visible == grain {
            let out = &mut slot.guest[from..from + grain];
            match slot.inflate.zlib_decompress(stream, out) {
                Ok(found) if found == grain => return Ok(()),
                Ok(found) => return Err(short_grain(found, grain)),
                Err(libdeflater::DecompressionError::InsufficientSpace) => {}
                Err(error) => return Err(format!("the grain does not inflate: {error}")),
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
            .map_err(|error| format!("the grain does not inflate to at most {room} bytes: {error}"))?;
        if found < grain {
            return Err(short_grain(found, grain));
        }
        let skip = index(run.offset - grain_start);
        slot.guest[from..from + visible].copy_from_slice(&slot.scratch[skip..skip + visible]);
        Ok(())
    }
}

/// The length is clipped to the disk's end already: nothing may be shorter, as in the source's own reader.
fn short_grain(found: usize, wanted: usize) -> String {
    format!("the grain inflates to {found} bytes instead of {wanted}")
}

/// Whether a zlib stream can be a qcow2 cluster once header and checksum are cut off.
fn movable(stream: &[u8], cluster_bytes: usize) -> bool {
    let [first, second, ..] = *stream else { return false };
    let method_and_dictionary = first & 0x0f == 8 && second & 0x20 == 0;
    let check = (u32::from(first) << 8 | u32::from(second)).is_multiple_of(31);
    // 12 bytes: header, checksum, and a deflate stream that can hold anything at all.
    method_and_dictionary && check && stream.len() >= 12 && stream.len() - 6 < cluster_bytes - 1
}
