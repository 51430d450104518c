//! VMX to [`Machine`].

use super::{
    Controller, ControllerBus, CpuTopology, Disk, DiskMode, Firmware, FirmwareKind, Identity, MACHINE_SCHEMA,
    MacOrigin, Machine, Memory, Nic, Notice, OsFamily, ParallelPort, Removable, RemovableKind, SerialPort, SourceKind,
    Tpm, Usb, guest_os, identity,
};
use crate::vmx::{VmxError, VmxFile};
use std::path::Path;

const BUSES: [ControllerBus; 4] = [
    ControllerBus::Scsi,
    ControllerBus::Sata,
    ControllerBus::Nvme,
    ControllerBus::Ide,
];

/// Builds the machine that `file` describes. `path` is the description's path as the user gave it.
///
/// # Errors
/// [`VmxError::BadNumber`] where memory or CPU count is there but not readable: guessing there would build another machine.
pub fn build(file: &VmxFile, path: &Path) -> Result<(Machine, Vec<Notice>), VmxError> {
    let mut notices = file.notices.clone();
    let stem = path
        .file_stem()
        .map_or_else(|| "guest".to_owned(), |stem| stem.to_string_lossy().into_owned());
    let name = file.text("displayName").map_or_else(
        || {
            notices.push(Notice::new("vm.name-missing", "displayName is absent or empty"));
            stem
        },
        str::to_owned,
    );
    let (os, known) = guest_os::from_id(file.text("guestOS").unwrap_or_default());
    if !known {
        notices.push(Notice::new("os.id-unknown", format!("guestOS = \"{}\"", os.declared)));
    }
    for space in file.removed() {
        if file.entries().iter().any(|entry| {
            entry.lower.starts_with(&format!("{space}.")) && entry.lower != format!("{space}.present")
                || entry.lower.starts_with(&format!("{space}:"))
        }) {
            notices.push(Notice::new(
                "vmx.present-false-leftover",
                format!("{space}.present = \"FALSE\" with further keys"),
            ));
        }
    }
    let hw_version: Option<u32> = file.number("virtualHW.version");
    if let Some(version) = hw_version.filter(|version| *version < 4) {
        notices.push(Notice::new(
            "vmx.odd-version",
            format!("virtualHW.version = \"{version}\""),
        ));
    }
    if let Some(version) = file.text("config.version").filter(|version| *version != "8") {
        notices.push(Notice::new(
            "vmx.odd-version",
            format!("config.version = \"{version}\""),
        ));
    }
    let (controllers, disks, removable) = storage(file, &mut notices);
    let nics = nics(file, &mut notices);
    let boot_order = boot_order(
        file.text("bios.hddOrder"),
        file.text("bios.bootOrder")
            .or_else(|| file.text("bios.bootDeviceClasses")),
        &disks,
        &nics,
    );
    let (serial, parallel) = (serial(file, &mut notices), parallel(file, &mut notices));
    let passthrough = file.spaces("pcipassthru").into_iter().map(str::to_owned).collect();
    let rtc_local = os.family == OsFamily::Windows;
    let machine = Machine {
        schema: MACHINE_SCHEMA,
        source_kind: SourceKind::Vmx,
        source: path.to_owned(),
        name,
        notes: file.get("annotation").unwrap_or_default().to_owned(),
        hw_version,
        identity: machine_identity(file, &mut notices),
        os,
        firmware: firmware(file, &mut notices),
        cpu: cpu(file, &mut notices)?,
        memory: memory(file, &mut notices)?,
        controllers,
        disks,
        removable,
        nics,
        serial,
        parallel,
        usb: usb(file),
        sound: (file.flag("sound.present") == Some(true))
            .then(|| file.text("sound.virtualDev").unwrap_or("es1371").to_ascii_lowercase()),
        video_kib: file.number::<u64>("svga.vramSize").map(|bytes| bytes / 1024),
        passthrough,
        rtc_local,
        rtc_offset_seconds: file.number("rtc.diffFromUTC"),
        template: path
            .extension()
            .is_some_and(|extension| extension.eq_ignore_ascii_case("vmtx")),
        snapshots: Vec::new(),
        boot_order,
    };
    Ok((machine, notices))
}

