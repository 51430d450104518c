//! Gets a thread out of `KVM_RUN`: a real-time signal whose handler sets `immediate_exit` of the vCPU on that thread.
//!
//! The signal alone would be lost between the check of the stop flag and the ioctl; `immediate_exit` closes the gap.
#![expect(unsafe_code, reason = "a signal handler writes into the shared kvm_run page")]

use std::{cell::Cell, ptr, sync::OnceLock, thread::JoinHandle};

use kvm_ioctls::VcpuFd;
use vmm_sys_util::signal::{Killable, SIGRTMIN, register_signal_handler};

thread_local! {
    /// `immediate_exit` of the vCPU that this thread runs.
    static IMMEDIATE_EXIT: Cell<*mut u8> = const { Cell::new(ptr::null_mut()) };
}

fn signal() -> i32 {
    SIGRTMIN() + 3
}

extern "C" fn handler(_: i32, _: *mut libc::siginfo_t, _: *mut libc::c_void) {
    let flag = IMMEDIATE_EXIT.get();
    if !flag.is_null() {
        // SAFETY: the pointer is set only while the owning `Registration` lives on this thread, which keeps the kvm_run
        // page mapped; the kernel and this thread are its only users.
        unsafe { flag.write_volatile(1) };
    }
}

/// Installs the handler once in the process.
///
/// # Errors
/// The system's error, where the signal cannot be handled.
pub(super) fn install() -> std::io::Result<()> {
    static INSTALLED: OnceLock<Result<(), i32>> = OnceLock::new();
    INSTALLED
        .get_or_init(|| register_signal_handler(signal(), handler).map_err(|error| error.errno()))
        .map_err(std::io::Error::from_raw_os_error)
}

/// While it lives, kicks of this thread make `KVM_RUN` of the vCPU return.
pub(super) struct Registration(());

impl Registration {
    /// Registers the vCPU with the calling thread.
    ///
    /// # Safety
    /// The `VcpuFd` must outlive the registration, on this thread.
    pub(super) unsafe fn new(vcpu: &mut VcpuFd) -> Self {
        IMMEDIATE_EXIT.set(&raw mut vcpu.get_kvm_run().immediate_exit);
        Self(())
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        IMMEDIATE_EXIT.set(ptr::null_mut());
    }
}

/// Kicks a vCPU thread. A thread that ended already is no error.
pub(super) fn kick(thread: &JoinHandle<()>) {
    let _ = thread.kill(signal());
}

/// The vCPU loop, with its thread registered for kicks.
pub(super) fn with_registration(mut vcpu: VcpuFd, run: impl FnOnce(&mut VcpuFd)) {
    // SAFETY: `vcpu` is owned by this frame and declared before the registration, so it is dropped after it.
    let registration = unsafe { Registration::new(&mut vcpu) };
    run(&mut vcpu);
    drop(registration);
}
