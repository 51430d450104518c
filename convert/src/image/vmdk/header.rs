//! The 512-byte header of a hosted sparse extent, and the footer, which is a copy of it.
//!
//! Specification: VMware *Virtual Disk Format 5.0*, "Hosted Sparse Extent Header".

use crate::image::bytes::{MAX_DISK, SECTOR, le16, le32, le64};
use crate::image::storage::Storage;
use crate::image::{ImageError, ImageErrorKind};

/// `KDMV`.
pub(crate) const MAGIC: u32 = 0x564d_444b;
/// Each byte XOR 0x20: open-vmdk marks a file that it hasn't finished so.
pub(crate) const MAGIC_UNFINISHED: u32 = MAGIC ^ 0x2020_2020;
/// `gdOffset` of a stream whose directory is at the end.
pub(crate) const AT_END: u64 = u64::MAX;
/// Longest grain directory read, in bytes.
pub(crate) const MAX_DIRECTORY: u64 = 128 << 20;

const FLAG_NEWLINE: u32 = 1;
const FLAG_REDUNDANT: u32 = 1 << 1;
const FLAG_ZEROED: u32 = 1 << 2;
const FLAG_COMPRESSED: u32 = 1 << 16;
const FLAG_MARKERS: u32 = 1 << 17;

/// A validated header. Sizes and offsets are bytes unless said otherwise.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostedHeader {
    /// 1, 2 or 3.
    pub version: u32,
    /// Guest bytes of this extent.
    pub capacity: u64,
    /// Bytes of a grain, a power of two.
    pub grain: u64,
    /// Entries of a grain table, a power of two.
    pub entries_per_table: u64,
    /// Offset of the embedded descriptor; 0 = none.
    pub descriptor_offset: u64,
    /// Length of the embedded descriptor.
    pub descriptor_length: u64,
    /// Offset of the redundant directory, where the flags say that one exists.
    pub redundant: Option<u64>,
    /// Offset of the directory; `None` = at the end, the footer knows.
    pub directory: Option<u64>,
    /// Bytes of metadata before the first grain.
    pub overhead: u64,
    /// Grain-table entry 1 means zeros.
    pub zeroed_entries: bool,
    /// Grains are deflated.
    pub compressed: bool,
    /// Markers lie before grains and tables.
    pub markers: bool,
    /// The writer was interrupted.
    pub unclean: bool,
}

impl HostedHeader {
    /// Parses and validates `bytes` (512), found at byte `at` of `storage`.
    pub(crate) fn parse(storage: &Storage, at: u64, bytes: &[u8]) -> Result<Self, ImageError> {
        let damaged = |offset: u64, text: String| storage.error(ImageErrorKind::Damaged, at + offset, text);
        let limit = |offset: u64, text: String| storage.error(ImageErrorKind::Limit, at + offset, text);
        let version = le32(bytes, 4);
        if !(1..=3).contains(&version) {
            return Err(damaged(4, format!("hosted sparse version {version}, 1 to 3 are known")));
        }
        let flags = le32(bytes, 8);
        if flags & 0xfffc_0000 != 0 {
            return Err(damaged(
                8,
                format!("flags {flags:#x} hold unknown incompatible bits, 0x30007 are known"),
            ));
        }
        if flags & FLAG_MARKERS != 0 && flags & FLAG_COMPRESSED == 0 {
            return Err(damaged(
                8,
                format!("flags {flags:#x} announce markers without compression"),
            ));
        }
        let sectors = |offset: usize, name: &str| -> Result<u64, ImageError> {
            let value = le64(bytes, offset);
            let bytes = value
                .checked_mul(SECTOR)
                .filter(|bytes| *bytes <= i64::MAX.unsigned_abs());
            bytes.ok_or_else(|| {
                limit(
                    u64::try_from(offset).unwrap_or(0),
                    format!("{name} is {value} sectors, which is above 2^63 bytes"),
                )
            })
        };
        let capacity = sectors(12, "capacity")?;
        if capacity > MAX_DISK {
            return Err(limit(
                12,
                format!(
                    "capacity {} sectors is above 1 PiB; ESXi's largest disk has 62 TB",
                    capacity / SECTOR
                ),
            ));
        }
        let grain_sectors = le64(bytes, 20);
        if !(1..=2048).contains(&grain_sectors) || !grain_sectors.is_power_of_two() {
            return Err(damaged(
                20,
                format!("grain size {grain_sectors} sectors, powers of two from 1 to 2048 are allowed"),
            ));
        }
        let entries = le32(bytes, 44);
        if !(1..=4096).contains(&entries) || !entries.is_power_of_two() {
            return Err(damaged(
                44,
                format!("{entries} entries per grain table, powers of two from 1 to 4096 are allowed"),
            ));
        }
        if flags & FLAG_NEWLINE != 0 && bytes[73..77] != *b"\n \r\n" {
            return Err(damaged(
                73,
                format!("newline test reads {:02x?}, 0a 20 0d 0a is right", &bytes[73..77]),
            )
            .advise("The file went through a text-mode transfer; copy it again in binary mode"));
        }
        let algorithm = le16(bytes, 77);
        let compressed = flags & FLAG_COMPRESSED != 0;
        if compressed && algorithm != 1 {
            return Err(damaged(
                77,
                format!("compression algorithm {algorithm}, only 1 (deflate) is known"),
            ));
        }
        let descriptor_offset = sectors(28, "descriptor offset")?;
        let descriptor_length = sectors(36, "descriptor size")?;
        let grain = grain_sectors * SECTOR;
        let entries_per_table = u64::from(entries);
        let header = Self {
            version,
            capacity,
            grain,
            entries_per_table,
            descriptor_offset,
            descriptor_length,
            redundant: if flags & FLAG_REDUNDANT != 0 {
                Some(sectors(48, "redundant directory offset")?)
            } else {
                None
            },
            directory: if le64(bytes, 56) == AT_END {
                None
            } else {
                Some(sectors(56, "directory offset")?)
            },
            overhead: sectors(64, "overhead")?,
            zeroed_entries: flags & FLAG_ZEROED != 0,
            compressed,
            markers: flags & FLAG_MARKERS != 0,
            unclean: bytes[72] != 0,
        };
        let directory = header.directory_entries() * 4;
        if directory > MAX_DIRECTORY {
            return Err(limit(
                12,
                format!(
                    "capacity {} sectors needs a grain directory of {directory} bytes, at most {MAX_DIRECTORY} are accepted",
                    capacity / SECTOR
                ),
            ));
        }
        Ok(header)
    }

    /// Guest bytes that one grain table covers.
    #[must_use]
    pub fn coverage(&self) -> u64 {
        self.grain * self.entries_per_table
    }

    /// Entries of the grain directory.
    #[must_use]
    pub fn directory_entries(&self) -> u64 {
        self.capacity.div_ceil(self.coverage())
    }

    /// Bytes of one grain table.
    #[must_use]
    pub fn table_bytes(&self) -> u64 {
        self.entries_per_table * 4
    }
}
