//! The fixed tables: FADT, MADT, XSDT, RSDP.

use acpi_tables::{
    Aml,
    fadt::{FADTBuilder, Flags, PmProfile},
    gas::{AccessSize, AddressSpace, GAS},
    madt::{EnabledStatus, IoApic, LocalInterruptController, MADT, ProcessorLocalApic},
    rsdp::Rsdp,
    xsdt::XSDT,
};

use crate::arch::{Topology, layout};

/// OEM id of all tables.
pub(super) const OEM_ID: [u8; 6] = *b"ESXODS";
/// OEM table id of all tables.
pub(super) const OEM_TABLE_ID: [u8; 8] = *b"ESXODVMM";
/// OEM revision of all tables.
pub(super) const OEM_REVISION: u32 = 1;

/// Written to the reset register, resets the machine.
pub const RESET_VALUE: u8 = 1;
/// SLP_TYP of soft-off, as `_S5_` says.
pub const SLEEP_TYPE_S5: u8 = 5;

/// IAPC_BOOT_ARCH: bit 2 "no VGA", bit 5 "no CMOS clock"; bit 1 clear = no i8042 keyboard controller. Linux probes for
/// seconds where these are not the truth.
const NO_VGA_NO_CMOS_RTC: u16 = 1 << 2 | 1 << 5;

/// Serialises a table.
pub(super) fn bytes(table: &dyn Aml) -> Vec<u8> {
    let mut bytes = Vec::new();
    table.to_aml_bytes(&mut bytes);
    bytes
}

/// Fixed ACPI description table for a hardware-reduced machine.
pub fn fadt(dsdt: u64) -> Vec<u8> {
    let port = || {
        GAS::new(
            AddressSpace::SystemIo,
            8,
            0,
            AccessSize::ByteAccess,
            u64::from(layout::POWER_PORT),
        )
    };
    let mut fadt = FADTBuilder::new(OEM_ID, OEM_TABLE_ID, OEM_REVISION)
        .dsdt_64(dsdt)
        .flag(Flags::Wbinvd)
        // The bits say "not a fixed-hardware button": the power button is a device in the DSDT, a sleep button does not exist.
        .flag(Flags::PwrButton)
        .flag(Flags::SlpButton)
        .flag(Flags::ResetRegSup)
        .flag(Flags::HwReducedAcpi)
        .preferred_pm_profile(PmProfile::EnterpriseServer);
    fadt.iapc_boot_arch = NO_VGA_NO_CMOS_RTC.into();
    fadt.reset_reg = port();
    fadt.reset_value = RESET_VALUE;
    fadt.sleep_control_reg = port();
    fadt.sleep_status_reg = port();
    bytes(&fadt.finalize())
}

/// Multiple APIC description table: one I/O APIC, one local APIC a vCPU.
pub fn madt(topology: Topology) -> Vec<u8> {
    let mut madt = MADT::new(
        OEM_ID,
        OEM_TABLE_ID,
        OEM_REVISION,
        LocalInterruptController::Address(layout::LAPIC),
    );
    madt.add_structure(IoApic::new(0, layout::IOAPIC, 0));
    for index in 0..topology.vcpus() {
        let byte = |value: u32| u8::try_from(value).expect("validated topologies stay below 255");
        madt.add_structure(ProcessorLocalApic::new(
            byte(index),
            byte(topology.apic_id(index)),
            EnabledStatus::Enabled,
        ));
    }
    bytes(&madt)
}

/// Extended system description table.
pub fn xsdt(entries: &[u64]) -> Vec<u8> {
    let mut xsdt = XSDT::new(OEM_ID, OEM_TABLE_ID, OEM_REVISION);
    for &entry in entries {
        xsdt.add_entry(entry);
    }
    bytes(&xsdt)
}

/// Root system description pointer.
pub fn rsdp(xsdt: u64) -> Vec<u8> {
    bytes(&Rsdp::new(OEM_ID, xsdt))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checksum(bytes: &[u8]) -> u8 {
        bytes.iter().fold(0, |sum, byte| sum.wrapping_add(*byte))
    }

    #[test]
    fn fadt_has_its_fields_at_the_offsets_of_the_specification() {
        let table = fadt(0x9_fc00);
        assert_eq!(table.len(), 276);
        assert_eq!(checksum(&table), 0);
        assert_eq!(table[..4], *b"FACP");
        let flags = u32::from_le_bytes(table[112..116].try_into().expect("four"));
        assert_eq!(flags, 1 << 20 | 1 << 10 | 1 << 5 | 1 << 4 | 1);
        assert_eq!(table[109..111], [0x24, 0]);
        let gas = [1, 8, 0, 1, 0, 6, 0, 0, 0, 0, 0, 0];
        assert_eq!(table[116..128], gas, "reset register");
        assert_eq!(table[128], 1, "reset value");
        assert_eq!(table[140..148], 0x9_fc00_u64.to_le_bytes());
        assert_eq!(table[244..256], gas, "sleep control");
        assert_eq!(table[256..268], gas, "sleep status");
    }

    #[test]
    fn madt_lists_every_apic_id() {
        let table = madt(Topology {
            sockets: 1,
            cores: 3,
            threads: 2,
        });
        assert_eq!(checksum(&table), 0);
        assert_eq!(table.len(), 44 + 12 + 6 * 8);
        let ids: Vec<u8> = table[56..].chunks(8).map(|entry| entry[3]).collect();
        assert_eq!(ids, [0, 1, 2, 3, 4, 5]);
    }

    #[test]
    fn root_pointers_check_out() {
        let table = rsdp(0x9_fd00);
        assert_eq!(checksum(&table), 0);
        assert_eq!(checksum(&table[..20]), 0);
        assert_eq!(table[24..32], 0x9_fd00_u64.to_le_bytes());
        assert_eq!(checksum(&xsdt(&[1, 2])), 0);
    }
}