fn machine_identity(file: &VmxFile, notices: &mut Vec<Notice>) -> Identity {
    let text = file.text("uuid.bios");
    let smbios_uuid = text.and_then(identity::parse_uuid_bytes);
    if let (Some(text), None) = (text, smbios_uuid) {
        notices.push(Notice::new("vmx.value-unreadable", format!("uuid.bios = \"{text}\"")));
    }
    Identity {
        smbios_uuid,
        smbios_serial: smbios_uuid.and(text).map(|text| format!("VMware-{text}")),
        generation_id: file
            .text("vm.genid")
            .zip(file.text("vm.genidX"))
            .and_then(|(low, high)| identity::generation_id(low, high)),
    }
}

fn firmware(file: &VmxFile, notices: &mut Vec<Notice>) -> Firmware {
    let kind = match file.text("firmware") {
        Some(text) if text.eq_ignore_ascii_case("efi") || text.eq_ignore_ascii_case("uefi") => FirmwareKind::Uefi,
        None => FirmwareKind::Bios,
        Some(text) if text.eq_ignore_ascii_case("bios") => FirmwareKind::Bios,
        Some(text) => {
            notices.push(Notice::new("firmware.unknown", format!("firmware = \"{text}\"")));
            FirmwareKind::Bios
        }
    };
    Firmware {
        kind,
        secure_boot: kind == FirmwareKind::Uefi && file.flag("uefi.secureBoot.enabled") == Some(true),
        tpm: if file.flag("vtpm.present") == Some(true) || file.flag("managedvm.autoAddVTPM") == Some(true) {
            Tpm::V2
        } else {
            Tpm::None
        },
        nvram: file.text("nvram").map(str::to_owned),
    }
}

/// A number that must be readable where it is given.
fn required<T: std::str::FromStr>(file: &VmxFile, key: &str, allowed: &'static str) -> Result<Option<T>, VmxError> {
    let Some(entry) = file.entry(key) else {
        return Ok(None);
    };
    match entry.value.trim().parse() {
        Ok(number) => Ok(Some(number)),
        Err(_) => Err(VmxError::BadNumber {
            key: entry.key.clone(),
            value: entry.value.clone(),
            line: entry.line,
            allowed,
        }),
    }
}

/// Sockets and cores for `vcpus`, so that their product is exact. The second value is the notice that it needs.
pub(super) fn topology(vcpus: u32, per_socket: Option<u32>) -> (u32, u32, Option<Notice>) {
    let per_socket = per_socket.unwrap_or(1).max(1);
    if per_socket > vcpus {
        let notice = Notice::new(
            "cpu.cores-per-socket-gt-vcpus",
            format!("{per_socket} cores per socket, {vcpus} vCPUs; written as 1 socket of {vcpus}"),
        );
        return (1, vcpus, Some(notice));
    }
    if vcpus.is_multiple_of(per_socket) {
        return (vcpus / per_socket, per_socket, None);
    }
    let notice = Notice::new(
        "cpu.topology-not-divisible",
        format!("{vcpus} vCPUs, {per_socket} cores per socket; written as {vcpus} sockets of 1"),
    );
    (vcpus, 1, Some(notice))
}

