//! What became of each key of the source's description.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The one class that a source key ends in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "json-schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum KeyClass {
    /// Same effect on the target.
    Mapped,
    /// Nearest effect; the difference is stated.
    Approximated,
    /// No effect on the guest away from VMware.
    DroppedHarmless,
    /// Something that the user may miss.
    DroppedWarning,
    /// Not in our table.
    Unknown,
}

/// One key of the source.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "json-schema", derive(schemars::JsonSchema))]
pub struct AccountedKey {
    /// The key as the source spells it.
    pub key: String,
    /// Its decoded value.
    pub value: String,
    /// Line in the source file, from 1; absent for OVF items.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub line: Option<u32>,
    /// Where it ended.
    pub class: KeyClass,
    /// Why, in words; for mapped keys which field of the machine it became.
    pub why: String,
    /// The VMX key that says the same, for what an OVF spells in its own way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub same_as: Option<String>,
    /// What it became on each target: target name to the value written there.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub targets: BTreeMap<String, String>,
}

/// All keys of one source, in the source's order.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "json-schema", derive(schemars::JsonSchema))]
pub struct Accounting {
    /// The keys.
    pub keys: Vec<AccountedKey>,
}

impl Accounting {
    /// How many keys ended in `class`.
    #[must_use]
    pub fn count(&self, class: KeyClass) -> usize {
        self.keys.iter().filter(|key| key.class == class).count()
    }
}
