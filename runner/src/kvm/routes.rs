//! What KVM has to know about interrupts and notifications of PCI functions: message routes and ioeventfds.

use std::{
    collections::BTreeMap,
    io,
    sync::{Arc, Mutex, PoisonError},
};

use kvm_bindings::{
    KVM_IRQ_ROUTING_IRQCHIP, KVM_IRQ_ROUTING_MSI, KVM_IRQCHIP_IOAPIC, KVM_IRQCHIP_PIC_MASTER, KVM_IRQCHIP_PIC_SLAVE,
    KvmIrqRouting, kvm_irq_routing_entry,
};
use kvm_ioctls::{IoEventAddress, VmFd};
use vmm_sys_util::eventfd::EventFd;

use crate::{devices::virtio::transport::pci::Doorbells, pci::msix::Router};

/// All routes of a machine: KVM takes them only as a whole.
#[derive(Debug)]
pub(super) struct Routes {
    vm: Arc<VmFd>,
    messages: Mutex<BTreeMap<u32, (u64, u32)>>,
}

impl Routes {
    pub(super) fn new(vm: Arc<VmFd>) -> Self {
        Self {
            vm,
            messages: Mutex::default(),
        }
    }
}

/// The routes that `KVM_CREATE_IRQCHIP` makes (Linux `arch/x86/kvm/irq_comm.c`): they are lost when others are set.
fn default_routes() -> Vec<kvm_irq_routing_entry> {
    let entry = |gsi: u32, irqchip: u32, pin: u32| {
        let mut entry = kvm_irq_routing_entry {
            gsi,
            type_: KVM_IRQ_ROUTING_IRQCHIP,
            ..kvm_irq_routing_entry::default()
        };
        entry.u.irqchip.irqchip = irqchip;
        entry.u.irqchip.pin = pin;
        entry
    };
    let mut routes = Vec::new();
    for gsi in 0..24 {
        match gsi {
            0..=7 => routes.push(entry(gsi, KVM_IRQCHIP_PIC_MASTER, gsi)),
            8..=15 => routes.push(entry(gsi, KVM_IRQCHIP_PIC_SLAVE, gsi - 8)),
            _ => {}
        }
        routes.push(entry(gsi, KVM_IRQCHIP_IOAPIC, gsi));
    }
    routes
}

impl Router for Routes {
    fn route(&self, gsi: u32, address: u64, data: u32) -> io::Result<()> {
        let mut messages = self.messages.lock().unwrap_or_else(PoisonError::into_inner);
        let mut wanted = messages.clone();
        wanted.insert(gsi, (address, data));
        let mut routes = default_routes();
        for (&gsi, &(address, data)) in &wanted {
            let mut entry = kvm_irq_routing_entry {
                gsi,
                type_: KVM_IRQ_ROUTING_MSI,
                ..kvm_irq_routing_entry::default()
            };
            let [low, high] = [address & 0xffff_ffff, address >> 32].map(|half| u32::try_from(half).expect("32 bits"));
            entry.u.msi.address_lo = low;
            entry.u.msi.address_hi = high;
            entry.u.msi.data = data;
            routes.push(entry);
        }
        let table = KvmIrqRouting::from_entries(&routes).map_err(|error| io::Error::other(format!("{error:?}")))?;
        self.vm
            .set_gsi_routing(&table)
            .map_err(|error| io::Error::from_raw_os_error(error.errno()))?;
        // Only what KVM took: a route that it refuses would make every later one fail with it.
        *messages = wanted;
        Ok(())
    }
}

/// The ioeventfds of one function.
#[derive(Debug)]
pub(super) struct IoEvents {
    vm: Arc<VmFd>,
    placed: Vec<(Arc<EventFd>, u64, u16)>,
}

impl IoEvents {
    pub(super) fn new(vm: Arc<VmFd>) -> Self {
        Self { vm, placed: Vec::new() }
    }
}

impl Doorbells for IoEvents {
    fn place(&mut self, kicks: &[Arc<EventFd>], addresses: &[u64]) {
        for (kick, address, queue) in self.placed.drain(..) {
            let _ = self.vm.unregister_ioevent(&kick, &IoEventAddress::Mmio(address), queue);
        }
        for ((queue, kick), &address) in (0_u16..).zip(kicks).zip(addresses) {
            // Where KVM refuses (two functions at one address), notifications take the way through the register.
            if self
                .vm
                .register_ioevent(kick, &IoEventAddress::Mmio(address), queue)
                .is_ok()
            {
                self.placed.push((Arc::clone(kick), address, queue));
            }
        }
    }
}
