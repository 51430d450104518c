//! A QEMU script that runs as it is.

use super::plan::{BootDevice, Chipset, DiskBus, Plan, has_cdrom, is_old_windows, needs_host_address_bits};
use super::text::{printable, qemu_value, serial, shell};
use super::write::TargetContext;
use crate::machine::{Disk, DiskMode, FirmwareKind, Machine, Nic, OsFamily, Tpm, identity};
use std::fmt::Write as _;

const HEAD: &str = r#"# Runs the guest in the foreground, on its converted disks. Further arguments go to QEMU.
#   ESXODUS_ACCEL     tcg (default) or kvm
#   ESXODUS_CPU       CPU model; default max under TCG, host under KVM
#   ESXODUS_DISPLAY   none (default), gtk, vnc=:0 …
#   ESXODUS_NET       user (default) or bridge (needs qemu-bridge-helper)
#   ESXODUS_SNAPSHOT  1: writes to the disks, firmware variables and TPM are thrown away at the end (needs qemu-img)
#   ESXODUS_FIRMWARE  folder with OVMF's files; default: where Debian has them
set -eu
cd -- "$(dirname -- "$0")/.."
accel=${ESXODUS_ACCEL:-tcg}
if [ "$accel" = kvm ]; then cpu=host; else cpu=max; fi
cpu=${ESXODUS_CPU:-$cpu}
net=${ESXODUS_NET:-user}
qemu=${QEMU:-qemu-system-x86_64}
command -v "$qemu" >/dev/null || { echo "$qemu is missing: install qemu-system-x86" >&2; exit 2; }
snapshot=${ESXODUS_SNAPSHOT:-0}
"#;

/// Where writes go that are thrown away. The folder is removed when QEMU ends, so the script stays until then.
const SCRATCH: &str = r#"  command -v qemu-img >/dev/null || { echo "qemu-img is missing: install qemu-utils" >&2; exit 2; }
  scratch=$(mktemp -d targets/qemu-scratch.XXXXXX)
  trap 'rm -rf -- "$scratch"' EXIT
  trap 'exit 129' HUP
  trap 'exit 130' INT
  trap 'exit 143' TERM"#;

/// When that is: when asked for, or always where the guest has a disk that forgets.
fn throws_away(forgets: bool) -> &'static str {
    if forgets { "true" } else { "[ \"$snapshot\" = 1 ]" }
}

struct Script {
    text: String,
}

impl Script {
    /// Adds arguments that are the same on every run.
    fn args(&mut self, words: &[&str]) {
        self.text.push_str("set -- \"$@\"");
        for word in words {
            let _ = write!(self.text, " {}", shell(word));
        }
        self.text.push('\n');
    }

    /// Adds shell text as it is.
    fn raw(&mut self, text: &str) {
        self.text.push_str(text);
        self.text.push('\n');
    }
}

