//! The hands-on console: the terminal in raw mode on a guest's serial line, Ctrl-] leaves.

use crate::engine::{Ended, Vm};
use crate::{Result, RunnerError};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::termios::{OptionalActions, Termios, isatty, tcgetattr, tcsetattr};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

/// Ctrl-].
const LEAVE: u8 = 0x1d;

/// Why the console was left.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Left {
    /// The user pressed Ctrl-] or ended the input.
    User,
    /// The guest or its engine ended.
    Guest(Ended),
    /// `cancel` was set.
    Cancelled,
}

/// Puts the terminal back when it is dropped.
struct Raw(Option<Termios>);

impl Raw {
    fn enter() -> std::io::Result<Self> {
        let stdin = std::io::stdin();
        if !isatty(&stdin) {
            return Ok(Self(None));
        }
        let before = tcgetattr(&stdin)?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(&stdin, OptionalActions::Flush, &raw)?;
        Ok(Self(Some(before)))
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        if let Some(before) = &self.0 {
            // Nothing better can be done where even this fails.
            let _ = tcsetattr(std::io::stdin(), OptionalActions::Flush, before);
        }
    }
}

/// Splits input at Ctrl-]: what to send, and whether to leave.
fn until_leave(input: &[u8]) -> (&[u8], bool) {
    match input.iter().position(|&byte| byte == LEAVE) {
        Some(at) => (&input[..at], true),
        None => (input, false),
    }
}

/// Connects the terminal with the guest's console until one of them ends. The guest keeps running when the user leaves.
///
/// # Errors
/// The terminal cannot be read or written.
pub fn attach(vm: &mut dyn Vm, cancel: &AtomicBool) -> Result<Left> {
    let terminal = Path::new("/dev/stdin");
    let told = |error: std::io::Error| RunnerError::io("using", terminal, error);
    let _raw = Raw::enter().map_err(told)?;
    let console = vm.console().clone();
    let mut log =
        std::fs::File::open(console.log()).map_err(|error| RunnerError::io("reading", console.log(), error))?;
    log.seek(SeekFrom::Start(0)).map_err(told)?;
    let (mut stdout, stdin) = (std::io::stdout(), std::io::stdin());
    let mut buffer = [0_u8; 4096];
    let mut input_open = true;
    loop {
        loop {
            let count = log.read(&mut buffer).map_err(told)?;
            if count == 0 {
                break;
            }
            stdout
                .write_all(&buffer[..count])
                .and_then(|()| stdout.flush())
                .map_err(told)?;
        }
        if cancel.load(Ordering::Relaxed) {
            return Ok(Left::Cancelled);
        }
        if let Some(ended) = vm.ended() {
            return Ok(Left::Guest(ended));
        }
        let tick = Timespec {
            tv_sec: 0,
            tv_nsec: 20_000_000,
        };
        if !input_open {
            std::thread::sleep(std::time::Duration::from_millis(20));
            continue;
        }
        let mut waiting = [PollFd::new(&stdin, PollFlags::IN)];
        if poll(&mut waiting, Some(&tick)).unwrap_or(0) == 0 {
            continue;
        }
        // Past the buffer of std, which poll cannot see.
        let count = rustix::io::read(&stdin, &mut buffer).map_err(|error| told(error.into()))?;
        if count == 0 {
            // Without a terminal the end of the input only means that nothing more is typed.
            input_open = false;
            continue;
        }
        let (send, leave) = until_leave(&buffer[..count]);
        // A guest that has just ended is seen in the next round.
        let _ = console.send(send);
        if leave {
            return Ok(Left::User);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::until_leave;

    #[test]
    fn what_is_typed_before_ctrl_bracket_still_reaches_the_guest() {
        assert_eq!(until_leave(b"ls\r\x1dmore"), (b"ls\r".as_slice(), true));
        assert_eq!(until_leave(b"ls\r"), (b"ls\r".as_slice(), false));
    }
}
