//! One image file as the format sees it, whatever it lies in: a file, a window of a file (a member of an OVA), or
//! several of these joined in order (`ovf:chunkSize`).
//!
//! Runs must point into real files. Where a compressed grain crosses the seam of two chunks no single file holds it, so
//! exactly these bytes are copied to an unlinked memory file, which then is one of the source's files.

use std::fs::File;
use std::io::ErrorKind;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use rustix::fs::{MemfdFlags, Timespec, Timestamps};

use super::bytes::{to_u64, to_usize};
use super::map::{FileIndex, SourceHandle};
use super::{ImageError, ImageErrorKind};

/// Joined chunks above this are refused.
pub(crate) const MAX_PARTS: usize = 4096;
/// Most memory that grains across seams may take, at a grain a seam: 1,024 seams of 64 KiB grains.
const MAX_SEAM_BYTES: u64 = 64 << 20;

/// A stretch of the image in one file.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Part {
    /// Where it begins in the image.
    pub(crate) start: u64,
    /// Its bytes, never 0.
    pub(crate) length: u64,
    /// The file.
    pub(crate) file: FileIndex,
    /// Where it begins in that file.
    pub(crate) base: u64,
}

/// An image file.
#[derive(Debug, Clone)]
pub(crate) struct Storage {
    /// For messages.
    pub(crate) path: PathBuf,
    /// Bytes in all.
    pub(crate) length: u64,
    parts: Vec<Part>,
    seams: Option<Seams>,
}

/// The memory file for grains across seams: around seam `k` it holds the image bytes `seam ± reach` at `k * 2 * reach`.
#[derive(Debug, Clone, Copy)]
struct Seams {
    file: FileIndex,
    reach: u64,
}

impl Storage {
    /// The image made of `parts` in this order.
    pub(crate) fn new(path: &Path, mut parts: Vec<Part>) -> Result<Self, ImageError> {
        let mut length = 0_u64;
        parts.retain(|part| part.length > 0);
        if parts.len() > MAX_PARTS {
            return Err(ImageError::new(
                ImageErrorKind::Limit,
                path,
                format!(
                    "the disk is cut into {} chunks, at most {MAX_PARTS} are accepted",
                    parts.len()
                ),
            ));
        }
        for part in &mut parts {
            part.start = length;
            length = length
                .checked_add(part.length)
                .ok_or_else(|| ImageError::new(ImageErrorKind::Limit, path, "the chunks' lengths overflow 64 bits"))?;
        }
        Ok(Self {
            path: path.to_owned(),
            length,
            parts,
            seams: None,
        })
    }

    /// Makes [`Storage::contiguous`] work across seams for grains of up to `reach` bytes when compressed. Adds a file where
    /// there are seams.
    pub(crate) fn stitch(
        &mut self,
        files: &mut Vec<SourceHandle>,
        grain: u64,
        reach: u64,
        link: usize,
    ) -> Result<(), ImageError> {
        if self.parts.len() < 2 || self.seams.is_some() {
            return Ok(());
        }
        let seams = to_u64(self.parts.len() - 1);
        if seams.saturating_mul(grain) > MAX_SEAM_BYTES {
            return Err(ImageError::new(
                ImageErrorKind::Limit,
                &self.path,
                format!(
                    "the compressed disk is cut at {seams} places, at most {} are accepted with grains of {grain} bytes",
                    MAX_SEAM_BYTES / grain
                ),
            )
            .advise("Join the chunks into one file (cat DISK.* > DISK), then convert that"));
        }
        let shown = PathBuf::from(format!("{} (seams)", self.path.display()));
        let failed = |error: rustix::io::Errno| ImageError::io(&shown, "creating the memory file", error.into());
        let memory = File::from(rustix::fs::memfd_create("seams", MemfdFlags::CLOEXEC).map_err(failed)?);
        let bytes = to_u64(self.parts.len()).saturating_mul(reach).saturating_mul(2);
        memory
            .set_len(bytes)
            .map_err(|error| ImageError::io(&shown, "sizing the memory file", error))?;
        set_epoch(&memory).map_err(failed)?;
        self.seams = Some(Seams {
            file: files.len(),
            reach,
        });
        files.push(SourceHandle {
            path: shown,
            file: memory,
            bytes,
            mtime_ns: 0,
            link,
        });
        Ok(())
    }

    /// An error about this image.
    pub(crate) fn error(&self, kind: ImageErrorKind, offset: u64, message: impl Into<String>) -> ImageError {
        ImageError::new(kind, &self.path, message).at(offset)
    }

