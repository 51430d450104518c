//! fork, exec of a given file, wait: the pair of calls that std's `Command` avoids (it uses vfork semantics), and that make a
//! hypervisor's page tables work.
#![expect(unsafe_code, reason = "fork, execve and _exit have no safe form")]

use std::ffi::CStr;
use std::io::{Error, Result};
use std::ptr::null;

/// Forks, executes `path` without arguments or environment, and waits for its end.
///
/// # Errors
/// fork's error; a child that could not execute the file or did not end with 0.
pub(crate) fn fork_exec_wait(path: &CStr) -> Result<()> {
    const CANNOT_EXECUTE: i32 = 127;
    let arguments = [path.as_ptr(), null()];
    let environment = [null()];
    // SAFETY: the child calls only execve and _exit, both async-signal-safe, so that locks held by other threads at the
    // time of the fork don't matter. path, arguments and environment are NUL- and null-terminated and outlive the call.
    let child = unsafe {
        let child = libc::fork();
        if child == 0 {
            libc::execve(path.as_ptr(), arguments.as_ptr(), environment.as_ptr());
            libc::_exit(CANNOT_EXECUTE);
        }
        child
    };
    if child < 0 {
        return Err(Error::last_os_error());
    }
    let mut status = 0;
    loop {
        // SAFETY: child is a child of this process that nobody else waits for; status is valid for writing.
        let waited = unsafe { libc::waitpid(child, &raw mut status, 0) };
        if waited == child {
            break;
        }
        let error = Error::last_os_error();
        if error.kind() != std::io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
    if libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 0 {
        Ok(())
    } else {
        Err(Error::other(format!(
            "the child ended with wait status {status:#x}; is the folder mounted noexec?"
        )))
    }
}

#[cfg(test)]
mod tests {
    use super::fork_exec_wait;

    #[test]
    fn success_failure_and_missing_file_are_told_apart() {
        assert!(fork_exec_wait(c"/bin/true").is_ok());
        assert!(fork_exec_wait(c"/bin/false").is_err());
        assert!(fork_exec_wait(c"/no/such/file").is_err_and(|error| error.to_string().contains("0x7f00")));
    }
}
