//! Machine definitions for the four targets, all from the one neutral machine.

mod error;
pub mod kubevirt;
pub mod libvirt;
pub mod map;
pub mod plan;
pub mod proxmox;
pub mod qemu;
pub mod resources;
pub(crate) mod text;
mod write;

pub use error::TargetError;
pub use map::{AccessMode, Network, NetworkMap};
pub use plan::{Plan, Target};
pub use resources::Resources;
pub use write::{TargetContext, TargetDisk, plan_all, target_findings, write_all};
