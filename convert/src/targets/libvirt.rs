//! libvirt: domain XML that passes `virt-xml-validate` and libvirt's own parser.

use super::TargetError;
use super::plan::{BootDevice, Chipset, DiskBus, Plan, has_cdrom, needs_host_address_bits};
use super::text::{printable, serial};
use super::write::TargetContext;
use crate::machine::{DiskMode, FirmwareKind, Machine, OsFamily, Tpm, identity};
use quick_xml::Writer;
use quick_xml::events::{BytesEnd, BytesStart, BytesText, Event};
use std::path::Path;

const QEMU_NAMESPACE: &str = "http://libvirt.org/schemas/domain/qemu/1.0";

/// A small tree on top of quick-xml's writer: elements with attributes, escaped by the library.
struct Xml {
    writer: Writer<Vec<u8>>,
}

type Done = Result<(), TargetError>;

impl Xml {
    fn event(&mut self, event: Event<'_>) -> Done {
        self.writer.write_event(event).map_err(TargetError::Xml)
    }

    fn start(&mut self, name: &str, attributes: &[(&str, &str)]) -> Done {
        self.event(Event::Start(element(name, attributes)))
    }

    fn end(&mut self, name: &str) -> Done {
        self.event(Event::End(BytesEnd::new(name)))
    }

    fn empty(&mut self, name: &str, attributes: &[(&str, &str)]) -> Done {
        self.event(Event::Empty(element(name, attributes)))
    }

    fn text(&mut self, name: &str, attributes: &[(&str, &str)], text: &str) -> Done {
        self.start(name, attributes)?;
        self.event(Event::Text(BytesText::new(&printable(text))))?;
        self.end(name)
    }
}

fn element<'a>(name: &'a str, attributes: &[(&str, &str)]) -> BytesStart<'a> {
    let mut start = BytesStart::new(name);
    for (key, value) in attributes {
        start.push_attribute((*key, printable(value).as_str()));
    }
    start
}

/// The domain. `folder` is the run folder's absolute path: libvirt takes no relative ones.
///
/// # Errors
/// [`TargetError::Xml`], which only memory can cause.
pub fn domain(machine: &Machine, context: &TargetContext, plan: &Plan, folder: &Path) -> Result<String, TargetError> {
    let mut xml = Xml {
        writer: Writer::new_with_indent(Vec::new(), b' ', 2),
    };
    let slots = plan.nics.iter().any(|nic| nic.slot.is_some());
    let namespace: &[(&str, &str)] = if slots {
        &[("type", "kvm"), ("xmlns:qemu", QEMU_NAMESPACE)]
    } else {
        &[("type", "kvm")]
    };
    xml.start("domain", namespace)?;
    head(&mut xml, machine, plan)?;
    xml.start("devices", &[])?;
    disks(&mut xml, machine, context, plan, folder)?;
    nics(&mut xml, machine, context, plan)?;
    other_devices(&mut xml, machine, plan)?;
    xml.end("devices")?;
    if slots {
        overrides(&mut xml, plan)?;
    }
    xml.end("domain")?;
    let mut text = String::from_utf8(xml.writer.into_inner()).expect("only text was written");
    text.push('\n');
    Ok(text)
}

