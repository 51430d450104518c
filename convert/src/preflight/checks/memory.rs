//! Memory.

use super::super::evidence::{noticed, when};
use super::super::{Check, check};
use reports::schema::Severity::{Info, Warn};

/// The checks, in the order of the documentation.
pub(super) const CHECKS: &[Check] = &[
    check(
        "mem.hot-add",
        Warn,
        "memory hot-add",
        "The source doesn't say up to how much; without a word in the map the target gets no room to grow.",
        "Set `max_memory_mib` for the guest in the map.",
        |s| when(s.machine.memory.hot_add, || "mem.hotadd".to_owned()),
    ),
    check(
        "mem.reserved-or-limited",
        Warn,
        "memory reserved, locked or limited",
        "No target takes memory away by ballooning, and KubeVirt is asked for the reserved amount; a limit below the size is not carried over, since it would swap the guest.",
        "Reserve huge pages on the target where latency matters.",
        |s| {
            let memory = &s.machine.memory;
            when(
                memory.reservation_mib.is_some() || memory.limit_mib.is_some_and(|limit| limit < memory.mib),
                || {
                    format!(
                        "reservation {:?} MiB, limit {:?} MiB, size {} MiB",
                        memory.reservation_mib, memory.limit_mib, memory.mib
                    )
                },
            )
        },
    ),
    check(
        "mem.size-missing",
        Warn,
        "no memory size",
        "32 MiB is VMware's default; hardly any guest starts with it.",
        "Set the memory on the target.",
        noticed,
    ),
    check(
        "mem.size-odd",
        Warn,
        "memory not a multiple of 4 MiB",
        "VMware would have refused it.",
        "Check the memory size.",
        noticed,
    ),
    check(
        "mem.hotplug-cap",
        Info,
        "memory hot-add and more than 512 GiB",
        "Memory hot-plug of Proxmox VE ends at 512 GiB with 40 address bits.",
        "Set `cpu: host`, or leave hot-plug off.",
        |s| {
            when(s.machine.memory.hot_add && s.machine.memory.mib > 512 * 1024, || {
                format!("{} MiB", s.machine.memory.mib)
            })
        },
    ),
];
