//! That the real disks were not touched: a mark of each file before and after.

use super::ProveRequest;
use crate::{Result, RunnerError};
use convert::progress::Progress;
use std::fs::{File, Metadata};
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

/// Up to so many bytes in all disk files together, [`DiskCheck::Auto`] reads the content: a few seconds.
const READ_AT_MOST: u64 = 2 << 30;

/// How the disks are compared before and after.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum DiskCheck {
    /// By content where that takes seconds, else by identity.
    #[default]
    Auto,
    /// BLAKE3 of the whole file, twice.
    Content,
    /// Inode, size, mtime and ctime. Whatever writes to a file, through a mapping too, changes its ctime, and no call sets it back.
    Identity,
}

impl DiskCheck {
    /// `content` or `identity`, for the record.
    pub(super) fn name(self, request: &ProveRequest) -> &'static str {
        let content = match self {
            Self::Content => true,
            Self::Identity => false,
            Self::Auto => {
                let bytes = request
                    .real
                    .iter()
                    .map(|path| path.metadata().map_or(0, |facts| facts.blocks().saturating_mul(512)));
                bytes.fold(0, u64::saturating_add) <= READ_AT_MOST
            }
        };
        if content { "content" } else { "identity" }
    }
}

/// The mark of each real disk file, named relative to the run folder where it lies inside. `check` is [`DiskCheck::name`]'s.
pub(super) fn marks(
    request: &ProveRequest,
    check: &str,
    progress: &dyn Progress,
    cancel: &AtomicBool,
) -> Result<Vec<(String, String)>> {
    let mut found = Vec::new();
    for path in &request.real {
        let file = File::open(path).map_err(|error| RunnerError::io("reading", path, error))?;
        let facts = file
            .metadata()
            .map_err(|error| RunnerError::io("reading", path, error))?;
        let name = path
            .strip_prefix(&request.out)
            .unwrap_or(path)
            .to_string_lossy()
            .into_owned();
        let mark = if check == "content" {
            hash(file, &facts, path, &name, progress, cancel)?
        } else {
            identity(&facts)
        };
        found.push((name, mark));
    }
    Ok(found)
}

fn identity(facts: &Metadata) -> String {
    format!(
        "inode {}:{}, {} bytes, mtime {}.{:09}, ctime {}.{:09}",
        facts.dev(),
        facts.ino(),
        facts.len(),
        facts.mtime(),
        facts.mtime_nsec(),
        facts.ctime(),
        facts.ctime_nsec()
    )
}

fn hash(
    mut file: File,
    facts: &Metadata,
    path: &Path,
    name: &str,
    progress: &dyn Progress,
    cancel: &AtomicBool,
) -> Result<String> {
    let what = format!("hash {name}");
    progress.begin(&what, facts.len());
    let mut hasher = blake3::Hasher::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        if cancel.load(Ordering::Relaxed) {
            return Err(RunnerError::Cancelled);
        }
        let count = file
            .read(&mut buffer)
            .map_err(|error| RunnerError::io("reading", path, error))?;
        if count == 0 {
            break;
        }
        hasher.update(&buffer[..count]);
        progress.advance(&what, count as u64);
    }
    progress.end(&what);
    Ok(hasher.finalize().to_hex().to_string())
}

#[cfg(test)]
mod tests {
    use super::identity;

    #[test]
    fn writing_the_same_bytes_again_and_setting_mtime_back_still_changes_the_identity() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("disk.raw");
        std::fs::write(&path, b"content").unwrap();
        let before = std::fs::metadata(&path).unwrap();
        // ctime counts in ticks of the kernel's clock, 1 to 10 ms.
        std::thread::sleep(std::time::Duration::from_millis(50));
        std::fs::write(&path, b"content").unwrap();
        std::fs::File::open(&path)
            .unwrap()
            .set_modified(before.modified().unwrap())
            .unwrap();
        let after = std::fs::metadata(&path).unwrap();
        assert_eq!(before.modified().unwrap(), after.modified().unwrap());
        assert_ne!(identity(&before), identity(&after));
    }
}
