//! What each device of a machine becomes on one target, decided once: the writers and the key accounting both ask here.
//!
//! Two stages. Until virtio drivers are proven in the guest every device is one that the guest can already drive ("boot
//! safe"); afterwards disks go to virtio-scsi and NICs to virtio.

use super::text::dns_name;
use super::{Resources, TargetError};
use crate::machine::{ControllerBus, FirmwareKind, Machine, Nic, OsFamily, RemovableKind};

/// A target.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Target {
    /// Proxmox VE.
    Proxmox,
    /// libvirt.
    Libvirt,
    /// QEMU by itself.
    Qemu,
    /// KubeVirt.
    Kubevirt,
}

impl Target {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Proxmox, Self::Libvirt, Self::Qemu, Self::Kubevirt];

    /// `proxmox`, `libvirt`, `qemu`, `kubevirt`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Proxmox => "proxmox",
            Self::Libvirt => "libvirt",
            Self::Qemu => "qemu",
            Self::Kubevirt => "kubevirt",
        }
    }
}

/// Chipset.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Chipset {
    /// i440FX: IDE, what old guests know.
    Pc,
    /// Q35: AHCI, PCI Express; needed for Secure Boot and above 255 vCPUs.
    Q35,
}

/// Bus of a disk on the target.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DiskBus {
    /// virtio-scsi.
    VirtioScsi,
    /// VMware's paravirtual SCSI.
    Pvscsi,
    /// AHCI.
    Sata,
    /// IDE on i440FX.
    Ide,
    /// NVMe.
    Nvme,
    /// virtio-blk, where other buses are full.
    VirtioBlk,
}

/// A planned disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlannedDisk {
    /// Bus.
    pub bus: DiskBus,
    /// Number on that bus.
    pub unit: usize,
    /// As the target names it: `scsi0`, `sda`, `sata1`, `disk0`.
    pub slot: String,
}

/// A planned NIC.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlannedNic {
    /// Model as the target spells it.
    pub model: String,
    /// PCI slot that keeps the name `ensNNN`; `None`: the name may change.
    pub slot: Option<u32>,
}

/// Weight of the guest's CPUs in percent of VMware's "normal" (1000 shares a vCPU; low 500, high 2000), which both Proxmox
/// VE's `cpuunits` and libvirt's `shares` count as 100 on control groups of version 2, within 1 to 10 000. `None`: normal,
/// or not readable.
#[must_use]
pub fn cpu_weight(machine: &Machine) -> Option<u64> {
    let shares = machine.cpu.shares.as_deref()?.trim().to_ascii_lowercase();
    let percent = match shares.as_str() {
        "low" => 50,
        "normal" => 100,
        "high" => 200,
        number => {
            let normal = 1000 * u64::from(machine.cpu.vcpus.max(1));
            number.parse::<u64>().ok()?.checked_mul(100)? / normal
        }
    };
    Some(percent.clamp(1, 10_000)).filter(|percent| *percent != 100)
}

/// Level of x86-64 that the declared guest needs: 3 (AVX2) for RHEL 10 and what is built from it, else 2.
#[must_use]
pub fn cpu_level(machine: &Machine) -> u8 {
    const OF_LEVEL_3: [&str; 5] = ["rhel10", "centos10", "rockylinux10", "almalinux10", "oraclelinux10"];
    let id = machine.os.declared.to_ascii_lowercase();
    if OF_LEVEL_3.iter().any(|name| id.starts_with(name)) {
        3
    } else {
        2
    }
}

/// The guest has, or may get, so much memory that the default CPU model's 40 address bits (1 TiB, less what PCI needs) are
/// too few.
#[must_use]
pub fn needs_host_address_bits(machine: &Machine, resources: &Resources) -> bool {
    resources.max_memory_mib.unwrap_or(machine.memory.mib) > 1_000 * 1024
}

