//! virtio over PCI, modern interface (virtio 1.2, section 4.1): one memory BAR, MSI-X, no line interrupt.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicU16, Ordering},
    },
};

use virtio_queue::QueueT as _;
use vm_memory::GuestMemoryMmap;
use vmm_sys_util::eventfd::EventFd;

use super::{
    Carrier,
    negotiation::{Negotiation, Ring},
};
use crate::{
    devices::virtio::{Interrupt, Messages, VirtioDevice},
    pci::{
        Function,
        config::{Identity, Space},
        msix::{ENTRY, Msix, NO_VECTOR},
    },
};

/// Size of the BAR.
pub const BAR_SIZE: u32 = 0x8000;
/// Parts of the BAR: offset and size.
const COMMON: (u32, u32) = (0x0000, 0x1000);
const ISR: (u32, u32) = (0x1000, 0x1000);
const DEVICE: (u32, u32) = (0x2000, 0x1000);
const NOTIFY: (u32, u32) = (0x3000, 0x1000);
const TABLE: u32 = 0x4000;
const PENDING: u32 = 0x5000;
const END: u32 = 0x6000;
/// Distance of two queues' notification registers, in bytes.
const NOTIFY_MULTIPLIER: u32 = 4;

const VENDOR: u16 = 0x1af4;
/// Device ids of virtio 1.x start here.
const DEVICE_BASE: u16 = 0x1040;
const CAPABILITY_VENDOR: u8 = 0x09;
const CAPABILITY_MSIX: u8 = 0x11;
/// `cfg_type` of the five structures.
const CFG_COMMON: u8 = 1;
const CFG_NOTIFY: u8 = 2;
const CFG_ISR: u8 = 3;
const CFG_DEVICE: u8 = 4;
const CFG_PCI: u8 = 5;
/// Offset of `pci_cfg_data` in its capability, and the words of it that say where to look.
const PCI_CFG_OFFSET: u8 = 8;
const PCI_CFG_LENGTH: u8 = 12;
const PCI_CFG_DATA: u8 = 16;
/// Upper byte of MSI-X message control.
const MSIX_CONTROL: u8 = 3;

/// Connects queue notifications with where the BAR is.
pub trait Doorbells: Send + std::fmt::Debug {
    /// Queue `index` is notified by a 16-bit write of its number to address `index` of the list; an empty list takes all
    /// connections away.
    fn place(&mut self, kicks: &[Arc<EventFd>], addresses: &[u64]);
}

/// Which vector belongs to what.
#[derive(Debug)]
struct Vectors {
    config: AtomicU16,
    queues: Vec<AtomicU16>,
    msix: Arc<Msix>,
}

impl Messages for Vectors {
    fn config(&self) {
        self.msix.signal(self.config.load(Ordering::SeqCst));
    }

    fn queue(&self, index: usize) {
        if let Some(vector) = self.queues.get(index) {
            self.msix.signal(vector.load(Ordering::SeqCst));
        }
    }
}

impl Vectors {
    /// What a driver's wish for a vector becomes: one that does not exist is refused by reading back "none".
    fn accept(&self, wish: u32) -> u16 {
        u16::try_from(wish)
            .ok()
            .filter(|&vector| usize::from(vector) < self.msix.len())
            .unwrap_or(NO_VECTOR)
    }

    fn reset(&self) {
        self.config.store(NO_VECTOR, Ordering::SeqCst);
        for queue in &self.queues {
            queue.store(NO_VECTOR, Ordering::SeqCst);
        }
        self.msix.forget_pending();
    }
}

/// One device as a PCI function.
#[derive(Debug)]
pub struct PciTransport {
    state: Negotiation,
    space: Space,
    msix_at: u8,
    pci_cfg_at: u8,
    vectors: Arc<Vectors>,
    doorbells: Box<dyn Doorbells>,
    placed: Option<u64>,
}

/// Vectors that a device needs: one a queue, one for the configuration.
pub fn vectors_of(device: &dyn VirtioDevice) -> usize {
    device.queue_sizes().len() + 1
}

