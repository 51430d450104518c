//! Proxmox VE: the guest's configuration file and the `qm` commands that create it.
//!
//! The file names volumes that exist; `import-from` is known to `qm` and the API only. So the script makes the volumes,
//! and the file is what results with the default names of LVM-thin.

use super::plan::{BootDevice, Chipset, DiskBus, Plan, cpu_level, has_cdrom, needs_host_address_bits};
use super::text::{printable, serial, shell};
use super::write::TargetContext;
use crate::machine::{DiskMode, FirmwareKind, Machine, Nic, Tpm, identity};
use base64::Engine as _;
use std::collections::BTreeMap;
use std::fmt::Write as _;

const VMID: &str = "100";
const STORAGE: &str = "local-lvm";

/// An option: name and value.
struct Item {
    key: String,
    value: String,
}

fn item(key: impl Into<String>, value: impl Into<String>) -> Item {
    Item {
        key: key.into(),
        value: value.into(),
    }
}

/// Options without volumes, sorted by `config` later.
fn options(machine: &Machine, context: &TargetContext, plan: &Plan) -> Vec<Item> {
    let mut items = vec![
        item("name", &plan.name),
        item("ostype", &machine.os.pve_ostype),
        item("sockets", plan.resources.sockets.to_string()),
        item("cores", machine.cpu.cores_per_socket.to_string()),
        item("memory", machine.memory.mib.max(16).to_string()),
        item("scsihw", &plan.disk_controller),
        item("localtime", u8::from(machine.rtc_local).to_string()),
    ];
    items.push(item("cpu", cpu_model(machine, plan)));
    resources(&mut items, machine, plan);
    if plan.chipset == Chipset::Q35 {
        // The IOMMU remaps interrupts to CPUs above 255.
        let iommu = if plan.needs_interrupt_remapping() {
            ",viommu=intel"
        } else {
            ""
        };
        items.push(item("machine", format!("q35{iommu}")));
    }
    let uefi = machine.firmware.kind == FirmwareKind::Uefi;
    items.push(item("bios", if uefi { "ovmf" } else { "seabios" }));
    if let Some(uuid) = &machine.identity.smbios_uuid {
        let base64 = |text: &str| base64::engine::general_purpose::STANDARD.encode(text);
        let serial = machine
            .identity
            .smbios_serial
            .as_ref()
            .map_or_else(String::new, |text| {
                format!(
                    ",serial={},manufacturer={},product={},base64=1",
                    base64(text),
                    base64("VMware, Inc."),
                    base64("VMware Virtual Platform")
                )
            });
        items.push(item("smbios1", format!("uuid={}{serial}", identity::target_uuid(uuid))));
    }
    if let Some(id) = &machine.identity.generation_id {
        items.push(item("vmgenid", identity::target_uuid(id)));
    }
    for (number, nic) in machine.nics.iter().enumerate() {
        let mut value = plan.nics[number].model.clone();
        if let Some(mac) = &nic.mac {
            let _ = write!(value, "={}", mac.to_ascii_uppercase());
        }
        let _ = write!(value, ",{}", network(machine, nic, context));
        if !nic.connected {
            value.push_str(",link_down=1");
        }
        items.push(item(format!("net{number}"), value));
    }
    for (number, _) in machine.serial.iter().take(4).enumerate() {
        items.push(item(format!("serial{number}"), "socket"));
    }
    if has_cdrom(machine) {
        items.push(item("ide2", EMPTY_DRIVE));
    }
    items
}

/// A CD drive.
pub(crate) const EMPTY_DRIVE: &str = "none,media=cdrom";

/// Bridge and tag of a NIC.
pub(crate) fn network(machine: &Machine, nic: &Nic, context: &TargetContext) -> String {
    let mapped = context.map.as_ref().and_then(|map| map.network(machine, nic));
    let bridge = mapped.and_then(|network| network.bridge.as_deref()).unwrap_or("vmbr0");
    match mapped.and_then(|network| network.vlan).or(nic.vlan) {
        Some(vlan) => format!("bridge={bridge},tag={vlan}"),
        None => format!("bridge={bridge}"),
    }
}

/// The storage that the map gives a disk.
fn storage(machine: &Machine, context: &TargetContext, disk: usize) -> Option<String> {
    let file = &machine.disks.get(disk)?.file;
    context.map.as_ref().and_then(|map| map.storage(machine, file).storage)
}

