//! Virtio devices behind their transport, driven as a driver would and as an attacker would: mock guest memory, no KVM.
#![expect(
    clippy::tests_outside_test_module,
    reason = "an integration test program is one test module"
)]

use std::{
    io,
    os::fd::{AsRawFd as _, RawFd},
    os::unix::net::UnixDatagram,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use esxodus_runner::{
    bus::BusDevice as _,
    devices::virtio::{
        Interrupt, VirtioDevice,
        block::{Block, backend::BlockBackend},
        net::{Net, NetBackend},
        rng::Rng,
        transport::{
            mmio::MmioTransport,
            pci::{self as virtio_pci, Doorbells, PciTransport},
        },
    },
    pci::{
        self,
        msix::{Msix, Router, Vector},
    },
};
use proptest::prelude::*;
use vm_memory::{Bytes as _, GuestAddress, GuestMemoryMmap};
use vmm_sys_util::eventfd::EventFd;

const MEMORY: usize = 1 << 20;
const DESC: u64 = 0x1000;
const AVAIL: u64 = 0x2000;
const USED: u64 = 0x3000;
const QUEUE_SIZE: u16 = 16;
const NEXT: u16 = 1;
const WRITE: u16 = 2;

#[derive(Debug)]
struct MemoryDisk(Mutex<Vec<u8>>);

impl BlockBackend for MemoryDisk {
    fn size(&self) -> u64 {
        u64::try_from(self.0.lock().expect("alive").len()).expect("small")
    }
    fn read(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        let start = usize::try_from(offset).expect("inside");
        buffer.copy_from_slice(&self.0.lock().expect("alive")[start..start + buffer.len()]);
        Ok(())
    }
    fn write(&self, offset: u64, buffer: &[u8]) -> io::Result<()> {
        let start = usize::try_from(offset).expect("inside");
        self.0.lock().expect("alive")[start..start + buffer.len()].copy_from_slice(buffer);
        Ok(())
    }
    fn flush(&self) -> io::Result<()> {
        Ok(())
    }
    fn discard(&self, offset: u64, length: u64) -> io::Result<()> {
        self.write_zeroes(offset, length, true)
    }
    fn write_zeroes(&self, offset: u64, length: u64, _unmap: bool) -> io::Result<()> {
        let start = usize::try_from(offset).expect("inside");
        let end = start + usize::try_from(length).expect("inside");
        self.0.lock().expect("alive")[start..end].fill(0);
        Ok(())
    }
}

#[derive(Debug)]
struct Wire(UnixDatagram);

impl NetBackend for Wire {
    fn receive(&self, frame: &mut [u8]) -> io::Result<usize> {
        self.0.recv(frame)
    }
    fn send(&self, frame: &[u8]) -> io::Result<()> {
        self.0.send(frame).map(|_| ())
    }
    fn descriptor(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

/// The registers by which a driver starts a device, under the numbers that virtio-mmio gives them.
trait Registers {
    fn get(&mut self, register: u64) -> u32;
    fn set(&mut self, register: u64, value: u32);
    /// An access that no driver would make; to the device's own window.
    fn poke(&mut self, offset: u64, data: &mut [u8], write: bool);
    /// An access to configuration space, where there is one.
    fn poke_config(&mut self, _register: u8, _within: u64, _data: &mut [u8], _write: bool) {}
    /// Puts the device back to where firmware left it.
    fn restore(&mut self) {}
}

impl Registers for MmioTransport {
    fn get(&mut self, register: u64) -> u32 {
        let mut data = [0; 4];
        self.read(register, &mut data);
        u32::from_le_bytes(data)
    }
    fn set(&mut self, register: u64, value: u32) {
        self.write(register, &value.to_le_bytes());
    }
    fn poke(&mut self, offset: u64, data: &mut [u8], write: bool) {
        if write {
            self.write(offset, data);
        } else {
            self.read(offset, data);
        }
    }
}

/// A function on a PCI bus, reached as a kernel reaches it: through configuration ports and the memory window.
struct OnPci {
    ports: pci::ConfigPorts,
    window: pci::Window,
}

const BAR: u32 = 0xd000_0000;
/// Where the notification registers start in the BAR.
const NOTIFY: u64 = 0x3000;
/// Device 1 at the configuration address port.
const DEVICE_1: u32 = 1 << 31 | 1 << 11;

/// KVM refuses some routes; every other one here.
#[derive(Debug)]
struct FickleRouter;
impl Router for FickleRouter {
    fn route(&self, _gsi: u32, _address: u64, data: u32) -> io::Result<()> {
        if data & 1 == 0 {
            Ok(())
        } else {
            Err(io::Error::other("refused"))
        }
    }
}

/// As where KVM refuses all ioeventfds: notifications come through the register.
#[derive(Debug)]
struct NoDoorbells;
impl Doorbells for NoDoorbells {
    fn place(&mut self, _kicks: &[Arc<EventFd>], _addresses: &[u64]) {}
}

impl OnPci {
    fn new(device: Box<dyn VirtioDevice>, memory: GuestMemoryMmap) -> Self {
        let vectors = (0_u32..).take(virtio_pci::vectors_of(&*device)).map(|index| Vector {
            fd: EventFd::new(libc::EFD_NONBLOCK).expect("eventfd"),
            gsi: 24 + index,
        });
        let msix = Arc::new(Msix::new(vectors.collect(), Arc::new(FickleRouter)));
        let function = PciTransport::new(device, memory, BAR, msix, Box::new(NoDoorbells)).expect("function");
        let functions = pci::Functions::new(vec![Arc::new(Mutex::new(function))]);
        Self {
            ports: pci::ConfigPorts::new(functions.clone()),
            window: pci::Window::new(functions, BAR.into()),
        }
    }

    /// Offset and width in the common configuration structure.
    fn place(register: u64) -> (u64, usize) {
        match register {
            0x14 => (0x00, 4),
            0x10 => (0x04, 4),
            0x24 => (0x08, 4),
            0x20 => (0x0c, 4),
            0x70 => (0x14, 1),
            0x30 => (0x16, 2),
            0x38 => (0x18, 2),
            0x44 => (0x1c, 2),
            0x80 => (0x20, 4),
            0x90 => (0x28, 4),
            0xa0 => (0x30, 4),
            other => panic!("register {other:#x} has no counterpart"),
        }
    }
}

impl Registers for OnPci {
    fn get(&mut self, register: u64) -> u32 {
        let (offset, width) = Self::place(register);
        let mut data = [0; 4];
        self.window.read(offset, &mut data[..width]);
        u32::from_le_bytes(data)
    }
    fn set(&mut self, register: u64, value: u32) {
        if register == 0x50 {
            let number = u16::try_from(value).expect("a queue");
            self.window.write(NOTIFY + u64::from(value) * 4, &number.to_le_bytes());
            return;
        }
        let (offset, width) = Self::place(register);
        self.window.write(offset, &value.to_le_bytes()[..width]);
    }
    fn poke(&mut self, offset: u64, data: &mut [u8], write: bool) {
        if write {
            self.window.write(offset, data);
        } else {
            self.window.read(offset, data);
        }
    }
    fn poke_config(&mut self, register: u8, within: u64, data: &mut [u8], write: bool) {
        let address = DEVICE_1 | u32::from(register & 0xfc);
        self.ports.write(0, &address.to_le_bytes());
        if write {
            self.ports.write(4 + within, data);
        } else {
            self.ports.read(4 + within, data);
        }
    }
    fn restore(&mut self) {
        self.poke_config(0x10, 0, &mut BAR.to_le_bytes(), true);
        self.poke_config(0x04, 0, &mut [6, 0], true);
    }
}

/// A device as a driver sees it.
struct Driver {
    memory: GuestMemoryMmap,
    transport: Box<dyn Registers>,
    next: u16,
}

#[derive(Debug, Clone, Copy)]
struct Desc {
    address: u64,
    length: u32,
    flags: u16,
    next: u16,
}

impl Driver {
    fn new(device: Box<dyn VirtioDevice>) -> Self {
        Self::on(false, device)
    }

    fn on(pci: bool, device: Box<dyn VirtioDevice>) -> Self {
        let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), MEMORY)]).expect("mmap");
        let transport: Box<dyn Registers> = if pci {
            Box::new(OnPci::new(device, memory.clone()))
        } else {
            let line = EventFd::new(libc::EFD_NONBLOCK).expect("eventfd");
            let interrupt = Arc::new(Interrupt::new(line));
            Box::new(MmioTransport::new(device, memory.clone(), interrupt).expect("transport"))
        };
        Self {
            memory,
            transport,
            next: 0,
        }
    }

    fn read(&mut self, offset: u64) -> u32 {
        self.transport.get(offset)
    }

    fn write(&mut self, offset: u64, value: u32) {
        self.transport.set(offset, value);
    }

    /// Negotiates VERSION_1 and everything else but EVENT_IDX and starts queue `queue`.
    fn start(&mut self, queues: u32) {
        self.write(0x70, 0);
        assert_eq!(self.read(0x70), 0);
        self.memory.write_slice(&[0; 0x4000], GuestAddress(0)).expect("inside");
        self.next = 0;
        self.write(0x70, 3);
        self.write(0x14, 0);
        let low = self.read(0x10) & !(1 << 29);
        self.write(0x24, 0);
        self.write(0x20, low);
        self.write(0x24, 1);
        self.write(0x20, 1);
        self.write(0x70, 11);
        assert_eq!(self.read(0x70), 11);
        for queue in 0..queues {
            // Only the last one gets work; the others have rings of their own.
            let shift = if queue + 1 == queues {
                0
            } else {
                0x4_0000 + queue * 0x1_0000
            };
            self.write(0x30, queue);
            self.write(0x38, QUEUE_SIZE.into());
            self.write(0x80, u32::try_from(DESC).expect("low") + shift);
            self.write(0x90, u32::try_from(AVAIL).expect("low") + shift);
            self.write(0xa0, u32::try_from(USED).expect("low") + shift);
            self.write(0x44, 1);
        }
        self.write(0x70, 15);
    }

    fn descriptor(&self, index: u16, desc: Desc) {
        let at = DESC + u64::from(index) * 16;
        self.memory.write_obj(desc.address, GuestAddress(at)).expect("inside");
        self.memory
            .write_obj(desc.length, GuestAddress(at + 8))
            .expect("inside");
        self.memory
            .write_obj(desc.flags, GuestAddress(at + 12))
            .expect("inside");
        self.memory.write_obj(desc.next, GuestAddress(at + 14)).expect("inside");
    }

    /// Offers `head`, notifies queue `queue`.
    fn offer(&mut self, head: u16, queue: u32) {
        let slot = u64::from(self.next % QUEUE_SIZE);
        self.memory
            .write_obj(head, GuestAddress(AVAIL + 4 + slot * 2))
            .expect("inside");
        self.next = self.next.wrapping_add(1);
        self.set_avail_index(self.next);
        self.write(0x50, queue);
    }

    fn set_avail_index(&self, index: u16) {
        self.memory.write_obj(index, GuestAddress(AVAIL + 2)).expect("inside");
    }

    fn used(&self) -> u16 {
        self.memory.read_obj(GuestAddress(USED + 2)).expect("inside")
    }

    /// Waits until `count` chains came back or the device failed; says whether it works.
    fn settle(&mut self, count: u16) -> bool {
        let end = Instant::now() + Duration::from_secs(20);
        loop {
            if self.read(0x70) & 0x40 != 0 {
                return false;
            }
            if self.used() >= count {
                return true;
            }
            assert!(Instant::now() < end, "the device neither answers nor fails");
            std::thread::yield_now();
        }
    }

    /// One block request with `data` bytes at 0x8000; gives the status byte.
    fn block(&mut self, kind: u32, sector: u64, length: u32, device_writes: bool) -> u8 {
        self.memory.write_obj(kind, GuestAddress(0x7000)).expect("inside");
        self.memory.write_obj(0_u32, GuestAddress(0x7004)).expect("inside");
        self.memory.write_obj(sector, GuestAddress(0x7008)).expect("inside");
        self.memory.write_obj(0xee_u8, GuestAddress(0x7100)).expect("inside");
        let direction = if device_writes { WRITE } else { 0 };
        self.descriptor(
            0,
            Desc {
                address: 0x7000,
                length: 16,
                flags: NEXT,
                next: 1,
            },
        );
        self.descriptor(
            1,
            Desc {
                address: 0x8000,
                length,
                flags: NEXT | direction,
                next: 2,
            },
        );
        self.descriptor(
            2,
            Desc {
                address: 0x7100,
                length: 1,
                flags: WRITE,
                next: 0,
            },
        );
        let before = self.used();
        self.offer(0, 0);
        assert!(self.settle(before + 1), "a well-formed request failed the device");
        self.memory.read_obj(GuestAddress(0x7100)).expect("inside")
    }
}

