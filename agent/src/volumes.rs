//! Finds out what lies on a block device by its signature.

use serde::Serialize;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// A partition or whole disk that holds something.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Volume {
    /// `vda1`.
    pub(crate) device: String,
    /// Size in bytes.
    pub(crate) bytes: u64,
    /// `ext4`, `xfs`, `btrfs`, `vfat`, `ntfs`, `swap`, `luks`, `lvm2`; absent where nothing is recognised.
    pub(crate) content: Option<&'static str>,
    /// Partition number; absent for a whole disk.
    pub(crate) partition: Option<u32>,
}

impl Volume {
    /// `/dev/vda1`.
    pub(crate) fn path(&self) -> PathBuf {
        Path::new("/dev").join(&self.device)
    }
}

/// Which signature `read` finds.
pub(crate) fn recognise(read: &dyn Fn(u64, &mut [u8]) -> bool) -> Option<&'static str> {
    let has = |offset: u64, magic: &[u8]| {
        let mut found = vec![0; magic.len()];
        read(offset, &mut found) && found == magic
    };
    // The formats' own documents: ext superblock at 1024 with magic at 56; btrfs superblock at 64 KiB with magic at 64.
    let table: [(u64, &[u8], &str); 11] = [
        (0, b"LUKS\xba\xbe", "luks"),
        (0, b"XFSB", "xfs"),
        (0x1_0040, b"_BHRfS_M", "btrfs"),
        (512, b"LABELONE", "lvm2"),
        (0, b"LABELONE", "lvm2"),
        (3, b"NTFS    ", "ntfs"),
        (3, b"-FVE-FS-", "bitlocker"),
        (82, b"FAT32   ", "vfat"),
        (54, b"FAT16   ", "vfat"),
        (4086, b"SWAPSPACE2", "swap"),
        (0x438, b"\x53\xef", "ext4"),
    ];
    table
        .iter()
        .find(|(offset, magic, _)| has(*offset, magic))
        .map(|(_, _, name)| *name)
}

/// All volumes, in the kernel's order of disks and partitions.
pub(crate) fn list() -> Vec<Volume> {
    let mut volumes: Vec<Volume> = fs::read_dir("/sys/class/block")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| {
            let device = entry.file_name().into_string().ok()?;
            if ["ram", "loop", "sr", "fd", "zram", "dm-", "nbd"]
                .iter()
                .any(|prefix| device.starts_with(prefix))
            {
                return None;
            }
            let number = |name: &str| {
                fs::read_to_string(entry.path().join(name))
                    .ok()?
                    .trim()
                    .parse::<u64>()
                    .ok()
            };
            let bytes = number("size")?.checked_mul(512)?;
            let partition = number("partition").and_then(|number| u32::try_from(number).ok());
            let content = File::open(Path::new("/dev").join(&device))
                .ok()
                .and_then(|file| recognise(&|offset, buffer| file.read_exact_at(buffer, offset).is_ok()));
            Some(Volume {
                device,
                bytes,
                content,
                partition,
            })
        })
        .collect();
    volumes.sort_by(|left, right| {
        let key = |volume: &Volume| {
            (
                volume.device.trim_end_matches(|c: char| c.is_ascii_digit()).to_owned(),
                volume.partition,
            )
        };
        key(left).cmp(&key(right))
    });
    volumes
}

#[cfg(test)]
mod tests {
    use super::recognise;

    fn of(offset: usize, magic: &[u8]) -> Option<&'static str> {
        let mut bytes = vec![0_u8; 128 << 10];
        bytes[offset..offset + magic.len()].copy_from_slice(magic);
        recognise(&|at, buffer| {
            let at = usize::try_from(at).expect("small offset");
            buffer.copy_from_slice(&bytes[at..at + buffer.len()]);
            true
        })
    }

    #[test]
    fn signatures_are_told_apart() {
        assert_eq!(of(0x438, b"\x53\xef"), Some("ext4"));
        assert_eq!(of(0, b"XFSB"), Some("xfs"));
        assert_eq!(of(0x1_0040, b"_BHRfS_M"), Some("btrfs"));
        assert_eq!(of(512, b"LABELONE"), Some("lvm2"));
        assert_eq!(of(0, b"LUKS\xba\xbe"), Some("luks"));
        assert_eq!(of(3, b"NTFS    "), Some("ntfs"));
        assert_eq!(of(100, b"nothing"), None);
    }
}
