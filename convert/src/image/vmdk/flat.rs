//! Flat extents, and raw images: bytes as the guest sees them. Holes of the file system become holes of the map.

use rustix::fs::SeekFrom;
use rustix::io::Errno;

use crate::image::ImageError;
use crate::image::map::{RunSource, SourceHandle};
use crate::image::segments::Segments;
use crate::image::storage::Storage;

use super::context::{Context, Window};

/// An opened flat extent.
#[derive(Debug)]
pub(crate) struct FlatExtent {
    storage: Storage,
    /// Where the extent begins in the file.
    offset: u64,
    /// Bytes that the file has for it.
    length: u64,
}

impl FlatExtent {
    /// `length` bytes from `offset` on. A shorter file is refused; salvage fills with zeros.
    pub(crate) fn open(context: Context<'_>, storage: Storage, offset: u64, length: u64) -> Result<Self, ImageError> {
        let mut have = length;
        if let Err(error) = storage.check(offset, length, "flat extent") {
            context.damage(error)?;
            have = storage.length.saturating_sub(offset).min(length);
        }
        Ok(Self {
            storage,
            offset,
            length: have,
        })
    }

    /// Appends the window's segments to `out`. Everything is present: a flat extent hides its parent.
    pub(crate) fn map(&self, context: Context<'_>, window: Window, out: &mut Segments) {
        let end = window.end.min(self.length);
        let mut at = window.start.min(end);
        while at < end {
            let Some((file, offset, length)) = self.storage.locate(self.offset + at, end - at) else {
                break;
            };
            push_data(&context.files[file], file, offset, length, window.base + at, out);
            at += length;
        }
        let reached = at.max(window.start);
        out.push(window.base + reached, window.end - reached, Some(RunSource::Zero));
    }
}

/// Data and holes of `[offset, offset + length)` of a file.
fn push_data(handle: &SourceHandle, file: usize, offset: u64, length: u64, guest: u64, out: &mut Segments) {
    let end = offset + length;
    let mut at = offset;
    while at < end {
        // lseek moves a shared position that nobody uses: all reads are positioned.
        let data = match rustix::fs::seek(&handle.file, SeekFrom::Data(at)) {
            Ok(data) => data.clamp(at, end),
            // Also the answer where the file was shortened meanwhile: then reading has to fail, not to yield zeros.
            Err(Errno::NXIO)
                if rustix::fs::fstat(&handle.file)
                    .is_ok_and(|stat| u64::try_from(stat.st_size).is_ok_and(|size| size >= end)) =>
            {
                end
            }
            Err(_) => at,
        };
        out.push(guest + (at - offset), data - at, Some(RunSource::Hole));
        if data >= end {
            break;
        }
        let hole = match rustix::fs::seek(&handle.file, SeekFrom::Hole(data)) {
            Ok(hole) if hole > data => hole.min(end),
            _ => end,
        };
        out.push(
            guest + (data - offset),
            hole - data,
            Some(RunSource::Raw { file, offset: data }),
        );
        at = hole;
    }
}