/// What a machine becomes on one target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// The target.
    pub target: Target,
    /// Name that the target accepts.
    pub name: String,
    /// Chipset.
    pub chipset: Chipset,
    /// For each disk of the machine, in its order.
    pub disks: Vec<PlannedDisk>,
    /// For each NIC.
    pub nics: Vec<PlannedNic>,
    /// Model of the SCSI controller that the SCSI disks share, as the target spells it.
    pub disk_controller: String,
    /// Index of the disk to boot from first.
    pub boot_disk: usize,
    /// What the guest may claim of its host.
    pub resources: Resources,
}

impl Plan {
    /// Plans `machine` on `target`. Nothing fails here; limits are [`Plan::check`]'s.
    #[must_use]
    pub fn new(machine: &Machine, target: Target, virtio_proven: bool) -> Self {
        let chipset = chipset(machine, target, virtio_proven);
        let boot_disk = machine
            .boot_order
            .iter()
            .find_map(|name| machine.disks.iter().position(|disk| disk.name() == *name))
            .unwrap_or(0);
        let buses = buses(machine, target, chipset, virtio_proven, boot_disk);
        let pvscsi = buses.contains(&DiskBus::Pvscsi);
        let cdrom = has_cdrom(machine);
        let mut disks: Vec<PlannedDisk> = Vec::new();
        for bus in buses {
            let unit = disks.iter().filter(|disk| disk.bus == bus).count();
            let slot = match target {
                Target::Libvirt => {
                    let prefix = match bus {
                        DiskBus::Ide => "hd",
                        DiskBus::VirtioBlk => "vd",
                        _ => "sd",
                    };
                    let earlier = disks.iter().filter(|disk| disk.slot.starts_with(prefix)).count();
                    format!("{prefix}{}", letters(earlier))
                }
                Target::Proxmox => match bus {
                    DiskBus::VirtioScsi | DiskBus::Pvscsi | DiskBus::Nvme => format!("scsi{unit}"),
                    DiskBus::Sata => format!("sata{unit}"),
                    // The CD drive is ide2, where there is one.
                    DiskBus::Ide => format!("ide{}", if cdrom && unit > 1 { unit + 1 } else { unit }),
                    DiskBus::VirtioBlk => format!("virtio{unit}"),
                },
                Target::Qemu | Target::Kubevirt => format!("disk{}", disks.len()),
            };
            disks.push(PlannedDisk { bus, unit, slot });
        }
        let nics = machine
            .nics
            .iter()
            .map(|nic| PlannedNic {
                model: nic_model(machine, nic, target, virtio_proven).to_owned(),
                slot: nic
                    .pci_slot
                    .filter(|slot| (1..=1023).contains(slot))
                    .filter(|_| matches!(target, Target::Qemu | Target::Libvirt) && chipset == Chipset::Q35)
                    .filter(|slot| {
                        machine
                            .nics
                            .iter()
                            .filter(|other| other.pci_slot == Some(*slot))
                            .count()
                            == 1
                    }),
            })
            .collect();
        let disk_controller = match (target, pvscsi) {
            (Target::Proxmox | Target::Qemu, true) => "pvscsi",
            (Target::Libvirt, true) => "vmpvscsi",
            (Target::Proxmox, false) => "virtio-scsi-single",
            (Target::Libvirt, false) => "virtio-scsi",
            (Target::Qemu, false) => "virtio-scsi-pci",
            (Target::Kubevirt, _) => "by bus",
        }
        .to_owned();
        Self {
            target,
            name: match target {
                Target::Proxmox => dns_name(&machine.name, true, false),
                Target::Libvirt | Target::Qemu | Target::Kubevirt => dns_name(&machine.name, false, true),
            },
            chipset,
            disks,
            nics,
            disk_controller,
            boot_disk,
            resources: Resources::of(machine),
        }
    }

    /// More CPUs than the old interrupt controller can address: the guest needs interrupt remapping with extended ids.
    #[must_use]
    pub fn needs_interrupt_remapping(&self) -> bool {
        self.resources.max_vcpus > 255
    }

