//! The chain over the libraries: the run folder, and the steps that fill it.
//!
//! It lives in the root package because only this package may depend on all the others.

pub(crate) mod copy;
pub(crate) mod drivers;
pub(crate) mod fixup;
mod folder;
pub(crate) mod gather;
pub(crate) mod hands_on;
pub(crate) mod inside;
pub(crate) mod measure;
pub(crate) mod migrate;
pub(crate) mod numbers;
pub(crate) mod prove;
pub(crate) mod source;
pub(crate) mod stream;
pub(crate) mod targets;

pub(crate) use folder::RunFolder;
pub(crate) use gather::write_record;
pub(crate) use measure::{bench_guest, bench_host, bench_in_turn, bench_lxc};

use reports::schema::AcceleratorClass;

/// What lies under this machine, as CPUID tells.
pub(crate) fn class_of(hypervisor: Option<&str>) -> AcceleratorClass {
    match hypervisor {
        None => AcceleratorClass::Metal,
        Some(name) if name.starts_with("TCG") => AcceleratorClass::Tcg,
        Some(name) if name.starts_with("VMware") => AcceleratorClass::Esxi,
        Some(name) if name.starts_with("KVM") => AcceleratorClass::Native,
        Some(_) => AcceleratorClass::Unknown,
    }
}
