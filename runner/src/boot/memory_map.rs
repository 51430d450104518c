//! Which guest-physical addresses are RAM, for KVM slots and for the kernel's e820 map.

use crate::arch::layout;

/// What the guest may do with a range (e820 types of the ACPI specification, table 15.4).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Usable memory.
    Ram,
    /// Firmware's; keep off.
    Reserved,
    /// ACPI tables.
    Acpi,
}

impl Kind {
    /// The number in e820 and in the PVH map.
    pub fn code(self) -> u32 {
        match self {
            Self::Ram => 1,
            Self::Reserved => 2,
            Self::Acpi => 3,
        }
    }
}

/// A range of guest-physical addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Range {
    /// First address.
    pub start: u64,
    /// Size in bytes.
    pub size: u64,
    /// What it is.
    pub kind: Kind,
}

/// RAM slots: below the hole and, if there is more, from 4 GiB up. (start, size) in bytes.
pub fn ram_slots(memory_bytes: u64) -> Vec<(u64, u64)> {
    let low = memory_bytes.min(layout::MMIO_HOLE_START);
    let mut slots = vec![(0, low)];
    if memory_bytes > low {
        slots.push((layout::MMIO_HOLE_END, memory_bytes - low));
    }
    slots
}

/// End of RAM below the hole.
pub fn low_ram_end(memory_bytes: u64) -> u64 {
    memory_bytes.min(layout::MMIO_HOLE_START)
}

/// The map that the kernel gets.
pub fn kernel_map(memory_bytes: u64) -> Vec<Range> {
    let range = |start, end, kind| Range {
        start,
        size: end - start,
        kind,
    };
    let mut map = vec![
        range(0, layout::ACPI_TABLES, Kind::Ram),
        range(layout::ACPI_TABLES, layout::RSDP, Kind::Acpi),
        range(layout::RSDP, layout::HIGH_MEMORY, Kind::Reserved),
        range(layout::HIGH_MEMORY, low_ram_end(memory_bytes), Kind::Ram),
    ];
    for (start, size) in ram_slots(memory_bytes).into_iter().skip(1) {
        map.push(Range {
            start,
            size,
            kind: Kind::Ram,
        });
    }
    map
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_above_the_hole_continues_at_4_gib() {
        let five = 5 << 30;
        assert_eq!(ram_slots(five), [(0, 3 << 30), (4 << 30, 2 << 30)]);
        let map = kernel_map(five);
        assert!(map.windows(2).all(|w| w[0].start + w[0].size <= w[1].start));
        let ram: u64 = map.iter().filter(|r| r.kind == Kind::Ram).map(|r| r.size).sum();
        assert_eq!(five - ram, (1 << 20) - layout::ACPI_TABLES);
    }

    #[test]
    fn small_guests_have_one_slot() {
        assert_eq!(ram_slots(256 << 20), [(0, 256 << 20)]);
        assert_eq!(kernel_map(256 << 20).len(), 4);
    }
}
