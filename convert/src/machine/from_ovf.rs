//! OVF to [`Machine`], with the accounting of its items.

use super::{
    Controller, ControllerBus, CpuTopology, Disk, DiskMode, Firmware, FirmwareKind, Identity, MACHINE_SCHEMA,
    MacOrigin, Machine, Memory, Nic, Notice, OsFamily, ParallelPort, Removable, RemovableKind, SerialPort, SourceKind,
    Tpm, Usb, from_vmx::topology, guest_os, identity,
};
use crate::ovf::{DiskEntry, Envelope, FileEntry, Hardware, Item, OvfError, VirtualSystem, scale};
use reports::schema::{AccountedKey, Accounting, KeyClass};
use std::collections::BTreeMap;
use std::path::Path;

/// What a build needs to know beside the envelope.
#[derive(Debug, Clone, Copy)]
pub struct Choice<'a> {
    /// Which guest, by name or id.
    pub system: Option<&'a str>,
    /// Which deployment configuration.
    pub deployment: Option<&'a str>,
    /// OVF or OVA.
    pub kind: SourceKind,
}

/// A built machine.
#[derive(Debug)]
pub struct Built {
    /// The machine.
    pub machine: Machine,
    /// What was met.
    pub notices: Vec<Notice>,
    /// What became of each item's fields.
    pub accounting: Accounting,
    /// For each disk of the machine its file; `None` for an empty disk.
    pub files: Vec<Option<FileEntry>>,
}

/// The guest that `wanted` names, or the only one.
///
/// # Errors
/// [`OvfError::SeveralSystems`], [`OvfError::NoSystem`].
pub fn choose<'a>(envelope: &'a Envelope, wanted: Option<&str>) -> Result<&'a VirtualSystem, OvfError> {
    let names = || {
        envelope
            .systems
            .iter()
            .map(|system| system.title().to_owned())
            .collect()
    };
    match wanted {
        Some(wanted) => {
            let found = envelope
                .systems
                .iter()
                .find(|system| system.title() == wanted || system.id == wanted);
            found.ok_or_else(|| match envelope.systems.len() {
                0 | 1 => OvfError::NoSystem(Some(wanted.to_owned())),
                _ => OvfError::SeveralSystems {
                    names: names(),
                    asked: Some(wanted.to_owned()),
                },
            })
        }
        None => match envelope.systems.as_slice() {
            [] => Err(OvfError::NoSystem(None)),
            [one] => Ok(one),
            _ => Err(OvfError::SeveralSystems {
                names: names(),
                asked: None,
            }),
        },
    }
}

fn first(values: &[String]) -> Option<&str> {
    values.iter().map(|value| value.trim()).find(|value| !value.is_empty())
}

fn quantity(what: &str, value: &str) -> Result<u64, OvfError> {
    value.trim().parse().map_err(|_| OvfError::Quantity {
        what: what.to_owned(),
        value: value.to_owned(),
        why: "not a whole number".to_owned(),
    })
}

