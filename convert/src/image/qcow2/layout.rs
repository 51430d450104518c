//! Where each cluster goes: a pure function of the order in which clusters are asked for.
//!
//! Planner, ledger and resume all run this same code and therefore agree without talking to each other.

use super::tables::Geometry;

/// Hands out host clusters, leaving room for the refcount block at the head of every stretch of the file.
#[derive(Debug, Clone)]
pub(super) struct Layout {
    cluster_bits: u32,
    per_block: u64,
    l1_first: u64,
    blocks_first: u64,
    front: u64,
    next: u64,
    /// Byte position where the compressed stream goes on; 0 = it starts a new cluster.
    stream: u64,
    /// Streams that touch the host cluster in which the compressed stream stands.
    streams_here: u32,
}

impl Layout {
    pub(super) fn new(geometry: &Geometry) -> Self {
        let per_block = geometry.refcounts_per_block();
        let l1 = (geometry.l1_entries() * 8).div_ceil(geometry.cluster()).max(1);
        // Blocks whose stretch begins inside the front area stand at its end.
        let mut blocks = 1;
        while (1 + l1 + blocks).div_ceil(per_block) > blocks {
            blocks += 1;
        }
        let front = 1 + l1 + blocks;
        Self {
            cluster_bits: geometry.cluster_bits,
            per_block,
            l1_first: 1,
            blocks_first: 1 + l1,
            front,
            next: front,
            stream: 0,
            streams_here: 0,
        }
    }

    /// Clusters of the front area: header, L1 table, first refcount blocks.
    pub(super) fn front(&self) -> u64 {
        self.front
    }

    pub(super) fn l1_offset(&self) -> u64 {
        self.l1_first << self.cluster_bits
    }

    /// Host cluster of refcount block `index`.
    pub(super) fn block_cluster(&self, index: u64) -> u64 {
        let head = index * self.per_block;
        if head < self.front {
            self.blocks_first + index
        } else {
            head
        }
    }

    fn is_block(&self, cluster: u64) -> bool {
        cluster >= self.front && cluster.is_multiple_of(self.per_block)
    }

    /// One host cluster.
    pub(super) fn take(&mut self) -> u64 {
        if self.is_block(self.next) {
            self.next += 1;
            // Refcount blocks are finished in ascending order: nothing may be added behind this point.
            self.stream = 0;
        }
        let cluster = self.next;
        self.next += 1;
        cluster
    }

    /// Byte offset for a compressed stream of `length` bytes, shorter than a cluster.
    ///
    /// Streams fill one host cluster and run on into the next where that is still free. Where a stored cluster stands
    /// there, the rest of the cluster is lost: less than one stream at each switch.
    pub(super) fn compressed(&mut self, length: u64) -> u64 {
        let cluster_bytes = 1_u64 << self.cluster_bits;
        if self.stream != 0 && self.streams_here < u32::from(u16::MAX) {
            let here = self.stream >> self.cluster_bits;
            let end = self.stream + length;
            let limit = (here + 1) << self.cluster_bits;
            if end <= limit {
                let offset = self.stream;
                self.stream = if end == limit { 0 } else { end };
                self.streams_here += 1;
                return offset;
            }
            if self.next == here + 1 && !self.is_block(self.next) {
                let offset = self.stream;
                self.next += 1;
                self.stream = if end == limit + cluster_bytes { 0 } else { end };
                self.streams_here = 1;
                return offset;
            }
        }
        let offset = self.take() << self.cluster_bits;
        self.stream = offset + length;
        self.streams_here = 1;
        offset
    }

    /// `count` clusters in a row for the refcount table, whose length depends on where it ends. Returns the first cluster
    /// and the number of clusters.
    pub(super) fn take_refcount_table(&mut self) -> (u64, u64) {
        let cluster_bytes = 1_u64 << self.cluster_bits;
        let mut count = 1;
        loop {
            if count >= self.per_block {
                // No stretch without a refcount block is that long; the writer refuses what is above QEMU's limit anyway.
                return (self.next, count);
            }
            let mut start = self.next;
            // The table is contiguous: it starts behind the last refcount block that would stand inside it.
            while let Some(block) = (start..start + count).find(|&cluster| self.is_block(cluster)) {
                start = block + 1;
            }
            let blocks = (start + count).div_ceil(self.per_block);
            let need = (blocks * 8).div_ceil(cluster_bytes).max(1);
            if need <= count {
                self.next = start + count;
                self.stream = 0;
                return (start, count);
            }
            count = need;
        }
    }

