//! Machine definitions for the four targets, all from the one neutral machine.

mod error;
pub mod kubevirt;
pub mod libvirt;
pub mod map;
pub mod plan;
pub mod proxmox;
pub mod qemu;
pub mod resources;
mod text;
mod write;

pub use error::TargetError;
pub use map::{Network, NetworkMap};
pub use plan::{Plan, Target};
pub use resources::Resources;
pub use write::{TargetContext, TargetDisk, default_findings, write_all};
