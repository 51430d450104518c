//! Types of the neutral machine. Every field keeps what matters to a guest; nothing here knows a target.
//!
//! Units are in the names. Byte orders: [`Identity::smbios_uuid`] holds the 16 bytes in SMBIOS table order, as VMX prints
//! them.

use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// Version of `machine.json`.
pub const MACHINE_SCHEMA: u32 = 1;

/// What described the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "json-schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum SourceKind {
    /// A `.vmx` or `.vmtx` file.
    Vmx,
    /// An `.ovf` file beside its disks.
    Ovf,
    /// An `.ova` package.
    Ova,
    /// A bare disk: the machine around it is a guess, and says so.
    Vmdk,
}

/// A guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "json-schema", derive(schemars::JsonSchema))]
pub struct Machine {
    /// [`MACHINE_SCHEMA`].
    pub schema: u32,
    /// What described it.
    pub source_kind: SourceKind,
    /// The description's path as given by the user.
    pub source: PathBuf,
    /// Name at the source, decoded.
    pub name: String,
    /// Notes (`annotation`).
    pub notes: String,
    /// `virtualHW.version` or the number in `vmx-NN`.
    pub hw_version: Option<u32>,
    /// Identity that guest software may be bound to.
    pub identity: Identity,
    /// Guest operating system.
    pub os: GuestOs,
    /// Firmware.
    pub firmware: Firmware,
    /// CPUs.
    pub cpu: CpuTopology,
    /// Memory.
    pub memory: Memory,
    /// Disk controllers, ordered by bus and index.
    pub controllers: Vec<Controller>,
    /// Hard disks, ordered as the firmware numbers them: bus, controller, unit as numbers.
    pub disks: Vec<Disk>,
    /// CD-ROM and floppy drives.
    pub removable: Vec<Removable>,
    /// Network adapters, ordered by their index.
    pub nics: Vec<Nic>,
    /// Serial ports.
    pub serial: Vec<SerialPort>,
    /// Parallel ports.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub parallel: Vec<ParallelPort>,
    /// USB controllers and what is plugged into them.
    #[serde(default, skip_serializing_if = "Usb::is_empty")]
    pub usb: Usb,
    /// Sound device as the source spells it: `hdaudio`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sound: Option<String>,
    /// Video memory in KiB, where the source states it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub video_kib: Option<u64>,
    /// Devices passed through from the host, named as at the source: `pciPassthru0`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub passthrough: Vec<String>,
    /// Offset of the RTC from UTC in seconds (`rtc.diffFromUTC`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rtc_offset_seconds: Option<i64>,
    /// A template (`.vmtx`), not a guest that ran.
    #[serde(default)]
    pub template: bool,
    /// Snapshots that the source's tree names, oldest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub snapshots: Vec<Snapshot>,
    /// RTC in local time instead of UTC (Windows, unless inspection says otherwise).
    pub rtc_local: bool,
    /// Boot order as device names (`scsi0:0`, `ethernet0`), present devices only. Empty: first disk.
    pub boot_order: Vec<String>,
}

/// What identifies the machine to software inside.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "json-schema", derive(schemars::JsonSchema))]
pub struct Identity {
    /// SMBIOS UUID, 16 bytes in table order (`uuid.bios`).
    pub smbios_uuid: Option<[u8; 16]>,
    /// SMBIOS serial, `VMware-42 2c …`.
    pub smbios_serial: Option<String>,
    /// VM generation id as 16 bytes of guest memory.
    pub generation_id: Option<[u8; 16]>,
}

/// Family of the guest OS, which decides drivers, bus and clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "json-schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum OsFamily {
    /// Linux.
    Linux,
    /// Windows.
    Windows,
    /// BSDs, Solaris, everything else.
    Other,
}

