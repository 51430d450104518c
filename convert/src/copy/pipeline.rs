//! The threads of one disk: planner, workers, ledger, and the one that vouches in the journal.

use super::error::ConvertError;
use super::journal::Journal;
use super::ledger::{Ledger, settle_unit};
use super::options::{CopyOptions, POLL};
use super::plan::{Grains, Planner, Unit};
use super::worker::{Context, Done, Mode};
use crate::progress::Progress;
use crossbeam_channel::{RecvTimeoutError, Sender, bounded, unbounded};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};

/// Copies what `ledger` does not hold yet, from the source's map or from `grains` that arrive in order; every way out leaves
/// a journal, where there is one, that vouches for what is written.
pub(super) fn copy(
    context: &Context<'_>,
    ledger: &mut Ledger<'_>,
    mut journal: Option<&mut Journal>,
    grains: Option<&mut dyn Grains>,
    options: &CopyOptions,
    name: &str,
    progress: &dyn Progress,
) -> Result<(), ConvertError> {
    let start = ledger.done;
    progress.advance(name, start);
    let planner = Planner {
        source: context.source,
        pool: context.pool,
        unit_bytes: context.unit_bytes(),
        cluster_bytes: u64::try_from(context.cluster_bytes).expect("at most 2 MiB"),
        placer: (context.mode == Mode::Planned).then(|| {
            ledger
                .writer
                .as_ref()
                .expect("planned places are a qcow2 writer's")
                .placer()
        }),
        everything: ledger.everything,
        sequence: 0,
    };
    let failed = AtomicBool::new(false);
    let stopped = || failed.load(Ordering::Relaxed) || context.cancel.load(Ordering::Relaxed);
    // Deep enough that no worker waits for the planner to wake up; permits bound what is in flight. With room for one unit
    // the workers of two processors spent a third of their time waiting.
    let (unit_in, unit_out) = bounded::<Unit>(2 * context.pool.threads);
    let (done_in, done_out) = unbounded::<Result<Done, ConvertError>>();
    let (record_in, record_out) = bounded::<Vec<u8>>(16);
    std::thread::scope(|scope| {
        let vouch = scope.spawn(|| {
            while let Ok(mut records) = record_out.recv() {
                // One sync covers everything that has come in meanwhile: all of it was written before it was sent.
                for more in record_out.try_iter() {
                    records.extend(more);
                }
                let mut vouch = || {
                    // Before the sync: what others append meanwhile is not on the disk yet.
                    let file_bytes = context.target.bytes()?;
                    if options.sync {
                        let synced = context.target.file.sync_data();
                        synced.map_err(|error| context.target.failed("syncing", 0, error))?;
                    }
                    match &mut journal {
                        Some(journal) => journal.outcomes(&records, &context.source.notes(), file_bytes),
                        None => Ok(()),
                    }
                };
                let written = vouch();
                if written.is_err() {
                    failed.store(true, Ordering::Relaxed);
                    // Keep receiving, so that nobody waits for room.
                    while record_out.recv().is_ok() {}
                    return written;
                }
            }
            Ok(())
        });
        let errors = done_in.clone();
        let planner_stopped = &stopped;
        let alarmed = &failed;
        scope.spawn(move || {
            let _alarm = Alarm(alarmed);
            let planned = match grains {
                Some(grains) => planner.run_stream(grains, planner_stopped, &unit_in),
                None => planner.run(start, planner_stopped, &unit_in),
            };
            if let Err(error) = planned {
                let _ = errors.send(Err(error));
            }
        });
        for _ in 0..context.pool.threads {
            let (units, done) = (unit_out.clone(), done_in.clone());
            let stopped = &stopped;
            let failed = &failed;
            scope.spawn(move || {
                let _alarm = Alarm(failed);
                work(context, &units, &done, stopped);
            });
        }
        drop((unit_out, done_in));
        let mut waiting = BTreeMap::new();
        let mut next = 0;
        let mut first_error = None;
        let mut records = Vec::new();
        let mut since = start;
        loop {
            let result = match done_out.recv_timeout(POLL) {
                Ok(result) => result,
                Err(RecvTimeoutError::Timeout) => continue,
                Err(RecvTimeoutError::Disconnected) => break,
            };
            match result {
                Ok(done) => {
                    waiting.insert(done.sequence, done);
                }
                Err(error) => {
                    failed.store(true, Ordering::Relaxed);
                    first_error.get_or_insert(error);
                }
            }
            while first_error.is_none()
                && let Some(done) = waiting.remove(&next)
            {
                next += 1;
                let before = ledger.done;
                if let Err(error) = settle_unit(context, ledger, done, &mut records) {
                    failed.store(true, Ordering::Relaxed);
                    first_error = Some(error);
                    break;
                }
                progress.advance(name, ledger.done - before);
                if ledger.done - since >= options.checkpoint_bytes.min(1 << 30) {
                    since = ledger.done;
                    let _ = record_in.send(std::mem::take(&mut records));
                }
            }
            if first_error.is_some() {
                // Permits of units that nobody will apply go back to the pool.
                waiting.clear();
            }
        }
        // What was applied in order is good, whatever stopped the rest.
        if !records.is_empty() {
            let _ = record_in.send(records);
        }
        drop(record_in);
        let vouched = match vouch.join() {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        };
        match first_error {
            Some(error) => return Err(error),
            None => vouched?,
        }
        if context.cancel.load(Ordering::Relaxed) {
            return Err(ConvertError::Cancelled {
                partial: Some(context.target.partial.clone()),
            });
        }
        progress.advance(name, context.source.virtual_bytes() - ledger.done);
        Ok(())
    })
}

/// Stops everybody else when its thread panics: the planner would wait for ever for what will not come.
pub(super) struct Alarm<'a>(pub(super) &'a AtomicBool);

impl Drop for Alarm<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.store(true, Ordering::Relaxed);
        }
    }
}

fn work(
    context: &Context<'_>,
    units: &crossbeam_channel::Receiver<Unit>,
    done: &Sender<Result<Done, ConvertError>>,
    stopped: &dyn Fn() -> bool,
) {
    while let Ok(unit) = units.recv() {
        if stopped() {
            continue;
        }
        let result = context.pool.with_slot(|slot| context.process(unit, slot));
        if done.send(result).is_err() {
            break;
        }
    }
}
