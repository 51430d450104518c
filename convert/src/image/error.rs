//! What can go wrong with a disk image: a kind that code can match, and the context that a person needs.

use std::path::{Path, PathBuf};

/// Kind of failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ImageErrorKind {
    /// The file isn't there.
    Missing,
    /// The operating system failed the call.
    Io,
    /// The gate refused a path found inside an image.
    Refused,
    /// Recognised, and not readable by design (RDM, encrypted, vSAN, device).
    Unsupported,
    /// The bytes contradict the format.
    Damaged,
    /// The file ends before the format says so.
    Truncated,
    /// A chain doesn't fit together (CID, parent, loop).
    Chain,
    /// The file changed while it was read.
    Changed,
    /// A value is above what we accept; the message names both.
    Limit,
    /// The user stopped it.
    Cancelled,
}

/// An error about one image file, with where and what next.
#[derive(Debug, thiserror::Error)]
#[error("{}{}: {message}{}", path.display(), offset.map(|o| format!(" at byte {o}")).unwrap_or_default(), advice.as_ref().map(|a| format!(". {a}")).unwrap_or_default())]
pub struct ImageError {
    /// Kind.
    pub kind: ImageErrorKind,
    /// The file.
    pub path: PathBuf,
    /// Byte offset in it, where one is known.
    pub offset: Option<u64>,
    /// What is wrong: the value found and the value allowed. No capital, no full stop.
    pub message: String,
    /// What to do next, a sentence.
    pub advice: Option<String>,
    /// The cause.
    #[source]
    pub source: Option<std::io::Error>,
}

impl ImageError {
    /// An error about `path`.
    #[must_use]
    pub fn new(kind: ImageErrorKind, path: &Path, message: impl Into<String>) -> Self {
        Self {
            kind,
            path: path.to_owned(),
            offset: None,
            message: message.into(),
            advice: None,
            source: None,
        }
    }

    /// An operating-system error about `path`, `doing` what (`reading`, `opening`).
    #[must_use]
    pub fn io(path: &Path, doing: &str, source: std::io::Error) -> Self {
        let kind = if source.kind() == std::io::ErrorKind::NotFound {
            ImageErrorKind::Missing
        } else {
            ImageErrorKind::Io
        };
        Self {
            source: Some(source),
            ..Self::new(kind, path, format!("{doing} failed"))
        }
    }

    /// Adds the byte offset.
    #[must_use]
    pub fn at(mut self, offset: u64) -> Self {
        self.offset = Some(offset);
        self
    }

    /// Adds what to do next.
    #[must_use]
    pub fn advise(mut self, advice: impl Into<String>) -> Self {
        self.advice = Some(advice.into());
        self
    }
}