/// Builds the machine of the chosen guest.
///
/// # Errors
/// [`OvfError`]: no such guest, or a quantity that can't be read.
pub fn build(envelope: &Envelope, choice: Choice<'_>, path: &Path) -> Result<Built, OvfError> {
    let system = choose(envelope, choice.system)?;
    let mut notices = Vec::new();
    let empty = Hardware::default();
    let hardware = system.hardware.first().unwrap_or(&empty);
    if system.hardware.len() > 1 {
        notices.push(Notice::new(
            "ovf.several-hardware-sections",
            format!("{} sections", system.hardware.len()),
        ));
    }
    let deployment = match (choice.deployment, envelope.configurations.as_slice()) {
        (Some(wanted), all) if all.iter().any(|id| id == wanted) => Some(wanted.to_owned()),
        (Some(wanted), all) => {
            return Err(OvfError::Quantity {
                what: "deployment".to_owned(),
                value: wanted.to_owned(),
                why: format!("the file has {}", all.join(", ")),
            });
        }
        (None, all) => {
            if all.len() > 1 {
                notices.push(Notice::new("ovf.several-configurations", all.join(", ")));
            }
            all.first().cloned()
        }
    };
    let applies = |item: &&Item| {
        item.configuration.as_ref().is_none_or(|names| {
            deployment
                .as_ref()
                .is_some_and(|deployment| names.split_whitespace().any(|name| name == deployment))
        })
    };
    let mut items: Vec<&Item> = hardware
        .items
        .iter()
        .chain(&hardware.storage)
        .chain(&hardware.ethernet)
        .filter(applies)
        .collect();
    // An item for one configuration goes before the one for all.
    items.sort_by_key(|item| item.configuration.is_none());
    let of_type = |wanted: &[u16]| -> Vec<&Item> {
        let mut found: Vec<&Item> = items
            .iter()
            .copied()
            .filter(|item| {
                first(&item.resource_type)
                    .and_then(|kind| kind.parse::<u16>().ok())
                    .is_some_and(|kind| wanted.contains(&kind))
            })
            .collect();
        found.sort_by_key(|item| item.configuration.is_none());
        found
    };
    let config = |key: &str| {
        hardware
            .config
            .iter()
            .chain(&hardware.extra)
            .find(|config| config.key.eq_ignore_ascii_case(key))
            .map(|config| config.value.trim())
            .filter(|value| !value.is_empty())
    };
    let on = |key: &str| config(key).is_some_and(|value| value.eq_ignore_ascii_case("true"));

    let cpu_items = of_type(&[3]);
    let cpu_item = cpu_items.first().copied();
    let vcpus = match cpu_item.and_then(|item| first(&item.virtual_quantity)) {
        Some(text) => u32::try_from(quantity("number of vCPUs", text)?)
            .ok()
            .filter(|count| (1..=4096).contains(count))
            .ok_or_else(|| OvfError::Quantity {
                what: "number of vCPUs".to_owned(),
                value: text.to_owned(),
                why: "allowed is 1 to 4096".to_owned(),
            })?,
        None => {
            notices.push(Notice::new("cpu.count-missing", "no item of type 3"));
            1
        }
    };
    let per_socket = cpu_item
        .and_then(|item| first(&item.cores_per_socket))
        .and_then(|text| match text.parse::<u32>() {
            Ok(cores) if (1..=vcpus).contains(&cores) => Some(cores),
            _ => {
                notices.push(Notice::new(
                    "ovf.cores-per-socket-invalid",
                    format!("CoresPerSocket = {text}, {vcpus} vCPUs"),
                ));
                None
            }
        });
    let (sockets, cores_per_socket, notice) = topology(vcpus, per_socket);
    notices.extend(notice);
    let memory_items = of_type(&[4]);
    let memory_item = memory_items.first().copied();
    let mib = match memory_item.and_then(|item| first(&item.virtual_quantity)) {
        Some(text) => {
            let units = memory_item
                .and_then(|item| first(&item.allocation_units))
                .unwrap_or_default();
            let bytes = quantity("memory", text)?.checked_mul(scale(units, 1 << 20)?);
            bytes
                .map(|bytes| bytes.div_ceil(1 << 20))
                .filter(|mib| (1..=25_165_824).contains(mib))
                .ok_or_else(|| OvfError::Quantity {
                    what: "memory".to_owned(),
                    value: format!("{text} {units}"),
                    why: "allowed is 1 to 25165824 MiB".to_owned(),
                })?
        }
        None => {
            notices.push(Notice::new("mem.size-missing", "no item of type 4"));
            32
        }
    };
    let number = |values: &[String]| first(values).and_then(|text| text.parse::<u64>().ok());

    let (os, known) = operating_system(system);
    if !known {
        notices.push(Notice::new(
            "os.id-unknown",
            format!("operating system \"{}\"", os.declared),
        ));
    }
    let hardware_type = hardware
        .system
        .iter()
        .flat_map(|entry| &entry.kind)
        .flat_map(|kind| kind.split_whitespace())
        .last()
        .unwrap_or_default();
    if !hardware_type.starts_with("vmx-") && !envelope.has_vmware {
        notices.push(Notice::new(
            "ovf.source-foreign",
            format!("VirtualSystemType {hardware_type}"),
        ));
    }
    let mut storage = storage(envelope, system, &items, &mut notices)?;
    let name = system.title();
    let name = if name.is_empty() {
        notices.push(Notice::new("vm.name-missing", "no Name and no id"));
        path.file_stem()
            .map_or_else(|| "guest".to_owned(), |stem| stem.to_string_lossy().into_owned())
    } else {
        name.to_owned()
    };
    let firmware_kind = match config("firmware") {
        Some(text) if text.eq_ignore_ascii_case("efi") => FirmwareKind::Uefi,
        None => FirmwareKind::Bios,
        Some(text) if text.eq_ignore_ascii_case("bios") => FirmwareKind::Bios,
        Some(text) => {
            notices.push(Notice::new("firmware.unknown", format!("firmware = \"{text}\"")));
            FirmwareKind::Bios
        }
    };
    let has_tpm = items
        .iter()
        .any(|item| first(&item.resource_sub_type).is_some_and(|kind| kind.to_ascii_lowercase().contains("vtpm")));
    let rtc_local = os.family == OsFamily::Windows;
    if on("disk.EnableUUID") {
        for disk in &mut storage.disks {
            disk.serial = Some(format!("esx-{}", disk.name().replace(':', "-")));
        }
    }
    let machine = Machine {
        schema: MACHINE_SCHEMA,
        source_kind: choice.kind,
        source: path.to_owned(),
        name,
        notes: system
            .annotation
            .iter()
            .flat_map(|annotation| &annotation.text)
            .find(|text| !text.trim().is_empty())
            .cloned()
            .unwrap_or_default(),
        hw_version: hardware_type
            .strip_prefix("vmx-")
            .and_then(|version| version.parse().ok()),
        identity: {
            let smbios_uuid = config("uuid.bios").and_then(identity::parse_uuid_bytes);
            Identity {
                smbios_uuid,
                smbios_serial: smbios_uuid
                    .and(config("uuid.bios"))
                    .map(|text| format!("VMware-{text}")),
                generation_id: None,
            }
        },
        firmware: Firmware {
            kind: firmware_kind,
            secure_boot: firmware_kind == FirmwareKind::Uefi
                && (on("bootOptions.efiSecureBootEnabled") || on("uefi.secureBoot.enabled")),
            tpm: if has_tpm { Tpm::V2 } else { Tpm::None },
            nvram: config("nvram").map(str::to_owned),
        },
        cpu: CpuTopology {
            vcpus,
            sockets,
            cores_per_socket,
            threads: 1,
            hot_add: on("cpuHotAddEnabled") || on("vcpu.hotadd"),
            nested: on("nestedHVEnabled") || on("vhv.enable"),
            numa_vcpus_per_node: config("numa.vcpu.maxPerVirtualNode").and_then(|text| text.parse().ok()),
            numa_affinity: config("numa.nodeAffinity").map(str::to_owned),
            latency_sensitivity: config("sched.cpu.latencySensitivity").map(str::to_owned),
            affinity: config("sched.cpu.affinity")
                .filter(|value| !value.eq_ignore_ascii_case("all"))
                .map(str::to_owned),
            reservation_mhz: cpu_item
                .and_then(|item| number(&item.reservation))
                .filter(|mhz| *mhz > 0),
            limit_mhz: cpu_item.and_then(|item| number(&item.limit)),
            // 1000 shares a vCPU is VMware's "normal".
            shares: cpu_item
                .and_then(|item| number(&item.weight))
                .filter(|weight| *weight > 0 && *weight != 1000 * u64::from(vcpus))
                .map(|weight| weight.to_string()),
        },
        memory: Memory {
            mib,
            hot_add: on("memoryHotAddEnabled") || on("mem.hotadd"),
            reservation_mib: memory_item
                .and_then(|item| number(&item.reservation))
                .filter(|mib| *mib > 0),
            limit_mib: memory_item.and_then(|item| number(&item.limit)),
            shares: None,
        },
        controllers: storage.controllers,
        disks: storage.disks,
        removable: storage.removable,
        nics: nics(&of_type(&[10])),
        serial: (0..)
            .zip(of_type(&[21]))
            .map(|(index, _)| SerialPort {
                index,
                kind: "device".to_owned(),
                target: None,
            })
            .collect(),
        parallel: (0..)
            .zip(of_type(&[22]))
            .map(|(index, _)| ParallelPort { index, target: None })
            .collect(),
        usb: Usb {
            controllers: of_type(&[23])
                .iter()
                .map(|item| first(&item.resource_sub_type).unwrap_or("usb").to_owned())
                .collect(),
            devices: Vec::new(),
        },
        sound: of_type(&[35])
            .first()
            .map(|item| first(&item.resource_sub_type).unwrap_or("sound").to_ascii_lowercase()),
        video_kib: None,
        passthrough: items
            .iter()
            .filter_map(|item| first(&item.resource_sub_type))
            .filter(|kind| kind.to_ascii_lowercase().contains("passthrough"))
            .map(str::to_owned)
            .collect(),
        rtc_local,
        rtc_offset_seconds: config("rtc.diffFromUTC").and_then(|text| text.parse().ok()),
        template: false,
        snapshots: Vec::new(),
        os,
        boot_order: Vec::new(),
    };
    let accounting = account(&machine, system, hardware, &items, envelope);
    Ok(Built {
        machine,
        notices,
        accounting,
        files: storage.files,
    })
}