fn disk(bytes: usize, read_only: bool) -> (Arc<MemoryDisk>, Driver) {
    disk_on(false, bytes, read_only)
}

fn disk_on(pci: bool, bytes: usize, read_only: bool) -> (Arc<MemoryDisk>, Driver) {
    let backend = Arc::new(MemoryDisk(Mutex::new(vec![0x5a; bytes])));
    let device = Block::new(backend.clone(), read_only, *b"serial-of-the-disk\0\0", 1);
    let mut driver = Driver::on(pci, Box::new(device));
    driver.start(1);
    (backend, driver)
}

#[test]
fn block_requests_are_carried_out_and_survive_a_reset() {
    for pci in [false, true] {
        requests_before_and_after_resets(pci);
    }
}

fn requests_before_and_after_resets(pci: bool) {
    let (backend, mut driver) = disk_on(pci, 64 << 10, false);
    for round in 0..3_u8 {
        driver
            .memory
            .write_slice(&[round + 1; 1024], GuestAddress(0x8000))
            .expect("inside");
        assert_eq!(driver.block(1, 4, 1024, false), 0, "write");
        assert_eq!(backend.0.lock().expect("alive")[2048..3072], [round + 1; 1024]);
        driver
            .memory
            .write_slice(&[0; 1024], GuestAddress(0x8000))
            .expect("inside");
        assert_eq!(driver.block(0, 4, 1024, true), 0, "read");
        let mut back = [0; 1024];
        driver
            .memory
            .read_slice(&mut back, GuestAddress(0x8000))
            .expect("inside");
        assert_eq!(back, [round + 1; 1024]);
        assert_eq!(driver.block(8, 0, 20, true), 0, "serial number");
        driver.start(1);
    }
}

