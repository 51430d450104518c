//! What KVM on a host really takes: found by making VMs that never run.

use super::{HostFacts, Stamp};
use serde::{Deserialize, Serialize};

/// What KVM says about itself. 0 where it does not say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "json-schema", derive(schemars::JsonSchema))]
pub struct KvmCapabilities {
    /// KVM_CAP_NR_VCPUS: recommended vCPUs of one VM.
    pub nr_vcpus: u64,
    /// KVM_CAP_MAX_VCPUS: vCPUs of one VM at most.
    pub max_vcpus: u64,
    /// KVM_CAP_MAX_VCPU_ID: vCPU ids lie below this.
    pub max_vcpu_id: u64,
    /// KVM_CAP_NR_MEMSLOTS: memory slots of one VM.
    pub nr_memslots: u64,
}

/// A limit from the table, beside the measured one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "json-schema", derive(schemars::JsonSchema))]
pub struct DocumentedLimit {
    /// Product.
    pub product: String,
    /// Its version.
    pub version: String,
    /// Value with its unit.
    pub value: String,
    /// Where it is stated.
    pub source: String,
}

/// How a series ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "json-schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum ProbeEnd {
    /// KVM or the kernel said no: the value before is the limit here.
    Refused,
    /// The bound given was reached and accepted: the limit lies above.
    Bound,
    /// Time was up.
    Time,
    /// Memory would have become short.
    Memory,
    /// The cancel flag was set.
    Cancelled,
}

/// The VM of a series when it had so many.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "json-schema", derive(schemars::JsonSchema))]
pub struct ProbePoint {
    /// How many, in the series' unit.
    pub count: u64,
    /// Milliseconds until the VM had so many, from its creation.
    pub create_ms: f64,
    /// Growth of the kernel's memory since before the VM was created, in bytes: SUnreclaim, KernelStack, PageTables,
    /// SecPageTables, VmallocUsed and Percpu of /proc/meminfo, or the fall of MemAvailable where that is more. The whole host's:
    /// others' work is in it.
    pub kernel_bytes: u64,
}

/// A quantity: documented, KVM's own figure, accepted here, and what it costs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "json-schema", derive(schemars::JsonSchema))]
pub struct ProbeSeries {
    /// `vcpus`, `memory-slots`, `virtio-queues`, `memory`.
    pub key: String,
    /// Unit of the counts.
    pub unit: String,
    /// What documents say for one VM. The probe leaves it empty: its caller knows the table.
    pub documented: Vec<DocumentedLimit>,
    /// KVM's own figure, where it has one.
    pub capability: Option<u64>,
    /// The most that was accepted here.
    pub accepted: u64,
    /// Why it ended there.
    pub ended: ProbeEnd,
    /// The same in words, with the system's error.
    pub reason: String,
    /// What it costs: one VM that grows.
    pub curve: Vec<ProbePoint>,
    /// Milliseconds to take the VM down at its end.
    pub release_ms: f64,
}

impl ProbeSeries {
    /// A count of this series for people.
    #[must_use]
    pub fn amount(&self, count: u64) -> String {
        match self.unit.as_str() {
            "bytes" if count.is_multiple_of(1 << 40) => format!("{} TiB", count >> 40),
            "bytes" => format!("{} GiB", count >> 30),
            unit => format!("{count} {unit}"),
        }
    }

    /// What documents say, a line a product: most have a limit for each of their versions, in the table's order, the newest last.
    #[must_use]
    pub fn documented_words(&self) -> Vec<String> {
        let mut lines: Vec<(&str, Vec<&DocumentedLimit>)> = Vec::new();
        for one in &self.documented {
            match lines.iter_mut().find(|(product, _)| *product == one.product) {
                Some((_, versions)) => versions.push(one),
                None => lines.push((one.product.as_str(), vec![one])),
            }
        }
        let line = |(product, versions): (&str, Vec<&DocumentedLimit>)| {
            let last = versions.last()?;
            Some(match versions.first().filter(|first| first.value != last.value) {
                Some(first) => format!(
                    "{product}: {} ({}) to {} ({})",
                    first.value, first.version, last.value, last.version
                ),
                None => format!("{product} {}: {}", last.version, last.value),
            })
        };
        lines.into_iter().filter_map(line).collect()
    }

    /// What was accepted, with the words that say whether more would be.
    #[must_use]
    pub fn accepted_words(&self) -> String {
        let amount = self.amount(self.accepted);
        if self.ended == ProbeEnd::Refused {
            amount
        } else {
            format!("at least {amount}")
        }
    }
}

/// All of it: `limits.json` of a run folder.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "json-schema", derive(schemars::JsonSchema))]
pub struct LimitsReport {
    /// Who wrote it, when.
    #[serde(flatten)]
    pub stamp: Stamp,
    /// The host. The probe leaves it empty: its caller knows.
    #[serde(default)]
    pub host: HostFacts,
    /// KVM's own figures.
    pub capabilities: KvmCapabilities,
    /// The four series.
    pub series: Vec<ProbeSeries>,
    /// What a reader should know.
    pub notes: Vec<String>,
    /// Wall seconds.
    pub seconds: f64,
}
