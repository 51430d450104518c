//! An engine's process: started and waited for by one thread that lives as long as it does, so that it never outlives us.

use super::{Ended, VmStats};
use crate::{Result, RunnerError, sys};
use std::ffi::OsStr;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

#[derive(Debug, Default)]
struct State {
    ended: Mutex<Option<String>>,
    changed: Condvar,
}

/// A running process.
#[derive(Debug)]
pub(crate) struct Process {
    pid: u32,
    log: PathBuf,
    state: Arc<State>,
    clean: Arc<Mutex<bool>>,
}

impl Process {
    /// Starts `program`; both output streams go to `log`.
    pub(crate) fn start<P: AsRef<OsStr>, A: AsRef<OsStr>>(
        program: P,
        args: impl IntoIterator<Item = A>,
        stdin: Stdio,
        log: &Path,
    ) -> Result<Self> {
        let out = File::create(log).map_err(|error| RunnerError::io("writing", log, error))?;
        let err = out
            .try_clone()
            .map_err(|error| RunnerError::io("writing", log, error))?;
        let program = PathBuf::from(program.as_ref());
        let mut command = Command::new(&program);
        command.args(args).stdin(stdin).stdout(out).stderr(err);
        sys::die_with_parent(&mut command);
        let state = Arc::new(State::default());
        let clean = Arc::new(Mutex::new(false));
        let (sender, started) = mpsc::sync_channel::<std::io::Result<u32>>(1);
        let (shared, was_clean) = (Arc::clone(&state), Arc::clone(&clean));
        std::thread::spawn(move || {
            let mut child = match command.spawn() {
                Ok(child) => child,
                Err(error) => {
                    let _ = sender.send(Err(error));
                    return;
                }
            };
            let _ = sender.send(Ok(child.id()));
            let status = child.wait();
            let words = match &status {
                Ok(status) => describe(*status),
                Err(error) => format!("cannot be waited for: {error}"),
            };
            *was_clean.lock().unwrap_or_else(PoisonError::into_inner) = status.is_ok_and(|status| status.success());
            *shared.ended.lock().unwrap_or_else(PoisonError::into_inner) = Some(words);
            shared.changed.notify_all();
        });
        let pid = started
            .recv()
            .map_err(|_| RunnerError::Engine {
                engine: program.display().to_string(),
                message: "the starting thread ended".into(),
            })?
            .map_err(|error| RunnerError::io("starting", &program, error))?;
        Ok(Self {
            pid,
            log: log.to_owned(),
            state,
            clean,
        })
    }

    /// How it ended, once it has.
    pub(crate) fn ended(&self) -> Option<Ended> {
        let words = self
            .state
            .ended
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()?;
        let log = std::fs::read_to_string(&self.log).unwrap_or_default();
        let last: Vec<&str> = log.lines().rev().take(6).collect();
        let tail: Vec<&str> = last.into_iter().rev().collect();
        let detail = if tail.is_empty() {
            words
        } else {
            format!("{words}: {}", tail.join(" | "))
        };
        let clean = *self.clean.lock().unwrap_or_else(PoisonError::into_inner);
        Some(Ended { clean, detail })
    }

    /// Kills it and waits until it is gone.
    pub(crate) fn kill(&self) {
        let mut ended = self.state.ended.lock().unwrap_or_else(PoisonError::into_inner);
        if ended.is_some() {
            return;
        }
        // Still waited for by the thread, so the id cannot belong to another process yet.
        if let Some(pid) = i32::try_from(self.pid).ok().and_then(rustix::process::Pid::from_raw) {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        }
        while ended.is_none() {
            let (guard, timeout) = self
                .state
                .changed
                .wait_timeout(ended, Duration::from_secs(5))
                .unwrap_or_else(PoisonError::into_inner);
            ended = guard;
            if timeout.timed_out() {
                break;
            }
        }
    }

    /// CPU time used and resident memory.
    pub(crate) fn stats(&self) -> VmStats {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid)).unwrap_or_default();
        let fields: Vec<&str> = stat.rsplit(") ").next().unwrap_or("").split_whitespace().collect();
        let number = |index: usize| {
            fields
                .get(index)
                .and_then(|field| field.parse::<u64>().ok())
                .unwrap_or(0)
        };
        let ticks = rustix::param::clock_ticks_per_second().max(1);
        // proc(5): fields 14 and 15 are utime and stime, 24 is rss in pages; two lie before the bracket.
        let pages = number(21);
        #[expect(clippy::cast_precision_loss, reason = "ticks stay far below 2^52")]
        let cpu_seconds = (number(11) + number(12)) as f64 / ticks as f64;
        VmStats {
            cpu_seconds,
            resident_bytes: pages.saturating_mul(rustix::param::page_size() as u64),
        }
    }

    /// Waits for its end.
    pub(crate) fn wait(&self, patience: Duration) -> bool {
        let ended = self.state.ended.lock().unwrap_or_else(PoisonError::into_inner);
        let (ended, _) = self
            .state
            .changed
            .wait_timeout_while(ended, patience, |ended| ended.is_none())
            .unwrap_or_else(PoisonError::into_inner);
        ended.is_some()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

fn describe(status: ExitStatus) -> String {
    use std::os::unix::process::ExitStatusExt;
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("ended with code {code}"),
        (None, Some(signal)) => format!("killed by signal {signal}"),
        (None, None) => "ended".to_owned(),
    }
}