#[test]
fn requests_beyond_the_end_fail_and_the_device_goes_on() {
    let (_, mut driver) = disk(4096, false);
    assert_eq!(driver.block(0, 8, 512, true), 1);
    assert_eq!(driver.block(0, 7, 1024, true), 1);
    assert_eq!(driver.block(0, u64::MAX, 512, true), 1, "sector overflow");
    assert_eq!(driver.block(1, 0, 100, false), 1, "half a sector");
    assert_eq!(driver.block(77, 0, 512, true), 2, "unknown request");
    assert_eq!(driver.block(0, 7, 512, true), 0);
}

#[test]
fn zeroing_and_discarding_check_every_segment_first() {
    let (backend, mut driver) = disk(8192, false);
    let segment = |driver: &Driver, at: u64, sector: u64, count: u32, flags: u32| {
        driver.memory.write_obj(sector, GuestAddress(at)).expect("inside");
        driver.memory.write_obj(count, GuestAddress(at + 8)).expect("inside");
        driver.memory.write_obj(flags, GuestAddress(at + 12)).expect("inside");
    };
    segment(&driver, 0x8000, 0, 2, 1);
    segment(&driver, 0x8010, 15, 2, 1);
    assert_eq!(driver.block(13, 0, 32, false), 1, "the second one is out of range");
    assert_eq!(backend.0.lock().expect("alive")[..1024], [0x5a; 1024]);
    assert_eq!(driver.block(13, 0, 16, false), 0);
    assert_eq!(backend.0.lock().expect("alive")[..1024], [0; 1024]);
    assert_eq!(driver.block(11, 0, 16, false), 2, "discard knows no flags");
}

