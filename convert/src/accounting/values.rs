//! What a source key becomes on a target: text that stands in that target's file, so that a reader finds it there.
//!
//! Pieces that stand apart in the file are joined by `; `. Where nothing is written, the value is in parentheses and begins with
//! why: [`ABSENT`], or [`DEFAULT`].

use crate::machine::{ControllerBus, FirmwareKind, Machine, Tpm, identity};
use crate::targets::plan::{BootDevice, DiskBus, Plan, Target, has_cdrom};
use crate::targets::text::{printable, qemu_value, serial};
use crate::targets::{TargetContext, kubevirt, proxmox, qemu};
use Target::{Kubevirt, Libvirt, Proxmox, Qemu};

/// How a value begins that says that the target has no word for the key.
pub const ABSENT: &str = "(not on this target: ";
/// How a value begins that says that the target does the same without a word.
pub const DEFAULT: &str = "(the target's default: ";

/// A machine on its way to one target.
pub(super) struct Writing<'a> {
    pub(super) machine: &'a Machine,
    pub(super) context: &'a TargetContext,
    pub(super) plan: &'a Plan,
}

fn absent(why: &str) -> String {
    format!("{ABSENT}{why})")
}

fn default(what: &str) -> String {
    format!("{DEFAULT}{what})")
}

/// A string as JSON and the manifest's YAML quote it.
fn quoted(text: &str) -> String {
    serde_json::to_string(text).expect("a string always serializes")
}

/// Text between XML's tags or quotes.
fn xml(text: &str) -> String {
    quick_xml::escape::escape(text).into_owned()
}

