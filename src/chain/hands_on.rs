//! A guest at hand: what runs, on which engine, with this terminal as its console.

use super::folder::RunFolder;
use super::{measure, prove};
use crate::cli::Context;
use crate::cli::options::{EngineArgs, EngineName};
use anyhow::{Context as _, bail};
use runner::appliance::Appliance;
use runner::arch::Topology;
use runner::console::Left;
use runner::direct::{self, Found};
use runner::engine::{
    Choice, DirectKernel, DiskBus, DiskCache, DiskFormat, DiskSpec, Engine as _, EngineKind, FirmwareSpec,
    MachineModel, Network, NicSpec, VmSpec,
};
use runner::kvm::Transport;
use runner::kvm::engine::Kvm;
use runner::qemu::{self, Qemu};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// What to run.
#[derive(Debug)]
pub(crate) enum What {
    /// The converted guest of a run folder.
    Folder(RunFolder),
    /// Disk images, in order; none for a kernel alone.
    Disks(Vec<(PathBuf, DiskFormat)>),
}

/// How to run it.
#[derive(Debug)]
pub(crate) struct Wish<'a> {
    pub(crate) engine: &'a EngineArgs,
    /// This kernel instead of the guest's own.
    pub(crate) kernel: Option<DirectKernel>,
    /// Enter the guest's own kernel without its boot loader.
    pub(crate) direct: bool,
    /// Write to the disks themselves.
    pub(crate) persist: bool,
    pub(crate) memory_mib: Option<u64>,
    pub(crate) vcpus: Option<u32>,
    pub(crate) firmware: FirmwareSpec,
    pub(crate) transport: Transport,
    pub(crate) hugepages: bool,
    /// What the guest's network cards are connected with.
    pub(crate) network: Network,
}

/// How it went.
#[derive(Debug, serde::Serialize)]
pub(crate) struct Report {
    ended: String,
    engine: String,
    engine_reason: String,
    /// Kernel, initial RAM file system and command line, where they were found in the guest.
    kernel: Option<String>,
}

impl Report {
    /// For people.
    pub(crate) fn text(&self) -> String {
        self.ended.clone()
    }
}

/// Memory of a guest that is only a disk.
const DEFAULT_MEMORY_MIB: u64 = 1024;

/// Runs it until the guest ends or Ctrl-] is pressed.
///
/// # Errors
/// The engine can't be had or fails; no kernel is found where one has to be entered directly.
pub(crate) fn run(context: &Context, what: &What, wish: &Wish<'_>) -> anyhow::Result<Report> {
    let scratch = match what {
        What::Folder(folder) => tempfile::Builder::new().prefix(".run-").tempdir_in(folder.root()),
        // Overlays may grow large, and /tmp is often memory.
        What::Disks(_) => tempfile::Builder::new().prefix("esxodus-run-").tempdir_in("/var/tmp"),
    }
    .context("cannot make a folder for overlays")?;
    let disks = match what {
        What::Folder(folder) => prove::request(folder, wish.engine)?
            .disks
            .into_iter()
            .map(|disk| (disk.path, disk.format))
            .collect(),
        What::Disks(disks) => disks.clone(),
    };
    let (kernel, found) = entered(context, wish, &disks, scratch.path())?;
    let choice = if kernel.is_some() {
        measure::choose_direct(wish.engine)?
    } else {
        measure::choose(wish.engine)?
    };
    context.say(&format!("guests run on: {}", choice.reason));
    let mut spec = match what {
        What::Folder(folder) => {
            let mut request = prove::request(folder, wish.engine)?;
            request.choice = choice.clone();
            let (spec, notes) = request.hands_on_spec(scratch.path(), wish.persist);
            for note in notes {
                context.say(&note);
            }
            spec
        }
        What::Disks(_) => plain_spec(wish, &disks, &choice, scratch.path()),
    };
    spec.kernel = kernel;
    spec.memory_mib = wish.memory_mib.unwrap_or(spec.memory_mib);
    spec.topology = wish.vcpus.map_or(spec.topology, Topology::flat);
    for nic in &mut spec.nics {
        nic.network = wish.network;
    }
    if wish.network == Network::User && spec.nics.is_empty() {
        context.say("the guest has no network card: --net user connects nothing");
    }
    context.say("console of the guest: Ctrl-] leaves");
    let own = Kvm {
        transport: wish.transport,
        hugepages: wish.hugepages,
        ..Kvm::default()
    };
    let (engine, mut vm) = match choice.engine {
        EngineKind::Kvm => (own.version()?, own.start(&spec)?),
        EngineKind::Qemu => (Qemu.version()?, Qemu.start(&spec)?),
    };
    let left = runner::console::attach(vm.as_mut(), &context.cancel)?;
    let ended = match left {
        Left::User => "left by Ctrl-]; the guest was switched off".to_owned(),
        Left::Guest(ended) => format!("the guest ended: {}", ended.detail),
        Left::Cancelled => bail!("stopped"),
    };
    Ok(Report {
        ended,
        engine,
        engine_reason: choice.reason,
        kernel: found,
    })
}

