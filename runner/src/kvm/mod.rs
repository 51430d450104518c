//! The own virtual machine monitor: boots Linux kernels on `/dev/kvm` with virtio-mmio devices, ACPI and two UARTs.
//!
//! [`Vmm::new`] builds the machine, [`Vmm::start`] runs it, the [`VmHandle`] tells how it ended ([`ExitReason`]) and when
//! its boot stages were reached. One process may run several machines; the sandbox (module [`sandbox`]) is for
//! processes that run one.

pub mod config;
pub mod engine;
pub mod exit;
mod handle;
mod kick;
mod memory;
mod outcome;
mod routes;
pub mod sandbox;
mod vcpu;
mod vm;

pub use config::{AgentChannel, DiskConfig, NetConfig, SerialInput, SerialOutput, Transport, Uplink, VmmConfig};
pub use exit::{ExitReason, InternalError};
pub use handle::{Report, VmHandle};
pub use outcome::Stages;
pub use vm::{Vmm, VmmError};