/// The script.
#[must_use]
pub fn script(machine: &Machine, context: &TargetContext, plan: &Plan) -> String {
    let mut script = Script {
        text: format!("#!/bin/sh\n# {}\n{HEAD}", printable(&machine.name).replace('\n', " ")),
    };
    let q35 = plan.chipset == Chipset::Q35;
    let secure = machine.firmware.secure_boot;
    let chipset = if q35 { "q35" } else { "pc" };
    script.args(&["-name", &qemu_value(&plan.name), "-no-user-config", "-nodefaults"]);
    let forgets = |disk: &Disk| disk.mode == DiskMode::IndependentNonpersistent;
    let condition = throws_away(machine.disks.iter().any(forgets));
    script.raw(&format!("scratch=\nif {condition}; then\n{SCRATCH}\nfi"));
    let smm = if secure { ",smm=on" } else { "" };
    // Interrupts to CPUs above 255 are remapped by the IOMMU, which wants the APIC outside of KVM.
    let remapping = plan.needs_interrupt_remapping();
    let irqchip = if remapping { ",kernel-irqchip=split" } else { "" };
    script.raw(&format!(
        "set -- \"$@\" -machine {chipset}{smm}{irqchip} -accel \"$accel\""
    ));
    if remapping {
        script.args(&["-device", "intel-iommu,intremap=on,eim=on"]);
    }
    let bits = if needs_host_address_bits(machine, &plan.resources) {
        ",host-phys-bits=on"
    } else {
        ""
    };
    script.raw(&format!("set -- \"$@\" -cpu \"$cpu{bits}\""));
    resources(&mut script, machine, plan);
    if let Some(uuid) = &machine.identity.smbios_uuid {
        script.args(&["-uuid", &identity::target_uuid(uuid)]);
    }
    if let Some(text) = &machine.identity.smbios_serial {
        script.args(&[
            "-smbios",
            &format!(
                "type=1,manufacturer={},product=VMware Virtual Platform,serial={}",
                qemu_value("VMware, Inc."),
                qemu_value(text)
            ),
        ]);
    }
    if let Some(id) = &machine.identity.generation_id {
        script.args(&["-device", &format!("vmgenid,guid={}", identity::target_uuid(id))]);
    }
    match machine.rtc_offset_seconds {
        Some(seconds) => script.raw(&format!(
            "set -- \"$@\" -rtc \"base=$(date -u -d \"@$(($(date +%s) + {seconds}))\" +%Y-%m-%dT%H:%M:%S),driftfix=slew\""
        )),
        None => {
            let base = if machine.rtc_local { "localtime" } else { "utc" };
            script.args(&["-rtc", &format!("base={base},driftfix=slew")]);
        }
    }
    if machine.firmware.kind == FirmwareKind::Uefi {
        firmware(&mut script, secure);
    }
    if machine.firmware.tpm == Tpm::V2 {
        tpm(&mut script);
    }
    if q35 {
        // Otherwise Linux names NICs by ACPI's numbers and not by the slot of their port.
        script.args(&["-global", "ICH9-LPC.acpi-pci-hotplug-with-bridge-support=off"]);
    }
    disks(&mut script, machine, context, plan);
    nics(&mut script, machine, context, plan);
    if has_cdrom(machine) {
        // The last port, behind all disks.
        let bus = if q35 { "ide.5" } else { "ide.1,unit=1" };
        script.args(&["-device", &format!("ide-cd,bus={bus}")]);
    }
    script.args(&["-device", "VGA", "-device", "virtio-rng-pci"]);
    // Windows before 8 has no driver for xHCI.
    let controller = match (is_old_windows(machine), q35) {
        (false, _) => "qemu-xhci",
        (true, false) => "piix3-usb-uhci",
        (true, true) => "usb-ehci",
    };
    if machine.os.family != OsFamily::Other {
        script.args(&["-device", controller, "-device", "usb-tablet"]);
    }
    script.raw("set -- \"$@\" -display \"${ESXODUS_DISPLAY:-none}\" -chardev stdio,id=console,mux=on,signal=off -serial chardev:console -mon console");
    for _ in machine.serial.iter().skip(1).take(3) {
        script.args(&["-serial", "null"]);
    }
    let pin = match &plan.resources.cpu_affinity {
        Some(list) => format!("taskset -c {list} "),
        None => String::new(),
    };
    script.raw(&format!(
        "[ -n \"$scratch\" ] || exec {pin}\"$qemu\" \"$@\"\n{pin}\"$qemu\" \"$@\""
    ));
    script.text
}

/// Memory and CPUs with their room to grow, and virtual NUMA nodes.
fn resources(script: &mut Script, machine: &Machine, plan: &Plan) {
    let (cpu, resources) = (&machine.cpu, &plan.resources);
    let mut memory = format!("size={}M", machine.memory.mib);
    if let Some(most) = resources.max_memory_mib {
        let _ = write!(memory, ",slots=16,maxmem={most}M");
    }
    script.args(&["-m", &memory]);
    let mut smp = format!(
        "{},sockets={},cores={},threads={}",
        cpu.vcpus, resources.sockets, cpu.cores_per_socket, cpu.threads
    );
    if resources.vcpus_grow(machine) {
        let _ = write!(smp, ",maxcpus={}", resources.max_vcpus);
    }
    script.args(&["-smp", &smp]);
    for (id, node) in resources.nodes.iter().enumerate() {
        script.args(&[
            "-object",
            &format!("memory-backend-ram,id=node{id},size={}M", node.mib),
            "-numa",
            &format!("node,nodeid={id},cpus={}-{},memdev=node{id}", node.first, node.last),
        ]);
    }
}

