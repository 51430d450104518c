//! Address decoding: which device answers at a port or a memory address.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

/// A device that answers at a range of addresses. Offsets count from the start of the range.
pub trait BusDevice: Send {
    /// Fills `data` with what the guest reads at `offset`.
    fn read(&mut self, offset: u64, data: &mut [u8]);
    /// Takes what the guest writes at `offset`.
    fn write(&mut self, offset: u64, data: &[u8]);
}

/// Two devices that want the same addresses.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("device range {base:#x}+{size:#x} overlaps the one at {other:#x}")]
pub struct Overlap {
    /// Start of the new range.
    pub base: u64,
    /// Its size.
    pub size: u64,
    /// Start of the range that is already there.
    pub other: u64,
}

struct Slot {
    size: u64,
    device: Arc<Mutex<dyn BusDevice>>,
}

/// One address space (ports or memory).
#[derive(Default)]
pub struct Bus {
    slots: BTreeMap<u64, Slot>,
}

impl std::fmt::Debug for Bus {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_map()
            .entries(self.slots.iter().map(|(base, slot)| (base, slot.size)))
            .finish()
    }
}

impl Bus {
    /// Puts `device` at `base`.
    ///
    /// # Errors
    /// Where the range is taken.
    pub fn insert(&mut self, base: u64, size: u64, device: Arc<Mutex<dyn BusDevice>>) -> Result<(), Overlap> {
        let end = base.saturating_add(size);
        if let Some((&other, slot)) = self.slots.range(..end).next_back()
            && other.saturating_add(slot.size) > base
        {
            return Err(Overlap { base, size, other });
        }
        self.slots.insert(base, Slot { size, device });
        Ok(())
    }

    fn find(&self, address: u64) -> Option<(u64, &Slot)> {
        let (&base, slot) = self.slots.range(..=address).next_back()?;
        let offset = address - base;
        (offset < slot.size).then_some((offset, slot))
    }

    /// A read by the guest. Where nobody answers, all bits are one, as on a real bus. Says whether a device answered.
    pub fn read(&self, address: u64, data: &mut [u8]) -> bool {
        match self.find(address) {
            Some((offset, slot)) => {
                lock(&slot.device).read(offset, data);
                true
            }
            None => {
                data.fill(0xff);
                false
            }
        }
    }

    /// A write by the guest; lost where nobody answers. Says whether a device answered.
    pub fn write(&self, address: u64, data: &[u8]) -> bool {
        match self.find(address) {
            Some((offset, slot)) => {
                lock(&slot.device).write(offset, data);
                true
            }
            None => false,
        }
    }
}

/// A device whose thread panicked is still memory-safe; the guest gets whatever state it left.
fn lock<'a>(device: &'a Arc<Mutex<dyn BusDevice>>) -> std::sync::MutexGuard<'a, dyn BusDevice + 'static> {
    device.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Echo(Vec<(u64, Vec<u8>)>);
    impl BusDevice for Echo {
        fn read(&mut self, offset: u64, data: &mut [u8]) {
            data.fill(u8::try_from(offset).expect("small"));
        }
        fn write(&mut self, offset: u64, data: &[u8]) {
            self.0.push((offset, data.to_vec()));
        }
    }

    #[test]
    fn accesses_reach_the_device_that_covers_them_and_only_that() {
        let mut bus = Bus::default();
        let device = Arc::new(Mutex::new(Echo(Vec::new())));
        bus.insert(0x100, 8, device.clone()).expect("free");
        let mut data = [0];
        assert!(bus.read(0x107, &mut data));
        assert_eq!(data, [7]);
        assert!(!bus.read(0x108, &mut data));
        assert_eq!(data, [0xff]);
        assert!(bus.write(0x101, &[1, 2]));
        assert!(!bus.write(0xff, &[1]));
        assert_eq!(device.lock().expect("alive").0, [(1, vec![1, 2])]);
    }

    #[test]
    fn overlapping_ranges_are_refused_in_both_directions() {
        let mut bus = Bus::default();
        let device = || Arc::new(Mutex::new(Echo(Vec::new())));
        bus.insert(0x100, 8, device()).expect("free");
        assert!(bus.insert(0x0, 0x101, device()).is_err());
        assert!(bus.insert(0x107, 1, device()).is_err());
        bus.insert(0x108, 1, device()).expect("free");
        bus.insert(0xf8, 8, device()).expect("free");
    }
}
