//! Compressing the clusters of a unit.

use super::error::ConvertError;
use super::journal::{ABSENT, STORED};
use super::pool::Slot;
use super::worker::{Context, Done, Passed, bytes_of};
use super::zero::is_zero;

impl Context<'_> {
    /// Compresses what was not moved; the ledger finds the places.
    pub(super) fn pack(
        &self,
        length: usize,
        passed: &[Option<Passed>],
        slot: &mut Slot,
        done: &mut Done,
    ) -> Result<(), ConvertError> {
        let guest = std::mem::take(&mut slot.guest);
        let result = self.pack_clusters(length, passed, &guest, slot, done);
        slot.guest = guest;
        result
    }

    fn pack_clusters(
        &self,
        length: usize,
        passed: &[Option<Passed>],
        guest: &[u8],
        slot: &mut Slot,
        done: &mut Done,
    ) -> Result<(), ConvertError> {
        let encoder = slot
            .encoder(self.compress)
            .map_err(|error| ConvertError::Options(format!("the compressor does not start: {error}")))?;
        let size = self.cluster_bytes;
        for cluster in 0..length.div_ceil(size) {
            let from = cluster * size;
            let content = &guest[from..from + size];
            let passed = passed.get(cluster).and_then(Option::as_ref);
            let inflated = !matches!(passed, Some(Passed::Moved { inflated: false, .. }));
            if inflated && is_zero(content) {
                done.outcome.codes.push(ABSENT);
                done.ranges.push(0..0);
                continue;
            }
            done.outcome.data_bytes += bytes_of(size.min(length - from));
            let outbox = &mut done.permit.outbox;
            let (code, range) = match passed {
                Some(Passed::Moved { stream, .. }) => (stream.len(), stream.clone()),
                Some(Passed::Stored) => (0, outbox.push(content)),
                // A cluster that does not shrink by a byte is stored, as QEMU does it.
                None => match encoder.compress(content, outbox.room(size - 1)) {
                    Some(found) => (found, outbox.commit(found)),
                    None => (0, outbox.push(content)),
                },
            };
            done.outcome.codes.push(match code {
                0 => STORED,
                length => u32::try_from(length).expect("less than a cluster"),
            });
            done.ranges.push(range);
        }
        Ok(())
    }
}
