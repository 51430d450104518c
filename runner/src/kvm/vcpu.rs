//! A virtual CPU: its set-up and its loop.

use std::sync::{Condvar, Mutex, PoisonError};

use kvm_bindings::CpuId;
use kvm_ioctls::{VcpuExit, VcpuFd};

use super::{
    VmmError,
    exit::{self, ExitReason},
    outcome::Outcome,
};
use crate::{
    arch::{Topology, cpuid, msr, regs},
    bus::Bus,
};

/// Both address spaces.
#[derive(Debug, Default)]
pub(super) struct Buses {
    pub(super) ports: Bus,
    pub(super) memory: Bus,
}

/// Where vCPU threads wait until the machine may run.
#[derive(Debug, Default)]
pub(super) struct Gate {
    open: Mutex<bool>,
    opened: Condvar,
}

impl Gate {
    pub(super) fn open(&self) {
        *self.open.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.opened.notify_all();
    }

    fn wait(&self) {
        let open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        // Poisoned or not: the flag is all there is to see.
        let _open = self
            .opened
            .wait_while(open, |open| !*open)
            .unwrap_or_else(PoisonError::into_inner);
    }
}

/// Gives vCPU `index` its state; `entry` only for the boot CPU, the others wait for INIT and SIPI.
pub(super) fn configure(
    vcpu: &VcpuFd,
    supported: &CpuId,
    topology: Topology,
    index: u32,
    entry: Option<regs::Entry>,
) -> Result<(), VmmError> {
    // CPUID first: which MSRs exist depends on it.
    let leaves = cpuid::normalise(supported, topology, index).ok_or(VmmError::CpuidTooLarge)?;
    vcpu.set_cpuid2(&leaves).map_err(VmmError::kvm("KVM_SET_CPUID2"))?;
    let msrs = msr::boot_msrs();
    let wanted = msr::boot_entries().len();
    let set = vcpu.set_msrs(&msrs).map_err(VmmError::kvm("KVM_SET_MSRS"))?;
    if set != wanted {
        let index = msrs.as_slice().get(set).map_or(0, |entry| entry.index);
        return Err(VmmError::Msr { index });
    }
    vcpu.set_fpu(&regs::fpu()).map_err(VmmError::kvm("KVM_SET_FPU"))?;
    if let Some(entry) = entry {
        let mut sregs = vcpu.get_sregs().map_err(VmmError::kvm("KVM_GET_SREGS"))?;
        regs::set_sregs(&mut sregs, entry);
        vcpu.set_sregs(&sregs).map_err(VmmError::kvm("KVM_SET_SREGS"))?;
        vcpu.set_regs(&regs::regs(entry))
            .map_err(VmmError::kvm("KVM_SET_REGS"))?;
    }
    let mut lapic = vcpu.get_lapic().map_err(VmmError::kvm("KVM_GET_LAPIC"))?;
    regs::set_lint(&mut lapic);
    vcpu.set_lapic(&lapic).map_err(VmmError::kvm("KVM_SET_LAPIC"))
}

/// Ends the machine should the thread unwind.
struct Sentinel<'a>(&'a Outcome, u32);

impl Drop for Sentinel<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.end(ExitReason::RunFailed {
                vcpu: self.1,
                error: "the vCPU thread panicked".into(),
            });
        }
    }
}

/// Runs until the machine ends.
pub(super) fn run(index: u32, vcpu: &mut VcpuFd, buses: &Buses, outcome: &Outcome, gate: &Gate) {
    let _sentinel = Sentinel(outcome, index);
    gate.wait();
    if index == 0 && !outcome.stopping() {
        outcome.first_run();
    }
    while !outcome.stopping() {
        if let Some(reason) = step(index, vcpu, buses) {
            outcome.end(reason);
        }
    }
}

/// One `KVM_RUN` and what follows from it.
fn step(index: u32, vcpu: &mut VcpuFd, buses: &Buses) -> Option<ExitReason> {
    match vcpu.run() {
        Ok(VcpuExit::IoIn(port, data)) => {
            buses.ports.read(u64::from(port), data);
            None
        }
        Ok(VcpuExit::IoOut(port, data)) => {
            buses.ports.write(u64::from(port), data);
            None
        }
        Ok(VcpuExit::MmioRead(address, data)) => {
            buses.memory.read(address, data);
            None
        }
        Ok(VcpuExit::MmioWrite(address, data)) => {
            buses.memory.write(address, data);
            None
        }
        Ok(VcpuExit::Intr | VcpuExit::IrqWindowOpen) => None,
        Ok(VcpuExit::Shutdown) => Some(ExitReason::TripleFault {
            vcpu: index,
            rip: vcpu.get_regs().map_or(0, |regs| regs.rip),
        }),
        Ok(VcpuExit::FailEntry(hardware_reason, host_cpu)) => Some(ExitReason::FailEntry {
            vcpu: index,
            hardware_reason,
            host_cpu,
        }),
        Ok(VcpuExit::InternalError) => Some(ExitReason::InternalError(exit::internal_error(index, vcpu))),
        Ok(other) => Some(ExitReason::Unexpected {
            vcpu: index,
            exit: format!("{other:?}"),
        }),
        Err(error) if matches!(error.errno(), libc::EINTR | libc::EAGAIN) => {
            vcpu.set_kvm_immediate_exit(0);
            None
        }
        Err(error) => Some(ExitReason::RunFailed {
            vcpu: index,
            error: error.to_string(),
        }),
    }
}
