//! The file systems of a guest's disk, read only as far as asked and never beyond a bound.

use super::volumes::Part;
use crate::{Result, RunnerError};
use ext4_view::{Ext4, Ext4Error};
use std::fs::OpenOptions;
use std::io::{Seek, SeekFrom, Write};
use std::path::Path;

const PIECE: usize = 1 << 20;

/// What a boot loader needs of a file system, wherever that is read. Paths are absolute in the guest; symbolic links are followed
/// inside this file system only.
pub(super) trait Files {
    /// `partition 2 of web01.qcow2`, for people.
    fn place(&self) -> &str;

    /// In its text form.
    fn uuid(&self) -> &str;

    /// Whether it is a regular file.
    fn is_file(&self, path: &str) -> bool;

    /// Writes a file of at most `limit` bytes; says how long it is, or why not.
    fn stream(&self, path: &str, limit: u64, out: &mut dyn Write) -> std::result::Result<u64, String>;

    /// At most `limit` names in a folder.
    fn names(&self, folder: &str, limit: usize) -> Vec<String>;

    /// A text file of at most `limit` bytes.
    fn text(&self, path: &str, limit: u64) -> Option<String> {
        if !self.is_file(path) {
            return None;
        }
        let mut bytes = Vec::new();
        self.stream(path, limit, &mut bytes).ok()?;
        Some(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// Copies a file of at most `limit` bytes out; says how long it is.
    fn copy(&self, path: &str, target: &Path, limit: u64) -> Result<u64> {
        let mut out = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .open(target)
            .map_err(|error| RunnerError::io("writing", target, error))?;
        self.stream(path, limit, &mut out).map_err(|why| RunnerError::Unusable {
            what: format!("{path} of {} cannot be read: {why}", self.place()),
            advice: "Boot through the guest's own boot loader (--engine qemu)".into(),
        })
    }
}

/// An ext4 file system that the host reads.
pub(super) struct FileSystem {
    inner: Ext4,
    place: String,
    uuid: String,
}

impl FileSystem {
    /// Opens what lies in `part`.
    pub(super) fn open(part: Part, place: String) -> std::result::Result<Self, Ext4Error> {
        let inner = Ext4::load(Box::new(part))?;
        let uuid = inner.uuid().to_string();
        Ok(Self { inner, place, uuid })
    }
}

impl Files for FileSystem {
    fn place(&self) -> &str {
        &self.place
    }

    fn uuid(&self) -> &str {
        &self.uuid
    }

    fn is_file(&self, path: &str) -> bool {
        self.inner
            .metadata(path)
            .is_ok_and(|metadata| metadata.file_type().is_regular_file())
    }

    fn stream(&self, path: &str, limit: u64, out: &mut dyn Write) -> std::result::Result<u64, String> {
        let mut file = self.inner.open(path).map_err(|error| error.to_string())?;
        let mut buffer = vec![0; PIECE];
        let mut total: u64 = 0;
        loop {
            let count = file.read_bytes(&mut buffer).map_err(|error| error.to_string())?;
            if count == 0 {
                return Ok(total);
            }
            // Counted, not believed from the inode.
            total = total.saturating_add(u64::try_from(count).unwrap_or(u64::MAX));
            if total > limit {
                return Err(format!("larger than {limit} bytes"));
            }
            out.write_all(&buffer[..count]).map_err(|error| error.to_string())?;
        }
    }

    fn names(&self, folder: &str, limit: usize) -> Vec<String> {
        let Ok(entries) = self.inner.read_dir(folder) else {
            return Vec::new();
        };
        entries
            .take(limit)
            .filter_map(|entry| entry.ok()?.file_name().as_str().ok().map(str::to_owned))
            .collect()
    }
}

/// Moves `part` behind the first `at` bytes of `whole`.
pub(super) fn append(part: &Path, whole: &Path, at: u64) -> Result<()> {
    if at == 0 {
        return std::fs::rename(part, whole).map_err(|error| RunnerError::io("renaming", part, error));
    }
    let failed = |error| RunnerError::io("writing", whole, error);
    let mut from = std::fs::File::open(part).map_err(|error| RunnerError::io("reading", part, error))?;
    let mut out = OpenOptions::new().write(true).open(whole).map_err(failed)?;
    out.seek(SeekFrom::Start(at)).map_err(failed)?;
    std::io::copy(&mut from, &mut out).map_err(failed)?;
    std::fs::remove_file(part).map_err(|error| RunnerError::io("removing", part, error))
}
