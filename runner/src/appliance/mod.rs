//! The appliance: a tiny Linux with the agent as PID 1. Untrusted file systems are mounted there, never by the host.

mod files;
mod image;
mod programs;

pub use image::{agent_binary, appliance_kernel, appliance_status, cache_dir, kernel};

use crate::agent_client::{AgentClient, Listener};
use crate::arch::Topology;
use crate::engine::{
    Accelerator, DiskBus, DiskCache, DiskFormat, DiskSpec, Engine, FirmwareSpec, MachineModel, Vm, VmSpec,
};
use crate::{Result, RunnerError};
use agent::protocol::{Answer, Change, FixupWish, GUEST_TOOLS_TIME, Request, Role};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// For requests that read whole initramfs images, under emulation on a slow host.
const LONG: Duration = Duration::from_secs(300);

/// A running appliance.
pub struct Appliance {
    vm: Box<dyn Vm>,
    agent: AgentClient,
    /// From the engine's start to the agent's hello.
    pub started_in: Duration,
}

impl std::fmt::Debug for Appliance {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Appliance")
            .field("started_in", &self.started_in)
            .finish_non_exhaustive()
    }
}

impl Appliance {
    /// Boots it with `disks` attached writable: hand over overlays, unless the real disk is to be changed.
    ///
    /// # Errors
    /// Kernel, agent or engine missing; it does not answer before the deadline (with its last console lines); stopped.
    pub fn start(
        engine: &dyn Engine,
        accelerator: Accelerator,
        disks: &[(PathBuf, DiskFormat)],
        scratch: &Path,
        deadline: Duration,
        cancel: &AtomicBool,
    ) -> Result<Self> {
        let mut kernel = appliance_kernel()?;
        kernel.cmdline.push_str(&format!(" esxodus.disks={}", disks.len()));
        let disk = |(path, format): &(PathBuf, DiskFormat)| DiskSpec {
            path: path.clone(),
            format: *format,
            bus: DiskBus::VirtioBlk,
            serial: None,
            snapshot: false,
            // Nobody needs the writes of a throw-away overlay after a crash; those of the real disk are kept.
            cache: if path.starts_with(scratch) {
                DiskCache::Unsafe
            } else {
                DiskCache::Writeback
            },
        };
        let spec = VmSpec {
            name: "esxodus-appliance".into(),
            topology: Topology::flat(1),
            memory_mib: 512,
            machine: MachineModel::Q35,
            firmware: FirmwareSpec::Bios,
            kernel: Some(kernel),
            disks: disks.iter().map(disk).collect(),
            nics: Vec::new(),
            uuid: None,
            display: false,
            agent: true,
            rtc_local: false,
            accelerator,
            scratch: scratch.to_owned(),
        };
        let started = Instant::now();
        let mut vm = engine.start(&spec)?;
        let mut listener = Listener::new(vm.agent_lines());
        loop {
            if let Some(agent) = listener.poll()? {
                if agent.role != Role::Appliance {
                    return Err(RunnerError::Agent(format!(
                        "the appliance's agent says it is {:?}",
                        agent.role
                    )));
                }
                let started_in = started.elapsed();
                image::note_start(started_in.as_secs_f64(), accelerator.name());
                return Ok(Self { vm, agent, started_in });
            }
            let words = |vm: &dyn Vm| {
                let lines = vm.console().lines(0);
                let last: Vec<&str> = lines
                    .iter()
                    .rev()
                    .take(5)
                    .rev()
                    .map(|line| line.text.as_str())
                    .collect();
                last.join(" | ")
            };
            if let Some(ended) = vm.ended() {
                return Err(RunnerError::Agent(format!(
                    "the appliance ended before it answered: {} ({})",
                    ended.detail,
                    words(&*vm)
                )));
            }
            if started.elapsed() >= deadline {
                let what = format!("the appliance's start (its last words: {})", words(&*vm));
                return Err(RunnerError::Deadline { what, after: deadline });
            }
            if cancel.load(Ordering::Relaxed) {
                return Err(RunnerError::Cancelled);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// What is on the disks: volumes, and for each root the system, its kernels, fstab and network configuration. `deep` holds the same
    /// as [`reports::schema::DeepFacts`].
    ///
    /// # Errors
    /// As [`AgentClient::ask`].
    pub fn inspect(&mut self, cancel: &AtomicBool) -> Result<serde_json::Value> {
        self.agent.facts(Request::Inspect, LONG, cancel)
    }

    /// Puts the agent into the guest as a service. The disks given must be overlays.
    ///
    /// # Errors
    /// No Linux root was found, its init system is unknown, and as [`AgentClient::ask`].
    pub fn inject(&mut self, cancel: &AtomicBool) -> Result<serde_json::Value> {
        self.agent.facts(Request::Inject, Duration::from_secs(120), cancel)
    }

    /// Makes the guest root ready for KVM. The answer lists each change with before and after.
    ///
    /// # Errors
    /// No Linux root was found, a file could not be written, and as [`AgentClient::ask`].
    pub fn fixup(&mut self, wish: FixupWish, cancel: &AtomicBool) -> Result<serde_json::Value> {
        let deadline = if wish.guest_tools && !wish.dry_run {
            LONG + GUEST_TOOLS_TIME
        } else {
            LONG
        };
        self.agent.facts(Request::Fixup { wish }, deadline, cancel)
    }

    /// Takes changes of a fix-up back, in the root on `device` where it is known.
    ///
    /// # Errors
    /// As [`Appliance::fixup`]; no root is on `device`.
    pub fn undo(
        &mut self,
        changes: Vec<Change>,
        device: Option<String>,
        dry_run: bool,
        cancel: &AtomicBool,
    ) -> Result<serde_json::Value> {
        let request = Request::Undo {
            changes,
            device,
            dry_run,
        };
        self.agent.facts(request, LONG, cancel)
    }

    /// Opens the LUKS volumes that `key`, a passphrase or the bytes of a key file, fits. Returns what could not be opened, in words.
    ///
    /// # Errors
    /// The key is longer than a message; the appliance was built without cryptsetup; as [`AgentClient::ask`].
    pub fn unlock(&mut self, key: &[u8], cancel: &AtomicBool) -> Result<Vec<String>> {
        let answer = self.agent.ask(Request::Unlock, key, LONG, cancel, &mut |_, _| {})?.0;
        let Answer::Facts { value } = answer else {
            return Err(RunnerError::Agent(format!(
                "volumes were to be opened, it answered {answer:?}"
            )));
        };
        Ok(serde_json::from_value(value["notes"].clone()).unwrap_or_default())
    }

    /// The line to its agent, for other requests.
    pub fn agent(&mut self) -> &mut AgentClient {
        &mut self.agent
    }

    /// Unmounts, powers off and waits for the end, so that everything written is in the images.
    ///
    /// # Errors
    /// It does not end in time.
    pub fn stop(mut self, cancel: &AtomicBool) -> Result<()> {
        self.agent
            .ask(Request::PowerOff, &[], Duration::from_secs(60), cancel, &mut |_, _| {})?;
        let until = Instant::now() + Duration::from_secs(30);
        while self.vm.ended().is_none() {
            if Instant::now() >= until {
                return Err(RunnerError::Deadline {
                    what: "the appliance's power-off".into(),
                    after: Duration::from_secs(30),
                });
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }
}
