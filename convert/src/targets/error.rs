//! Why a target's files can't be written.

use std::path::PathBuf;

/// A target that can't be written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TargetError {
    /// Networks without a place in the map.
    #[error("the map has no place for {}. Add to it:\n\n{add}", names.join(", "))]
    Unmapped {
        /// The networks.
        names: Vec<String>,
        /// TOML to add.
        add: String,
    },
    /// The map can't be read.
    #[error("the map is not readable: {0}")]
    Map(String),
    /// More than the target takes.
    #[error("{target}: {what} is {found}, at most {allowed} fit. {advice}")]
    Limit {
        /// The target.
        target: &'static str,
        /// What was counted.
        what: &'static str,
        /// How much there is.
        found: usize,
        /// How much fits.
        allowed: usize,
        /// What to do.
        advice: &'static str,
    },
    /// The context doesn't belong to the machine.
    #[error("the machine has {machine} disks, {context} converted disks were given")]
    Disks {
        /// In the machine.
        machine: usize,
        /// In the context.
        context: usize,
    },
    /// A file can't be written.
    #[error("{}: writing failed: {source}", path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The XML writer failed, which only memory can make it do.
    #[error("writing XML failed: {0}")]
    Xml(std::io::Error),
}
