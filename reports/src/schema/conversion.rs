//! The manifest: what was converted from what, and the content hashes that prove it.

use super::Stamp;
use serde::{Deserialize, Serialize};

/// A source file as it was when it was read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "json-schema", derive(schemars::JsonSchema))]
pub struct SourceFile {
    /// Path as opened, relative to the source folder where it lies inside.
    pub path: String,
    /// Length in bytes.
    pub bytes: u64,
    /// Modification time, nanoseconds since 1970.
    pub mtime_ns: i64,
}

/// Zero-aware hash tree over the guest-visible content of a disk.
///
/// Leaf `i` covers `leaf_bytes` bytes from guest offset `i * leaf_bytes` (the last leaf may be shorter). A leaf whose bytes
/// are all zero has no hash of its own, so a hole and stored zeros hash alike. Where `group_leaves` is 1, the hashes of the
/// leaves are listed; on large disks groups of that many leaves are, so that the list stays short: the hash of group `i` is
/// `blake3(for each non-zero leaf of the group: index u64 LE | hash)`. The root is
/// `blake3("esxodus-tree-v1" | virtual_bytes u64 LE | leaf_bytes u64 LE | group_leaves u64 LE | for each listed: index u64 LE | hash)`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "json-schema", derive(schemars::JsonSchema))]
pub struct HashTree {
    /// `blake3`.
    pub algorithm: String,
    /// Bytes per leaf.
    pub leaf_bytes: u64,
    /// Leaves per listed hash, a power of two.
    pub group_leaves: u64,
    /// Hex root.
    pub root: String,
    /// Leaves, or groups of them, that are not all zero, in ascending order: index and hex hash.
    pub leaves: Vec<(u64, String)>,
}

/// One converted disk.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "json-schema", derive(schemars::JsonSchema))]
pub struct DiskManifest {
    /// Name of the disk in the machine, for example `scsi0:0`.
    pub name: String,
    /// Target file relative to the run folder, for example `disks/boot.qcow2`.
    pub file: String,
    /// `qcow2` or `raw`.
    pub format: String,
    /// Guest-visible size in bytes.
    pub virtual_bytes: u64,
    /// Bytes of guest data that are not zero-filled, as written to the target.
    pub data_bytes: u64,
    /// Length of the target file in bytes.
    pub file_bytes: u64,
    /// Absent only where hashing was switched off for measuring.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content: Option<HashTree>,
    /// What it was read from, newest link of the chain first.
    pub sources: Vec<SourceFile>,
    /// How the data travelled: `copy`, `zstd`, `zlib`, `passthrough`, `reflink`, `data-file`.
    pub mode: String,
    /// Wall time of the conversion in seconds.
    pub seconds: f64,
    /// Oddities met and tolerated, in words.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
}

/// `manifest.json` of a run folder.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "json-schema", derive(schemars::JsonSchema))]
pub struct Manifest {
    /// Who wrote it, when.
    #[serde(flatten)]
    pub stamp: Stamp,
    /// The disks in the machine's order.
    pub disks: Vec<DiskManifest>,
}
