//! Guest RAM and its KVM slots.
#![expect(unsafe_code, reason = "KVM takes host addresses of guest memory")]

use kvm_bindings::kvm_userspace_memory_region;
use kvm_ioctls::VmFd;
use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap_anonymous, munmap};
use std::ffi::c_void;
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
/// an exit each. The kernel gives the top of the highest gap that fits, so a gap is made that fits at a multiple and nowhere else.
/// A gap higher up that is just large enough gets the mapping instead: that one is kept until the next try has its own. Where no
/// try succeeds, the guest is slower and nothing else.
fn aligned(size: usize, flags: i32) -> Result<MmapRegion, MmapRegionError> {
    const TRIES: usize = 32;
    let map = || MmapRegion::build(None, size, libc::PROT_READ | libc::PROT_WRITE, flags);
    // Pages of hugetlbfs are aligned by themselves.
    if flags & libc::MAP_HUGETLB != 0 {
        return map();
    }
    let mut elsewhere = Vec::new();
    loop {
        let gap = Gap::make(size);
        let mapping = map()?;
        drop(gap);
        if mapping.as_ptr().addr().is_multiple_of(LARGE_PAGE) || elsewhere.len() == TRIES {
            return Ok(mapping);
        }
        elsewhere.push(mapping);
    }
}

/// A gap of the address space that begins at a multiple of [`LARGE_PAGE`], between two reserved pieces that are given back on drop.
struct Gap {
    below: (*mut c_void, usize),
    above: (*mut c_void, usize),
}

impl Gap {
    /// `None` where the address space is full: the mapping proper will say so.
    fn make(size: usize) -> Option<Self> {
        let whole = size.checked_add(LARGE_PAGE)?;
        // SAFETY: a new mapping at an address of the kernel's choice touches no other one.
        let start = unsafe {
            let flags = MapFlags::PRIVATE | MapFlags::NORESERVE;
            mmap_anonymous(std::ptr::null_mut(), whole, ProtFlags::empty(), flags)
        };
        let start = start.ok()?;
        let below = start.addr().next_multiple_of(LARGE_PAGE) - start.addr();
        let inside = start.wrapping_byte_add(below);
        // SAFETY: the range lies within the mapping just made (`below` < LARGE_PAGE), which nobody else knows of.
        unsafe { munmap(inside, size) }.ok()?;
        Some(Self {
            below: (start, below),
            above: (inside.wrapping_byte_add(size), LARGE_PAGE - below),
        })
    }
}

impl Drop for Gap {
    fn drop(&mut self) {
        for (start, size) in [self.below, self.above] {
            if size > 0 {
                // SAFETY: what `make` left of its own mapping, which is unmapped nowhere else.
                let _impossible = unsafe { munmap(start, size) };
            }
        }
    }
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
        // Gaps of all kinds, as threads that ended leave them: each just too small, just large enough or odd.
        let mapped =
            |size| MmapRegion::<()>::build(None, size, libc::PROT_NONE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
        let mut pieces = Vec::new();
        for index in 1..100_usize {
            let odd = (index % 7) * 4096;
            let size = [(2 << 20) - 4096, (64 << 20) + 4096, 8 << 20][index % 3] + odd;
            pieces.push(mapped(size).expect("mapped"));
        }
        let mut index = 0;
        pieces.retain(|_| {
            index += 1;
            index % 2 == 0
        });
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
