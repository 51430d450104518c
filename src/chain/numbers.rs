//! What of a machine is set beside the documented limits.
//!
//! Here because `reports` knows no machine, and `convert` no limits.

use convert::machine::{ControllerBus, Machine, RemovableKind};
use reports::limits::MachineNumbers;
use reports::schema::EstateGuest;

/// All that the description tells.
pub(crate) fn of_machine(machine: &Machine, largest_disk_bytes: u64) -> MachineNumbers {
    let disks = |bus: ControllerBus| count(machine.disks.iter().filter(|disk| disk.bus == bus).count());
    // A CD drive takes a place on its bus as a disk does.
    let drives = |prefix: &str| {
        let on_bus = |name: &str| name.starts_with(prefix);
        let drives = machine.removable.iter();
        count(
            drives
                .filter(|drive| drive.kind == RemovableKind::Cdrom && on_bus(&drive.name))
                .count(),
        )
    };
    let controllers = machine.controllers.iter();
    MachineNumbers {
        hw_version: machine.hw_version,
        machine: None,
        vcpus: machine.cpu.vcpus,
        sockets: Some(machine.cpu.sockets),
        cores_per_socket: Some(machine.cpu.cores_per_socket),
        memory_mib: machine.memory.mib,
        scsi_disks: disks(ControllerBus::Scsi),
        ide_disks: disks(ControllerBus::Ide).saturating_add(drives("ide")),
        sata_disks: disks(ControllerBus::Sata).saturating_add(drives("sata")),
        nvme_disks: disks(ControllerBus::Nvme),
        scsi_controllers: Some(count(
            controllers
                .filter(|controller| controller.bus == ControllerBus::Scsi)
                .count(),
        )),
        largest_disk_bytes,
        nics: count(machine.nics.len()),
        serial_ports: count(machine.serial.len()),
        parallel_ports: count(machine.parallel.len()),
        usb_devices: count(machine.usb.devices.len()),
        pci_passthrough: count(machine.passthrough.len()),
        numa_nodes: machine
            .cpu
            .numa_vcpus_per_node
            .filter(|per_node| *per_node > 0)
            .map(|per_node| machine.cpu.vcpus.div_ceil(per_node)),
        name_length: count(machine.name.len()),
    }
}

/// What a row of a spreadsheet tells: buses are not in it.
pub(crate) fn of_row(guest: &EstateGuest) -> MachineNumbers {
    MachineNumbers {
        hw_version: guest.hw_version,
        vcpus: guest.vcpus,
        memory_mib: guest.memory_mib,
        largest_disk_bytes: guest.largest_disk_bytes,
        nics: count(guest.networks.len()),
        name_length: count(guest.name.len()),
        ..MachineNumbers::default()
    }
}

fn count(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}