    /// Does the target have room for it?
    ///
    /// # Errors
    /// [`TargetError::Limit`] with what is too many.
    pub fn check(&self, machine: &Machine) -> Result<(), TargetError> {
        let count = |bus: DiskBus| self.disks.iter().filter(|disk| disk.bus == bus).count();
        let mut limits: Vec<(&'static str, usize, usize, &'static str)> = Vec::new();
        let vcpus = usize::try_from(self.resources.max_vcpus.max(machine.cpu.vcpus)).unwrap_or(usize::MAX);
        limits.push((
            "the number of vCPUs",
            vcpus,
            if self.chipset == Chipset::Q35 { 4096 } else { 255 },
            "Lower the number of vCPUs.",
        ));
        match self.target {
            Target::Proxmox => {
                limits.push(("the number of NICs", self.nics.len(), 32, "Remove NICs from the guest."));
                limits.push((
                    "the number of virtio-blk disks (behind 31 SCSI)",
                    count(DiskBus::VirtioBlk),
                    16,
                    "Move disks to another guest.",
                ));
            }
            Target::Kubevirt => limits.push((
                "the number of disks",
                self.disks.len(),
                165,
                "KubeVirt guests lose network connectivity above it (CNV-91554).",
            )),
            Target::Libvirt | Target::Qemu => {
                limits.push((
                    "the number of SCSI disks",
                    count(DiskBus::VirtioScsi),
                    256,
                    "Move disks to another guest.",
                ));
                // Each NIC and disk controller has a root port on bus 0, which has 32 slots.
                limits.push(("the number of NICs", self.nics.len(), 24, "Remove NICs from the guest."));
            }
        }
        for (what, found, allowed, advice) in limits {
            if found > allowed {
                return Err(TargetError::Limit {
                    target: self.target.name(),
                    what,
                    found,
                    allowed,
                    advice,
                });
            }
        }
        Ok(())
    }

    /// Devices to boot from, present ones only: indexes into disks and NICs in order.
    #[must_use]
    pub fn boot(&self, machine: &Machine) -> Vec<BootDevice> {
        let mut order: Vec<BootDevice> = machine
            .boot_order
            .iter()
            .filter_map(|name| {
                let disk = machine.disks.iter().position(|disk| disk.name() == *name);
                let nic = machine
                    .nics
                    .iter()
                    .position(|nic| format!("ethernet{}", nic.index) == *name);
                disk.map(BootDevice::Disk).or(nic.map(BootDevice::Nic))
            })
            .collect();
        if order.is_empty() && !machine.disks.is_empty() {
            order.push(BootDevice::Disk(self.boot_disk));
        }
        order
    }
}

/// A device to boot from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BootDevice {
    /// Index into the disks.
    Disk(usize),
    /// Index into the NICs.
    Nic(usize),
}

/// `a` … `z`, `aa` …, as Linux counts disks.
fn letters(mut number: usize) -> String {
    const ALPHABET: &[u8; 26] = b"abcdefghijklmnopqrstuvwxyz";
    let mut result = Vec::new();
    loop {
        result.push(ALPHABET[number % 26]);
        if number < 26 {
            break;
        }
        number = number / 26 - 1;
    }
    result.reverse();
    String::from_utf8(result).expect("the alphabet is ASCII")
}

/// All CD drives of a source become one, and it is empty.
pub(crate) fn has_cdrom(machine: &Machine) -> bool {
    machine.removable.iter().any(|drive| drive.kind == RemovableKind::Cdrom)
}

/// Windows before 8 has no AHCI driver that starts at boot on a machine installed without AHCI, and none for xHCI.
pub(super) fn is_old_windows(machine: &Machine) -> bool {
    matches!(
        machine.os.pve_ostype.as_str(),
        "wxp" | "w2k" | "w2k3" | "w2k8" | "wvista" | "win7"
    )
}

fn chipset(machine: &Machine, target: Target, virtio_proven: bool) -> Chipset {
    let needs_q35 =
        machine.firmware.kind == FirmwareKind::Uefi || machine.cpu.vcpus > 255 || target == Target::Kubevirt;
    let old = is_old_windows(machine)
        || machine.os.family == OsFamily::Other
        || !virtio_proven && machine.disks.iter().any(|disk| disk.bus == ControllerBus::Ide);
    if needs_q35 || !old { Chipset::Q35 } else { Chipset::Pc }
}