/// Guest OS.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "json-schema", derive(schemars::JsonSchema))]
pub struct GuestOs {
    /// As the source declares it: `debian12-64`.
    pub declared: String,
    /// Family.
    pub family: OsFamily,
    /// 64-bit guest.
    pub is_64bit: bool,
    /// For people: `Debian 12 (64-bit)`.
    pub title: String,
    /// Proxmox `ostype`: `l26`, `win11`, `other`.
    pub pve_ostype: String,
    /// libosinfo id, where one fits.
    pub osinfo_id: Option<String>,
}

/// BIOS or UEFI.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "json-schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum FirmwareKind {
    /// Legacy BIOS.
    Bios,
    /// UEFI.
    Uefi,
}

/// Version of a virtual TPM.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "json-schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Tpm {
    /// None.
    None,
    /// TPM 2.0.
    V2,
}

/// Firmware and what belongs to it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "json-schema", derive(schemars::JsonSchema))]
pub struct Firmware {
    /// Kind.
    pub kind: FirmwareKind,
    /// Secure Boot is on.
    pub secure_boot: bool,
    /// Virtual TPM.
    pub tpm: Tpm,
    /// The `.nvram` file as the source names it.
    pub nvram: Option<String>,
}

/// CPUs. `sockets * cores_per_socket * threads == vcpus` always holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "json-schema", derive(schemars::JsonSchema))]
pub struct CpuTopology {
    /// Virtual CPUs.
    pub vcpus: u32,
    /// Sockets.
    pub sockets: u32,
    /// Cores per socket.
    pub cores_per_socket: u32,
    /// Threads per core; 1 unless asked for.
    pub threads: u32,
    /// CPU hot-add was on.
    pub hot_add: bool,
    /// Nested virtualisation was on.
    pub nested: bool,
    /// vCPUs per virtual NUMA node, where the source says so.
    pub numa_vcpus_per_node: Option<u32>,
    /// Host NUMA nodes that the guest was tied to, as the source writes them (`numa.nodeAffinity`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub numa_affinity: Option<String>,
    /// Latency sensitivity (`normal`, `high`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub latency_sensitivity: Option<String>,
    /// Pinning as the source writes it.
    pub affinity: Option<String>,
    /// Reservation in MHz.
    pub reservation_mhz: Option<u64>,
    /// Limit in MHz.
    pub limit_mhz: Option<u64>,
    /// Shares as the source writes them (`normal`, `high`, `2000`).
    pub shares: Option<String>,
}

/// Memory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "json-schema", derive(schemars::JsonSchema))]
pub struct Memory {
    /// Size in MiB.
    pub mib: u64,
    /// Memory hot-add was on.
    pub hot_add: bool,
    /// Reservation in MiB.
    pub reservation_mib: Option<u64>,
    /// Limit in MiB.
    pub limit_mib: Option<u64>,
    /// Shares as the source writes them.
    pub shares: Option<String>,
}

/// Kind of bus that a disk hangs on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "json-schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum ControllerBus {
    /// SCSI of any model.
    Scsi,
    /// AHCI.
    Sata,
    /// NVMe.
    Nvme,
    /// IDE.
    Ide,
}

impl ControllerBus {
    /// Prefix of device names: `scsi`, `sata`, `nvme`, `ide`.
    #[must_use]
    pub fn prefix(self) -> &'static str {
        match self {
            Self::Scsi => "scsi",
            Self::Sata => "sata",
            Self::Nvme => "nvme",
            Self::Ide => "ide",
        }
    }
}

/// A disk controller.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "json-schema", derive(schemars::JsonSchema))]
pub struct Controller {
    /// Bus.
    pub bus: ControllerBus,
    /// Number on that bus.
    pub index: u32,
    /// Model as the source spells it, lower case: `lsilogic`, `pvscsi`, `lsisas1068`, `buslogic`, `ahci`, `nvme`, `piix4`.
    pub model: String,
    /// `virtual` or `physical` where the bus is shared between guests.
    pub shared_bus: Option<String>,
    /// PCI slot number at the source.
    pub pci_slot: Option<u32>,
}

/// How writes to a disk are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "json-schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum DiskMode {
    /// Ordinary.
    Persistent,
    /// Outside of snapshots.
    IndependentPersistent,
    /// Writes are lost at power-off.
    IndependentNonpersistent,
}

