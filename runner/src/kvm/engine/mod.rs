//! The own VMM as an [`Engine`]: each machine in a process of its own.
//!
//! The sandbox binds a whole process for the rest of its life, and a guest that breaks out of its machine must not find the
//! caller's memory and files there. So the engine starts a *monitor*: the same program again with the argument
//! [`MONITOR`]. It gets its order and its descriptors over a socket, opens kernel and disks, locks itself in, runs the guest.
//! It dies with its parent.

mod monitor;
mod wire;

pub use monitor::serve;

use super::config::{CacheMode, DiskConfig, DiskFormat as ImageFormat, Transport};
use super::outcome::Stages;
use crate::devices::MachineEvent;
use crate::engine::{
    BootStages, Console, DiskBus, DiskCache, DiskFormat, DiskSpec, Ended, Engine, Network, NicSpec, Passt, Process, Vm,
    VmEvent, VmEventKind, VmSpec, VmStats, images,
};
use crate::{Result, RunnerError, qemu};
use agent::protocol::UART_LINE;
use std::fmt::Write as _;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::mpsc;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use wire::{Card, Command, Order, Told};

/// The hidden subcommand that makes the program a monitor; whoever calls the engine has to answer it with [`serve`].
pub const MONITOR: &str = "vmm-monitor";

/// Most request queues of a disk.
const MAX_QUEUES: u32 = 4;

const NAME: &str = "esxodus-vmm";
/// From the monitor's start until its guest runs. A large initrd on a busy host takes seconds to read.
const PATIENCE: Duration = Duration::from_secs(60);
/// Flushing disks at the end.
const STOP_PATIENCE: Duration = Duration::from_secs(10);

/// The own VMM.
#[derive(Debug, Clone, Default)]
pub struct Kvm {
    /// What carries the devices.
    pub transport: Transport,
    /// Guest memory from the host's 2 MiB pages (`vm.nr_hugepages`).
    pub hugepages: bool,
    /// The program that answers [`MONITOR`]; `None`: `$ESXODUS_VMM`, else this very program where it is `esxodus`, else an
    /// `esxodus` beside it.
    pub program: Option<PathBuf>,
    /// Runs the monitor without Landlock and seccomp; for debuggers.
    pub no_sandbox: bool,
}

impl Kvm {
    fn program(&self) -> Result<PathBuf> {
        if let Some(program) = &self.program {
            return Ok(program.clone());
        }
        if let Some(program) = std::env::var_os("ESXODUS_VMM") {
            return Ok(program.into());
        }
        let own =
            std::env::current_exe().map_err(|error| RunnerError::io("finding", Path::new("/proc/self/exe"), error))?;
        if own.file_stem().is_some_and(|name| name == "esxodus") {
            return Ok(own);
        }
        // Tests and benchmarks lie in folders below.
        own.ancestors()
            .skip(1)
            .take(3)
            .map(|folder| folder.join("esxodus"))
            .find(|path| path.is_file())
            .ok_or_else(|| RunnerError::Missing {
                what: "the program that runs machines (esxodus)".into(),
                advice: "Build it, or point ESXODUS_VMM at it".into(),
            })
    }

