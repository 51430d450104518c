//! What a conversion is asked to do.

use crate::image::qcow2::CompressedFormat;
use std::time::Duration;

/// What is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TargetFormat {
    /// qcow2 version 3.
    Qcow2,
    /// A sparse raw file.
    Raw,
}

impl TargetFormat {
    /// `qcow2` or `raw`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Qcow2 => "qcow2",
            Self::Raw => "raw",
        }
    }
}

/// How clusters of a qcow2 image are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Compress {
    /// Not at all.
    None,
    /// Raw deflate as QEMU writes it (window 4 KiB, level 6): every reader of compressed qcow2 takes it.
    Zlib,
    /// zstd; QEMU 5.1 or newer reads it.
    Zstd {
        /// 1 to 19; 1 is fast, 3 is the size that qemu-img reaches.
        level: i32,
    },
    /// Compressed VMDK grains are moved, not recompressed. The result is for readers that inflate a cluster in one call
    /// or with a 32 KiB window: QEMU, 7-Zip, qcow2-rs and imago do, incremental inflaters told "4 KiB" do not.
    Keep {
        /// Moves grains without inflating them: no checksum is verified and no content hash taken on the way.
        trust: bool,
    },
}

impl Compress {
    pub(super) fn format(self) -> Option<CompressedFormat> {
        match self {
            Self::None => None,
            Self::Zlib | Self::Keep { .. } => Some(CompressedFormat::Deflate),
            Self::Zstd { .. } => Some(CompressedFormat::Zstd),
        }
    }

    pub(super) fn level(self) -> i32 {
        match self {
            Self::Zstd { level } => level,
            _ => 6,
        }
    }
}

/// Whether extents of the source are shared with the target instead of copied, where the file system can (XFS, btrfs).
/// Shared space is split when either file is written to; deleting the source is safe.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reflink {
    /// Where it works, else copy.
    Auto,
    /// Copy.
    Never,
    /// Where it does not work, fail.
    Always,
}

/// What is laid out beyond the guest's data.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Preallocation {
    /// Nothing.
    None,
    /// A place in the image for every guest cluster; the file stays sparse.
    Metadata,
}

/// Options of a conversion.
#[derive(Debug, Clone, PartialEq)]
pub struct CopyOptions {
    /// Format of the target.
    pub format: TargetFormat,
    /// Compression of a qcow2 target.
    pub compress: Compress,
    /// qcow2 cluster size in bytes; `None` = 64 KiB, the grain size with [`Compress::Keep`], 2 MiB with a data file.
    pub cluster_bytes: Option<u64>,
    /// Writes only tables; the guest's disk is the existing flat file, which a running guest then **writes to**.
    pub data_file: bool,
    /// 128-bit L2 entries with subclusters (QEMU 5.2 or newer).
    pub extended_l2: bool,
    /// Places laid out in advance.
    pub preallocation: Preallocation,
    /// Worker threads; `None` = one a processor.
    pub jobs: Option<usize>,
    /// Cap on source bytes read a second.
    pub bwlimit: Option<u64>,
    /// Takes the content hash on the way through.
    pub hash: bool,
    /// Continues an interrupted conversion with the same source and options; starts anew where there is none.
    pub resume: bool,
    /// Sharing of extents.
    pub reflink: Reflink,
    /// Brings data to the disk before the journal and the final name say so. Without it a power loss can cost the file.
    pub sync: bool,
    /// Guest bytes between two entries of the journal.
    pub checkpoint_bytes: u64,
    /// Leaves the journal beside the finished file, so that a caller that is killed before it stores the manifest gets
    /// it again with `resume`. Remove it with [`super::discard_journal`].
    pub keep_journal: bool,
}

impl Default for CopyOptions {
    fn default() -> Self {
        Self {
            format: TargetFormat::Qcow2,
            compress: Compress::None,
            cluster_bytes: None,
            data_file: false,
            extended_l2: false,
            preallocation: Preallocation::None,
            jobs: None,
            bwlimit: None,
            hash: true,
            resume: false,
            reflink: Reflink::Auto,
            sync: true,
            checkpoint_bytes: 256 << 20,
            keep_journal: false,
        }
    }
}

/// How often waiting threads look whether they were told to stop.
pub(super) const POLL: Duration = Duration::from_millis(100);
