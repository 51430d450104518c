//! Guest RAM and its KVM slots.
#![expect(unsafe_code, reason = "KVM takes host addresses of guest memory")]

use kvm_bindings::kvm_userspace_memory_region;
use kvm_ioctls::VmFd;
use rustix::mm::{Advice, madvise};
use vm_memory::{
    GuestAddress, GuestMemoryBackend as _, GuestMemoryMmap, GuestMemoryRegion as _, GuestRegionMmap, MmapRegion,
    mmap::MmapRegionError,
};

use super::VmmError;
use crate::boot::memory_map;

const LARGE_PAGE: usize = 2 << 20;

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
        let mapping = aligned(size_here, flags).map_err(|error| failed(error.to_string()))?;
        if !hugepages {
            wish_large_pages(&mapping);
        }
        let region =
            GuestRegionMmap::new(mapping, GuestAddress(start)).ok_or_else(|| failed("address overflow".into()))?;
        regions.push(region);
    }
    GuestMemoryMmap::from_regions(regions).map_err(|error| VmmError::MemoryMap {
        size: bytes,
        error: error.to_string(),
    })
}

/// KVM maps 2 MiB of a guest at once only where guest and host addresses have the same offset in them; a guest page by page costs
/// an exit each. The kernel gives the top of the highest gap that fits, so a filler there moves the next try down to a multiple; one
/// that falls into a smaller gap higher up leaves it where it was, and the next filler follows. Where no try succeeds, the guest
/// is slower and nothing else.
fn aligned(size: usize, flags: i32) -> Result<MmapRegion, MmapRegionError> {
    const TRIES: usize = 32;
    let map = |size, access| MmapRegion::build(None, size, access, flags);
    let access = libc::PROT_READ | libc::PROT_WRITE;
    let mut fillers = Vec::new();
    let mut mapping = map(size, access)?;
    // Pages of hugetlbfs are aligned by themselves.
    while flags & libc::MAP_HUGETLB == 0 && fillers.len() < TRIES {
        let excess = mapping.as_ptr().addr() % LARGE_PAGE;
        if excess == 0 {
            break;
        }
        drop(mapping);
        fillers.push(map(excess, libc::PROT_NONE)?);
        mapping = map(size, access)?;
    }
    Ok(mapping)
}

/// Asks for transparent huge pages, which a host may have for those who ask only.
fn wish_large_pages(mapping: &MmapRegion) {
    // SAFETY: the range is one live private anonymous mapping of ours; this advice changes how it is backed, not what it holds.
    let _refused = unsafe { madvise(mapping.as_ptr().cast(), mapping.size(), Advice::LinuxHugepage) };
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guest_memory_lies_where_large_pages_of_host_and_guest_coincide() {
        // Sizes with odd ends; each of them in turn, as gaps of earlier ones may serve.
        for bytes in [256 << 20, (64 << 20) + 4096, (3 << 30) + (64 << 20)] {
            let memory = allocate(bytes, false).expect("mapped");
            for region in memory.iter() {
                let host = u64::try_from(region.as_ptr().addr()).expect("64 bits");
                assert_eq!((host ^ region.start_addr().0) % (2 << 20), 0, "{bytes}: {host:#x}");
            }
        }
    }
}
