//! What can go wrong with a conversion.

use crate::image::ImageError;
use crate::image::qcow2::GeometryError;
use std::io;
use std::path::{Path, PathBuf};

/// Why a conversion or verification did not finish. Nothing stands under the final name then.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConvertError {
    /// Reading the source (or, in verification, the target).
    #[error(transparent)]
    Image(#[from] ImageError),
    /// The final name is taken.
    #[error("{} exists and is never overwritten. Remove it or choose another name", path.display())]
    TargetExists {
        /// The final name.
        path: PathBuf,
    },
    /// Another process is writing the same target.
    #[error("{} is being written by another process. Wait for it or stop it", path.display())]
    Locked {
        /// The partial file.
        path: PathBuf,
    },
    /// The target's file system is full.
    #[error(
        "{}: no space left at byte {offset}: {free} bytes are free{}, or choose another place",
        path.display(),
        needs(*needed)
    )]
    NoSpace {
        /// The partial file.
        path: PathBuf,
        /// Where the write failed, in bytes.
        offset: u64,
        /// Bytes that were free when it failed.
        free: u64,
        /// Upper bound of what the rest of the disk takes, in bytes; nobody knows it of a stream, which can't be resumed either.
        needed: Option<u64>,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// Another failure of the target.
    #[error("{}: {doing} failed", path.display())]
    Target {
        /// The file.
        path: PathBuf,
        /// What was being done.
        doing: &'static str,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// A source file changed while it was read.
    #[error("{}: the source changed while it was read: {detail}. Shut the guest down and convert again", path.display())]
    SourceChanged {
        /// The source file.
        path: PathBuf,
        /// What differs.
        detail: String,
    },
    /// Options that contradict each other or the source.
    #[error("{0}")]
    Options(String),
    /// The disk does not fit into the asked-for image.
    #[error(transparent)]
    Geometry(#[from] GeometryError),
    /// A journal that belongs to another source or other options.
    #[error("{}: {detail}. Convert without resuming to start anew", path.display())]
    Journal {
        /// The journal.
        path: PathBuf,
        /// What does not fit.
        detail: String,
    },
    /// Sharing of extents was demanded and is not possible.
    #[error("{}: {detail}", path.display())]
    Reflink {
        /// The partial file.
        path: PathBuf,
        /// Why.
        detail: String,
    },
    /// The user stopped it.
    #[error("stopped; {}", kept(partial.as_deref()))]
    Cancelled {
        /// The partial file; a stream leaves none.
        partial: Option<PathBuf>,
    },
}

fn needs(bytes: Option<u64>) -> String {
    match bytes {
        Some(bytes) => format!(" and at most {bytes} more are needed. Free space and resume"),
        None => ". Free space and begin the stream again".into(),
    }
}

fn kept(partial: Option<&Path>) -> String {
    match partial {
        Some(partial) => format!("{} can be resumed", partial.display()),
        None => "nothing is kept, since a stream cannot be read again".into(),
    }
}

impl ConvertError {
    pub(super) fn target(path: &Path, doing: &'static str, source: io::Error) -> Self {
        Self::Target {
            path: path.to_owned(),
            doing,
            source,
        }
    }
}
