//! What happens to one unit: read, inflate, test for zero, hash, compress or write.

use super::error::ConvertError;
use super::hash;
use super::journal::{ABSENT, Outcome, PLANNED_ZERO, STORED};
use super::options::Compress;
use super::plan::Unit;
use super::pool::{Permit, Pool, Slot, UNIT_BYTES};
use super::share::Sharing;
use super::target::Target;
use super::zero::is_zero;
use crate::image::map::{DiskSource, Run};
use std::ops::Range;
use std::sync::atomic::AtomicBool;

/// Guest bytes of a unit whose extents are shared.
const SHARED_UNIT_BYTES: u64 = 4 << 20;
/// Granularity of holes in raw targets.
const RAW_HOLE: usize = 4096;
/// How clusters reach the target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    /// Workers write to planned places.
    Planned,
    /// Workers compress, the ledger places and writes.
    Packed,
    /// Guest offset is file offset.
    Raw,
}

/// What all workers of a disk share.
pub(super) struct Context<'a> {
    pub(super) source: &'a dyn DiskSource,
    pub(super) target: &'a Target,
    pub(super) pool: &'a Pool,
    pub(super) mode: Mode,
    pub(super) compress: Compress,
    pub(super) cluster_bytes: usize,
    pub(super) leaf_bytes: u64,
    pub(super) hash: bool,
    pub(super) sharing: Sharing,
    pub(super) cancel: &'a AtomicBool,
}

/// A finished unit.
pub(super) struct Done {
    pub(super) sequence: u64,
    pub(super) outcome: Outcome,
    /// Where the bytes of each cluster that the ledger writes lie in the permit's outbox.
    pub(super) ranges: Vec<Range<usize>>,
    pub(super) permit: Permit,
}

/// A grain that needs no compression, because its writer has tried already.
#[derive(Debug, Clone)]
pub(super) enum Passed {
    /// Its deflate stream in the outbox becomes the cluster.
    Moved {
        stream: Range<usize>,
        /// Whether the grain was inflated into the guest buffer as well.
        inflated: bool,
    },
    /// It did not shrink.
    Stored,
}

pub(super) fn index(value: u64) -> usize {
    usize::try_from(value).expect("inside a buffer in memory")
}

pub(super) fn bytes_of(length: usize) -> u64 {
    u64::try_from(length).expect("a buffer in memory")
}

/// Guest bytes of a unit: whole leaves and whole clusters.
pub(super) fn unit_bytes(leaf_bytes: u64, cluster_bytes: u64) -> u64 {
    UNIT_BYTES.max(leaf_bytes).max(cluster_bytes)
}

impl Context<'_> {
    /// Guest bytes of a unit.
    pub(super) fn unit_bytes(&self) -> u64 {
        let least = unit_bytes(self.leaf_bytes, bytes_of(self.cluster_bytes));
        // Sharing costs a call a unit, and the buffers of few threads fit into memory all the same.
        if self.sharing.is_active() && self.pool.threads <= 8 {
            least.max(SHARED_UNIT_BYTES)
        } else {
            least
        }
    }

    /// Handles `unit`.
    pub(super) fn process(&self, unit: Unit, slot: &mut Slot) -> Result<Done, ConvertError> {
        let length = index(unit.length);
        let clusters = length.div_ceil(self.cluster_bytes);
        let padded = clusters * self.cluster_bytes;
        if slot.guest.len() < padded {
            slot.guest.resize(padded, 0);
        }
        let shared = self.sharing.share(self, &unit)?;
        let mut done = Done {
            sequence: unit.sequence,
            outcome: Outcome {
                offset: unit.offset,
                length: unit.length,
                ..Outcome::default()
            },
            ranges: Vec::new(),
            permit: unit.permit,
        };
        clear_gaps(&mut slot.guest[..padded], unit.offset, &unit.runs);
        let mut passed = vec![
            None;
            if matches!(self.compress, Compress::Keep { .. }) {
                clusters
            } else {
                0
            }
        ];
        self.read(
            unit.offset,
            (&unit.runs, &unit.streams),
            &shared,
            slot,
            &mut done.permit.outbox,
            &mut passed,
        )?;
        if self.hash {
            done.outcome.leaves = hash::leaves(unit.offset, &slot.guest[..length], self.leaf_bytes);
        }
        match self.mode {
            Mode::Planned => self.write_planned(&unit.places, length, &shared, slot, &mut done)?,
            Mode::Packed => self.pack(length, &passed, slot, &mut done)?,
            Mode::Raw => self.write_raw(length, &shared, slot, &mut done)?,
        }
        Ok(done)
    }

    fn write_planned(
        &self,
        places: &[u64],
        length: usize,
        shared: &[bool],
        slot: &mut Slot,
        done: &mut Done,
    ) -> Result<(), ConvertError> {
        let mut pending: Option<(u64, Range<usize>)> = None;
        for (cluster, &place) in places.iter().enumerate() {
            let from = cluster * self.cluster_bytes;
            let to = from + self.cluster_bytes;
            let is_shared = shared.get(cluster).copied().unwrap_or(false);
            let code = if place == 0 {
                ABSENT
            } else if (self.hash || !is_shared) && is_zero(&slot.guest[from..to]) {
                // A shared cluster was read to be hashed: the tables are the same on every file system.
                PLANNED_ZERO
            } else {
                STORED
            };
            done.outcome.codes.push(code);
            if code != STORED {
                continue;
            }
            done.outcome.data_bytes += bytes_of(to.min(length) - from);
            if is_shared {
                continue;
            }
            match &mut pending {
                Some((at, range)) if range.end == from && *at + bytes_of(range.len()) == place => range.end = to,
                _ => {
                    if let Some((at, range)) = pending.replace((place, from..to)) {
                        self.target.write(&slot.guest[range], at)?;
                    }
                }
            }
        }
        if let Some((at, range)) = pending {
            self.target.write(&slot.guest[range], at)?;
        }
        Ok(())
    }

    fn write_raw(&self, length: usize, shared: &[bool], slot: &mut Slot, done: &mut Done) -> Result<(), ConvertError> {
        let offset = done.outcome.offset;
        let mut begin = None;
        let mut at = 0;
        while at < length {
            let end = length.min(at + RAW_HOLE);
            let is_shared = shared.get(at / self.cluster_bytes).copied().unwrap_or(false);
            let data = !is_shared && !is_zero(&slot.guest[at..end]);
            if data || is_shared {
                done.outcome.data_bytes += bytes_of(end - at);
            }
            if data && begin.is_none() {
                begin = Some(at);
            }
            if !data && let Some(from) = begin.take() {
                self.target.write(&slot.guest[from..at], offset + bytes_of(from))?;
            }
            at = end;
        }
        if let Some(from) = begin {
            self.target.write(&slot.guest[from..length], offset + bytes_of(from))?;
        }
        Ok(())
    }
}

/// Clears what `runs` leave out.
fn clear_gaps(guest: &mut [u8], start: u64, runs: &[Run]) {
    let mut at = 0;
    for run in runs {
        let from = index(run.offset - start);
        guest[at..from].fill(0);
        at = from + index(run.length);
    }
    guest[at..].fill(0);
}
