//! From figures to a class.

use reports::schema::AcceleratorClass;
use serde::{Deserialize, Serialize};

/// What the probe found. All figures are of this host and boot.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ProbeReport {
    /// Class: native, nested, emulated, unfit or absent.
    pub class: AcceleratorClass,
    /// The verdict in words.
    pub sentence: String,
    /// What to do about it, where there is something.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub advice: Option<String>,
    /// What was measured; absent where `/dev/kvm` cannot be used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub figures: Option<Figures>,
    /// Seconds that the probe took.
    pub seconds: f64,
    /// From the cache of this boot.
    #[serde(default)]
    pub cached: bool,
}

impl Default for ProbeReport {
    fn default() -> Self {
        Self { class: AcceleratorClass::Unknown, sentence: "not probed".into(), advice: None, figures: None, seconds: 0.0, cached: false }
    }
}

/// Raw figures.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Figures {
    /// Instructions per second at CPL 0 in long mode.
    pub kernel_insn_per_s: f64,
    /// Instructions per second at CPL 3; absent where the guest could not get there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user_insn_per_s: Option<f64>,
    /// Instructions that were refused at CPL 0: `cmpxchg16b`, `int3`, `xrstor`, `sse-add`.
    pub refused: Vec<String>,
    /// Nanoseconds of one exit to user space (port output), median.
    pub exit_ns: u64,
    /// `KVM_GET_API_VERSION`.
    pub api_version: i32,
    /// Most vCPUs of one VM.
    pub max_vcpus: u64,
    /// Memory slots of one VM.
    pub memory_slots: u64,
    /// Module and hypervisor hints, not decided by.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub hints: Vec<String>,
}
