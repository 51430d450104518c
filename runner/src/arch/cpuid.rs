//! CPUID as the guest shall see it: KVM's supported leaves, normalised for one vCPU of a [`Topology`].
//!
//! The list of changes follows Firecracker's `docs/cpu_templates/cpuid-normalization.md`.

use kvm_bindings::{CpuId, KVM_CPUID_FLAG_SIGNIFCANT_INDEX, kvm_cpuid_entry2};

use super::Topology;

/// Sets bits `low..=high` of a register.
fn set_bits(register: &mut u32, high: u32, low: u32, value: u32) {
    let width = high - low + 1;
    let mask = if width == 32 {
        u32::MAX
    } else {
        ((1 << width) - 1) << low
    };
    *register = *register & !mask | value << low & mask;
}

fn set_bit(register: &mut u32, bit: u32, value: bool) {
    set_bits(register, bit, bit, u32::from(value));
}

/// The leaves for vCPU `index`.
///
/// # Errors
/// `None` where the result has more entries than KVM takes.
pub fn normalise(supported: &CpuId, topology: Topology, index: u32) -> Option<CpuId> {
    let apic_id = topology.apic_id(index);
    let per_socket = topology.threads_per_socket();
    let mut entries = supported.as_slice().to_vec();
    let has_tsc_deadline = true;
    for entry in &mut entries {
        match entry.function {
            0x1 => leaf_1(entry, apic_id, per_socket, has_tsc_deadline),
            0x4 => leaf_4(entry, topology),
            // No turbo, no hardware frequency feedback: nothing that a guest could act upon.
            0x6 => {
                set_bit(&mut entry.eax, 1, false);
                set_bit(&mut entry.ecx, 3, false);
            }
            // No PMU.
            0xa => (entry.eax, entry.ebx, entry.ecx, entry.edx) = (0, 0, 0, 0),
            0x8000_0008 => {
                // Threads in the package minus one, and the width of the thread part of the APIC id.
                set_bits(&mut entry.ecx, 7, 0, per_socket - 1);
                set_bits(&mut entry.ecx, 15, 12, topology.socket_shift());
            }
            0x8000_001d => leaf_8000_001d(entry, topology),
            0x8000_001e => {
                entry.eax = apic_id;
                set_bits(&mut entry.ebx, 7, 0, apic_id >> topology.core_shift());
                set_bits(&mut entry.ebx, 15, 8, topology.threads - 1);
                set_bits(&mut entry.ecx, 7, 0, apic_id >> topology.socket_shift());
                set_bits(&mut entry.ecx, 10, 8, 0);
            }
            _ => {}
        }
    }
    let is_amd = entries
        .iter()
        .any(|entry| entry.function == 0 && matches!(entry.ebx, 0x6874_7541 | 0x6f67_7948));
    if is_amd {
        for entry in entries.iter_mut().filter(|entry| entry.function == 7) {
            // ARCH_CAPABILITIES is an Intel MSR; KVM emulates it everywhere and its value misleads AMD guests.
            if entry.index == 0 {
                set_bit(&mut entry.edx, 29, false);
            }
        }
        let extended = entries.iter().any(|entry| entry.function == 0x8000_001e);
        // CmpLegacy says that the HTT count means cores; right only without threads.
        for entry in entries.iter_mut().filter(|entry| entry.function == 0x8000_0001) {
            set_bit(&mut entry.ecx, 1, per_socket > 1 && topology.threads == 1);
            // TopologyExtensions: leaf 0x8000_001e is ours and valid, where this KVM has it.
            set_bit(&mut entry.ecx, 22, extended);
        }
    }
    for entry in entries.iter_mut().filter(|entry| entry.function == 7) {
        // WAITPKG: its instructions would need MSR support that a VM without it lacks.
        if entry.index == 0 {
            set_bit(&mut entry.ecx, 5, false);
        }
    }
    extended_topology(&mut entries, topology, apic_id);
    CpuId::from_entries(&entries).ok()
}

/// Feature bits, APIC id and logical CPU count.
fn leaf_1(entry: &mut kvm_cpuid_entry2, apic_id: u32, per_socket: u32, tsc_deadline: bool) {
    // CLFLUSH line in units of 8 bytes.
    set_bits(&mut entry.ebx, 15, 8, 8);
    set_bits(&mut entry.ebx, 23, 16, per_socket.next_power_of_two().min(255));
    set_bits(&mut entry.ebx, 31, 24, apic_id);
    set_bit(&mut entry.ecx, 15, false);
    set_bit(&mut entry.ecx, 24, tsc_deadline);
    set_bit(&mut entry.ecx, 31, true);
    set_bit(&mut entry.edx, 28, per_socket > 1);
}

/// Intel cache leaves: who shares them.
fn leaf_4(entry: &mut kvm_cpuid_entry2, topology: Topology) {
    let level = entry.eax >> 5 & 7;
    if entry.eax & 0x1f == 0 {
        return;
    }
    let sharing = if level >= 3 {
        topology.threads_per_socket()
    } else {
        topology.threads
    };
    set_bits(&mut entry.eax, 25, 14, sharing.next_power_of_two() - 1);
    set_bits(&mut entry.eax, 31, 26, (topology.cores.next_power_of_two() - 1).min(63));
}