fn head(xml: &mut Xml, machine: &Machine, plan: &Plan) -> Done {
    xml.text("name", &[], &plan.name)?;
    let uuid = machine.identity.smbios_uuid.as_ref().map(identity::target_uuid);
    if let Some(uuid) = &uuid {
        xml.text("uuid", &[], uuid)?;
    }
    if let Some(id) = &machine.identity.generation_id {
        xml.text("genid", &[], &identity::target_uuid(id))?;
    }
    // A title is one line.
    xml.text("title", &[], &machine.name.replace(['\n', '\r'], " "))?;
    if !machine.notes.is_empty() {
        xml.text("description", &[], &machine.notes)?;
    }
    xml.start("metadata", &[])?;
    if let Some(id) = &machine.os.osinfo_id {
        xml.start(
            "libosinfo:libosinfo",
            &[("xmlns:libosinfo", "http://libosinfo.org/xmlns/libvirt/domain/1.0")],
        )?;
        xml.empty("libosinfo:os", &[("id", id)])?;
        xml.end("libosinfo:libosinfo")?;
    }
    xml.start("esxodus:migration", &[("xmlns:esxodus", "urn:esxodus:migration:1")])?;
    xml.empty(
        "esxodus:source",
        &[
            ("path", &machine.source.to_string_lossy()),
            ("guestOS", &machine.os.declared),
        ],
    )?;
    xml.end("esxodus:migration")?;
    xml.end("metadata")?;
    resources(xml, machine, plan)?;
    if let (Some(uuid), Some(serial)) = (&uuid, &machine.identity.smbios_serial) {
        xml.start("sysinfo", &[("type", "smbios")])?;
        xml.start("system", &[])?;
        xml.text("entry", &[("name", "manufacturer")], "VMware, Inc.")?;
        xml.text("entry", &[("name", "product")], "VMware Virtual Platform")?;
        xml.text("entry", &[("name", "serial")], serial)?;
        xml.text("entry", &[("name", "uuid")], uuid)?;
        xml.end("system")?;
        xml.end("sysinfo")?;
    }
    let secure = machine.firmware.secure_boot;
    let uefi = machine.firmware.kind == FirmwareKind::Uefi;
    xml.start("os", if uefi { &[("firmware", "efi")] } else { &[] })?;
    let chipset = if plan.chipset == Chipset::Q35 { "q35" } else { "pc" };
    xml.text("type", &[("arch", "x86_64"), ("machine", chipset)], "hvm")?;
    if uefi {
        let enabled = if secure { "yes" } else { "no" };
        xml.start("firmware", &[])?;
        xml.empty("feature", &[("enabled", enabled), ("name", "secure-boot")])?;
        xml.empty("feature", &[("enabled", enabled), ("name", "enrolled-keys")])?;
        xml.end("firmware")?;
        if secure {
            xml.empty("loader", &[("secure", "yes")])?;
        }
    }
    if machine.identity.smbios_serial.is_some() {
        xml.empty("smbios", &[("mode", "sysinfo")])?;
    }
    xml.end("os")?;
    xml.start("features", &[])?;
    xml.empty("acpi", &[])?;
    xml.empty("apic", &[])?;
    if machine.os.family == OsFamily::Windows {
        xml.start("hyperv", &[])?;
        xml.empty("relaxed", &[("state", "on")])?;
        xml.empty("vapic", &[("state", "on")])?;
        xml.empty("spinlocks", &[("state", "on"), ("retries", "8191")])?;
        xml.end("hyperv")?;
    }
    if secure {
        xml.empty("smm", &[("state", "on")])?;
    }
    if plan.needs_interrupt_remapping() {
        xml.empty("ioapic", &[("driver", "qemu")])?;
    }
    xml.end("features")?;
    // Above 1 TiB the guest must see the host's address width, which only passthrough gives.
    let large = needs_host_address_bits(machine, &plan.resources);
    let mode = if machine.cpu.nested || large {
        "host-passthrough"
    } else {
        "host-model"
    };
    xml.start("cpu", &[("mode", mode), ("check", "none")])?;
    xml.empty(
        "topology",
        &[
            ("sockets", &plan.resources.sockets.to_string()),
            ("dies", "1"),
            ("cores", &machine.cpu.cores_per_socket.to_string()),
            ("threads", &machine.cpu.threads.to_string()),
        ],
    )?;
    if large {
        xml.empty("maxphysaddr", &[("mode", "passthrough")])?;
    }
    if !plan.resources.nodes.is_empty() {
        xml.start("numa", &[])?;
        for (id, node) in plan.resources.nodes.iter().enumerate() {
            xml.empty(
                "cell",
                &[
                    ("id", &id.to_string()),
                    ("cpus", &format!("{}-{}", node.first, node.last)),
                    ("memory", &node.mib.to_string()),
                    ("unit", "MiB"),
                ],
            )?;
        }
        xml.end("numa")?;
    }
    xml.end("cpu")?;
    clock(xml, machine)?;
    xml.text("on_poweroff", &[], "destroy")?;
    xml.text("on_reboot", &[], "restart")?;
    xml.text("on_crash", &[], "restart")
}

