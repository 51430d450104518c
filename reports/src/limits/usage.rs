//! Sets machines and hosts beside the limits.

use super::load::{all, comparison};
use super::model::{Confidence, Kind, Limit, Operator, Scope, Value};
use super::numbers::{HostNumbers, MachineNumbers, covers};
use crate::schema::{LimitEffect, LimitUse};

const MIB: f64 = 1024.0 * 1024.0;

/// The guest beside every product's documented limits for one VM (and for its largest disk), in the order of the data;
/// then beside the user's own figures. ESXi's rows are those of the guest's own hardware version.
#[must_use]
pub fn usage(machine: &MachineNumbers) -> Vec<LimitUse> {
    let mut uses: Vec<LimitUse> = all()
        .iter()
        .filter(|limit| limit.compare && matches!(limit.scope, Scope::Vm | Scope::Device) && applies(limit, machine))
        .filter_map(|limit| beside(limit, of_machine(limit, machine)?))
        .collect();
    uses.extend(users_figures(
        f64::from(machine.vcpus),
        mib_to_bytes(machine.memory_mib),
        &["Proxmox VE", "VMware ESXi"],
    ));
    uses
}

/// The host beside the limits that its product states for a host, then beside the user's own figures for that product.
#[must_use]
pub fn host_usage(host: &HostNumbers) -> Vec<LimitUse> {
    let memory_bytes = gib_to_bytes(host.memory_gib);
    let mut uses: Vec<LimitUse> = all()
        .iter()
        .filter(|limit| limit.compare && limit.scope == Scope::Host && limit.product == host.product)
        .filter(|limit| covers(&limit.version, &host.version))
        .filter_map(|limit| {
            let used = match limit.key.as_str() {
                "logical-cpus" => f64::from(host.logical_cpus),
                "memory" => memory_in(&limit.unit, memory_bytes)?,
                "vms" => f64::from(host.vms),
                "vcpus-total" => f64::from(host.vcpus_total),
                _ => return None,
            };
            beside(limit, used)
        })
        .collect();
    uses.extend(users_figures(
        f64::from(host.logical_cpus),
        memory_bytes,
        &[host.product.as_str()],
    ));
    uses
}

/// One guest beside one host: vCPUs against the host's logical CPUs (refused at start by both products), memory against
/// the host's memory.
#[must_use]
pub fn guest_on_host(machine: &MachineNumbers, host: &HostNumbers) -> Vec<LimitUse> {
    let mut uses = Vec::new();
    let rule = all()
        .iter()
        .find(|limit| limit.product == host.product && limit.key == "vcpus-of-host");
    let common =
        |quantity: &str, used: f64, allowed: f64, unit: &str, kind: Kind, source: &str, confidence: Confidence| {
            let fits = used <= allowed;
            LimitUse {
                product: format!("{} on {}", host.product, host.name),
                version: host.version.clone(),
                scope: Scope::Vm.as_str().to_owned(),
                quantity: quantity.to_owned(),
                used,
                allowed,
                unit: unit.to_owned(),
                source: source.to_owned(),
                confidence: confidence.as_str().to_owned(),
                fits,
                kind: kind.as_str().to_owned(),
                effect: effect(fits, kind, confidence),
                note: None,
            }
        };
    if let Some(rule) = rule {
        uses.push(common(
            "vcpus of the host's CPUs",
            f64::from(machine.vcpus),
            f64::from(host.logical_cpus),
            "vCPUs",
            rule.kind,
            &rule.source,
            rule.confidence,
        ));
    }
    uses.push(common(
        "memory of the host's memory",
        mib_to_bytes(machine.memory_mib) / (1024.0 * MIB),
        gib_to_bytes(host.memory_gib) / (1024.0 * MIB),
        "GiB",
        Kind::Practical,
        "the host file",
        Confidence::A,
    ));
    uses
}

fn applies(limit: &Limit, machine: &MachineNumbers) -> bool {
    if limit.product == "VMware ESXi" {
        return match machine.hw_version {
            Some(version) => {
                limit.version.starts_with(&format!("hardware version {version} ")) || limit.key == "disk-size"
            }
            None => limit.key == "disk-size",
        };
    }
    if let Some(kind) = limit.version.strip_prefix("machine ") {
        let default = if machine.vcpus > 255 { "q35" } else { "pc" };
        return kind.starts_with(machine.machine.as_deref().unwrap_or(default));
    }
    true
}