impl PciTransport {
    /// A function for `device` whose BAR starts at `bar`. `msix` has [`vectors_of`] vectors.
    ///
    /// # Errors
    /// Where eventfds cannot be made.
    pub fn new(
        device: Box<dyn VirtioDevice>,
        memory: GuestMemoryMmap,
        bar: u32,
        msix: Arc<Msix>,
        doorbells: Box<dyn Doorbells>,
    ) -> io::Result<Self> {
        let kind = u16::try_from(device.device_type()).map_err(io::Error::other)?;
        let mut space = Space::new(&Identity {
            vendor: VENDOR,
            device: DEVICE_BASE + kind,
            class: class(kind),
            revision: 1,
            subsystem: (VENDOR, DEVICE_BASE + kind),
        });
        space.add_bar(bar, BAR_SIZE);
        let last = u16::try_from(msix.len().saturating_sub(1)).map_err(io::Error::other)?;
        let mut body = last.to_le_bytes().to_vec();
        body.extend(TABLE.to_le_bytes());
        body.extend(PENDING.to_le_bytes());
        // Enable and function mask.
        let msix_at = space.add_capability(CAPABILITY_MSIX, &body, &[0, 0xc0]);
        for (kind, (offset, size)) in [(CFG_COMMON, COMMON), (CFG_ISR, ISR), (CFG_DEVICE, DEVICE)] {
            space.add_capability(CAPABILITY_VENDOR, &structure(kind, offset, size, &[]), &[]);
        }
        let multiplier = NOTIFY_MULTIPLIER.to_le_bytes();
        let notify = structure(CFG_NOTIFY, NOTIFY.0, NOTIFY.1, &multiplier);
        space.add_capability(CAPABILITY_VENDOR, &notify, &[]);
        // Everything but the first four bytes is the driver's: bar, offset, length, data.
        let window = structure(CFG_PCI, 0, 0, &[0; 4]);
        let mut writable = vec![0xff; window.len()];
        writable[..2].fill(0);
        let pci_cfg_at = space.add_capability(CAPABILITY_VENDOR, &window, &writable);
        let vectors = Arc::new(Vectors {
            config: AtomicU16::new(NO_VECTOR),
            queues: device.queue_sizes().iter().map(|_| AtomicU16::new(NO_VECTOR)).collect(),
            msix,
        });
        let interrupt = Arc::new(Interrupt::messages(vectors.clone()));
        let mut transport = Self {
            state: Negotiation::new(device, memory, interrupt)?,
            space,
            msix_at,
            pci_cfg_at,
            vectors,
            doorbells,
            placed: None,
        };
        transport.follow_bar();
        Ok(transport)
    }

    /// Keeps the notifications where the BAR is.
    fn follow_bar(&mut self) {
        let now = self.space.window().map(|(base, _)| base);
        if now == self.placed {
            return;
        }
        let count = self.state.kicks().len();
        let addresses: Vec<u64> = now.map_or_else(Vec::new, |base| {
            let step = u64::from(NOTIFY_MULTIPLIER);
            let first = base + u64::from(NOTIFY.0);
            (0..).map(|index| first + index * step).take(count).collect()
        });
        self.doorbells.place(self.state.kicks(), &addresses);
        self.placed = now;
    }

    fn read_common(&self, offset: u64) -> u64 {
        let state = &self.state;
        let queue = |value: fn(&virtio_queue::Queue) -> u64| state.queue().map_or(0, value);
        match offset {
            0x00 => state.device_features_select.into(),
            0x04 => state.device_features().into(),
            0x08 => state.driver_features_select.into(),
            0x0c => state.driver_features().into(),
            0x10 => self.vectors.config.load(Ordering::SeqCst).into(),
            0x12 => u64::try_from(self.state.kicks().len()).unwrap_or(0),
            0x14 => state.status().into(),
            // Configuration never changes, so its generation (0x15) stays 0.
            0x16 => state.queue_select.into(),
            0x18 => queue(|queue| queue.size().into()),
            0x1a => {
                let index = usize::try_from(state.queue_select).unwrap_or(usize::MAX);
                let vector = self.vectors.queues.get(index);
                vector.map_or(NO_VECTOR, |vector| vector.load(Ordering::SeqCst)).into()
            }
            0x1c => queue(|queue| queue.ready().into()),
            0x1e => state.queue_select.into(),
            0x20 => queue(virtio_queue::QueueT::desc_table),
            0x24 => queue(|queue| queue.desc_table() >> 32),
            0x28 => queue(virtio_queue::QueueT::avail_ring),
            0x2c => queue(|queue| queue.avail_ring() >> 32),
            0x30 => queue(virtio_queue::QueueT::used_ring),
            0x34 => queue(|queue| queue.used_ring() >> 32),
            _ => 0,
        }
    }

    fn write_common(&mut self, offset: u64, value: u32) {
        let state = &mut self.state;
        match offset {
            0x00 => state.device_features_select = value,
            0x08 => state.driver_features_select = value,
            0x0c => state.set_driver_features(value),
            0x10 => self.vectors.config.store(self.vectors.accept(value), Ordering::SeqCst),
            0x14 => {
                state.set_status(value & 0xff);
                if value & 0xff == 0 {
                    self.vectors.reset();
                }
            }
            0x16 => state.queue_select = value & 0xffff,
            0x18 => state.set_queue_size(value),
            0x1a => {
                let index = usize::try_from(state.queue_select).unwrap_or(usize::MAX);
                if let Some(vector) = self.vectors.queues.get(index) {
                    vector.store(self.vectors.accept(value), Ordering::SeqCst);
                }
            }
            // Only 1 may be written; a queue is disabled by reset alone.
            0x1c if value == 1 => state.set_queue_ready(true),
            0x20 => state.set_ring(Ring::Descriptors, Some(value), None),
            0x24 => state.set_ring(Ring::Descriptors, None, Some(value)),
            0x28 => state.set_ring(Ring::Driver, Some(value), None),
            0x2c => state.set_ring(Ring::Driver, None, Some(value)),
            0x30 => state.set_ring(Ring::Device, Some(value), None),
            0x34 => state.set_ring(Ring::Device, None, Some(value)),
            _ => {}
        }
    }

