//! Reference counts, kept only for the stretch of the file that is being written.

use super::layout::Layout;
use super::tables::Geometry;
use std::collections::BTreeMap;

/// Counts references; blocks behind the writing point are handed back to be written and forgotten.
#[derive(Debug)]
pub(super) struct Refcounts {
    per_block: u64,
    blocks: BTreeMap<u64, Vec<u16>>,
    /// Refcount table entries so far: host offsets of blocks, 0 = all counts zero.
    table: Vec<u64>,
}

impl Refcounts {
    pub(super) fn new(geometry: &Geometry, layout: &Layout) -> Self {
        let mut counts = Self {
            per_block: geometry.refcounts_per_block(),
            blocks: BTreeMap::new(),
            table: Vec::new(),
        };
        for cluster in 0..layout.front() {
            // The front area's own blocks count themselves when their stretch is first touched.
            if counts.front_block(layout, cluster).is_none() {
                counts.add(cluster, layout);
            }
        }
        counts
    }

    fn front_block(&self, layout: &Layout, cluster: u64) -> Option<u64> {
        (0..layout.front().div_ceil(self.per_block)).find(|&index| layout.block_cluster(index) == cluster)
    }

    /// One more reference to `cluster`.
    pub(super) fn add(&mut self, cluster: u64, layout: &Layout) {
        let block = cluster / self.per_block;
        if !self.blocks.contains_key(&block) {
            let length = usize::try_from(self.per_block).expect("at most 2^20");
            self.blocks.insert(block, vec![0; length]);
            self.add(layout.block_cluster(block), layout);
        }
        let slot = usize::try_from(cluster % self.per_block).expect("at most 2^20");
        let count = &mut self.blocks.get_mut(&block).expect("just inserted")[slot];
        *count = count.checked_add(1).expect("the layout caps references at 65,535");
    }

    /// Takes the blocks before the one that counts `cluster` (all of them for `None`), as (host cluster, bytes).
    pub(super) fn finished(&mut self, cluster: Option<u64>, layout: &Layout) -> Vec<(u64, Vec<u8>)> {
        let keep = match cluster {
            Some(cluster) => self.blocks.split_off(&(cluster / self.per_block)),
            None => BTreeMap::new(),
        };
        let done = std::mem::replace(&mut self.blocks, keep);
        done.into_iter()
            .map(|(index, counts)| {
                let host = layout.block_cluster(index);
                let slot = usize::try_from(index).expect("a table of at most 8 MiB");
                if self.table.len() <= slot {
                    self.table.resize(slot + 1, 0);
                }
                self.table[slot] = host * self.per_block * 2;
                (host, counts.iter().flat_map(|count| count.to_be_bytes()).collect())
            })
            .collect()
    }

    /// Whether blocks before the one that counts `cluster` are waiting.
    pub(super) fn behind(&self, cluster: u64) -> bool {
        self.blocks
            .keys()
            .next()
            .is_some_and(|&first| first < cluster / self.per_block)
    }

    /// The refcount table, once every block was taken.
    pub(super) fn table(&self) -> &[u64] {
        &self.table
    }
}