    /// Length of the file so far in bytes.
    pub(super) fn end(&self) -> u64 {
        self.next << self.cluster_bits
    }
}

/// An L2 table that is complete: nothing after it maps into its range.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ClosedTable {
    pub(super) l1_index: u64,
    pub(super) host_cluster: u64,
}

/// Places guest clusters, which come in ascending order, and the L2 tables between them.
#[derive(Debug, Clone)]
pub struct Placer {
    pub(super) layout: Layout,
    l2_entries: u64,
    open: Option<u64>,
}

impl Placer {
    /// An empty image.
    #[must_use]
    pub fn new(geometry: &Geometry) -> Self {
        Self {
            layout: Layout::new(geometry),
            l2_entries: geometry.l2_entries(),
            open: None,
        }
    }

    /// Announces that `guest_cluster` is next; returns the table that this completes.
    pub(super) fn enter(&mut self, guest_cluster: u64) -> Option<ClosedTable> {
        let l1_index = guest_cluster / self.l2_entries;
        if self.open == Some(l1_index) {
            return None;
        }
        let closed = self.close();
        self.open = Some(l1_index);
        closed
    }

    /// Completes the table in work.
    pub(super) fn close(&mut self) -> Option<ClosedTable> {
        let l1_index = self.open.take()?;
        Some(ClosedTable {
            l1_index,
            host_cluster: self.layout.take(),
        })
    }

    /// Host offset of a stored `guest_cluster`, for planning ahead of the writer.
    pub fn plan_stored(&mut self, guest_cluster: u64) -> u64 {
        self.enter(guest_cluster);
        self.layout.take() << self.layout.cluster_bits
    }

    /// Bytes of the file that are laid out so far.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.layout.end()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refcount_blocks_are_never_handed_out_and_nothing_is_handed_out_twice() {
        for bytes in [4096_u64, 65536] {
            let geometry = Geometry::new(bytes, 1 << 40, false).unwrap();
            let mut layout = Layout::new(&geometry);
            let blocks: std::collections::HashSet<u64> = (0..300).map(|index| layout.block_cluster(index)).collect();
            let mut last = layout.front() - 1;
            for _ in 0..200_000 {
                let cluster = layout.take();
                assert!(cluster > last && !blocks.contains(&cluster));
                last = cluster;
            }
        }
    }

    #[test]
    fn a_large_l1_pushes_the_first_blocks_behind_itself() {
        // 8 TiB at 4 KiB: 8,192 clusters of L1, more than the 2,048 that one refcount block counts.
        let geometry = Geometry::new(4096, 8 << 40, false).unwrap();
        let layout = Layout::new(&geometry);
        assert_eq!(layout.block_cluster(0), 8193);
        assert_eq!(layout.block_cluster(4), 8197);
        assert_eq!(layout.front(), 8198);
        assert_eq!(layout.block_cluster(5), 5 * 2048);
    }

    #[test]
    fn compressed_streams_run_on_around_stored_clusters() {
        let geometry = Geometry::new(65536, 1 << 30, false).unwrap();
        let mut layout = Layout::new(&geometry);
        let first = layout.compressed(40_000);
        let stored = layout.take() << 16;
        assert_eq!(stored, first + 65536);
        assert_eq!(layout.compressed(20_000), first + 40_000);
        // 5,536 bytes are left and a stored cluster follows: the stream starts anew behind it.
        let third = layout.compressed(20_000);
        assert_eq!(third, stored + 65536);
        assert_eq!(
            layout.compressed(60_000),
            third + 20_000,
            "runs on into the next cluster"
        );
    }

    #[test]
    fn no_host_cluster_gets_more_references_than_a_refcount_holds() {
        let geometry = Geometry::new(2 << 20, 1 << 40, false).unwrap();
        let mut layout = Layout::new(&geometry);
        let first = layout.compressed(10);
        for _ in 1..65_535 {
            assert_eq!(layout.compressed(10) >> 21, first >> 21);
        }
        assert_ne!(layout.compressed(10) >> 21, first >> 21);
    }
}
