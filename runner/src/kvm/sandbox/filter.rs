//! The seccomp filter. A call that is not on the list fails with EPERM.

use std::collections::BTreeMap;

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    TargetArch, apply_filter_all_threads,
};

use super::SandboxError;

/// Calls that are allowed with any argument.
const FREE: &[i64] = &[
    // Reading and writing what is open.
    libc::SYS_read,
    libc::SYS_write,
    libc::SYS_readv,
    libc::SYS_writev,
    libc::SYS_pread64,
    libc::SYS_pwrite64,
    libc::SYS_preadv,
    libc::SYS_pwritev,
    libc::SYS_preadv2,
    libc::SYS_pwritev2,
    libc::SYS_lseek,
    libc::SYS_fstat,
    libc::SYS_statx,
    libc::SYS_newfstatat,
    libc::SYS_fsync,
    libc::SYS_fdatasync,
    libc::SYS_fallocate,
    libc::SYS_ftruncate,
    libc::SYS_fcntl,
    libc::SYS_dup,
    libc::SYS_close,
    // Waiting and waking.
    libc::SYS_epoll_create1,
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_wait,
    libc::SYS_epoll_pwait,
    libc::SYS_poll,
    libc::SYS_ppoll,
    libc::SYS_eventfd2,
    libc::SYS_futex,
    libc::SYS_sched_yield,
    libc::SYS_clock_gettime,
    libc::SYS_clock_nanosleep,
    libc::SYS_nanosleep,
    libc::SYS_restart_syscall,
    // The agent's socket; no new socket can be made.
    libc::SYS_accept4,
    libc::SYS_recvfrom,
    libc::SYS_recvmsg,
    libc::SYS_sendto,
    libc::SYS_sendmsg,
    libc::SYS_setsockopt,
    libc::SYS_getsockopt,
    libc::SYS_shutdown,
    // Memory and threads: workers start when the guest activates a device.
    libc::SYS_brk,
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_madvise,
    libc::SYS_set_robust_list,
    libc::SYS_rseq,
    libc::SYS_sigaltstack,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sched_getaffinity,
    libc::SYS_membarrier,
    libc::SYS_gettid,
    libc::SYS_getpid,
    libc::SYS_getrandom,
    libc::SYS_exit,
    libc::SYS_exit_group,
    // Answered with ENOSYS by the second filter, so that the C library uses clone, whose flags can be checked.
    libc::SYS_clone3,
];

/// All KVM ioctls have this type byte.
const KVM_IOCTL_TYPE: u64 = 0xae00;
const IOCTL_TYPE_MASK: u64 = 0xff00;

fn rule(argument: u8, operator: SeccompCmpOp, value: u64) -> Result<SeccompRule, seccompiler::BackendError> {
    SeccompRule::new(vec![SeccompCondition::new(
        argument,
        SeccompCmpArgLen::Dword,
        operator,
        value,
    )?])
}

fn flag(value: i32) -> u64 {
    u64::from(value.unsigned_abs())
}

/// The two programs, in the order of their installation.
///
/// # Errors
/// Where seccompiler refuses them, which would be a mistake in the lists.
pub fn programs() -> Result<[BpfProgram; 2], SandboxError> {
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = FREE.iter().map(|&call| (call, Vec::new())).collect();
    rules.insert(
        libc::SYS_ioctl,
        vec![
            rule(1, SeccompCmpOp::MaskedEq(IOCTL_TYPE_MASK), KVM_IOCTL_TYPE)?,
            rule(1, SeccompCmpOp::Eq, libc::FIONBIO)?,
        ],
    );
    let no_code = |argument| rule(argument, SeccompCmpOp::MaskedEq(flag(libc::PROT_EXEC)), 0);
    rules.insert(libc::SYS_mmap, vec![no_code(2)?]);
    rules.insert(libc::SYS_mprotect, vec![no_code(2)?]);
    // Kicks of the own vCPU threads; no other process is to be disturbed.
    let own = SeccompCmpOp::Eq;
    rules.insert(libc::SYS_tgkill, vec![rule(0, own, std::process::id().into())?]);
    let thread = flag(libc::CLONE_THREAD);
    rules.insert(libc::SYS_clone, vec![rule(0, SeccompCmpOp::MaskedEq(thread), thread)?]);
    rules.insert(
        libc::SYS_prctl,
        vec![rule(0, SeccompCmpOp::Eq, flag(libc::PR_SET_NAME))?],
    );
    let denied = SeccompAction::Errno(u32::try_from(libc::EPERM).expect("positive"));
    let main = SeccompFilter::new(rules, denied, SeccompAction::Allow, TargetArch::x86_64)?;
    let absent = SeccompAction::Errno(u32::try_from(libc::ENOSYS).expect("positive"));
    let clone3 = SeccompFilter::new(
        BTreeMap::from([(libc::SYS_clone3, Vec::new())]),
        SeccompAction::Allow,
        absent,
        TargetArch::x86_64,
    )?;
    // The main filter last: it forbids to install another one.
    Ok([clone3.try_into()?, main.try_into()?])
}

/// Installs both filters on all threads.
///
/// # Errors
/// See [`SandboxError`].
pub fn install() -> Result<(), SandboxError> {
    for program in programs()? {
        apply_filter_all_threads(&program)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_filter_compiles_and_stays_small() {
        let [first, second] = programs().expect("compiles");
        assert!(!first.is_empty() && second.len() < 4096);
    }

    /// The filters bind the thread that installs them, so only that one is lost.
    #[test]
    fn a_thread_behind_the_filter_can_open_start_and_disturb_nothing() {
        let refused = std::thread::spawn(|| {
            for program in programs().expect("compiles") {
                seccompiler::apply_filter(&program).expect("installed");
            }
            let code = |result: std::io::Result<()>| result.err().and_then(|error| error.raw_os_error());
            let init = rustix::process::Pid::INIT;
            [
                ("open", code(std::fs::File::open("/proc/self/status").map(drop))),
                ("socket", code(std::net::UdpSocket::bind("127.0.0.1:0").map(drop))),
                ("start", code(std::process::Command::new("/bin/true").spawn().map(drop))),
                (
                    "signal",
                    code(rustix::process::test_kill_process(init).map_err(Into::into)),
                ),
                ("memory file", {
                    let made = rustix::fs::memfd_create("x", rustix::fs::MemfdFlags::CLOEXEC);
                    code(made.map(drop).map_err(Into::into))
                }),
            ]
        })
        .join()
        .expect("the thread ends as any other");
        for (what, code) in refused {
            assert_eq!(code, Some(libc::EPERM), "{what}");
        }
    }
}