    fn order(&self, spec: &VmSpec) -> Result<Order> {
        let unusable = |what: String| RunnerError::Unusable {
            what,
            advice: "Use --engine qemu".into(),
        };
        let Some(kernel) = &spec.kernel else {
            return Err(unusable(
                "the own VMM has no firmware: it enters a kernel directly, and none was given or found".into(),
            ));
        };
        if let Some(disk) = spec.disks.iter().find(|disk| disk.bus != DiskBus::VirtioBlk) {
            return Err(unusable(format!(
                "the own VMM has virtio-blk only, and {} wants {}",
                disk.path.display(),
                disk.bus.name()
            )));
        }
        let mut disks = Vec::new();
        for (index, disk) in spec.disks.iter().enumerate() {
            disks.push(disk_config(spec, index, disk)?);
        }
        let cards = spec.nics.iter().enumerate().map(|(index, nic)| {
            let stream = nic.network == Network::User;
            mac(index, nic).map(|mac| Card { mac, stream })
        });
        let cards = cards.collect::<Result<Vec<_>>>()?;
        let most = wire::DESCRIPTORS - 1 - usize::from(spec.agent);
        if cards.iter().filter(|card| card.stream).count() > most {
            return Err(unusable(format!("the own VMM connects {most} network cards at most")));
        }
        Ok(Order {
            kernel: absolute(&kernel.kernel)?,
            initrd: kernel.initrd.as_deref().map(absolute).transpose()?,
            // The agent need not wait for a port that this machine does not have.
            cmdline: if spec.agent {
                format!("{} {UART_LINE}", kernel.cmdline)
            } else {
                kernel.cmdline.clone()
            },
            topology: spec.topology,
            memory_bytes: spec.memory_mib.saturating_mul(1 << 20),
            hugepages: self.hugepages,
            transport: self.transport,
            disks,
            cards,
            agent: spec.agent,
            sandbox: !self.no_sandbox,
            spawned: wire::uptime(),
        })
    }
}

fn absolute(path: &Path) -> Result<PathBuf> {
    std::path::absolute(path).map_err(|error| RunnerError::io("finding", path, error))
}

fn disk_config(spec: &VmSpec, index: usize, disk: &DiskSpec) -> Result<DiskConfig> {
    if disk.format == DiskFormat::Vmdk {
        return Err(RunnerError::Unusable {
            what: format!("the own VMM reads qcow2 and raw, and {} is a VMDK", disk.path.display()),
            advice: "Convert it first, or use --engine qemu".into(),
        });
    }
    let (path, format) = if disk.snapshot {
        let name = format!("run-{}-{index}", std::process::id());
        (
            qemu::overlay(&disk.path, disk.format, &spec.scratch, &name)?,
            DiskFormat::Qcow2,
        )
    } else {
        (disk.path.clone(), disk.format)
    };
    let image = if format == DiskFormat::Raw {
        ImageFormat::Raw
    } else {
        ImageFormat::Qcow2
    };
    let mut config = DiskConfig::new(absolute(&path)?, image);
    // A queue a vCPU, so that none waits for another's requests; each has a thread.
    config.queues = u16::try_from(spec.topology.vcpus().clamp(1, MAX_QUEUES)).unwrap_or(1);
    config.backing = images::other_files(&path, format)?;
    if disk.cache == DiskCache::Unsafe {
        config.cache = CacheMode::Unsafe;
    }
    config.serial = disk
        .serial
        .iter()
        .flat_map(|serial| serial.chars())
        .filter(char::is_ascii_alphanumeric)
        .take(20)
        .collect();
    Ok(config)
}

fn mac(index: usize, nic: &NicSpec) -> Result<[u8; 6]> {
    let wrong = |what: String| RunnerError::Unusable {
        what,
        advice: "Use --engine qemu".into(),
    };
    if nic.model != "virtio-net" {
        return Err(wrong(format!(
            "the own VMM has virtio-net only, and a card wants {}",
            nic.model
        )));
    }
    let Some(text) = &nic.mac else {
        let last = u8::try_from(index).map_err(|_| wrong("more than 256 network cards".into()))?;
        // QEMU's default addresses.
        return Ok([0x52, 0x54, 0x00, 0x12, 0x34, 0x56_u8.wrapping_add(last)]);
    };
    let bytes: Vec<u8> = text
        .split(':')
        .filter_map(|part| u8::from_str_radix(part, 16).ok())
        .collect();
    bytes
        .try_into()
        .map_err(|_| wrong(format!("{text:?} is no MAC address")))
}

impl Engine for Kvm {
    fn version(&self) -> Result<String> {
        Ok(format!("{NAME} {}", env!("CARGO_PKG_VERSION")))
    }

