//! Finds out what lies on a block device by its signature.

use crate::partitions;
use serde::Serialize;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// A partition, whole disk or mapped device that holds something.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Volume {
    /// `vda1`; a mapped device has its own name, `vg-root`.
    pub(crate) device: String,
    /// The kernel's name, `dm-0` for a mapped device.
    pub(crate) node: String,
    /// Size in bytes.
    pub(crate) bytes: u64,
    /// `ext4`, `xfs`, `btrfs`, `vfat`, `ntfs`, `swap`, `luks`, `lvm2`; absent where nothing is recognised.
    pub(crate) content: Option<&'static str>,
    /// Partition number; absent for a whole disk.
    pub(crate) partition: Option<u32>,
    /// Index of the disk, in the order in which the host attached them; absent for a mapped device.
    pub(crate) disk: Option<u32>,
    /// UUID of the content as `blkid` prints it.
    pub(crate) uuid: Option<String>,
    /// Label of the content.
    pub(crate) label: Option<String>,
    /// UUID and name that the disk's partition table gives it.
    pub(crate) part_uuid: Option<String>,
    pub(crate) part_label: Option<String>,
    /// A swap that holds a memory image, a hibernated or unclean NTFS.
    pub(crate) state: Option<&'static str>,
    /// Damage that the superblock records.
    pub(crate) errors: Option<&'static str>,
    /// The partition belongs to Windows' Logical Disk Manager.
    pub(crate) dynamic_disk: bool,
}

impl Volume {
    /// `/dev/vda1`.
    pub(crate) fn path(&self) -> PathBuf {
        Path::new("/dev").join(&self.node)
    }
}

/// Reads bytes at an offset; false where they are not there.
pub(crate) type ReadAt<'r> = dyn Fn(u64, &mut [u8]) -> bool + 'r;

/// UUID of a content as `blkid` prints it. Offsets: the formats' own documents, as in util-linux `libblkid/src/superblocks`.
pub(crate) fn uuid(content: &str, read: &ReadAt<'_>) -> Option<String> {
    let bytes = |offset: u64, length: usize| {
        let mut found = vec![0; length];
        (read(offset, &mut found) && found.iter().any(|&byte| byte != 0)).then_some(found)
    };
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let at = |offset: u64| {
        let text = hex(&bytes(offset, 16)?);
        Some(format!(
            "{}-{}-{}-{}-{}",
            &text[..8],
            &text[8..12],
            &text[12..16],
            &text[16..20],
            &text[20..]
        ))
    };
    let serial = |offset: u64, length: usize| {
        let mut found = bytes(offset, length)?;
        found.reverse();
        Some(hex(&found).to_uppercase())
    };
    match content {
        "ext4" => at(0x468),
        "xfs" => at(32),
        "btrfs" => at(0x1_0020),
        "swap" => at(0x40c),
        "luks" => {
            let text = String::from_utf8(bytes(168, 36)?).ok()?;
            text.bytes()
                .all(|byte| byte.is_ascii_hexdigit() || byte == b'-')
                .then_some(text)
        }
        "ntfs" => serial(0x48, 8),
        "vfat" => {
            let offset = if recognise_at(read, 82, b"FAT32   ") { 67 } else { 39 };
            let text = serial(offset, 4)?;
            Some(format!("{}-{}", &text[..4], &text[4..]))
        }
        _ => None,
    }
}

/// Label of a content. Offsets as for [`uuid`]; NTFS keeps its label in a file, which is not read here.
pub(crate) fn label(content: &str, read: &ReadAt<'_>) -> Option<String> {
    let (offset, length) = match content {
        "ext4" => (0x478, 16),
        "xfs" => (108, 12),
        "btrfs" => (0x1_012b, 256),
        "swap" => (0x41c, 16),
        "vfat" if recognise_at(read, 82, b"FAT32   ") => (71, 11),
        "vfat" => (43, 11),
        _ => return None,
    };
    let mut bytes = vec![0; length];
    if !read(offset, &mut bytes) {
        return None;
    }
    let end = bytes.iter().position(|&byte| byte == 0).unwrap_or(length);
    let text = String::from_utf8_lossy(&bytes[..end]).trim_end().to_owned();
    (!text.is_empty() && text != "NO NAME").then_some(text)
}

