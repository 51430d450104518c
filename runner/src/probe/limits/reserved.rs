//! Address space that is reserved, handed to KVM as guest memory, and never touched.
#![expect(unsafe_code, reason = "mmap, and KVM_SET_USER_MEMORY_REGION takes a raw address")]

use kvm_bindings::kvm_userspace_memory_region;
use kvm_ioctls::VmFd;
use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous, munmap};
use std::ffi::c_void;

/// Private anonymous addresses without backing and without access (PROT_NONE, MAP_NORESERVE): not even strict overcommit counts
/// them, and nothing can touch them by mistake.
#[derive(Debug)]
pub(super) struct Reserved {
    start: *mut c_void,
    len: usize,
}

impl Reserved {
    pub(super) fn new(bytes: u64) -> std::io::Result<Self> {
        let len = usize::try_from(bytes).map_err(std::io::Error::other)?;
        let flags = MapFlags::PRIVATE | MapFlags::NORESERVE;
        // SAFETY: a null hint lets the kernel choose, so that no existing mapping is replaced.
        let start = unsafe { mmap_anonymous(std::ptr::null_mut(), len, ProtFlags::empty(), flags) }?;
        Ok(Self { start, len })
    }

    /// Makes `bytes` from `offset` on guest memory at `guest_address`. Several slots may share bytes: no guest ever runs.
    ///
    /// The VM must be gone before this is: callers keep both in one scope, the VM declared later.
    pub(super) fn give(&self, vm: &VmFd, slot: u32, guest_address: u64, offset: u64, bytes: u64) -> Result<(), String> {
        let inside = offset.checked_add(bytes).is_some_and(|end| end <= self.len as u64);
        if !inside {
            return Err("a slot beyond the reserved memory".to_owned());
        }
        let region = kvm_userspace_memory_region {
            slot,
            flags: 0,
            guest_phys_addr: guest_address,
            memory_size: bytes,
            userspace_addr: self.start.expose_provenance() as u64 + offset,
        };
        // SAFETY: the range lies inside of this mapping, as checked above; no vCPU of the VM runs, and nobody holds a Rust
        // reference into the mapping.
        unsafe { vm.set_user_memory_region(region) }.map_err(|error| format!("KVM_SET_USER_MEMORY_REGION: {error}"))
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        // SAFETY: the range was mapped by new() and nobody holds a reference into it.
        let _ = unsafe { munmap(self.start, self.len) };
    }
}
