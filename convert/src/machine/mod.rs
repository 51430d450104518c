//! The neutral machine: what a guest is, whichever platform described it.

mod model;

pub use model::{
    Controller, ControllerBus, CpuTopology, Disk, DiskMode, Firmware, FirmwareKind, GuestOs, Identity, MACHINE_SCHEMA,
    MacOrigin, Machine, Memory, Nic, OsFamily, Removable, RemovableKind, SerialPort, SourceKind, Tpm,
};