fn cpu(file: &VmxFile, notices: &mut Vec<Notice>) -> Result<CpuTopology, VmxError> {
    const RANGE: &str = "1 to 4096";
    let in_range = |key: &str| -> Result<Option<u32>, VmxError> {
        match required::<u32>(file, key, RANGE)? {
            Some(0) | Some(4097..) => {
                let entry = file.entry(key).expect("it was just read");
                Err(VmxError::BadNumber {
                    key: entry.key.clone(),
                    value: entry.value.clone(),
                    line: entry.line,
                    allowed: RANGE,
                })
            }
            other => Ok(other),
        }
    };
    let per_socket = in_range("cpuid.coresPerSocket")?;
    let vcpus = in_range("numvcpus")?.unwrap_or_else(|| {
        if per_socket.is_some_and(|cores| cores > 1) {
            notices.push(Notice::new(
                "cpu.count-missing",
                "numvcpus is absent; 1 is VMware's default",
            ));
        }
        1
    });
    let (sockets, cores_per_socket, notice) = topology(vcpus, per_socket);
    notices.extend(notice);
    let shares = |key: &str| file.text(key).map(str::to_owned);
    Ok(CpuTopology {
        vcpus,
        sockets,
        cores_per_socket,
        threads: 1,
        hot_add: file.flag("vcpu.hotadd") == Some(true),
        nested: file.flag("vhv.enable") == Some(true),
        numa_vcpus_per_node: file.number("numa.vcpu.maxPerVirtualNode"),
        numa_affinity: file.text("numa.nodeAffinity").map(str::to_owned),
        latency_sensitivity: file.text("sched.cpu.latencySensitivity").map(str::to_owned),
        affinity: file
            .text("sched.cpu.affinity")
            .filter(|value| !value.eq_ignore_ascii_case("all"))
            .map(str::to_owned),
        reservation_mhz: file.number("sched.cpu.min").filter(|mhz: &u64| *mhz > 0),
        limit_mhz: file.number("sched.cpu.max"),
        shares: shares("sched.cpu.shares"),
    })
}

fn memory(file: &VmxFile, notices: &mut Vec<Notice>) -> Result<Memory, VmxError> {
    const RANGE: &str = "1 to 25165824 MiB";
    let mib = match required::<u64>(file, "memSize", RANGE)? {
        None => {
            notices.push(Notice::new(
                "mem.size-missing",
                "memSize is absent; 32 MiB is VMware's default",
            ));
            32
        }
        Some(mib) if mib == 0 || mib > 25_165_824 => {
            let entry = file.entry("memSize").expect("it was just read");
            return Err(VmxError::BadNumber {
                key: entry.key.clone(),
                value: entry.value.clone(),
                line: entry.line,
                allowed: RANGE,
            });
        }
        Some(mib) => mib,
    };
    if !mib.is_multiple_of(4) {
        notices.push(Notice::new("mem.size-odd", format!("memSize = \"{mib}\"")));
    }
    Ok(Memory {
        mib,
        hot_add: file.flag("mem.hotadd") == Some(true),
        reservation_mib: if file.flag("sched.mem.pin") == Some(true) {
            Some(mib)
        } else {
            file.number("sched.mem.min").filter(|min: &u64| *min > 0)
        },
        limit_mib: file.number("sched.mem.max"),
        shares: file.text("sched.mem.shares").map(str::to_owned),
    })
}

/// `scsi0:10` into controller and unit.
fn address(space: &str, bus: ControllerBus) -> Option<(u32, u32)> {
    let (controller, unit) = space.strip_prefix(bus.prefix())?.split_once(':')?;
    Some((controller.parse().ok()?, unit.parse().ok()?))
}

