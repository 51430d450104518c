//! Descriptions read on all processors, and handed on in the order in which they were found.

use super::{AssessOptions, row, stem, unreadable};
use crate::machine::Machine;
use crate::ovf::OvfError;
use crate::source::{DiskPlace, ImportError, ImportOptions, Imported, open};
use crossbeam_channel::{Receiver, Sender, bounded};
use reports::schema::EstateGuest;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

/// Most threads: beyond these the folders' file system is what takes the time.
const MAX_THREADS: usize = 16;
/// Entries that wait in front of a thread, and results behind it. Each result holds a description.
const WAITING: usize = 8;

/// What was found where descriptions are looked for.
#[derive(Debug)]
pub(super) enum Entry {
    /// A file that describes a guest, or several.
    Description(PathBuf),
    /// A folder that can't be listed, and why.
    Unlisted(String, walkdir::Error),
}

/// A guest's row, and its machine and disks where they could be read.
#[derive(Debug)]
pub(super) struct Guest {
    pub(super) row: EstateGuest,
    pub(super) source: Option<Box<(Machine, Vec<DiskPlace>)>>,
}

/// Reads what `entries` name and hands the guests to `take` in the same order, while the threads read on. Where `cancel` is set the
/// rest is left.
pub(super) fn read(
    entries: impl Iterator<Item = Entry> + Send,
    options: &AssessOptions,
    cancel: &AtomicBool,
    take: &mut dyn FnMut(Guest),
) {
    let threads = std::thread::available_parallelism()
        .map_or(1, usize::from)
        .min(MAX_THREADS);
    std::thread::scope(|scope| {
        // Each thread has its own way in and out, and they take turns: so the order stays, and nothing is sorted.
        let mut ways_in = Vec::new();
        let mut ways_out = Vec::new();
        for _ in 0..threads {
            let (way_in, entries) = bounded(WAITING);
            let (guests, way_out) = bounded(WAITING);
            ways_in.push(way_in);
            ways_out.push(way_out);
            scope.spawn(move || work(&entries, &guests, options, cancel));
        }
        scope.spawn(move || {
            for (entry, way_in) in entries.zip(ways_in.iter().cycle()) {
                if cancel.load(Ordering::Relaxed) || way_in.send(entry).is_err() {
                    return;
                }
            }
        });
        for way_out in ways_out.iter().cycle() {
            // Closed at its turn: there was no further entry.
            let Ok(guests) = way_out.recv() else { return };
            for guest in guests {
                if cancel.load(Ordering::Relaxed) {
                    return;
                }
                take(guest);
            }
        }
    });
}

fn work(entries: &Receiver<Entry>, guests: &Sender<Vec<Guest>>, options: &AssessOptions, cancel: &AtomicBool) {
    for entry in entries {
        if cancel.load(Ordering::Relaxed) {
            return;
        }
        let found = match entry {
            Entry::Description(path) => describe(&path, options, cancel),
            Entry::Unlisted(path, error) => vec![Guest {
                row: unreadable(path.clone(), path, error.to_string()),
                source: None,
            }],
        };
        if guests.send(found).is_err() {
            return;
        }
    }
}

/// The guests of one description.
fn describe(path: &Path, options: &AssessOptions, cancel: &AtomicBool) -> Vec<Guest> {
    match open(path, &options.import) {
        // A vApp: a row for each of its guests.
        Err(ImportError::Ovf {
            source: OvfError::SeveralSystems { names, asked: None },
            ..
        }) => names
            .into_iter()
            .take_while(|_| !cancel.load(Ordering::Relaxed))
            .map(|name| {
                let import = ImportOptions {
                    system: Some(name.clone()),
                    ..options.import.clone()
                };
                guest(path, open(path, &import), name, options)
            })
            .collect(),
        imported => vec![guest(path, imported, stem(path), options)],
    }
}

fn guest(path: &Path, imported: Result<Imported, ImportError>, name: String, options: &AssessOptions) -> Guest {
    match imported {
        Ok(imported) => Guest {
            row: row(path, &imported, options),
            source: Some(Box::new((imported.machine, imported.disks))),
        },
        Err(error) => Guest {
            row: unreadable(path.display().to_string(), name, error.to_string()),
            source: None,
        },
    }
}
