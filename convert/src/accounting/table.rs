//! The table: key pattern to class. `#` stands for a run of digits, a trailing `*` for any rest. The first match counts;
//! what matches nothing is unknown and says so.

use crate::machine::Machine;
use reports::schema::KeyClass::{self, Approximated, DroppedHarmless, DroppedWarning, Mapped, Unknown};
use std::sync::LazyLock;

type Row = (&'static str, KeyClass, &'static str);

const HARMLESS: &str = "no effect on the guest away from VMware";

const TABLE: &[Row] = &[
    // identity
    ("displayname", Mapped, "name"),
    ("annotation", Mapped, "notes"),
    ("guestos", Mapped, "guest OS"),
    ("guestosaltname", DroppedHarmless, "a title for people; guestOS decides"),
    ("guestos.detailed.data", DroppedHarmless, "report of VMware Tools"),
    ("uuid.bios", Mapped, "SMBIOS UUID and serial"),
    (
        "uuid.location",
        DroppedHarmless,
        "tells VMware whether the files were moved",
    ),
    ("uuid.action", DroppedHarmless, HARMLESS),
    ("vm.genid", Mapped, "generation id, low half"),
    ("vm.genidx", Mapped, "generation id, high half"),
    ("vc.uuid", DroppedHarmless, "vCenter's own id"),
    (".encoding", DroppedHarmless, "used to read the file"),
    ("config.version", DroppedHarmless, "format of the file"),
    (
        "virtualhw.*",
        DroppedHarmless,
        "version of VMware's hardware; kept in the machine for reports",
    ),
    // firmware
    ("firmware", Mapped, "firmware"),
    ("uefi.secureboot.enabled", Mapped, "Secure Boot"),
    ("vtpm.present", Mapped, "virtual TPM; its contents don't move"),
    ("vtpm.*", DroppedWarning, "contents of the TPM don't move"),
    ("managedvm.autoaddvtpm", Mapped, "virtual TPM; its contents don't move"),
    ("managedvm.*", DroppedHarmless, HARMLESS),
    (
        "nvram",
        DroppedWarning,
        "firmware variables are not converted; boot entries are lost",
    ),
    ("bios.bootorder", Approximated, "boot order without empty drives"),
    ("bios.hddorder", Approximated, "boot order"),
    ("bios.bootdeviceclasses", Approximated, "boot order"),
    ("bios.*", DroppedHarmless, "settings of VMware's BIOS screen"),
    ("efi.*", DroppedHarmless, "settings of VMware's EFI screen"),
    // CPU and memory
    ("numvcpus", Mapped, "vCPUs"),
    ("cpuid.corespersocket", Mapped, "cores per socket"),
    ("cpuid.numsmt", Approximated, "one thread per core on the target"),
    (
        "cpuid.#.*",
        DroppedWarning,
        "CPU feature mask; choose a CPU model instead",
    ),
    (
        "cpuid.*",
        DroppedWarning,
        "CPU feature mask; choose a CPU model instead",
    ),
    (
        "featmask.*",
        DroppedWarning,
        "CPU feature mask; choose a CPU model instead",
    ),
    ("featurecompat.*", DroppedHarmless, HARMLESS),
    ("guestcpuid.*", DroppedHarmless, "what the last host's CPU offered"),
    ("hostcpuid.*", DroppedHarmless, "what the last host's CPU offered"),
    ("usercpuid.*", DroppedHarmless, "what the last host's CPU offered"),
    (
        "evccompatibilitymode",
        DroppedWarning,
        "CPU baseline; choose a CPU model instead",
    ),
    ("vcpu.hotadd", Approximated, "hot-add without a stated maximum"),
    ("vcpu.hotremove", Approximated, "hot-remove without a stated maximum"),
    ("vcpu.*", DroppedHarmless, HARMLESS),
    ("mem.hotadd", Approximated, "hot-add without a stated maximum"),
    ("memsize", Mapped, "memory"),
    ("maxvcpus", DroppedHarmless, HARMLESS),
    (
        "vhv.enable",
        Approximated,
        "nested virtualisation through the host's CPU model",
    ),
    ("vpmc.enable", DroppedWarning, "virtual performance counters"),
    ("vvtd.enable", DroppedWarning, "virtual IOMMU"),
    ("windows.vbs.*", DroppedWarning, "virtualisation-based security"),
    ("vbs.*", DroppedWarning, "virtualisation-based security"),
    (
        "numa.nodeaffinity",
        DroppedWarning,
        "nodes of the old host; numa_nodes in the map names the new ones",
    ),
    ("numa.autosize.*", DroppedHarmless, HARMLESS),
    (
        "numa.vcpu.maxpervirtualnode",
        Approximated,
        "virtual NUMA nodes, where they come out equal",
    ),
    (
        "numa.*",
        DroppedHarmless,
        "how ESXi places the guest; the target decides by itself",
    ),
    (
        "sched.cpu.min",
        DroppedWarning,
        "a reservation in MHz; targets reserve whole CPUs by pinning only",
    ),
    ("sched.cpu.units", DroppedHarmless, "unit of the reservation"),
    (
        "sched.cpu.max",
        DroppedWarning,
        "a limit in MHz; cpu_limit in the map states it in CPUs of the new host",
    ),
    ("sched.cpu.shares", Approximated, "a weight beside that of other guests"),
    (
        "sched.cpu.affinity",
        DroppedWarning,
        "CPUs of the old host; cpu_affinity in the map names the new ones",
    ),
    (
        "sched.cpu.latencysensitivity",
        DroppedWarning,
        "wants pinning and isolation on the target",
    ),
    ("sched.cpu.*", DroppedHarmless, HARMLESS),
    (
        "sched.mem.min",
        Approximated,
        "nothing is taken away by ballooning; huge pages would reserve it for certain",
    ),
    (
        "sched.mem.minsize",
        DroppedWarning,
        "what the reservation may not fall below",
    ),
    (
        "sched.mem.pin",
        Approximated,
        "nothing is taken away by ballooning; huge pages would lock it for certain",
    ),
    (
        "sched.mem.max",
        DroppedWarning,
        "a limit below the size; give the guest that size instead",
    ),
    ("sched.mem.shares", DroppedWarning, "targets have no weight for memory"),
    (
        "sched.mem.affinity",
        DroppedWarning,
        "nodes of the old host; numa_nodes in the map names the new ones",
    ),
    ("sched.mem.*", DroppedHarmless, HARMLESS),
    ("sched.swap.*", DroppedHarmless, "VMware's swap file"),
    ("sched.*", DroppedHarmless, HARMLESS),
    ("memtrimrate", DroppedHarmless, HARMLESS),
    ("mainmem.*", DroppedHarmless, HARMLESS),
    ("prefvmx.*", DroppedHarmless, HARMLESS),
    ("monitor_control.*", DroppedHarmless, "settings of VMware's monitor"),
    ("monitor.*", DroppedHarmless, "settings of VMware's monitor"),
    ("hypervisor.cpuid.v#", DroppedHarmless, "hides VMware from the guest"),
    ("smbios.*", DroppedWarning, "SMBIOS strings"),
    ("smc.*", DroppedHarmless, "macOS guests on Macs"),
    ("board-id*", DroppedHarmless, "macOS guests on Macs"),
    ("hw.model*", DroppedWarning, "SMBIOS strings"),
    ("serialnumber*", DroppedWarning, "SMBIOS strings"),
    // storage
    ("disk.enableuuid", Approximated, "a serial of at most 20 characters"),
    ("disk.*", DroppedHarmless, HARMLESS),
    ("disklib.*", DroppedHarmless, HARMLESS),
    ("scsi#:#.filename", Mapped, "disk or drive"),
    ("sata#:#.filename", Mapped, "disk or drive"),
    ("nvme#:#.filename", Mapped, "disk or drive"),
    ("ide#:#.filename", Mapped, "disk or drive"),
    ("*:#.present", Mapped, "the device is there"),
    ("*:#.devicetype", Mapped, "kind of the device"),
    ("*:#.mode", Mapped, "disk mode"),
    ("*:#.sharing", DroppedWarning, "sharing between guests"),
    (
        "*:#.ctkenabled",
        DroppedWarning,
        "changed block tracking of VMware ends",
    ),
    (
        "*:#.changetrackpath",
        DroppedWarning,
        "changed block tracking of VMware ends",
    ),
    ("*:#.redo", DroppedHarmless, "empty redo name"),
    (
        "*:#.writethrough",
        DroppedWarning,
        "no write was cached by VMware; set cache=writethrough on the target",
    ),
    (
        "*:#.startconnected",
        Approximated,
        "an image that was in the drive doesn't move",
    ),
    ("*:#.autodetect", DroppedHarmless, HARMLESS),
    ("*:#.clientdevice", DroppedHarmless, "drive of the console's computer"),
    ("*:#.exclusive", DroppedHarmless, HARMLESS),
    ("*:#.allowguestconnectioncontrol", DroppedHarmless, HARMLESS),
    ("*:#.throughputcap", DroppedWarning, "limit on throughput"),
    ("*:#.shares", DroppedWarning, "share of I/O"),
    ("*:#.parent", DroppedHarmless, "USB topology"),
    ("*:#.port", DroppedHarmless, "USB topology"),
    ("*:#.speed", DroppedHarmless, "USB topology"),
    ("*:#.virtualssd", DroppedHarmless, "SSD mark"),
    ("*:#.*", DroppedHarmless, HARMLESS),
    ("scsi#.virtualdev", Approximated, "controller model"),
    ("sata#.virtualdev", Approximated, "controller model"),
    ("nvme#.virtualdev", Approximated, "controller model"),
    ("scsi#.sharedbus", DroppedWarning, "bus shared between guests"),
    ("nvme#.sharedbus", DroppedWarning, "bus shared between guests"),
    ("scsi#.present", Mapped, "controller"),
    ("sata#.present", Mapped, "controller"),
    ("nvme#.present", Mapped, "controller"),
    ("ide#.present", Mapped, "controller"),
    ("scsi#.*", DroppedHarmless, HARMLESS),
    ("sata#.*", DroppedHarmless, HARMLESS),
    ("nvme#.*", DroppedHarmless, HARMLESS),
    ("ctkenabled", DroppedWarning, "changed block tracking of VMware ends"),
    ("floppy#.present", DroppedWarning, "floppy drive"),
    ("floppy#.*", DroppedHarmless, "floppy drive"),
    // network
    ("ethernet#.present", Mapped, "NIC"),
    ("ethernet#.virtualdev", Approximated, "NIC model"),
    ("ethernet#.features", Approximated, "NIC model"),
    ("ethernet#.addresstype", Mapped, "which MAC counts"),
    ("ethernet#.address", Mapped, "MAC"),
    ("ethernet#.generatedaddress", Mapped, "MAC"),
    (
        "ethernet#.generatedaddressoffset",
        DroppedHarmless,
        "how the MAC was made",
    ),
    ("ethernet#.checkmacaddress", DroppedHarmless, HARMLESS),
    ("ethernet#.networkname", Mapped, "network, through the map"),
    ("ethernet#.dvs.portgroupid", Mapped, "network, through the map"),
    ("ethernet#.dvs.*", DroppedHarmless, "port of the distributed switch"),
    ("ethernet#.opaquenetwork.id", Mapped, "network, through the map"),
    ("ethernet#.opaquenetwork.*", DroppedHarmless, "port of the network"),
    ("ethernet#.externalid", DroppedHarmless, "port of the network"),
    (
        "ethernet#.connectiontype",
        DroppedWarning,
        "bridged, NAT or host-only: the map decides",
    ),
    (
        "ethernet#.vnet",
        DroppedWarning,
        "virtual network of Workstation: the map decides",
    ),
    ("ethernet#.bsdname", DroppedHarmless, HARMLESS),
    ("ethernet#.displayname", DroppedHarmless, HARMLESS),
    ("ethernet#.linkstatepropagation.*", DroppedHarmless, HARMLESS),
    ("ethernet#.startconnected", Mapped, "link state"),
    ("ethernet#.wakeonpcktrcv", DroppedHarmless, "wake on LAN"),
    ("ethernet#.pcislotnumber", Approximated, "NIC name in the guest"),
    ("ethernet#.uptcompatibility", DroppedHarmless, HARMLESS),
    ("ethernet#.shares", DroppedWarning, "share of bandwidth"),
    ("ethernet#.limit", DroppedWarning, "limit on bandwidth"),
    ("ethernet#.reservation", DroppedWarning, "reservation of bandwidth"),
    ("ethernet#.pxm", DroppedHarmless, HARMLESS),
    ("ethernet#.filter#.*", DroppedWarning, "network filter (firewall agent)"),
    ("ethernet#.*", DroppedHarmless, HARMLESS),
    // other devices
    (
        "serial#.present",
        Approximated,
        "serial port, as a socket or terminal of the target",
    ),
    (
        "serial#.filename",
        DroppedWarning,
        "what the port was connected to; the target gives it a socket or terminal",
    ),
    (
        "serial#.vspc",
        DroppedWarning,
        "the concentrator that the port was connected to; the target gives it a socket or terminal",
    ),
    ("serial#.*", DroppedHarmless, "how VMware drives the port"),
    ("parallel#.*", DroppedWarning, "parallel port"),
    ("usb.autoconnect.*", DroppedWarning, "attached USB device"),
    ("usb.*", DroppedHarmless, "USB controller; the target has its own"),
    ("ehci.*", DroppedHarmless, "USB controller; the target has its own"),
    ("usb_xhci.*", DroppedHarmless, "USB controller; the target has its own"),
    ("usb:#*", DroppedHarmless, "VMware's own USB devices"),
    ("sound.*", DroppedHarmless, "sound"),
    ("svga.present", Approximated, "plain VGA"),
    (
        "svga.*",
        DroppedHarmless,
        "memory and features of VMware's graphics card",
    ),
    ("mks.*", DroppedHarmless, "console of VMware"),
    ("vga.*", DroppedHarmless, "console of VMware"),
    ("pcipassthru#.*", DroppedWarning, "device of the old host"),
    ("pcibridge#.*", DroppedHarmless, "PCI bridges; the target has its own"),
    ("vmci#.*", DroppedHarmless, HARMLESS),
    ("hpet#.*", DroppedHarmless, HARMLESS),
    ("keyboard.*", DroppedHarmless, HARMLESS),
    ("mouse.*", DroppedHarmless, HARMLESS),
    ("watchdog.*", DroppedWarning, "watchdog"),
    ("precisionclock#.*", DroppedWarning, "precision clock"),
    // time
    ("rtc.difffromutc", Approximated, "offset of the clock"),
    ("rtc.*", DroppedHarmless, HARMLESS),
    ("tools.synctime", DroppedWarning, "VMware Tools kept the time"),
    ("time.synchronize.*", DroppedWarning, "VMware Tools kept the time"),
    // guest
    ("guestinfo.metadata*", DroppedWarning, "data for cloud-init"),
    ("guestinfo.userdata*", DroppedWarning, "data for cloud-init"),
    ("guestinfo.vendordata*", DroppedWarning, "data for cloud-init"),
    ("guestinfo.ovfenv", DroppedWarning, "vApp properties"),
    ("guestinfo.*", DroppedHarmless, "messages between VMware and the guest"),
    // protection and state
    ("encryption.*", DroppedWarning, "the guest is encrypted"),
    ("datafilekey", DroppedWarning, "the guest is encrypted"),
    ("encryptedvm.*", DroppedWarning, "the guest is encrypted"),
    ("cryptostate", DroppedWarning, "the guest is encrypted"),
    ("checkpoint.vmstate*", DroppedWarning, "the guest is suspended"),
    ("checkpoint.*", DroppedHarmless, HARMLESS),
    ("snapshot.*", DroppedHarmless, HARMLESS),
    ("fault.tolerance.*", DroppedWarning, "fault tolerance"),
    ("ftcpt.*", DroppedHarmless, HARMLESS),
    ("replay.*", DroppedHarmless, HARMLESS),
    // VMware's own
    ("isolation.*", DroppedHarmless, "console of VMware"),
    ("remotedisplay.*", DroppedHarmless, "console of VMware"),
    ("tools.*", DroppedHarmless, "VMware Tools"),
    ("toolsinstallmanager.*", DroppedHarmless, "VMware Tools"),
    ("toolscripts.*", DroppedHarmless, "VMware Tools"),
    ("powertype.*", DroppedHarmless, "VMware's power buttons"),
    ("cleanshutdown", DroppedHarmless, HARMLESS),
    ("softpoweroff", DroppedHarmless, HARMLESS),
    ("migrate.*", DroppedHarmless, HARMLESS),
    ("migration.*", DroppedHarmless, HARMLESS),
    ("log.*", DroppedHarmless, HARMLESS),
    ("logging", DroppedHarmless, HARMLESS),
    ("vmx.*", DroppedHarmless, HARMLESS),
    ("extendedconfigfile", DroppedHarmless, HARMLESS),
    ("vmxstats.filename", DroppedHarmless, HARMLESS),
    ("vmotion.*", DroppedHarmless, HARMLESS),
    ("answer.msg.*", DroppedHarmless, HARMLESS),
    ("msg.*", DroppedHarmless, HARMLESS),
    ("hints.*", DroppedHarmless, HARMLESS),
    ("tasks.*", DroppedHarmless, HARMLESS),
    ("gui.*", DroppedHarmless, HARMLESS),
    ("unity.*", DroppedHarmless, HARMLESS),
    ("sharedfolder*", DroppedWarning, "shared folder of Workstation"),
    ("hgfs.*", DroppedHarmless, "shared folders of Workstation"),
    ("policy.*", DroppedHarmless, HARMLESS),
    ("deploymentplatform", DroppedHarmless, HARMLESS),
    ("cloud.uuid", DroppedHarmless, "vCloud's own id"),
    ("vmware.tools.*", DroppedHarmless, "VMware Tools"),
    ("viv.moid", DroppedHarmless, "vCenter's own id"),
    ("vm.createdate", DroppedHarmless, HARMLESS),
    ("vmprofile.*", DroppedHarmless, HARMLESS),
    ("virtualhwapp.*", DroppedHarmless, HARMLESS),
    ("debugstub.*", DroppedHarmless, HARMLESS),
    ("floppy.*", DroppedHarmless, HARMLESS),
    ("productcompatibility", DroppedHarmless, HARMLESS),
    ("gettingstarted.*", DroppedHarmless, HARMLESS),
    ("inventory.*", DroppedHarmless, HARMLESS),
    ("nvme.*", DroppedHarmless, HARMLESS),
    ("workingdir", DroppedHarmless, "folder of VMware's swap and snapshots"),
    ("vmstorepolicy*", DroppedHarmless, HARMLESS),
    ("fileserver.*", DroppedHarmless, HARMLESS),
    ("acpi.*", DroppedHarmless, HARMLESS),
    ("chipset.*", DroppedHarmless, HARMLESS),
    ("pcihole.*", DroppedHarmless, HARMLESS),
    ("proxyapps.*", DroppedHarmless, HARMLESS),
    ("ulm.*", DroppedHarmless, HARMLESS),
    ("priority.*", DroppedHarmless, HARMLESS),
    ("vprobe.*", DroppedHarmless, HARMLESS),
    ("vwdk.*", DroppedHarmless, HARMLESS),
    ("dvx.*", DroppedHarmless, HARMLESS),
    ("applianceview.*", DroppedHarmless, HARMLESS),
    (
        "autostart",
        DroppedHarmless,
        "start with the host; set it on the target",
    ),
];