fn storage(file: &VmxFile, notices: &mut Vec<Notice>) -> (Vec<Controller>, Vec<Disk>, Vec<Removable>) {
    let (mut controllers, mut disks, mut removable) = (Vec::new(), Vec::new(), Vec::new());
    let enable_uuid = file.flag("disk.EnableUUID") == Some(true);
    for bus in BUSES {
        let mut numbers = std::collections::BTreeSet::new();
        let mut units: Vec<(u32, u32, &str)> = Vec::new();
        for space in file.spaces(bus.prefix()) {
            if let Some((controller, unit)) = address(space, bus) {
                units.push((controller, unit, space));
            } else if let Some(number) = space.strip_prefix(bus.prefix()).and_then(|rest| rest.parse().ok()) {
                numbers.insert(number);
            }
        }
        units.sort_unstable();
        for (controller, unit, space) in units {
            let key = |property: &str| format!("{space}.{property}");
            let kind = file.text(&key("devicetype")).unwrap_or_default().to_ascii_lowercase();
            let name = file.text(&key("filename"));
            let is_cd = kind.contains("cdrom");
            if file.entry(&key("present")).is_none() && name.is_some() {
                notices.push(Notice::new(
                    "vmx.present-missing",
                    format!("{space}.present is absent; kept"),
                ));
            }
            unreadable_present(file, space, notices);
            if is_cd || kind.ends_with("-raw") || kind == "scsi-passthru" {
                let empty = |value: &str| {
                    value.eq_ignore_ascii_case("auto detect") || value.eq_ignore_ascii_case("emptyBackingString")
                };
                numbers.insert(controller);
                if !is_cd {
                    notices.push(Notice::new(
                        "device.scsi-passthrough",
                        format!("{space}.deviceType = \"{kind}\""),
                    ));
                    continue;
                }
                removable.push(Removable {
                    kind: RemovableKind::Cdrom,
                    name: space.to_owned(),
                    image: name
                        .filter(|value| kind == "cdrom-image" && !empty(value))
                        .map(str::to_owned),
                    connected: file.flag(&key("startconnected")) != Some(false),
                });
                continue;
            }
            let Some(name) = name else { continue };
            numbers.insert(controller);
            if !matches!(
                kind.as_str(),
                "" | "scsi-harddisk" | "disk" | "plaindisk" | "rawdisk" | "ata-harddisk"
            ) {
                notices.push(Notice::new(
                    "disk.device-type-unknown",
                    format!("{space}.deviceType = \"{kind}\""),
                ));
            }
            let mode = file.text(&key("mode")).unwrap_or_default().to_ascii_lowercase();
            disks.push(Disk {
                bus,
                controller,
                unit,
                file: name.to_owned(),
                capacity_bytes: None,
                mode: if mode.contains("nonpersistent") {
                    DiskMode::IndependentNonpersistent
                } else if mode.starts_with("independent") {
                    DiskMode::IndependentPersistent
                } else {
                    DiskMode::Persistent
                },
                shared: file.text(&key("sharing")).is_some_and(|value| {
                    value.eq_ignore_ascii_case("multi-writer") || value.eq_ignore_ascii_case("sharing-multi-writer")
                }),
                serial: enable_uuid.then(|| {
                    // The 32-hex identity is in the VMDK (`ddb.uuid`); until that is read the name of the slot stands in,
                    // which at least is stable and unique in the guest.
                    format!("esx-{}{controller}-{unit}", bus.prefix())
                }),
            });
        }
        for index in numbers {
            let space = format!("{}{index}", bus.prefix());
            let used = disks.iter().any(|disk| disk.bus == bus && disk.controller == index)
                || removable
                    .iter()
                    .any(|drive| drive.name.starts_with(&format!("{space}:")));
            if !used && file.flag(&format!("{space}.present")) != Some(true) {
                continue;
            }
            let model = file.text(&format!("{space}.virtualDev")).map_or_else(
                || {
                    match bus {
                        ControllerBus::Scsi => "",
                        ControllerBus::Sata => "ahci",
                        ControllerBus::Nvme => "nvme",
                        ControllerBus::Ide => "piix4",
                    }
                    .to_owned()
                },
                str::to_ascii_lowercase,
            );
            controllers.push(Controller {
                bus,
                index,
                model,
                shared_bus: file
                    .text(&format!("{space}.sharedBus"))
                    .filter(|value| !value.eq_ignore_ascii_case("none"))
                    .map(str::to_ascii_lowercase),
                pci_slot: slot(file, &space),
            });
        }
    }
    for space in file.spaces("floppy") {
        removable.push(Removable {
            kind: RemovableKind::Floppy,
            name: space.to_owned(),
            image: file
                .text(&format!("{space}.filename"))
                .filter(|_| {
                    file.text(&format!("{space}.filetype"))
                        .is_some_and(|kind| kind.eq_ignore_ascii_case("file"))
                })
                .map(str::to_owned),
            connected: file.flag(&format!("{space}.startconnected")) != Some(false),
        });
    }
    let dead: Vec<&str> = file
        .entries()
        .iter()
        .filter(|entry| entry.lower.ends_with(".filename"))
        .filter_map(|entry| entry.lower.split_once('.').map(|(space, _)| space))
        .filter(|space| {
            space
                .split_once(':')
                .is_some_and(|(controller, _)| file.removed().contains(controller))
        })
        .collect();
    if !dead.is_empty() {
        notices.push(Notice::new(
            "scsi.controller-absent",
            format!("{}: their controller has present = \"FALSE\"", dead.join(", ")),
        ));
    }
    (controllers, disks, removable)
}

