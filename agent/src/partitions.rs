//! What a partition table calls its partitions: `PARTUUID` and `PARTLABEL` as `blkid` and the kernel print them.
//!
//! GPT: UEFI specification 2.10, 5.3. DOS tables have no UUIDs; Linux makes them of the disk's signature and the partition's number
//! (`block/partitions/msdos.c`).

use crate::volumes::ReadAt;

/// Sector size that tables are looked for with; the appliance attaches every disk so.
const SECTOR: u64 = 512;
/// The UEFI specification's least size of an entry, and more than any table has.
const ENTRY: std::ops::RangeInclusive<u64> = 128..=4096;

fn bytes<const N: usize>(read: &ReadAt<'_>, offset: u64) -> Option<[u8; N]> {
    let mut found = [0; N];
    read(offset, &mut found).then_some(found)
}

/// UUID and name of partition `number` (from 1) of the disk that `read` reads.
pub(crate) fn names(read: &ReadAt<'_>, number: u32) -> (Option<String>, Option<String>) {
    gpt(read, number).unwrap_or_else(|| (dos(read, number), None))
}

/// Where the entry of a partition lies: `None` where there is no GPT, `Some(None)` where it has no such entry.
fn gpt_entry(read: &ReadAt<'_>, number: u32) -> Option<Option<u64>> {
    if bytes::<8>(read, SECTOR)? != *b"EFI PART" {
        return None;
    }
    let table = u64::from_le_bytes(bytes(read, SECTOR + 72)?).checked_mul(SECTOR)?;
    let count = u32::from_le_bytes(bytes(read, SECTOR + 80)?);
    let size = u64::from(u32::from_le_bytes(bytes(read, SECTOR + 84)?));
    let index = number.checked_sub(1).filter(|index| *index < count);
    let (Some(index), true) = (index, ENTRY.contains(&size)) else {
        return Some(None);
    };
    Some(Some(table.checked_add(u64::from(index).checked_mul(size)?)?))
}

/// `None` where there is no GPT.
fn gpt(read: &ReadAt<'_>, number: u32) -> Option<(Option<String>, Option<String>)> {
    let Some(entry) = gpt_entry(read, number)? else {
        return Some((None, None));
    };
    let guid = bytes::<16>(read, entry.checked_add(16)?)?;
    let name = bytes::<72>(read, entry.checked_add(56)?)?;
    let units: Vec<u16> = name
        .as_chunks::<2>()
        .0
        .iter()
        .map(|pair| u16::from_le_bytes(*pair))
        .take_while(|unit| *unit != 0)
        .collect();
    let name = String::from_utf16_lossy(&units);
    Some((
        guid.iter().any(|&byte| byte != 0).then(|| guid_text(&guid)),
        (!name.is_empty()).then_some(name),
    ))
}

/// Types of partitions that the Logical Disk Manager keeps volumes or its database in, as they lie on the disk
/// (`block/partitions/efi.h`: `AF9B60A0-1431-4F62-BC68-3311714A69AD`, `5808C8AA-7E8F-42E0-85D2-E1E90434CFB3`).
const LDM: [[u8; 16]; 2] = [
    [
        0xa0, 0x60, 0x9b, 0xaf, 0x31, 0x14, 0x62, 0x4f, 0xbc, 0x68, 0x33, 0x11, 0x71, 0x4a, 0x69, 0xad,
    ],
    [
        0xaa, 0xc8, 0x08, 0x58, 0x8f, 0x7e, 0xe0, 0x42, 0x85, 0xd2, 0xe1, 0xe9, 0x04, 0x34, 0xcf, 0xb3,
    ],
];

/// Does partition `number` (from 1) belong to a dynamic disk of Windows? In a DOS table it has type 0x42.
pub(crate) fn is_dynamic(read: &ReadAt<'_>, number: u32) -> bool {
    if let Some(kind) = gpt_entry(read, number).and_then(|entry| bytes::<16>(read, entry?)) {
        return LDM.contains(&kind);
    }
    let primary = number.checked_sub(1).filter(|index| *index < 4);
    bytes::<2>(read, 510) == Some([0x55, 0xaa])
        && primary
            .and_then(|index| bytes::<1>(read, 0x1be + 16 * u64::from(index) + 4))
            .is_some_and(|kind| kind == [0x42])
}