/// Damage that a superblock records: `EXT2_ERROR_FS` in `s_state` (Linux `fs/ext4/ext4.h`), and `XFS_SB_FEAT_INCOMPAT_NEEDSREPAIR` in
/// `sb_features_incompat` of version 5 (`fs/xfs/libxfs/xfs_format.h`).
pub(crate) fn errors(content: &str, read: &ReadAt<'_>) -> Option<&'static str> {
    match content {
        "ext4" => {
            let mut state = [0; 2];
            (read(0x43a, &mut state) && u16::from_le_bytes(state) & 2 != 0)
                .then_some("the kernel found errors in it, and nobody has repaired them since")
        }
        "xfs" => {
            let (mut version, mut features) = ([0; 2], [0; 4]);
            let newest = read(100, &mut version) && u16::from_be_bytes(version) & 15 == 5;
            (newest && read(216, &mut features) && u32::from_be_bytes(features) & 16 != 0)
                .then_some("it is marked as one that xfs_repair has to repair")
        }
        _ => None,
    }
}

fn recognise_at(read: &ReadAt<'_>, offset: u64, magic: &[u8]) -> bool {
    let mut found = vec![0; magic.len()];
    read(offset, &mut found) && found == magic
}

/// `vda` is 0, `vdb` 1, `vdaa` 26.
fn disk_index(node: &str) -> Option<u32> {
    let letters = node.strip_prefix("vd")?.trim_end_matches(|c: char| c.is_ascii_digit());
    if letters.is_empty() || letters.len() > 3 || !letters.bytes().all(|byte| byte.is_ascii_lowercase()) {
        return None;
    }
    Some(
        letters
            .bytes()
            .fold(0, |value, letter| value * 26 + u32::from(letter - b'a') + 1)
            - 1,
    )
}

/// Which signature `read` finds.
pub(crate) fn recognise(read: &ReadAt<'_>) -> Option<&'static str> {
    // The formats' own documents: ext superblock at 1024 with magic at 56; btrfs superblock at 64 KiB with magic at 64.
    let table: [(u64, &[u8], &str); 12] = [
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
        (4086, b"S1SUSPEND", "swap"),
        (0x438, b"\x53\xef", "ext4"),
    ];
    table
        .iter()
        .find(|(offset, magic, _)| recognise_at(read, *offset, magic))
        .map(|(_, _, name)| *name)
}

/// All volumes, in the kernel's order of disks and partitions.
pub(crate) fn list() -> Vec<Volume> {
    let mut volumes: Vec<Volume> = fs::read_dir("/sys/class/block")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| {
            let node = entry.file_name().into_string().ok()?;
            if ["ram", "loop", "sr", "fd", "zram", "nbd"]
                .iter()
                .any(|prefix| node.starts_with(prefix))
            {
                return None;
            }
            let word = |name: &str| Some(fs::read_to_string(entry.path().join(name)).ok()?.trim().to_owned());
            let number = |name: &str| word(name)?.parse::<u64>().ok();
            let bytes = number("size")?.checked_mul(512)?;
            let partition = number("partition").and_then(|number| u32::try_from(number).ok());
            let file = File::open(Path::new("/dev").join(&node)).ok();
            let read = |offset: u64, buffer: &mut [u8]| {
                file.as_ref()
                    .is_some_and(|file| file.read_exact_at(buffer, offset).is_ok())
            };
            let content = recognise(&read);
            Some(Volume {
                device: word("dm/name").unwrap_or_else(|| node.clone()),
                disk: disk_index(&node),
                uuid: content.and_then(|content| uuid(content, &read)),
                label: content.and_then(|content| label(content, &read)),
                part_uuid: None,
                part_label: None,
                state: recognise_at(&read, 4086, b"S1SUSPEND").then_some("hibernated"),
                errors: content.and_then(|content| errors(content, &read)),
                dynamic_disk: false,
                node,
                bytes,
                content,
                partition,
            })
        })
        .collect();
    volumes.sort_by(|left, right| {
        let key = |volume: &Volume| {
            (
                volume.node.trim_end_matches(|c: char| c.is_ascii_digit()).to_owned(),
                volume.partition,
            )
        };
        key(left).cmp(&key(right))
    });
    name_partitions(&mut volumes);
    volumes
}

/// What the partition tables say of their partitions.
fn name_partitions(volumes: &mut [Volume]) {
    let whole: Vec<(u32, PathBuf)> = volumes
        .iter()
        .filter(|volume| volume.partition.is_none())
        .filter_map(|volume| Some((volume.disk?, volume.path())))
        .collect();
    for (disk, path) in whole {
        let Ok(file) = File::open(path) else { continue };
        let read = |offset: u64, buffer: &mut [u8]| file.read_exact_at(buffer, offset).is_ok();
        for volume in volumes.iter_mut().filter(|volume| volume.disk == Some(disk)) {
            let Some(number) = volume.partition else { continue };
            (volume.part_uuid, volume.part_label) = partitions::names(&read, number);
            volume.dynamic_disk = partitions::is_dynamic(&read, number);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{disk_index, errors, label, recognise, uuid};

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

    #[test]
    fn damage_that_a_superblock_records_is_seen() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let file = dir.path().join("image");
        let path = file.to_str().expect("text");
        for (content, make, damage) in [
            (
                "ext4",
                &["mkfs.ext4", "-q", "-F", path][..],
                &["debugfs", "-w", "-R", "set_super_value state 3", path][..],
            ),
            (
                "xfs",
                &["mkfs.xfs", "-q", "-f", path],
                &[
                    "xfs_db",
                    "-x",
                    "-c",
                    "sb 0",
                    "-c",
                    "write -d features_incompat 0x1b",
                    path,
                ],
            ),
        ] {
            std::fs::remove_file(&file).ok();
            let image = std::fs::File::create(&file).expect("temporary file");
            image.set_len(320 << 20).expect("sparse");
            let run = |words: &[&str]| std::process::Command::new(words[0]).args(&words[1..]).output();
            let seen = || {
                let image = std::fs::File::open(&file).expect("temporary file");
                let read = |offset: u64, buffer: &mut [u8]| {
                    std::os::unix::fs::FileExt::read_exact_at(&image, buffer, offset).is_ok()
                };
                errors(content, &read)
            };
            if !run(make).is_ok_and(|made| made.status.success()) {
                eprintln!("SKIP: {} is not installed", make[0]);
                continue;
            }
            assert_eq!(seen(), None, "{content}");
            let done = run(damage).expect("it comes with the first");
            assert!(seen().is_some(), "{content}: {done:?}");
        }
    }

    #[test]
    fn disks_are_counted_as_the_kernel_names_them() {
        for (node, index) in [
            ("vda", Some(0)),
            ("vdb3", Some(1)),
            ("vdz", Some(25)),
            ("vdaa1", Some(26)),
            ("dm-0", None),
        ] {
            assert_eq!(disk_index(node), index, "{node}");
        }
    }

    #[test]
    fn uuids_and_labels_are_what_blkid_prints() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let file = dir.path().join("image");
        let path = file.to_str().expect("text");
        for (content, program) in [
            ("ext4", &["mkfs.ext4", "-q", "-F", "-L", "cloudimg-rootfs", path][..]),
            ("xfs", &["mkfs.xfs", "-q", "-f", "-L", "twelve-bytes", path]),
            ("btrfs", &["mkfs.btrfs", "-q", "-f", "-L", "ROOT", path]),
            ("swap", &["mkswap", "-q", "-L", "sixteen-letters_", path]),
            ("vfat", &["mkfs.vfat", "-F", "32", "-n", "UEFI", path]),
            ("vfat", &["mkfs.vfat", "-F", "16", path]),
            ("ntfs", &["mkntfs", "-q", "-F", "-f", path]),
            (
                "luks",
                &[
                    "cryptsetup",
                    "luksFormat",
                    "-q",
                    "--type",
                    "luks1",
                    "--pbkdf-force-iterations",
                    "1000",
                    path,
                    "/etc/hostname",
                ],
            ),
        ] {
            std::fs::remove_file(&file).ok();
            let image = std::fs::File::create(&file).expect("temporary file");
            image.set_len(320 << 20).expect("sparse");
            let made = std::process::Command::new(program[0]).args(&program[1..]).output();
            let blkid = |tag: &str| {
                std::process::Command::new("blkid")
                    .args(["-p", "-s", tag, "-o", "value", path])
                    .output()
            };
            let (Ok(made), Ok(theirs), Ok(named)) = (made, blkid("UUID"), blkid("LABEL")) else {
                eprintln!("SKIP: {} or blkid is not installed", program[0]);
                continue;
            };
            assert!(made.status.success(), "{made:?}");
            let image = std::fs::File::open(&file).expect("temporary file");
            let read = |offset: u64, buffer: &mut [u8]| {
                std::os::unix::fs::FileExt::read_exact_at(&image, buffer, offset).is_ok()
            };
            assert_eq!(recognise(&read), Some(content));
            let theirs = String::from_utf8(theirs.stdout).expect("text");
            assert_eq!(uuid(content, &read).as_deref(), Some(theirs.trim()), "{content}");
            let named = String::from_utf8(named.stdout).expect("text");
            assert_eq!(label(content, &read).unwrap_or_default(), named.trim(), "{content}");
        }
    }
}
