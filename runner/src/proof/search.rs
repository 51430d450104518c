//! Which virtual hardware is tried next when a guest does not boot.

use super::request::Hardware;
use super::signs::Cause;
use crate::engine::{DiskBus, FirmwareSpec};

/// The order: fast and flexible first, then what every system knows.
pub const SEARCH_ORDER: [DiskBus; 4] = [DiskBus::VirtioScsi, DiskBus::VirtioBlk, DiskBus::Sata, DiskBus::Ide];
/// Ports of the boards' controllers (QEMU's q35 AHCI and PIIX3 IDE).
const SATA_PORTS: usize = 6;
const IDE_PORTS: usize = 4;

/// Everything worth trying after `tried` failed for `cause`, in order; and in words what is left out and why.
pub(super) fn next(tried: &Hardware, cause: Option<Cause>, disks: usize) -> (Vec<Hardware>, Vec<String>) {
    let other = match tried.firmware {
        FirmwareSpec::Bios => FirmwareSpec::Uefi { secure_boot: false },
        FirmwareSpec::Uefi { .. } => FirmwareSpec::Bios,
    };
    let on = |firmware: &FirmwareSpec, skip: Option<DiskBus>| -> Vec<Hardware> {
        let buses = SEARCH_ORDER.into_iter().filter(|&bus| Some(bus) != skip);
        buses.map(|bus| Hardware::new(bus, firmware.clone())).collect()
    };
    let mut notes = Vec::new();
    let mut plan = match cause {
        // The firmware saw the disk and found nothing to boot on it: another bus shows it the same disk.
        Some(Cause::BootLoader) => {
            notes.push(format!(
                "search: {} found no boot loader, so only the other firmware is tried",
                tried.firmware_name()
            ));
            on(&other, None)
        }
        // The boot loader ran: the firmware is the right one.
        Some(Cause::Grub | Cause::Root | Cause::Mount | Cause::Panic | Cause::WindowsDisk) => {
            on(&tried.firmware, Some(tried.bus))
        }
        None => [on(&tried.firmware, Some(tried.bus)), on(&other, None)].concat(),
    };
    for (bus, ports) in [(DiskBus::Sata, SATA_PORTS), (DiskBus::Ide, IDE_PORTS)] {
        if disks > ports && plan.iter().any(|hardware| hardware.bus == bus) {
            plan.retain(|hardware| hardware.bus != bus);
            notes.push(format!(
                "search: {} has {ports} ports, the guest {disks} disks: not tried",
                bus.name()
            ));
        }
    }
    (plan, notes)
}

#[cfg(test)]
mod tests {
    use super::next;
    use crate::engine::{DiskBus, FirmwareSpec};
    use crate::proof::request::Hardware;
    use crate::proof::signs::Cause;

    fn names(plan: &[Hardware]) -> Vec<String> {
        plan.iter()
            .map(|hardware| format!("{} {}", hardware.bus.name(), hardware.firmware_name()))
            .collect()
    }

    #[test]
    fn a_root_that_is_not_found_tries_the_other_buses_in_order() {
        let tried = Hardware::new(DiskBus::VirtioBlk, FirmwareSpec::Bios);
        let (plan, notes) = next(&tried, Some(Cause::Root), 2);
        assert_eq!(names(&plan), ["virtio-scsi bios", "sata bios", "ide bios"]);
        assert!(notes.is_empty());
        assert_eq!(
            (plan[0].nic, plan[1].nic, plan[2].nic),
            ("virtio-net", "e1000e", "e1000")
        );
    }

    #[test]
    fn no_boot_loader_tries_the_other_firmware_and_nothing_known_tries_all() {
        let tried = Hardware::new(DiskBus::VirtioBlk, FirmwareSpec::Bios);
        let (plan, notes) = next(&tried, Some(Cause::BootLoader), 1);
        assert_eq!(
            names(&plan),
            ["virtio-scsi uefi", "virtio-blk uefi", "sata uefi", "ide uefi"]
        );
        assert_eq!(notes.len(), 1);
        let (plan, _) = next(&tried, None, 1);
        assert_eq!(plan.len(), 7);
        assert_eq!(names(&plan)[0], "virtio-scsi bios");
    }

    #[test]
    fn a_bus_with_too_few_ports_is_left_out_and_said() {
        let tried = Hardware::new(DiskBus::VirtioBlk, FirmwareSpec::Bios);
        let (plan, notes) = next(&tried, Some(Cause::Root), 5);
        assert_eq!(names(&plan), ["virtio-scsi bios", "sata bios"]);
        assert!(notes[0].contains("4 ports"), "{notes:?}");
    }
}