/// AMD cache leaves: who shares them.
fn leaf_8000_001d(entry: &mut kvm_cpuid_entry2, topology: Topology) {
    let level = entry.eax >> 5 & 7;
    if entry.eax & 0x1f == 0 {
        return;
    }
    let sharing = if level >= 3 {
        topology.threads_per_socket()
    } else {
        topology.threads
    };
    set_bits(&mut entry.eax, 25, 14, sharing - 1);
}

/// Leaves 0xb and 0x1f, rebuilt from nothing: KVM passes host values or none.
fn extended_topology(entries: &mut Vec<kvm_cpuid_entry2>, topology: Topology, apic_id: u32) {
    let had_1f = entries.iter().any(|entry| entry.function == 0x1f);
    entries.retain(|entry| entry.function != 0xb && entry.function != 0x1f);
    let leaves: &[u32] = if had_1f { &[0xb, 0x1f] } else { &[0xb] };
    for &function in leaves {
        let levels = [
            // Level type 1 = SMT, 2 = core, 0 = end of the list.
            (topology.core_shift(), topology.threads, 1),
            (topology.socket_shift(), topology.threads_per_socket(), 2),
            (0, 0, 0),
        ];
        for (index, (shift, count, kind)) in (0_u32..).zip(levels) {
            entries.push(kvm_cpuid_entry2 {
                function,
                index,
                flags: KVM_CPUID_FLAG_SIGNIFCANT_INDEX,
                eax: shift,
                ebx: count,
                ecx: kind << 8 | index,
                edx: apic_id,
                ..kvm_cpuid_entry2::default()
            });
        }
    }
    for entry in entries.iter_mut().filter(|entry| entry.function == 0) {
        entry.eax = entry.eax.max(0xb);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(function: u32, index: u32) -> kvm_cpuid_entry2 {
        kvm_cpuid_entry2 {
            function,
            index,
            ..kvm_cpuid_entry2::default()
        }
    }

    fn find(cpuid: &CpuId, function: u32, index: u32) -> kvm_cpuid_entry2 {
        *cpuid
            .as_slice()
            .iter()
            .find(|e| e.function == function && e.index == index)
            .expect("leaf present")
    }

    #[test]
    fn topology_reaches_every_leaf_that_names_it() {
        let mut vendor = entry(0, 0);
        (vendor.eax, vendor.ebx) = (7, 0x6874_7541);
        let mut seven = entry(7, 0);
        seven.edx = 1 << 29;
        let supported = CpuId::from_entries(&[
            vendor,
            entry(1, 0),
            seven,
            entry(0x8000_0001, 0),
            entry(0x8000_0008, 0),
            entry(0x8000_001e, 0),
        ])
        .expect("few entries");
        let topology = Topology {
            sockets: 2,
            cores: 2,
            threads: 2,
        };
        let cpuid = normalise(&supported, topology, 5).expect("fits");
        let one = find(&cpuid, 1, 0);
        assert_eq!(one.ebx >> 24, 5, "initial APIC id");
        assert_eq!(one.ebx >> 16 & 0xff, 4, "logical CPUs in the package");
        assert_eq!(one.edx >> 28 & 1, 1, "HTT");
        assert_eq!(one.ecx >> 31, 1, "hypervisor present");
        let smt = find(&cpuid, 0xb, 0);
        assert_eq!((smt.eax, smt.ebx, smt.ecx, smt.edx), (1, 2, 0x100, 5));
        let core = find(&cpuid, 0xb, 1);
        assert_eq!((core.eax, core.ebx, core.ecx), (2, 4, 0x201));
        assert_eq!(find(&cpuid, 0xb, 2).ecx, 2);
        assert_eq!(find(&cpuid, 0, 0).eax, 0xb, "highest leaf covers 0xb");
        assert_eq!(find(&cpuid, 7, 0).edx, 0, "no ARCH_CAPABILITIES on AMD");
        assert_eq!(find(&cpuid, 0x8000_0008, 0).ecx, 0x2003);
        let extended = find(&cpuid, 0x8000_001e, 0);
        assert_eq!((extended.eax, extended.ebx & 0xffff), (5, 0x102));
        assert_eq!(extended.ecx & 0xff, 1, "node = socket");
        assert_eq!(find(&cpuid, 0x8000_0001, 0).ecx >> 22 & 1, 1, "topology extensions");
    }

    #[test]
    fn no_topology_extensions_are_announced_where_their_leaf_is_missing() {
        let mut vendor = entry(0, 0);
        (vendor.eax, vendor.ebx) = (7, 0x6874_7541);
        let mut features = entry(0x8000_0001, 0);
        features.ecx = 1 << 22;
        let supported = CpuId::from_entries(&[vendor, features]).expect("few entries");
        let cpuid = normalise(&supported, Topology::flat(2), 0).expect("fits");
        assert_eq!(find(&cpuid, 0x8000_0001, 0).ecx >> 22 & 1, 0);
    }
}
