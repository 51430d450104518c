//! Sharing extents with the source instead of copying them.
//!
//! `copy_file_range` within one XFS or btrfs shares extents where the ranges are aligned to file-system blocks, but silently
//! copies where the file system was made without sharing: so two blocks are cloned first, to see. Where nothing is hashed,
//! it also copies in the kernel on any other file system (on NFS 4.2 on the server); with a hash the data has to come
//! through memory anyway, and is written from there.

use super::error::ConvertError;
use super::options::{Compress, CopyOptions, Reflink};
use super::plan::Unit;
use super::target::Target;
use super::worker::{Context, Mode};
use crate::image::map::{DiskSource, RunSource};
use rustix::fs::{CWD, Mode as FileMode, OFlags, copy_file_range, fstat, fstatfs, ioctl_ficlone, openat};
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

const XFS_MAGIC: i128 = 0x5846_5342;
const BTRFS_MAGIC: i128 = 0x9123_683e;

/// Whether and how ranges of the source reach the target without passing through memory.
#[derive(Debug)]
pub(super) struct Sharing {
    /// Block size in bytes to which ranges are aligned.
    block: u64,
    demanded: bool,
    /// Blocks are shared, not copied in the kernel.
    shares: bool,
    active: AtomicBool,
    /// Bytes that took this way.
    pub(super) bytes: AtomicU64,
}

impl Sharing {
    /// Looks at the file systems of the source's files and of `target`, which gets or has the name `path`. Compressed
    /// targets never share.
    pub(super) fn detect(
        options: &CopyOptions,
        hash: bool,
        source: &dyn DiskSource,
        target: &File,
        path: &Path,
    ) -> Result<Self, ConvertError> {
        let uncompressed = options.compress == Compress::None;
        let wanted = options.reflink != Reflink::Never && uncompressed;
        let block = if wanted {
            let blocks = source.files().iter().map(|handle| block(&handle.file, target));
            blocks.min().unwrap_or(0)
        } else {
            0
        };
        let shares = block != 0 && can_share(path, block);
        if !shares && options.reflink == Reflink::Always {
            return Err(ConvertError::Reflink {
                path: path.to_owned(),
                detail: if uncompressed {
                    "source and target do not lie on one XFS or btrfs that shares blocks: extents cannot be shared"
                        .into()
                } else {
                    "compressed targets cannot share extents".into()
                },
            });
        }
        Ok(Self {
            block: block.max(1),
            demanded: options.reflink == Reflink::Always,
            shares,
            active: AtomicBool::new(shares || wanted && !hash),
            bytes: AtomicU64::new(0),
        })
    }

    /// Nothing is shared.
    pub(super) fn none() -> Self {
        Self {
            block: 1,
            demanded: false,
            shares: false,
            active: AtomicBool::new(false),
            bytes: AtomicU64::new(0),
        }
    }

    /// Whether blocks are shared with the source: `None` where not, else the bytes that were.
    pub(super) fn shared(&self) -> Option<u64> {
        (self.shares && self.is_active()).then(|| self.bytes.load(Ordering::Relaxed))
    }

    /// Whether ranges go past memory.
    pub(super) fn is_active(&self) -> bool {
        self.active.load(Ordering::Relaxed)
    }

    /// Shares what can be shared of `unit`: one flag a cluster, empty where nothing is tried.
    pub(super) fn share(&self, context: &Context<'_>, unit: &Unit) -> Result<Vec<bool>, ConvertError> {
        if !self.is_active() {
            return Ok(Vec::new());
        }
        let size = u64::try_from(context.cluster_bytes).expect("a cluster fits");
        let count = usize::try_from(unit.length.div_ceil(size)).expect("a unit fits");
        let mut shared = vec![false; count];
        for run in &unit.runs {
            let RunSource::Raw { file, offset } = run.source else {
                continue;
            };
            let end = run.offset + run.length;
            let mut at = run.offset.next_multiple_of(size);
            while at + size <= end {
                let place = |at: u64| match context.mode {
                    Mode::Raw => at,
                    _ => unit.places[usize::try_from((at - unit.offset) / size).expect("inside the unit")],
                };
                let (begin, to) = (at, place(at));
                at += size;
                while at + size <= end && place(at) == to + (at - begin) {
                    at += size;
                }
                let from = offset + (begin - run.offset);
                if !from.is_multiple_of(self.block) || !to.is_multiple_of(self.block) {
                    continue;
                }
                let length = at - begin;
                if self.range(&context.source.files()[file].file, from, context.target, to, length)? {
                    self.bytes.fetch_add(length, Ordering::Relaxed);
                    for cluster in (begin - unit.offset) / size..(at - unit.offset) / size {
                        shared[usize::try_from(cluster).expect("inside the unit")] = true;
                    }
                }
            }
        }
        Ok(shared)
    }

    fn range(
        &self,
        from: &File,
        mut offset: u64,
        target: &Target,
        mut to: u64,
        length: u64,
    ) -> Result<bool, ConvertError> {
        let mut left = length;
        while left > 0 {
            let step = usize::try_from(left).unwrap_or(usize::MAX);
            match copy_file_range(from, Some(&mut offset), &target.file, Some(&mut to), step) {
                // The source ends here: the ordinary way gives the error with its place.
                Ok(0) => return Ok(false),
                Ok(copied) => left -= u64::try_from(copied).expect("at most what was asked for"),
                Err(rustix::io::Errno::INTR) => {}
                Err(error @ (rustix::io::Errno::NOSPC | rustix::io::Errno::DQUOT | rustix::io::Errno::IO)) => {
                    return Err(target.failed("sharing extents", to, error.into()));
                }
                Err(error) => {
                    self.active.store(false, Ordering::Relaxed);
                    if self.demanded {
                        return Err(ConvertError::Reflink {
                            path: target.partial.clone(),
                            detail: format!("the file system refuses to share extents: {error}"),
                        });
                    }
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }
}

/// Block size of the one file system that may share blocks between the two files; 0 where they lie on no such.
fn block(source: &File, target: &File) -> u64 {
    let (Ok(a), Ok(b)) = (fstat(source), fstat(target)) else {
        return 0;
    };
    let (Ok(kind), Ok(other)) = (fstatfs(source), fstatfs(target)) else {
        return 0;
    };
    let magic = i128::from(kind.f_type);
    // btrfs gives each subvolume a device number of its own.
    let same = a.st_dev == b.st_dev || (magic == BTRFS_MAGIC && kind.f_type == other.f_type);
    match magic {
        XFS_MAGIC | BTRFS_MAGIC if same => u64::try_from(kind.f_bsize).unwrap_or(4096).max(4096),
        _ => 0,
    }
}

/// Whether the file system of `path` really shares blocks: two nameless files beside it try. XFS may be made without.
fn can_share(path: &Path, block: u64) -> bool {
    let folder = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let nameless = || {
        let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
        openat(CWD, folder, flags, FileMode::RUSR | FileMode::WUSR).map(File::from)
    };
    let (Ok(from), Ok(to)) = (nameless(), nameless()) else {
        return false;
    };
    let bytes = vec![1; usize::try_from(block).unwrap_or(4096)];
    from.write_all_at(&bytes, 0).is_ok() && ioctl_ficlone(&to, &from).is_ok()
}
