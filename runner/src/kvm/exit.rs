//! How a machine ended.
#![expect(unsafe_code, reason = "KVM reports internal errors in a C union")]

use kvm_ioctls::VcpuFd;
use serde::Serialize;

use crate::devices::{PanicSource, ResetSource};

/// Why a machine stopped.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "reason", rename_all = "snake_case")]
pub enum ExitReason {
    /// The guest switched itself off.
    PoweredOff,
    /// The guest asked for a reset.
    Reset {
        /// By which register.
        source: ResetSource,
    },
    /// The guest's kernel panicked.
    Panicked {
        /// How it became known.
        source: PanicSource,
    },
    /// A CPU faulted while it handled a double fault.
    TripleFault {
        /// Which one.
        vcpu: u32,
        /// Where it was.
        rip: u64,
    },
    /// KVM could not go on.
    InternalError(InternalError),
    /// The processor refused the guest's state.
    FailEntry {
        /// Which vCPU.
        vcpu: u32,
        /// The hardware's reason.
        hardware_reason: u64,
        /// On which host CPU.
        host_cpu: u32,
    },
    /// An exit that this machine never asks for.
    Unexpected {
        /// Which vCPU.
        vcpu: u32,
        /// The exit.
        exit: String,
    },
    /// `KVM_RUN` failed.
    RunFailed {
        /// Which vCPU.
        vcpu: u32,
        /// The system's error.
        error: String,
    },
    /// The deadline passed.
    Deadline,
    /// The host stopped it.
    Stopped,
}

/// What KVM says about an internal error (`KVM_EXIT_INTERNAL_ERROR`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub struct InternalError {
    /// Which vCPU.
    pub vcpu: u32,
    /// 1 = emulation failed, 2 = simultaneous exceptions, 3 = exit while delivering an event, 4 = unexpected exit reason.
    pub suberror: u32,
    /// The bytes of the instruction that KVM could not emulate, where it gives them.
    pub instruction: Vec<u8>,
    /// Further words, as KVM gave them.
    pub data: Vec<u64>,
    /// Where the CPU was; 0 where registers cannot be read.
    pub rip: u64,
    /// CR0, for the mode.
    pub cr0: u64,
    /// Privilege level (0 = kernel).
    pub cpl: u8,
}

impl std::fmt::Display for ExitReason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::PoweredOff => f.write_str("powered off"),
            Self::Reset { source } => write!(f, "reset by {source:?}"),
            Self::Panicked { source } => write!(f, "kernel panic, seen by {source:?}"),
            Self::TripleFault { vcpu, rip } => {
                write!(f, "triple fault on vCPU {vcpu} at {rip:#x}")
            }
            Self::InternalError(error) => write!(
                f,
                "KVM internal error {} on vCPU {} at {:#x}, CPL {}, instruction {:02x?}",
                error.suberror, error.vcpu, error.rip, error.cpl, error.instruction
            ),
            Self::FailEntry {
                vcpu,
                hardware_reason,
                host_cpu,
            } => write!(
                f,
                "vCPU {vcpu} could not be entered on CPU {host_cpu}: {hardware_reason:#x}"
            ),
            Self::Unexpected { vcpu, exit } => write!(f, "unexpected exit of vCPU {vcpu}: {exit}"),
            Self::RunFailed { vcpu, error } => write!(f, "running vCPU {vcpu}: {error}"),
            Self::Deadline => f.write_str("deadline passed"),
            Self::Stopped => f.write_str("stopped by the host"),
        }
    }
}

/// "Instruction bytes are valid" in the first data word (`KVM_INTERNAL_ERROR_EMULATION_FLAG_INSTRUCTION_BYTES`).
const FLAG_INSTRUCTION: u64 = 1;
const SUBERROR_EMULATION: u32 = 1;

/// Reads the details behind `KVM_EXIT_INTERNAL_ERROR`; call only right after that exit.
pub(super) fn internal_error(vcpu: u32, fd: &mut VcpuFd) -> InternalError {
    let run = fd.get_kvm_run();
    // SAFETY: the exit reason is KVM_EXIT_INTERNAL_ERROR, so this member is the valid one; it is plain integers.
    let internal = unsafe { run.__bindgen_anon_1.internal };
    let count = usize::try_from(internal.ndata)
        .unwrap_or(usize::MAX)
        .min(internal.data.len());
    let data = internal.data[..count].to_vec();
    let mut instruction = Vec::new();
    if internal.suberror == SUBERROR_EMULATION
        && let [flags, first, second, ..] = data[..]
        && flags & FLAG_INSTRUCTION != 0
    {
        let bytes = [first.to_le_bytes(), second.to_le_bytes()].concat();
        let size = usize::from(bytes[0]).min(15);
        instruction = bytes[1..=size].to_vec();
    }
    let (cr0, cpl) = fd.get_sregs().map_or((0, 0), |sregs| (sregs.cr0, sregs.cs.dpl));
    InternalError {
        vcpu,
        suberror: internal.suberror,
        instruction,
        data,
        rip: fd.get_regs().map_or(0, |regs| regs.rip),
        cr0,
        cpl,
    }
}
