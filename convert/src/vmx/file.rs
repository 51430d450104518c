//! The parsed file: entries in order, looked up without regard to case.

use crate::machine::Notice;
use std::collections::{BTreeSet, HashMap, HashSet};

/// One `key = "value"` line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The key as the file spells it.
    pub key: String,
    /// The key in ASCII lower case, by which it is looked up.
    pub lower: String,
    /// The decoded value.
    pub value: String,
    /// Line, from 1.
    pub line: u32,
    /// An earlier line has the same key and wins.
    pub shadowed: bool,
}

/// A parsed VMX (or VMTX, VMSD) file.
#[derive(Debug, Clone, Default)]
pub struct VmxFile {
    entries: Vec<Entry>,
    index: HashMap<String, usize>,
    removed: HashSet<String>,
    /// What was met on the way.
    pub notices: Vec<Notice>,
}

impl VmxFile {
    pub(super) fn new(entries: Vec<Entry>, notices: Vec<Notice>) -> Self {
        let mut index = HashMap::new();
        let mut removed = HashSet::new();
        for (number, entry) in entries.iter().enumerate().filter(|(_, entry)| !entry.shadowed) {
            index.insert(entry.lower.clone(), number);
            if let Some(space) = entry.lower.strip_suffix(".present")
                && entry.value.trim().eq_ignore_ascii_case("false")
            {
                removed.insert(space.to_owned());
            }
        }
        Self {
            entries,
            index,
            removed,
            notices,
        }
    }

    /// All lines with a key, in the file's order.
    #[must_use]
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// The winning entry for `key`, dead or alive.
    #[must_use]
    pub fn entry(&self, key: &str) -> Option<&Entry> {
        self.index
            .get(&key.to_ascii_lowercase())
            .map(|number| &self.entries[*number])
    }

    /// The value of `key`, unless its device was removed by `present = "FALSE"`.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&str> {
        let entry = self.entry(key)?;
        (!self.is_removed(&entry.lower)).then_some(entry.value.as_str())
    }

    /// [`VmxFile::get`], with an empty value as absent.
    #[must_use]
    pub fn text(&self, key: &str) -> Option<&str> {
        self.get(key).map(str::trim).filter(|value| !value.is_empty())
    }

    /// `TRUE` or `FALSE` in any case; anything else is `None`.
    #[must_use]
    pub fn flag(&self, key: &str) -> Option<bool> {
        let value = self.text(key)?;
        if value.eq_ignore_ascii_case("true") {
            Some(true)
        } else if value.eq_ignore_ascii_case("false") {
            Some(false)
        } else {
            None
        }
    }

    /// A whole number, where the value is one.
    #[must_use]
    pub fn number<T: std::str::FromStr>(&self, key: &str) -> Option<T> {
        self.text(key)?.parse().ok()
    }

    /// Does `lower` (in lower case) belong to a device that `present = "FALSE"` took out, itself or its controller?
    #[must_use]
    pub fn is_removed(&self, lower: &str) -> bool {
        let Some((space, _)) = lower.split_once('.') else {
            return false;
        };
        self.removed.contains(space)
            || space
                .split_once(':')
                .is_some_and(|(controller, _)| self.removed.contains(controller))
    }

    /// Name spaces taken out by `present = "FALSE"`, in lower case.
    #[must_use]
    pub fn removed(&self) -> BTreeSet<&str> {
        self.removed.iter().map(String::as_str).collect()
    }

    /// Living name spaces in lower case that begin with `prefix` followed by a digit: `ethernet0`, `scsi0:10`. Ordered as
    /// text; callers order by number.
    #[must_use]
    pub fn spaces(&self, prefix: &str) -> BTreeSet<&str> {
        self.entries
            .iter()
            .filter(|entry| !entry.shadowed && !self.is_removed(&entry.lower))
            .filter_map(|entry| entry.lower.split_once('.').map(|(space, _)| space))
            .filter(|space| {
                space
                    .strip_prefix(prefix)
                    .is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
            })
            .collect()
    }
}