fn clock(xml: &mut Xml, machine: &Machine) -> Done {
    let adjustment = machine.rtc_offset_seconds.map(|seconds| seconds.to_string());
    match &adjustment {
        // What the guest makes of its clock later is kept by libvirt, as VMware kept it.
        Some(seconds) => xml.start(
            "clock",
            &[("offset", "variable"), ("adjustment", seconds), ("basis", "utc")],
        )?,
        None => {
            let offset = if machine.rtc_local { "localtime" } else { "utc" };
            xml.start("clock", &[("offset", offset)])?;
        }
    }
    xml.empty("timer", &[("name", "rtc"), ("tickpolicy", "catchup")])?;
    xml.empty("timer", &[("name", "pit"), ("tickpolicy", "delay")])?;
    xml.empty("timer", &[("name", "hpet"), ("present", "no")])?;
    if machine.os.family == OsFamily::Windows {
        xml.empty("timer", &[("name", "hypervclock"), ("present", "yes")])?;
    }
    xml.end("clock")
}

/// Memory and CPUs with their room to grow, pinning, limit and weight.
fn resources(xml: &mut Xml, machine: &Machine, plan: &Plan) -> Done {
    let resources = &plan.resources;
    if let Some(most) = resources.max_memory_mib {
        xml.text("maxMemory", &[("slots", "16"), ("unit", "MiB")], &most.to_string())?;
    }
    xml.text("memory", &[("unit", "MiB")], &machine.memory.mib.to_string())?;
    let current = machine.cpu.vcpus.to_string();
    let mut attributes: Vec<(&str, &str)> = Vec::new();
    if let Some(list) = &resources.cpu_affinity {
        attributes.push(("cpuset", list));
    }
    if resources.vcpus_grow(machine) {
        attributes.push(("current", &current));
    }
    xml.text("vcpu", &attributes, &resources.max_vcpus.to_string())?;
    if resources.cpu_weight.is_some() || resources.cpu_limit.is_some() {
        xml.start("cputune", &[])?;
        if let Some(weight) = resources.cpu_weight {
            xml.text("shares", &[], &weight.to_string())?;
        }
        if let Some(limit) = resources.cpu_limit {
            // Microseconds: of each 100 ms the guest as a whole gets so many.
            xml.text("global_period", &[], "100000")?;
            xml.text("global_quota", &[], &(u64::from(limit.get()) * 1000).to_string())?;
        }
        xml.end("cputune")?;
    }
    if let Some(nodes) = &resources.numa_nodes {
        xml.start("numatune", &[])?;
        xml.empty("memory", &[("mode", "strict"), ("nodeset", nodes)])?;
        xml.end("numatune")?;
    }
    Ok(())
}

