//! Several disks of a guest under one budget.

use super::disk::{convert_with, largest_unit};
use super::error::ConvertError;
use super::options::{CopyOptions, POLL};
use super::pipeline::Alarm;
use super::pool::Pool;
use super::target::partial_path;
use crate::image::map::DiskSource;
use crate::progress::Progress;
use reports::schema::DiskManifest;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

/// Disks of a guest that are converted at the same time.
const DISKS_AT_ONCE: usize = 4;

/// One disk for [`convert_disks`].
#[derive(Clone, Copy)]
pub struct DiskJob<'a> {
    /// What to read.
    pub source: &'a dyn DiskSource,
    /// Final name of the file.
    pub target: &'a Path,
    /// Name of the disk in the machine, for the manifest and progress.
    pub name: &'a str,
    /// Options; `jobs` and `bwlimit` are taken from the first disk's and hold for all together.
    pub options: &'a CopyOptions,
}

impl std::fmt::Debug for DiskJob<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DiskJob")
            .field("target", &self.target)
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

/// Converts the disks of a guest, up to four at a time, under one budget of threads, memory and bandwidth. Manifests come in
/// the order of `jobs`. Stops at the first error; disks that were complete by then stay.
///
/// # Errors
/// As [`super::convert_disk`].
pub fn convert_disks(
    jobs: &[DiskJob<'_>],
    progress: &dyn Progress,
    cancel: &AtomicBool,
) -> Result<Vec<DiskManifest>, ConvertError> {
    let Some(first) = jobs.first() else {
        return Ok(Vec::new());
    };
    let pool = Pool::new(
        first.options.jobs,
        first.options.bwlimit,
        jobs.iter()
            .map(|job| largest_unit(job.source, job.options))
            .max()
            .expect("there is a first"),
    );
    let next = Mutex::new(0_usize);
    let results = Mutex::new(BTreeMap::new());
    // A failing disk stops the others without touching the caller's flag.
    let stop = AtomicBool::new(false);
    let finished = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let watcher = scope.spawn(|| {
            while !finished.load(Ordering::Relaxed) {
                if cancel.load(Ordering::Relaxed) {
                    stop.store(true, Ordering::Relaxed);
                }
                std::thread::park_timeout(POLL);
            }
        });
        let lanes: Vec<_> = (0..jobs.len().min(DISKS_AT_ONCE))
            .map(|_| {
                scope.spawn(|| {
                    let _alarm = Alarm(&stop);
                    loop {
                        let index = {
                            let mut next = next.lock().unwrap_or_else(PoisonError::into_inner);
                            *next += 1;
                            *next - 1
                        };
                        let Some(job) = jobs.get(index) else { break };
                        if stop.load(Ordering::Relaxed) {
                            break;
                        }
                        let result =
                            convert_with(job.source, job.target, job.name, job.options, progress, &stop, &pool);
                        if result.is_err() {
                            stop.store(true, Ordering::Relaxed);
                        }
                        results
                            .lock()
                            .unwrap_or_else(PoisonError::into_inner)
                            .insert(index, result);
                    }
                })
            })
            .collect();
        for lane in lanes {
            if let Err(panic) = lane.join() {
                finished.store(true, Ordering::Relaxed);
                watcher.thread().unpark();
                std::panic::resume_unwind(panic);
            }
        }
        finished.store(true, Ordering::Relaxed);
        // Not after its next look only: a small disk takes less time than that.
        watcher.thread().unpark();
    });
    let mut results = results.into_inner().unwrap_or_else(PoisonError::into_inner);
    // The cause, not the disks that were stopped because of it.
    let cause = results
        .iter()
        .find(|(_, result)| matches!(result, Err(error) if !matches!(error, ConvertError::Cancelled { .. })))
        .map(|(&index, _)| index);
    if let Some(result) = cause.and_then(|index| results.remove(&index)) {
        return result.map(|manifest| vec![manifest]);
    }
    let started = results.len();
    let manifests: Vec<DiskManifest> = results.into_values().collect::<Result<_, _>>()?;
    if started < jobs.len() {
        return Err(ConvertError::Cancelled {
            partial: Some(partial_path(jobs[started].target)),
        });
    }
    Ok(manifests)
}