fn firmware(script: &mut Script, secure: bool) {
    // VARS with Microsoft's keys where Secure Boot was on; the CODE with SMM then too.
    let (code, vars) = if secure {
        ("OVMF_CODE_4M.secboot.fd", "OVMF_VARS_4M.ms.fd")
    } else {
        ("OVMF_CODE_4M.fd", "OVMF_VARS_4M.fd")
    };
    script.raw(&format!(
        "firmware=${{ESXODUS_FIRMWARE:-/usr/share/OVMF}}\n\
         [ -r \"$firmware/{code}\" ] || {{ echo \"$firmware/{code} is missing: install ovmf\" >&2; exit 2; }}\n\
         vars=targets/qemu-vars.fd\n\
         [ -e \"$vars\" ] || cp -- \"$firmware/{vars}\" \"$vars\"\n\
         if [ \"$snapshot\" = 1 ]; then cp -- \"$vars\" \"$scratch/vars.fd\"; vars=$scratch/vars.fd; fi\n\
         set -- \"$@\" -drive \"if=pflash,unit=0,format=raw,readonly=on,file=$firmware/{code}\"\n\
         set -- \"$@\" -drive \"if=pflash,unit=1,format=raw,file=$vars\""
    ));
    if secure {
        script.args(&["-global", "driver=cfi.pflash01,property=secure,value=on"]);
    }
}

fn tpm(script: &mut Script) {
    script.raw(
        "if command -v swtpm >/dev/null; then\n  \
           tpm=targets/qemu-tpm\n  \
           mkdir -p \"$tpm\"\n  \
           if [ \"$snapshot\" = 1 ]; then cp -R -- \"$tpm\" \"$scratch/tpm\"; tpm=$scratch/tpm; fi\n  \
           swtpm socket --tpm2 --daemon --terminate --tpmstate \"dir=$PWD/$tpm\" --ctrl \"type=unixio,path=$PWD/$tpm/socket\"\n  \
           set -- \"$@\" -chardev \"socket,id=tpm,path=$tpm/socket\" -tpmdev emulator,id=tpm0,chardev=tpm -device tpm-crb,tpmdev=tpm0\n\
         else\n  \
           echo \"swtpm is missing: the guest runs without its TPM\" >&2\n\
         fi",
    );
}

fn disks(script: &mut Script, machine: &Machine, context: &TargetContext, plan: &Plan) {
    let boot = plan.boot(machine);
    for (bus, device, id) in [
        (DiskBus::Pvscsi, "pvscsi", "pvscsi0"),
        (DiskBus::VirtioScsi, "virtio-scsi-pci", "virtio-scsi0"),
    ] {
        if plan.disks.iter().any(|disk| disk.bus == bus) {
            script.args(&["-device", &format!("{device},id={id}")]);
        }
    }
    for (number, planned) in plan.disks.iter().enumerate() {
        let disk = &context.disks[number];
        let source = &machine.disks[number];
        // Paths with a colon in front of a slash would be read as a protocol by -drive; -blockdev has no such trap.
        let path = format!("./{}", disk.path.to_string_lossy());
        let node = |format: &str, path: &str| {
            format!("driver={format},node-name=d{number},discard=unmap,file.driver=file,file.filename={path}")
        };
        script.raw(&format!("disk={}", shell(&node(&disk.format, &qemu_value(&path)))));
        let condition = throws_away(source.mode == DiskMode::IndependentNonpersistent);
        // The backing file is named from the root: a name that is not would be sought beside the overlay.
        script.raw(&format!(
            "if {condition}; then\n  \
               qemu-img create -q -f qcow2 -F {} -b \"$PWD\"/{} \"$scratch/d{number}.qcow2\"\n  \
               disk={}$scratch/d{number}.qcow2\n\
             fi\n\
             set -- \"$@\" -blockdev \"$disk\"",
            shell(&disk.format),
            shell(&disk.path.to_string_lossy()),
            node("qcow2", "")
        ));
        let mut device = disk_device(plan, number);
        match (&source.serial, planned.bus) {
            (Some(text), _) => {
                let _ = write!(device, ",serial={}", serial(text));
            }
            (None, DiskBus::Nvme) => {
                let _ = write!(device, ",serial=esx-nvme{}-{}", source.controller, source.unit);
            }
            _ => {}
        }
        if source.shared {
            device.push_str(",share-rw=on");
        }
        if let Some(place) = boot.iter().position(|device| *device == BootDevice::Disk(number)) {
            let _ = write!(device, ",bootindex={}", place + 1);
        }
        script.args(&["-device", &device]);
    }
}