fn operating_system(system: &VirtualSystem) -> (super::GuestOs, bool) {
    let Some(section) = system.os.first() else {
        return guest_os::from_id("");
    };
    let id = section
        .os_type
        .as_deref()
        .filter(|id| !id.is_empty())
        .or_else(|| section.id.trim().parse().ok().and_then(guest_os::from_cim));
    if let Some(id) = id {
        return guest_os::from_id(id);
    }
    // CIM 1 is "other", also for what has no number; the description often knows more.
    let description = first(&section.description).unwrap_or_default();
    let lower = description.to_ascii_lowercase();
    let guess = [
        ("windows", "windows9-64"),
        ("debian", "debian-64"),
        ("ubuntu", "ubuntu-64"),
        ("red hat", "rhel-64"),
        ("centos", "centos-64"),
        ("suse", "sles-64"),
        ("photon", "vmware-photon-64"),
        ("linux", "otherlinux-64"),
    ]
    .into_iter()
    .find(|(word, _)| lower.contains(word));
    let (mut os, _) = guest_os::from_id(guess.map_or("other-64", |(_, id)| id));
    let cim = section.id.trim();
    description.clone_into(&mut os.title);
    if os.title.is_empty() {
        os.title = format!("CIM operating system {cim}");
    }
    os.declared = format!("CIM {cim} {description}").trim().to_owned();
    (os, guess.is_some())
}