/// The first three fields of a GUID are little-endian.
fn guid_text(guid: &[u8; 16]) -> String {
    let hex = |order: &[usize]| order.iter().map(|&at| format!("{:02x}", guid[at])).collect::<String>();
    [
        hex(&[3, 2, 1, 0]),
        hex(&[5, 4]),
        hex(&[7, 6]),
        hex(&[8, 9]),
        hex(&[10, 11, 12, 13, 14, 15]),
    ]
    .join("-")
}

fn dos(read: &ReadAt<'_>, number: u32) -> Option<String> {
    if bytes::<2>(read, 510)? != [0x55, 0xaa] {
        return None;
    }
    let signature = u32::from_le_bytes(bytes(read, 0x1b8)?);
    (signature != 0).then(|| format!("{signature:08x}-{number:02x}"))
}

#[cfg(test)]
mod tests {
    use super::{is_dynamic, names};
    use std::os::unix::fs::FileExt;
    use std::process::{Command, Stdio};

    #[test]
    fn partitions_of_the_logical_disk_manager_are_told_by_their_type() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("disk");
        for script in [
            "label: dos\nsize=2048, type=42\nsize=2048, type=7\n",
            "label: gpt\nsize=2048, type=AF9B60A0-1431-4F62-BC68-3311714A69AD\nsize=2048, type=EBD0A0A2-B9E5-4433-87C0-68B6B72699C7\n\
             size=2048, type=5808C8AA-7E8F-42E0-85D2-E1E90434CFB3\n",
        ] {
            std::fs::File::create(&path).unwrap().set_len(8 << 20).unwrap();
            let started = Command::new("sfdisk")
                .arg("-q")
                .arg(&path)
                .stdin(Stdio::piped())
                .spawn();
            let Ok(mut child) = started else {
                eprintln!("SKIP: sfdisk (fdisk) is not installed");
                return;
            };
            std::io::Write::write_all(child.stdin.as_mut().unwrap(), script.as_bytes()).unwrap();
            drop(child.stdin.take());
            assert!(child.wait().unwrap().success());
            let file = std::fs::File::open(&path).unwrap();
            let read = |offset: u64, buffer: &mut [u8]| file.read_exact_at(buffer, offset).is_ok();
            let found: Vec<bool> = (1..=3).map(|number| is_dynamic(&read, number)).collect();
            assert_eq!(found, [true, false, script.contains("gpt")], "{script}");
        }
    }

    #[test]
    fn names_are_what_sfdisk_gave_and_blkid_prints() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("disk");
        for (table, script) in [
            ("gpt", "size=2048, name=\"EFI System\"\nsize=2048\n"),
            ("dos", "label-id: 0x1a2b3c4d\nsize=2048\nsize=2048\n"),
        ] {
            std::fs::File::create(&path).unwrap().set_len(8 << 20).unwrap();
            let text = format!("label: {table}\n{script}");
            let Ok(mut child) = Command::new("sfdisk")
                .arg("-q")
                .arg(&path)
                .stdin(Stdio::piped())
                .spawn()
            else {
                eprintln!("SKIP: sfdisk (fdisk) is not installed");
                return;
            };
            std::io::Write::write_all(child.stdin.as_mut().unwrap(), text.as_bytes()).unwrap();
            drop(child.stdin.take());
            assert!(child.wait().unwrap().success());
            let file = std::fs::File::open(&path).unwrap();
            let read = |offset: u64, buffer: &mut [u8]| file.read_exact_at(buffer, offset).is_ok();
            for number in [1, 2] {
                let told = Command::new("sfdisk")
                    .arg("--part-uuid")
                    .arg(&path)
                    .arg(number.to_string())
                    .output()
                    .unwrap();
                let theirs = String::from_utf8(told.stdout).unwrap().trim().to_lowercase();
                let (uuid, label) = names(&read, number);
                if table == "gpt" {
                    assert_eq!(uuid.as_deref(), Some(theirs.as_str()));
                    assert_eq!(label.as_deref(), (number == 1).then_some("EFI System"));
                } else {
                    assert_eq!((uuid, label), (Some(format!("1a2b3c4d-0{number}")), None));
                }
            }
            assert_eq!(
                names(&read, 200),
                if table == "gpt" {
                    (None, None)
                } else {
                    (Some("1a2b3c4d-c8".into()), None)
                }
            );
        }
    }
}