/// The device of a disk, up to the node behind it.
pub(crate) fn disk_device(plan: &Plan, number: usize) -> String {
    let planned = &plan.disks[number];
    let unit = planned.unit;
    let device = match planned.bus {
        DiskBus::Pvscsi => format!("scsi-hd,bus=pvscsi0.0,scsi-id={unit},lun=0"),
        DiskBus::VirtioScsi => format!("scsi-hd,bus=virtio-scsi0.0,scsi-id={unit},lun=0"),
        DiskBus::VirtioBlk => "virtio-blk-pci".to_owned(),
        DiskBus::Nvme => "nvme".to_owned(),
        DiskBus::Sata => format!("ide-hd,bus=ide.{unit}"),
        DiskBus::Ide => format!("ide-hd,bus=ide.{},unit={}", unit / 2, unit % 2),
    };
    format!("{device},drive=d{number}")
}

/// The bridge of a NIC.
pub(crate) fn bridge<'a>(machine: &Machine, nic: &Nic, context: &'a TargetContext) -> &'a str {
    context
        .map
        .as_ref()
        .and_then(|map| map.network(machine, nic))
        .and_then(|network| network.bridge.as_deref())
        .unwrap_or("br0")
}

/// Model of a NIC as QEMU spells it.
pub(crate) fn nic_model(plan: &Plan, number: usize) -> &str {
    match plan.nics[number].model.as_str() {
        "virtio" => "virtio-net-pci",
        other => other,
    }
}

fn nics(script: &mut Script, machine: &Machine, context: &TargetContext, plan: &Plan) {
    let boot = plan.boot(machine);
    for (number, nic) in machine.nics.iter().enumerate() {
        let planned = &plan.nics[number];
        let bridge = format!("bridge,id=n{number},br={}", qemu_value(bridge(machine, nic, context)));
        if nic.connected {
            script.raw(&format!(
                "if [ \"$net\" = bridge ]; then set -- \"$@\" -netdev {}; else set -- \"$@\" -netdev user,id=n{number}; fi",
                shell(&bridge)
            ));
        } else {
            script.raw(&format!(
                "# ethernet{} starts unplugged: its cable ends in a hub of its own. To plug it in, replace the next line's -netdev by {}.",
                nic.index, bridge.replace('\n', " ")
            ));
            script.args(&["-netdev", &format!("hubport,id=n{number},hubid={number}")]);
        }
        let model = nic_model(plan, number);
        let mut device = format!("{model},netdev=n{number}");
        if let Some(mac) = &nic.mac {
            let _ = write!(device, ",mac={mac}");
        }
        if let Some(slot) = planned.slot {
            script.args(&[
                "-device",
                &format!("pcie-root-port,id=rp{number},chassis={},slot={slot}", number + 1),
            ]);
            let _ = write!(device, ",bus=rp{number}");
        }
        if let Some(place) = boot.iter().position(|device| *device == BootDevice::Nic(number)) {
            let _ = write!(device, ",bootindex={}", place + 1);
        }
        script.args(&["-device", &device]);
    }
}
