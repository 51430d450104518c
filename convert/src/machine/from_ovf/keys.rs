//! Key accounting of an OVF: each field of an item and each setting ends in one class.

use super::first;
use crate::machine::Machine;
use crate::ovf::{Envelope, Hardware, Item, VirtualSystem};
use reports::schema::{AccountedKey, Accounting, KeyClass};
use std::collections::BTreeMap;

/// The class of a field of an item.
fn field_class(kind: &str, field: &str) -> (KeyClass, &'static str) {
    use KeyClass::{Approximated, DroppedHarmless, DroppedWarning, Mapped};
    match (kind, field) {
        (_, "Caption" | "Description" | "ElementName") => (DroppedHarmless, "text for people"),
        ("15" | "16", _) => (Approximated, "an empty drive"),
        ("21", "InstanceID" | "ResourceType") => (Approximated, "serial port, as a socket or terminal of the target"),
        ("14", _) => (DroppedWarning, "floppy drive"),
        ("22", _) => (DroppedWarning, "parallel port"),
        ("3" | "4" | "5" | "6" | "10" | "17" | "20", "InstanceID" | "ResourceType" | "Parent") => {
            (Mapped, "what the item is and where it hangs")
        }
        (_, "InstanceID" | "ResourceType" | "Parent") => (DroppedHarmless, "an item that the target has no need of"),
        ("3" | "4", "VirtualQuantity" | "AllocationUnits" | "CoresPerSocket") => (Mapped, "CPUs and memory"),
        ("3", "Reservation") => (
            DroppedWarning,
            "a reservation in MHz; targets reserve whole CPUs by pinning only",
        ),
        ("4", "Reservation") => (
            Approximated,
            "nothing is taken away by ballooning; huge pages would reserve it for certain",
        ),
        ("3", "Limit") => (
            DroppedWarning,
            "a limit in MHz; cpu_limit in the map states it in CPUs of the new host",
        ),
        ("4", "Limit") => (
            DroppedWarning,
            "a limit below the size; give the guest that size instead",
        ),
        ("3", "Weight") => (Approximated, "a weight beside that of other guests"),
        ("4", "Weight") => (DroppedWarning, "targets have no weight for memory"),
        ("5" | "6" | "20", "Address") => (Mapped, "number of the controller"),
        ("5" | "6" | "20", "ResourceSubType") => (Approximated, "controller model"),
        ("10", "Address") => (Mapped, "MAC"),
        ("10", "Connection") => (Mapped, "network, through the map"),
        ("10", "ResourceSubType") => (Approximated, "NIC model"),
        ("10", "AutomaticAllocation") => (Mapped, "link state"),
        ("10", "AddressOnParent") => (DroppedHarmless, "place among the NICs"),
        ("17", "HostResource" | "AddressOnParent") => (Mapped, "disk and its unit"),
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

/// VMX keys that count as extra settings of an OVF, in lower case.
const READ: [&str; 18] = [
    "firmware",
    "uefi.secureboot.enabled",
    "vtpm.present",
    "managedvm.autoaddvtpm",
    "uuid.bios",
    "vm.genid",
    "vm.genidx",
    "disk.enableuuid",
    "vcpu.hotadd",
    "mem.hotadd",
    "vhv.enable",
    "numa.vcpu.maxpervirtualnode",
    "bios.bootorder",
    "bios.hddorder",
    "bios.bootdeviceclasses",
    "rtc.difffromutc",
    "sched.cpu.shares",
    "sched.mem.pin",
];

/// An extra setting is a VMX key: its table knows it. But devices are items in an OVF, so their keys are not read.
fn extra_class(key: &str, value: &str, machine: &Machine) -> (KeyClass, &'static str) {
    use KeyClass::{Approximated, DroppedHarmless, DroppedWarning, Mapped, Unknown};
    let lower = key.to_ascii_lowercase();
    match config_class(key, value) {
        (Unknown, _) => match crate::accounting::table::classify(&lower, value, machine) {
            (Mapped | Approximated, _) if lower == "svga.present" => (DroppedHarmless, "the target has its own"),
            (Mapped | Approximated, _) if !READ.contains(&lower.as_str()) && lower != "sched.mem.min" => {
                (DroppedWarning, "not read in an OVF, where devices are items")
            }
            known => known,
        },
        known => known,
    }
}

/// A warning about something that is switched off, or as VMware sets it, would be noise.
fn without_noise(
    (kind, field): (&str, &str),
    value: &str,
    machine: &Machine,
    (class, why): (KeyClass, &'static str),
) -> (KeyClass, &'static str) {
    let number = value.trim().parse::<u64>().ok();
    let normal = match (kind, field) {
        ("3" | "4", "Limit" | "Reservation") if matches!(value.trim(), "" | "-1" | "0") => true,
        ("4", "Limit") => number.is_some_and(|limit| limit >= machine.memory.mib),
        ("4", "Weight") => machine.memory.shares.is_none(),
        _ => false,
    };
    if normal && class == KeyClass::DroppedWarning {
        (KeyClass::DroppedHarmless, "switched off, or the default")
    } else {
        (class, why)
    }
}

/// The VMX key that says the same as a field of an item, so that both become the same on a target.
fn vmx_key(kind: &str, field: &str, device: Option<&str>) -> Option<String> {
    let property = |name: &str| device.map(|device| format!("{device}.{name}"));
    let place = matches!(field, "InstanceID" | "ResourceType" | "Parent");
    match (kind, field) {
        ("3", "Weight") => Some("sched.cpu.shares".to_owned()),
        ("3", "CoresPerSocket") => Some("cpuid.coresPerSocket".to_owned()),
        ("3", "VirtualQuantity" | "AllocationUnits") => Some("numvcpus".to_owned()),
        ("3", _) if place => Some("numvcpus".to_owned()),
        ("4", "Reservation") => Some("sched.mem.min".to_owned()),
        ("4", "VirtualQuantity" | "AllocationUnits") => Some("memSize".to_owned()),
        ("4", _) if place => Some("memSize".to_owned()),
        ("15" | "16", _) => Some("cdrom0.present".to_owned()),
        ("5" | "6" | "20" | "10", "ResourceSubType") => property("virtualDev"),
        ("5" | "6" | "20", "Address") => property("present"),
        ("10", "Address") => property("address"),
        ("10", "Connection") => property("networkName"),
        ("10", "AutomaticAllocation") => property("startConnected"),
        ("17", "HostResource" | "AddressOnParent") => property("fileName"),
        ("5" | "6" | "10" | "17" | "20" | "21", _) if place => property("present"),
        _ => None,
    }
}

/// The VMX key of a setting that OVF spells in its own way.
fn vmx_setting(key: &str) -> Option<String> {
    let name = match key.to_ascii_lowercase().as_str() {
        "firmware" => "firmware",
        "bootoptions.efisecurebootenabled" => "uefi.secureBoot.enabled",
        "cpuhotaddenabled" => "vcpu.hotadd",
        "cpuhotremoveenabled" => "vcpu.hotremove",
        "memoryhotaddenabled" => "mem.hotadd",
        "nestedhvenabled" => "vhv.enable",
        _ => return None,
    };
    Some(name.to_owned())
}

/// Accounts for every field and setting of the guest.
pub(super) fn account(
    machine: &Machine,
    system: &VirtualSystem,
    hardware: &Hardware,
    items: &[&Item],
    names: &BTreeMap<String, String>,
    envelope: &Envelope,
) -> Accounting {
    let mut keys = Vec::new();
    let mut add = |key: String, value: &str, (class, why): (KeyClass, &str), same_as: Option<String>| {
        keys.push(AccountedKey {
            key,
            value: value.to_owned(),
            line: None,
            class,
            why: why.to_owned(),
            same_as,
            targets: BTreeMap::new(),
        });
    };
    add(
        "VirtualSystem.name".to_owned(),
        system.title(),
        (KeyClass::Mapped, "name"),
        Some("displayName".to_owned()),
    );
    for section in &system.os {
        add(
            "OperatingSystemSection.id".to_owned(),
            &section.id,
            (KeyClass::Mapped, "guest OS"),
            Some("guestOS".to_owned()),
        );
        if let Some(id) = &section.os_type {
            add(
                "OperatingSystemSection.osType".to_owned(),
                id,
                (KeyClass::Mapped, "guest OS"),
                Some("guestOS".to_owned()),
            );
        }
    }
    for text in system.annotation.iter().flat_map(|annotation| &annotation.text) {
        add(
            "AnnotationSection.Annotation".to_owned(),
            text,
            (KeyClass::Mapped, "notes"),
            Some("annotation".to_owned()),
        );
    }
    for kind in hardware.system.iter().flat_map(|entry| &entry.kind) {
        add(
            "System.VirtualSystemType".to_owned(),
            kind,
            (KeyClass::DroppedHarmless, "version of VMware's hardware"),
            None,
        );
    }
    // NICs are numbered in the order of their items, as the machine has them.
    let adapters: Vec<&Item> = items
        .iter()
        .copied()
        .filter(|item| first(&item.resource_type) == Some("10"))
        .collect();
    let ports: Vec<&Item> = items
        .iter()
        .copied()
        .filter(|item| first(&item.resource_type) == Some("21"))
        .collect();
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
        let among = |items: &[&Item]| items.iter().position(|other| std::ptr::eq(*other, item));
        let device = match (among(&adapters), among(&ports)) {
            (Some(adapter), _) => Some(format!("ethernet{adapter}")),
            (None, Some(port)) => Some(format!("serial{port}")),
            (None, None) => names.get(&instance).cloned(),
        };
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
                without_noise((kind, field), value, machine, field_class(kind, field))
            } else {
                (KeyClass::DroppedHarmless, "of another deployment configuration")
            };
            let variant = item
                .configuration
                .as_ref()
                .map_or_else(String::new, |name| format!("@{name}"));
            let same_as = vmx_key(kind, field, device.as_deref()).filter(|_| used && *count == 1);
            add(
                format!("Item[{instance}{variant}].{field}{again}"),
                value,
                class,
                same_as,
            );
        }
        for config in &item.config {
            let slot = kind == "10" && config.key == "slotInfo.pciSlotNumber" && used;
            let (class, same_as) = match device.as_ref().filter(|_| slot) {
                Some(nic) => (
                    (KeyClass::Approximated, "NIC name in the guest"),
                    Some(format!("{nic}.pciSlotNumber")),
                ),
                None => (config_class(&config.key, &config.value), None),
            };
            add(
                format!("Item[{instance}].Config.{}", config.key),
                &config.value,
                class,
                same_as,
            );
        }
    }
    for config in &hardware.config {
        add(
            format!("Config.{}", config.key),
            &config.value,
            config_class(&config.key, &config.value),
            vmx_setting(&config.key),
        );
    }
    for config in &hardware.extra {
        add(
            format!("ExtraConfig.{}", config.key),
            &config.value,
            extra_class(&config.key, &config.value, machine),
            vmx_setting(&config.key).or_else(|| Some(config.key.clone())),
        );
    }
    for property in system.product.iter().flat_map(|product| &product.properties) {
        add(
            format!("Property.{}", property.key),
            &property.value,
            (KeyClass::DroppedWarning, "vApp property"),
            None,
        );
    }
    for disk in &envelope.disks {
        let file = envelope
            .files
            .iter()
            .find(|file| Some(&file.id) == disk.file_ref.as_ref());
        let found = machine
            .disks
            .iter()
            .find(|found| file.is_some_and(|file| file.href == found.file));
        let class = if found.is_some() || disk.file_ref.is_none() {
            (KeyClass::Mapped, "size and file of a disk")
        } else {
            (KeyClass::DroppedHarmless, "a disk of another guest")
        };
        add(
            format!("Disk[{}].capacity", disk.disk_id),
            &disk.capacity,
            class,
            found.map(|found| format!("{}.fileName", found.name())),
        );
    }
    Accounting { keys }
}
