//! What is asked for, what comes back, and the guest that is made from it.

use super::DiskCheck;
use crate::Result;
use crate::arch::Topology;
use crate::engine::{
    Choice, DirectKernel, DiskBus, DiskCache, DiskFormat, DiskSpec, FirmwareSpec, MachineModel, Network, NicSpec,
    VmSpec, images,
};
use convert::machine::{FirmwareKind, Machine, OsFamily};
use reports::schema::{BenchRecord, BenchSizes, Milestone, ProofRecord, Suite};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// A disk to prove, in the machine's order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProveDisk {
    /// Image file; never written.
    pub path: PathBuf,
    /// Its format.
    pub format: DiskFormat,
}

/// What to measure in the guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BenchWish {
    /// How thorough.
    pub suite: Suite,
    /// Wall seconds that the measuring plans for; `None`: the suite's own.
    pub budget_seconds: Option<u64>,
    /// Only metrics whose id contains one of these; empty: everything.
    pub only: Vec<String>,
    /// Folder in the guest; `None`: `/var/tmp`.
    pub folder: Option<String>,
    /// Sizes of the record that it will be compared with.
    pub like: BenchSizes,
}

impl BenchWish {
    /// Everything of `suite`.
    #[must_use]
    pub fn new(suite: Suite) -> Self {
        Self {
            suite,
            budget_seconds: None,
            only: Vec::new(),
            folder: None,
            like: BenchSizes::default(),
        }
    }
}

/// The records of both sides of each pair, the other place's first.
pub type Turns = Vec<(BenchRecord, BenchRecord)>;

/// Measures the guest once, and fails as [`super::prove`] does.
pub type MeasureGuest<'a> = &'a mut dyn FnMut() -> Result<BenchRecord>;

/// Measures another place in turn with the guest, which it is handed the way to measure: the caller says who comes when.
#[derive(Clone)]
pub struct InTurn(pub Arc<dyn Fn(MeasureGuest<'_>) -> Result<Turns> + Send + Sync>);

impl std::fmt::Debug for InTurn {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("InTurn").finish_non_exhaustive()
    }
}

/// What to prove.
#[derive(Debug, Clone)]
pub struct ProveRequest {
    /// The machine.
    pub machine: Machine,
    /// Its disks.
    pub disks: Vec<ProveDisk>,
    /// The files whose marks before and after are in the record: those of the real disks, or of the source where `disks` are temporary.
    pub real: Vec<PathBuf>,
    /// How they are compared.
    pub check: DiskCheck,
    /// Run folder: evidence goes into `proof/` in it, throw-away overlays too while it runs.
    pub out: PathBuf,
    /// Engine and accelerator of the boot.
    pub choice: Choice,
    /// Those of the appliance, which enters its own kernel directly.
    pub appliance: Choice,
    /// From the guest's start to the verdict; the benchmark has its own time.
    pub timeout: Duration,
    /// So long without a sign of life (console, screen, disk) and the guest counts as hung.
    pub silence: Duration,
    /// Where it fails, try other buses and firmware, in the order of [`super::SEARCH_ORDER`].
    pub search: bool,
    /// Boots in all on the hardware that is proven: more than one shows whether it boots every time, and how its times vary.
    pub boots: u32,
    /// Also measure in the guest.
    pub bench: Option<BenchWish>,
    /// Measure another place in turn with it.
    pub in_turn: Option<InTurn>,
    /// Put the agent into the overlay.
    pub inject_agent: bool,
    /// Disk bus other than the default (virtio-blk for Linux, SATA for everything else).
    pub bus: Option<DiskBus>,
    /// Firmware other than the machine's.
    pub firmware: Option<FirmwareSpec>,
    /// Enters this kernel directly instead of the guest's own boot loader; proves less, and the record says so.
    pub kernel: Option<DirectKernel>,
}

/// What was found.
#[derive(Debug, Clone, PartialEq)]
pub struct ProveOutcome {
    /// For `proof.json`.
    pub record: ProofRecord,
    /// Inspection of the disks by the appliance, where it ran.
    pub inspection: Option<serde_json::Value>,
    /// The benchmark's record, where one was asked for and the agent could run it.
    pub bench: Option<BenchRecord>,
    /// Why there is no benchmark record although one was asked for.
    pub bench_missing: Option<String>,
    /// Where they were taken in turn.
    pub turns: Turns,
    /// Milestones of the further boots on the same hardware, where more than one was asked for.
    pub repeats: Vec<Vec<Milestone>>,
    /// Wall seconds by stage: `check`, `inject`, `boot`, `steady`, `bench`, `power-off`, `check-after`; of all tries together.
    pub stages: Vec<(String, f64)>,
}

/// Text form of the SMBIOS UUID such that QEMU writes the same 16 table bytes: the first three fields are little endian.
fn uuid_text(bytes: [u8; 16]) -> String {
    let hex = |range: std::ops::Range<usize>, reverse: bool| -> String {
        let mut part = bytes[range].to_vec();
        if reverse {
            part.reverse();
        }
        part.iter().map(|byte| format!("{byte:02x}")).collect()
    };
    format!(
        "{}-{}-{}-{}-{}",
        hex(0..4, true),
        hex(4..6, true),
        hex(6..8, true),
        hex(8..10, false),
        hex(10..16, false)
    )
}

/// Half of what the host has free, as the most that a proof takes, in MiB.
fn memory_bound() -> u64 {
    let info = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let free = info
        .lines()
        .find_map(|line| {
            line.strip_prefix("MemAvailable:")?
                .split_whitespace()
                .next()?
                .parse::<u64>()
                .ok()
        })
        .unwrap_or(2 << 20);
    (free / 1024 / 2).max(512)
}

/// Sockets, cores and threads as the machine says; one socket of cores where it has fewer CPUs here, or says nothing that fits.
fn topology(said: Topology, vcpus: u32) -> Topology {
    if said.vcpus() == vcpus {
        said
    } else {
        Topology::flat(vcpus)
    }
}

/// A guest that shows nothing for so long is hung: longer than any wait of a distribution's init for a device (90 s).
const SILENCE: Duration = Duration::from_secs(120);

/// The virtual hardware of a try.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Hardware {
    pub(crate) bus: DiskBus,
    pub(crate) firmware: FirmwareSpec,
    pub(crate) nic: &'static str,
}

