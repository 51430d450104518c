//! What to run: everything an engine needs, and nothing an engine knows alone.

use crate::arch::Topology;
use std::path::PathBuf;

/// A guest to start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VmSpec {
    /// For people.
    pub name: String,
    /// Virtual CPUs, and how they are grouped.
    pub topology: Topology,
    /// Memory in MiB.
    pub memory_mib: u64,
    /// Board.
    pub machine: MachineModel,
    /// Firmware; ignored with a direct kernel.
    pub firmware: FirmwareSpec,
    /// Boots this kernel instead of the disk's boot loader.
    pub kernel: Option<DirectKernel>,
    /// Disks in the firmware's order.
    pub disks: Vec<DiskSpec>,
    /// Network adapters.
    pub nics: Vec<NicSpec>,
    /// SMBIOS UUID as the guest shall read it.
    pub uuid: Option<String>,
    /// With a display that screenshots can be taken of.
    pub display: bool,
    /// With a line for the agent.
    pub agent: bool,
    /// The RTC shows local time (Windows).
    pub rtc_local: bool,
    /// What accelerates it.
    pub accelerator: super::Accelerator,
    /// A folder on a large file system for throw-away overlays.
    pub scratch: PathBuf,
}

/// Board.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum MachineModel {
    /// PCI Express, firmware, VGA.
    Q35,
    /// i440FX with IDE: for guests that know nothing newer.
    Pc,
}

/// Firmware.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FirmwareSpec {
    /// Legacy BIOS (SeaBIOS).
    Bios,
    /// UEFI (OVMF) with a copy of the variables for this run.
    Uefi {
        /// With Secure Boot and the usual keys.
        secure_boot: bool,
    },
}

/// Kernel, initramfs and command line handed over by the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirectKernel {
    /// bzImage or vmlinux with a PVH note.
    pub kernel: PathBuf,
    /// Initial RAM file system.
    pub initrd: Option<PathBuf>,
    /// Command line.
    pub cmdline: String,
}

/// Format of an image file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DiskFormat {
    /// qcow2.
    Qcow2,
    /// Raw.
    Raw,
    /// VMDK, read through QEMU's own driver.
    Vmdk,
}

impl DiskFormat {
    /// QEMU's name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Qcow2 => "qcow2",
            Self::Raw => "raw",
            Self::Vmdk => "vmdk",
        }
    }
}

/// Bus on which the guest sees a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DiskBus {
    /// virtio-blk.
    VirtioBlk,
    /// virtio-scsi.
    VirtioScsi,
    /// AHCI.
    Sata,
    /// IDE (AHCI on boards without IDE).
    Ide,
}

impl DiskBus {
    /// `virtio-blk`, for records.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::VirtioBlk => "virtio-blk",
            Self::VirtioScsi => "virtio-scsi",
            Self::Sata => "sata",
            Self::Ide => "ide",
        }
    }
}

/// A disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiskSpec {
    /// Image file.
    pub path: PathBuf,
    /// Its format; never guessed.
    pub format: DiskFormat,
    /// Bus.
    pub bus: DiskBus,
    /// Serial that the guest sees; ASCII letters and digits.
    pub serial: Option<String>,
    /// Writes go into this file (see [`crate::qemu::overlay`]) or, without `snapshot`, into the image.
    pub snapshot: bool,
    /// What stands between the guest's writes and the host's disk.
    pub cache: DiskCache,
}

/// What stands between the guest's writes and the host's disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum DiskCache {
    /// The host's page cache; a guest's flush reaches the disk.
    #[default]
    Writeback,
    /// Nothing: direct I/O, and flushes reach the disk. What hypervisors do by default, so that figures taken on it compare. Only
    /// where [`super::images::direct_io`] holds; the own VMM has no such mode and takes `Writeback`.
    Direct,
    /// The host's page cache, and flushes do nothing: for disks that are thrown away whatever happens.
    Unsafe,
}

impl DiskCache {
    /// For records.
    #[must_use]
    pub fn words(self) -> &'static str {
        match self {
            Self::Writeback => "host page cache, flushes reach the disk (writeback)",
            Self::Direct => "direct I/O, flushes reach the disk (none)",
            Self::Unsafe => "host page cache, flushes ignored (unsafe)",
        }
    }
}

/// What a network adapter is connected with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Network {
    /// Nothing: link up, and nobody there. A copy of a guest must not meet its original.
    #[default]
    Nothing,
    /// The host's network as an ordinary process sees it: QEMU's user network, `passt` for the own VMM.
    User,
}

/// A network adapter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NicSpec {
    /// MAC address with colons.
    pub mac: Option<String>,
    /// `virtio-net` or `e1000e`.
    pub model: String,
    /// PCI slot number at the source. Linux names the NIC after it (`ens192`), and its network configuration uses that name.
    pub slot: Option<u32>,
    /// What is behind it.
    pub network: Network,
}
