//! The evidence folder.

use crate::{Result, RunnerError};
use std::path::{Path, PathBuf};

/// Folders of further tries begin so.
const TRY: &str = "try-";

/// `OUT/proof/`, or a folder in it for one of several tries.
#[derive(Debug)]
pub(crate) struct Folder {
    path: PathBuf,
    /// As the record names it.
    name: String,
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
            let known = matches!(
                old.extension().and_then(|extension| extension.to_str()),
                Some("png" | "log" | "json" | "txt")
            );
            let removed = if entry.file_name().to_string_lossy().starts_with(TRY) && old.is_dir() {
                std::fs::remove_dir_all(&old)
            } else if known {
                std::fs::remove_file(&old)
            } else {
                continue;
            };
            removed.map_err(|error| RunnerError::io("removing", &old, error))?;
        }
        Ok(Self {
            path,
            name: "proof".to_owned(),
        })
    }

    /// A folder in it, for one more try.
    pub(crate) fn further(&self, name: &str) -> Result<Self> {
        let name = format!("{TRY}{name}");
        let path = self.path.join(&name);
        std::fs::create_dir_all(&path).map_err(|error| RunnerError::io("creating", &path, error))?;
        Ok(Self {
            path,
            name: format!("{}/{name}", self.name),
        })
    }

    /// As the record names it: relative to the run folder.
    pub(crate) fn name(&self) -> &str {
        &self.name
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
    pub(crate) fn relative(&self, name: &str) -> String {
        format!("{}/{name}", self.name)
    }

    /// Writes a file.
    pub(crate) fn write(&self, name: &str, content: &[u8]) -> Result<String> {
        let path = self.file(name);
        std::fs::write(&path, content).map_err(|error| RunnerError::io("writing", &path, error))?;
        Ok(self.relative(name))
    }
}
