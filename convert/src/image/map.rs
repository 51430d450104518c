//! The extent map: which bytes of the guest-visible disk lie where.
//!
//! Conversion, verification, sizing and progress all work from [`Run`]s. All knowledge of a format ends here: whoever
//! consumes runs needs no VMDK words.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::PathBuf;

use serde::Serialize;

/// Index into [`DiskSource::files`].
pub type FileIndex = usize;

/// Where the bytes of a run come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RunSource {
    /// Nothing was ever written, in no link of the chain: reads as zeros.
    Hole,
    /// Explicitly zero (zeroed grain, ZERO extent): reads as zeros whatever a parent holds.
    Zero,
    /// Stored as it is: guest byte `run.offset + i` is byte `offset + i` of the file.
    Raw {
        /// Which file.
        file: FileIndex,
        /// Byte offset in it.
        offset: u64,
    },
    /// One zlib-compressed grain. The run is the part of the grain that is visible; the grain itself starts at guest
    /// offset `grain_start` and inflates to at most `grain_bytes`.
    Deflate {
        /// Which file.
        file: FileIndex,
        /// Byte offset of the zlib header (behind the marker).
        offset: u64,
        /// Compressed length in bytes, zlib header and checksum included.
        compressed: u32,
        /// Guest offset of the grain's first byte.
        grain_start: u64,
        /// Guest bytes in the grain, clipped to the disk's end for the last one.
        grain_bytes: u32,
    },
}

/// A stretch of the guest-visible disk with one source.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Run {
    /// Guest offset in bytes.
    pub offset: u64,
    /// Length in bytes, never 0.
    pub length: u64,
    /// Where its bytes come from.
    pub source: RunSource,
}

/// A file of the chain that runs point into. Opened once, through the gate, read-only.
#[derive(Debug)]
pub struct SourceHandle {
    /// As shown to people and in `inspect --map`.
    pub path: PathBuf,
    /// The open file; read with positioned reads only.
    pub file: File,
    /// Length when it was opened, in bytes.
    pub bytes: u64,
    /// Modification time when it was opened, nanoseconds since 1970.
    pub mtime_ns: i64,
    /// Number of the link in the chain, 0 = newest.
    pub link: usize,
}

/// A guest-visible disk that can be mapped and read from several threads at once.
pub trait DiskSource: Send + Sync {
    /// Guest-visible size in bytes.
    fn virtual_bytes(&self) -> u64;

    /// What it is, for people: `streamOptimized`, `vmfs + seSparse delta`.
    fn kind(&self) -> String;

    /// Files that runs point into.
    fn files(&self) -> &[SourceHandle];

    /// Grain size in bytes where every compressed grain has the same, for deflate passthrough. Where it is `None` and
    /// there are compressed runs all the same, a grain has at most 1 MiB.
    fn compressed_grain_bytes(&self) -> Option<u64>;

    /// The runs that cover `[offset, offset + length)`, ascending, without gaps or overlap, clipped to that window.
    /// Neighbours with the same kind of source and consecutive file offsets are joined; compressed grains are not.
    /// Memory is bounded by the window, not by the disk: callers map a window of some hundred MiB at a time.
    ///
    /// # Errors
    /// Damaged tables (with file and offset), read errors, a window past the end.
    fn map(&self, offset: u64, length: u64) -> Result<Vec<Run>, super::ImageError>;

    /// Reads guest bytes, holes as zeros, compressed grains inflated and their checksum verified.
    ///
    /// # Errors
    /// As [`DiskSource::map`], and damaged grains.
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<(), super::ImageError>;

    /// Oddities met and tolerated so far, in words.
    fn notes(&self) -> Vec<String>;

    /// What becomes of damage that was met in the data itself: an error, or with salvage a note, and zeros instead.
    ///
    /// # Errors
    /// `error`, without salvage.
    fn damage(&self, error: super::ImageError) -> Result<(), super::ImageError> {
        Err(error)
    }

    /// What the chain is made of, for `inspect`.
    fn facts(&self) -> DiskFacts {
        DiskFacts::default()
    }
}

/// What a chain is made of.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DiskFacts {
    /// The links, newest first.
    pub links: Vec<LinkFacts>,
    /// The disk data base (`ddb.` keys in lower case, without the prefix); a newer link's value wins.
    pub ddb: BTreeMap<String, String>,
}

/// One link of a chain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LinkFacts {
    /// Its descriptor.
    pub path: PathBuf,
    /// `createType`, a label.
    pub create_type: Option<String>,
    /// Content id, eight hexadecimal digits.
    pub cid: Option<String>,
    /// Content id of the parent, where it has one.
    pub parent_cid: Option<String>,
    /// Guest bytes.
    pub virtual_bytes: u64,
    /// Kind of each extent, by its content.
    pub extents: Vec<String>,
}

impl SourceHandle {
    /// Whether the file still has the length and modification time that it had when it was opened.
    ///
    /// # Errors
    /// [`super::ImageErrorKind::Changed`] where not, and the failure to ask.
    pub fn check_unchanged(&self) -> Result<(), super::ImageError> {
        let stat = rustix::fs::fstat(&self.file)
            .map_err(|error| super::ImageError::io(&self.path, "asking for the length", error.into()))?;
        let bytes = u64::try_from(stat.st_size).unwrap_or(0);
        if bytes == self.bytes && super::gate::mtime_ns(&stat) == self.mtime_ns {
            return Ok(());
        }
        let message = format!(
            "the file changed while it was read: {} bytes when opened, {bytes} now",
            self.bytes
        );
        Err(
            super::ImageError::new(super::ImageErrorKind::Changed, &self.path, message)
                .advise("Power the guest off, or copy from a snapshot, then start again"),
        )
    }
}
