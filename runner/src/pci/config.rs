//! Configuration space of a function: header type 0 (PCI Local Bus 3.0, chapter 6), one memory BAR, capabilities.

/// Vendor and device, as read in the header.
#[derive(Debug, Clone, Copy)]
pub struct Identity {
    /// Vendor id.
    pub vendor: u16,
    /// Device id.
    pub device: u16,
    /// Class, subclass, programming interface, 24 bits.
    pub class: u32,
    /// Revision id.
    pub revision: u8,
    /// Subsystem vendor and subsystem id.
    pub subsystem: (u16, u16),
}

const SIZE: usize = 256;
const COMMAND: usize = 0x04;
const STATUS: usize = 0x06;
const BAR0: usize = 0x10;
const CAPABILITIES: usize = 0x34;
/// First byte behind the header.
const FIRST_CAPABILITY: u8 = 0x40;

/// Command: "answer to memory accesses".
const COMMAND_MEMORY: u8 = 1 << 1;
/// Memory, bus master, interrupt disable: what a driver may set. The upper half is the second byte.
const COMMAND_WRITABLE: [u8; 2] = [COMMAND_MEMORY | 1 << 2, 1 << 2];
/// Status: "has a capability list".
const STATUS_CAPABILITIES: u8 = 1 << 4;

/// 256 bytes with the bits that the guest may change.
#[derive(Debug)]
pub struct Space {
    bytes: [u8; SIZE],
    writable: [u8; SIZE],
    bar_size: Option<u32>,
    last_capability: Option<usize>,
    free: u8,
}

impl Space {
    /// A header without BAR and capabilities.
    pub fn new(identity: &Identity) -> Self {
        let mut space = Self {
            bytes: [0; SIZE],
            writable: [0; SIZE],
            bar_size: None,
            last_capability: None,
            free: FIRST_CAPABILITY,
        };
        space.put(0, &identity.vendor.to_le_bytes());
        space.put(2, &identity.device.to_le_bytes());
        space.put(8, &[identity.revision]);
        space.put(9, &identity.class.to_le_bytes()[..3]);
        space.put(0x2c, &identity.subsystem.0.to_le_bytes());
        space.put(0x2e, &identity.subsystem.1.to_le_bytes());
        space.writable[COMMAND..COMMAND + 2].copy_from_slice(&COMMAND_WRITABLE);
        space
    }

    fn put(&mut self, at: usize, data: &[u8]) {
        self.bytes[at..at + data.len()].copy_from_slice(data);
    }

    /// A 32-bit memory BAR of `size` bytes (a power of two), decoding at `address` as firmware would have left it.
    pub fn add_bar(&mut self, address: u32, size: u32) {
        debug_assert!(
            size.is_power_of_two() && address.is_multiple_of(size),
            "BARs are aligned to their size"
        );
        self.bar_size = Some(size);
        self.put(BAR0, &address.to_le_bytes());
        self.writable[BAR0..BAR0 + 4].copy_from_slice(&(!(size - 1)).to_le_bytes());
        self.bytes[COMMAND] |= COMMAND_MEMORY;
    }

    /// Appends a capability: its id, and `body` behind id and next pointer, with the writable bits of the body. Says where
    /// it is.
    ///
    /// # Panics
    /// Where the space is full, which is a mistake of the function.
    pub fn add_capability(&mut self, id: u8, body: &[u8], writable: &[u8]) -> u8 {
        let at = self.free;
        let start = usize::from(at);
        let end = start + 2 + body.len();
        assert!(end <= SIZE, "configuration space is full");
        self.put(start, &[id, 0]);
        self.put(start + 2, body);
        self.writable[start + 2..start + 2 + writable.len()].copy_from_slice(writable);
        match self.last_capability {
            Some(last) => self.bytes[last + 1] = at,
            None => {
                self.bytes[CAPABILITIES] = at;
                self.bytes[STATUS] |= STATUS_CAPABILITIES;
            }
        }
        self.last_capability = Some(start);
        self.free = u8::try_from(end.next_multiple_of(4)).unwrap_or(u8::MAX);
        at
    }

    /// Copies bytes out; what lies behind the end reads as zero.
    pub fn read(&self, offset: u8, data: &mut [u8]) {
        for (index, byte) in (usize::from(offset)..).zip(data) {
            *byte = self.bytes.get(index).copied().unwrap_or(0);
        }
    }

    /// Changes the writable bits.
    pub fn write(&mut self, offset: u8, data: &[u8]) {
        for (index, &value) in (usize::from(offset)..).zip(data) {
            if let (Some(byte), Some(&mask)) = (self.bytes.get_mut(index), self.writable.get(index)) {
                *byte = *byte & !mask | value & mask;
            }
        }
    }

    /// A little-endian word of the space, for the function itself.
    pub fn word(&self, offset: u8) -> u32 {
        let mut bytes = [0; 4];
        self.read(offset, &mut bytes);
        u32::from_le_bytes(bytes)
    }

    /// Where the BAR answers.
    pub fn window(&self) -> Option<(u64, u64)> {
        let size = self.bar_size?;
        let base = self.word(0x10) & !(size - 1);
        (self.bytes[COMMAND] & COMMAND_MEMORY != 0).then_some((base.into(), size.into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn space() -> Space {
        let mut space = Space::new(&Identity {
            vendor: 0x1af4,
            device: 0x1042,
            class: 0x01_8000,
            revision: 1,
            subsystem: (0x1af4, 0x42),
        });
        space.add_bar(0xd000_8000, 0x8000);
        space
    }

    #[test]
    fn sizing_a_bar_gives_its_size_and_moving_it_moves_the_window() {
        let mut space = space();
        assert_eq!(space.window(), Some((0xd000_8000, 0x8000)));
        space.write(4, &[0, 0]);
        assert_eq!(space.window(), None);
        space.write(0x10, &[0xff; 4]);
        assert_eq!(space.word(0x10), 0xffff_8000);
        space.write(0x10, &0xd001_0000_u32.to_le_bytes());
        space.write(4, &[6, 4]);
        assert_eq!(space.window(), Some((0xd001_0000, 0x8000)));
        space.write(0x14, &[0xff; 4]);
        assert_eq!(space.word(0x14), 0, "no second BAR");
    }

    #[test]
    fn capabilities_are_chained_and_only_their_writable_bits_change() {
        let mut space = space();
        let first = space.add_capability(9, &[3, 0xaa], &[0, 0xf0]);
        let second = space.add_capability(0x11, &[1, 2], &[]);
        assert_eq!(space.word(0x34) & 0xff, u32::from(first));
        assert_eq!(space.word(first).to_le_bytes()[..2], [9, second]);
        assert_eq!(space.word(second).to_le_bytes(), [0x11, 0, 1, 2]);
        space.write(first, &[0xff; 4]);
        assert_eq!(space.word(first).to_le_bytes(), [9, second, 3, 0xfa]);
        assert_eq!(space.word(4) >> 20 & 1, 1, "status has the list bit");
    }
}