    /// The access that the driver described in the PCI_CFG capability (section 4.1.4.9): offset and length, where valid.
    fn described(&self) -> Option<(u64, usize)> {
        let word = |at: u8| self.space.word(self.pci_cfg_at + at);
        let bar = word(4) & 0xff;
        let (offset, length) = (word(PCI_CFG_OFFSET), word(PCI_CFG_LENGTH));
        let valid = bar == 0 && matches!(length, 1 | 2 | 4) && offset.checked_add(length)? <= BAR_SIZE;
        valid.then_some((offset.into(), usize::try_from(length).ok()?))
    }

    fn data_at(&self) -> u8 {
        self.pci_cfg_at + PCI_CFG_DATA
    }
}

/// `struct virtio_pci_cap` behind the standard two bytes.
fn structure(kind: u8, offset: u32, length: u32, more: &[u8]) -> Vec<u8> {
    let size = u8::try_from(16 + more.len()).expect("20 bytes at most");
    let mut body = vec![size, kind, 0, 0, 0, 0];
    body.extend(offset.to_le_bytes());
    body.extend(length.to_le_bytes());
    body.extend(more);
    body
}

/// Class codes as QEMU gives them: storage, network, else "unclassified".
fn class(kind: u16) -> u32 {
    match kind {
        1 => 0x02_0000,
        2 => 0x01_0000,
        _ => 0x00_ff00,
    }
}

impl Function for PciTransport {
    fn read_config(&mut self, offset: u8, data: &mut [u8]) {
        if offset == self.data_at()
            && let Some((at, length)) = self.described()
        {
            let mut bytes = [0; 4];
            self.read_bar(at, &mut bytes[..length]);
            data.fill(0);
            for (target, byte) in data.iter_mut().zip(bytes) {
                *target = byte;
            }
            return;
        }
        self.space.read(offset, data);
    }

    fn write_config(&mut self, offset: u8, data: &[u8]) {
        self.space.write(offset, data);
        if offset == self.data_at()
            && let Some((at, length)) = self.described()
            && let Some(data) = data.get(..length)
        {
            self.write_bar(at, data);
        }
        let mut control = [0];
        self.space.read(self.msix_at + MSIX_CONTROL, &mut control);
        self.vectors.msix.set_control(control[0]);
        self.follow_bar();
    }

    fn window(&self) -> Option<(u64, u64)> {
        self.space.window()
    }

    fn read_bar(&mut self, offset: u64, data: &mut [u8]) {
        data.fill(0);
        let Ok(place) = u32::try_from(offset) else {
            return;
        };
        if place < ISR.0 {
            let value = self.read_common(offset).to_le_bytes();
            for (target, byte) in data.iter_mut().zip(value) {
                *target = byte;
            }
        } else if place < DEVICE.0 {
            // Without line interrupts nothing is ever in the ISR register.
        } else if place < NOTIFY.0 {
            self.state.device.read_config(offset - u64::from(DEVICE.0), data);
        } else if (TABLE..PENDING).contains(&place) {
            self.vectors.msix.read_table(offset - u64::from(TABLE), data);
        } else if (PENDING..END).contains(&place) {
            self.vectors.msix.read_pending(offset - u64::from(PENDING), data);
        }
    }

    fn write_bar(&mut self, offset: u64, data: &[u8]) {
        let Ok(place) = u32::try_from(offset) else {
            return;
        };
        if place < ISR.0 {
            // Registers of 64 bits may be written at once.
            for (step, part) in (0_u64..).zip(data.chunks(4)) {
                let mut word = [0; 4];
                word[..part.len()].copy_from_slice(part);
                self.write_common(offset + step * 4, u32::from_le_bytes(word));
            }
        } else if (DEVICE.0..NOTIFY.0).contains(&place) {
            self.state.device.write_config(offset - u64::from(DEVICE.0), data);
        } else if (NOTIFY.0..TABLE).contains(&place) {
            // Reached only where no ioeventfd matches: a driver that writes in another width.
            self.state.kick((place - NOTIFY.0) / NOTIFY_MULTIPLIER);
        } else if (TABLE..PENDING).contains(&place) {
            self.vectors.msix.write_table(offset - u64::from(TABLE), data);
        }
    }
}

// The table has room for every vector that a device can have.
const _: () = assert!(ENTRY * 64 <= (PENDING - TABLE) as u64, "64 vectors fit");

impl Carrier for PciTransport {
    fn close(&mut self) -> Result<(), String> {
        self.state.close()
    }
}
