//! What both transports share: status, features and queues as a driver sets them up (virtio 1.2, sections 2.1, 2.2 and 3.1),
//! apart from the registers through which it does.

use std::{io, sync::Arc};

use virtio_queue::{Queue, QueueT as _};
use vm_memory::GuestMemoryMmap;
use vmm_sys_util::eventfd::EventFd;

use crate::devices::virtio::{Activation, F_EVENT_IDX, F_VERSION_1, Interrupt, VirtioDevice};

const STATUS_ACKNOWLEDGE: u32 = 1;
const STATUS_DRIVER: u32 = 2;
const STATUS_DRIVER_OK: u32 = 4;
const STATUS_FEATURES_OK: u32 = 8;
const STATUS_NEEDS_RESET: u32 = 0x40;
const STATUS_FAILED: u32 = 0x80;

/// A ring's three parts, by the names of the specification.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ring {
    /// Descriptor table.
    Descriptors,
    /// Available ring.
    Driver,
    /// Used ring.
    Device,
}

/// A device and how far its driver has come with it.
pub(super) struct Negotiation {
    pub(super) device: Box<dyn VirtioDevice>,
    pub(super) interrupt: Arc<Interrupt>,
    memory: GuestMemoryMmap,
    queues: Vec<Queue>,
    kicks: Vec<Arc<EventFd>>,
    status: u32,
    driver_features: u64,
    activated: bool,
    pub(super) device_features_select: u32,
    pub(super) driver_features_select: u32,
    pub(super) queue_select: u32,
}

impl std::fmt::Debug for Negotiation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Negotiation")
            .field("device_type", &self.device.device_type())
            .field("status", &self.status)
            .finish_non_exhaustive()
    }
}

impl Negotiation {
    pub(super) fn new(
        device: Box<dyn VirtioDevice>,
        memory: GuestMemoryMmap,
        interrupt: Arc<Interrupt>,
    ) -> io::Result<Self> {
        let mut queues = Vec::new();
        let mut kicks = Vec::new();
        for &size in device.queue_sizes() {
            queues.push(Queue::new(size).map_err(io::Error::other)?);
            kicks.push(Arc::new(EventFd::new(libc::EFD_NONBLOCK)?));
        }
        Ok(Self {
            device,
            interrupt,
            memory,
            queues,
            kicks,
            status: 0,
            driver_features: 0,
            activated: false,
            device_features_select: 0,
            driver_features_select: 0,
            queue_select: 0,
        })
    }

    /// The notification eventfd of each queue; stays the same over resets.
    pub(super) fn kicks(&self) -> &[Arc<EventFd>] {
        &self.kicks
    }

    /// Notifies a queue by hand, where no ioeventfd did.
    pub(super) fn kick(&self, queue: u32) {
        if let Some(kick) = usize::try_from(queue).ok().and_then(|index| self.kicks.get(index)) {
            let _ = kick.write(1);
        }
    }

    /// Stops the device for good.
    pub(super) fn close(&mut self) -> Result<(), String> {
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

    /// The selected queue.
    pub(super) fn queue(&self) -> Option<&Queue> {
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

    /// A size that the queue refuses stays unset; the driver sees a queue that never becomes valid.
    pub(super) fn set_queue_size(&mut self, size: u32) {
        if let Ok(size) = u16::try_from(size) {
            self.with_queue(|queue| queue.set_size(size));
        }
    }

    pub(super) fn set_queue_ready(&mut self, ready: bool) {
        self.with_queue(|queue| queue.set_ready(ready));
    }

    /// Half of a ring's address.
    pub(super) fn set_ring(&mut self, ring: Ring, low: Option<u32>, high: Option<u32>) {
        self.with_queue(|queue| match ring {
            Ring::Descriptors => queue.set_desc_table_address(low, high),
            Ring::Driver => queue.set_avail_ring_address(low, high),
            Ring::Device => queue.set_used_ring_address(low, high),
        });
    }

    pub(super) fn status(&self) -> u32 {
        if self.interrupt.failed() {
            self.status | STATUS_NEEDS_RESET
        } else {
            self.status
        }
    }

    pub(super) fn set_status(&mut self, status: u32) {
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

    /// The selected half of the device's features.
    pub(super) fn device_features(&self) -> u32 {
        half(self.device.features(), self.device_features_select)
    }

    /// The selected half of what the driver took.
    pub(super) fn driver_features(&self) -> u32 {
        half(self.driver_features, self.driver_features_select)
    }

    /// Takes the selected half of the driver's features, while they are negotiated.
    pub(super) fn set_driver_features(&mut self, value: u32) {
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
