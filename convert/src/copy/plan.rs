//! Cuts the extent map into units of work, in guest order, ahead of the workers.

use super::error::ConvertError;
use super::pool::{Permit, Pool};
use crate::image::map::{DiskSource, Run, RunSource};
use crate::image::qcow2::Placer;
use crate::image::vmdk::marker::GRAIN_HEADER;
use crate::image::vmdk::stream::StreamGrain;
use crate::image::{ImageError, ImageErrorKind};
use crossbeam_channel::Sender;
use std::ops::Range;

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
    /// The compressed grains themselves, one a run, where the source cannot be read a second time. Empty elsewhere.
    pub(super) streams: Vec<Vec<u8>>,
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

/// Grains that arrive one behind the other and never again.
pub(super) trait Grains: Send {
    /// The next grain; `None` at the end of the stream.
    fn next_grain(&mut self) -> Result<Option<StreamGrain>, ImageError>;
    /// The stream's name for messages.
    fn path(&self) -> &std::path::Path;
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
    /// Units sent so far.
    pub(super) sequence: u64,
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
                if !self.send(at..unit_end, inside, Vec::new(), stopped, out) {
                    return Ok(());
                }
                at = unit_end;
            }
        }
        Ok(())
    }

    /// As [`Self::run`], for grains in the order in which they arrive.
    pub(super) fn run_stream(
        mut self,
        grains: &mut dyn Grains,
        stopped: &dyn Fn() -> bool,
        out: &Sender<Unit>,
    ) -> Result<(), ConvertError> {
        let total = self.source.virtual_bytes();
        let (mut runs, mut streams) = (Vec::new(), Vec::new());
        let mut at = 0;
        let mut reached = 0;
        while !stopped() {
            let grain = grains.next_grain()?;
            let next = grain.as_ref().map_or(total, |grain| grain.guest_offset);
            if next < reached {
                return Err(ImageError::new(
                    ImageErrorKind::Unsupported,
                    grains.path(),
                    format!("a grain for guest offset {next} follows one that ends at {reached}"),
                )
                .advise("This stream is out of order: write it to a file first and convert that")
                .into());
            }
            // Units in front of the one that the grain belongs to are complete.
            while at < total && next >= total.min(at + self.unit_bytes) {
                let end = total.min(at + self.unit_bytes);
                if !self.send(
                    at..end,
                    std::mem::take(&mut runs),
                    std::mem::take(&mut streams),
                    stopped,
                    out,
                ) {
                    return Ok(());
                }
                at = if self.everything {
                    end
                } else {
                    end.max(next / self.unit_bytes * self.unit_bytes).min(total)
                };
            }
            let Some(grain) = grain else { break };
            reached = next + u64::from(grain.grain_bytes);
            runs.push(Run {
                offset: next,
                length: u64::from(grain.grain_bytes),
                source: RunSource::Deflate {
                    file: 0,
                    offset: grain.marker_offset + GRAIN_HEADER,
                    compressed: u32::try_from(grain.data.len()).expect("a marker's length"),
                    grain_start: next,
                    grain_bytes: grain.grain_bytes,
                },
            });
            streams.push(grain.data);
        }
        Ok(())
    }

    /// Sends the unit at `range` where there is anything to do; false once nobody wants more.
    fn send(
        &mut self,
        range: Range<u64>,
        runs: Vec<Run>,
        streams: Vec<Vec<u8>>,
        stopped: &dyn Fn() -> bool,
        out: &Sender<Unit>,
    ) -> bool {
        if runs.is_empty() && !self.everything {
            return true;
        }
        let places = self.places(range.start, range.end, &runs);
        let Some(permit) = self.pool.permit(stopped) else {
            return false;
        };
        let unit = Unit {
            sequence: self.sequence,
            offset: range.start,
            length: range.end - range.start,
            runs,
            streams,
            places,
            permit,
        };
        self.sequence += 1;
        out.send(unit).is_ok()
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
