//! A conventional PCI bus with one host bridge, its functions found by configuration mechanism #1 (PCI Local Bus 3.0,
//! section 3.2.2.3.2), which every x86 kernel knows. There is no bridge behind it, and no line interrupt: functions have MSI-X.

pub mod config;
pub mod msix;

use std::sync::{Arc, Mutex, PoisonError};

use crate::bus::BusDevice;

/// Functions on the bus, device numbers 1 to 31; 0 is the host bridge.
pub const MAX_DEVICES: usize = 31;

/// A PCI function.
pub trait Function: Send {
    /// Reads configuration space; `offset` and the length stay within 256 bytes.
    fn read_config(&mut self, offset: u8, data: &mut [u8]);
    /// Writes configuration space.
    fn write_config(&mut self, offset: u8, data: &[u8]);
    /// Where its memory BAR answers now, with its size; `None` while it does not decode.
    fn window(&self) -> Option<(u64, u64)>;
    /// Reads its BAR.
    fn read_bar(&mut self, offset: u64, data: &mut [u8]);
    /// Writes its BAR.
    fn write_bar(&mut self, offset: u64, data: &[u8]);
}

type Shared = Arc<Mutex<dyn Function>>;

fn lock<'a>(function: &'a Shared) -> std::sync::MutexGuard<'a, dyn Function + 'static> {
    function.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The functions of bus 0; the index is the device number. All are function 0 of their device.
#[derive(Clone)]
pub struct Functions(Arc<Vec<Shared>>);

impl std::fmt::Debug for Functions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Functions").field(&self.0.len()).finish()
    }
}

impl Functions {
    /// The host bridge, then `functions`.
    pub fn new(functions: Vec<Shared>) -> Self {
        let mut all: Vec<Shared> = vec![Arc::new(Mutex::new(HostBridge::new()))];
        all.extend(functions);
        Self(Arc::new(all))
    }
}

/// Ports 0xcf8 to 0xcff: address register and data window.
#[derive(Debug)]
pub struct ConfigPorts {
    functions: Functions,
    address: u32,
}

/// CONFIG_ADDRESS: "enable".
const ENABLE: u32 = 1 << 31;
/// Offset of CONFIG_DATA.
const DATA: u64 = 4;

impl ConfigPorts {
    /// Ports of a bus.
    pub fn new(functions: Functions) -> Self {
        Self { functions, address: 0 }
    }

    /// The function that the address register names, and the register's first byte.
    fn selected(&self) -> Option<(&Shared, u8)> {
        let [register, device, bus, _] = self.address.to_le_bytes();
        if self.address & ENABLE == 0 || bus != 0 || device & 7 != 0 {
            return None;
        }
        let function = self.functions.0.get(usize::from(device >> 3))?;
        Some((function, register & 0xfc))
    }

    /// Where an access to the data window lands, if it stays within one register.
    fn target(&self, offset: u64, length: usize) -> Option<(&Shared, u8)> {
        let within = u8::try_from(offset.checked_sub(DATA)?).ok()?;
        let length = u8::try_from(length).ok()?;
        if within.checked_add(length)? > 4 {
            return None;
        }
        let (function, register) = self.selected()?;
        Some((function, register + within))
    }
}

impl BusDevice for ConfigPorts {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        data.fill(0xff);
        if offset == 0 && data.len() == 4 {
            data.copy_from_slice(&self.address.to_le_bytes());
        } else if let Some((function, register)) = self.target(offset, data.len()) {
            lock(function).read_config(register, data);
        }
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        if let (0, Ok(bytes)) = (offset, <[u8; 4]>::try_from(data)) {
            // Reserved bits and the type bits read back as zero.
            self.address = u32::from_le_bytes(bytes) & 0x80ff_fffc;
        } else if let Some((function, register)) = self.target(offset, data.len()) {
            lock(function).write_config(register, data);
        }
    }
}

