//! The virtio-mmio register window, version 2 (virtio 1.2, section 4.2).

use std::{io, sync::Arc};

use virtio_queue::{Queue, QueueT as _};
use vm_memory::GuestMemoryMmap;
use vmm_sys_util::eventfd::EventFd;

use crate::{
    bus::BusDevice,
    devices::virtio::{Activation, F_EVENT_IDX, F_VERSION_1, Interrupt, VirtioDevice},
};

/// Offset of the notification register, for ioeventfds.
pub const QUEUE_NOTIFY: u64 = 0x50;

const MAGIC: u32 = 0x7472_6976;
const VERSION: u32 = 2;
const VENDOR: u32 = 0x5853_4f45;

const STATUS_ACKNOWLEDGE: u32 = 1;
const STATUS_DRIVER: u32 = 2;
const STATUS_DRIVER_OK: u32 = 4;
const STATUS_FEATURES_OK: u32 = 8;
const STATUS_NEEDS_RESET: u32 = 0x40;
const STATUS_FAILED: u32 = 0x80;

const CONFIG_SPACE: u64 = 0x100;

/// One device behind its window.
pub struct MmioTransport {
    device: Box<dyn VirtioDevice>,
    memory: GuestMemoryMmap,
    interrupt: Arc<Interrupt>,
    queues: Vec<Queue>,
    kicks: Vec<Arc<EventFd>>,
    status: u32,
    device_features_select: u32,
    driver_features_select: u32,
    driver_features: u64,
    queue_select: u32,
    activated: bool,
}

impl std::fmt::Debug for MmioTransport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MmioTransport")
            .field("device_type", &self.device.device_type())
            .field("status", &self.status)
            .finish_non_exhaustive()
    }
}

impl MmioTransport {
    /// A window for `device`.
    ///
    /// # Errors
    /// Where eventfds cannot be made.
    pub fn new(device: Box<dyn VirtioDevice>, memory: GuestMemoryMmap, interrupt: Arc<Interrupt>) -> io::Result<Self> {
        let mut queues = Vec::new();
        let mut kicks = Vec::new();
        for &size in device.queue_sizes() {
            queues.push(Queue::new(size).map_err(io::Error::other)?);
            kicks.push(Arc::new(EventFd::new(libc::EFD_NONBLOCK)?));
        }
        Ok(Self {
            device,
            memory,
            interrupt,
            queues,
            kicks,
            status: 0,
            device_features_select: 0,
            driver_features_select: 0,
            driver_features: 0,
            queue_select: 0,
            activated: false,
        })
    }

    /// The notification eventfd of each queue; stays the same over resets.
    pub fn kicks(&self) -> impl Iterator<Item = &EventFd> {
        self.kicks.iter().map(AsRef::as_ref)
    }

    /// Stops the device for good.
    ///
    /// # Errors
    /// What the device could not make durable.
    pub fn close(&mut self) -> Result<(), String> {
        self.reset();
        self.device.close()
    }

    fn reset(&mut self) {
        self.device.reset();
        self.interrupt.reset();
        for queue in &mut self.queues {
            queue.reset();
        }
        for kick in &self.kicks {
            // Notifications for the old queues mean nothing to the new ones.
            let _ = kick.read();
        }
        self.status = 0;
        self.device_features_select = 0;
        self.driver_features_select = 0;
        self.driver_features = 0;
        self.queue_select = 0;
        self.activated = false;
    }

    fn queue(&self) -> Option<&Queue> {
        self.queues.get(usize::try_from(self.queue_select).ok()?)
    }

    /// The selected queue, while the driver may still set it up.
    fn with_queue(&mut self, change: impl FnOnce(&mut Queue)) {
        let configuring =
            self.status & STATUS_FEATURES_OK != 0 && self.status & (STATUS_DRIVER_OK | STATUS_FAILED) == 0;
        if !configuring {
            return;
        }
        let index = usize::try_from(self.queue_select).ok();
        if let Some(queue) = index.and_then(|index| self.queues.get_mut(index)) {
            change(queue);
        }
    }

    fn set_status(&mut self, status: u32) {
        if status == 0 {
            self.reset();
            return;
        }
        let added = status & !self.status;
        if self.status & !status & !STATUS_NEEDS_RESET != 0 {
            // Bits may only be added; anything else is a driver error without a meaning.
            return;
        }
        if added & STATUS_FEATURES_OK != 0 && !self.features_acceptable() {
            // The specification's way to say no: the bit does not stick.
            self.status |= status & !STATUS_FEATURES_OK;
            return;
        }
        self.status |= status;
        let ready = STATUS_ACKNOWLEDGE | STATUS_DRIVER | STATUS_FEATURES_OK | STATUS_DRIVER_OK;
        if added & STATUS_DRIVER_OK != 0 && self.status & ready == ready && !self.activated {
            self.activate();
        }
    }

