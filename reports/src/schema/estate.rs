//! An estate: many guests judged at once.

use super::{Finding, Stamp};
use serde::{Deserialize, Serialize};

/// What may be done with a guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum EstateVerdict {
    /// Nothing stands against it.
    Ready,
    /// It works, with losses that want a look.
    Attention,
    /// Something has to be mended first.
    Blocked,
    /// The description can't be read.
    Unreadable,
}

/// One guest.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EstateGuest {
    /// Name at the source.
    pub name: String,
    /// Where its description lies: a path, or a sheet and row.
    pub source: String,
    /// Guest OS for people.
    pub guest_os: String,
    /// Virtual CPUs.
    pub vcpus: u32,
    /// Memory in MiB.
    pub memory_mib: u64,
    /// Hard disks.
    pub disks: u32,
    /// Sum of the capacities in bytes, where known.
    pub capacity_bytes: u64,
    /// Bytes that the source's files hold, where known.
    pub allocated_bytes: u64,
    /// Networks.
    pub networks: Vec<String>,
    /// `bios` or `uefi`; empty where unknown.
    pub firmware: String,
    /// Verdict.
    pub verdict: EstateVerdict,
    /// Effort in points: 1, and 1 a warning, 5 a block.
    pub effort: u32,
    /// Wave from 1; 0 where it is in none.
    pub wave: u32,
    /// Why it can't be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Findings.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub findings: Vec<Finding>,
}

/// A check that many guests fail.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EstateRisk {
    /// Id of the check.
    pub id: String,
    /// Number of guests.
    pub guests: u32,
    /// What it means.
    pub message: String,
}

/// How many hosts the readable guests need.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EstateSizing {
    /// Cores of one host.
    pub host_cores: u32,
    /// Memory of one host in MiB.
    pub host_memory_mib: u64,
    /// vCPUs put on a core.
    pub vcpus_per_core: u32,
    /// Hosts that carry the load.
    pub hosts: u32,
    /// The same and one to spare.
    pub hosts_with_spare: u32,
}

/// The assessment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EstateReport {
    /// Who wrote it, when.
    #[serde(flatten)]
    pub stamp: Stamp,
    /// The guests, in the order found.
    pub guests: Vec<EstateGuest>,
    /// vCPUs of all readable guests.
    pub vcpus: u64,
    /// Their memory in MiB.
    pub memory_mib: u64,
    /// Their capacity in bytes.
    pub capacity_bytes: u64,
    /// Bytes that their files hold.
    pub allocated_bytes: u64,
    /// Commonest blocks and warnings, blocks first.
    pub risks: Vec<EstateRisk>,
    /// Sizing of the target.
    pub sizing: EstateSizing,
    /// Rate assumed for the copy, in bytes a second.
    pub copy_bytes_per_second: u64,
    /// Seconds that the copy takes at that rate: of what is allocated, or of the capacity where that isn't known.
    pub copy_seconds: u64,
}