fn disks(xml: &mut Xml, machine: &Machine, context: &TargetContext, plan: &Plan, folder: &Path) -> Done {
    let boot = plan.boot(machine);
    // One controller of each SCSI model, numbered in the order of first use.
    let mut scsi: Vec<DiskBus> = Vec::new();
    for disk in &plan.disks {
        if matches!(disk.bus, DiskBus::Pvscsi | DiskBus::VirtioScsi) && !scsi.contains(&disk.bus) {
            scsi.push(disk.bus);
        }
    }
    for (index, bus) in scsi.iter().enumerate() {
        let model = if *bus == DiskBus::Pvscsi {
            "vmpvscsi"
        } else {
            "virtio-scsi"
        };
        xml.empty(
            "controller",
            &[("type", "scsi"), ("index", &index.to_string()), ("model", model)],
        )?;
    }
    for (number, planned) in plan.disks.iter().enumerate() {
        let (source, target) = (&machine.disks[number], &context.disks[number]);
        xml.start("disk", &[("type", "file"), ("device", "disk")])?;
        let mut driver = vec![("name", "qemu"), ("type", target.format.as_str()), ("discard", "unmap")];
        if source.shared {
            driver.push(("cache", "none"));
        }
        xml.empty("driver", &driver)?;
        xml.empty("source", &[("file", &folder.join(&target.path).to_string_lossy())])?;
        let (bus, controller, place) = match planned.bus {
            DiskBus::Pvscsi | DiskBus::VirtioScsi => {
                let controller = scsi.iter().position(|bus| *bus == planned.bus).unwrap_or(0);
                ("scsi", controller, Some((0, planned.unit, 0)))
            }
            DiskBus::Sata => ("sata", 0, Some((0, 0, planned.unit))),
            DiskBus::Ide => ("ide", 0, Some((planned.unit / 2, 0, planned.unit % 2))),
            DiskBus::VirtioBlk | DiskBus::Nvme => ("virtio", 0, None),
        };
        xml.empty("target", &[("dev", &planned.slot), ("bus", bus)])?;
        if source.shared {
            xml.empty("shareable", &[])?;
        }
        if source.mode == DiskMode::IndependentNonpersistent {
            xml.empty("transient", &[])?;
        }
        if let Some(text) = &source.serial {
            xml.text("serial", &[], &serial(text))?;
        }
        if let Some(order) = boot.iter().position(|device| *device == BootDevice::Disk(number)) {
            xml.empty("boot", &[("order", &(order + 1).to_string())])?;
        }
        if let Some((bus, target, unit)) = place {
            xml.empty(
                "address",
                &[
                    ("type", "drive"),
                    ("controller", &controller.to_string()),
                    ("bus", &bus.to_string()),
                    ("target", &target.to_string()),
                    ("unit", &unit.to_string()),
                ],
            )?;
        }
        xml.end("disk")?;
    }
    if has_cdrom(machine) {
        let q35 = plan.chipset == Chipset::Q35;
        let prefix = if q35 { "sd" } else { "hd" };
        // A letter that no disk of the planned sizes reaches.
        let dev = format!("{prefix}zz");
        xml.start("disk", &[("type", "file"), ("device", "cdrom")])?;
        xml.empty("target", &[("dev", &dev), ("bus", if q35 { "sata" } else { "ide" })])?;
        xml.empty("readonly", &[])?;
        let (bus, unit) = if q35 { ("0", "5") } else { ("1", "1") };
        xml.empty(
            "address",
            &[
                ("type", "drive"),
                ("controller", "0"),
                ("bus", bus),
                ("target", "0"),
                ("unit", unit),
            ],
        )?;
        xml.end("disk")?;
    }
    Ok(())
}

fn nics(xml: &mut Xml, machine: &Machine, context: &TargetContext, plan: &Plan) -> Done {
    let boot = plan.boot(machine);
    let slotted = plan.nics.iter().filter(|nic| nic.slot.is_some()).count();
    if slotted > 0 {
        xml.empty("controller", &[("type", "pci"), ("index", "0"), ("model", "pcie-root")])?;
        for index in 1..=slotted {
            let index = index.to_string();
            xml.start(
                "controller",
                &[("type", "pci"), ("index", &index), ("model", "pcie-root-port")],
            )?;
            xml.empty("alias", &[("name", &format!("ua-port{index}"))])?;
            xml.end("controller")?;
        }
    }
    let mut port = 0;
    for (number, nic) in machine.nics.iter().enumerate() {
        let mapped = context.map.as_ref().and_then(|map| map.network(machine, nic));
        let bridge = mapped.and_then(|network| network.bridge.as_deref());
        xml.start(
            "interface",
            &[("type", if bridge.is_some() { "bridge" } else { "network" })],
        )?;
        if let Some(mac) = &nic.mac {
            xml.empty("mac", &[("address", mac)])?;
        }
        match bridge {
            Some(bridge) => xml.empty("source", &[("bridge", bridge)])?,
            None => xml.empty("source", &[("network", "default")])?,
        }
        // libvirt refuses a tag on a plain bridge when the guest is started.
        if bridge.is_some() && mapped.is_some_and(|network| network.openvswitch) {
            if let Some(vlan) = mapped.and_then(|network| network.vlan).or(nic.vlan) {
                xml.start("vlan", &[])?;
                xml.empty("tag", &[("id", &vlan.to_string())])?;
                xml.end("vlan")?;
            }
            xml.empty("virtualport", &[("type", "openvswitch")])?;
        }
        xml.empty("model", &[("type", &plan.nics[number].model)])?;
        if !nic.connected {
            xml.empty("link", &[("state", "down")])?;
        }
        if let Some(order) = boot.iter().position(|device| *device == BootDevice::Nic(number)) {
            xml.empty("boot", &[("order", &(order + 1).to_string())])?;
        }
        if plan.nics[number].slot.is_some() {
            port += 1;
            xml.empty(
                "address",
                &[
                    ("type", "pci"),
                    ("domain", "0x0000"),
                    ("bus", &format!("0x{port:02x}")),
                    ("slot", "0x00"),
                    ("function", "0x0"),
                ],
            )?;
        }
        xml.end("interface")?;
    }
    Ok(())
}

