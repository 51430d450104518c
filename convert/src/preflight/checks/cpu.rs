//! CPUs.

use super::super::evidence::{noticed, when};
use super::super::{Check, check};
use reports::schema::KeyClass;
use reports::schema::Severity::Warn;

/// The checks, in the order of the documentation.
pub(super) const CHECKS: &[Check] = &[
    check(
        "cpu.topology-not-divisible",
        Warn,
        "vCPUs not divisible by cores per socket",
        "QEMU takes whole sockets only; every vCPU becomes a socket.",
        "Check licences that count sockets.",
        noticed,
    ),
    check(
        "cpu.cores-per-socket-gt-vcpus",
        Warn,
        "more cores per socket than vCPUs",
        "One socket is used.",
        "Check licences that count sockets.",
        noticed,
    ),
    check(
        "cpu.count-missing",
        Warn,
        "no number of vCPUs",
        "One vCPU is assumed.",
        "Check the number of vCPUs.",
        noticed,
    ),
    check(
        "cpu.hot-add",
        Warn,
        "CPU hot-add",
        "The source doesn't say up to how many; without a word in the map the target gets no room to grow.",
        "Set `max_vcpus` for the guest in the map.",
        |s| when(s.machine.cpu.hot_add, || "vcpu.hotadd".to_owned()),
    ),
    check(
        "cpu.affinity",
        Warn,
        "CPU affinity",
        "The numbers are the old host's; pinning is not carried over.",
        "Set `cpu_affinity` for the guest in the map, with the new host's CPUs.",
        |s| s.machine.cpu.affinity.clone().into_iter().collect(),
    ),
    check(
        "numa.affinity",
        Warn,
        "NUMA node affinity",
        "The numbers are the old host's; it is not carried over.",
        "Set `numa_nodes` for the guest in the map, with the new host's nodes.",
        |s| s.machine.cpu.numa_affinity.clone().into_iter().collect(),
    ),
    check(
        "cpu.shares-or-limits",
        Warn,
        "CPU shares, limit or reservation",
        "Shares become cpuunits (Proxmox VE) and shares (libvirt); a limit in MHz and a reservation have no equivalent.",
        "Set `cpu_limit` (in CPUs) for the guest in the map where a limit is still wanted.",
        |s| {
            let cpu = &s.machine.cpu;
            let shares = cpu
                .shares
                .as_ref()
                .filter(|shares| !shares.eq_ignore_ascii_case("normal"));
            when(
                shares.is_some() || cpu.limit_mhz.is_some() || cpu.reservation_mhz.is_some(),
                || {
                    format!(
                        "shares {}, limit {:?} MHz, reservation {:?} MHz",
                        cpu.shares.as_deref().unwrap_or("normal"),
                        cpu.limit_mhz,
                        cpu.reservation_mhz
                    )
                },
            )
        },
    ),
    check(
        "cpu.latency-sensitivity",
        Warn,
        "latency sensitivity is not normal",
        "It needs pinning and isolation on the target.",
        "Pin and isolate CPUs on the target.",
        |s| {
            s.machine
                .cpu
                .latency_sensitivity
                .clone()
                .filter(|value| !value.eq_ignore_ascii_case("normal"))
                .into_iter()
                .collect()
        },
    ),
    check(
        "cpu.masks-evc",
        Warn,
        "CPU masks or an EVC baseline",
        "Masks are not carried over.",
        "Choose a CPU model that is not newer than the baseline.",
        |s| {
            s.accounting
                .keys
                .iter()
                .filter(|key| key.class == KeyClass::DroppedWarning && key.why.contains("CPU model"))
                .map(|key| key.key.clone())
                .take(8)
                .collect()
        },
    ),
];