    fn part_at(&self, offset: u64) -> usize {
        self.parts.partition_point(|part| part.start + part.length <= offset)
    }

    /// Refuses a range that isn't wholly inside.
    pub(crate) fn check(&self, offset: u64, length: u64, what: &str) -> Result<(), ImageError> {
        match offset.checked_add(length) {
            Some(end) if end <= self.length => Ok(()),
            _ => Err(self
                .error(
                    ImageErrorKind::Truncated,
                    offset,
                    format!(
                        "{what} needs {length} bytes, {} present in a file of {}",
                        self.length.saturating_sub(offset),
                        self.length
                    ),
                )
                .advise("Copy or export the file again and compare its size with the source's")),
        }
    }

    /// Fills `buffer` from `offset`.
    pub(crate) fn read(
        &self,
        files: &[SourceHandle],
        offset: u64,
        buffer: &mut [u8],
        what: &str,
    ) -> Result<(), ImageError> {
        self.check(offset, to_u64(buffer.len()), what)?;
        let mut done = 0;
        let mut index = self.part_at(offset);
        while done < buffer.len() {
            let position = offset + to_u64(done);
            let part = self.parts[index];
            let inside = position - part.start;
            let take = to_usize((part.length - inside).min(to_u64(buffer.len() - done)));
            let handle = &files[part.file];
            handle
                .file
                .read_exact_at(&mut buffer[done..done + take], part.base + inside)
                .map_err(|error| {
                    if error.kind() == ErrorKind::UnexpectedEof {
                        ImageError::new(
                            ImageErrorKind::Changed,
                            &handle.path,
                            "the file became shorter while it was read",
                        )
                        .at(part.base + inside)
                        .advise("Make sure that nothing writes to the source, then start again")
                    } else {
                        ImageError::io(&handle.path, "reading", error).at(part.base + inside)
                    }
                })?;
            done += take;
            index += 1;
        }
        Ok(())
    }

    /// `length` bytes from `offset` in a new buffer. The length is checked against the file before it is allocated.
    pub(crate) fn read_vec(
        &self,
        files: &[SourceHandle],
        offset: u64,
        length: u64,
        what: &str,
    ) -> Result<Vec<u8>, ImageError> {
        self.check(offset, length, what)?;
        let mut buffer = vec![0; to_usize(length)];
        self.read(files, offset, &mut buffer, what)?;
        Ok(buffer)
    }

    /// The file, the offset in it and how many bytes from `offset` on lie there in one piece, at most `length`.
    pub(crate) fn locate(&self, offset: u64, length: u64) -> Option<(FileIndex, u64, u64)> {
        let part = self.parts.get(self.part_at(offset))?;
        let inside = offset - part.start;
        Some((part.file, part.base + inside, (part.length - inside).min(length)))
    }

    /// One file and offset that hold the whole range; across a seam that is the memory file.
    pub(crate) fn contiguous(
        &self,
        files: &[SourceHandle],
        offset: u64,
        length: u64,
    ) -> Result<(FileIndex, u64), ImageError> {
        self.check(offset, length, "compressed grain")?;
        let index = self.part_at(offset);
        let part = self.parts[index];
        if offset + length <= part.start + part.length {
            return Ok((part.file, part.base + (offset - part.start)));
        }
        let seam = part.start + part.length;
        let seams = self.seams.filter(|seams| length <= seams.reach).ok_or_else(|| {
            self.error(
                ImageErrorKind::Limit,
                offset,
                "a grain of this length crosses two chunks",
            )
        })?;
        let bytes = self.read_vec(files, offset, length, "compressed grain")?;
        let position = to_u64(index) * 2 * seams.reach + (offset + seams.reach - seam);
        let handle = &files[seams.file];
        handle
            .file
            .write_all_at(&bytes, position)
            .map_err(|error| ImageError::io(&handle.path, "writing", error))?;
        set_epoch(&handle.file).map_err(|error| ImageError::io(&handle.path, "writing", error.into()))?;
        Ok((seams.file, position))
    }
}

/// Keeps the modification time fixed, so that the check for changed sources isn't alarmed by our own memory file.
fn set_epoch(file: &File) -> Result<(), rustix::io::Errno> {
    let epoch = Timespec { tv_sec: 0, tv_nsec: 0 };
    rustix::fs::futimens(
        file,
        &Timestamps {
            last_access: epoch,
            last_modification: epoch,
        },
    )
}