    fn start(&self, spec: &VmSpec) -> Result<Box<dyn Vm>> {
        let mut order = self.order(spec)?;
        let program = self.program()?;
        let folder = tempfile::Builder::new()
            .prefix("esxodus-vm-")
            .tempdir()
            .map_err(|error| RunnerError::io("creating", &std::env::temp_dir(), error))?;
        let line_error = |error| RunnerError::io("talking to", Path::new(NAME), error);
        let (line, theirs) = wire::pair().map_err(line_error)?;
        let (console, console_end) = UnixStream::pair().map_err(line_error)?;
        let (agent, agent_end) = UnixStream::pair().map_err(line_error)?;
        let started = Instant::now();
        order.spawned = wire::uptime();
        let process = Process::start(
            &program,
            [MONITOR],
            Stdio::from(theirs),
            &folder.path().join("monitor.log"),
        )?;
        let log = folder.path().join("console.log");
        let console =
            Console::follow(console, log.clone(), started).map_err(|error| RunnerError::io("writing", &log, error))?;
        let mut uplinks = Vec::new();
        let mut sockets = Vec::new();
        for index in (0..order.cards.len()).filter(|index| order.cards[*index].stream) {
            let (passt, socket) = Passt::start(folder.path(), index)?;
            uplinks.push(passt);
            sockets.push(socket);
        }
        let mut descriptors = vec![console_end.as_fd()];
        if spec.agent {
            descriptors.push(agent_end.as_fd());
        }
        descriptors.extend(sockets.iter().map(|socket| socket.as_fd()));
        wire::tell_with(&line, &order, &descriptors).map_err(line_error)?;
        drop((console_end, agent_end, sockets));
        let line = Arc::new(line);
        let (sender, first) = mpsc::sync_channel(1);
        let seen = Arc::new(Mutex::new(Seen::default()));
        let (listener, theirs) = (Arc::clone(&line), Arc::clone(&seen));
        let listening = std::thread::spawn(move || listen(&listener, &theirs, &sender));
        match first.recv_timeout(PATIENCE) {
            Ok(Ok(())) => {}
            Ok(Err(message)) => {
                return Err(RunnerError::Engine {
                    engine: NAME.into(),
                    message,
                });
            }
            Err(mpsc::RecvTimeoutError::Timeout) => {
                return Err(RunnerError::Deadline {
                    what: "the start of the monitor".into(),
                    after: PATIENCE,
                });
            }
            // It ended without a word on the line: a program that is no monitor, or one that was killed.
            Err(mpsc::RecvTimeoutError::Disconnected) => {
                process.wait(Duration::from_secs(2));
                let words = process.ended().map_or_else(String::new, |ended| ended.detail);
                return Err(RunnerError::Engine {
                    engine: NAME.into(),
                    message: format!("{} {MONITOR} did not start the guest: {words}", program.display()),
                });
            }
        }
        Ok(Box::new(KvmVm {
            process,
            line,
            console,
            lines: if spec.agent { vec![agent] } else { Vec::new() },
            seen,
            listening: Some(listening),
            _uplinks: uplinks,
            _folder: folder,
        }))
    }
}

#[derive(Debug, Default)]
struct Seen {
    events: Vec<VmEvent>,
    stages: BootStages,
    disk_operations: u64,
    ended: Option<(bool, String, Stages)>,
}