impl Writing<'_> {
    /// The value for the source key (in lower case). Every key that is mapped or approximated has one.
    pub(super) fn value(&self, key: &str) -> String {
        let (space, property) = key.rsplit_once('.').unwrap_or(("", key));
        if space.contains(':') || space.starts_with("cdrom") {
            return self.drive(space, property);
        }
        let numbered = |prefix: &str| space.strip_prefix(prefix)?.parse::<u32>().ok();
        // `ethernet0.opaqueNetwork.id` and `ethernet0.dvs.portgroupId` have more than one dot.
        let device = space.split('.').next().unwrap_or(space);
        if let Some(index) = device.strip_prefix("ethernet").and_then(|index| index.parse().ok()) {
            return self.nic(index, property);
        }
        if numbered("serial").is_some() {
            return self.serial_port(space);
        }
        for bus in [
            ControllerBus::Scsi,
            ControllerBus::Sata,
            ControllerBus::Nvme,
            ControllerBus::Ide,
        ] {
            if let Some(index) = numbered(bus.prefix()) {
                return self.controller(bus, index);
            }
        }
        self.general(key)
    }

    fn target(&self) -> Target {
        self.plan.target
    }

    fn drive(&self, space: &str, property: &str) -> String {
        let Some(number) = self.machine.disks.iter().position(|disk| disk.name() == space) else {
            return self.cdrom();
        };
        let disk = &self.machine.disks[number];
        match property {
            "sharing" if disk.shared => self.sharing(),
            "mode" if disk.mode == crate::machine::DiskMode::IndependentNonpersistent => self.forgets(number),
            _ => self.disk(number),
        }
    }

    fn disk(&self, number: usize) -> String {
        let planned = &self.plan.disks[number];
        let slot = &planned.slot;
        match self.target() {
            Proxmox => format!("{slot}: "),
            Libvirt => {
                let bus = match planned.bus {
                    DiskBus::VirtioScsi | DiskBus::Pvscsi => "scsi",
                    DiskBus::Sata => "sata",
                    DiskBus::Ide => "ide",
                    DiskBus::Nvme | DiskBus::VirtioBlk => "virtio",
                };
                format!("dev=\"{slot}\" bus=\"{bus}\"")
            }
            Qemu => qemu::disk_device(self.plan, number),
            Kubevirt => format!("name: \"{slot}\"; bus: \"{}\"", kubevirt::bus(planned.bus)),
        }
        .trim_end()
        .to_owned()
    }

    fn sharing(&self) -> String {
        match self.target() {
            Proxmox => absent("it locks no disk and has no mark for one that several guests write to"),
            Libvirt => "<shareable/>".to_owned(),
            Qemu => "share-rw=on".to_owned(),
            Kubevirt => "shareable: true".to_owned(),
        }
    }

    fn forgets(&self, number: usize) -> String {
        match self.target() {
            Proxmox => "snapshot=1".to_owned(),
            Libvirt => "<transient/>".to_owned(),
            Qemu => format!("\"$scratch/d{number}.qcow2\""),
            Kubevirt => absent("writes stay"),
        }
    }

    fn cdrom(&self) -> String {
        if !has_cdrom(self.machine) {
            return absent("the device is not moved");
        }
        match self.target() {
            Proxmox => format!("ide2: {}", proxmox::EMPTY_DRIVE),
            Libvirt => "device=\"cdrom\"".to_owned(),
            Qemu => "ide-cd,bus=".to_owned(),
            Kubevirt => absent("a drive without a volume is refused"),
        }
    }

    fn controller(&self, bus: ControllerBus, index: u32) -> String {
        let first = self
            .machine
            .disks
            .iter()
            .position(|disk| disk.bus == bus && disk.controller == index);
        let Some(number) = first else {
            return default("its own controller; no disk hung on this one");
        };
        let scsi = |name: &str| name.to_owned();
        match (self.target(), self.plan.disks[number].bus) {
            (Proxmox, DiskBus::VirtioScsi | DiskBus::Pvscsi) => format!("scsihw: {}", self.plan.disk_controller),
            (Libvirt, DiskBus::VirtioScsi) => scsi("model=\"virtio-scsi\""),
            (Libvirt, DiskBus::Pvscsi) => scsi("model=\"vmpvscsi\""),
            (Qemu, DiskBus::VirtioScsi) => scsi("virtio-scsi-pci,id=virtio-scsi0"),
            (Qemu, DiskBus::Pvscsi) => scsi("pvscsi,id=pvscsi0"),
            _ => self.disk(number),
        }
    }

    fn nic(&self, index: u32, property: &str) -> String {
        let Some(number) = self.machine.nics.iter().position(|nic| nic.index == index) else {
            return absent("the device is not moved");
        };
        let nic = &self.machine.nics[number];
        let model = &self.plan.nics[number].model;
        match property {
            "present" => match self.target() {
                Proxmox => format!("net{number}:"),
                Libvirt => "<interface type=".to_owned(),
                Qemu => format!("netdev=n{number}"),
                Kubevirt => format!("name: \"net{number}\""),
            },
            "virtualdev" | "features" => match self.target() {
                Proxmox => format!("net{number}: {model}"),
                Libvirt => format!("<model type=\"{model}\"/>"),
                Qemu => format!("{},netdev=n{number}", qemu::nic_model(self.plan, number)),
                Kubevirt => format!("model: \"{model}\""),
            },
            "addresstype" | "address" | "generatedaddress" => match (&nic.mac, self.target()) {
                (None, _) => default("a new MAC, since none is given"),
                (Some(mac), Proxmox) => mac.to_ascii_uppercase(),
                (Some(mac), Libvirt) => format!("<mac address=\"{mac}\"/>"),
                (Some(mac), Qemu) => format!("mac={mac}"),
                (Some(mac), Kubevirt) => format!("macAddress: \"{mac}\""),
            },
            "startconnected" if nic.connected => default("link up"),
            "startconnected" => match self.target() {
                Proxmox => "link_down=1".to_owned(),
                Libvirt => "<link state=\"down\"/>".to_owned(),
                Qemu => format!("hubport,id=n{number}"),
                Kubevirt => "state: \"down\"".to_owned(),
            },
            "pcislotnumber" => match (self.plan.nics[number].slot, self.target()) {
                (Some(slot), Qemu) => format!("slot={slot}"),
                (Some(slot), Libvirt) => format!("name=\"slot\" type=\"unsigned\" value=\"{slot}\""),
                (_, Proxmox | Kubevirt) => absent("NICs have places of its own"),
                (None, Qemu | Libvirt) => absent("no slot of a PCI Express port, or one of two NICs"),
            },
            _ => self.network(number),
        }
    }

    fn network(&self, number: usize) -> String {
        let (machine, context) = (self.machine, self.context);
        let nic = &machine.nics[number];
        let mapped = context.map.as_ref().and_then(|map| map.network(machine, nic));
        match self.target() {
            Proxmox => proxmox::network(machine, nic, context),
            Libvirt => match mapped.and_then(|network| network.bridge.as_deref()) {
                Some(bridge) => format!("<source bridge=\"{}\"/>", xml(bridge)),
                None => "<source network=\"default\"/>".to_owned(),
            },
            Qemu => format!(
                "bridge,id=n{number},br={}",
                qemu_value(qemu::bridge(machine, nic, context))
            ),
            Kubevirt => match kubevirt::network(machine, nic, number, context) {
                Some(nad) => format!("networkName: {}", quoted(&nad)),
                None => "pod: {}".to_owned(),
            },
        }
    }

    fn serial_port(&self, space: &str) -> String {
        let place = self
            .machine
            .serial
            .iter()
            .position(|port| format!("serial{}", port.index) == space);
        match (place, self.target()) {
            (None, _) => absent("the port is not moved"),
            (Some(4..), _) => absent("it has four ports"),
            (Some(number), Proxmox) => format!("serial{number}: socket"),
            (Some(number), Libvirt) => format!("<target port=\"{number}\"/>"),
            (Some(0), Qemu) => "-serial chardev:console".to_owned(),
            (Some(_), Qemu) => "-serial null".to_owned(),
            (Some(0), Kubevirt) => default("its serial console"),
            (Some(_), Kubevirt) => absent("it has one serial console"),
        }
    }

    fn boot(&self) -> String {
        let order = self.plan.boot(self.machine);
        let Some(first) = order.first() else {
            return default("nothing to boot from");
        };
        match self.target() {
            Proxmox => format!("boot: {}", proxmox::boot_order(self.machine, self.plan)),
            Libvirt => "<boot order=\"1\"/>".to_owned(),
            Qemu => match first {
                BootDevice::Disk(number) => format!("drive=d{number}; bootindex=1"),
                BootDevice::Nic(number) => format!("netdev=n{number}; bootindex=1"),
            },
            Kubevirt => "bootOrder: 1".to_owned(),
        }
    }

    fn general(&self, key: &str) -> String {
        let (machine, plan) = (self.machine, self.plan);
        match key {
            "displayname" => match self.target() {
                Proxmox => format!("name: {}", plan.name),
                Libvirt => format!("<name>{}</name>", plan.name),
                Qemu => format!("-name {}", plan.name),
                Kubevirt => format!("name: \"{}\"", plan.name),
            },
            "annotation" => self.notes(),
            "guestos" => match (self.target(), &machine.os.osinfo_id) {
                (Proxmox, _) => format!("ostype: {}", machine.os.pve_ostype),
                (Libvirt, Some(id)) => format!("<libosinfo:os id=\"{}\"/>", xml(id)),
                (Libvirt, None) => format!("guestOS=\"{}\"", xml(&printable(&machine.os.declared))),
                (Qemu | Kubevirt, _) => absent("it has no field for it; clock and devices were chosen by it"),
            },
            "uuid.bios" => match &machine.identity.smbios_uuid {
                None => default("a new UUID, since this one can't be read"),
                Some(uuid) => {
                    let uuid = identity::target_uuid(uuid);
                    match self.target() {
                        Proxmox => format!("uuid={uuid}"),
                        Libvirt => format!("<uuid>{uuid}</uuid>"),
                        Qemu => format!("-uuid {uuid}"),
                        Kubevirt => format!("uuid: \"{uuid}\""),
                    }
                }
            },
            "vm.genid" | "vm.genidx" => match (&machine.identity.generation_id, self.target()) {
                (_, Kubevirt) => absent("it has no generation id"),
                (None, _) => default("none, since the two halves can't be read"),
                (Some(id), target) => {
                    let id = identity::target_uuid(id);
                    match target {
                        Proxmox => format!("vmgenid: {id}"),
                        Libvirt => format!("<genid>{id}</genid>"),
                        Qemu | Kubevirt => format!("vmgenid,guid={id}"),
                    }
                }
            },
            "firmware" => match (machine.firmware.kind, self.target()) {
                (FirmwareKind::Uefi, Proxmox) => "bios: ovmf".to_owned(),
                (FirmwareKind::Bios, Proxmox) => "bios: seabios".to_owned(),
                (FirmwareKind::Uefi, Libvirt) => "firmware=\"efi\"".to_owned(),
                (FirmwareKind::Uefi, Qemu) => "OVMF_CODE_4M".to_owned(),
                (FirmwareKind::Bios, Libvirt | Qemu) => default("BIOS"),
                (FirmwareKind::Uefi, Kubevirt) => "efi:".to_owned(),
                (FirmwareKind::Bios, Kubevirt) => "bios: {}".to_owned(),
            },
            "uefi.secureboot.enabled" => self.secure_boot(),
            "vtpm.present" | "managedvm.autoaddvtpm" => match (machine.firmware.tpm, self.target()) {
                (Tpm::None, _) => default("no TPM"),
                (Tpm::V2, Proxmox) => "version=v2.0".to_owned(),
                (Tpm::V2, Libvirt) => "<tpm model=\"tpm-crb\">".to_owned(),
                (Tpm::V2, Qemu) => "tpm-crb,tpmdev=tpm0".to_owned(),
                (Tpm::V2, Kubevirt) => "tpm:".to_owned(),
            },
            "bios.bootorder" | "bios.hddorder" | "bios.bootdeviceclasses" => self.boot(),
            "svga.present" => match self.target() {
                Proxmox | Kubevirt => default("a VGA"),
                Libvirt => "<model type=\"vga\"".to_owned(),
                Qemu => "-device VGA".to_owned(),
            },
            "rtc.difffromutc" => match (machine.rtc_offset_seconds, self.target()) {
                (None, _) => default("the clock by the guest OS, since the offset can't be read"),
                (Some(_), Proxmox) => format!("localtime: {}", u8::from(machine.rtc_local)),
                (Some(seconds), Libvirt) => format!("adjustment=\"{seconds}\""),
                (Some(seconds), Qemu) => format!("$(date +%s) + {seconds}"),
                (Some(seconds), Kubevirt) => format!("offsetSeconds: {seconds}"),
            },
            "disk.enableuuid" => self.serials(),
            _ => self.claim(key),
        }
    }

    fn notes(&self) -> String {
        let machine = self.machine;
        if machine.notes.is_empty() {
            return default("no notes");
        }
        let line = printable(machine.notes.lines().next().unwrap_or_default());
        match self.target() {
            Proxmox => format!("#{}", proxmox::percent(&line)),
            Libvirt => format!("<description>{}", xml(&line)),
            Qemu => absent("a script has no place for notes"),
            Kubevirt => "\"esxodus/notes\": ".trim_end().to_owned(),
        }
    }

    fn secure_boot(&self) -> String {
        let (firmware, secure) = (&self.machine.firmware, self.machine.firmware.secure_boot);
        if firmware.kind == FirmwareKind::Bios {
            return default("off: BIOS has no Secure Boot");
        }
        let enabled = if secure { "yes" } else { "no" };
        match self.target() {
            Proxmox => format!("pre-enrolled-keys={}", u8::from(secure)),
            Libvirt => format!("<feature enabled=\"{enabled}\" name=\"secure-boot\"/>"),
            Qemu if secure => "OVMF_VARS_4M.ms.fd".to_owned(),
            Qemu => "OVMF_VARS_4M.fd".to_owned(),
            Kubevirt => format!("secureBoot: {secure}"),
        }
    }

    fn serials(&self) -> String {
        let found: Vec<String> = self
            .machine
            .disks
            .iter()
            .filter_map(|disk| disk.serial.as_deref())
            .map(|text| {
                let text = serial(text);
                match self.target() {
                    Proxmox | Qemu => format!("serial={text}"),
                    Libvirt => format!("<serial>{text}</serial>"),
                    Kubevirt => format!("serial: \"{text}\""),
                }
            })
            .collect();
        if found.is_empty() {
            default("no serials")
        } else {
            found.join("; ")
        }
    }

    /// CPUs, memory, and what of the host they claim.
    fn claim(&self, key: &str) -> String {
        let (machine, resources) = (self.machine, &self.plan.resources);
        let (cpu, mib) = (&machine.cpu, machine.memory.mib);
        let (sockets, cores, threads) = (resources.sockets, cpu.cores_per_socket, cpu.threads);
        match (key, self.target()) {
            ("memsize", Proxmox) => format!("memory: {}", mib.max(16)),
            ("memsize", Libvirt) => format!("<memory unit=\"MiB\">{mib}</memory>"),
            ("memsize", Qemu) => format!("size={mib}M"),
            ("memsize", Kubevirt) => format!("guest: \"{mib}Mi\""),
            ("numvcpus" | "cpuid.corespersocket", Proxmox) => format!("sockets: {sockets}; cores: {cores}"),
            ("numvcpus" | "cpuid.corespersocket", Libvirt) => {
                format!(
                    "{}</vcpu>; sockets=\"{sockets}\"; cores=\"{cores}\"",
                    resources.max_vcpus
                )
            }
            ("numvcpus" | "cpuid.corespersocket", Qemu) => {
                format!("-smp {},sockets={sockets},cores={cores}", cpu.vcpus)
            }
            ("numvcpus" | "cpuid.corespersocket", Kubevirt) => {
                format!("sockets: {}; cores: {cores}", cpu.sockets)
            }
            ("cpuid.numsmt", Proxmox) => absent("its topology has no threads"),
            ("cpuid.numsmt", Libvirt) => format!("threads=\"{threads}\""),
            ("cpuid.numsmt", Qemu) => format!("threads={threads}"),
            ("cpuid.numsmt", Kubevirt) => format!("threads: {threads}"),
            ("vcpu.hotadd", _) if !cpu.hot_add => default("off"),
            ("vcpu.hotadd" | "vcpu.hotremove", target) => match resources.vcpus_grow(machine).then_some(target) {
                None => absent("the source names no maximum; max_vcpus in the map does"),
                Some(Proxmox) => format!("vcpus: {}", cpu.vcpus),
                Some(Libvirt) => format!("current=\"{}\"", cpu.vcpus),
                Some(Qemu) => format!("maxcpus={}", resources.max_vcpus),
                Some(Kubevirt) => format!("maxSockets: {sockets}"),
            },
            ("mem.hotadd", _) if !machine.memory.hot_add => default("off"),
            ("mem.hotadd", target) => match (resources.max_memory_mib, target) {
                (None, _) => absent("the source names no maximum; max_memory_mib in the map does"),
                (Some(_), Proxmox) => {
                    format!("hotplug: {}", proxmox::hotplug(machine, self.plan).unwrap_or_default())
                }
                (Some(most), Libvirt) => format!("<maxMemory slots=\"16\" unit=\"MiB\">{most}</maxMemory>"),
                (Some(most), Qemu) => format!("maxmem={most}M"),
                (Some(most), Kubevirt) => format!("maxGuest: \"{most}Mi\""),
            },
            ("vhv.enable", _) if !cpu.nested => default("off"),
            ("vhv.enable", Proxmox) => format!("cpu: {}", proxmox::cpu_model(machine, self.plan)),
            ("vhv.enable", Libvirt) => "mode=\"host-passthrough\"".to_owned(),
            ("vhv.enable", Qemu) => "cpu=host".to_owned(),
            ("vhv.enable", Kubevirt) => "model: \"host-passthrough\"".to_owned(),
            ("numa.vcpu.maxpervirtualnode", target) => match (resources.nodes.first(), target) {
                (Some(_), Kubevirt) => absent("more than one node needs dedicated CPUs"),
                (None, _) => default("one node"),
                (Some(node), Proxmox) if resources.max_memory_mib.is_none() => {
                    format!("numa0: cpus={}-{}", node.first, node.last)
                }
                (Some(_), Proxmox) => default("one node, since memory grows"),
                (Some(node), Libvirt) => format!("<cell id=\"0\" cpus=\"{}-{}\"", node.first, node.last),
                (Some(node), Qemu) => format!("nodeid=0,cpus={}-{}", node.first, node.last),
            },
            ("sched.cpu.shares", target) => match (resources.cpu_weight, target) {
                (None, _) => default("the normal weight"),
                (Some(weight), Proxmox) => format!("cpuunits: {weight}"),
                (Some(weight), Libvirt) => format!("<shares>{weight}</shares>"),
                (Some(_), Qemu | Kubevirt) => absent("it has no weights; the host's control groups do"),
            },
            ("sched.mem.min" | "sched.mem.pin", target) => match (resources.reserved_mib, target) {
                (None, _) => default("nothing reserved"),
                (Some(reserved), Proxmox) if reserved >= mib => "balloon: 0".to_owned(),
                (Some(_), Proxmox) => default("no ballooning below the size"),
                (Some(_), Libvirt) => "<memballoon model=\"none\"/>".to_owned(),
                (Some(_), Qemu) => default("no balloon device"),
                (Some(reserved), Kubevirt) => format!("memory: \"{reserved}Mi\""),
            },
            _ => absent("it has no word for it"),
        }
    }
}