fn nics(items: &[&Item]) -> Vec<Nic> {
    (0..)
        .zip(items)
        .map(|(index, item)| {
            let mac = first(&item.address).and_then(identity::normal_mac);
            let setting = |key: &str| {
                item.config
                    .iter()
                    .find(|config| config.key == key)
                    .and_then(|config| config.value.parse::<u32>().ok())
            };
            Nic {
                index,
                model: first(&item.resource_sub_type)
                    .and_then(|kinds| kinds.split([' ', ',']).find(|kind| !kind.is_empty()))
                    .map(str::to_ascii_lowercase),
                mac_origin: if mac.is_some() {
                    MacOrigin::Static
                } else {
                    MacOrigin::Unknown
                },
                mac,
                // vCloud's name for "not connected".
                network: first(&item.connection)
                    .filter(|name| *name != "none")
                    .map(str::to_owned),
                connected: first(&item.automatic_allocation).is_none_or(|value| !value.eq_ignore_ascii_case("false")),
                pci_slot: setting("slotInfo.pciSlotNumber"),
                vlan: None,
                wake_on_lan: item
                    .config
                    .iter()
                    .any(|config| config.key == "wakeOnLanEnabled" && config.value.eq_ignore_ascii_case("true")),
            }
        })
        .collect()
}