/// The same for the EFI disk and the TPM's state, which belong to the disk that the guest boots from.
fn small_storage(machine: &Machine, context: &TargetContext, plan: &Plan) -> Option<String> {
    match storage(machine, context, plan.boot_disk) {
        Some(found) => Some(found),
        // A guest without disks may still be named in the map.
        None => context
            .map
            .as_ref()
            .and_then(|map| map.guest(machine))
            .and_then(|guest| guest.storage.clone()),
    }
}

/// The default models have 40 physical address bits, and memory hot-plug ends at half of what they address: 512 GiB.
pub(crate) fn cpu_model(machine: &Machine, plan: &Plan) -> &'static str {
    let grows_far = plan.resources.max_memory_mib.is_some_and(|mib| mib > 512 * 1024);
    if machine.cpu.nested || grows_far || needs_host_address_bits(machine, &plan.resources) {
        "host"
    } else if cpu_level(machine) == 3 {
        "x86-64-v3"
    } else {
        "x86-64-v2-AES"
    }
}

/// What may be plugged while the guest runs, where that is more than by default.
pub(crate) fn hotplug(machine: &Machine, plan: &Plan) -> Option<String> {
    let resources = &plan.resources;
    let mut hotplug = String::from("network,disk,usb");
    if resources.vcpus_grow(machine) {
        hotplug.push_str(",cpu");
    }
    if resources.max_memory_mib.is_some() {
        // Up to what is the node's affair; see `cpu_model` for the ceiling.
        hotplug.push_str(",memory");
    }
    (resources.vcpus_grow(machine) || resources.max_memory_mib.is_some()).then_some(hotplug)
}

/// Room to grow, nodes, pinning, limit and weight.
fn resources(items: &mut Vec<Item>, machine: &Machine, plan: &Plan) {
    let resources = &plan.resources;
    if resources.vcpus_grow(machine) {
        items.push(item("vcpus", machine.cpu.vcpus.to_string()));
    }
    let hotplug = hotplug(machine, plan);
    let grows = hotplug.is_some();
    items.extend(hotplug.map(|value| item("hotplug", value)));
    if grows || !resources.nodes.is_empty() || machine.cpu.numa_vcpus_per_node.is_some() && machine.cpu.sockets > 1 {
        items.push(item("numa", "1"));
    }
    // Nodes of a fixed size and hot-plugged memory exclude each other.
    if resources.max_memory_mib.is_none() {
        for (number, node) in resources.nodes.iter().enumerate() {
            let mut value = format!("cpus={}-{},memory={}", node.first, node.last, node.mib);
            if let Some(hosts) = &resources.numa_nodes {
                let _ = write!(value, ",hostnodes={},policy=bind", hosts.replace(',', ";"));
            }
            items.push(item(format!("numa{number}"), value));
        }
    }
    if let Some(list) = &resources.cpu_affinity {
        items.push(item("affinity", list));
    }
    if let Some(limit) = resources.cpu_limit {
        items.push(item("cpulimit", limit.to_string()));
    }
    if let Some(weight) = resources.cpu_weight {
        items.push(item("cpuunits", weight.to_string()));
    }
    if resources.reserved_mib.is_some_and(|mib| mib >= machine.memory.mib) {
        items.push(item("balloon", "0"));
    }
}

pub(crate) fn boot_order(machine: &Machine, plan: &Plan) -> String {
    let order: Vec<String> = plan
        .boot(machine)
        .into_iter()
        .map(|device| match device {
            BootDevice::Disk(number) => plan.disks[number].slot.clone(),
            BootDevice::Nic(number) => format!("net{number}"),
        })
        .collect();
    format!("order={}", order.join(";"))
}

pub(crate) fn description(machine: &Machine) -> String {
    let mut text = printable(&format!("Source name: {}", machine.name));
    if !machine.notes.is_empty() {
        text.push_str("\n\n");
        text.push_str(&printable(&machine.notes));
    }
    // 8192 characters are allowed.
    text.chars().take(8000).collect()
}

/// Options of a disk behind its volume.
fn disk_options(machine: &Machine, plan: &Plan, number: usize) -> String {
    let (disk, planned) = (&machine.disks[number], &plan.disks[number]);
    let mut options = String::new();
    if planned.bus != DiskBus::Ide {
        options.push_str(",discard=on");
    }
    if matches!(planned.bus, DiskBus::VirtioScsi | DiskBus::VirtioBlk) {
        options.push_str(",iothread=1");
    }
    if disk.mode == DiskMode::IndependentNonpersistent {
        options.push_str(",snapshot=1");
    }
    if let Some(text) = &disk.serial {
        let _ = write!(options, ",serial={}", serial(text));
    }
    options
}

