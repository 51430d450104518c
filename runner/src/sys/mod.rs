//! Calls that the safe crates do not offer.
#![expect(
    unsafe_code,
    reason = "pre_exec is unsafe by nature; each block says why it is sound"
)]

use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;

/// Makes the child die when the *thread* that spawns it dies: the spawning thread has to live as long as the child may.
pub(crate) fn die_with_parent(command: &mut Command) {
    // SAFETY: the closure runs between fork and exec; prctl is async-signal-safe, and the closure touches no memory of ours.
    unsafe {
        command.pre_exec(|| {
            if libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) == -1 {
                return Err(io::Error::last_os_error());
            }
            Ok(())
        });
    }
}