struct Storage {
    controllers: Vec<Controller>,
    disks: Vec<Disk>,
    files: Vec<Option<FileEntry>>,
    removable: Vec<Removable>,
}

/// Bus and model of a controller item.
fn controller_model(item: &Item) -> Option<(ControllerBus, String)> {
    let kinds = first(&item.resource_sub_type).unwrap_or_default().to_ascii_lowercase();
    let kinds: Vec<&str> = kinds.split([' ', ',']).filter(|kind| !kind.is_empty()).collect();
    match first(&item.resource_type)? {
        "5" => Some((ControllerBus::Ide, "piix4".to_owned())),
        "6" => {
            let known = kinds.iter().find_map(|kind| match *kind {
                "lsilogic" | "buslogic" => Some(*kind),
                "lsilogicsas" | "lsilogicas" => Some("lsisas1068"),
                "virtualscsi" | "pvscsi" => Some("pvscsi"),
                _ => None,
            });
            Some((ControllerBus::Scsi, known.unwrap_or_default().to_owned()))
        }
        "20" if kinds.iter().any(|kind| kind.contains("nvme")) => Some((ControllerBus::Nvme, "nvme".to_owned())),
        "20" => Some((ControllerBus::Sata, "ahci".to_owned())),
        _ => None,
    }
}

fn storage(
    envelope: &Envelope,
    system: &VirtualSystem,
    items: &[&Item],
    notices: &mut Vec<Notice>,
) -> Result<Storage, OvfError> {
    let mut by_instance: BTreeMap<&str, (ControllerBus, u32)> = BTreeMap::new();
    let mut controllers: Vec<Controller> = Vec::new();
    for item in items {
        let Some((bus, model)) = controller_model(item) else {
            continue;
        };
        let taken = |index: u32| controllers.iter().any(|other| other.bus == bus && other.index == index);
        // `Address` is the controller's number, but two may carry the same: then the next free one.
        let index = first(&item.address)
            .and_then(|text| text.parse().ok())
            .filter(|index| !taken(*index))
            .unwrap_or_else(|| (0..).find(|index| !taken(*index)).unwrap_or(0));
        if let Some(instance) = first(&item.instance_id) {
            by_instance.insert(instance, (bus, index));
        }
        controllers.push(Controller {
            bus,
            index,
            model,
            shared_bus: None,
            pci_slot: None,
        });
    }
    let (mut found, mut removable) = (Vec::new(), Vec::new());
    for item in items {
        let kind = first(&item.resource_type).unwrap_or_default();
        let label = first(&item.element_name).or(first(&item.caption)).unwrap_or("disk");
        let parent = first(&item.parent).and_then(|parent| by_instance.get(parent).copied());
        let unit: Option<u32> = first(&item.address_on_parent).and_then(|text| text.parse().ok());
        match kind {
            "14" | "15" | "16" => {
                let floppy = kind == "14";
                removable.push(Removable {
                    kind: if floppy {
                        RemovableKind::Floppy
                    } else {
                        RemovableKind::Cdrom
                    },
                    name: match parent {
                        Some((bus, index)) if !floppy => format!("{}{index}:{}", bus.prefix(), unit.unwrap_or(0)),
                        _ if floppy => format!("floppy{}", unit.unwrap_or(0)),
                        _ => format!("cdrom{}", removable.len()),
                    },
                    image: first(&item.host_resource)
                        .filter(|resource| resource.contains("/file/"))
                        .map(str::to_owned),
                    connected: first(&item.automatic_allocation)
                        .is_some_and(|value| value.eq_ignore_ascii_case("true")),
                });
            }
            "17" => {
                let resource = first(&item.host_resource);
                let entry = resource.and_then(|resource| {
                    let id = resource.rsplit_once("disk/").map_or(resource, |(_, id)| id);
                    envelope.disks.iter().find(|disk| disk.disk_id == id)
                });
                let Some(entry) = entry else {
                    notices.push(Notice::new(
                        "ovf.disk-reference",
                        format!("{label}: HostResource \"{}\"", resource.unwrap_or_default()),
                    ));
                    continue;
                };
                let (bus, controller) = parent.unwrap_or_else(|| {
                    notices.push(Notice::new(
                        "ovf.controller-unknown",
                        format!("{label}: Parent \"{}\"", first(&item.parent).unwrap_or_default()),
                    ));
                    (ControllerBus::Scsi, 0)
                });
                found.push((
                    bus,
                    controller,
                    unit,
                    disk_file(envelope, system, entry, label, notices)?,
                ));
            }
            _ => {}
        }
    }
    let mut disks: Vec<(Disk, Option<FileEntry>)> = Vec::new();
    for (bus, controller, unit, (capacity_bytes, file)) in found {
        let taken = |unit: u32| {
            disks
                .iter()
                .any(|(disk, _)| disk.bus == bus && disk.controller == controller && disk.unit == unit)
        };
        let unit = unit
            .filter(|unit| !taken(*unit))
            .unwrap_or_else(|| (0..).find(|unit| !taken(*unit)).unwrap_or(0));
        disks.push((
            Disk {
                bus,
                controller,
                unit,
                file: file.as_ref().map(|file| file.href.clone()).unwrap_or_default(),
                capacity_bytes,
                mode: DiskMode::Persistent,
                shared: false,
                serial: None,
            },
            file,
        ));
    }
    disks.sort_by_key(|(disk, _)| (disk.bus, disk.controller, disk.unit));
    for (disk, _) in &disks {
        if !controllers
            .iter()
            .any(|other| other.bus == disk.bus && other.index == disk.controller)
        {
            controllers.push(Controller {
                bus: disk.bus,
                index: disk.controller,
                model: String::new(),
                shared_bus: None,
                pci_slot: None,
            });
        }
    }
    controllers.sort_by_key(|controller| (controller.bus, controller.index));
    let (disks, files) = disks.into_iter().unzip();
    Ok(Storage {
        controllers,
        disks,
        files,
        removable,
    })
}