/// A device whose `present` is neither TRUE nor FALSE is kept, and that is said.
fn unreadable_present(file: &VmxFile, space: &str, notices: &mut Vec<Notice>) -> bool {
    let key = format!("{space}.present");
    let Some(value) = file.text(&key).filter(|_| file.flag(&key).is_none()) else {
        return false;
    };
    notices.push(Notice::new("vmx.present-missing", format!("{key} = \"{value}\"; kept")));
    true
}

/// VMware writes -1 where no slot was given yet.
fn slot(file: &VmxFile, space: &str) -> Option<u32> {
    file.number(&format!("{space}.pciSlotNumber"))
}

fn nics(file: &VmxFile, notices: &mut Vec<Notice>) -> Vec<Nic> {
    let mut found: Vec<Nic> = Vec::new();
    for space in file.spaces("ethernet") {
        let Some(index) = space.strip_prefix("ethernet").and_then(|rest| rest.parse().ok()) else {
            continue;
        };
        let key = |property: &str| format!("{space}.{property}");
        if file.entry(&key("present")).is_none() {
            notices.push(Notice::new(
                "vmx.present-missing",
                format!("{space}.present is absent; kept"),
            ));
        }
        unreadable_present(file, space, notices);
        let fixed = file.text(&key("address")).and_then(identity::normal_mac);
        let generated = file.text(&key("generatedAddress")).and_then(identity::normal_mac);
        let kind = file.text(&key("addressType")).map(str::to_ascii_lowercase);
        let (mac, mac_origin) = match kind.as_deref() {
            Some("static") => (fixed.clone().or(generated.clone()), MacOrigin::Static),
            Some("generated") => (generated.clone().or(fixed.clone()), MacOrigin::Generated),
            Some("vpx") => (generated.clone().or(fixed.clone()), MacOrigin::Vpx),
            _ => (fixed.clone().or(generated.clone()), MacOrigin::Unknown),
        };
        let ambiguous = match (kind.as_deref(), &fixed, &generated) {
            (Some("static"), Some(fixed), Some(generated)) => fixed != generated,
            (None, Some(_), Some(_)) => true,
            (Some("static"), None, Some(_)) => true,
            _ => false,
        };
        if ambiguous {
            notices.push(Notice::new(
                "nic.mac-ambiguous",
                format!(
                    "{space}: addressType {}, address {}, generatedAddress {}; {} is used",
                    kind.as_deref().unwrap_or("absent"),
                    fixed.as_deref().unwrap_or("absent"),
                    generated.as_deref().unwrap_or("absent"),
                    mac.as_deref().unwrap_or("none")
                ),
            ));
        }
        let network = file
            .text(&key("networkName"))
            .or_else(|| file.text(&key("dvs.portgroupId")))
            .or_else(|| file.text(&key("opaqueNetwork.id")))
            .map(str::to_owned);
        let mut model = file.text(&key("virtualDev")).map(str::to_ascii_lowercase);
        if model.as_deref() == Some("vmxnet") && file.text(&key("features")) == Some("15") {
            model = Some("vmxnet2".to_owned());
        }
        found.push(Nic {
            index,
            model,
            mac,
            mac_origin,
            network,
            connected: file.flag(&key("startConnected")) != Some(false),
            pci_slot: slot(file, space),
            vlan: None,
            wake_on_lan: file.flag(&key("wakeOnPcktRcv")) == Some(true),
        });
    }
    found.sort_by_key(|nic| nic.index);
    found
}