/// `scsi0:10.fileName` in lower case as `scsi#:#.filename`.
fn normal(key: &str) -> String {
    let mut result = String::with_capacity(key.len());
    let mut in_digits = false;
    for c in key.chars() {
        if c.is_ascii_digit() {
            if !in_digits {
                result.push('#');
            }
            in_digits = true;
        } else {
            in_digits = false;
            result.push(c);
        }
    }
    result
}

fn matches(pattern: &str, key: &str) -> bool {
    if let Some(pattern) = pattern.strip_prefix('*') {
        let Some((_, rest)) = key.split_once(':') else {
            return false;
        };
        return matches(&pattern[1..], rest);
    }
    match pattern.strip_suffix('*') {
        Some(prefix) => key.starts_with(prefix),
        None => key == pattern,
    }
}

/// Rows of [`TABLE`], in its order, that a key with this first byte may match: an estate has hundreds of thousands of keys.
static BY_FIRST_BYTE: LazyLock<Vec<Vec<&'static Row>>> = LazyLock::new(|| {
    let may_match =
        |first: u8, pattern: &str| matches!(pattern.bytes().next(), Some(byte) if byte == first || byte == b'*');
    (0..=u8::MAX)
        .map(|first| TABLE.iter().filter(|row| may_match(first, row.0)).collect())
        .collect()
});

