//! Partitions of the disks, and the file systems on them that can be read here.
//!
//! The table readers (`mbrman`, `gptman`) are asked for headers and entries only, after their counts and addresses were
//! bounded: their convenience functions trust a disk's numbers.

use super::files::{FileSystem, Files as _};
use crate::devices::virtio::block::backend::{BlockBackend, Qcow2File, RawFile};
use crate::engine::{DiskFormat, images};
use crate::{Result, RunnerError};
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::Arc;

const SECTOR: u64 = 512;
/// Most partitions that are looked at on one disk, logical ones included.
const MAX_PARTITIONS: usize = 128;
/// Largest sector number that is believed: 512 EiB are enough.
const MAX_SECTOR: u64 = 1 << 50;

/// A range of a disk.
#[derive(Debug, Clone)]
pub(super) struct Part {
    disk: Arc<dyn BlockBackend>,
    start: u64,
    size: u64,
    at: u64,
}

impl Part {
    fn whole(disk: Arc<dyn BlockBackend>) -> Self {
        let size = disk.size();
        Self {
            disk,
            start: 0,
            size,
            at: 0,
        }
    }

    /// A range in sectors, cut at the end.
    fn cut(&self, first: u64, sectors: u64) -> Option<Self> {
        let offset = first.checked_mul(SECTOR)?;
        let room = self.size.checked_sub(offset)?;
        Some(Self {
            disk: Arc::clone(&self.disk),
            start: self.start.checked_add(offset)?,
            size: room.min(sectors.saturating_mul(SECTOR)),
            at: 0,
        })
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        let end = u64::try_from(buffer.len())
            .ok()
            .and_then(|length| offset.checked_add(length));
        if end.is_none_or(|end| end > self.size) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.disk.read(self.start + offset, buffer)
    }
}

impl Read for Part {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = self.size.saturating_sub(self.at);
        let count = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        self.read_at(self.at, &mut buffer[..count])?;
        self.at += u64::try_from(count).map_err(io::Error::other)?;
        Ok(count)
    }
}

impl Seek for Part {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let at = match to {
            SeekFrom::Start(at) => Some(at),
            SeekFrom::End(step) => self.size.checked_add_signed(step),
            SeekFrom::Current(step) => self.at.checked_add_signed(step),
        };
        self.at = at.ok_or(io::ErrorKind::InvalidInput)?;
        Ok(self.at)
    }
}

impl ext4_view::Ext4Read for Part {
    fn read(
        &mut self,
        start: u64,
        buffer: &mut [u8],
    ) -> std::result::Result<(), Box<dyn std::error::Error + Send + Sync>> {
        Ok(self.read_at(start, buffer)?)
    }
}

/// (name, range) of the partitions; the whole disk where there is no table.
fn partitions(disk: &Part) -> Vec<(String, Part)> {
    let mut found = gpt(disk);
    if found.is_empty() {
        found = mbr(disk);
    }
    if found.is_empty() {
        found.push((String::new(), disk.clone()));
    }
    found
}

fn gpt(disk: &Part) -> Vec<(String, Part)> {
    let mut reader = disk.clone();
    reader.at = SECTOR;
    let Ok(header) = gptman::GPTHeader::read_from(&mut reader) else {
        return Vec::new();
    };
    let believable = usize::try_from(header.number_of_partition_entries).is_ok_and(|count| count <= MAX_PARTITIONS)
        && header.partition_entry_lba < MAX_SECTOR
        && header.size_of_partition_entry <= 4096;
    if !believable {
        return Vec::new();
    }
    let entries = header.read_partitions(&mut reader, SECTOR).unwrap_or_default();
    (1..)
        .zip(entries)
        .filter(|(_, entry)| entry.is_used() && entry.starting_lba > 0)
        .filter_map(|(number, entry)| {
            let sectors = entry.ending_lba.checked_sub(entry.starting_lba)?.checked_add(1)?;
            Some((format!("partition {number}"), disk.cut(entry.starting_lba, sectors)?))
        })
        .collect()
}

