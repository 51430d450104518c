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
pub(crate) use measure::{bench_guest, bench_guest_in_turn, bench_host, bench_in_turn, bench_lxc};

use reports::schema::AcceleratorClass;

/// What lies under this machine, as CPUID tells. That it is KVM says nothing about whether that KVM is on hardware, nested or
/// without page tables of its own: unknown.
pub(crate) fn class_of(hypervisor: Option<&str>) -> AcceleratorClass {
    match hypervisor {
        None => AcceleratorClass::Metal,
        Some(name) if name.starts_with("TCG") => AcceleratorClass::Tcg,
        Some(name) if name.starts_with("VMware") => AcceleratorClass::Esxi,
        Some(_) => AcceleratorClass::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::class_of;
    use reports::schema::AcceleratorClass;

    #[test]
    fn under_kvm_nobody_knows_whether_that_kvm_is_on_hardware() {
        assert_eq!(class_of(Some("KVMKVMKVM")), AcceleratorClass::Unknown);
        assert_eq!(class_of(Some("TCGTCGTCGTCG")), AcceleratorClass::Tcg);
        assert_eq!(class_of(Some("VMwareVMware")), AcceleratorClass::Esxi);
        assert_eq!(class_of(None), AcceleratorClass::Metal);
    }
}
