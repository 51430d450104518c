//! What every extent reader needs while it maps: the open files, a place for notes, and whether damage is tolerated.

use crate::image::map::{RunSource, SourceHandle};
use crate::image::notes::Notes;
use crate::image::segments::Segments;
use crate::image::storage::Storage;
use crate::image::{ImageError, ImageErrorKind};

/// Borrowed from the chain for one call.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Context<'a> {
    pub(crate) files: &'a [SourceHandle],
    pub(crate) notes: &'a Notes,
    pub(crate) salvage: bool,
}

impl Context<'_> {
    /// Damage: an error, or with salvage a note.
    pub(crate) fn damage(&self, error: ImageError) -> Result<(), ImageError> {
        if !self.salvage {
            return Err(error);
        }
        self.notes.add(format!("salvage: {error}"));
        Ok(())
    }
}

/// The stretch of an extent to be mapped, in bytes of that extent.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Window {
    /// Guest offset of the extent's first byte.
    pub(crate) base: u64,
    /// First byte wanted.
    pub(crate) start: u64,
    /// End of what is wanted.
    pub(crate) end: u64,
    /// Length of the extent by its line in the descriptor.
    pub(crate) extent: u64,
}

/// Appends stored bytes: guest `base + [from, to)` from byte `at` of the storage on, cut where its parts are.
pub(crate) fn push_stored(
    storage: &Storage,
    base: u64,
    mut from: u64,
    to: u64,
    mut at: u64,
    out: &mut Segments,
) -> Result<(), ImageError> {
    while from < to {
        let (file, offset, length) = storage
            .locate(at, to - from)
            .ok_or_else(|| storage.error(ImageErrorKind::Truncated, at, "the grain lies past the end of the file"))?;
        out.push(base + from, length, Some(RunSource::Raw { file, offset }));
        from += length;
        at += length;
    }
    Ok(())
}
