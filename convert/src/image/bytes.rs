//! Little-endian numbers out of byte slices, and the two integer conversions that cannot fail on a 64-bit host.

/// The `u16` at `at`. The caller sized the slice.
pub(crate) fn le16(bytes: &[u8], at: usize) -> u16 {
    let mut raw = [0; 2];
    raw.copy_from_slice(&bytes[at..at + 2]);
    u16::from_le_bytes(raw)
}

/// The `u32` at `at`. The caller sized the slice.
pub(crate) fn le32(bytes: &[u8], at: usize) -> u32 {
    let mut raw = [0; 4];
    raw.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(raw)
}

/// The `u64` at `at`. The caller sized the slice.
pub(crate) fn le64(bytes: &[u8], at: usize) -> u64 {
    let mut raw = [0; 8];
    raw.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(raw)
}

/// A number that was bounded before, as an index.
pub(crate) fn to_usize(value: u64) -> usize {
    usize::try_from(value).expect("only 64-bit hosts are supported")
}

/// A length as a number of bytes.
pub(crate) fn to_u64(value: usize) -> u64 {
    u64::try_from(value).expect("a length fits 64 bits")
}

/// `value` rounded up to a sector; saturates.
pub(crate) fn sector_up(value: u64) -> u64 {
    value.saturating_add(SECTOR - 1) / SECTOR * SECTOR
}

/// Bytes in a sector; VMDK counts in these.
pub(crate) const SECTOR: u64 = 512;
/// Largest disk read, in bytes: 1 PiB. ESXi's largest has 62 TB; a number far above it is a damaged one, and to walk the map
/// of such a disk would take hours though it holds nothing.
pub(crate) const MAX_DISK: u64 = 1 << 50;