/// `VMID.conf`.
#[must_use]
pub fn config(machine: &Machine, context: &TargetContext, plan: &Plan) -> String {
    let mut items = options(machine, context, plan);
    items.push(item("boot", boot_order(machine, plan)));
    // Each storage numbers the guest's volumes by itself, in the order in which the script makes them.
    let mut volumes: BTreeMap<String, usize> = BTreeMap::new();
    let mut next = |storage: Option<String>| {
        let storage = storage.unwrap_or_else(|| STORAGE.to_owned());
        let volume = volumes.entry(storage.clone()).or_default();
        let name = format!("{storage}:vm-{VMID}-disk-{volume}");
        *volume += 1;
        name
    };
    if machine.firmware.kind == FirmwareKind::Uefi {
        let keys = u8::from(machine.firmware.secure_boot);
        items.push(item(
            "efidisk0",
            format!(
                "{},efitype=4m,pre-enrolled-keys={keys},size=4M",
                next(small_storage(machine, context, plan))
            ),
        ));
    }
    if machine.firmware.tpm != Tpm::None {
        items.push(item(
            "tpmstate0",
            format!("{},size=4M,version=v2.0", next(small_storage(machine, context, plan))),
        ));
    }
    for (number, planned) in plan.disks.iter().enumerate() {
        let kib = context.disks[number].virtual_bytes.div_ceil(1024);
        let options = disk_options(machine, plan, number);
        let volume = next(storage(machine, context, number));
        items.push(item(&planned.slot, format!("{volume}{options},size={kib}K")));
    }
    items.sort_by(|a, b| a.key.cmp(&b.key));
    let mut text = String::new();
    for line in description(machine).lines() {
        let _ = writeln!(text, "#{}", percent(line));
    }
    for item in items {
        let _ = writeln!(text, "{}: {}", item.key, item.value);
    }
    text
}

/// Escapes what Proxmox VE escapes in a description (`encode_text`), and `%` itself, since reading unescapes every `%XX`.
pub(crate) fn percent(line: &str) -> String {
    let mut text = String::new();
    for byte in line.bytes() {
        match byte {
            b'%' | b':' | 0..0x20 | 0x7f.. => {
                let _ = write!(text, "%{byte:02X}");
            }
            _ => text.push(char::from(byte)),
        }
    }
    text
}

/// The commands that create the guest, for a shell on the node.
#[must_use]
pub fn script(machine: &Machine, context: &TargetContext, plan: &Plan) -> String {
    let mut text = String::from(
        "#!/bin/sh\n\
         # Creates the guest on a Proxmox VE node, as root. It starts nothing and overwrites nothing.\n\
         # VMID may be given in the environment, and STORAGE for what the map names none.\n\
         set -eu\n\
         here=$(CDPATH= cd -- \"$(dirname -- \"$0\")/..\" && pwd)\n\
         VMID=${VMID:-$(pvesh get /cluster/nextid)}\n",
    );
    let _ = writeln!(text, "STORAGE=${{STORAGE:-{STORAGE}}}\n");
    let place = |storage: Option<String>| storage.map_or_else(|| "\"$STORAGE\"".to_owned(), |storage| shell(&storage));
    let small = place(small_storage(machine, context, plan));
    let mut options = options(machine, context, plan);
    // The cores a node has are checked at start, not here.
    options.sort_by_key(|item| (item.key != "name", item.key.clone()));
    text.push_str("qm create \"$VMID\"");
    for item in &options {
        let _ = write!(text, " \\\n  --{} {}", item.key, shell(&item.value));
    }
    let _ = writeln!(text, " \\\n  --description {}\n", shell(&description(machine)));
    if machine.firmware.kind == FirmwareKind::Uefi {
        let keys = u8::from(machine.firmware.secure_boot);
        let _ = writeln!(
            text,
            "qm set \"$VMID\" --efidisk0 {small}:1,efitype=4m,pre-enrolled-keys={keys}"
        );
    }
    if machine.firmware.tpm != Tpm::None {
        let _ = writeln!(text, "qm set \"$VMID\" --tpmstate0 {small}:1,version=v2.0");
    }
    for (number, planned) in plan.disks.iter().enumerate() {
        let storage = place(storage(machine, context, number));
        let path = context.disks[number].path.to_string_lossy();
        let _ = writeln!(
            text,
            "qm set \"$VMID\" --{} {storage}:0,import-from=\"$here\"/{}{}",
            planned.slot,
            shell(&path),
            disk_options(machine, plan, number)
        );
    }
    let _ = writeln!(text, "qm set \"$VMID\" --boot {}", shell(&boot_order(machine, plan)));
    text.push_str("echo \"guest $VMID is ready: qm start $VMID\"\n");
    text
}