/// Takes what the monitor tells until its line ends.
fn listen(line: &OwnedFd, seen: &Mutex<Seen>, first: &mpsc::SyncSender<std::result::Result<(), String>>) {
    while let Ok(Some((told, _))) = wire::hear::<Told>(line) {
        let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
        match told {
            Told::Started => {
                let _ = first.send(Ok(()));
            }
            Told::Failed(message) => {
                let _ = first.send(Err(message));
            }
            Told::Event(event, at) => {
                let stage = match event {
                    MachineEvent::Entered => Some(&mut seen.stages.entered),
                    MachineEvent::ConsoleStarted => Some(&mut seen.stages.console),
                    _ => None,
                };
                if let Some(stage) = stage {
                    stage.get_or_insert(at);
                }
                seen.events.push(VmEvent {
                    at,
                    kind: match event {
                        MachineEvent::PowerOff => VmEventKind::Shutdown,
                        MachineEvent::Reset(_) => VmEventKind::Reset,
                        MachineEvent::Panic(_) => VmEventKind::Panicked,
                        MachineEvent::PanicDoubted
                        | MachineEvent::Entered
                        | MachineEvent::ConsoleStarted
                        | MachineEvent::ConsoleMarker
                        | MachineEvent::Mark(_) => VmEventKind::Other,
                    },
                    detail: words(event),
                });
            }
            Told::Disk(operations) => seen.disk_operations = operations,
            Told::Ended { clean, detail, stages } => seen.ended = Some((clean, detail, stages)),
        }
    }
}

fn words(event: MachineEvent) -> String {
    match event {
        MachineEvent::PowerOff => "power-off by ACPI".into(),
        MachineEvent::Reset(source) => format!("reset by {source:?}"),
        MachineEvent::Panic(source) => format!("kernel panic, seen by {source:?}"),
        MachineEvent::Entered => "the first processor entered the guest".into(),
        MachineEvent::PanicDoubted => "the console goes on after a panic".into(),
        MachineEvent::ConsoleStarted => "first byte on the console".into(),
        MachineEvent::ConsoleMarker => "marker on the console".into(),
        MachineEvent::Mark(byte) => format!("boot mark {byte:#x}"),
    }
}

struct KvmVm {
    process: Process,
    line: Arc<OwnedFd>,
    console: Console,
    lines: Vec<UnixStream>,
    seen: Arc<Mutex<Seen>>,
    listening: Option<JoinHandle<()>>,
    _uplinks: Vec<Passt>,
    // Goes last: the console's log is in it.
    _folder: tempfile::TempDir,
}

impl KvmVm {
    fn tell(&self, command: Command) -> Result<()> {
        wire::tell(&*self.line, &command).map_err(|error| RunnerError::io("talking to", Path::new(NAME), error))
    }

    fn seen(&self) -> std::sync::MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Vm for KvmVm {
    fn console(&self) -> &Console {
        &self.console
    }

    fn agent_lines(&mut self) -> Vec<UnixStream> {
        std::mem::take(&mut self.lines)
    }

    fn events(&mut self) -> Vec<VmEvent> {
        std::mem::take(&mut self.seen().events)
    }

    fn screenshot(&mut self, _path: &Path) -> Result<bool> {
        Ok(false)
    }

    fn disk_operations(&mut self) -> Option<u64> {
        Some(self.seen().disk_operations)
    }

    fn firmware_log(&self) -> String {
        String::new()
    }

    fn press_enter(&mut self) -> Result<()> {
        self.console
            .send(b"\r")
            .map_err(|error| RunnerError::io("typing on", Path::new("the console"), error))
    }

    fn power_button(&mut self) -> Result<()> {
        self.tell(Command::PowerButton)
    }

    fn ended(&mut self) -> Option<Ended> {
        let process = self.process.ended()?;
        // The line has ended with the process; what it said last has to be taken in first.
        if let Some(listening) = self.listening.take() {
            let _ = listening.join();
        }
        let seen = self.seen();
        let Some((clean, detail, stages)) = &seen.ended else {
            return Some(process);
        };
        let mut detail = detail.clone();
        if let Some(end) = stages.end {
            let _ = write!(detail, " after {:.1} s", end.as_secs_f64());
        }
        Some(Ended { clean: *clean, detail })
    }

    fn kill(&mut self) {
        if self.process.ended().is_none() && self.tell(Command::Stop).is_ok() {
            self.process.wait(STOP_PATIENCE);
        }
        self.process.kill();
    }

    fn stages(&self) -> Option<BootStages> {
        Some(self.seen().stages)
    }

    fn stats(&self) -> VmStats {
        self.process.stats()
    }
}

impl Drop for KvmVm {
    fn drop(&mut self) {
        self.kill();
    }
}
