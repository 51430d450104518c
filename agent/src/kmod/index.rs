//! Writes kmod's binary index files (`modules.dep.bin`, `modules.alias.bin`, `modules.symbols.bin`): a radix tree in which `modprobe` and
//! udev look names up. Format: kmod, `libkmod/libkmod-index.h` and `tools/depmod.c`.

use std::collections::BTreeMap;

const MAGIC: u32 = 0xb007_f457;
/// Major 2, minor 1.
const VERSION: u32 = 0x0002_0001;
const HAS_PREFIX: u32 = 0x8000_0000;
const HAS_VALUES: u32 = 0x4000_0000;
const HAS_CHILDREN: u32 = 0x2000_0000;

/// A tree under construction.
#[derive(Debug, Default)]
pub(crate) struct Index {
    root: Node,
}

/// Characters that all keys below share, the values of the key that ends here, and what follows.
#[derive(Debug, Default)]
struct Node {
    prefix: Vec<u8>,
    /// Value and priority; the smallest priority first, as kmod tries them.
    values: Vec<(u32, String)>,
    children: BTreeMap<u8, Node>,
}

impl Index {
    /// Adds a value. A key holds ASCII only; others cannot be written and are left out. `priority` is the module's place in load order.
    pub(crate) fn insert(&mut self, key: &str, value: &str, priority: u32) {
        if key.is_ascii() && !key.bytes().any(|byte| byte == 0) && !value.contains('\0') {
            self.root.insert(key.as_bytes(), value, priority);
        }
    }

    /// The file.
    pub(crate) fn finish(&self) -> Vec<u8> {
        let mut out: Vec<u8> = [MAGIC, VERSION, 0].iter().flat_map(|word| word.to_be_bytes()).collect();
        let root = self.root.write(&mut out);
        out[8..12].copy_from_slice(&root.to_be_bytes());
        out
    }
}

impl Node {
    fn insert(&mut self, key: &[u8], value: &str, priority: u32) {
        let shared = self
            .prefix
            .iter()
            .zip(key)
            .take_while(|(left, right)| left == right)
            .count();
        if shared < self.prefix.len() {
            // This node splits: what it held moves below the first character that differs.
            let mut lower = std::mem::take(self);
            let tail = lower.prefix.split_off(shared);
            self.prefix = std::mem::replace(&mut lower.prefix, tail[1..].to_vec());
            self.children.insert(tail[0], lower);
        }
        match key[shared..].split_first() {
            None => {
                let place = self.values.partition_point(|(other, _)| *other < priority);
                self.values.insert(place, (priority, value.to_owned()));
            }
            Some((first, rest)) => {
                let child = self.children.entry(*first).or_insert_with(|| Self {
                    prefix: rest.to_vec(),
                    ..Self::default()
                });
                child.insert(rest, value, priority);
            }
        }
    }

    /// Writes the children, then itself; returns its offset with the flags.
    fn write(&self, out: &mut Vec<u8>) -> u32 {
        let mut offsets = BTreeMap::new();
        for (&character, child) in &self.children {
            offsets.insert(character, child.write(out));
        }
        let mut offset = u32::try_from(out.len()).expect("an index of an initramfs is far below 256 MiB");
        if !self.prefix.is_empty() {
            out.extend_from_slice(&self.prefix);
            out.push(0);
            offset |= HAS_PREFIX;
        }
        if let (Some((&first, _)), Some((&last, _))) = (offsets.first_key_value(), offsets.last_key_value()) {
            out.extend([first, last]);
            for character in first..=last {
                out.extend(offsets.get(&character).copied().unwrap_or(0).to_be_bytes());
            }
            offset |= HAS_CHILDREN;
        }
        if !self.values.is_empty() {
            out.extend(
                u32::try_from(self.values.len())
                    .expect("few values a key")
                    .to_be_bytes(),
            );
            for (priority, value) in &self.values {
                out.extend(priority.to_be_bytes());
                out.extend_from_slice(value.as_bytes());
                out.push(0);
            }
            offset |= HAS_VALUES;
        }
        offset
    }
}
