//! Cuts the extent map into units of work, in guest order, ahead of the workers.

use super::error::ConvertError;
use super::pool::{Permit, Pool};
use crate::image::map::{DiskSource, Run, RunSource};
use crate::image::qcow2::Placer;
use crossbeam_channel::Sender;

/// Guest bytes mapped at a time.
const WINDOW_BYTES: u64 = 256 << 20;

/// A stretch of the guest's disk that one worker handles.
pub(super) struct Unit {
    /// Position in the order of units.
    pub(super) sequence: u64,
    /// Guest offset in bytes, a multiple of the unit size.
    pub(super) offset: u64,
    /// Length in bytes.
    pub(super) length: u64,
    /// Runs that hold data; what they leave out reads as zeros.
    pub(super) runs: Vec<Run>,
    /// Host offset of each cluster whose place is planned, 0 = none. Empty where places are found later.
    pub(super) places: Vec<u64>,
    pub(super) permit: Permit,
}

/// The part of `run` inside `[start, end)`.
pub(super) fn clip(run: &Run, start: u64, end: u64) -> Option<Run> {
    let from = run.offset.max(start);
    let to = (run.offset + run.length).min(end);
    if from >= to {
        return None;
    }
    let source = match run.source {
        RunSource::Raw { file, offset } => RunSource::Raw {
            file,
            offset: offset + (from - run.offset),
        },
        other => other,
    };
    Some(Run {
        offset: from,
        length: to - from,
        source,
    })
}

/// What a planner needs to know.
pub(super) struct Planner<'a> {
    pub(super) source: &'a dyn DiskSource,
    pub(super) pool: &'a Pool,
    pub(super) unit_bytes: u64,
    pub(super) cluster_bytes: u64,
    /// Places clusters ahead of the writer; `None` where sizes are not known before.
    pub(super) placer: Option<Placer>,
    /// Plans a place for every cluster, mapped or not.
    pub(super) everything: bool,
}

impl Planner<'_> {
    /// Sends units from guest offset `start` on until the disk ends or `stopped` says so.
    pub(super) fn run(
        mut self,
        start: u64,
        stopped: &dyn Fn() -> bool,
        out: &Sender<Unit>,
    ) -> Result<(), ConvertError> {
        let total = self.source.virtual_bytes();
        let mut sequence = 0;
        let mut at = start;
        while at < total {
            if stopped() {
                return Ok(());
            }
            let end = total.min((at / WINDOW_BYTES + 1) * WINDOW_BYTES);
            let runs = self.source.map(at, end - at)?;
            let mut first = 0;
            while at < end {
                let unit_end = end.min((at / self.unit_bytes + 1) * self.unit_bytes);
                while runs.get(first).is_some_and(|run| run.offset + run.length <= at) {
                    first += 1;
                }
                let inside: Vec<Run> = runs[first..]
                    .iter()
                    .take_while(|run| run.offset < unit_end)
                    .filter(|run| !matches!(run.source, RunSource::Hole | RunSource::Zero))
                    .filter_map(|run| clip(run, at, unit_end))
                    .collect();
                if !inside.is_empty() || self.everything {
                    let places = self.places(at, unit_end, &inside);
                    let Some(permit) = self.pool.permit(stopped) else {
                        return Ok(());
                    };
                    let unit = Unit {
                        sequence,
                        offset: at,
                        length: unit_end - at,
                        runs: inside,
                        places,
                        permit,
                    };
                    sequence += 1;
                    if out.send(unit).is_err() {
                        return Ok(());
                    }
                }
                at = unit_end;
            }
        }
        Ok(())
    }

    fn places(&mut self, start: u64, end: u64, runs: &[Run]) -> Vec<u64> {
        let Some(placer) = &mut self.placer else {
            return Vec::new();
        };
        let mut runs = runs.iter().peekable();
        (start / self.cluster_bytes..end.div_ceil(self.cluster_bytes))
            .map(|cluster| {
                let from = cluster * self.cluster_bytes;
                while runs.next_if(|run| run.offset + run.length <= from).is_some() {}
                let mapped = runs.peek().is_some_and(|run| run.offset < from + self.cluster_bytes);
                if mapped || self.everything {
                    placer.plan_stored(cluster)
                } else {
                    0
                }
            })
            .collect()
    }
}
