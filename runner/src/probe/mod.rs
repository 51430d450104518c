//! The KVM quality probe.
mod classify;
pub use classify::ProbeReport;