/// The model of the controller that a disk hangs on, `""` where the source doesn't say.
fn source_model(machine: &Machine, disk: usize) -> &str {
    let disk = &machine.disks[disk];
    machine
        .controllers
        .iter()
        .find(|controller| controller.bus == disk.bus && controller.index == disk.controller)
        .map_or("", |controller| controller.model.as_str())
}

fn buses(machine: &Machine, target: Target, chipset: Chipset, virtio_proven: bool, boot_disk: usize) -> Vec<DiskBus> {
    let safe = if chipset == Chipset::Pc {
        DiskBus::Ide
    } else {
        DiskBus::Sata
    };
    let mut buses: Vec<DiskBus> = (0..machine.disks.len())
        .map(|disk| {
            if virtio_proven {
                return DiskBus::VirtioScsi;
            }
            let has_pvscsi = target != Target::Kubevirt;
            match machine.disks[disk].bus {
                ControllerBus::Scsi if source_model(machine, disk) == "pvscsi" && has_pvscsi => DiskBus::Pvscsi,
                ControllerBus::Nvme if target == Target::Qemu => DiskBus::Nvme,
                _ => safe,
            }
        })
        .collect();
    // Proxmox VE has one SCSI controller model for the whole guest: what was SCSI or NVMe joins it, rather than losing
    // its order to SATA.
    if target == Target::Proxmox && buses.contains(&DiskBus::Pvscsi) {
        for (bus, disk) in buses.iter_mut().zip(&machine.disks) {
            if matches!(disk.bus, ControllerBus::Scsi | ControllerBus::Nvme) {
                *bus = DiskBus::Pvscsi;
            }
        }
    }
    // Ports: AHCI has 6, IDE 4, of which a CD drive takes one. The boot disk keeps its place, the others move.
    let scsi = if buses.contains(&DiskBus::Pvscsi) {
        DiskBus::Pvscsi
    } else {
        DiskBus::VirtioScsi
    };
    let drives = usize::from(has_cdrom(machine));
    for (bus, ports) in [(DiskBus::Sata, 6), (DiskBus::Ide, 4)] {
        let taken = if target == Target::Proxmox && bus == DiskBus::Sata {
            0
        } else {
            drives
        };
        let mut room = ports - taken - usize::from(buses.get(boot_disk) == Some(&bus));
        for (number, place) in buses.iter_mut().enumerate() {
            if *place != bus || number == boot_disk {
                continue;
            }
            match room.checked_sub(1) {
                Some(less) => room = less,
                None => *place = scsi,
            }
        }
    }
    // Units: Proxmox VE has 31 SCSI disks and 16 virtio-blk; a pvscsi has 64 targets.
    let most = match (target, scsi) {
        (Target::Proxmox, _) => 31,
        (_, DiskBus::Pvscsi) => 64,
        _ => usize::MAX,
    };
    let mut used = 0;
    for place in &mut buses {
        if *place == scsi {
            used += 1;
            if used > most {
                *place = if target == Target::Proxmox {
                    DiskBus::VirtioBlk
                } else {
                    DiskBus::VirtioScsi
                };
            }
        }
    }
    buses
}

fn nic_model(machine: &Machine, nic: &Nic, target: Target, virtio_proven: bool) -> &'static str {
    if virtio_proven {
        return "virtio";
    }
    match nic.model.as_deref() {
        Some("vmxnet3") if target == Target::Kubevirt => "e1000e",
        Some("vmxnet3") => "vmxnet3",
        Some("e1000e") => "e1000e",
        Some("e1000" | "vmxnet" | "vmxnet2") => "e1000",
        Some("vlance" | "flexible" | "pcnet32") if !machine.os.is_64bit => "pcnet",
        Some("vlance" | "flexible" | "pcnet32") => "e1000",
        _ if is_old_windows(machine) => "e1000",
        _ => "e1000e",
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn disks_are_lettered_as_linux_does() {
        let names: Vec<String> = [0, 25, 26, 27, 701, 702].into_iter().map(super::letters).collect();
        assert_eq!(names, ["a", "z", "aa", "ab", "zz", "aaa"]);
    }
}