fn mbr(disk: &Part) -> Vec<(String, Part)> {
    let Ok(header) = mbrman::MBRHeader::read_from(&mut disk.clone()) else {
        return Vec::new();
    };
    let mut found = Vec::new();
    let mut extended = None;
    for (number, entry) in header.iter() {
        if entry.is_extended() {
            extended = disk.cut(entry.starting_lba.into(), entry.sectors.into());
        } else if entry.is_used() {
            let part = disk.cut(entry.starting_lba.into(), entry.sectors.into());
            found.extend(part.map(|part| (format!("partition {number}"), part)));
        }
    }
    if let Some(extended) = extended {
        logical(&extended, &mut found);
    }
    found
}

/// The chain of extended boot records. Each has the partition (relative to itself) and the next one (relative to the whole
/// extended partition); a chain that runs in a circle is cut.
fn logical(extended: &Part, found: &mut Vec<(String, Part)>) {
    let mut at = 0_u64;
    for number in 5..5 + MAX_PARTITIONS {
        let Some(mut record) = extended.cut(at, u64::MAX / SECTOR) else {
            return;
        };
        let Ok(header) = mbrman::MBRHeader::read_from(&mut record) else {
            return;
        };
        let mut next = None;
        for (_, entry) in header.iter() {
            if entry.is_extended() {
                next = Some(u64::from(entry.starting_lba));
            } else if entry.is_used() {
                let part = record.cut(entry.starting_lba.into(), entry.sectors.into());
                found.extend(part.map(|part| (format!("partition {number}"), part)));
            }
        }
        match next {
            Some(next) if next > at => at = next,
            _ => return,
        }
    }
}

fn open(path: &Path, format: DiskFormat) -> Result<Arc<dyn BlockBackend>> {
    let failed = |error| RunnerError::io("opening", path, error);
    Ok(match format {
        DiskFormat::Raw => Arc::new(RawFile::open(path, true, false).map_err(failed)?),
        DiskFormat::Qcow2 => {
            let backing = images::other_files(path, format)?;
            Arc::new(Qcow2File::open(path, &backing, true, false).map_err(failed)?)
        }
        DiskFormat::Vmdk => {
            return Err(RunnerError::Unusable {
                what: format!(
                    "{} is a VMDK, and a kernel is looked for in qcow2 and raw images",
                    path.display()
                ),
                advice: "Convert it first".into(),
            });
        }
    })
}

/// What lies on the disks.
pub(super) struct Seen {
    /// All ext4 file systems.
    pub(super) systems: Vec<FileSystem>,
    /// In words, what else there is.
    pub(super) words: Vec<String>,
    /// There are file systems that the host does not read and the appliance does.
    pub(super) for_linux: bool,
}

/// Looks at all partitions.
pub(super) fn file_systems(disks: &[(PathBuf, DiskFormat)]) -> Result<Seen> {
    let (mut systems, mut seen) = (Vec::new(), Vec::new());
    let mut for_linux = false;
    for (path, format) in disks {
        let disk = Part::whole(open(path, *format)?);
        let name = path
            .file_name()
            .map_or_else(String::new, |name| name.to_string_lossy().into_owned());
        for (partition, part) in partitions(&disk) {
            let place = format!("{partition} {name}").trim_start().to_owned();
            let kind = kind(&part);
            for_linux |= kind.is_some_and(|kind| FOR_LINUX.contains(&kind));
            match FileSystem::open(part, place.clone()) {
                Ok(system) => systems.push(system),
                Err(error) => seen.push(match kind {
                    Some(kind) => format!("{place}: {kind}, which only the guest can read"),
                    None => format!("{place}: {error}"),
                }),
            }
        }
    }
    for system in &systems {
        seen.push(format!("{}: ext4 without a kernel", system.place()));
    }
    Ok(Seen {
        systems,
        words: seen,
        for_linux,
    })
}

/// Those of [`kind`] that the appliance reads.
const FOR_LINUX: [&str; 3] = ["XFS", "btrfs", "an LVM physical volume"];

