//! What a look into the disks finds.

use super::super::{Check, Inside, inside};
use crate::machine::{FirmwareKind, OsFamily};
use reports::schema::Severity::{Block, Info, Skipped, Warn};
use reports::schema::{DriverPlace, SystemFacts, SystemKind, VolumeFacts};

const MIB: u64 = 1 << 20;

pub(super) fn systems(s: &Inside<'_>, wanted: impl Fn(&SystemFacts) -> Option<String>) -> Vec<String> {
    s.facts
        .systems
        .iter()
        .filter_map(|system| wanted(system).map(|seen| format!("{} on {}: {seen}", system.name, system.device)))
        .collect()
}

fn linux(s: &Inside<'_>, wanted: impl Fn(&SystemFacts) -> Option<String>) -> Vec<String> {
    systems(s, |system| {
        (system.kind == SystemKind::Linux).then(|| wanted(system)).flatten()
    })
}

pub(super) fn volumes(s: &Inside<'_>, wanted: impl Fn(&VolumeFacts) -> Option<String>) -> Vec<String> {
    s.facts
        .volumes
        .iter()
        .filter_map(|volume| wanted(volume).map(|seen| format!("{}: {seen}", volume.device)))
        .collect()
}

pub(super) fn joined(found: Vec<String>) -> Option<String> {
    (!found.is_empty()).then(|| found.join("; "))
}

/// Free space that a conversion needs: virt-v2v's numbers (`convert/convert.ml`).
fn least_free(s: &Inside<'_>, volume: &VolumeFacts) -> u64 {
    let root = s.facts.systems.iter().any(|system| system.device == volume.device);
    match volume.mounted_at.as_deref() {
        _ if root => 100 * MIB,
        Some("/") => 100 * MIB,
        Some("/boot") => 50 * MIB,
        _ => 10 * MIB,
    }
}

/// Volumes of a kind whose superblock records damage.
fn damaged(s: &Inside<'_>, content: &str) -> Vec<String> {
    volumes(s, |volume| {
        volume
            .errors
            .clone()
            .filter(|_| volume.content.as_deref() == Some(content))
    })
}

/// A name of a disk that depends on the bus or on the order of disks.
fn is_device_name(text: &str) -> bool {
    ["/dev/sd", "/dev/hd", "/dev/vd", "/dev/xvd", "/dev/nvme"]
        .iter()
        .any(|prefix| text.starts_with(prefix))
}

/// No installed kernel finds its root on a virtio disk.
fn lacks_virtio(system: &SystemFacts) -> bool {
    !system.kernels.is_empty()
        && !system
            .kernels
            .iter()
            .any(|kernel| kernel.boots_virtio_blk || kernel.boots_virtio_scsi)
}