fn row(key: &str) -> Option<&'static Row> {
    let first = key.bytes().next()?;
    BY_FIRST_BYTE[usize::from(first)]
        .iter()
        .copied()
        .find(|row| matches(row.0, key))
}

/// The class of the key `lower`, and why. A few keys are judged by their value too.
pub(crate) fn classify(lower: &str, value: &str, machine: &Machine) -> (KeyClass, &'static str) {
    let key = normal(lower);
    let value = value.trim().to_ascii_lowercase();
    let off = matches!(value.as_str(), "" | "false" | "0" | "none");
    let space = lower.split_once('.').map_or("", |(space, _)| space);
    let Some((_, class, why)) = row(&key) else {
        return (Unknown, "not in the table; please report it");
    };
    if space.contains(':') {
        let is_disk = machine.disks.iter().any(|disk| disk.name() == space);
        let drive = machine.removable.iter().find(|drive| drive.name == space);
        if let Some(drive) = drive {
            return match (key.rsplit_once('.').map_or("", |(_, last)| last), &drive.image) {
                ("filename", Some(_)) => (
                    DroppedWarning,
                    "the image in the drive doesn't move; the drive stays, empty",
                ),
                ("filename" | "present" | "devicetype", _) => (Approximated, "an empty drive"),
                _ => (*class, why),
            };
        }
        if !is_disk && matches!(class, Mapped) {
            return (DroppedHarmless, "a device that the machine doesn't have");
        }
        if key.ends_with(".mode") && value.contains("nonpersistent") {
            return (
                Approximated,
                "writes are lost when the guest is switched off, where the target can",
            );
        }
        if key.ends_with(".mode") && value.starts_with("independent") {
            return (DroppedWarning, "independent disk");
        }
        if key.ends_with(".sharing") && (off || value == "sharing-none") {
            return (DroppedHarmless, "not shared");
        }
        if key.ends_with(".sharing") && machine.disks.iter().any(|disk| disk.name() == space && disk.shared) {
            return (
                Approximated,
                "several guests may write, where the target can; each of them has to be told",
            );
        }
        if is_disk && key.ends_with(".startconnected") {
            return (DroppedHarmless, "a disk is always connected");
        }
        if key.ends_with(".redo") && !value.is_empty() {
            return (DroppedWarning, "a redo log is named");
        }
    }
    // A warning about something that is switched off would be noise.
    if matches!(class, DroppedWarning)
        && (off || matches!(value.as_str(), "normal" | "all" | "-1" | "unlimited"))
        && !key.starts_with("nvram")
    {
        return (DroppedHarmless, "switched off, or the default");
    }
    match key.as_str() {
        "cpuid.corespersocket" if machine.cpu.sockets * machine.cpu.cores_per_socket == machine.cpu.vcpus => {
            if value.parse() == Ok(machine.cpu.cores_per_socket) {
                (Mapped, why)
            } else {
                (Approximated, "not divisible; the topology is another")
            }
        }
        "sched.cpu.shares" if crate::targets::plan::cpu_weight(machine).is_none() => {
            if value == "normal" {
                (Mapped, "the default, as on the target")
            } else {
                (DroppedWarning, "not a weight, or the default's")
            }
        }
        "sched.mem.max" if value.parse::<u64>().is_ok_and(|limit| limit >= machine.memory.mib) => {
            (DroppedHarmless, "no limit below the size")
        }
        "vcpu.hotadd" | "vcpu.hotremove" | "mem.hotadd" | "vhv.enable" | "disk.enableuuid" if off => {
            (Mapped, "off, as on the target")
        }
        "ethernet#.virtualdev" if matches!(value.as_str(), "e1000" | "e1000e") => (Mapped, why),
        "ethernet#.address" | "ethernet#.generatedaddress" => {
            let index = space
                .strip_prefix("ethernet")
                .and_then(|index| index.parse::<u32>().ok());
            let used = machine
                .nics
                .iter()
                .any(|nic| Some(nic.index) == index && nic.mac == crate::machine::identity::normal_mac(&value));
            if used {
                (Mapped, why)
            } else {
                (DroppedHarmless, "not the MAC that the address type chooses")
            }
        }
        _ => (*class, why),
    }
}

#[cfg(test)]
mod tests {
    use super::{TABLE, matches, normal};

    #[test]
    fn no_row_is_hidden_by_an_earlier_one() {
        for (number, row) in TABLE.iter().enumerate() {
            let example = row.0.strip_suffix('*').unwrap_or(row.0);
            let example = example
                .strip_prefix('*')
                .map_or_else(|| example.to_owned(), |rest| format!("scsi#{rest}"));
            let first = TABLE.iter().position(|other| matches(other.0, &example));
            assert!(
                first.is_none_or(|first| first == number),
                "{} is hidden by {}",
                row.0,
                TABLE[first.unwrap_or(0)].0
            );
            assert_eq!(
                super::row(&example).map(|found| found.0),
                Some(row.0),
                "found by its first byte"
            );
        }
    }

    #[test]
    fn digits_are_one_sign() {
        assert_eq!(normal("scsi0:10.filename"), "scsi#:#.filename");
        assert!(matches("*:#.mode", "scsi#:#.mode"));
        assert!(!matches("*:#.mode", "scsi#.mode"));
    }
}