/// What else is there, by its magic: (offset, magic, name).
fn kind(part: &Part) -> Option<&'static str> {
    const MAGICS: [(u64, &[u8], &str); 6] = [
        (0, b"XFSB", "XFS"),
        (0x1_0040, b"_BHRfS_M", "btrfs"),
        (0x218, b"LVM2 001", "an LVM physical volume"),
        (0, b"LUKS\xba\xbe", "LUKS"),
        (3, b"NTFS    ", "NTFS"),
        (0x52, b"FAT32   ", "FAT"),
    ];
    MAGICS.iter().find_map(|(offset, magic, name)| {
        let mut bytes = vec![0; magic.len()];
        part.read_at(*offset, &mut bytes).ok()?;
        (bytes == *magic).then_some(*name)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn disk(bytes: &[u8]) -> (tempfile::NamedTempFile, Part) {
        let file = tempfile::NamedTempFile::new().expect("file");
        std::fs::write(file.path(), bytes).expect("write");
        let part = Part::whole(open(file.path(), DiskFormat::Raw).expect("opens"));
        (file, part)
    }

    /// An entry of a partition table: type, first sector, sectors.
    fn entry(table: &mut [u8], slot: usize, kind: u8, first: u32, sectors: u32) {
        let at = 446 + slot * 16;
        table[at + 4] = kind;
        table[at + 8..at + 12].copy_from_slice(&first.to_le_bytes());
        table[at + 12..at + 16].copy_from_slice(&sectors.to_le_bytes());
        table[510..512].copy_from_slice(&[0x55, 0xaa]);
    }

    #[test]
    fn logical_partitions_are_found_and_a_circle_of_records_ends() {
        let mut bytes = vec![0; 64 * 512];
        entry(&mut bytes, 0, 0x83, 1, 2);
        entry(&mut bytes, 1, 0x05, 8, 40);
        entry(&mut bytes[8 * 512..], 0, 0x83, 1, 3);
        entry(&mut bytes[8 * 512..], 1, 0x05, 10, 10);
        entry(&mut bytes[18 * 512..], 0, 0x83, 2, 4);
        // Back to the first record.
        entry(&mut bytes[18 * 512..], 1, 0x05, 0, 10);
        let (_file, disk) = disk(&bytes);
        let found: Vec<_> = partitions(&disk)
            .into_iter()
            .map(|(name, part)| (name, part.start / 512, part.size / 512))
            .collect();
        let expected = [("partition 1", 1, 2), ("partition 5", 9, 3), ("partition 6", 20, 4)];
        assert_eq!(
            found,
            expected.map(|(name, start, size)| (name.to_owned(), start, size))
        );
    }

    #[test]
    fn partitions_that_reach_beyond_the_disk_are_cut_and_reads_stay_inside() {
        let mut bytes = vec![0; 16 * 512];
        entry(&mut bytes, 0, 0x83, 8, u32::MAX);
        entry(&mut bytes, 1, 0x83, u32::MAX, u32::MAX);
        let (_file, disk) = disk(&bytes);
        let found = partitions(&disk);
        assert_eq!(found.len(), 1);
        let part = &found[0].1;
        assert_eq!(part.size, 8 * 512);
        assert!(part.read_at(8 * 512 - 4, &mut [0; 8]).is_err());
        assert!(part.read_at(u64::MAX, &mut [0; 8]).is_err());
    }

    proptest::proptest! {
        #![proptest_config(proptest::prelude::ProptestConfig::with_cases(200))]
        #[test]
        fn random_tables_never_panic(
            table in proptest::collection::vec(proptest::prelude::any::<u8>(), 2048),
            gpt in proptest::prelude::any::<bool>(),
        ) {
            let mut table = table;
            table[510..512].copy_from_slice(&[0x55, 0xaa]);
            if gpt {
                table[512..520].copy_from_slice(b"EFI PART");
                table[520..528].copy_from_slice(&[0, 0, 1, 0, 92, 0, 0, 0]);
            }
            let (_file, disk) = disk(&table);
            for (_, part) in partitions(&disk) {
                let _ = FileSystem::open(part, String::new());
            }
        }
    }
}