/// The machine's number for the key of `limit`, in its unit; `None` where it has none, or none is known.
fn of_machine(limit: &Limit, machine: &MachineNumbers) -> Option<f64> {
    // Proxmox VE and KubeVirt have no NVMe bus: such disks end on SCSI there.
    let scsi_disks = if limit.product == "VMware ESXi" {
        machine.scsi_disks
    } else {
        machine.scsi_disks.saturating_add(machine.nvme_disks)
    };
    let whole = |number: u32| Some(f64::from(number));
    match limit.key.as_str() {
        "vcpus" => whole(machine.vcpus),
        "sockets" => machine.sockets.map(f64::from),
        "cores-per-socket" => machine.cores_per_socket.map(f64::from),
        "memory" | "memory-minimum" => memory_in(&limit.unit, mib_to_bytes(machine.memory_mib)),
        "scsi-disks" => whole(scsi_disks),
        "ide-disks" => whole(machine.ide_disks),
        "sata-disks" => whole(machine.sata_disks),
        "disks" => whole(
            scsi_disks
                .saturating_add(machine.ide_disks)
                .saturating_add(machine.sata_disks),
        ),
        "scsi-controllers" => machine.scsi_controllers.map(f64::from),
        "disk-size" => memory_in(&limit.unit, bytes(machine.largest_disk_bytes)),
        "nics" => whole(machine.nics),
        "serial-ports" => whole(machine.serial_ports),
        "parallel-ports" => whole(machine.parallel_ports),
        "usb-devices" => whole(machine.usb_devices),
        "pci-passthrough" => whole(machine.pci_passthrough),
        "numa-nodes" => machine.numa_nodes.map(f64::from),
        "name-length" => whole(machine.name_length),
        _ => None,
    }
}

fn beside(limit: &Limit, used: f64) -> Option<LimitUse> {
    let Value::Number(allowed) = limit.value else {
        return None;
    };
    let fits = match limit.op {
        Operator::Max => used <= allowed,
        Operator::Min => used >= allowed,
        Operator::Multiple | Operator::Note => return None,
    };
    Some(LimitUse {
        product: limit.product.clone(),
        version: limit.version.clone(),
        scope: limit.scope.as_str().to_owned(),
        quantity: match limit.op {
            Operator::Min => format!("{} (at least)", limit.key.replace("-minimum", "")),
            _ => limit.key.replace('-', " "),
        },
        used,
        allowed,
        unit: limit.unit.clone(),
        source: limit.source.clone(),
        confidence: limit.confidence.as_str().to_owned(),
        fits,
        kind: limit.kind.as_str().to_owned(),
        effect: effect(fits, limit.kind, limit.confidence),
        note: limit.note.clone(),
    })
}

const fn effect(fits: bool, kind: Kind, confidence: Confidence) -> LimitEffect {
    match (fits, confidence, kind) {
        (_, Confidence::U | Confidence::Unsourced, _) => LimitEffect::PrintedOnly,
        (true, _, _) => LimitEffect::Fits,
        (false, Confidence::A, Kind::Hard) => LimitEffect::Blocks,
        (false, _, _) => LimitEffect::Warns,
    }
}

fn users_figures(cpus: f64, memory_bytes: f64, products: &[&str]) -> Vec<LimitUse> {
    comparison()
        .iter()
        .filter(|row| products.contains(&row.product.as_str()))
        .filter_map(|row| {
            let allowed = row.value?;
            let used = match row.key.as_str() {
                "cpus" => cpus,
                "memory" => memory_in(&row.unit, memory_bytes)?,
                _ => return None,
            };
            let fits = used <= allowed;
            Some(LimitUse {
                product: row.product.clone(),
                version: "not named".to_owned(),
                scope: row.scope.as_str().to_owned(),
                quantity: row.key.clone(),
                used,
                allowed,
                unit: row.unit.clone(),
                source: row.source.clone(),
                confidence: row.confidence.as_str().to_owned(),
                fits,
                kind: Kind::Tested.as_str().to_owned(),
                effect: LimitEffect::PrintedOnly,
                note: Some(row.found.clone()),
            })
        })
        .collect()
}

/// A limit that a host's numbers are set beside.
pub(super) fn is_of_host(limit: &Limit) -> bool {
    matches!(limit.key.as_str(), "logical-cpus" | "memory" | "vms" | "vcpus-total")
}

fn memory_in(unit: &str, bytes: f64) -> Option<f64> {
    let size = match unit {
        "MiB" => MIB,
        "GiB" => 1024.0 * MIB,
        "TiB" => 1024.0 * 1024.0 * MIB,
        "MB" => 1e6,
        "GB" => 1e9,
        "TB" => 1e12,
        _ => return None,
    };
    Some(bytes / size)
}

/// Exact up to 8 PiB, beyond which a limit is not decided by a byte.
fn bytes(number: u64) -> f64 {
    number as f64
}

fn mib_to_bytes(mib: u64) -> f64 {
    bytes(mib) * MIB
}

fn gib_to_bytes(gib: u64) -> f64 {
    bytes(gib) * 1024.0 * MIB
}
