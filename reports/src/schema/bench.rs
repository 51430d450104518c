//! Measurements with their raw samples.

use super::{AcceleratorClass, HostFacts, Stamp};
use serde::{Deserialize, Serialize};

/// Which direction is better.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "json-schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Better {
    /// Bandwidth, operations per second.
    Higher,
    /// Latency, time.
    Lower,
}

/// Where it ran.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "json-schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Place {
    /// On the host itself.
    Host,
    /// In an LXC container.
    Lxc,
    /// In a guest.
    Guest,
    /// On another machine; the record was imported.
    Imported,
}

/// How thorough.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "json-schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Suite {
    /// About a minute.
    Quick,
    /// About a quarter of an hour.
    Full,
}

/// Summary of the samples of one metric. All values in the metric's unit.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "json-schema", derive(schemars::JsonSchema))]
pub struct Summary {
    /// Number of samples.
    pub n: u32,
    /// Median.
    pub median: f64,
    /// Arithmetic mean.
    pub mean: f64,
    /// Smallest.
    pub min: f64,
    /// Largest.
    pub max: f64,
    /// First quartile.
    pub q1: f64,
    /// Third quartile.
    pub q3: f64,
    /// Lower end of the 95 % bootstrap interval of the median.
    pub ci_low: f64,
    /// Upper end of it.
    pub ci_high: f64,
}

/// One point of a latency distribution.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "json-schema", derive(schemars::JsonSchema))]
pub struct Percentile {
    /// 50, 90, 99, 99.9 …
    pub percent: f64,
    /// Value in the metric's percentile unit.
    pub value: f64,
}

/// One metric.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "json-schema", derive(schemars::JsonSchema))]
pub struct Metric {
    /// Stable id, `area.what[.variant]`: `cpu.integer.single`, `memory.copy.all`, `disk.randread-4k.qd32`.
    pub id: String,
    /// For people.
    pub name: String,
    /// Unit of the samples: `Mops/s`, `MB/s`, `ns`.
    pub unit: String,
    /// Direction.
    pub better: Better,
    /// Raw samples in the order taken.
    pub samples: Vec<f64>,
    /// Their summary.
    pub summary: Summary,
    /// Distribution within the samples, for latency metrics.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub percentiles: Vec<Percentile>,
    /// Unit of the percentiles, where there are some.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub percentile_unit: Option<String>,
    /// How it was measured: engine, sizes, threads. Compared literally before two records are compared.
    pub method: String,
    /// Why repeating ended: `interval` (narrow enough), `budget`, `count`.
    pub stopped: String,
    /// Set where the samples must not be relied on: why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unfit: Option<String>,
}

/// A metric that could not be taken.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "json-schema", derive(schemars::JsonSchema))]
pub struct SkippedMetric {
    /// Its id.
    pub id: String,
    /// Why, and what it would need.
    pub reason: String,
}

/// Sizes that depend on the time and room there were. Two records compare where they are equal: what measures the second takes
/// those of the first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "json-schema", derive(schemars::JsonSchema))]
pub struct BenchSizes {
    /// The file that the disk metrics work on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk_file_bytes: Option<u64>,
    /// Requests a second of `disk.randread-4k.rate`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk_rate: Option<u32>,
    /// Each of STREAM's three arrays.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stream_array_bytes: Option<u64>,
}

impl BenchSizes {
    /// None was needed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// What disturbed the run.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "json-schema", derive(schemars::JsonSchema))]
pub struct Noise {
    /// CPU seconds stolen by the hypervisor during the run.
    pub steal_cpu_seconds: f64,
    /// CPU seconds used by other processes during the run.
    pub foreign_cpu_seconds: f64,
    /// Wall seconds of the run.
    pub wall_seconds: f64,
    /// Set where the noise is above the bar.
    pub noisy: bool,
}

/// One run of the suite: `bench/*.json` of a run folder.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "json-schema", derive(schemars::JsonSchema))]
pub struct BenchRecord {
    /// Who wrote it, when.
    #[serde(flatten)]
    pub stamp: Stamp,
    /// A short name for tables: `host`, `guest web01 (qemu tcg)`.
    pub label: String,
    /// Where it ran.
    pub place: Place,
    /// What lay under it.
    pub accelerator: AcceleratorClass,
    /// Engine and version, for guests.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub engine: Option<String>,
    /// What the runner gave the guest as its first disk: `throw-away qcow2 overlays on qcow2, virtio-blk, …`. Nobody inside can
    /// know it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub storage: Option<String>,
    /// The machine as seen from inside.
    pub host: HostFacts,
    /// Suite.
    pub suite: Suite,
    /// Disturbance.
    pub noise: Noise,
    /// Sizes that depend on the budget.
    #[serde(default, skip_serializing_if = "BenchSizes::is_empty")]
    pub sizes: BenchSizes,
    /// The metrics.
    pub metrics: Vec<Metric>,
    /// What could not be measured.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub skipped: Vec<SkippedMetric>,
    /// The agent's checks of itself: what was checked and what came out.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub self_checks: Vec<String>,
}
