//! Guest RAM and its KVM slots.
#![expect(unsafe_code, reason = "KVM takes host addresses of guest memory")]

use kvm_bindings::kvm_userspace_memory_region;
use kvm_ioctls::VmFd;
use vm_memory::{
    GuestAddress, GuestMemoryBackend as _, GuestMemoryMmap, GuestMemoryRegion as _, GuestRegionMmap, MmapRegion,
};

use super::VmmError;
use crate::boot::memory_map;

/// Maps RAM of `bytes`, in one region below the device hole and one above 4 GiB.
pub(super) fn allocate(bytes: u64, hugepages: bool) -> Result<GuestMemoryMmap, VmmError> {
    let unit: u64 = if hugepages { 2 << 20 } else { 4096 };
    if bytes < 2 << 20 || !bytes.is_multiple_of(unit) {
        return Err(VmmError::MemorySize { bytes, unit });
    }
    let mut flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
    if hugepages {
        // Reserved: where there are too few, the mapping fails here and not by a signal when the guest touches a page.
        flags |= libc::MAP_HUGETLB | libc::MAP_HUGE_2MB;
    } else {
        flags |= libc::MAP_NORESERVE;
    }
    let mut regions = Vec::new();
    for (start, size) in memory_map::ram_slots(bytes) {
        let failed = |error: String| VmmError::MemoryMap { size, error };
        let size_here = usize::try_from(size).map_err(|error| failed(error.to_string()))?;
        let mapping = MmapRegion::build(None, size_here, libc::PROT_READ | libc::PROT_WRITE, flags)
            .map_err(|error| failed(error.to_string()))?;
        let region =
            GuestRegionMmap::new(mapping, GuestAddress(start)).ok_or_else(|| failed("address overflow".into()))?;
        regions.push(region);
    }
    GuestMemoryMmap::from_regions(regions).map_err(|error| VmmError::MemoryMap {
        size: bytes,
        error: error.to_string(),
    })
}

/// Tells KVM where guest RAM is.
///
/// `memory` has to outlive `vm`; [`super::Vmm`] keeps both and drops the VM first.
pub(super) fn register(vm: &VmFd, memory: &GuestMemoryMmap) -> Result<(), VmmError> {
    for (slot, region) in (0_u32..).zip(memory.iter()) {
        let userspace_addr = u64::try_from(region.as_ptr().addr()).expect("64-bit host");
        let kvm_region = kvm_userspace_memory_region {
            slot,
            flags: 0,
            guest_phys_addr: region.start_addr().0,
            memory_size: region.len(),
            userspace_addr,
        };
        // SAFETY: the region is a live anonymous mapping of exactly this size that nobody else uses, and the caller
        // keeps it mapped as long as the VM exists.
        unsafe { vm.set_user_memory_region(kvm_region) }.map_err(VmmError::kvm("KVM_SET_USER_MEMORY_REGION"))?;
    }
    Ok(())
}