#[test]
fn read_only_disks_refuse_writes() {
    let (backend, mut driver) = disk(4096, true);
    assert_eq!(driver.block(1, 0, 512, false), 1);
    assert_eq!(backend.0.lock().expect("alive")[..512], [0x5a; 512]);
}

#[test]
fn an_avail_index_out_of_bounds_fails_the_device_until_reset() {
    let (_, mut driver) = disk(4096, false);
    driver.set_avail_index(QUEUE_SIZE * 4);
    driver.write(0x50, 0);
    assert!(!driver.settle(1));
    driver.start(1);
    assert_eq!(driver.block(0, 0, 512, true), 0, "works again");
}

#[test]
fn features_that_were_not_offered_are_refused() {
    let (_, mut driver) = disk(4096, false);
    driver.write(0x70, 0);
    driver.write(0x70, 3);
    driver.write(0x24, 1);
    driver.write(0x20, u32::MAX);
    driver.write(0x70, 11);
    assert_eq!(driver.read(0x70), 3, "FEATURES_OK does not stick");
}

#[test]
fn frames_travel_both_ways_with_a_header_of_twelve_bytes() {
    let (ours, theirs) = UnixDatagram::pair().expect("socketpair");
    theirs.set_nonblocking(true).expect("nonblocking");
    ours.set_read_timeout(Some(Duration::from_secs(20))).expect("timeout");
    let mut driver = Driver::new(Box::new(Net::new(Arc::new(Wire(theirs)), [2; 6])));
    driver.start(2);
    driver
        .memory
        .write_slice(&[7; 100], GuestAddress(0x8000))
        .expect("inside");
    driver.descriptor(
        0,
        Desc {
            address: 0x8000,
            length: 72,
            flags: 0,
            next: 0,
        },
    );
    driver.offer(0, 1);
    assert!(driver.settle(1));
    let mut frame = [0; 100];
    assert_eq!(ours.recv(&mut frame).expect("frame"), 60);
}

