//! Reading the runs of a unit: raw stretches, and compressed grains in bulk.

use super::error::ConvertError;
use super::options::Compress;
use super::pool::{Outbox, Slot};
use super::worker::{Context, Passed, bytes_of, index};
use crate::image::map::{Run, RunSource, SourceHandle};
use crate::image::{ImageError, ImageErrorKind};
use std::ops::Range;
use std::os::unix::fs::FileExt as _;

/// Compressed bytes read in one call.
const READ_BYTES: u64 = 4 << 20;
/// Bytes between two grains that are read along rather than skipped.
const READ_GAP: u64 = 16 << 10;
/// Streams shorter than this are probably zeros.
const SHORT_STREAM: usize = 128;
/// Bound on a grain that inflates to more than its visible part.
const MAX_GRAIN: usize = 2 << 20;

impl Context<'_> {
    /// Fills the guest buffer with what `runs` hold, and `passed` and `moved` with grains that need no recompression.
    pub(super) fn read(
        &self,
        start: u64,
        runs: &[Run],
        shared: &[bool],
        slot: &mut Slot,
        moved: &mut Outbox,
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
        moved: &mut Outbox,
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
            passed[from / self.cluster_bytes] = Some(Passed {
                stream: moved.push(&stream[2..stream.len() - 4]),
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
                Ok(found) => return Err(damaged(short_grain(found, grain))),
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
        if found < grain {
            return Err(damaged(short_grain(found, grain)));
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
