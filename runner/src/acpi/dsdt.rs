//! The differentiated system description table: devices and power states, as AML.

use acpi_tables::{
    Aml,
    aml::{
        AddressSpace, AddressSpaceCacheable, Arg, Device, EISAName, Equal, IO, If, Interrupt, Memory32Fixed, Method,
        Name, Notify, ONE, Package, Path, ResourceTemplate, Scope, ZERO,
    },
    sdt::Sdt,
};

use super::{Machine, tables};
use crate::arch::layout;

/// Notification value "power button pressed" (ACPI 6.5, table 5.16).
const BUTTON_PRESSED: u8 = 0x80;

/// Builds the whole table.
pub fn build(machine: &Machine) -> Vec<u8> {
    let mut aml = Vec::new();
    sleep_states(&mut aml);
    processors(machine, &mut aml);
    for (index, (port, gsi)) in (0_u8..).zip([layout::COM1, layout::COM2]) {
        uart(index, port, gsi, &mut aml);
    }
    for (index, &(base, size, gsi)) in (0_u32..).zip(&machine.virtio) {
        virtio(index, base, size, gsi, &mut aml);
    }
    if machine.pci {
        pci(&mut aml);
    }
    pvpanic(&mut aml);
    power_button(&mut aml);
    let mut table = Sdt::new(
        *b"DSDT",
        36,
        6,
        tables::OEM_ID,
        tables::OEM_TABLE_ID,
        tables::OEM_REVISION,
    );
    table.append_slice(&aml);
    table.as_slice().to_vec()
}

fn sleep_states(aml: &mut Vec<u8>) {
    Name::new("_S5_".into(), &Package::new(vec![&tables::SLEEP_TYPE_S5])).to_aml_bytes(aml);
}

fn processors(machine: &Machine, aml: &mut Vec<u8>) {
    for index in 0..machine.topology.vcpus() {
        let path = format!("C{index:03X}");
        Scope::new(
            "_SB_".into(),
            vec![&Device::new(
                Path::new(&path),
                vec![
                    &Name::new("_HID".into(), &"ACPI0007"),
                    &Name::new("_UID".into(), &index),
                ],
            )],
        )
        .to_aml_bytes(aml);
    }
}

fn uart(index: u8, port: u16, gsi: u32, aml: &mut Vec<u8>) {
    let path = format!("_SB_.COM{}", index + 1);
    let dos_name = format!("COM{}", index + 1);
    Device::new(
        Path::new(&path),
        vec![
            &Name::new("_HID".into(), &EISAName::new("PNP0501")),
            &Name::new("_UID".into(), &index),
            &Name::new("_DDN".into(), &dos_name),
            &Name::new(
                "_CRS".into(),
                &ResourceTemplate::new(vec![
                    &Interrupt::new(true, true, false, false, gsi),
                    &IO::new(port, port, 0, 8),
                ]),
            ),
        ],
    )
    .to_aml_bytes(aml);
}

fn virtio(index: u32, base: u32, size: u32, gsi: u32, aml: &mut Vec<u8>) {
    let path = format!("_SB_.V{index:03X}");
    Device::new(
        Path::new(&path),
        vec![
            &Name::new("_HID".into(), &"LNRO0005"),
            &Name::new("_UID".into(), &index),
            &Name::new("_CCA".into(), &ONE),
            &Name::new(
                "_CRS".into(),
                &ResourceTemplate::new(vec![
                    &Memory32Fixed::new(true, base, size),
                    &Interrupt::new(true, true, false, false, gsi),
                ]),
            ),
        ],
    )
    .to_aml_bytes(aml);
}

/// A root bus without line interrupts: bus 0, the configuration ports, one window for BARs.
fn pci(aml: &mut Vec<u8>) {
    let last = layout::PCI_WINDOW + (layout::PCI_WINDOW_SIZE - 1);
    Device::new(
        "_SB_.PCI0".into(),
        vec![
            &Name::new("_HID".into(), &EISAName::new("PNP0A03")),
            &Name::new("_UID".into(), &ZERO),
            &Name::new("_BBN".into(), &ZERO),
            &Name::new(
                "_CRS".into(),
                &ResourceTemplate::new(vec![
                    &AddressSpace::new_bus_number(0_u16, 0_u16),
                    &IO::new(layout::PCI_CONFIG_PORTS, layout::PCI_CONFIG_PORTS, 1, 8),
                    &AddressSpace::new_memory(
                        AddressSpaceCacheable::NotCacheable,
                        true,
                        layout::PCI_WINDOW,
                        last,
                        None,
                    ),
                ]),
            ),
        ],
    )
    .to_aml_bytes(aml);
}

/// The id and resource under which Linux' `pvpanic` driver looks.
fn pvpanic(aml: &mut Vec<u8>) {
    Device::new(
        "_SB_.PEVT".into(),
        vec![
            &Name::new("_HID".into(), &"QEMU0001"),
            &Name::new("_UID".into(), &ZERO),
            &Name::new(
                "_CRS".into(),
                &ResourceTemplate::new(vec![&IO::new(layout::PVPANIC_PORT, layout::PVPANIC_PORT, 1, 1)]),
            ),
        ],
    )
    .to_aml_bytes(aml);
}

/// A power button behind a generic event device, the hardware-reduced way.
fn power_button(aml: &mut Vec<u8>) {
    Device::new(
        "\\_SB_.PWRB".into(),
        vec![
            &Name::new("_HID".into(), &EISAName::new("PNP0C0C")),
            &Name::new("_UID".into(), &ZERO),
        ],
    )
    .to_aml_bytes(aml);
    Device::new(
        "_SB_.GED_".into(),
        vec![
            &Name::new("_HID".into(), &"ACPI0013"),
            &Name::new("_UID".into(), &ZERO),
            &Name::new(
                "_CRS".into(),
                &ResourceTemplate::new(vec![&Interrupt::new(
                    true,
                    true,
                    false,
                    false,
                    layout::GSI_POWER_BUTTON,
                )]),
            ),
            &Method::new(
                "_EVT".into(),
                1,
                true,
                vec![&If::new(
                    &Equal::new(&Arg(0), &layout::GSI_POWER_BUTTON),
                    vec![&Notify::new(&Path::new("\\_SB_.PWRB"), &BUTTON_PRESSED)],
                )],
            ),
        ],
    )
    .to_aml_bytes(aml);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arch::Topology;

    #[test]
    fn every_virtio_window_is_named_with_its_address_and_line() {
        let table = build(&Machine {
            topology: Topology::flat(2),
            virtio: vec![(0xc000_0000, 0x1000, 5), (0xc000_1000, 0x1000, 6)],
            pci: false,
        });
        assert_eq!(&table[..4], b"DSDT");
        assert_eq!(table.iter().fold(0_u8, |s, b| s.wrapping_add(*b)), 0);
        let count = |needle: &[u8]| table.windows(needle.len()).filter(|w| *w == needle).count();
        assert_eq!(count(b"LNRO0005"), 2);
        // Memory32Fixed: tag 0x86, length 9, read-write, base, size.
        assert_eq!(count(&[0x86, 9, 0, 1, 0, 0x10, 0, 0xc0, 0, 0x10, 0, 0]), 1);
        // Extended interrupt: tag 0x89, length 6, consumer | edge, one line, number 6.
        assert_eq!(count(&[0x89, 6, 0, 0b11, 1, 6, 0, 0, 0]), 1);
        assert_eq!(count(b"ACPI0007"), 2);
    }
}
