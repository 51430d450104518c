//! The file being written: its names, its lock, and what a failed write says.

use super::error::ConvertError;
use rustix::fs::{CWD, FlockOperation, OFlags, RenameFlags, flock, fstatvfs, renameat_with};
use rustix::io::pwritev;
use std::fs::{File, OpenOptions};
use std::io::{self, IoSlice};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

/// A partial file under its lock.
#[derive(Debug)]
pub(super) struct Target {
    /// Name that it gets when complete.
    pub(super) path: PathBuf,
    /// Name until then.
    pub(super) partial: PathBuf,
    pub(super) file: File,
    /// Length of the partial file when it was opened, in bytes.
    pub(super) before: u64,
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// `NAME.partial`.
pub(super) fn partial_path(path: &Path) -> PathBuf {
    with_suffix(path, ".partial")
}

/// `NAME.journal`.
pub(super) fn journal_path(path: &Path) -> PathBuf {
    with_suffix(path, ".journal")
}

/// Brings the name `path` itself to the disk.
pub(super) fn sync_folder(path: &Path) -> io::Result<()> {
    let folder = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    File::open(folder)?.sync_all()
}

impl Target {
    /// Opens or creates the partial file and locks it.
    pub(super) fn open(path: &Path) -> Result<Self, ConvertError> {
        let partial = partial_path(path);
        let failed = |error| ConvertError::target(&partial, "creating", error);
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            // Whoever put a link there gets nothing written through it.
            .custom_flags(OFlags::NOFOLLOW.bits().cast_signed())
            .open(&partial)
            .map_err(failed)?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => return Err(ConvertError::Locked { path: partial }),
            // A file system without locks: go on without.
            Err(_) => {}
        }
        let before = file.metadata().map_err(failed)?.len();
        Ok(Self {
            path: path.to_owned(),
            partial,
            file,
            before,
        })
    }

    /// Writes `bytes` at `offset`.
    pub(super) fn write(&self, bytes: &[u8], offset: u64) -> Result<(), ConvertError> {
        self.file
            .write_all_at(bytes, offset)
            .map_err(|error| self.failed("writing", offset, error))
    }

    /// Writes `pieces` one behind the other from `offset` on.
    pub(super) fn write_pieces(&self, mut pieces: &mut [IoSlice<'_>], mut offset: u64) -> Result<(), ConvertError> {
        while !pieces.is_empty() {
            match pwritev(&self.file, pieces, offset) {
                Ok(0) => {
                    let error = io::Error::from(io::ErrorKind::WriteZero);
                    return Err(self.failed("writing", offset, error));
                }
                Ok(written) => {
                    offset += u64::try_from(written).expect("what fits into memory");
                    IoSlice::advance_slices(&mut pieces, written);
                }
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(self.failed("writing", offset, error.into())),
            }
        }
        Ok(())
    }

    /// Length now, in bytes.
    pub(super) fn bytes(&self) -> Result<u64, ConvertError> {
        let facts = self
            .file
            .metadata()
            .map_err(|error| self.failed("looking at", 0, error))?;
        Ok(facts.len())
    }

    /// Sets the length to `length` bytes.
    pub(super) fn cut(&self, length: u64) -> Result<(), ConvertError> {
        self.file
            .set_len(length)
            .map_err(|error| self.failed("setting the length of", length, error))
    }

    /// The error for a failed write; what a full disk needs is filled in by the ledger.
    pub(super) fn failed(&self, doing: &'static str, offset: u64, error: io::Error) -> ConvertError {
        if matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) {
            return ConvertError::NoSpace {
                path: self.partial.clone(),
                offset,
                free: fstatvfs(&self.file).map_or(0, |facts| facts.f_bavail.saturating_mul(facts.f_frsize)),
                needed: None,
                source: error,
            };
        }
        ConvertError::target(&self.partial, doing, error)
    }

    /// Gives the file its final name, which must be free.
    pub(super) fn publish(&self, sync: bool) -> Result<(), ConvertError> {
        let failed = |error: io::Error| {
            if error.kind() == io::ErrorKind::AlreadyExists {
                ConvertError::TargetExists {
                    path: self.path.clone(),
                }
            } else {
                ConvertError::target(&self.path, "renaming", error)
            }
        };
        match renameat_with(CWD, &self.partial, CWD, &self.path, RenameFlags::NOREPLACE) {
            Ok(()) => {}
            // A file system without the flag (NFS): the lock keeps other conversions away.
            Err(rustix::io::Errno::INVAL) => {
                if self.path.symlink_metadata().is_ok() {
                    return Err(ConvertError::TargetExists {
                        path: self.path.clone(),
                    });
                }
                std::fs::rename(&self.partial, &self.path).map_err(failed)?;
            }
            Err(error) => return Err(failed(error.into())),
        }
        if sync && let Err(error) = sync_folder(&self.path) {
            // An error leaves nothing under the final name, as everywhere. The partial file can be resumed.
            let _ = std::fs::rename(&self.path, &self.partial);
            return Err(ConvertError::target(&self.path, "syncing the folder of", error));
        }
        Ok(())
    }
}
