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

/// `None` where there is no GPT.
fn gpt(read: &ReadAt<'_>, number: u32) -> Option<(Option<String>, Option<String>)> {
    if bytes::<8>(read, SECTOR)? != *b"EFI PART" {
        return None;
    }
    let table = u64::from_le_bytes(bytes(read, SECTOR + 72)?).checked_mul(SECTOR)?;
    let count = u32::from_le_bytes(bytes(read, SECTOR + 80)?);
    let size = u64::from(u32::from_le_bytes(bytes(read, SECTOR + 84)?));
    let index = number.checked_sub(1).filter(|index| *index < count);
    let (Some(index), true) = (index, ENTRY.contains(&size)) else {
        return Some((None, None));
    };
    let entry = table.checked_add(u64::from(index).checked_mul(size)?)?;
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
    use super::names;
    use std::os::unix::fs::FileExt;
    use std::process::{Command, Stdio};

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
