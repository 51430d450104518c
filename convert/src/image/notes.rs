//! Oddities met and tolerated: collected from several threads, each once, and never more than a fixed number.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// More than these are counted, not kept: a damaged table could otherwise fill the memory.
const KEPT: usize = 200;

/// Collects notes.
#[derive(Debug, Default)]
pub(crate) struct Notes(Mutex<List>);

#[derive(Debug, Default)]
struct List {
    kept: Vec<String>,
    dropped: u64,
}

impl Notes {
    fn list(&self) -> MutexGuard<'_, List> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps `note` unless the same text is there already.
    pub(crate) fn add(&self, note: impl Into<String>) {
        let note = note.into();
        let mut list = self.list();
        if list.kept.contains(&note) {
            return;
        }
        if list.kept.len() < KEPT {
            list.kept.push(note);
        } else {
            list.dropped += 1;
        }
    }

    /// What was collected so far.
    pub(crate) fn all(&self) -> Vec<String> {
        let list = self.list();
        let mut all = list.kept.clone();
        if list.dropped > 0 {
            all.push(format!("{} more notes of the same kinds", list.dropped));
        }
        all
    }
}
