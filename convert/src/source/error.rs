//! Why a source can't be imported.

use crate::ovf::OvfError;
use crate::vmx::VmxError;
use std::path::PathBuf;

/// A source that can't be imported.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ImportError {
    /// The operating system failed the call.
    #[error("{}: {doing} failed: {source}", path.display())]
    Io {
        /// Which file.
        path: PathBuf,
        /// What was tried: `opening`.
        doing: &'static str,
        /// Why.
        source: std::io::Error,
    },
    /// The VMX file is refused.
    #[error("{}: {source}", path.display())]
    Vmx {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: VmxError,
    },
    /// The OVF or OVA is refused.
    #[error("{}: {source}", path.display())]
    Ovf {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: OvfError,
    },
    /// Nothing that describes a guest.
    #[error("{}: no .vmx, .vmtx, .ovf, .ova or .vmdk found here. Name the description of the guest", .0.display())]
    NothingFound(PathBuf),
    /// A folder with more than one description.
    #[error("{}: several guests are described here: {}. Name one of these files", folder.display(), found.join(", "))]
    Several {
        /// The folder.
        folder: PathBuf,
        /// The descriptions.
        found: Vec<String>,
    },
    /// A file of another kind.
    #[error("{}: {what}. Name a .vmx, .vmtx, .ovf, .ova or .vmdk file, or a folder that holds one", path.display())]
    NotADescription {
        /// The file.
        path: PathBuf,
        /// What it seems to be.
        what: &'static str,
    },
}
