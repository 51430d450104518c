//! The evidence folder, and the hashes of the real disks.

use super::ProveRequest;
use crate::{Result, RunnerError};
use convert::progress::Progress;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

/// `OUT/proof/`.
#[derive(Debug)]
pub(crate) struct Folder {
    path: PathBuf,
}

impl Folder {
    /// Makes it; evidence of an earlier proof is replaced.
    pub(crate) fn create(out: &Path) -> Result<Self> {
        let path = out.join("proof");
        std::fs::create_dir_all(&path).map_err(|error| RunnerError::io("creating", &path, error))?;
        for entry in std::fs::read_dir(&path)
            .map_err(|error| RunnerError::io("reading", &path, error))?
            .flatten()
        {
            let old = entry.path();
            if matches!(
                old.extension().and_then(|extension| extension.to_str()),
                Some("png" | "log" | "json")
            ) {
                std::fs::remove_file(&old).map_err(|error| RunnerError::io("removing", &old, error))?;
            }
        }
        Ok(Self { path })
    }

    /// A folder for overlays, gone when it is dropped.
    pub(crate) fn scratch(&self) -> Result<tempfile::TempDir> {
        tempfile::Builder::new()
            .prefix("overlay-")
            .tempdir_in(&self.path)
            .map_err(|error| RunnerError::io("creating", &self.path, error))
    }

    /// Path of a file in it.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// The same relative to the run folder.
    pub(crate) fn relative(name: &str) -> String {
        format!("proof/{name}")
    }

    /// Writes a file.
    pub(crate) fn write(&self, name: &str, content: &[u8]) -> Result<String> {
        let path = self.file(name);
        std::fs::write(&path, content).map_err(|error| RunnerError::io("writing", &path, error))?;
        Ok(Self::relative(name))
    }
}

/// BLAKE3 of each real disk file, hex, named relative to the run folder where it lies inside.
pub(crate) fn hashes(
    request: &ProveRequest,
    progress: &dyn Progress,
    cancel: &AtomicBool,
) -> Result<Vec<(String, String)>> {
    let mut found = Vec::new();
    for disk in &request.disks {
        let told = |error| RunnerError::io("reading", &disk.path, error);
        let mut file = File::open(&disk.path).map_err(told)?;
        let name = disk
            .path
            .strip_prefix(&request.out)
            .unwrap_or(&disk.path)
            .to_string_lossy()
            .into_owned();
        let what = format!("hash {name}");
        progress.begin(&what, file.metadata().map_err(told)?.len());
        let mut hasher = blake3::Hasher::new();
        let mut buffer = vec![0; 1 << 20];
        loop {
            if cancel.load(Ordering::Relaxed) {
                return Err(RunnerError::Cancelled);
            }
            let count = file.read(&mut buffer).map_err(told)?;
            if count == 0 {
                break;
            }
            hasher.update(&buffer[..count]);
            progress.advance(&what, count as u64);
        }
        progress.end(&what);
        found.push((name, hasher.finalize().to_hex().to_string()));
    }
    Ok(found)
}
