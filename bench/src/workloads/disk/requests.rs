//! Which blocks are asked for.

use crate::stats::Prng;
use crate::workloads::engine::Operation;

/// A pattern of requests.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pattern {
    pub(super) id: &'static str,
    pub(super) title: &'static str,
    pub(super) block: usize,
    /// Reads in a hundred.
    pub(super) reads: u64,
    pub(super) random: bool,
    pub(super) reference: &'static str,
}

pub(super) const PATTERNS: [Pattern; 5] = [
    Pattern {
        id: "seqread-1m",
        title: "Sequential read, 1 MiB",
        block: 1 << 20,
        reads: 100,
        random: false,
        reference: "fio --rw=read --bs=1m --direct=1",
    },
    Pattern {
        id: "seqwrite-1m",
        title: "Sequential write, 1 MiB",
        block: 1 << 20,
        reads: 0,
        random: false,
        reference: "fio --rw=write --bs=1m --direct=1",
    },
    Pattern {
        id: "randread-4k",
        title: "Random read, 4 KiB",
        block: 4096,
        reads: 100,
        random: true,
        reference: "fio --rw=randread --bs=4k --direct=1",
    },
    Pattern {
        id: "randwrite-4k",
        title: "Random write, 4 KiB",
        block: 4096,
        reads: 0,
        random: true,
        reference: "fio --rw=randwrite --bs=4k --direct=1",
    },
    Pattern {
        id: "randrw-4k",
        title: "Random 70/30 read/write, 4 KiB",
        block: 4096,
        reads: 70,
        random: true,
        reference: "fio --rw=randrw --rwmixread=70 --bs=4k --direct=1",
    },
];

/// Where the next request goes.
pub(super) struct Requests {
    pattern: Pattern,
    blocks: u64,
    next: u64,
    prng: Prng,
}

impl Requests {
    pub(super) fn new(pattern: Pattern, bytes: u64) -> Self {
        let blocks = (bytes / pattern.block as u64).max(1);
        Self {
            pattern,
            blocks,
            next: 0,
            prng: Prng::new(7),
        }
    }

    pub(super) fn next(&mut self) -> (Operation, u64) {
        let block = if self.pattern.random {
            self.prng.below(self.blocks)
        } else {
            let block = self.next;
            self.next = (self.next + 1) % self.blocks;
            block
        };
        let read = self.prng.below(100) < self.pattern.reads;
        (
            if read { Operation::Read } else { Operation::Write },
            block * self.pattern.block as u64,
        )
    }
}

#[cfg(test)]
mod tests {
    use super::{PATTERNS, Requests};
    use crate::workloads::engine::Operation;

    #[test]
    fn requests_stay_inside_the_file_and_mix_as_told() {
        let mut requests = Requests::new(PATTERNS[4], 1 << 20);
        let mut reads = 0;
        for _ in 0..1000 {
            let (operation, offset) = requests.next();
            assert!(offset + 4096 <= 1 << 20 && offset % 4096 == 0);
            reads += u32::from(operation == Operation::Read);
        }
        assert!((640..760).contains(&reads), "{reads}");
    }
}