/// A hard disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "json-schema", derive(schemars::JsonSchema))]
pub struct Disk {
    /// Bus.
    pub bus: ControllerBus,
    /// Controller number.
    pub controller: u32,
    /// Unit on the controller.
    pub unit: u32,
    /// File as the source names it (untrusted: only the gate of `image` opens it). For an OVA the member's name.
    pub file: String,
    /// Guest-visible size where the description states it (OVF capacity).
    pub capacity_bytes: Option<u64>,
    /// Mode.
    pub mode: DiskMode,
    /// Shared between guests (`multi-writer`).
    pub shared: bool,
    /// Serial that the guest saw, where `disk.EnableUUID` was on.
    pub serial: Option<String>,
}

impl Disk {
    /// `scsi0:0`.
    #[must_use]
    pub fn name(&self) -> String {
        format!("{}{}:{}", self.bus.prefix(), self.controller, self.unit)
    }
}

/// Kind of removable drive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "json-schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum RemovableKind {
    /// CD or DVD.
    Cdrom,
    /// Floppy.
    Floppy,
}

/// A removable drive.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "json-schema", derive(schemars::JsonSchema))]
pub struct Removable {
    /// Kind.
    pub kind: RemovableKind,
    /// `sata0:0`, `floppy0`.
    pub name: String,
    /// Image that was in it.
    pub image: Option<String>,
    /// Connected at power-on.
    pub connected: bool,
}

/// Where a MAC came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "json-schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum MacOrigin {
    /// Set by hand.
    Static,
    /// By the ESXi host.
    Generated,
    /// By vCenter.
    Vpx,
    /// The source doesn't say.
    Unknown,
}

/// A network adapter.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "json-schema", derive(schemars::JsonSchema))]
pub struct Nic {
    /// Index at the source (`ethernetN`).
    pub index: u32,
    /// Model as the source spells it, lower case: `vmxnet3`, `e1000`; `None` where absent.
    pub model: Option<String>,
    /// MAC, lower case with colons.
    pub mac: Option<String>,
    /// Where it came from.
    pub mac_origin: MacOrigin,
    /// Network or port group at the source.
    pub network: Option<String>,
    /// Connected at power-on.
    pub connected: bool,
    /// PCI slot number at the source, from which Linux makes names such as `ens192`.
    pub pci_slot: Option<u32>,
    /// VLAN tag, 1 to 4094; never in a VMX, it comes from an inventory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vlan: Option<u16>,
    /// Wake on LAN was on.
    #[serde(default)]
    pub wake_on_lan: bool,
}

/// A serial port.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "json-schema", derive(schemars::JsonSchema))]
pub struct SerialPort {
    /// Index.
    pub index: u32,
    /// `device`, `file`, `pipe`, `network`.
    pub kind: String,
    /// Its backing as the source names it.
    pub target: Option<String>,
}

/// A parallel port.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "json-schema", derive(schemars::JsonSchema))]
pub struct ParallelPort {
    /// Index.
    pub index: u32,
    /// Its backing as the source names it.
    pub target: Option<String>,
}

/// USB.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "json-schema", derive(schemars::JsonSchema))]
pub struct Usb {
    /// Controllers: `usb`, `ehci`, `usb_xhci`.
    #[serde(default)]
    pub controllers: Vec<String>,
    /// Attached devices as the source names them.
    #[serde(default)]
    pub devices: Vec<String>,
}

impl Usb {
    /// No controller and no device.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.controllers.is_empty() && self.devices.is_empty()
    }
}

/// A snapshot of the source (`.vmsd`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "json-schema", derive(schemars::JsonSchema))]
pub struct Snapshot {
    /// `snapshotN.uid`.
    pub uid: u64,
    /// The parent's uid; absent at the root.
    pub parent: Option<u64>,
    /// Name for people.
    pub name: String,
    /// The guest's present state grows from this one.
    pub current: bool,
}
