//! What can go wrong with a guest run: what, where, and what to do next.

use std::path::{Path, PathBuf};
use std::time::Duration;

/// An error of this crate.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RunnerError {
    /// A program or file that has to be installed is not there.
    #[error("{what} is missing. {advice}")]
    Missing {
        /// What is missing.
        what: String,
        /// What to install or build.
        advice: String,
    },
    /// The wish cannot be met on this host.
    #[error("{what}. {advice}")]
    Unusable {
        /// What was asked and why it cannot be had.
        what: String,
        /// What to do instead.
        advice: String,
    },
    /// The operating system failed a call about a file.
    #[error("{doing} {} failed: {source}", path.display())]
    Io {
        /// `reading`, `writing`, `starting`.
        doing: &'static str,
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// The engine ended or refused.
    #[error("{engine}: {message}")]
    Engine {
        /// `qemu-system-x86_64`, `qemu-img`, `kvm`.
        engine: String,
        /// Its words.
        message: String,
    },
    /// The line to the agent broke, or it answered something else.
    #[error("agent: {0}")]
    Agent(String),
    /// Something was not done in time.
    #[error("{what} was not done after {after:?}")]
    Deadline {
        /// What was waited for.
        what: String,
        /// The deadline.
        after: Duration,
    },
    /// The user stopped it.
    #[error("stopped")]
    Cancelled,
}

impl RunnerError {
    pub(crate) fn io(doing: &'static str, path: &Path, source: std::io::Error) -> Self {
        Self::Io {
            doing,
            path: path.to_owned(),
            source,
        }
    }
}

/// Result of this crate.
pub type Result<T> = std::result::Result<T, RunnerError>;