/// The memory that BARs may lie in: asks each function whether it answers there, so that the guest can move them.
#[derive(Debug)]
pub struct Window {
    functions: Functions,
    base: u64,
}

impl Window {
    /// Memory from `base` on.
    pub fn new(functions: Functions, base: u64) -> Self {
        Self { functions, base }
    }

    fn access(&self, offset: u64, length: usize, act: impl FnOnce(&mut dyn Function, u64)) -> bool {
        let length = u64::try_from(length).unwrap_or(u64::MAX);
        let Some(address) = self.base.checked_add(offset) else {
            return false;
        };
        for function in self.functions.0.iter() {
            let mut function = lock(function);
            if let Some((start, size)) = function.window()
                && let Some(inside) = address.checked_sub(start)
                && inside.checked_add(length).is_some_and(|end| end <= size)
            {
                act(&mut *function, inside);
                return true;
            }
        }
        false
    }
}

impl BusDevice for Window {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        data.fill(0xff);
        let length = data.len();
        self.access(offset, length, |function, inside| function.read_bar(inside, data));
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        self.access(offset, data.len(), |function, inside| function.write_bar(inside, data));
    }
}

/// Device 0: something that says "host bridge", without which Linux does not believe in mechanism #1.
struct HostBridge(config::Space);

impl HostBridge {
    /// QEMU's generic host bridge (`docs/specs/pci-ids.rst`).
    const VENDOR: u16 = 0x1b36;
    const DEVICE: u16 = 0x0008;
    const CLASS_HOST_BRIDGE: u32 = 0x06_0000;

    fn new() -> Self {
        Self(config::Space::new(&config::Identity {
            vendor: Self::VENDOR,
            device: Self::DEVICE,
            class: Self::CLASS_HOST_BRIDGE,
            revision: 0,
            subsystem: (0, 0),
        }))
    }
}

impl Function for HostBridge {
    fn read_config(&mut self, offset: u8, data: &mut [u8]) {
        self.0.read(offset, data);
    }
    fn write_config(&mut self, offset: u8, data: &[u8]) {
        self.0.write(offset, data);
    }
    fn window(&self) -> Option<(u64, u64)> {
        None
    }
    fn read_bar(&mut self, _offset: u64, _data: &mut [u8]) {}
    fn write_bar(&mut self, _offset: u64, _data: &[u8]) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ports() -> ConfigPorts {
        ConfigPorts::new(Functions::new(Vec::new()))
    }

    fn read(ports: &mut ConfigPorts, address: u32, offset: u64, length: usize) -> Vec<u8> {
        ports.write(0, &address.to_le_bytes());
        let mut data = vec![0; length];
        ports.read(DATA + offset, &mut data);
        data
    }

    #[test]
    fn the_host_bridge_answers_and_empty_slots_read_all_ones() {
        let mut ports = ports();
        assert_eq!(read(&mut ports, ENABLE, 0, 4), [0x36, 0x1b, 8, 0]);
        assert_eq!(read(&mut ports, ENABLE | 8, 2, 2), [0, 6], "class host bridge");
        assert_eq!(read(&mut ports, ENABLE | 1 << 11, 0, 4), [0xff; 4], "no device 1");
        assert_eq!(read(&mut ports, ENABLE | 1 << 8, 0, 4), [0xff; 4], "no function 1");
        assert_eq!(read(&mut ports, ENABLE | 1 << 16, 0, 4), [0xff; 4], "no bus 1");
        assert_eq!(read(&mut ports, 0, 0, 4), [0xff; 4], "not enabled");
        assert_eq!(read(&mut ports, ENABLE, 3, 2), [0xff; 2], "across two registers");
    }

    #[test]
    fn the_address_register_reads_back_as_linux_probes_it() {
        let mut ports = ports();
        ports.write(0, &0x8000_0000_u32.to_le_bytes());
        let mut data = [0; 4];
        ports.read(0, &mut data);
        assert_eq!(data, 0x8000_0000_u32.to_le_bytes());
    }
}