fn other_devices(xml: &mut Xml, machine: &Machine, plan: &Plan) -> Done {
    for (number, _) in machine.serial.iter().take(4).enumerate() {
        xml.start("serial", &[("type", "pty")])?;
        xml.empty("target", &[("port", &number.to_string())])?;
        xml.end("serial")?;
    }
    if machine.serial.is_empty() {
        xml.empty("console", &[("type", "pty")])?;
    }
    if machine.firmware.tpm == Tpm::V2 {
        xml.start("tpm", &[("model", "tpm-crb")])?;
        xml.empty("backend", &[("type", "emulator"), ("version", "2.0")])?;
        xml.end("tpm")?;
    }
    xml.empty("input", &[("type", "tablet"), ("bus", "usb")])?;
    xml.empty("graphics", &[("type", "vnc"), ("autoport", "yes")])?;
    xml.start("video", &[])?;
    xml.empty("model", &[("type", "vga"), ("vram", "16384")])?;
    xml.end("video")?;
    xml.start("channel", &[("type", "unix")])?;
    xml.empty("target", &[("type", "virtio"), ("name", "org.qemu.guest_agent.0")])?;
    xml.end("channel")?;
    // Absent would mean that libvirt adds one.
    xml.empty("memballoon", &[("model", "none")])?;
    xml.start("rng", &[("model", "virtio")])?;
    xml.text("backend", &[("model", "random")], "/dev/urandom")?;
    xml.end("rng")?;
    if plan.needs_interrupt_remapping() {
        xml.start("iommu", &[("model", "intel")])?;
        xml.empty("driver", &[("intremap", "on"), ("eim", "on")])?;
        xml.end("iommu")?;
    }
    Ok(())
}

/// Slots of root ports, from which Linux names NICs. libvirt has no element for them; the domain is marked tainted.
fn overrides(xml: &mut Xml, plan: &Plan) -> Done {
    xml.start("qemu:commandline", &[])?;
    xml.empty("qemu:arg", &[("value", "-global")])?;
    xml.empty(
        "qemu:arg",
        &[("value", "ICH9-LPC.acpi-pci-hotplug-with-bridge-support=off")],
    )?;
    xml.end("qemu:commandline")?;
    xml.start("qemu:override", &[])?;
    for (number, slot) in plan.nics.iter().filter_map(|nic| nic.slot).enumerate() {
        xml.start("qemu:device", &[("alias", &format!("ua-port{}", number + 1))])?;
        xml.start("qemu:frontend", &[])?;
        xml.empty(
            "qemu:property",
            &[("name", "slot"), ("type", "unsigned"), ("value", &slot.to_string())],
        )?;
        xml.end("qemu:frontend")?;
        xml.end("qemu:device")?;
    }
    xml.end("qemu:override")
}
