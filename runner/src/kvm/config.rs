//! What a machine shall be.

use std::{
    fs::File,
    os::unix::net::{UnixListener, UnixStream},
    path::PathBuf,
    sync::{Arc, atomic::AtomicU64},
    time::{Duration, Instant},
};

use crate::{arch::Topology, boot::LinuxBoot, devices::EventSink};

/// A machine.
#[derive(Debug)]
pub struct VmmConfig {
    /// The KVM device; normally `/dev/kvm`.
    pub kvm: PathBuf,
    /// CPUs.
    pub topology: Topology,
    /// RAM in bytes, a multiple of 4096 (2 MiB with `hugepages`).
    pub memory_bytes: u64,
    /// Backs RAM with 2 MiB pages of the host (`vm.nr_hugepages`).
    pub hugepages: bool,
    /// Kernel, initrd, command line.
    pub boot: LinuxBoot,
    /// Where ttyS0 goes.
    pub console: SerialOutput,
    /// What is typed on ttyS0.
    pub console_input: SerialInput,
    /// ttyS1, or nothing behind it.
    pub agent: Option<AgentChannel>,
    /// Disks in order: vda, vdb …
    pub disks: Vec<DiskConfig>,
    /// Counts the requests that the disks served.
    pub disk_operations: Arc<AtomicU64>,
    /// Network cards in order.
    pub nets: Vec<NetConfig>,
    /// Gives the guest an entropy device.
    pub rng: bool,
    /// Text on the console whose first appearance is stamped as [`super::Stages::marker`].
    pub marker: Option<String>,
    /// Ends the machine this long after its start.
    pub deadline: Option<Duration>,
    /// What carries the virtio devices.
    pub transport: Transport,
    /// Time zero of the boot stages; `None`: when [`super::Vmm::new`] is called. Whoever starts a process for the machine knows
    /// when it did.
    pub started: Option<Instant>,
    /// Also told what the devices tell the machine.
    pub observer: Option<EventSink>,
}

impl VmmConfig {
    /// A machine with one CPU, 256 MiB, console on standard output, nothing else.
    pub fn new(boot: LinuxBoot) -> Self {
        Self {
            kvm: "/dev/kvm".into(),
            topology: Topology::flat(1),
            memory_bytes: 256 << 20,
            hugepages: false,
            boot,
            console: SerialOutput::Stdout,
            console_input: SerialInput::None,
            agent: None,
            disks: Vec::new(),
            disk_operations: Arc::default(),
            nets: Vec::new(),
            rng: true,
            marker: None,
            deadline: None,
            transport: Transport::default(),
            started: None,
            observer: None,
        }
    }
}

/// Where the console's output goes. Its last 64 KiB are kept in any case.
#[derive(Debug)]
pub enum SerialOutput {
    /// Nowhere else.
    Discard,
    /// The process' standard output.
    Stdout,
    /// A file.
    File(File),
    /// A connected socket.
    Stream(UnixStream),
}

/// Where the console's input comes from.
#[derive(Debug)]
pub enum SerialInput {
    /// Nobody types.
    None,
    /// The process' standard input.
    Stdin,
    /// A connected socket.
    Stream(UnixStream),
}

/// What carries the virtio devices. The devices are the same on both.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Transport {
    /// virtio-mmio windows named in the DSDT: the smallest machine, for kernels with `CONFIG_VIRTIO_MMIO` (Debian, Ubuntu).
    #[default]
    Mmio,
    /// virtio-pci with MSI-X behind a host bridge, for kernels without virtio-mmio (RHEL and its family).
    Pci,
}

/// The host side of ttyS1.
#[derive(Debug)]
pub enum AgentChannel {
    /// Clients connect here, one at a time.
    Listener(UnixListener),
    /// One connected client.
    Stream(UnixStream),
}

/// A disk.
#[derive(Debug, Clone, serde::Serialize, serde::Deserialize)]
pub struct DiskConfig {
    /// Image file or block device.
    pub path: PathBuf,
    /// What is in it.
    pub format: DiskFormat,
    /// The files that a qcow2 image may name as its backing chain; it opens nothing else.
    pub backing: Vec<PathBuf>,
    /// Refuses writes.
    pub read_only: bool,
    /// Whether a guest flush reaches the host's disk.
    pub cache: CacheMode,
    /// Serial number that the guest reads (20 bytes at most).
    pub serial: String,
    /// Request queues, one worker thread each.
    pub queues: u16,
}

impl DiskConfig {
    /// A writable disk with one queue.
    pub fn new(path: impl Into<PathBuf>, format: DiskFormat) -> Self {
        Self {
            path: path.into(),
            format,
            backing: Vec::new(),
            read_only: false,
            cache: CacheMode::Writeback,
            serial: String::new(),
            queues: 1,
        }
    }
}

/// Format of a disk image. Never guessed from the content: a guest could write a header into a raw disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DiskFormat {
    /// Raw file or block device.
    Raw,
    /// qcow2, with its backing files if it has any.
    Qcow2,
}

/// What a guest's flush does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CacheMode {
    /// Page cache; a flush is an fsync.
    Writeback,
    /// Page cache; a flush does nothing. For disks that are thrown away.
    Unsafe,
}

/// What a network card is connected with.
#[derive(Debug)]
pub enum Uplink {
    /// Link up, nothing behind it.
    Nothing,
    /// A tap device by name; made where it does not exist (needs CAP_NET_ADMIN).
    Tap(String),
    /// A connected stream socket with a length before each frame, as `passt` and QEMU's `-netdev stream` speak it.
    Stream(UnixStream),
}

/// A network card.
#[derive(Debug)]
pub struct NetConfig {
    /// What it is connected with.
    pub uplink: Uplink,
    /// MAC address of the guest's side.
    pub mac: [u8; 6],
}