/// Capacity and file of a disk entry.
fn disk_file(
    envelope: &Envelope,
    system: &VirtualSystem,
    entry: &DiskEntry,
    label: &str,
    notices: &mut Vec<Notice>,
) -> Result<(Option<u64>, Option<FileEntry>), OvfError> {
    let text = entry.capacity.trim();
    let property = text.strip_prefix("${").and_then(|rest| rest.strip_suffix('}'));
    let text = match property {
        Some(key) => system
            .product
            .iter()
            .flat_map(|product| &product.properties)
            .find(|property| property.key == key)
            .map_or(text, |property| property.value.trim()),
        None => text,
    };
    let capacity = if text.is_empty() {
        None
    } else {
        let factor = scale(entry.units.as_deref().unwrap_or_default(), 1)?;
        Some(
            quantity(&format!("capacity of {label}"), text)?
                .checked_mul(factor)
                .ok_or_else(|| OvfError::Quantity {
                    what: format!("capacity of {label}"),
                    value: text.to_owned(),
                    why: "too large".to_owned(),
                })?,
        )
    };
    let file = match entry.file_ref.as_deref().filter(|id| !id.is_empty()) {
        None => {
            notices.push(Notice::new("ovf.empty-disk", format!("{label}: {text} bytes")));
            None
        }
        Some(id) => {
            let file = envelope.files.iter().find(|file| file.id == id).cloned();
            if file.is_none() {
                notices.push(Notice::new(
                    "disk.file-missing",
                    format!("{label}: fileRef \"{id}\" is in no File"),
                ));
            }
            file
        }
    };
    Ok((capacity, file))
}

