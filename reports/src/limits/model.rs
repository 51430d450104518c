//! What a limit is.

use serde::{Deserialize, Serialize};

/// What the number is about. Numbers of different scopes are never compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Scope {
    /// One virtual machine.
    #[serde(rename = "VM")]
    Vm,
    /// One hypervisor node.
    #[serde(rename = "host")]
    Host,
    /// A group of nodes or an installation.
    #[serde(rename = "cluster")]
    Cluster,
    /// One emulated device.
    #[serde(rename = "device")]
    Device,
    /// A migration tool.
    #[serde(rename = "tool")]
    Tool,
    /// A property of the product as a whole.
    #[serde(rename = "product")]
    Product,
    /// The one who stated it named no scope; only the user's own rows may say so.
    #[serde(rename = "unstated")]
    Unstated,
}

impl Scope {
    /// As the data files spell it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Vm => "VM",
            Self::Host => "host",
            Self::Cluster => "cluster",
            Self::Device => "device",
            Self::Tool => "tool",
            Self::Product => "product",
            Self::Unstated => "unstated",
        }
    }
}

/// What the limit means.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// Refused by the software.
    Hard,
    /// What the vendor tested or supports.
    Tested,
    /// Can be raised.
    Default,
    /// Works but hurts.
    Practical,
}

impl Kind {
    /// As the data files spell it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Hard => "hard",
            Self::Tested => "tested",
            Self::Default => "default",
            Self::Practical => "practical",
        }
    }
}

/// How far the statement can be relied on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Confidence {
    /// Read in a primary source, or measured.
    A,
    /// Secondary source only.
    B,
    /// Stated by the user.
    U,
    /// Circulates without any source.
    #[serde(rename = "none")]
    Unsourced,
}

impl Confidence {
    /// As the data files spell it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::A => "A",
            Self::B => "B",
            Self::U => "U",
            Self::Unsourced => "none",
        }
    }
}

/// How the value bounds a quantity.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Operator {
    /// At most the value.
    #[default]
    Max,
    /// At least the value.
    Min,
    /// A multiple of the value.
    Multiple,
    /// No bound: good to know.
    Note,
}

/// The value: a number in the row's unit, or a rule in words.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Value {
    /// In the row's unit.
    Number(f64),
    /// For people.
    Text(String),
}

impl std::fmt::Display for Value {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Number(number) => write!(f, "{number}"),
            Self::Text(text) => f.write_str(text),
        }
    }
}

/// One documented limit.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Limit {
    /// `Proxmox VE`.
    pub product: String,
    /// What the limit is stated for.
    pub version: String,
    /// What it is about.
    pub scope: Scope,
    /// Quantity, `vcpus`, `memory`, `scsi-disks`.
    pub key: String,
    /// Value.
    pub value: Value,
    /// Unit of the value; `rule` where it is text.
    pub unit: String,
    /// How it bounds.
    pub op: Operator,
    /// What it means.
    pub kind: Kind,
    /// Where it is stated.
    pub source: String,
    /// Day on which the source was read, `YYYY-MM-DD`.
    pub retrieved: String,
    /// Reliability.
    pub confidence: Confidence,
    /// Further words.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
    /// Whether guests and hosts are set beside it; false for superseded versions.
    pub compare: bool,
    /// Data file and line it came from.
    pub origin: String,
}

/// One row of the user's own comparison of products, with what other sources say beside it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ComparisonRow {
    /// `Proxmox VE`.
    pub product: String,
    /// For people: `Maximum memory`.
    pub aspect: String,
    /// `memory`.
    pub key: String,
    /// As the user stated it; absent where the user's wording is not on record.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stated: Option<String>,
    /// The stated number.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub value: Option<f64>,
    /// Unit of it; `text` for rows in words.
    pub unit: String,
    /// Scope.
    pub scope: Scope,
    /// Whether other sources confirm it, in words.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub confirmed: Option<String>,
    /// What other sources say.
    pub found: String,
    /// Source of the row.
    pub source: String,
    /// Reliability.
    pub confidence: Confidence,
    /// Day on which the source was read.
    pub retrieved: String,
}
