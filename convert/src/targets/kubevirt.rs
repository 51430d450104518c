//! KubeVirt: a VirtualMachine with DataVolumes to upload into.

use super::map::AccessMode;
use super::plan::{BootDevice, DiskBus, Plan, is_old_windows};
use super::text::{dns_name, printable, serial};
use super::write::TargetContext;
use crate::machine::{FirmwareKind, Machine, Nic, OsFamily, Tpm, identity};
use serde_json::{Map, Value, json};
use std::fmt::Write as _;

/// The manifest.
#[must_use]
pub fn manifest(machine: &Machine, context: &TargetContext, plan: &Plan) -> String {
    let mut text = String::from(
        "# Upload each disk before the guest is started: virtctl image-upload dv NAME --no-create --image-path FILE\n",
    );
    for (number, disk) in context.disks.iter().enumerate() {
        let _ = writeln!(
            text,
            "#   {}  <-  {}",
            volume(plan, number),
            printable(&disk.path.to_string_lossy())
        );
    }
    write_yaml(&mut text, &value(machine, context, plan), 0);
    text
}

fn volume(plan: &Plan, number: usize) -> String {
    let name: String = plan.name.chars().take(50).collect();
    format!("{}-disk{number}", name.trim_end_matches('-'))
}

fn value(machine: &Machine, context: &TargetContext, plan: &Plan) -> Value {
    let boot = plan.boot(machine);
    let boot_order = |device: BootDevice| boot.iter().position(|other| *other == device).map(|place| place + 1);
    let (mut templates, mut disks, mut volumes) = (Vec::new(), Vec::new(), Vec::new());
    for (number, planned) in plan.disks.iter().enumerate() {
        let (source, target) = (&machine.disks[number], &context.disks[number]);
        let name = volume(plan, number);
        // Whole MiB, as plain bytes: no unit that two readers could take for two sizes.
        let bytes = target.virtual_bytes.div_ceil(1 << 20) << 20;
        let mut storage = json!({"resources": {"requests": {"storage": bytes.to_string()}}});
        let place = context
            .map
            .as_ref()
            .map(|map| map.storage(machine, &source.file))
            .unwrap_or_default();
        // Without a mode CDI takes what the profile of the storage class prefers; a disk of several guests has no choice.
        let shared = source.shared.then_some(AccessMode::ReadWriteMany);
        if let Some(mode) = place.access_mode.or(shared) {
            storage["accessModes"] = json!([mode.name()]);
        }
        if let Some(class) = place.storage_class {
            storage["storageClassName"] = class.into();
        }
        templates.push(json!({
            "metadata": {"name": name},
            "spec": {"source": {"upload": {}}, "storage": storage},
        }));
        let mut disk = json!({"name": format!("disk{number}"), "disk": {"bus": bus(planned.bus)}});
        if let Some(order) = boot_order(BootDevice::Disk(number)) {
            disk["bootOrder"] = order.into();
        }
        if let Some(text) = &source.serial {
            disk["serial"] = serial(text).into();
        }
        if source.shared {
            disk["shareable"] = true.into();
            disk["cache"] = "none".into();
        }
        disks.push(disk);
        volumes.push(json!({"name": format!("disk{number}"), "dataVolume": {"name": name}}));
    }
    let (mut interfaces, mut networks) = (Vec::new(), Vec::new());
    for (number, nic) in machine.nics.iter().enumerate() {
        let name = format!("net{number}");
        let mut interface = json!({"name": name, "model": plan.nics[number].model});
        if let Some(mac) = &nic.mac {
            interface["macAddress"] = mac.as_str().into();
        }
        if !nic.connected {
            interface["state"] = "down".into();
        }
        if let Some(order) = boot_order(BootDevice::Nic(number)) {
            interface["bootOrder"] = order.into();
        }
        match network(machine, nic, number, context) {
            None => {
                interface["masquerade"] = json!({});
                networks.push(json!({"name": name, "pod": {}}));
            }
            Some(nad) => {
                interface["bridge"] = json!({});
                networks.push(json!({"name": name, "multus": {"networkName": nad}}));
            }
        }
        interfaces.push(interface);
    }
    let secure = machine.firmware.secure_boot;
    let mut firmware = Map::new();
    if let Some(uuid) = &machine.identity.smbios_uuid {
        firmware.insert("uuid".into(), identity::target_uuid(uuid).into());
    }
    if let Some(text) = &machine.identity.smbios_serial {
        firmware.insert("serial".into(), text.as_str().into());
    }
    let loader = match machine.firmware.kind {
        // Always said: the default of secureBoot is true.
        FirmwareKind::Uefi => json!({"efi": {"secureBoot": secure, "persistent": true}}),
        FirmwareKind::Bios => json!({"bios": {}}),
    };
    firmware.insert("bootloader".into(), loader);
    let windows = machine.os.family == OsFamily::Windows;
    let mut features = json!({"acpi": {}});
    if windows {
        features["hyperv"] = json!({"relaxed": {}, "vapic": {}, "spinlocks": {"spinlocks": 8191}});
    }
    if secure {
        features["smm"] = json!({"enabled": true});
    }
    // A pointer that follows the mouse; Windows before 8 has no driver for the USB controller that it brings.
    let mut devices = json!({"rng": {}, "disks": disks, "interfaces": interfaces});
    if windows && !is_old_windows(machine) {
        devices["inputs"] = json!([{"name": "tablet", "type": "tablet", "bus": "usb"}]);
    }
    if plan.nics.iter().any(|nic| nic.model == "virtio") && machine.cpu.vcpus > 1 {
        devices["networkInterfaceMultiqueue"] = true.into();
    }
    if machine.firmware.tpm != Tpm::None {
        devices["tpm"] = json!({"persistent": true});
    }
    let cpu = &machine.cpu;
    let (cores, threads) = (cpu.cores_per_socket, cpu.threads);
    let mut cpus = json!({"sockets": cpu.sockets, "cores": cores, "threads": threads});
    if cpu.nested {
        cpus["model"] = "host-passthrough".into();
    }
    if plan.resources.vcpus_grow(machine) {
        cpus["maxSockets"] = plan.resources.sockets.into();
    }
    let mut memory = json!({"guest": format!("{}Mi", machine.memory.mib)});
    if let Some(most) = plan.resources.max_memory_mib {
        memory["maxGuest"] = format!("{most}Mi").into();
    }
    let mut claim = Map::new();
    if let Some(mib) = plan.resources.reserved_mib {
        claim.insert("requests".into(), json!({"memory": format!("{mib}Mi")}));
    }
    if let Some(limit) = plan.resources.cpu_limit {
        claim.insert("limits".into(), json!({"cpu": format!("{}m", limit.get() * 10)}));
    }
    let mut timer =
        json!({"hpet": {"present": false}, "pit": {"tickPolicy": "delay"}, "rtc": {"tickPolicy": "catchup"}});
    if windows {
        timer["hyperv"] = json!({"present": true});
    }
    let mut clock = json!({"timer": timer});
    let zone = context.map.as_ref().and_then(|map| map.timezone(machine));
    match (machine.rtc_offset_seconds, zone.filter(|_| machine.rtc_local)) {
        (Some(offset), _) => clock["utc"] = json!({"offsetSeconds": offset}),
        (None, Some(zone)) => clock["timezone"] = zone.into(),
        // Local time needs the name of a zone, which no file of the source holds; `time.zone-unknown` says so.
        (None, None) => clock["utc"] = json!({}),
    }
    let mut annotations = json!({"esxodus/source-name": printable(&machine.name)});
    if !machine.notes.is_empty() {
        annotations["esxodus/notes"] = printable(&machine.notes).into();
    }
    let mut domain = json!({
        "machine": {"type": "q35"},
        "cpu": cpus,
        "memory": memory,
        "firmware": firmware,
        "features": features,
        "clock": clock,
        "devices": devices,
    });
    if !claim.is_empty() {
        domain["resources"] = claim.into();
    }
    json!({
        "apiVersion": "kubevirt.io/v1",
        "kind": "VirtualMachine",
        "metadata": {"name": plan.name, "annotations": annotations},
        "spec": {
            "runStrategy": "Halted",
            "dataVolumeTemplates": templates,
            "template": {
                "metadata": {"labels": {"kubevirt.io/domain": plan.name}},
                "spec": {
                    "domain": domain,
                    "networks": networks,
                    // A guest that is stopped sooner was not shut down but switched off; the default is 30 seconds.
                    "terminationGracePeriodSeconds": if windows { 3600 } else { 180 },
                    "volumes": volumes,
                },
            },
        },
    })
}