impl Hardware {
    /// On `bus`. A guest on an old bus is taken to have no virtio at all, so its NIC is Intel's.
    pub(crate) fn new(bus: DiskBus, firmware: FirmwareSpec) -> Self {
        let nic = match bus {
            DiskBus::VirtioBlk | DiskBus::VirtioScsi => "virtio-net",
            DiskBus::Sata => "e1000e",
            // e1000e sits on PCI Express only, which the board with IDE has not.
            DiskBus::Ide => "e1000",
        };
        Self { bus, firmware, nic }
    }

    /// `bios` or `uefi`.
    pub(crate) fn firmware_name(&self) -> &'static str {
        if self.firmware == FirmwareSpec::Bios {
            "bios"
        } else {
            "uefi"
        }
    }
}

impl ProveRequest {
    /// A proof with the agent, of the machine as it is.
    #[must_use]
    pub fn new(machine: Machine, disks: Vec<ProveDisk>, out: &Path, choice: Choice) -> Self {
        Self {
            real: disks.iter().map(|disk| disk.path.clone()).collect(),
            check: DiskCheck::default(),
            out: out.to_owned(),
            timeout: Duration::from_secs(300),
            silence: SILENCE,
            search: false,
            boots: 1,
            bench: None,
            in_turn: None,
            inject_agent: true,
            bus: None,
            firmware: None,
            kernel: None,
            machine,
            disks,
            appliance: choice.clone(),
            choice,
        }
    }

    /// The hardware that is tried first. `linux_found`: whatever the description says, a Linux is on the disks.
    pub(crate) fn hardware(&self, linux_found: bool) -> Hardware {
        let linux = self.machine.os.family == OsFamily::Linux || linux_found;
        let bus = self
            .bus
            .unwrap_or(if linux { DiskBus::VirtioBlk } else { DiskBus::Sata });
        let firmware = self.firmware.clone().unwrap_or(match self.machine.firmware.kind {
            FirmwareKind::Bios => FirmwareSpec::Bios,
            FirmwareKind::Uefi => FirmwareSpec::Uefi {
                secure_boot: self.machine.firmware.secure_boot,
            },
        });
        let nic = if linux { "virtio-net" } else { "e1000e" };
        Hardware { bus, firmware, nic }
    }

    /// The guest as a person wants it at hand: the console on the first serial port, no display, and writes in throw-away
    /// overlays below `scratch` unless `persist`. The second value says in words where it is smaller than the machine.
    #[must_use]
    pub fn hands_on_spec(&self, scratch: &Path, persist: bool) -> (VmSpec, Vec<String>) {
        let paths: Vec<PathBuf> = self.disks.iter().map(|disk| disk.path.clone()).collect();
        let (mut spec, notes) = self.spec(&self.hardware(false), &paths, scratch);
        for (wanted, disk) in spec.disks.iter_mut().zip(&self.disks) {
            wanted.format = disk.format;
            wanted.snapshot = !persist;
            wanted.cache = if persist {
                DiskCache::Writeback
            } else {
                DiskCache::Unsafe
            };
        }
        spec.display = false;
        spec.agent = false;
        (spec, notes)
    }

