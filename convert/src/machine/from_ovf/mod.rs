//! OVF to [`Machine`], with the accounting of its items.

mod keys;
mod storage;

use super::{
    CpuTopology, Firmware, FirmwareKind, Identity, MACHINE_SCHEMA, MacOrigin, Machine, Memory, Nic, Notice, OsFamily,
    ParallelPort, SerialPort, SourceKind, Tpm, Usb,
    from_vmx::{boot_order, topology},
    guest_os, identity,
};
use crate::ovf::{Envelope, FileEntry, Hardware, Item, OvfError, VirtualSystem, scale};
use reports::schema::Accounting;
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
    let mut storage = storage::storage(envelope, system, &items, &mut notices)?;
    let name = system.title();
    let name = if name.is_empty() {
        notices.push(Notice::new("vm.name-missing", "no Name and no id"));
        path.file_stem()
            .map_or_else(|| "guest".to_owned(), |stem| stem.to_string_lossy().into_owned())
    } else {
        name.to_owned()
    };
    let firmware_kind = match config("firmware") {
        Some(text) if text.eq_ignore_ascii_case("efi") || text.eq_ignore_ascii_case("uefi") => FirmwareKind::Uefi,
        None => FirmwareKind::Bios,
        Some(text) if text.eq_ignore_ascii_case("bios") => FirmwareKind::Bios,
        Some(text) => {
            notices.push(Notice::new("firmware.unknown", format!("firmware = \"{text}\"")));
            FirmwareKind::Bios
        }
    };
    let has_tpm = items
        .iter()
        .any(|item| first(&item.resource_sub_type).is_some_and(|kind| kind.to_ascii_lowercase().contains("vtpm")))
        || on("vtpm.present")
        || on("managedVM.autoAddVTPM");
    let nics = nics(&of_type(&[10]));
    let boot_order = boot_order(
        config("bios.hddOrder"),
        config("bios.bootOrder").or_else(|| config("bios.bootDeviceClasses")),
        &storage.disks,
        &nics,
    );
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
                generation_id: config("vm.genid")
                    .zip(config("vm.genidX"))
                    .and_then(|(low, high)| identity::generation_id(low, high)),
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
                .map(|weight| weight.to_string())
                .or_else(|| config("sched.cpu.shares").map(str::to_owned)),
        },
        memory: Memory {
            mib,
            hot_add: on("memoryHotAddEnabled") || on("mem.hotadd"),
            reservation_mib: if on("sched.mem.pin") {
                Some(mib)
            } else {
                memory_item
                    .and_then(|item| number(&item.reservation))
                    .or_else(|| config("sched.mem.min").and_then(|text| text.parse().ok()))
                    .filter(|mib| *mib > 0)
            },
            limit_mib: memory_item.and_then(|item| number(&item.limit)),
            // 10 shares a MiB is VMware's "normal".
            shares: memory_item
                .and_then(|item| number(&item.weight))
                .filter(|weight| *weight > 0 && *weight != mib.saturating_mul(10))
                .map(|weight| weight.to_string()),
        },
        controllers: storage.controllers,
        disks: storage.disks,
        removable: storage.removable,
        nics,
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
        boot_order,
    };
    let accounting = keys::account(&machine, system, hardware, &items, &storage.names, envelope);
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
