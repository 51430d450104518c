//! The snapshot tree beside a VMX file: `.vmsd`, the same syntax.

use super::VmxFile;
use crate::machine::Snapshot;

/// Reads the tree from a parsed `.vmsd`. Entries without a uid are left out.
#[must_use]
pub fn tree(file: &VmxFile) -> Vec<Snapshot> {
    let current: Option<u64> = file.number("snapshot.current");
    let mut found: Vec<(u32, Snapshot)> = file
        .spaces("snapshot")
        .into_iter()
        .filter_map(|space| {
            let index: u32 = space.strip_prefix("snapshot")?.parse().ok()?;
            let uid: u64 = file.number(&format!("{space}.uid"))?;
            Some((
                index,
                Snapshot {
                    uid,
                    parent: file.number(&format!("{space}.parent")).filter(|parent| *parent != 0),
                    name: file
                        .text(&format!("{space}.displayname"))
                        .unwrap_or_default()
                        .to_owned(),
                    current: current == Some(uid),
                },
            ))
        })
        .collect();
    found.sort_by_key(|(index, _)| *index);
    found.into_iter().map(|(_, snapshot)| snapshot).collect()
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_tree_keeps_parents_and_the_current_one() {
        let file = crate::vmx::parse(
            b"snapshot.current = \"3\"\nsnapshot0.uid = \"1\"\nsnapshot0.displayName = \"base\"\nsnapshot1.uid = \"3\"\nsnapshot1.parent = \"1\"\n",
        )
        .expect("readable");
        let tree = super::tree(&file);
        assert_eq!(tree.len(), 2);
        assert_eq!((tree[0].uid, tree[0].parent, tree[0].name.as_str()), (1, None, "base"));
        assert_eq!((tree[1].parent, tree[1].current), (Some(1), true));
    }
}