    /// A proof alone throws its writes away, and flushes would only cost time. What is measured has to reach the disk.
    fn cache(&self, overlay: &Path) -> DiskCache {
        if self.bench.is_none() {
            DiskCache::Unsafe
        } else if images::direct_io(overlay, DiskFormat::Qcow2) {
            DiskCache::Direct
        } else {
            DiskCache::Writeback
        }
    }

    /// What a guest on `spec` is measured on, for the record.
    pub(crate) fn storage(&self, spec: &VmSpec) -> Option<String> {
        let (disk, real) = (spec.disks.first()?, self.disks.first()?);
        Some(format!(
            "throw-away qcow2 overlays on {}, {}, {}",
            real.format.name(),
            disk.bus.name(),
            disk.cache.words()
        ))
    }

    /// The guest on `disks` (the overlays), and in words where it is smaller than the machine.
    pub(crate) fn spec(&self, hardware: &Hardware, disks: &[PathBuf], scratch: &Path) -> (VmSpec, Vec<String>) {
        let machine = &self.machine;
        let mut notes = Vec::new();
        let cpus = std::thread::available_parallelism().map_or(1, |count| u32::try_from(count.get()).unwrap_or(1));
        let vcpus = machine.cpu.vcpus.clamp(1, cpus.max(1));
        if vcpus < machine.cpu.vcpus {
            notes.push(format!(
                "run with {vcpus} of {} vCPUs: this host has no more",
                machine.cpu.vcpus
            ));
        }
        let said = Topology {
            sockets: machine.cpu.sockets,
            cores: machine.cpu.cores_per_socket,
            threads: machine.cpu.threads,
        };
        let topology = topology(said, vcpus);
        // More memory than this proves nothing more about booting.
        let memory_mib = machine.memory.mib.clamp(256, memory_bound().min(8192));
        if memory_mib < machine.memory.mib {
            notes.push(format!("run with {memory_mib} of {} MiB of memory", machine.memory.mib));
        }
        if self.kernel.is_some() {
            notes.push("the kernel was entered directly: the guest's boot loader was not tried".to_owned());
        }
        let serial = |index: usize| machine.disks.get(index).and_then(|disk| disk.serial.clone());
        let spec = VmSpec {
            name: machine.name.clone(),
            topology,
            memory_mib,
            machine: if hardware.bus == DiskBus::Ide {
                MachineModel::Pc
            } else {
                MachineModel::Q35
            },
            firmware: hardware.firmware.clone(),
            kernel: self.kernel.clone(),
            disks: disks
                .iter()
                .enumerate()
                .map(|(index, path)| DiskSpec {
                    path: path.clone(),
                    format: DiskFormat::Qcow2,
                    bus: hardware.bus,
                    serial: serial(index),
                    snapshot: false,
                    cache: self.cache(path),
                })
                .collect(),
            nics: machine
                .nics
                .iter()
                .map(|nic| NicSpec {
                    mac: nic.mac.clone(),
                    model: hardware.nic.into(),
                    slot: nic.pci_slot,
                    network: Network::Nothing,
                })
                .collect(),
            uuid: machine.identity.smbios_uuid.map(uuid_text),
            display: true,
            agent: true,
            rtc_local: machine.rtc_local,
            accelerator: self.choice.accelerator,
            scratch: scratch.to_owned(),
        };
        (spec, notes)
    }
}

#[cfg(test)]
mod tests {
    use super::{Topology, topology, uuid_text};

    #[test]
    fn cpus_are_grouped_as_the_machine_says_unless_there_are_fewer_here() {
        let said = Topology {
            sockets: 2,
            cores: 2,
            threads: 2,
        };
        assert_eq!(topology(said, 8), said);
        assert_eq!(topology(said, 4), Topology::flat(4));
        let silent = Topology { sockets: 0, ..said };
        assert_eq!(topology(silent, 8), Topology::flat(8));
    }

    #[test]
    fn the_uuid_text_gives_the_guest_the_same_table_bytes() {
        let bytes = [
            0x42, 0x2c, 0x5e, 0x1f, 0x11, 0x22, 0x33, 0x44, 0x55, 0x66, 0x77, 0x88, 0x99, 0xaa, 0xbb, 0xcc,
        ];
        assert_eq!(uuid_text(bytes), "1f5e2c42-2211-4433-5566-778899aabbcc");
    }
}