/// A disk's bus as KubeVirt spells it.
pub(crate) fn bus(bus: DiskBus) -> &'static str {
    match bus {
        DiskBus::VirtioScsi => "scsi",
        DiskBus::VirtioBlk => "virtio",
        _ => "sata",
    }
}

/// The NetworkAttachmentDefinition of a NIC; `None`: the pod network.
pub(crate) fn network(machine: &Machine, nic: &Nic, number: usize, context: &TargetContext) -> Option<String> {
    let mapped = context.map.as_ref().and_then(|map| map.network(machine, nic));
    let nad = mapped.and_then(|network| network.nad.clone());
    let pod = mapped.is_some_and(|network| network.pod) || context.map.is_none() && number == 0;
    if pod && nad.is_none() {
        return None;
    }
    Some(nad.unwrap_or_else(|| dns_name(nic.network.as_deref().unwrap_or("network"), false, true)))
}

/// Block YAML. Strings are written in JSON's quotes, which YAML 1.2 reads as they are; so nothing turns into a number, a
/// date or `no`.
fn write_yaml(out: &mut String, value: &Value, indent: usize) {
    let pad = " ".repeat(indent);
    match value {
        Value::Object(map) => {
            for (key, value) in map {
                let key = if key.chars().all(|c| c.is_ascii_alphabetic()) {
                    key.clone()
                } else {
                    scalar(&key.as_str().into())
                };
                let _ = write!(out, "{pad}{key}:");
                write_child(out, value, indent);
            }
        }
        Value::Array(items) => {
            for item in items {
                let mut inner = String::new();
                write_yaml(&mut inner, item, indent + 2);
                let _ = write!(out, "{pad}- {}", inner.get(indent + 2..).unwrap_or_default());
            }
        }
        _ => {
            let _ = writeln!(out, "{pad}{}", scalar(value));
        }
    }
}

fn write_child(out: &mut String, value: &Value, indent: usize) {
    match value {
        Value::Object(map) if !map.is_empty() => {
            out.push('\n');
            write_yaml(out, value, indent + 2);
        }
        Value::Array(items) if !items.is_empty() => {
            out.push('\n');
            write_yaml(out, value, indent);
        }
        _ => {
            let _ = writeln!(out, " {}", scalar(value));
        }
    }
}

fn scalar(value: &Value) -> String {
    serde_json::to_string(value).expect("a JSON value always serializes")
}
