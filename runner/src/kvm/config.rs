//! What a machine shall be.

use std::{
    fs::File,
    os::unix::net::{UnixListener, UnixStream},
    path::PathBuf,
    time::Duration,
};

use crate::{arch::Topology, boot::LinuxBoot};

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
    /// Feeds ttyS0 from the process' standard input.
    pub console_input: bool,
    /// ttyS1, or nothing behind it.
    pub agent: Option<AgentChannel>,
    /// Disks in order: vda, vdb …
    pub disks: Vec<DiskConfig>,
    /// Network cards in order.
    pub nets: Vec<NetConfig>,
    /// Gives the guest an entropy device.
    pub rng: bool,
    /// Text on the console whose first appearance is stamped as [`super::Stages::marker`].
    pub marker: Option<String>,
    /// Ends the machine this long after its start.
    pub deadline: Option<Duration>,
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
            console_input: false,
            agent: None,
            disks: Vec::new(),
            nets: Vec::new(),
            rng: true,
            marker: None,
            deadline: None,
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

/// The host side of ttyS1.
#[derive(Debug)]
pub enum AgentChannel {
    /// Clients connect here, one at a time.
    Listener(UnixListener),
    /// One connected client.
    Stream(UnixStream),
}

/// A disk.
#[derive(Debug, Clone)]
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
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DiskFormat {
    /// Raw file or block device.
    Raw,
    /// qcow2, with its backing files if it has any.
    Qcow2,
}

/// What a guest's flush does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CacheMode {
    /// Page cache; a flush is an fsync.
    Writeback,
    /// Page cache; a flush does nothing. For disks that are thrown away.
    Unsafe,
}

/// A network card.
#[derive(Debug, Clone)]
pub struct NetConfig {
    /// Name of the tap device; made where it does not exist (needs CAP_NET_ADMIN).
    pub tap: String,
    /// MAC address of the guest's side.
    pub mac: [u8; 6],
}
