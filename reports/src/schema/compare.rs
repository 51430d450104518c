//! Two records set beside each other.

use super::{AcceleratorClass, Better, Stamp};
use serde::{Deserialize, Serialize};

/// Verdict on one metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "json-schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum ComparisonVerdict {
    /// The candidate is better.
    Better,
    /// Within the margin.
    Same,
    /// The candidate is worse.
    Worse,
    /// The samples don't decide.
    CantTell,
}

/// Which record.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "json-schema", derive(schemars::JsonSchema))]
pub struct RecordRef {
    /// Its label.
    pub label: String,
    /// When it was taken.
    pub created: String,
    /// Accelerator class.
    pub accelerator: AcceleratorClass,
    /// File it was read from, where it was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
}

/// May the two be compared?
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "json-schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case", tag = "kind", content = "reasons")]
pub enum Comparability {
    /// Yes.
    Yes,
    /// They may, with these reservations.
    WithReservations(Vec<String>),
    /// No, but the user said to go on.
    Forced(Vec<String>),
}

/// One metric in both.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "json-schema", derive(schemars::JsonSchema))]
pub struct ComparedMetric {
    /// Id of the metric.
    pub id: String,
    /// For people.
    pub name: String,
    /// Unit.
    pub unit: String,
    /// Direction.
    pub better: Better,
    /// Median of the base.
    pub base_median: f64,
    /// 95 % interval of the base's median.
    pub base_ci: (f64, f64),
    /// Median of the candidate.
    pub candidate_median: f64,
    /// 95 % interval of the candidate's median.
    pub candidate_ci: (f64, f64),
    /// Candidate : base.
    pub ratio: f64,
    /// 95 % bootstrap interval of the ratio.
    pub ratio_ci: (f64, f64),
    /// Two-sided p of Mann-Whitney U (Wilcoxon where paired), after Holm's correction over the report.
    pub p_adjusted: f64,
    /// Cliff's delta, from -1 to 1; positive: the candidate's values are larger.
    pub effect: f64,
    /// Margin inside which the two count as the same, as a fraction.
    pub margin: f64,
    /// The verdict.
    pub verdict: ComparisonVerdict,
    /// The verdict with its threshold, in words.
    pub words: String,
}

/// The whole comparison.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "json-schema", derive(schemars::JsonSchema))]
pub struct Comparison {
    /// Who wrote it, when.
    #[serde(flatten)]
    pub stamp: Stamp,
    /// The base.
    pub base: RecordRef,
    /// The candidate.
    pub candidate: RecordRef,
    /// May they be compared?
    pub comparability: Comparability,
    /// The metrics that both have.
    pub metrics: Vec<ComparedMetric>,
    /// Ids that only one has, or that are unfit, with the reason.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub left_out: Vec<(String, String)>,
}