/// The class of a field of an item.
fn field_class(kind: &str, field: &str) -> (KeyClass, &'static str) {
    use KeyClass::{Approximated, DroppedHarmless, DroppedWarning, Mapped};
    match (kind, field) {
        (_, "InstanceID" | "ResourceType" | "Parent") => (Mapped, "what the item is and where it hangs"),
        (_, "Caption" | "Description" | "ElementName") => (DroppedHarmless, "text for people"),
        ("3" | "4", "VirtualQuantity" | "AllocationUnits" | "CoresPerSocket") => (Mapped, "CPUs and memory"),
        ("3" | "4", "Reservation") => (DroppedWarning, "a reservation has no equivalent"),
        ("3" | "4", "Limit" | "Weight") => (Approximated, "kept in the machine"),
        ("5" | "6" | "20", "Address") => (Mapped, "number of the controller"),
        ("5" | "6" | "20", "ResourceSubType") => (Approximated, "controller model"),
        ("10", "Address") => (Mapped, "MAC"),
        ("10", "Connection") => (Mapped, "network, through the map"),
        ("10", "ResourceSubType") => (Approximated, "NIC model"),
        ("10", "AutomaticAllocation") => (Mapped, "link state"),
        ("10", "AddressOnParent") => (DroppedHarmless, "place among the NICs"),
        ("17", "HostResource" | "AddressOnParent") => (Mapped, "disk and its unit"),
        ("14", _) => (DroppedWarning, "floppy drive"),
        ("15" | "16", _) => (Approximated, "an empty drive"),
        ("21", _) => (Approximated, "serial port"),
        ("22", _) => (DroppedWarning, "parallel port"),
        (
            _,
            "ResourceSubType"
            | "Address"
            | "AddressOnParent"
            | "AutomaticAllocation"
            | "VirtualQuantity"
            | "VirtualQuantityUnits"
            | "AllocationUnits"
            | "Connection"
            | "HostResource"
            | "Limit"
            | "Reservation"
            | "Weight"
            | "CoresPerSocket",
        ) => (DroppedHarmless, "no effect away from VMware"),
        _ => (KeyClass::Unknown, "not in the table; please report it"),
    }
}

/// The class of a `vmw:Config` or `vmw:ExtraConfig` of the machine.
fn config_class(key: &str, value: &str) -> (KeyClass, &'static str) {
    use KeyClass::{Approximated, DroppedHarmless, DroppedWarning, Mapped};
    let key = key.to_ascii_lowercase();
    let off = matches!(value.trim().to_ascii_lowercase().as_str(), "" | "false" | "0");
    match key.as_str() {
        "firmware" => (Mapped, "firmware"),
        "bootoptions.efisecurebootenabled" => (Mapped, "Secure Boot"),
        "cpuhotaddenabled" | "memoryhotaddenabled" | "cpuhotremoveenabled" | "nestedhvenabled" if off => {
            (Mapped, "off, as on the target")
        }
        "cpuhotaddenabled" | "memoryhotaddenabled" | "cpuhotremoveenabled" => {
            (Approximated, "hot-add without a stated maximum")
        }
        "nestedhvenabled" => (Approximated, "nested virtualisation through the host's CPU model"),
        "nvram" => (
            DroppedWarning,
            "firmware variables are not converted; boot entries are lost",
        ),
        "flags.vbsenabled" | "flags.vvtdenabled" | "tools.synctimewithhost" | "virtualicd" if !off => {
            (DroppedWarning, "something of VMware that the guest used")
        }
        _ if key.starts_with("flags.")
            || key.starts_with("tools.")
            || key.starts_with("powerop")
            || key.starts_with("bootoptions.")
            || key.starts_with("virtual")
            || key.starts_with("boot")
            || key.starts_with("simultaneous")
            || key.starts_with("backing.")
            || key.starts_with("connectable.")
            || key.starts_with("slotinfo.")
            || key.starts_with("wakeonlan")
            || key.starts_with("video")
            || key.starts_with("usevmi")
            || key.starts_with("enable3d")
            || key.starts_with("use3d")
            || key.starts_with("usea")
            || key.starts_with("graphics")
            || key.starts_with("autoconnect")
            || key.starts_with("ehci")
            || key.starts_with("unitnumber")
            || key.starts_with("key")
            || key.starts_with("allowunrestricted")
            || key.starts_with("numsup")
            || key.starts_with("uptcompat")
            || key.starts_with("fixedpass")
            || key.starts_with("cpuid")
            || key.starts_with("cpuallocation.")
            || key.starts_with("memoryallocation.")
            || key.starts_with("vpmc")
            || key.starts_with("numa.")
            || key.starts_with("svga.")
            || key.starts_with("viommu") =>
        {
            (DroppedHarmless, "no effect on the guest away from VMware")
        }
        _ => (KeyClass::Unknown, "not in the table; please report it"),
    }
}

