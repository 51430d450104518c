//! What a target can't take.

use super::super::evidence::when;
use super::super::{Check, check};
use reports::schema::Severity::{Block, Info, Warn};

/// KVM_CAP_MAX_VCPUS of a kernel built by default, measured; the row `vcpus` of KVM in `reports/limits/qemu-kvm.toml`, which
/// a test compares.
const KVM_VCPUS: u32 = 1024;

/// The checks, in the order of the documentation.
pub(super) const CHECKS: &[Check] = &[
    check(
        "target.limit-vcpu",
        Block,
        "more than 1024 vCPUs, what KVM takes as kernels are built by default (`esxodus limits --product KVM` names the source)",
        "QEMU refuses to start the guest.",
        "Lower the number of vCPUs, or use a kernel with a higher CONFIG_KVM_MAX_NR_VCPUS.",
        |s| {
            when(s.machine.cpu.vcpus > KVM_VCPUS, || {
                format!("{} vCPUs, KVM takes {KVM_VCPUS}", s.machine.cpu.vcpus)
            })
        },
    ),
    check(
        "target.limit-nic",
        Block,
        "more than 32 NICs",
        "Proxmox VE has 32.",
        "Remove NICs.",
        |s| when(s.machine.nics.len() > 32, || format!("{} NICs", s.machine.nics.len())),
    ),
    check(
        "target.limit-serial",
        Warn,
        "more than 4 serial ports",
        "Further ports are dropped.",
        "Use fewer ports.",
        |s| {
            when(s.machine.serial.len() > 4, || {
                format!("{} ports", s.machine.serial.len())
            })
        },
    ),
    check(
        "target.phys-bits",
        Info,
        "more than about 1 TiB of memory",
        "The default CPU model of Proxmox VE has 40 address bits; the host's model is used.",
        "All nodes need the same CPUs for live migration.",
        |s| {
            when(s.machine.memory.mib > 1_000 * 1024, || {
                format!("{} MiB", s.machine.memory.mib)
            })
        },
    ),
    check(
        "target.limit-pci-slots",
        Block,
        "more than 24 NICs",
        "QEMU and libvirt give each NIC a port on bus 0, which has 32 slots.",
        "Remove NICs, or move the guest to Proxmox VE.",
        |s| when(s.machine.nics.len() > 24, || format!("{} NICs", s.machine.nics.len())),
    ),
    check(
        "target.limit-numa",
        Warn,
        "more than 8 virtual NUMA nodes",
        "Proxmox VE has 8; the guest gets one node there.",
        "Raise numa.vcpu.maxPerVirtualNode.",
        |s| {
            let nodes = s
                .machine
                .cpu
                .numa_vcpus_per_node
                .filter(|per_node| *per_node > 0)
                .map_or(1, |per_node| s.machine.cpu.vcpus.div_ceil(per_node));
            when(nodes > 8, || format!("{nodes} nodes"))
        },
    ),
];
