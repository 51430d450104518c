//! Virtio devices (virtio 1.2, OASIS): what they do with queues, apart from the transport that carries them.
//!
//! The guest is hostile: every index, address and length is checked by `virtio-queue` or here. A malformed request fails
//! that request; a malformed queue fails the device (DEVICE_NEEDS_RESET), never the process.

pub mod block;
pub mod net;
pub mod rng;
pub mod transport;
pub mod worker;

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
};

use virtio_queue::{DescriptorChain, Queue, QueueOwnedT as _, QueueT as _};
use vm_memory::GuestMemoryMmap;
use vmm_sys_util::eventfd::EventFd;

/// Feature bit: virtio 1.x.
pub const F_VERSION_1: u64 = 1 << 32;
/// Feature bit: indirect descriptors.
pub const F_INDIRECT_DESC: u64 = 1 << 28;
/// Feature bit: notification suppression by index.
pub const F_EVENT_IDX: u64 = 1 << 29;

/// What every device here offers.
pub const COMMON_FEATURES: u64 = F_VERSION_1 | F_INDIRECT_DESC | F_EVENT_IDX;

/// Message-signalled interrupts, as a transport routes them.
pub trait Messages: Send + Sync + std::fmt::Debug {
    /// The configuration or the device's state changed.
    fn config(&self);
    /// Used buffers are in queue number `index`.
    fn queue(&self, index: usize);
}

/// How interrupts reach the driver.
#[derive(Debug)]
enum Way {
    /// One line with a cause register behind it.
    Line(EventFd),
    /// A message a cause.
    Messages(Arc<dyn Messages>),
}

/// The device's way to the driver: interrupt causes and how they are signalled.
#[derive(Debug)]
pub struct Interrupt {
    status: AtomicU32,
    failed: AtomicBool,
    way: Way,
}

const CAUSE_QUEUE: u32 = 1;
const CAUSE_CONFIG: u32 = 2;

impl Interrupt {
    /// Raises `line` (an irqfd).
    pub fn new(line: EventFd) -> Self {
        Self::by(Way::Line(line))
    }

    /// Sends messages.
    pub fn messages(messages: Arc<dyn Messages>) -> Self {
        Self::by(Way::Messages(messages))
    }

    fn by(way: Way) -> Self {
        Self {
            status: AtomicU32::new(0),
            failed: AtomicBool::new(false),
            way,
        }
    }

    fn raise(line: &EventFd, status: &AtomicU32, cause: u32) {
        status.fetch_or(cause, Ordering::SeqCst);
        // Fails only when the counter is full, and then an interrupt is pending anyway.
        let _ = line.write(1);
    }

    /// "Used buffers are there", in queue number `index`.
    pub fn queue(&self, index: usize) {
        match &self.way {
            Way::Line(line) => Self::raise(line, &self.status, CAUSE_QUEUE),
            Way::Messages(messages) => messages.queue(index),
        }
    }

    /// "The device does not work until it is reset": the driver broke a rule.
    pub fn fail_device(&self) {
        self.failed.store(true, Ordering::SeqCst);
        match &self.way {
            Way::Line(line) => Self::raise(line, &self.status, CAUSE_CONFIG),
            Way::Messages(messages) => messages.config(),
        }
    }

    /// Whether the device waits for a reset.
    pub fn failed(&self) -> bool {
        self.failed.load(Ordering::SeqCst)
    }

    /// Causes not yet acknowledged; always 0 with messages.
    pub fn status(&self) -> u32 {
        self.status.load(Ordering::SeqCst)
    }

    /// Acknowledges causes.
    pub fn acknowledge(&self, causes: u32) {
        self.status.fetch_and(!causes, Ordering::SeqCst);
    }

    fn reset(&self) {
        self.status.store(0, Ordering::SeqCst);
        self.failed.store(false, Ordering::SeqCst);
    }
}

/// What a device gets when the driver is ready.
#[derive(Debug)]
pub struct Activation {
    /// Guest memory.
    pub memory: GuestMemoryMmap,
    /// Configured queues with their notification eventfds, by index; `None` where the driver left one out.
    pub queues: Vec<Option<(Queue, Arc<EventFd>)>>,
    /// The way to the driver.
    pub interrupt: Arc<Interrupt>,
    /// Negotiated features.
    pub features: u64,
}

/// A device behind a transport.
pub trait VirtioDevice: Send {
    /// Device id of the specification, section 5.
    fn device_type(&self) -> u32;
    /// Largest size of each queue.
    fn queue_sizes(&self) -> &[u16];
    /// Offered features.
    fn features(&self) -> u64;
    /// Reads device configuration; bytes behind its end read as zero.
    fn read_config(&self, offset: u64, data: &mut [u8]);
    /// Writes device configuration. No device here has writable fields.
    fn write_config(&mut self, _offset: u64, _data: &[u8]) {}
    /// Starts to serve the queues.
    ///
    /// # Errors
    /// Where threads cannot be made; the device is failed then.
    fn activate(&mut self, activation: Activation) -> io::Result<()>;
    /// Stops. Returns when nothing touches guest memory any more; the device can be activated again.
    fn reset(&mut self);
    /// The machine ends: make everything durable.
    ///
    /// # Errors
    /// What could not be written, as text.
    fn close(&mut self) -> Result<(), String> {
        Ok(())
    }
}

/// Copies a device's configuration bytes to where the driver reads them.
pub(crate) fn read_config_bytes(config: &[u8], offset: u64, data: &mut [u8]) {
    data.fill(0);
    let Ok(offset) = usize::try_from(offset) else {
        return;
    };
    if let Some(rest) = config.get(offset..) {
        for (target, source) in data.iter_mut().zip(rest) {
            *target = *source;
        }
    }
}

/// A rule of the queue layout that the driver broke.
#[derive(Debug, thiserror::Error)]
pub enum QueueFault {
    /// `virtio-queue` refuses the rings.
    #[error("virtqueue: {0}")]
    Queue(#[from] virtio_queue::Error),
    /// A head points nowhere.
    #[error("descriptor head {head} has no descriptor in a queue of {size}")]
    EmptyChain {
        /// The head.
        head: u16,
        /// The queue's size.
        size: u16,
    },
}

/// A chain of the guest's descriptors.
pub type Chain<'a> = DescriptorChain<&'a GuestMemoryMmap>;

/// Takes chains off `queue`, the device's queue number `index`, until it is empty; `serve` says how many bytes it wrote into each. `serve` may return `None`
/// to put the chain back and stop.
///
/// # Errors
/// A [`QueueFault`] means that the driver broke the rings: the device has to be failed.
pub fn drain(
    index: usize,
    queue: &mut Queue,
    memory: &GuestMemoryMmap,
    interrupt: &Interrupt,
    mut serve: impl FnMut(Chain<'_>) -> Option<u32>,
) -> Result<(), QueueFault> {
    loop {
        queue.disable_notification(memory)?;
        let mut stopped = false;
        while let Some(chain) = queue.iter(memory)?.next() {
            let head = chain.head_index();
            if chain.clone().next().is_none() {
                return Err(QueueFault::EmptyChain {
                    head,
                    size: queue.size(),
                });
            }
            match serve(chain) {
                Some(written) => queue.add_used(memory, head, written)?,
                None => {
                    queue.go_to_previous_position();
                    stopped = true;
                    break;
                }
            }
        }
        if queue.needs_notification(memory)? {
            interrupt.queue(index);
        }
        if !queue.enable_notification(memory)? || stopped {
            return Ok(());
        }
    }
}
