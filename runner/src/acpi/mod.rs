//! The ACPI tables of the machine: RSDP, XSDT, FADT (hardware-reduced), MADT, DSDT.
//!
//! Stock distribution kernels accept virtio-mmio devices only from the DSDT (id `LNRO0005`); MP tables and the
//! `virtio_mmio.device=` parameter are compiled out. Specification: ACPI 6.5, UEFI Forum.

pub mod dsdt;
pub mod tables;

use vm_memory::{Bytes as _, GuestAddress, GuestMemoryError, GuestMemoryMmap};

use crate::arch::{Topology, layout};

/// What the tables have to describe.
#[derive(Debug, Clone)]
pub struct Machine {
    /// CPUs.
    pub topology: Topology,
    /// virtio-mmio windows: (address, size, interrupt line).
    pub virtio: Vec<(u32, u32, u32)>,
    /// With a PCI bus.
    pub pci: bool,
}

/// Tables do not fit.
#[derive(Debug, thiserror::Error)]
pub enum AcpiError {
    /// Together they are larger than the area below the RSDP.
    #[error("ACPI tables of {size} bytes do not fit into {room}; use fewer devices or CPUs")]
    TooLarge {
        /// Their size.
        size: u64,
        /// What there is.
        room: u64,
    },
    /// Guest memory access failed.
    #[error("writing ACPI tables: {0}")]
    Memory(#[from] GuestMemoryError),
}

/// Writes all tables; the RSDP is at [`layout::RSDP`].
///
/// # Errors
/// See [`AcpiError`].
pub fn write(memory: &GuestMemoryMmap, machine: &Machine) -> Result<(), AcpiError> {
    let mut next = layout::ACPI_TABLES;
    let mut place = |bytes: Vec<u8>| -> Result<u64, AcpiError> {
        let address = next.next_multiple_of(16);
        let end = address + u64::try_from(bytes.len()).expect("tables are small");
        if end > layout::RSDP {
            return Err(AcpiError::TooLarge {
                size: end - layout::ACPI_TABLES,
                room: layout::RSDP - layout::ACPI_TABLES,
            });
        }
        memory.write_slice(&bytes, GuestAddress(address))?;
        next = end;
        Ok(address)
    };
    let dsdt = place(dsdt::build(machine))?;
    let fadt = place(tables::fadt(dsdt))?;
    let madt = place(tables::madt(machine.topology))?;
    let xsdt = place(tables::xsdt(&[fadt, madt]))?;
    memory.write_slice(&tables::rsdp(xsdt), GuestAddress(layout::RSDP))?;
    Ok(())
}
