//! The boot proof: what was seen, when, and where the evidence lies.

use super::Stamp;
use serde::{Deserialize, Serialize};

/// How real the CPU virtualisation under a run was. Figures are comparable only within one class.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "json-schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum AcceleratorClass {
    /// Hardware virtualisation, complete and fast.
    Native,
    /// Complete, but under emulation or nested: functional results only.
    Nested,
    /// Page-table KVM that interprets guest kernels: own payloads only.
    Emulated,
    /// KVM opens but cannot run stock kernels.
    Unfit,
    /// No usable `/dev/kvm`.
    Absent,
    /// QEMU's TCG: software emulation.
    Tcg,
    /// ESXi, as the base of a comparison.
    Esxi,
    /// No hypervisor between: metal or a container.
    Metal,
    /// Not known.
    Unknown,
}

/// A stage of the boot that was reached.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "json-schema", derive(schemars::JsonSchema))]
pub struct Milestone {
    /// `firmware`, `boot-loader`, `kernel`, `root-found`, `init`, `login`, `agent`, `steady`, `powered-off`.
    pub name: String,
    /// Milliseconds since the guest was started.
    pub at_ms: u64,
    /// What was seen: the console line, the agent's words.
    pub seen: String,
    /// Screenshot taken then, relative to the run folder.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub screenshot: Option<String>,
}

/// A file kept as evidence.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "json-schema", derive(schemars::JsonSchema))]
pub struct Evidence {
    /// What it is: `console`, `screenshot`, `guest-state`, `qemu-log`, `events`.
    pub kind: String,
    /// Path relative to the run folder.
    pub file: String,
}

/// The verdict.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "json-schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum ProofVerdict {
    /// The guest reached a login prompt or its agent answered from inside.
    Proven,
    /// It started, nothing failed, but neither was seen before the deadline.
    BootedUnconfirmed,
    /// It did not boot; the reason says why.
    Failed,
}

/// One set of virtual hardware that the guest was booted on, where more than one was tried.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "json-schema", derive(schemars::JsonSchema))]
pub struct ProofTry {
    /// Disk bus: `virtio-scsi`, `virtio-blk`, `sata`, `ide`.
    pub bus: String,
    /// NIC model: `virtio-net`, `e1000e`.
    pub nic: String,
    /// `bios` or `uefi`.
    pub firmware: String,
    /// What became of it.
    pub verdict: ProofVerdict,
    /// Why, in words.
    pub reason: String,
    /// Wall time in seconds.
    pub seconds: f64,
    /// Folder of its evidence, relative to the run folder.
    pub evidence: String,
}

/// `proof.json` of a run folder.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "json-schema", derive(schemars::JsonSchema))]
pub struct ProofRecord {
    /// Who wrote it, when.
    #[serde(flatten)]
    pub stamp: Stamp,
    /// The verdict.
    pub verdict: ProofVerdict,
    /// Why, in words.
    pub reason: String,
    /// What to try, where it failed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub advice: Vec<String>,
    /// `qemu` or `kvm` with version.
    pub engine: String,
    /// Accelerator class.
    pub accelerator: AcceleratorClass,
    /// Why this engine and accelerator.
    pub engine_reason: String,
    /// `bios` or `uefi`.
    pub firmware: String,
    /// Disk bus and NIC model used: `virtio-blk`, `virtio-net`.
    pub devices: String,
    /// The milestones in time order.
    pub milestones: Vec<Milestone>,
    /// What the agent told from inside: free-form facts, key to value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub guest: Option<serde_json::Value>,
    /// Files kept.
    pub evidence: Vec<Evidence>,
    /// Every set of virtual hardware that was tried, in order; empty where there was only one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tries: Vec<ProofTry>,
    /// How the real disks were compared before and after: `content` (BLAKE3 of the whole file) or `identity` (inode, size, mtime and
    /// ctime: any write changes them). Empty in records of older programs, which always read the content.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub disks_check: String,
    /// Mark of each real disk before, relative file to hash or identity; the proof runs on an overlay.
    #[serde(default)]
    pub disks_before: Vec<(String, String)>,
    /// The same afterwards.
    #[serde(default)]
    pub disks_after: Vec<(String, String)>,
    /// Wall time in seconds.
    pub seconds: f64,
}
