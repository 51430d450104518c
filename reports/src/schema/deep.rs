//! What is inside a guest's disks, found by the appliance without booting the guest.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// What a look into the disks found.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "json-schema", derive(schemars::JsonSchema))]
#[serde(default)]
pub struct DeepFacts {
    /// Partitions, whole disks with content, logical volumes and opened LUKS volumes.
    pub volumes: Vec<VolumeFacts>,
    /// Operating systems, in the order in which their roots were found.
    pub systems: Vec<SystemFacts>,
    /// What could not be looked at, and why.
    pub notes: Vec<String>,
}

/// Something that holds a file system or another content.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "json-schema", derive(schemars::JsonSchema))]
#[serde(default)]
pub struct VolumeFacts {
    /// Name in the appliance: `vda1`, `vg0/root`.
    pub device: String,
    /// Index of the disk in the machine, from 0; absent for logical volumes.
    pub disk: Option<u32>,
    /// Partition number; absent for a whole disk or a logical volume.
    pub partition: Option<u32>,
    /// Size in bytes.
    pub bytes: u64,
    /// `ext4`, `xfs`, `btrfs`, `vfat`, `ntfs`, `swap`, `luks`, `lvm2`, `bitlocker`; absent where nothing is recognised.
    pub content: Option<String>,
    /// UUID as `blkid` prints it.
    pub uuid: Option<String>,
    /// Bytes free for ordinary users; absent where it was not mounted.
    pub free_bytes: Option<u64>,
    /// Where the guest's fstab mounts it.
    pub mounted_at: Option<String>,
    /// What makes it unusable as it is: `hibernated` (swap or NTFS), `fast-startup`, `dirty`.
    pub state: Option<String>,
    /// Free inodes; absent where it was not mounted, or where the file system makes them as they are needed.
    pub free_inodes: Option<u64>,
    /// Damage that the file system's own superblock records.
    pub errors: Option<String>,
    /// It lies in a partition of Windows' Logical Disk Manager.
    pub dynamic_disk: bool,
    /// An EFI system partition: whether it has `\EFI\BOOT\BOOTX64.EFI`. Absent elsewhere.
    pub fallback_loader: Option<bool>,
}

/// Kind of operating system.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "json-schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum SystemKind {
    /// Linux.
    #[default]
    Linux,
    /// Windows.
    Windows,
}

/// An operating system.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "json-schema", derive(schemars::JsonSchema))]
#[serde(default)]
pub struct SystemFacts {
    /// Volume that holds its root.
    pub device: String,
    /// Linux or Windows.
    pub kind: SystemKind,
    /// Name with version, as it calls itself.
    pub name: String,
    /// `debian`, `rhel`; `windows`.
    pub id: String,
    /// `12`, `9.4`; for Windows the build, `10.0.20348`.
    pub version: String,
    /// `systemd`, `openrc`, `sysvinit`; empty where unknown.
    pub init: String,
    /// `grub2`, `grub-legacy`, `systemd-boot`, `extlinux`; for Windows `bootmgr`.
    pub boot_loader: Option<String>,
    /// Program that makes its initramfs: `initramfs-tools`, `dracut`, `mkinitcpio`, `mkinitrd`.
    pub initramfs_tool: Option<String>,
    /// Installed kernels.
    pub kernels: Vec<KernelFacts>,
    /// Lines of fstab.
    pub fstab: Vec<MountFacts>,
    /// Lines of crypttab without comments.
    pub crypttab: Vec<String>,
    /// Values of `root=` and `resume=` in boot entries that name a device by its place (`/dev/sda1`).
    pub boot_device_names: Vec<String>,
    /// Interface names that the network configuration uses, with the file that does.
    pub interfaces: BTreeMap<String, String>,
    /// A file that shows VMware Tools or open-vm-tools.
    pub vmware_tools: Option<String>,
    /// Program of the QEMU guest agent.
    pub qemu_guest_agent: Option<String>,
    /// SELinux is configured.
    pub selinux: bool,
    /// Why the system is not shut down cleanly: a hibernation image, Fast Startup.
    pub hibernation: Option<String>,
    /// Services that a move has to know of, and how each starts: `boot`, `system`, `auto`, `manual`, `disabled` for Windows, `enabled`
    /// for a unit of systemd.
    pub services: BTreeMap<String, String>,
    /// Group policies that forbid the installation of drivers (Windows).
    pub driver_policies: Vec<String>,
    /// `SanPolicy` (Windows): 1 brings new disks online; 2, 3 and 4 leave shared, all or internal ones offline.
    pub san_policy: Option<u32>,
    /// A file of the X server's configuration that names VMware's display driver.
    pub x11_vmware: Option<String>,
}

/// An installed kernel.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "json-schema", derive(schemars::JsonSchema))]
#[serde(default)]
pub struct KernelFacts {
    /// `6.1.0-42-amd64`.
    pub version: String,
    /// Its initramfs, as a path in the guest.
    pub initramfs: Option<String>,
    /// Why the initramfs could not be read.
    pub unreadable: Option<String>,
    /// Where each driver that KVM needs is.
    pub drivers: BTreeMap<String, DriverPlace>,
    /// It finds a root on virtio-blk: every driver for it is built in or in the initramfs.
    pub boots_virtio_blk: bool,
    /// It finds a root on virtio-scsi.
    pub boots_virtio_scsi: bool,
}

/// Where a driver is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "json-schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum DriverPlace {
    /// In the kernel itself.
    BuiltIn,
    /// In its initramfs.
    Initramfs,
    /// Only below `/lib/modules`: too late for the root's disk.
    Modules,
    /// Nowhere.
    Missing,
}

/// A line of fstab.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "json-schema", derive(schemars::JsonSchema))]
#[serde(default)]
pub struct MountFacts {
    /// What is mounted.
    pub spec: String,
    /// Where.
    pub file: String,
    /// File system type.
    #[serde(rename = "type")]
    pub kind: String,
    /// Options.
    pub options: String,
}

/// Windows services of virus scanners in lower case, by their makers' installers: what the look inside lists and the check names. A star
/// stands for the rest of a name.
pub const SCANNER_SERVICES: [&str; 20] = [
    "sepmasterservice",
    "mfemms",
    "mcshield",
    "ekrn",
    "avp*",
    "savservice",
    "sophos*",
    "csfalconservice",
    "sentinelagent",
    "ntrtscan",
    "ds_agent",
    "cyserver",
    "bdservicehost",
    "epsecurityservice",
    "avgsvc",
    "avast! antivirus",
    "antivirservice",
    "fsma*",
    "cbdefense",
    "wrsvc",
];
