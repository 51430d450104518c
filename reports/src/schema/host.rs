//! Facts about the machine on which something ran: what a reader needs to judge a figure.

use serde::{Deserialize, Serialize};

/// The machine, as the program saw it from inside. Unknown stays unknown: every field that may be missing is an option.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "json-schema", derive(schemars::JsonSchema))]
pub struct HostFacts {
    /// Operating system's pretty name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub os: Option<String>,
    /// Kernel release.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kernel: Option<String>,
    /// CPU vendor as CPUID says, for example `AuthenticAMD`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_vendor: Option<String>,
    /// CPU model name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_model: Option<String>,
    /// CPU flags of the first CPU.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub cpu_flags: Vec<String>,
    /// CPUs that are online.
    pub cpus_online: u32,
    /// CPUs that this process may use (affinity and cgroup quota considered), rounded up.
    pub cpus_usable: u32,
    /// Memory in bytes.
    pub memory_bytes: u64,
    /// Memory limit of the cgroup in bytes, where one is set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_limit_bytes: Option<u64>,
    /// Size of the last-level cache in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_level_cache_bytes: Option<u64>,
    /// Hypervisor signature of CPUID leaf 0x4000_0000 (`KVMKVMKVM`, `VMwareVMware`, `TCGTCGTCGTCG`); absent on metal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hypervisor: Option<String>,
    /// DMI system vendor and product name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dmi: Option<String>,
    /// Container kind where it runs in one (`lxc`, `docker`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container: Option<String>,
    /// Current clock source.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clock_source: Option<String>,
    /// Each disk with its driver: `vda virtio_blk`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub disk_drivers: Vec<String>,
    /// Each NIC with its driver: `ens192 vmxnet3`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub nic_drivers: Vec<String>,
    /// Frequency governor of the first CPU.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub governor: Option<String>,
    /// Load average over one minute at the start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub load_1min: Option<f64>,
}
