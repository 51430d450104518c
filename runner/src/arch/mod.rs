//! What an x86-64 guest finds when it starts: address map, CPU identification, registers, MSRs.
//!
//! Sources: Intel SDM volume 3, AMD APM volume 2, Linux `Documentation/arch/x86/boot.rst`, and the map that
//! Firecracker and cloud-hypervisor use, so that stock kernels see nothing unusual.

pub mod cpuid;
pub mod layout;
pub mod msr;
pub mod regs;
pub mod reset_vector;
pub mod topology;

pub use topology::{Topology, TopologyError};
