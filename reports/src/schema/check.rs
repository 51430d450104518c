//! Findings of the preflight checks.

use serde::{Deserialize, Serialize};

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "json-schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Severity {
    /// The migration would fail, lose data, or never boot. Stops unless suppressed.
    Block,
    /// It works, but something is lost or wants action.
    Warn,
    /// Good to know.
    Info,
    /// The check could not be made; the evidence says why.
    Skipped,
}

/// One check that fired.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "json-schema", derive(schemars::JsonSchema))]
pub struct Finding {
    /// Stable id, `area.what`.
    pub id: String,
    /// How bad.
    pub severity: Severity,
    /// What is wrong and what happens if it is ignored.
    pub message: String,
    /// The source key or file, and the value that triggered it.
    pub evidence: String,
    /// What to do, in words.
    pub fix: String,
    /// The reason why the user told us to go on all the same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub suppressed: Option<String>,
}
