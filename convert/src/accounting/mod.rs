//! Key accounting: each key of the source ends in exactly one class, so that nothing is lost in silence.

pub(crate) mod table;

use crate::machine::{FirmwareKind, Machine};
use crate::targets::plan::{Plan, Target};
use crate::vmx::VmxFile;
use reports::schema::{AccountedKey, Accounting, KeyClass};
use std::collections::BTreeMap;

/// Accounts for every line of `file`, in its order.
#[must_use]
pub fn of_vmx(file: &VmxFile, machine: &Machine) -> Accounting {
    let mut keys = Vec::with_capacity(file.entries().len());
    for entry in file.entries() {
        let (class, why) = if entry.shadowed {
            let same = file
                .entry(&entry.lower)
                .is_some_and(|winner| winner.value == entry.value);
            if same {
                (KeyClass::DroppedHarmless, "repeats an earlier line")
            } else {
                (KeyClass::DroppedWarning, "an earlier line with the same key wins")
            }
        } else if file.is_removed(&entry.lower) {
            (
                KeyClass::DroppedHarmless,
                "left over from a device with present = FALSE",
            )
        } else {
            table::classify(&entry.lower, &entry.value, machine)
        };
        keys.push(AccountedKey {
            key: entry.key.clone(),
            value: entry.value.clone(),
            line: Some(entry.line),
            class,
            why: why.to_owned(),
            same_as: None,
            targets: BTreeMap::new(),
        });
    }
    let mut accounting = Accounting { keys };
    fill_targets(&mut accounting, machine, false);
    accounting
}

/// Writes into each mapped or approximated key what it becomes on each target. Call it again where `virtio_proven` changes.
pub fn fill_targets(accounting: &mut Accounting, machine: &Machine, virtio_proven: bool) {
    let plans: Vec<Plan> = Target::ALL
        .iter()
        .map(|target| Plan::new(machine, *target, virtio_proven))
        .collect();
    for key in &mut accounting.keys {
        key.targets.clear();
        if !matches!(key.class, KeyClass::Mapped | KeyClass::Approximated) {
            continue;
        }
        for plan in &plans {
            let name = key.same_as.as_ref().unwrap_or(&key.key).to_ascii_lowercase();
            if let Some(value) = target_value(&name, machine, plan) {
                key.targets.insert(plan.target.name().to_owned(), value);
            }
        }
    }
}

/// What the source key (in lower case) becomes on one target.
fn target_value(key: &str, machine: &Machine, plan: &Plan) -> Option<String> {
    use Target::{Kubevirt, Libvirt, Proxmox, Qemu};
    let (space, property) = key.rsplit_once('.').unwrap_or(("", key));
    let on_off = |text: &str, on: bool| on.then(|| text.to_owned());
    if space.contains(':') {
        let number = machine.disks.iter().position(|disk| disk.name() == space)?;
        return matches!(property, "filename" | "present" | "devicetype" | "mode")
            .then(|| plan.disks.get(number).map(|disk| disk.slot.clone()))
            .flatten();
    }
    if let Some(index) = space
        .strip_prefix("ethernet")
        .and_then(|index| index.parse::<u32>().ok())
    {
        let number = machine.nics.iter().position(|nic| nic.index == index)?;
        let nic = &machine.nics[number];
        let planned = plan.nics.get(number)?;
        return match property {
            "present" => Some(format!("net{number}")),
            "virtualdev" => Some(planned.model.clone()),
            "address" | "generatedaddress" => nic.mac.clone(),
            "networkname" | "portgroupid" => nic.network.clone(),
            "startconnected" => Some(if nic.connected { "link up" } else { "link down" }.to_owned()),
            "pcislotnumber" => Some(match planned.slot {
                Some(slot) => format!("slot {slot}: ens{slot}"),
                None => "not kept".to_owned(),
            }),
            _ => None,
        };
    }
    match key {
        "displayname" => Some(plan.name.clone()),
        "memsize" => Some(format!("{} MiB", machine.memory.mib)),
        "numvcpus" | "cpuid.corespersocket" => Some(format!(
            "{} vCPUs: {} sockets, {} cores",
            machine.cpu.vcpus, machine.cpu.sockets, machine.cpu.cores_per_socket
        )),
        "firmware" => Some(
            match (machine.firmware.kind, plan.target) {
                (FirmwareKind::Uefi, Proxmox) => "bios: ovmf",
                (FirmwareKind::Uefi, _) => "uefi",
                (FirmwareKind::Bios, Proxmox) => "bios: seabios",
                (FirmwareKind::Bios, _) => "bios",
            }
            .to_owned(),
        ),
        "uefi.secureboot.enabled" => Some(machine.firmware.secure_boot.to_string()),
        "vtpm.present" => on_off("new, empty TPM 2.0", machine.firmware.tpm != crate::machine::Tpm::None),
        "uuid.bios" => machine
            .identity
            .smbios_uuid
            .as_ref()
            .map(crate::machine::identity::target_uuid),
        "vm.genid" | "vm.genidx" if plan.target != Kubevirt => machine
            .identity
            .generation_id
            .as_ref()
            .map(crate::machine::identity::target_uuid),
        "annotation" => match plan.target {
            Qemu => None,
            _ => Some("description".to_owned()),
        },
        "guestos" => match plan.target {
            Proxmox => Some(machine.os.pve_ostype.clone()),
            Libvirt => machine.os.osinfo_id.clone(),
            Qemu | Kubevirt => None,
        },
        "sched.cpu.shares" => match plan.target {
            Proxmox => plan.resources.cpu_weight.map(|weight| format!("cpuunits: {weight}")),
            Libvirt => plan.resources.cpu_weight.map(|weight| format!("shares {weight}")),
            Qemu | Kubevirt => None,
        },
        "disk.enableuuid" => {
            let serials: Vec<&str> = machine.disks.iter().filter_map(|disk| disk.serial.as_deref()).collect();
            (!serials.is_empty()).then(|| format!("serial, cut to 20 characters: {}", serials.join(", ")))
        }
        "vcpu.hotadd" => on_off("no growth unless the map has max_vcpus", machine.cpu.hot_add),
        "mem.hotadd" => on_off("no growth unless the map has max_memory_mib", machine.memory.hot_add),
        "numa.vcpu.maxpervirtualnode" => Some(match (plan.resources.nodes.len(), plan.target) {
            (0, _) => "one node".to_owned(),
            (_, Kubevirt) => "one node: more need dedicated CPUs".to_owned(),
            (nodes, _) => format!(
                "{nodes} nodes of {} vCPUs",
                machine.cpu.vcpus / u32::try_from(nodes).unwrap_or(1)
            ),
        }),
        "sched.mem.min" | "sched.mem.pin" => plan.resources.reserved_mib.map(|mib| match plan.target {
            Proxmox if mib >= machine.memory.mib => "balloon: 0".to_owned(),
            Proxmox => "no ballooning below the size".to_owned(),
            Libvirt | Qemu => "no balloon device".to_owned(),
            Kubevirt => format!("requests: memory {mib}Mi"),
        }),
        "vhv.enable" => on_off("host CPU model", machine.cpu.nested),
        _ if property == "virtualdev" => Some(plan.disk_controller.clone()),
        _ => None,
    }
}