/// Names from a space such as `serial0`, ordered by number, of ports that are there: without a word of `present` VMware has none.
fn indexed<'a>(file: &'a VmxFile, prefix: &str, notices: &mut Vec<Notice>) -> Vec<(u32, &'a str)> {
    let mut found: Vec<(u32, &str)> = file
        .spaces(prefix)
        .into_iter()
        .filter_map(|space| Some((space.strip_prefix(prefix)?.parse().ok()?, space)))
        .filter(|(_, space)| {
            file.flag(&format!("{space}.present")) == Some(true) || unreadable_present(file, space, notices)
        })
        .collect();
    found.sort_unstable();
    found
}

fn serial(file: &VmxFile, notices: &mut Vec<Notice>) -> Vec<SerialPort> {
    indexed(file, "serial", notices)
        .into_iter()
        .map(|(index, space)| SerialPort {
            index,
            kind: file
                .text(&format!("{space}.fileType"))
                .unwrap_or("device")
                .to_ascii_lowercase(),
            target: file.text(&format!("{space}.fileName")).map(str::to_owned),
        })
        .collect()
}

fn parallel(file: &VmxFile, notices: &mut Vec<Notice>) -> Vec<ParallelPort> {
    indexed(file, "parallel", notices)
        .into_iter()
        .map(|(index, space)| ParallelPort {
            index,
            target: file.text(&format!("{space}.fileName")).map(str::to_owned),
        })
        .collect()
}

fn usb(file: &VmxFile) -> Usb {
    let controllers: Vec<String> = ["usb", "ehci", "usb_xhci"]
        .into_iter()
        .filter(|space| file.flag(&format!("{space}.present")) == Some(true))
        .map(str::to_owned)
        .collect();
    let mut devices: Vec<String> = file
        .entries()
        .iter()
        .filter(|entry| !entry.shadowed && !file.is_removed(&entry.lower))
        .filter(|entry| {
            let lower = entry.lower.as_str();
            lower.starts_with("usb.autoconnect.device")
                || (lower.starts_with("usb") && lower.contains(':') && lower.ends_with(".devicetype"))
        })
        // The virtual mouse and hub that VMware itself plugs in are no devices of the user.
        .filter(|entry| !matches!(entry.value.to_ascii_lowercase().as_str(), "" | "hid" | "hub" | "mouse"))
        .map(|entry| entry.value.clone())
        .collect();
    devices.dedup();
    Usb { controllers, devices }
}

/// `bios.bootOrder = "hdd,cdrom,ethernet0"` and `bios.hddOrder = "scsi0:1"` as names of devices that are there. An empty
/// CD drive never comes in: firmware that waits for it is a guest that doesn't boot. Firmware goes on to the disk when the
/// devices named have nothing to boot, unless the order says `only:`.
pub(super) fn boot_order(hdd_order: Option<&str>, order: Option<&str>, disks: &[Disk], nics: &[Nic]) -> Vec<String> {
    let names: Vec<String> = disks.iter().map(Disk::name).collect();
    let present = |token: &str| names.iter().find(|name| name.eq_ignore_ascii_case(token)).cloned();
    let preferred: Vec<String> = hdd_order
        .unwrap_or_default()
        .split([',', ';'])
        .filter_map(|token| present(token.trim()))
        .collect();
    let Some(order) = order else {
        return preferred;
    };
    let boot_disks = if preferred.is_empty() {
        names.first().cloned().into_iter().collect()
    } else {
        preferred
    };
    let order = order.to_ascii_lowercase();
    let mut result: Vec<String> = Vec::new();
    for token in order.split([',', ';']) {
        let token = token.trim().trim_start_matches("allow:").trim_start_matches("only:");
        match token {
            "hdd" | "hd" | "disk" | "any" => result.extend(boot_disks.iter().cloned()),
            "net" | "ethernet" => result.extend(nics.first().map(|nic| format!("ethernet{}", nic.index))),
            other => {
                if let Some(disk) = present(other) {
                    result.push(disk);
                } else if nics.iter().any(|nic| format!("ethernet{}", nic.index) == other) {
                    result.push(other.to_owned());
                }
            }
        }
    }
    if !order.contains("only:") && !result.iter().any(|name| names.contains(name)) {
        result.extend(boot_disks);
    }
    let mut seen = std::collections::HashSet::new();
    result.retain(|name| seen.insert(name.clone()));
    result
}