/// An extra setting is a VMX key: its table knows it.
fn extra_class(key: &str, value: &str, machine: &Machine) -> (KeyClass, &'static str) {
    match config_class(key, value) {
        (KeyClass::Unknown, _) => crate::accounting::table::classify(&key.to_ascii_lowercase(), value, machine),
        known => known,
    }
}

fn account(
    machine: &Machine,
    system: &VirtualSystem,
    hardware: &Hardware,
    items: &[&Item],
    envelope: &Envelope,
) -> Accounting {
    let mut keys = Vec::new();
    let mut add = |key: String, value: &str, (class, why): (KeyClass, &str)| {
        keys.push(AccountedKey {
            key,
            value: value.to_owned(),
            line: None,
            class,
            why: why.to_owned(),
            targets: BTreeMap::new(),
        });
    };
    add(
        "VirtualSystem.name".to_owned(),
        system.title(),
        (KeyClass::Mapped, "name"),
    );
    for section in &system.os {
        add(
            "OperatingSystemSection.id".to_owned(),
            &section.id,
            (KeyClass::Mapped, "guest OS"),
        );
        if let Some(id) = &section.os_type {
            add(
                "OperatingSystemSection.osType".to_owned(),
                id,
                (KeyClass::Mapped, "guest OS"),
            );
        }
    }
    for kind in hardware.system.iter().flat_map(|entry| &entry.kind) {
        add(
            "System.VirtualSystemType".to_owned(),
            kind,
            (KeyClass::DroppedHarmless, "version of VMware's hardware"),
        );
    }
    for (number, item) in hardware
        .items
        .iter()
        .chain(&hardware.storage)
        .chain(&hardware.ethernet)
        .enumerate()
    {
        let used = items.iter().any(|other| std::ptr::eq(*other, item));
        let instance = first(&item.instance_id).map_or_else(|| format!("#{number}"), str::to_owned);
        let kind = first(&item.resource_type).unwrap_or_default();
        let mut seen: BTreeMap<&str, usize> = BTreeMap::new();
        for (field, value) in item.fields() {
            let count = seen.entry(field).or_insert(0);
            *count += 1;
            let again = if *count > 1 {
                format!("({count})")
            } else {
                String::new()
            };
            let class = if used {
                field_class(kind, field)
            } else {
                (KeyClass::DroppedHarmless, "of another deployment configuration")
            };
            let variant = item
                .configuration
                .as_ref()
                .map_or_else(String::new, |name| format!("@{name}"));
            add(format!("Item[{instance}{variant}].{field}{again}"), value, class);
        }
        for config in &item.config {
            add(
                format!("Item[{instance}].Config.{}", config.key),
                &config.value,
                config_class(&config.key, &config.value),
            );
        }
    }
    for config in &hardware.config {
        add(
            format!("Config.{}", config.key),
            &config.value,
            config_class(&config.key, &config.value),
        );
    }
    for config in &hardware.extra {
        add(
            format!("ExtraConfig.{}", config.key),
            &config.value,
            extra_class(&config.key, &config.value, machine),
        );
    }
    for property in system.product.iter().flat_map(|product| &product.properties) {
        add(
            format!("Property.{}", property.key),
            &property.value,
            (KeyClass::DroppedWarning, "vApp property"),
        );
    }
    for disk in &envelope.disks {
        let used = disk.file_ref.is_none()
            || machine.disks.iter().any(|found| {
                envelope
                    .files
                    .iter()
                    .any(|file| Some(&file.id) == disk.file_ref.as_ref() && file.href == found.file)
            });
        let class = if used {
            (KeyClass::Mapped, "size and file of a disk")
        } else {
            (KeyClass::DroppedHarmless, "a disk of another guest")
        };
        add(format!("Disk[{}].capacity", disk.disk_id), &disk.capacity, class);
    }
    Accounting { keys }
}
