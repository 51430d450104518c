//! The report of one guest: everything its run folder knows, gathered.

use super::{
    Accounting, BenchRecord, Comparison, DeepFacts, Finding, HostFacts, LimitsReport, Manifest, ProofRecord, Stamp,
};
use serde::{Deserialize, Serialize};

/// A disk of the machine, for tables.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "json-schema", derive(schemars::JsonSchema))]
pub struct DiskFacts {
    /// `scsi0:0`.
    pub name: String,
    /// Controller model at the source: `lsilogic`.
    pub controller: String,
    /// Source file as the description names it.
    pub source: String,
    /// Kind of VMDK: `streamOptimized`.
    pub kind: String,
    /// Guest-visible size in bytes; 0 where unknown.
    pub capacity_bytes: u64,
    /// Bytes that the source's files hold; 0 where unknown.
    pub allocated_bytes: u64,
}

/// A NIC of the machine, for tables.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "json-schema", derive(schemars::JsonSchema))]
pub struct NicFacts {
    /// `ethernet0`.
    pub name: String,
    /// Model at the source: `vmxnet3`.
    pub model: String,
    /// MAC address.
    pub mac: Option<String>,
    /// Network at the source.
    pub network: Option<String>,
}

/// The machine, for tables.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "json-schema", derive(schemars::JsonSchema))]
pub struct MachineFacts {
    /// Name at the source.
    pub name: String,
    /// Where it came from: the path given by the user.
    pub source: String,
    /// Guest OS as declared: `debian12-64`.
    pub guest_os: String,
    /// Virtual hardware version at the source.
    pub hw_version: Option<u32>,
    /// Number of virtual CPUs.
    pub vcpus: u32,
    /// Memory in MiB.
    pub memory_mib: u64,
    /// `bios` or `uefi`.
    pub firmware: String,
    /// Disks.
    pub disks: Vec<DiskFacts>,
    /// NICs.
    pub nics: Vec<NicFacts>,
}

/// What became of a step of the chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "json-schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum StepStatus {
    /// Done and good.
    Good,
    /// An earlier run's result was still valid and was kept.
    Reused,
    /// Done, and the answer is no.
    Bad,
    /// Could not be done.
    Failed,
    /// Left out; the detail says why.
    Skipped,
}

/// One step of the chain.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "json-schema", derive(schemars::JsonSchema))]
pub struct StepRecord {
    /// `inspect`, `convert`, `verify`, `targets`, `prove`, `bench-host`, `bench-guest`, `report`.
    pub name: String,
    /// What became of it.
    pub status: StepStatus,
    /// Wall time in seconds.
    pub seconds: f64,
    /// The verdict in words.
    pub detail: String,
}

/// What follows from a limit for this guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "json-schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum LimitEffect {
    /// Within.
    #[default]
    Fits,
    /// Beyond what was tested, is a default, or is known from a secondary source only.
    Warns,
    /// Beyond what the software accepts, as a primary source or a measurement says.
    Blocks,
    /// Stated by the user or without a source: shown, never enforced.
    PrintedOnly,
}

/// How much of a documented limit the guest uses.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "json-schema", derive(schemars::JsonSchema))]
pub struct LimitUse {
    /// `Proxmox VE`.
    pub product: String,
    /// Version the limit is stated for.
    pub version: String,
    /// `VM` or `host`.
    pub scope: String,
    /// `memory`, `vcpus`, `scsi disks`.
    pub quantity: String,
    /// Used by this guest, in `unit`.
    pub used: f64,
    /// Allowed, in `unit`.
    pub allowed: f64,
    /// Unit.
    pub unit: String,
    /// Where the limit is stated.
    pub source: String,
    /// `A` primary or measured, `B` secondary, `U` stated by the user.
    pub confidence: String,
    /// Within the limit.
    pub fits: bool,
    /// `hard`, `tested`, `default` or `practical`; empty in records of older programs.
    #[serde(default)]
    pub kind: String,
    /// What follows from it.
    #[serde(default)]
    pub effect: LimitEffect,
    /// Further words of the source, or what other sources say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

impl LimitUse {
    /// What is left, in `unit`; negative where the limit is exceeded.
    #[must_use]
    pub fn headroom(&self) -> f64 {
        self.allowed - self.used
    }
}

/// A change to a file inside the guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "json-schema", derive(schemars::JsonSchema))]
pub struct FixupFacts {
    /// Path in the guest.
    pub path: String,
    /// Why, in words.
    pub why: String,
    /// The lines that are no more, or what it was in words; absent where there was no file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<String>,
    /// The lines that came, or what it is in words.
    pub after: String,
    /// It was taken back since, or takes an earlier change back.
    #[serde(default)]
    pub undone: bool,
}

/// `report.json` of a run folder.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "json-schema", derive(schemars::JsonSchema))]
pub struct GuestReport {
    /// Who wrote it, when.
    #[serde(flatten)]
    pub stamp: Stamp,
    /// The machine.
    pub machine: MachineFacts,
    /// The host that did the work.
    pub host: HostFacts,
    /// The steps, in order.
    pub steps: Vec<StepRecord>,
    /// Findings of the preflight.
    pub findings: Vec<Finding>,
    /// What became of the source's keys.
    pub accounting: Accounting,
    /// The conversion.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub manifest: Option<Manifest>,
    /// What was inside the disks when they were looked at, before any fix-up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deep: Option<DeepFacts>,
    /// What was changed inside the guest, in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub fixup: Vec<FixupFacts>,
    /// The boot proof.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proof: Option<ProofRecord>,
    /// Measurements.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub bench: Vec<BenchRecord>,
    /// Comparisons between them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub comparisons: Vec<Comparison>,
    /// Documented limits beside what the guest uses.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub limits: Vec<LimitUse>,
    /// What KVM on a host really takes, where it was probed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub probed_limits: Option<LimitsReport>,
    /// Screenshots as data, so that the HTML stands alone: milestone name and PNG bytes in base64.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub screenshots: Vec<(String, String)>,
}
