//! Owns running guests: the KVM probe, the engines (own VMM and QEMU), the appliance and the boot proof.
//! Owns no formats and no opinions: it takes a neutral machine and disks, and returns facts.

pub mod acpi;
pub mod agent_client;
pub mod appliance;
pub mod arch;
pub mod boot;
pub mod bus;
pub mod console;
pub mod devices;
pub mod direct;
pub mod engine;
mod error;
pub mod fixup;
mod inventory;
pub mod kvm;
pub mod pci;
pub mod probe;
pub mod proof;
pub mod qemu;
mod sys;
pub mod v2v;

pub use error::{Result, RunnerError};
pub use inventory::{Tool, inventory};
