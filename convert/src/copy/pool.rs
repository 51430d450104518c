//! What all disks of a guest share: buffers, memory and bandwidth.

use super::options::{Compress, POLL};
use crate::image::qcow2::Encoder;
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use libdeflater::Decompressor;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Memory for buffers and results in flight, in bytes; the rest of the 256 MiB is tables, code and stacks.
const BUDGET_BYTES: u64 = 160 << 20;

/// Threads of a pool; more than this wait for memory and disks only.
const MAX_THREADS: usize = 24;
/// A leaf of the content hash: what is inflated, hashed and written while it is still in the processor's own cache.
pub(super) const UNIT_BYTES: u64 = 1 << 20;

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

/// Bytes on their way to the ledger. Grows to what a unit needs and is used again, so that a conversion does not spend
/// its time in page faults.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    bytes: Vec<u8>,
    used: usize,
}

impl Outbox {
    /// Takes `bytes` and says where they lie.
    pub(super) fn push(&mut self, bytes: &[u8]) -> Range<usize> {
        self.room(bytes.len()).copy_from_slice(bytes);
        self.commit(bytes.len())
    }

    /// Room for `length` bytes behind what is there; [`Self::commit`] keeps them.
    pub(super) fn room(&mut self, length: usize) -> &mut [u8] {
        let end = self.used + length;
        if self.bytes.len() < end {
            self.bytes.resize(end, 0);
        }
        &mut self.bytes[self.used..end]
    }

    /// Keeps the first `length` bytes of the room.
    pub(super) fn commit(&mut self, length: usize) -> Range<usize> {
        let begin = self.used;
        self.used += length;
        begin..self.used
    }

    /// The bytes at `range`.
    pub(super) fn at(&self, range: Range<usize>) -> &[u8] {
        &self.bytes[range]
    }
}

/// The right to have one unit in flight, with the buffer for its result. Comes back when dropped.
pub(super) struct Permit {
    home: Sender<Outbox>,
    pub(super) outbox: Outbox,
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.outbox.used = 0;
        // The pool holds the receiving end for as long as permits exist.
        let _ = self.home.try_send(std::mem::take(&mut self.outbox));
    }
}

/// A slot that goes back to the pool even where the work panics: others wait for it.
struct Lent<'a> {
    home: &'a Sender<Slot>,
    slot: Option<Slot>,
}

impl Drop for Lent<'_> {
    fn drop(&mut self) {
        if let Some(slot) = self.slot.take() {
            let _ = self.home.try_send(slot);
        }
    }
}

/// Slots, permits and the bandwidth limit.
pub(super) struct Pool {
    slots: (Sender<Slot>, Receiver<Slot>),
    permits: (Sender<Outbox>, Receiver<Outbox>),
    pub(super) threads: usize,
    limit: Option<(u64, Mutex<Instant>)>,
}

impl Pool {
    /// A pool of `jobs` workers (default: one a processor) for units of at most `unit_bytes`.
    pub(super) fn new(jobs: Option<usize>, bwlimit: Option<u64>, unit_bytes: u64) -> Self {
        let wanted = jobs.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from));
        let affordable = usize::try_from(BUDGET_BYTES / (4 * unit_bytes)).expect("a small number");
        let threads = wanted.clamp(1, MAX_THREADS.min(affordable).max(1));
        // A slot holds a unit and its compressed source, a permit the compressed result.
        let slot_bytes = 2 * unit_bytes * u64::try_from(threads).expect("at most 24");
        let window = usize::try_from(BUDGET_BYTES.saturating_sub(slot_bytes) / unit_bytes)
            .expect("a small number")
            .clamp(2, 4 * threads + 2);
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
            permits
                .0
                .try_send(Outbox::default())
                .unwrap_or_else(|_| unreachable!("the channel holds all permits"));
        }
        Self {
            slots,
            permits,
            threads,
            limit: bwlimit.map(|limit| (limit.max(1), Mutex::new(Instant::now()))),
        }
    }

    /// Runs `work` with a slot.
    pub(super) fn with_slot<T>(&self, work: impl FnOnce(&mut Slot) -> T) -> T {
        let mut lent = Lent {
            home: &self.slots.0,
            slot: Some(self.slots.1.recv().expect("the pool holds both ends")),
        };
        work(lent.slot.as_mut().expect("taken when dropped"))
    }

    /// Waits for a permit; `None` once `stopped` says so.
    pub(super) fn permit(&self, stopped: impl Fn() -> bool) -> Option<Permit> {
        loop {
            if stopped() {
                return None;
            }
            match self.permits.1.recv_timeout(POLL) {
                Ok(outbox) => {
                    return Some(Permit {
                        home: self.permits.0.clone(),
                        outbox,
                    });
                }
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
