//! An estate: many guests judged at once.

use super::{Finding, LimitUse, Severity, Stamp};
use serde::{Deserialize, Serialize};

/// What may be done with a guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum EstateVerdict {
    /// Nothing stands against it.
    Ready,
    /// It works, with losses that want a look.
    Attention,
    /// Something has to be mended first.
    Blocked,
    /// The description can't be read.
    #[default]
    Unreadable,
}

/// One guest.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct EstateGuest {
    /// Name at the source.
    pub name: String,
    /// Where its description lies: a path, or a sheet and row.
    pub source: String,
    /// SMBIOS UUID as 32 hexadecimal digits in the order that VMware prints, where known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uuid: Option<String>,
    /// Virtual hardware version, where known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hw_version: Option<u32>,
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
    /// Capacity of the largest disk in bytes, where known.
    #[serde(default)]
    pub largest_disk_bytes: u64,
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
    /// Documented limits that the guest passes, and of those that it keeps the one that it fills most.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub limits: Vec<LimitUse>,
}

/// A documented limit beside the guest that uses most of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EstateLimit {
    /// The limit, with what that guest uses.
    pub limit: LimitUse,
    /// The guest.
    pub guest: String,
    /// Guests that pass the limit.
    pub beyond: u32,
}

/// Guests that move together.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EstateWave {
    /// From 1.
    pub number: u32,
    /// Guests.
    pub guests: u32,
    /// Of them, guests that a check blocks.
    pub blocked: u32,
    /// vCPUs.
    pub vcpus: u64,
    /// Memory in MiB.
    pub memory_mib: u64,
    /// Bytes to copy.
    pub copy_bytes: u64,
    /// Seconds that the copy takes at the rate of the report.
    pub copy_seconds: u64,
    /// Networks that the wave needs on the target.
    pub networks: Vec<String>,
}

/// A host of the target, as its operator describes it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EstateHost {
    /// Name.
    pub name: String,
    /// `Proxmox VE`.
    pub product: String,
    /// Version of the product.
    pub version: String,
    /// Logical CPUs.
    pub logical_cpus: u32,
    /// Memory in GiB.
    pub memory_gib: u64,
    /// The host beside its product's limits.
    pub limits: Vec<LimitUse>,
    /// Guests that are larger than the host: more vCPUs than it has CPUs, or more memory.
    pub too_large: u32,
    /// Names of the first 20 of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub too_large_names: Vec<String>,
}

/// Do the target's hosts carry the estate together?
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EstateFleet {
    /// vCPUs that all hosts take together at the chosen ratio.
    pub vcpus: u64,
    /// Their memory in MiB.
    pub memory_mib: u64,
    /// Guests that found no place with all hosts up.
    pub unplaced: u32,
    /// Guests that found no place with the largest host down (N+1).
    pub unplaced_with_spare: u32,
}

/// A check that many guests fail.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EstateRisk {
    /// Id of the check.
    pub id: String,
    /// How bad.
    pub severity: Severity,
    /// Number of guests.
    pub guests: u32,
    /// What it means.
    pub message: String,
    /// What to do.
    pub fix: String,
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
    /// Hosts that carry the load, each guest whole on one host.
    pub hosts: u32,
    /// The same and one to spare.
    pub hosts_with_spare: u32,
    /// Guests that are larger than one host; they are in no count of hosts.
    #[serde(default)]
    pub too_large: u32,
    /// The hosts that the user described, all together.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fleet: Option<EstateFleet>,
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
    /// Waves in their order.
    #[serde(default)]
    pub waves: Vec<EstateWave>,
    /// Sizing of the target.
    pub sizing: EstateSizing,
    /// Documented limits, each with the guest that uses most of it: the ones that are passed first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub limits: Vec<EstateLimit>,
    /// Hosts of the target that the user described.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub hosts: Vec<EstateHost>,
    /// Rate assumed for the copy, in bytes a second.
    pub copy_bytes_per_second: u64,
    /// Seconds that the copy takes at that rate: of what is allocated, or of the capacity where that isn't known.
    pub copy_seconds: u64,
}
