//! Geometry of an image and the two kinds of L2 entry.

/// Entry bit 63: the cluster's reference count is exactly one.
pub(super) const COPIED: u64 = 1 << 63;
/// L2 entry bit 62: a compressed cluster.
const COMPRESSED: u64 = 1 << 62;
/// Bits 9 to 55: host offset.
pub(super) const OFFSET_MASK: u64 = 0x00ff_ffff_ffff_fe00;
/// QEMU's bound on the L1 table.
pub(super) const MAX_L1_BYTES: u64 = 32 << 20;

/// What does not fit into a qcow2 image.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GeometryError {
    /// Not a power of two that QEMU accepts.
    #[error("cluster size {found} is not a power of two from {least} to 2097152")]
    Cluster {
        /// What was asked for, in bytes.
        found: u64,
        /// Smallest allowed here, in bytes.
        least: u64,
    },
    /// qcow2 counts in sectors.
    #[error("virtual size {0} is not a multiple of 512")]
    Size(u64),
    /// QEMU refuses an L1 table above 32 MiB.
    #[error(
        "a disk of {virtual_bytes} bytes needs an L1 table of {l1_bytes} bytes at this cluster size, QEMU accepts {MAX_L1_BYTES}: choose larger clusters"
    )]
    TooLarge {
        /// Virtual size in bytes.
        virtual_bytes: u64,
        /// Bytes of L1 it would take.
        l1_bytes: u64,
    },
}

/// Sizes that follow from virtual size, cluster size and the kind of L2 entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Geometry {
    /// log2 of the cluster size.
    pub cluster_bits: u32,
    /// Guest-visible size in bytes.
    pub virtual_bytes: u64,
    /// 128-bit L2 entries with subclusters.
    pub extended_l2: bool,
}

impl Geometry {
    /// Checks the sizes against what QEMU opens.
    ///
    /// # Errors
    /// A cluster size that is no power of two in 4 KiB..2 MiB (16 KiB with extended L2), an odd size, a disk too large.
    pub fn new(cluster_bytes: u64, virtual_bytes: u64, extended_l2: bool) -> Result<Self, GeometryError> {
        let least = if extended_l2 { 16 << 10 } else { 4 << 10 };
        if !cluster_bytes.is_power_of_two() || cluster_bytes < least || cluster_bytes > 2 << 20 {
            return Err(GeometryError::Cluster {
                found: cluster_bytes,
                least,
            });
        }
        if !virtual_bytes.is_multiple_of(512) {
            return Err(GeometryError::Size(virtual_bytes));
        }
        let geometry = Self {
            cluster_bits: cluster_bytes.trailing_zeros(),
            virtual_bytes,
            extended_l2,
        };
        let l1_bytes = geometry.l1_entries() * 8;
        if l1_bytes > MAX_L1_BYTES {
            return Err(GeometryError::TooLarge {
                virtual_bytes,
                l1_bytes,
            });
        }
        Ok(geometry)
    }

    /// Cluster size in bytes.
    #[must_use]
    pub fn cluster(&self) -> u64 {
        1 << self.cluster_bits
    }

    /// Guest clusters, the last one possibly partial.
    #[must_use]
    pub fn clusters(&self) -> u64 {
        self.virtual_bytes.div_ceil(self.cluster())
    }

    /// Bytes of an L2 entry.
    #[must_use]
    pub fn entry_bytes(&self) -> u64 {
        if self.extended_l2 { 16 } else { 8 }
    }

    /// Guest clusters that one L2 table maps.
    #[must_use]
    pub fn l2_entries(&self) -> u64 {
        self.cluster() / self.entry_bytes()
    }

    /// Entries of the L1 table.
    #[must_use]
    pub fn l1_entries(&self) -> u64 {
        self.clusters().div_ceil(self.l2_entries())
    }

    /// Refcounts (16 bits each) in one refcount block.
    #[must_use]
    pub fn refcounts_per_block(&self) -> u64 {
        self.cluster() / 2
    }
}

/// A decoded L2 entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum L2Entry {
    /// Nothing here: a backing file's turn, or zeros.
    Unallocated,
    /// Reads as zeros.
    Zero,
    /// A whole cluster at this host offset.
    Stored(u64),
    /// A compressed stream.
    Compressed {
        /// Host byte offset.
        offset: u64,
        /// Bytes up to the end of the last 512-byte sector that the stream touches.
        bytes: u64,
    },
}

/// The entry of a stored cluster at `offset`.
#[must_use]
pub fn stored_entry(offset: u64) -> u64 {
    COPIED | offset
}

/// The entry of a compressed stream of `length` bytes at byte `offset`; `None` where the offset does not fit.
#[must_use]
pub fn compressed_entry(cluster_bits: u32, offset: u64, length: u64) -> Option<u64> {
    let offset_bits = 62 - (cluster_bits - 8);
    if length == 0 || offset >> offset_bits != 0 {
        return None;
    }
    let further = ((offset + length - 1) >> 9) - (offset >> 9);
    (further >> (cluster_bits - 8) == 0).then_some(COMPRESSED | further << offset_bits | offset)
}

/// Decodes the (first) 64-bit word of an L2 entry. With extended L2 the zero bit is not looked at.
#[must_use]
pub fn parse_l2_entry(cluster_bits: u32, extended: bool, word: u64) -> L2Entry {
    if word & COMPRESSED != 0 {
        let offset_bits = 62 - (cluster_bits - 8);
        let descriptor = word & (COMPRESSED - 1);
        let offset = descriptor & ((1 << offset_bits) - 1);
        let sectors = (descriptor >> offset_bits) + 1;
        return L2Entry::Compressed {
            offset,
            bytes: sectors * 512 - (offset & 511),
        };
    }
    if word & 1 != 0 && !extended {
        return L2Entry::Zero;
    }
    match word & OFFSET_MASK {
        0 => L2Entry::Unallocated,
        offset => L2Entry::Stored(offset),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn compressed_entries_survive_encoding_at_every_cluster_size() {
        for bits in 12..=21 {
            for (offset, length) in [(0x50_000, 1), (0x50_1ff, 2), (0x77_7777, (1 << bits) - 1)] {
                let word = compressed_entry(bits, offset, length).unwrap();
                let L2Entry::Compressed { offset: found, bytes } = parse_l2_entry(bits, false, word) else {
                    panic!("not compressed: {word:#x}");
                };
                assert_eq!(found, offset);
                assert!(
                    bytes >= length && bytes < length + 512,
                    "{bits} {offset} {length} {bytes}"
                );
                assert_eq!((offset + bytes) % 512, 0);
            }
        }
    }

    #[test]
    fn offsets_that_do_not_fit_are_refused() {
        assert_eq!(compressed_entry(21, 1 << 49, 10), None);
        assert!(compressed_entry(21, (1 << 49) - 1, 10).is_some());
    }

    #[test]
    fn disks_above_the_l1_limit_are_refused_with_advice() {
        let error = Geometry::new(4096, 9 << 40, false).unwrap_err();
        assert!(error.to_string().contains("larger clusters"), "{error}");
        assert!(Geometry::new(4096, 8 << 40, false).is_ok());
        assert!(Geometry::new(1 << 16, 62 << 40, false).is_ok());
        assert!(Geometry::new(4096, 1 << 20, true).is_err());
        assert!(Geometry::new(1 << 16, 1000, false).is_err());
    }
}
