//! What all disks of a guest share: buffers, memory and bandwidth.

use super::options::{Compress, POLL};
use crate::image::qcow2::Encoder;
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use libdeflater::Decompressor;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Memory for buffers and results in flight, in bytes; the rest of the 256 MiB is tables, code and stacks.
const BUDGET_BYTES: u64 = 160 << 20;

/// A worker's reusable state. Holding one is the right to use a processor.
pub(super) struct Slot {
    /// Guest content of a unit.
    pub(super) guest: Vec<u8>,
    /// Compressed source bytes.
    pub(super) packed: Vec<u8>,
    /// A grain that cannot be inflated in place.
    pub(super) scratch: Vec<u8>,
    pub(super) inflate: Decompressor,
    encoder: Option<(Compress, Encoder)>,
}

impl Slot {
    /// The encoder for `compress`, made when first asked for.
    pub(super) fn encoder(&mut self, compress: Compress) -> std::io::Result<&mut Encoder> {
        if self.encoder.as_ref().is_none_or(|(made_for, _)| *made_for != compress) {
            let format = compress.format().expect("asked for by compressing conversions only");
            self.encoder = Some((compress, Encoder::new(format, compress.level())?));
        }
        Ok(&mut self.encoder.as_mut().expect("just made").1)
    }
}

/// The right to have one unit in flight. Comes back when dropped.
pub(super) struct Permit(Sender<()>);

impl Drop for Permit {
    fn drop(&mut self) {
        // The pool holds the receiving end for as long as permits exist.
        let _ = self.0.try_send(());
    }
}

/// Slots, permits and the bandwidth limit.
pub(super) struct Pool {
    slots: (Sender<Slot>, Receiver<Slot>),
    permits: (Sender<()>, Receiver<()>),
    pub(super) threads: usize,
    pub(super) unit_bytes: u64,
    limit: Option<(u64, Mutex<Instant>)>,
}

impl Pool {
    /// A pool of `jobs` workers (default: one a processor).
    pub(super) fn new(jobs: Option<usize>, bwlimit: Option<u64>) -> Self {
        let wanted = jobs.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from));
        let threads = wanted.clamp(1, 24);
        let unit_bytes: u64 = if threads <= 4 { 4 << 20 } else { 2 << 20 };
        let slot_bytes = 2 * unit_bytes * u64::try_from(threads).expect("at most 24");
        let window = usize::try_from((BUDGET_BYTES - slot_bytes) / unit_bytes)
            .expect("a small number")
            .min(4 * threads + 2);
        let slots = bounded(threads);
        for _ in 0..threads {
            let slot = Slot {
                guest: Vec::new(),
                packed: Vec::new(),
                scratch: Vec::new(),
                inflate: Decompressor::new(),
                encoder: None,
            };
            slots
                .0
                .try_send(slot)
                .unwrap_or_else(|_| unreachable!("the channel holds all slots"));
        }
        let permits = bounded(window);
        for _ in 0..window {
            permits.0.try_send(()).expect("the channel holds all permits");
        }
        Self {
            slots,
            permits,
            threads,
            unit_bytes,
            limit: bwlimit.map(|limit| (limit.max(1), Mutex::new(Instant::now()))),
        }
    }

    /// Runs `work` with a slot.
    pub(super) fn with_slot<T>(&self, work: impl FnOnce(&mut Slot) -> T) -> T {
        let mut slot = self.slots.1.recv().expect("the pool holds both ends");
        let result = work(&mut slot);
        let _ = self.slots.0.try_send(slot);
        result
    }

    /// Waits for a permit; `None` once `stopped` says so.
    pub(super) fn permit(&self, stopped: impl Fn() -> bool) -> Option<Permit> {
        loop {
            if stopped() {
                return None;
            }
            match self.permits.1.recv_timeout(POLL) {
                Ok(()) => return Some(Permit(self.permits.0.clone())),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return None,
            }
        }
    }

    /// Waits until `bytes` more may be read. Returns early when `cancel` is set.
    pub(super) fn throttle(&self, bytes: u64, cancel: &AtomicBool) {
        let Some((limit, next)) = &self.limit else { return };
        let mine = {
            let mut next = next.lock().unwrap_or_else(PoisonError::into_inner);
            let mine = (*next).max(Instant::now());
            let nanoseconds = u128::from(bytes) * 1_000_000_000 / u128::from(*limit);
            *next = mine + Duration::from_nanos(u64::try_from(nanoseconds).unwrap_or(u64::MAX >> 4));
            mine
        };
        while !cancel.load(Ordering::Relaxed) {
            let wait = mine.saturating_duration_since(Instant::now());
            if wait.is_zero() {
                break;
            }
            std::thread::sleep(wait.min(POLL));
        }
    }
}
