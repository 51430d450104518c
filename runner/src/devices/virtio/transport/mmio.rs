//! The virtio-mmio register window, version 2 (virtio 1.2, section 4.2).

use std::{io, sync::Arc};

use virtio_queue::QueueT as _;
use vm_memory::GuestMemoryMmap;
use vmm_sys_util::eventfd::EventFd;

use super::{
    Carrier,
    negotiation::{Negotiation, Ring},
};
use crate::{
    bus::BusDevice,
    devices::virtio::{Interrupt, VirtioDevice},
};

/// Offset of the notification register, for ioeventfds.
pub const QUEUE_NOTIFY: u64 = 0x50;

const MAGIC: u32 = 0x7472_6976;
const VERSION: u32 = 2;
const VENDOR: u32 = 0x5853_4f45;

const CONFIG_SPACE: u64 = 0x100;

/// One device behind its window.
#[derive(Debug)]
pub struct MmioTransport(Negotiation);

impl MmioTransport {
    /// A window for `device`.
    ///
    /// # Errors
    /// Where eventfds cannot be made.
    pub fn new(device: Box<dyn VirtioDevice>, memory: GuestMemoryMmap, interrupt: Arc<Interrupt>) -> io::Result<Self> {
        Negotiation::new(device, memory, interrupt).map(Self)
    }

    /// The notification eventfd of each queue; stays the same over resets.
    pub fn kicks(&self) -> impl Iterator<Item = &EventFd> {
        self.0.kicks().iter().map(AsRef::as_ref)
    }

    fn read_register(&self, offset: u64) -> u32 {
        let state = &self.0;
        match offset {
            0x00 => MAGIC,
            0x04 => VERSION,
            0x08 => state.device.device_type(),
            0x0c => VENDOR,
            0x10 => state.device_features(),
            0x34 => state.queue().map_or(0, |queue| queue.max_size().into()),
            0x44 => state.queue().map_or(0, |queue| queue.ready().into()),
            0x60 => state.interrupt.status(),
            0x70 => state.status(),
            // No shared memory: length and base of every region are all ones.
            0xb0..=0xbc => u32::MAX,
            // Configuration never changes, so its generation stays 0.
            _ => 0,
        }
    }

    fn write_register(&mut self, offset: u64, value: u32) {
        let state = &mut self.0;
        match offset {
            0x14 => state.device_features_select = value,
            0x20 => state.set_driver_features(value),
            0x24 => state.driver_features_select = value,
            0x30 => state.queue_select = value,
            0x38 => state.set_queue_size(value),
            0x44 => state.set_queue_ready(value == 1),
            // Reached only where the ioeventfd does not match, such as a queue that does not exist.
            QUEUE_NOTIFY => state.kick(value),
            0x64 => state.interrupt.acknowledge(value),
            0x70 => state.set_status(value),
            0x80 => state.set_ring(Ring::Descriptors, Some(value), None),
            0x84 => state.set_ring(Ring::Descriptors, None, Some(value)),
            0x90 => state.set_ring(Ring::Driver, Some(value), None),
            0x94 => state.set_ring(Ring::Driver, None, Some(value)),
            0xa0 => state.set_ring(Ring::Device, Some(value), None),
            0xa4 => state.set_ring(Ring::Device, None, Some(value)),
            _ => {}
        }
    }
}

impl Carrier for MmioTransport {
    fn close(&mut self) -> Result<(), String> {
        self.0.close()
    }
}

impl BusDevice for MmioTransport {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        if let Some(offset) = offset.checked_sub(CONFIG_SPACE) {
            self.0.device.read_config(offset, data);
            return;
        }
        data.fill(0);
        // Registers are 32 bits wide and aligned; other accesses read zero.
        if let Ok(data) = <&mut [u8; 4]>::try_from(data) {
            *data = self.read_register(offset).to_le_bytes();
        }
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        if let Some(offset) = offset.checked_sub(CONFIG_SPACE) {
            self.0.device.write_config(offset, data);
            return;
        }
        if let Ok(data) = <[u8; 4]>::try_from(data) {
            self.write_register(offset, u32::from_le_bytes(data));
        }
    }
}