    /// Takes the selected half of the driver's features, while they are negotiated.
    fn set_driver_features(&mut self, value: u32) {
        if self.status & (STATUS_DRIVER | STATUS_FEATURES_OK) != STATUS_DRIVER {
            return;
        }
        let shift = match self.driver_features_select {
            0 => 0,
            1 => 32,
            _ => return,
        };
        self.driver_features &= !(u64::from(u32::MAX) << shift);
        self.driver_features |= u64::from(value) << shift;
    }

    fn features_acceptable(&self) -> bool {
        self.driver_features & !self.device.features() == 0 && self.driver_features & F_VERSION_1 != 0
    }

    fn activate(&mut self) {
        let mut queues = Vec::new();
        for (queue, kick) in self.queues.iter_mut().zip(&self.kicks) {
            if !queue.ready() {
                queues.push(None);
                continue;
            }
            queue.set_event_idx(self.driver_features & F_EVENT_IDX != 0);
            if !queue.is_valid(&self.memory) {
                self.interrupt.fail_device();
                return;
            }
            let state = queue.state();
            match Queue::try_from(state) {
                Ok(queue) => queues.push(Some((queue, Arc::clone(kick)))),
                Err(_) => {
                    self.interrupt.fail_device();
                    return;
                }
            }
        }
        self.activated = true;
        let activation = Activation {
            memory: self.memory.clone(),
            queues,
            interrupt: Arc::clone(&self.interrupt),
            features: self.driver_features,
        };
        if self.device.activate(activation).is_err() {
            self.interrupt.fail_device();
        }
    }

    fn read_register(&self, offset: u64) -> u32 {
        match offset {
            0x00 => MAGIC,
            0x04 => VERSION,
            0x08 => self.device.device_type(),
            0x0c => VENDOR,
            0x10 => half(self.device.features(), self.device_features_select),
            0x34 => self.queue().map_or(0, |queue| queue.max_size().into()),
            0x44 => self.queue().map_or(0, |queue| queue.ready().into()),
            0x60 => self.interrupt.status(),
            0x70 if self.interrupt.failed() => self.status | STATUS_NEEDS_RESET,
            0x70 => self.status,
            // No shared memory: length and base of every region are all ones.
            0xb0..=0xbc => u32::MAX,
            // Configuration never changes, so its generation stays 0.
            _ => 0,
        }
    }

    fn write_register(&mut self, offset: u64, value: u32) {
        match offset {
            0x14 => self.device_features_select = value,
            0x20 => self.set_driver_features(value),
            0x24 => self.driver_features_select = value,
            0x30 => self.queue_select = value,
            0x38 => self.with_queue(|queue| {
                // A size that the queue refuses stays unset; the driver sees a queue that never becomes valid.
                if let Ok(size) = u16::try_from(value) {
                    queue.set_size(size);
                }
            }),
            0x44 => self.with_queue(|queue| queue.set_ready(value == 1)),
            // Reached only where the ioeventfd does not match, such as a queue that does not exist.
            QUEUE_NOTIFY => {
                if let Some(kick) = usize::try_from(value).ok().and_then(|index| self.kicks.get(index)) {
                    let _ = kick.write(1);
                }
            }
            0x64 => self.interrupt.acknowledge(value),
            0x70 => self.set_status(value),
            0x80 => self.with_queue(|queue| queue.set_desc_table_address(Some(value), None)),
            0x84 => self.with_queue(|queue| queue.set_desc_table_address(None, Some(value))),
            0x90 => self.with_queue(|queue| queue.set_avail_ring_address(Some(value), None)),
            0x94 => self.with_queue(|queue| queue.set_avail_ring_address(None, Some(value))),
            0xa0 => self.with_queue(|queue| queue.set_used_ring_address(Some(value), None)),
            0xa4 => self.with_queue(|queue| queue.set_used_ring_address(None, Some(value))),
            _ => {}
        }
    }
}

/// The 32 feature bits that `select` chooses.
fn half(features: u64, select: u32) -> u32 {
    let part = match select {
        0 => features & u64::from(u32::MAX),
        1 => features >> 32,
        _ => 0,
    };
    u32::try_from(part).expect("32 bits")
}

impl BusDevice for MmioTransport {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        if let Some(offset) = offset.checked_sub(CONFIG_SPACE) {
            self.device.read_config(offset, data);
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
            self.device.write_config(offset, data);
            return;
        }
        if let Ok(data) = <[u8; 4]>::try_from(data) {
            self.write_register(offset, u32::from_le_bytes(data));
        }
    }
}
