//! Leaves, groups and root of the content hash, as documented on [`HashTree`].

use super::zero::is_zero;
use reports::schema::HashTree;

/// A leaf or a group of leaves: its index and its hash.
pub(super) type Leaf = (u64, [u8; 32]);

/// Most hashes that a manifest lists for a disk: it stays small for a disk of any size.
const MAX_LISTED: u64 = 64 << 10;

/// How a disk is cut into leaves and groups.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Shape {
    pub(super) leaf_bytes: u64,
    /// Leaves to a group; a power of two. 1 = every leaf is listed.
    pub(super) group_leaves: u64,
}

impl Shape {
    /// The shape for a disk of `virtual_bytes`.
    pub(super) fn of(virtual_bytes: u64) -> Self {
        let leaf_bytes = leaf_bytes(virtual_bytes);
        let leaves = virtual_bytes.div_ceil(leaf_bytes);
        Self {
            leaf_bytes,
            group_leaves: leaves.div_ceil(MAX_LISTED).max(1).next_power_of_two(),
        }
    }

    /// Guest bytes that one listed hash covers; saturates.
    pub(super) fn listed_bytes(self) -> u64 {
        self.leaf_bytes.saturating_mul(self.group_leaves)
    }
}

/// Bytes per leaf for a disk of `virtual_bytes`.
pub(super) fn leaf_bytes(virtual_bytes: u64) -> u64 {
    if virtual_bytes <= 1 << 40 { 1 << 20 } else { 4 << 20 }
}

/// The non-zero leaves of `content`, which starts at guest offset `offset`, a multiple of `leaf_bytes`.
pub(super) fn leaves(offset: u64, content: &[u8], leaf_bytes: u64) -> Vec<Leaf> {
    let step = usize::try_from(leaf_bytes).expect("a leaf fits into memory");
    (offset / leaf_bytes..)
        .zip(content.chunks(step))
        .filter(|(_, leaf)| !is_zero(leaf))
        .map(|(index, leaf)| (index, *blake3::hash(leaf).as_bytes()))
        .collect()
}

/// What is listed of the leaves that arrived, in ascending order: a disk's memory is bounded by its groups.
#[derive(Debug, Clone)]
pub(super) struct Listing {
    shape: Shape,
    listed: Vec<Leaf>,
    /// The group that leaves still arrive for.
    open: Option<(u64, blake3::Hasher)>,
}

impl Listing {
    pub(super) fn new(shape: Shape) -> Self {
        Self {
            shape,
            listed: Vec::new(),
            open: None,
        }
    }

    /// Takes the next leaf.
    pub(super) fn push(&mut self, (index, hash): Leaf) {
        if self.shape.group_leaves == 1 {
            self.listed.push((index, hash));
            return;
        }
        let group = index / self.shape.group_leaves;
        let (_, hasher) = match &mut self.open {
            Some(open) if open.0 == group => open,
            open => {
                if let Some((group, hasher)) = open.take() {
                    self.listed.push((group, *hasher.finalize().as_bytes()));
                }
                open.insert((group, blake3::Hasher::new()))
            }
        };
        hasher.update(&index.to_le_bytes());
        hasher.update(&hash);
    }

    /// All that is listed.
    pub(super) fn listed(&self) -> Vec<Leaf> {
        let mut listed = self.listed.clone();
        listed.extend(
            self.open
                .as_ref()
                .map(|(group, hasher)| (*group, *hasher.finalize().as_bytes())),
        );
        listed
    }
}

/// The tree over what is listed, ascending.
pub(super) fn tree(virtual_bytes: u64, shape: Shape, listed: &[Leaf]) -> HashTree {
    let mut root = blake3::Hasher::new();
    root.update(b"esxodus-tree-v1");
    root.update(&virtual_bytes.to_le_bytes());
    root.update(&shape.leaf_bytes.to_le_bytes());
    root.update(&shape.group_leaves.to_le_bytes());
    for (index, hash) in listed {
        root.update(&index.to_le_bytes());
        root.update(hash);
    }
    HashTree {
        algorithm: "blake3".into(),
        leaf_bytes: shape.leaf_bytes,
        group_leaves: shape.group_leaves,
        root: root.finalize().to_hex().to_string(),
        leaves: listed
            .iter()
            .map(|(index, hash)| (*index, blake3::Hash::from_bytes(*hash).to_hex().to_string()))
            .collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::{Listing, MAX_LISTED, Shape};

    #[test]
    fn no_disk_lists_more_than_the_bound() {
        for (bytes, listed_mib) in [
            (1_u64, 1),
            (64 << 30, 1),
            (65 << 30, 2),
            (1 << 40, 16),
            (62 << 40, 1024),
        ] {
            let shape = Shape::of(bytes);
            assert_eq!(shape.listed_bytes() >> 20, listed_mib, "{bytes}");
            assert!(bytes.div_ceil(shape.listed_bytes()) <= MAX_LISTED, "{bytes}");
        }
    }

    #[test]
    fn a_group_depends_on_place_and_content_of_its_leaves() {
        let shape = Shape {
            leaf_bytes: 4096,
            group_leaves: 4,
        };
        let list = |leaves: &[(u64, u8)]| {
            let mut listing = Listing::new(shape);
            for &(index, byte) in leaves {
                listing.push((index, [byte; 32]));
            }
            listing.listed()
        };
        let wanted = list(&[(0, 1), (3, 2), (9, 3)]);
        assert_eq!(wanted.iter().map(|leaf| leaf.0).collect::<Vec<_>>(), [0, 2]);
        assert_ne!(wanted[0], list(&[(1, 1), (3, 2)])[0]);
        assert_ne!(wanted[0], list(&[(0, 1), (3, 9)])[0]);
        assert_eq!(wanted[1], list(&[(9, 3)])[0]);
    }
}