/// The kernel to enter directly, and in words what was found; neither where the guest boots through its own boot loader.
fn entered(
    context: &Context,
    wish: &Wish<'_>,
    disks: &[(PathBuf, DiskFormat)],
    scratch: &Path,
) -> anyhow::Result<(Option<DirectKernel>, Option<String>)> {
    if wish.kernel.is_some() {
        return Ok((wish.kernel.clone(), None));
    }
    let asked = wish.direct || wish.engine.engine == EngineName::Kvm;
    // Without a KVM that the own VMM can use, nothing is gained by leaving the guest's boot loader out.
    if !asked && measure::choose_direct(wish.engine)?.engine == EngineKind::Qemu {
        return Ok((None, None));
    }
    match kernel_of(context, wish.engine, disks, scratch) {
        Ok(mut found) => {
            context.say(&format!("entering the guest's kernel directly: {}", found.chosen));
            if !wish.persist {
                found.kernel.cmdline = direct::with_console(&found.kernel.cmdline);
            }
            context.say(&format!("its command line: {}", found.kernel.cmdline));
            Ok((Some(found.kernel), Some(found.chosen)))
        }
        Err(error) if asked => Err(error),
        Err(error) => {
            context.say(&format!("booting through the guest's own boot loader: {error}"));
            Ok((None, None))
        }
    }
}

/// Under emulation on a slow host.
const APPLIANCE_DEADLINE: Duration = Duration::from_secs(120);

/// The kernel that the guest's own boot loader would start; through the appliance where it lies on what only Linux reads.
///
/// # Errors
/// There is none, the appliance can't be had.
pub(crate) fn kernel_of(
    context: &Context,
    engine: &EngineArgs,
    disks: &[(PathBuf, DiskFormat)],
    scratch: &Path,
) -> anyhow::Result<Found> {
    let accelerator = measure::choose_direct(engine)?.accelerator;
    let mut start = || {
        context.say("the host doesn't read the guest's file systems: the appliance looks for its kernel");
        let overlays = disks.iter().enumerate().map(|(index, (path, format))| {
            let overlay = qemu::overlay(path, *format, scratch, &format!("kernel-{index}"))?;
            Ok((overlay, DiskFormat::Qcow2))
        });
        let overlays = overlays.collect::<runner::Result<Vec<_>>>()?;
        // In QEMU always: its line to the agent carries a kernel in a second, a serial line takes minutes.
        Appliance::start(
            &Qemu,
            accelerator,
            &overlays,
            scratch,
            APPLIANCE_DEADLINE,
            &context.cancel,
        )
    };
    Ok(direct::find_anywhere(disks, scratch, &mut start, &context.cancel)?)
}

/// A guest that is known by its disks alone.
fn plain_spec(wish: &Wish<'_>, disks: &[(PathBuf, DiskFormat)], choice: &Choice, scratch: &Path) -> VmSpec {
    let name = disks
        .first()
        .and_then(|(path, _)| path.file_stem())
        .map_or_else(|| "guest".to_owned(), |name| name.to_string_lossy().into_owned());
    let disk = |(path, format): &(PathBuf, DiskFormat)| DiskSpec {
        path: path.clone(),
        format: *format,
        bus: DiskBus::VirtioBlk,
        serial: None,
        snapshot: !wish.persist,
        cache: if wish.persist {
            DiskCache::Writeback
        } else {
            DiskCache::Unsafe
        },
    };
    VmSpec {
        name,
        topology: Topology::flat(1),
        memory_mib: DEFAULT_MEMORY_MIB,
        machine: MachineModel::Q35,
        firmware: wish.firmware.clone(),
        kernel: None,
        disks: disks.iter().map(disk).collect(),
        nics: vec![NicSpec {
            mac: None,
            model: "virtio-net".into(),
            slot: None,
            network: Network::Nothing,
        }],
        uuid: None,
        display: false,
        agent: false,
        rtc_local: false,
        accelerator: choice.accelerator,
        scratch: scratch.to_owned(),
    }
}
