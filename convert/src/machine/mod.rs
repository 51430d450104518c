//! The neutral machine: what a guest is, whichever platform described it.

pub mod from_ovf;
pub mod from_vmx;
pub mod guest_os;
pub mod identity;
mod model;

pub use model::{
    Controller, ControllerBus, CpuTopology, Disk, DiskMode, Firmware, FirmwareKind, GuestOs, Identity, MACHINE_SCHEMA,
    MacOrigin, Machine, Memory, Nic, OsFamily, ParallelPort, Removable, RemovableKind, SerialPort, Snapshot,
    SourceKind, Tpm, Usb,
};

/// Something that a reader met on its way and that a preflight check turns into a finding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notice {
    /// Id of the check (`vmx.duplicate-key`).
    pub id: &'static str,
    /// What was seen: the key or file, and its value.
    pub evidence: String,
}

impl Notice {
    /// A notice for the check `id`.
    #[must_use]
    pub fn new(id: &'static str, evidence: impl Into<String>) -> Self {
        Self {
            id,
            evidence: evidence.into(),
        }
    }
}
