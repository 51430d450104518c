//! Leaves and root of the content hash, as documented on [`HashTree`].

use super::zero::is_zero;
use reports::schema::HashTree;

/// A leaf: its index and the hash of its bytes.
pub(super) type Leaf = (u64, [u8; 32]);

/// Bytes per leaf for a disk of `virtual_bytes`: the manifest of a large disk stays readable.
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

/// The tree over all non-zero leaves, ascending.
pub(super) fn tree(virtual_bytes: u64, leaf_bytes: u64, leaves: &[Leaf]) -> HashTree {
    let mut root = blake3::Hasher::new();
    root.update(b"esxodus-tree-v1");
    root.update(&virtual_bytes.to_le_bytes());
    root.update(&leaf_bytes.to_le_bytes());
    for (index, hash) in leaves {
        root.update(&index.to_le_bytes());
        root.update(hash);
    }
    HashTree {
        algorithm: "blake3".into(),
        leaf_bytes,
        root: root.finalize().to_hex().to_string(),
        leaves: leaves
            .iter()
            .map(|(index, hash)| (*index, blake3::Hash::from_bytes(*hash).to_hex().to_string()))
            .collect(),
    }
}
