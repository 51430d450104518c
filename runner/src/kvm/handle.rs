//! A running machine: wait for it, stop it, ask it.

use std::{
    sync::{Arc, Condvar, Mutex, PoisonError},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use kvm_ioctls::VmFd;
use serde::Serialize;
use vm_memory::GuestMemoryMmap;
use vmm_sys_util::eventfd::EventFd;

use super::{ExitReason, Stages, VmmError, kick, outcome::Outcome, vcpu::Buses};
use crate::devices::{
    serial::{channel::Input, console::Tail},
    virtio::transport::Carrier,
};

/// What a machine that ended leaves behind.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// Why it ended.
    #[serde(flatten)]
    pub reason: ExitReason,
    /// When it reached what.
    pub stages: Stages,
    /// The last 64 KiB of the console.
    #[serde(skip)]
    pub console: String,
    /// What went wrong when the devices were closed (a last flush, for example).
    pub close_errors: Vec<String>,
}

/// All that lives while the guest runs.
pub(super) struct Running {
    pub(super) outcome: Arc<Outcome>,
    pub(super) threads: Vec<JoinHandle<()>>,
    pub(super) transports: Vec<Arc<Mutex<dyn Carrier>>>,
    pub(super) inputs: Vec<Input>,
    pub(super) tail: Tail,
    pub(super) buses: Arc<Buses>,
    pub(super) vm: Arc<VmFd>,
    pub(super) memory: GuestMemoryMmap,
}

#[derive(Default)]
struct Slot {
    report: Mutex<Option<Report>>,
    filled: Condvar,
}

/// A running machine. Dropping it stops the machine and waits for its threads.
pub struct VmHandle {
    outcome: Arc<Outcome>,
    slot: Arc<Slot>,
    tail: Tail,
    power_button: EventFd,
    supervisor: Option<JoinHandle<()>>,
}

impl std::fmt::Debug for VmHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("VmHandle")
            .field("stages", &self.outcome.stages())
            .finish_non_exhaustive()
    }
}

impl VmHandle {
    pub(super) fn supervise(
        running: Running,
        power_button: EventFd,
        deadline: Option<Duration>,
    ) -> Result<Self, VmmError> {
        let outcome = Arc::clone(&running.outcome);
        let tail = running.tail.clone();
        let slot = Arc::new(Slot::default());
        let theirs = Arc::clone(&slot);
        let limit = deadline.map(|deadline| Instant::now() + deadline);
        let supervisor = thread::Builder::new()
            .name("supervisor".into())
            .spawn(move || {
                let report = running.run_to_end(limit);
                *theirs.report.lock().unwrap_or_else(PoisonError::into_inner) = Some(report);
                theirs.filled.notify_all();
            })
            .map_err(VmmError::system("starting the supervisor thread"))?;
        Ok(Self {
            outcome,
            slot,
            tail,
            power_button,
            supervisor: Some(supervisor),
        })
    }

    /// Blocks until the machine ended and its devices are closed.
    pub fn wait(&self) -> Report {
        let mut report = self.slot.report.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if let Some(report) = &*report {
                return report.clone();
            }
            report = self.slot.filled.wait(report).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// As [`VmHandle::wait`], at most for `time`.
    pub fn wait_timeout(&self, time: Duration) -> Option<Report> {
        let report = self.slot.report.lock().unwrap_or_else(PoisonError::into_inner);
        let (report, _) = self
            .slot
            .filled
            .wait_timeout_while(report, time, |report| report.is_none())
            .unwrap_or_else(PoisonError::into_inner);
        report.clone()
    }

    /// Ends the machine at once, as pulling the plug does.
    pub fn stop(&self) {
        self.outcome.end(ExitReason::Stopped);
    }

    /// Presses the power button; what follows is up to the guest (its `button` driver and init).
    pub fn press_power_button(&self) {
        // An eventfd write fails only when its counter is full: then a press is pending already.
        let _ = self.power_button.write(1);
    }

    /// The stages reached so far.
    pub fn stages(&self) -> Stages {
        self.outcome.stages()
    }

    /// The last 64 KiB of the console so far.
    pub fn console(&self) -> String {
        self.tail.text()
    }
}

impl Drop for VmHandle {
    fn drop(&mut self) {
        self.stop();
        if let Some(supervisor) = self.supervisor.take() {
            let _ = supervisor.join();
        }
    }
}

impl Running {
    /// Waits for the end, then takes everything down: vCPUs, devices, inputs, VM, memory.
    fn run_to_end(self, limit: Option<Instant>) -> Report {
        let reason = self.outcome.wait(limit);
        for thread in self.threads {
            while !thread.is_finished() {
                kick::kick(&thread);
                thread::sleep(Duration::from_millis(1));
            }
            let _ = thread.join();
        }
        let mut close_errors = Vec::new();
        for transport in &self.transports {
            let mut transport = transport.lock().unwrap_or_else(PoisonError::into_inner);
            if let Err(error) = transport.close() {
                close_errors.push(error);
            }
        }
        drop(self.inputs);
        drop(self.buses);
        drop(self.transports);
        drop(self.vm);
        drop(self.memory);
        Report {
            reason,
            stages: self.outcome.stages(),
            console: self.tail.text(),
            close_errors,
        }
    }
}