pub(super) const CHECKS: &[Check] = &[
    inside(
        "inside.not-looked-at",
        Skipped,
        "something in the disks could not be read",
        "A part of the guest was not looked at, so nothing is said about it.",
        "See the reason; give a key where one is missing.",
        |s| s.facts.notes.clone(),
    ),
    inside(
        "guest.no-os",
        Warn,
        "no operating system on the disks",
        "There are data disks only, or a system that is not known here: it is moved as it is.",
        "Let the boot proof decide; the buses stay those that the guest knows.",
        |s| {
            if s.facts.systems.is_empty() {
                let all: Vec<String> = s
                    .facts
                    .volumes
                    .iter()
                    .map(|volume| format!("{} {}", volume.device, volume.content.as_deref().unwrap_or("unknown")))
                    .collect();
                vec![joined(all).unwrap_or_else(|| "no volume with content".to_owned())]
            } else {
                Vec::new()
            }
        },
    ),
    inside(
        "guest.multi-boot",
        Warn,
        "more than one operating system",
        "The guest's boot loader chooses which one starts; each of them has to find its disks on KVM.",
        "Start each of them once on the target.",
        |s| {
            if s.facts.systems.len() > 1 {
                systems(s, |system| Some(system.version.clone()))
            } else {
                Vec::new()
            }
        },
    ),
    inside(
        "guest.luks",
        Block,
        "a LUKS volume and no operating system outside of it",
        "The system is encrypted: whether it can boot on KVM is not known, and it can't be made ready.",
        "Add virtio drivers to its initramfs on ESXi first (then suppress this check), and have the passphrase at hand.",
        |s| {
            if s.facts.systems.is_empty() {
                volumes(s, |volume| {
                    (volume.content.as_deref() == Some("luks")).then(|| format!("luks, {} MiB", volume.bytes / MIB))
                })
            } else {
                Vec::new()
            }
        },
    ),
    inside(
        "guest.bitlocker",
        Block,
        "a BitLocker volume",
        "Its key may be sealed in the old TPM; then the guest asks for the recovery key at its first start.",
        "Suspend BitLocker before the copy (manage-bde -protectors -disable C: -rc 0), or have the recovery key at hand.",
        |s| {
            volumes(s, |volume| {
                (volume.content.as_deref() == Some("bitlocker")).then(|| format!("{} MiB", volume.bytes / MIB))
            })
        },
    ),
    inside(
        "guest.space",
        Block,
        "less free space than 100 MiB on the system's volume, 50 MiB on /boot, 10 MiB elsewhere",
        "There is no room for drivers and a new initramfs.",
        "Free space in the guest.",
        |s| {
            volumes(s, |volume| {
                let (free, least) = (volume.free_bytes?, least_free(s, volume));
                (free < least).then(|| {
                    format!(
                        "{} MiB free of {} MiB{}, {} MiB are needed",
                        free / MIB,
                        volume.bytes / MIB,
                        volume
                            .mounted_at
                            .as_ref()
                            .map_or_else(String::new, |place| format!(", mounted at {place}")),
                        least / MIB
                    )
                })
            })
        },
    ),
    inside(
        "guest.inodes",
        Block,
        "fewer than 100 free inodes on a file system that the guest mounts",
        "There is no room for new files, however small: the fix-up and the guest's own logs need some.",
        "Remove files in the guest.",
        |s| {
            volumes(s, |volume| {
                let free = volume.free_inodes.filter(|free| *free < 100)?;
                // What nobody mounts nobody writes to: a rescue system, a full archive.
                let used =
                    volume.mounted_at.is_some() || s.facts.systems.iter().any(|system| system.device == volume.device);
                used.then(|| format!("{free} free inodes"))
            })
        },
    ),
    inside(
        "fs.ext-errors",
        Block,
        "an ext file system whose kernel found errors in it",
        "The source is damaged already; a copy of it is too.",
        "Repair it on ESXi (e2fsck -f, from a rescue system), and copy again.",
        |s| damaged(s, "ext4"),
    ),
    inside(
        "fs.xfs-errors",
        Block,
        "an XFS that is marked for repair",
        "It can't be mounted until xfs_repair has run; a copy of it can't either.",
        "Repair it on ESXi (xfs_repair, from a rescue system), and copy again.",
        |s| damaged(s, "xfs"),
    ),
    inside(
        "fs.read-only",
        Block,
        "a file system that was not shut down cleanly",
        "It can be mounted read-only at best; the copy holds what a power failure would have left.",
        "Start the guest once on ESXi, shut it down, and copy again.",
        |s| {
            volumes(s, |volume| {
                let ntfs = volume.content.as_deref() == Some("ntfs");
                (volume.state.as_deref() == Some("dirty") && !ntfs).then(|| "dirty".to_owned())
            })
        },
    ),
    inside(
        "windows.ntfs-hibernated",
        Block,
        "Windows is hibernated, stopped with Fast Startup, or its NTFS is dirty",
        "Its file systems are open: what is written now may be lost or damage them.",
        "In Windows: powercfg /h off, then a full shutdown (not a restart); copy again.",
        |s| {
            let mut found = systems(s, |system| {
                (system.kind == SystemKind::Windows)
                    .then(|| system.hibernation.clone())
                    .flatten()
            });
            found.extend(volumes(s, |volume| {
                volume
                    .state
                    .clone()
                    .filter(|_| volume.content.as_deref() == Some("ntfs"))
            }));
            found
        },
    ),
    inside(
        "linux.hibernated",
        Block,
        "a hibernation image of Linux",
        "The guest would resume with the devices of ESXi in its memory.",
        "Resume it on ESXi, shut it down cleanly, and copy again.",
        |s| {
            let mut found = linux(s, |system| system.hibernation.clone());
            found.extend(volumes(s, |volume| {
                (volume.content.as_deref() == Some("swap"))
                    .then(|| volume.state.clone())
                    .flatten()
            }));
            found
        },
    ),
    inside(
        "linux.only-xen-kernels",
        Block,
        "all kernels are made for Xen",
        "None of them starts on KVM.",
        "Install an ordinary kernel in the guest.",
        |s| {
            linux(s, |system| {
                let xen = |version: &str| version.contains("xen");
                (!system.kernels.is_empty() && system.kernels.iter().all(|kernel| xen(&kernel.version))).then(|| {
                    system
                        .kernels
                        .iter()
                        .map(|kernel| kernel.version.as_str())
                        .collect::<Vec<_>>()
                        .join(", ")
                })
            })
        },
    ),
    inside(
        "linux.initrd-lacks-virtio",
        Warn,
        "no kernel's initramfs has what a root on virtio needs",
        "On a virtio disk the guest would not find its root. Until it is made ready its disks stay on a bus that it knows.",
        "Run `esxodus fixup`, which makes the initramfs anew.",
        |s| {
            linux(s, |system| {
                lacks_virtio(system).then(|| {
                    let kernels = system.kernels.iter().map(|kernel| {
                        let late: Vec<&str> = kernel
                            .drivers
                            .iter()
                            .filter(|(_, place)| matches!(place, DriverPlace::Modules | DriverPlace::Missing))
                            .map(|(name, _)| name.as_str())
                            .filter(|name| name.starts_with("virtio") || *name == "sd_mod")
                            .collect();
                        format!("{} without {}", kernel.version, late.join(" "))
                    });
                    kernels.collect::<Vec<_>>().join("; ")
                })
            })
        },
    ),
    inside(
        "linux.initrd-unreadable",
        Warn,
        "an initramfs that can't be read",
        "Whether it holds virtio drivers is not known.",
        "Make it anew in the guest, or let the boot proof decide.",
        |s| {
            linux(s, |system| {
                joined(
                    system
                        .kernels
                        .iter()
                        .filter_map(|kernel| {
                            kernel
                                .unreadable
                                .as_ref()
                                .map(|why| format!("{}: {why}", kernel.version))
                        })
                        .collect(),
                )
            })
        },
    ),
    inside(
        "linux.no-initrd-tool",
        Warn,
        "an initramfs that lacks virtio, and no program that makes one",
        "The guest can't be made ready for virtio; its disks stay on a bus that it knows.",
        "Install dracut or initramfs-tools in the guest.",
        |s| {
            linux(s, |system| {
                (lacks_virtio(system) && system.initramfs_tool.is_none())
                    .then(|| "no dracut, update-initramfs, mkinitcpio or mkinitrd".to_owned())
            })
        },
    ),
    inside(
        "linux.fstab-by-path",
        Block,
        "/dev/disk/by-path in fstab",
        "These names hold the place on the bus, which changes: the guest stops in its emergency shell.",
        "Change the lines to UUID=.",
        |s| {
            linux(s, |system| {
                joined(
                    system
                        .fstab
                        .iter()
                        .filter(|mount| mount.spec.starts_with("/dev/disk/by-path/"))
                        .map(|mount| format!("{} at {}", mount.spec, mount.file))
                        .collect(),
                )
            })
        },
    ),
    inside(
        "linux.fstab-device-names",
        Warn,
        "/dev/sdX and the like in fstab or in a boot entry",
        "The name depends on the bus and on the order of disks.",
        "Run `esxodus fixup`, or change the lines to UUID=.",
        |s| {
            linux(s, |system| {
                let mounts = system
                    .fstab
                    .iter()
                    .filter(|mount| is_device_name(&mount.spec))
                    .map(|mount| format!("fstab: {} at {}", mount.spec, mount.file));
                let entries = system
                    .boot_device_names
                    .iter()
                    .map(|name| format!("boot entry: {name}"));
                joined(mounts.chain(entries).collect())
            })
        },
    ),
    inside(
        "linux.crypttab-unresolved",
        Warn,
        "a device name in crypttab",
        "The volume is not found where the name changes.",
        "Change the line to UUID=.",
        |s| {
            linux(s, |system| {
                joined(
                    system
                        .crypttab
                        .iter()
                        .filter(|line| line.split_whitespace().nth(1).is_some_and(is_device_name))
                        .cloned()
                        .collect(),
                )
            })
        },
    ),
    inside(
        "ip.static-inside",
        Warn,
        "network configuration that is bound to interface names",
        "Where the target can't keep the PCI slot the name changes, and the address with it.",
        "Run `esxodus fixup`, which writes rules that name the NICs by MAC.",
        |s| {
            systems(s, |system| {
                joined(
                    system
                        .interfaces
                        .iter()
                        .filter(|(name, _)| name.as_str() != "lo")
                        .map(|(name, file)| format!("{name} in {file}"))
                        .collect(),
                )
            })
        },
    ),
    inside(
        "os.id-differs",
        Warn,
        "the installed system is of another family than the declared one",
        "Clock, buses and drivers were chosen for the declared one.",
        "Correct the guest OS in vSphere before the copy, or the result.",
        |s| {
            let family = s.machine.os.family;
            systems(s, |system| {
                let differs = match system.kind {
                    SystemKind::Linux => family != OsFamily::Linux,
                    SystemKind::Windows => family != OsFamily::Windows,
                };
                differs.then(|| format!("declared: {}", s.machine.os.title))
            })
        },
    ),
    inside(
        "firmware.mismatch",
        Warn,
        "UEFI without an EFI system partition, or BIOS with a boot loader that only UEFI starts",
        "The declared firmware finds nothing to start.",
        "Change the firmware on the target.",
        |s| match s.machine.firmware.kind {
            FirmwareKind::Uefi => {
                let has_esp = s
                    .facts
                    .volumes
                    .iter()
                    .any(|volume| volume.content.as_deref() == Some("vfat"));
                if has_esp || s.facts.volumes.is_empty() {
                    Vec::new()
                } else {
                    vec!["declared: UEFI; no FAT volume".to_owned()]
                }
            }
            FirmwareKind::Bios => systems(s, |system| {
                (system.boot_loader.as_deref() == Some("systemd-boot"))
                    .then(|| "declared: BIOS; boot loader: systemd-boot".to_owned())
            }),
        },
    ),
    inside(
        "firmware.no-fallback-loader",
        Block,
        "UEFI, and an EFI system partition without \\EFI\\BOOT\\BOOTX64.EFI",
        "VMware's boot entries don't move, and firmware without them looks for this file only: no bootable device.",
        "Run `esxodus fixup`, which copies a Linux guest's loader there; for others copy it on ESXi.",
        |s| {
            let loaders: Vec<bool> = s
                .facts
                .volumes
                .iter()
                .filter_map(|volume| volume.fallback_loader)
                .collect();
            if s.machine.firmware.kind != FirmwareKind::Uefi || loaders.contains(&true) {
                return Vec::new();
            }
            volumes(s, |volume| volume.fallback_loader.map(|_| "no BOOTX64.EFI".to_owned()))
        },
    ),
    inside(
        "linux.x11-driver",
        Info,
        "an X configuration that names VMware's display driver",
        "The X server does not start with it on KVM.",
        "Remove the line, or name \"modesetting\"; an X server without configuration chooses by itself.",
        |s| linux(s, |system| system.x11_vmware.clone()),
    ),
    inside(
        "tools.installed",
        Info,
        "VMware Tools or open-vm-tools",
        "They have nothing to talk to on KVM.",
        "`esxodus fixup` turns them off; remove them when the guest runs.",
        |s| systems(s, |system| system.vmware_tools.clone()),
    ),
    inside(
        "guest.no-agent",
        Info,
        "no QEMU guest agent",
        "Shutdown, addresses and consistent snapshots from the host need it.",
        "Install qemu-guest-agent in the guest.",
        |s| {
            systems(s, |system| {
                system
                    .qemu_guest_agent
                    .is_none()
                    .then(|| "qemu-ga was not found".to_owned())
            })
        },
    ),
];
