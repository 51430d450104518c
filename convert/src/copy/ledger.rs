//! What has become of the guest's clusters, in guest order.

use super::error::ConvertError;
use super::hash::{Listing, Shape};
use super::journal::{ABSENT, Outcome, STORED};
use super::options::{CopyOptions, Preallocation};
use super::pool::Outbox;
use super::settle::Settled;
use super::worker::{Context, Done, Mode, bytes_of};
use crate::image::qcow2::Qcow2Writer;
use std::io::IoSlice;
use std::ops::Range;

/// Pieces in one call; the system takes 1024.
const MAX_PIECES: usize = 512;

/// Applies outcomes in guest order: tables, leaves, sums.
pub(super) struct Ledger<'f> {
    pub(super) writer: Option<Qcow2Writer<'f>>,
    pub(super) mode: Mode,
    pub(super) everything: bool,
    pub(super) cluster_bytes: u64,
    pub(super) leaves: Listing,
    pub(super) data_bytes: u64,
    /// Guest offset up to which everything is done.
    pub(super) done: u64,
}

impl<'f> Ledger<'f> {
    /// An empty one.
    pub(super) fn new(writer: Option<Qcow2Writer<'f>>, settled: &Settled, options: &CopyOptions, shape: Shape) -> Self {
        Self {
            writer,
            mode: settled.mode,
            everything: options.preallocation == Preallocation::Metadata,
            cluster_bytes: settled.cluster_bytes,
            leaves: Listing::new(shape),
            data_bytes: 0,
            done: 0,
        }
    }

    /// Bytes of the file that are settled.
    pub(super) fn end(&self) -> u64 {
        self.writer.as_ref().map_or(self.done, Qcow2Writer::end)
    }

    /// Brings tables up to date; `write` gets the offset of each cluster that the ledger has to write itself.
    pub(super) fn apply(
        &mut self,
        outcome: Outcome,
        mut write: impl FnMut(usize, u64) -> Result<(), ConvertError>,
        failed: impl Fn(std::io::Error) -> ConvertError,
    ) -> Result<(), ConvertError> {
        if let Some(writer) = &mut self.writer {
            let first = outcome.offset / self.cluster_bytes;
            for (slot, (guest, &code)) in (first..).zip(&outcome.codes).enumerate() {
                match (self.mode, code) {
                    (_, ABSENT) => {}
                    (Mode::Planned, code) => {
                        writer
                            .stored(guest, code == STORED || self.everything)
                            .map_err(&failed)?;
                    }
                    (_, STORED) => write(slot, writer.stored(guest, true).map_err(&failed)?)?,
                    (_, length) => write(slot, writer.compressed(guest, length.into()).map_err(&failed)?)?,
                }
            }
        }
        for leaf in outcome.leaves {
            self.leaves.push(leaf);
        }
        self.data_bytes += outcome.data_bytes;
        self.done = outcome.offset + outcome.length;
        Ok(())
    }
}

/// Applies a unit and writes the clusters whose places were found only now, joining neighbours.
pub(super) fn settle_unit(
    context: &Context<'_>,
    ledger: &mut Ledger<'_>,
    done: Done,
    records: &mut Vec<u8>,
) -> Result<(), ConvertError> {
    let Done {
        outcome,
        permit,
        ranges,
        ..
    } = &done;
    let mut pending = Pieces::default();
    ledger.apply(
        outcome.clone(),
        |slot, place| {
            let range = ranges[slot].clone();
            if !pending.take(place, &range) {
                pending.write(context, &permit.outbox)?;
                pending.take(place, &range);
            }
            Ok(())
        },
        |error| context.target.failed("writing tables", 0, error),
    )?;
    pending.write(context, &permit.outbox)?;
    // Only now: the journal vouches for nothing that failed to be written.
    outcome.encode(records);
    Ok(())
}

/// Pieces of an outbox that are neighbours in the target.
#[derive(Default)]
struct Pieces {
    /// Where the first goes.
    place: u64,
    bytes: u64,
    ranges: Vec<Range<usize>>,
}

impl Pieces {
    /// Adds the piece `range` for `place`, where it follows on what is here.
    fn take(&mut self, place: u64, range: &Range<usize>) -> bool {
        if self.ranges.is_empty() {
            (self.place, self.bytes) = (place, 0);
        } else if self.place + self.bytes != place || self.ranges.len() >= MAX_PIECES {
            return false;
        }
        self.bytes += bytes_of(range.len());
        match self.ranges.last_mut() {
            Some(last) if last.end == range.start => last.end = range.end,
            _ => self.ranges.push(range.clone()),
        }
        true
    }

    /// Writes all of them in one call.
    fn write(&mut self, context: &Context<'_>, outbox: &Outbox) -> Result<(), ConvertError> {
        let mut slices: Vec<_> = self
            .ranges
            .drain(..)
            .map(|range| IoSlice::new(outbox.at(range)))
            .collect();
        context.target.write_pieces(&mut slices, self.place)
    }
}