fn descriptors() -> impl Strategy<Value = Vec<Desc>> {
    let address = prop_oneof![0_u64..0x1_0000, Just(0xf_fff0), Just(u64::MAX - 3), any::<u64>()];
    let length = prop_oneof![0_u32..2048, Just(0x1_0000), any::<u32>()];
    let one = (address, length, 0_u16..8, 0_u16..QUEUE_SIZE + 2).prop_map(|(address, length, flags, next)| Desc {
        address,
        length,
        flags,
        next,
    });
    prop::collection::vec(one, usize::from(QUEUE_SIZE))
}

/// Offers random chains; the device has to answer or fail, then work after a reset.
fn throw(driver: &mut Driver, queues: u32, table: &[Desc], heads: &[u16], header: u32) {
    driver.start(queues);
    driver.memory.write_obj(header, GuestAddress(0x7000)).expect("inside");
    for (index, desc) in (0..).zip(table) {
        driver.descriptor(index, *desc);
    }
    for &head in heads {
        driver.offer(head, queues - 1);
    }
    // A device may also have written over the rings, which the table allows; so only "does not hang or die" counts.
    let end = Instant::now() + Duration::from_millis(30);
    while Instant::now() < end && driver.read(0x70) & 0x40 == 0 {
        std::thread::yield_now();
    }
    driver.start(queues);
    assert_eq!(driver.read(0x70) & 0x40, 0);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn random_chains_never_take_the_block_device_down(
        table in descriptors(),
        heads in prop::collection::vec(0_u16..QUEUE_SIZE + 4, 1..8),
        kind in 0_u32..15,
        pci in any::<bool>(),
    ) {
        let (_, mut driver) = disk_on(pci, 16 << 10, false);
        throw(&mut driver, 1, &table, &heads, kind);
        prop_assert_eq!(driver.block(0, 0, 512, true), 0);
    }

    #[test]
    fn random_chains_never_take_the_entropy_device_down(
        table in descriptors(),
        heads in prop::collection::vec(0_u16..QUEUE_SIZE + 4, 1..8),
        pci in any::<bool>(),
    ) {
        let mut driver = Driver::on(pci, Box::new(Rng::open().expect("urandom")));
        throw(&mut driver, 1, &table, &heads, 0);
        driver.descriptor(0, Desc { address: 0x8000, length: 32, flags: WRITE, next: 0 });
        driver.offer(0, 0);
        prop_assert!(driver.settle(1));
    }

    #[test]
    fn random_chains_never_take_the_network_card_down(
        table in descriptors(),
        heads in prop::collection::vec(0_u16..QUEUE_SIZE + 4, 1..8),
        queues in 1_u32..3,
        pci in any::<bool>(),
    ) {
        let (ours, theirs) = UnixDatagram::pair().expect("socketpair");
        theirs.set_nonblocking(true).expect("nonblocking");
        ours.set_nonblocking(true).expect("nonblocking");
        let mut driver = Driver::on(pci, Box::new(Net::new(Arc::new(Wire(theirs)), [2; 6])));
        let _ = ours.send(&[1; 60]);
        if queues == 2 {
            throw(&mut driver, 2, &table, &heads, 0);
            driver.descriptor(0, Desc { address: 0x8000, length: 72, flags: 0, next: 0 });
            driver.offer(0, 1);
            prop_assert!(driver.settle(1));
        } else {
            // A card with one queue only cannot be activated: it fails, and nothing else.
            driver.start(1);
            prop_assert!(driver.read(0x70) & 0x40 != 0);
        }
    }

    #[test]
    fn random_register_accesses_never_panic(
        accesses in prop::collection::vec((0_u64..0x200, any::<u32>(), any::<bool>(), 1_usize..9), 1..200),
    ) {
        let (_, mut driver) = disk(4096, false);
        for (offset, value, write, width) in accesses {
            let mut data = [0; 8];
            data[..4].copy_from_slice(&value.to_le_bytes());
            driver.transport.poke(offset, &mut data[..width], write);
        }
        driver.start(1);
        prop_assert_eq!(driver.block(0, 0, 512, true), 0);
    }

    // Configuration space (the BAR and the window into it included), the BAR's registers and the MSI-X table.
    #[test]
    fn random_accesses_to_a_pci_function_never_panic(
        accesses in prop::collection::vec(
            (any::<bool>(), 0_u64..0x8010, any::<u8>(), 0_u64..5, any::<u64>(), any::<bool>(), 0_usize..4),
            1..200,
        ),
    ) {
        let (_, mut driver) = disk_on(true, 4096, false);
        for (config, offset, register, within, value, write, width) in accesses {
            let mut data = value.to_le_bytes();
            let data = &mut data[..1 << width];
            if config {
                driver.transport.poke_config(register, within, data, write);
            } else {
                driver.transport.poke(offset, data, write);
            }
        }
        driver.transport.restore();
        driver.start(1);
        prop_assert_eq!(driver.block(0, 0, 512, true), 0);
    }
}
