//! What the accounting says of each key, against the files that were written; and single traits of those files.

use crate::support::{WORKED, context, import, shared, tool};
use esxodus_convert::accounting::{ABSENT, DEFAULT, fill_targets};
use esxodus_convert::machine::Machine;
use esxodus_convert::source::{ImportOptions, Imported, open};
use esxodus_convert::targets::{NetworkMap, Target, TargetContext, plan_all, write_all};
use reports::schema::KeyClass;
use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Stdio};

/// A guest with a bit of everything that has a word on some target.
pub(crate) const BUSY: &str = "displayName = \"busy\"\nguestOS = \"windows2019srv-64\"\nmemSize = \"4096\"\nnumvcpus = \"4\"\n\
    cpuid.coresPerSocket = \"2\"\ncpuid.numSMT = \"1\"\nvcpu.hotadd = \"TRUE\"\nvcpu.hotremove = \"TRUE\"\nmem.hotadd = \"TRUE\"\n\
    vhv.enable = \"TRUE\"\nnuma.vcpu.maxPerVirtualNode = \"2\"\nsched.cpu.shares = \"high\"\nsched.mem.pin = \"TRUE\"\n\
    firmware = \"efi\"\nuefi.secureBoot.enabled = \"TRUE\"\nvtpm.present = \"TRUE\"\nmanagedVM.autoAddVTPM = \"TRUE\"\n\
    annotation = \"first: 50 % <b>|0Asecond\"\nuuid.bios = \"56 4d 12 34 56 78 9a bc-de f0 12 34 56 78 9a bc\"\n\
    vm.genid = \"1\"\nvm.genidX = \"-2\"\nrtc.diffFromUTC = \"3600\"\nsvga.present = \"TRUE\"\nsvga.vramSize = \"16777216\"\n\
    disk.EnableUUID = \"TRUE\"\nbios.bootOrder = \"ethernet1,hdd\"\nbios.hddOrder = \"scsi0:1\"\n\
    scsi0.present = \"TRUE\"\nscsi0.virtualDev = \"lsisas1068\"\nsata0.present = \"TRUE\"\nnvme0.present = \"TRUE\"\n\
    scsi0:0.present = \"TRUE\"\nscsi0:0.fileName = \"a.vmdk\"\nscsi0:0.mode = \"persistent\"\nscsi0:0.deviceType = \"scsi-hardDisk\"\n\
    scsi0:1.present = \"TRUE\"\nscsi0:1.fileName = \"b.vmdk\"\nscsi0:1.mode = \"independent-nonpersistent\"\n\
    nvme0:0.present = \"TRUE\"\nnvme0:0.fileName = \"n0.vmdk\"\nnvme0:0.sharing = \"multi-writer\"\n\
    sata0:0.present = \"TRUE\"\nsata0:0.deviceType = \"cdrom-raw\"\nsata0:0.fileName = \"auto detect\"\nsata0:0.startConnected = \"FALSE\"\n\
    ethernet0.present = \"TRUE\"\nethernet0.virtualDev = \"vmxnet3\"\nethernet0.networkName = \"DMZ\"\nethernet0.addressType = \"static\"\n\
    ethernet0.address = \"00:50:56:11:22:33\"\nethernet0.pciSlotNumber = \"192\"\nethernet0.startConnected = \"FALSE\"\n\
    ethernet1.present = \"TRUE\"\nethernet1.virtualDev = \"vmxnet\"\nethernet1.features = \"15\"\nethernet1.dvs.portgroupId = \"Prod VLAN 100\"\n\
    ethernet1.pciSlotNumber = \"1184\"\nserial0.present = \"TRUE\"\nserial0.fileType = \"pipe\"\nserial0.fileName = \"x\"\n";

const PLAIN: &str = "guestOS = \"debian12-64\"\nmemSize = \"512\"\nide0:0.present = \"TRUE\"\nide0:0.fileName = \"a.vmdk\"\n\
    vcpu.hotadd = \"FALSE\"\nmem.hotadd = \"TRUE\"\nvhv.enable = \"FALSE\"\nfirmware = \"bios\"\nuefi.secureBoot.enabled = \"FALSE\"\n\
    vtpm.present = \"FALSE\"\nannotation = \"\"\nsched.cpu.shares = \"normal\"\nsched.mem.min = \"128\"\nrtc.diffFromUTC = \"junk\"\n\
    uuid.bios = \"junk\"\nvm.genid = \"1\"\nethernet0.present = \"TRUE\"\nethernet0.addressType = \"vpx\"\nscsi1.present = \"TRUE\"\n\
    serial0.present = \"TRUE\"\nserial1.present = \"TRUE\"\nbios.bootOrder = \"cdrom,ethernet0\"\n";

/// The files of each target, as one text.
fn files(machine: &Machine, context: &TargetContext) -> BTreeMap<&'static str, String> {
    let folder = tempfile::tempdir().expect("temporary folder");
    write_all(machine, context, folder.path(), &Target::ALL).expect("writable");
    let read = |name: &str| std::fs::read_to_string(folder.path().join("targets").join(name)).expect("written");
    BTreeMap::from([
        ("proxmox", read("proxmox.conf")),
        ("libvirt", read("libvirt.xml")),
        ("qemu", read("qemu.sh")),
        ("kubevirt", read("kubevirt.yaml")),
    ])
}

/// Every mapped or approximated key says for each target what stands in its file, or why nothing does.
fn check(imported: Imported, context: &TargetContext) {
    let (machine, mut accounting) = (imported.machine, imported.accounting);
    let files = files(&machine, context);
    let plans = plan_all(&machine, context, &Target::ALL).expect("plans");
    fill_targets(&mut accounting, &machine, context, &plans);
    let mut wrong = Vec::new();
    for key in &accounting.keys {
        let carried = matches!(key.class, KeyClass::Mapped | KeyClass::Approximated);
        assert_eq!(key.targets.len(), if carried { 4 } else { 0 }, "{key:?}");
        for (target, value) in &key.targets {
            let said = value.starts_with(ABSENT) || value.starts_with(DEFAULT);
            let file = &files[target.as_str()];
            if value.is_empty() || !said && !value.split("; ").all(|piece| file.contains(piece)) {
                wrong.push(format!("{} on {target}: {value}", key.key));
            }
            if value == &format!("{ABSENT}it has no word for it)") {
                wrong.push(format!("{} on {target} is {:?} and has no value", key.key, key.class));
            }
        }
    }
    assert!(wrong.is_empty(), "{}:\n{}", machine.name, wrong.join("\n"));
}

#[test]
fn each_accounted_value_stands_in_the_file_that_it_is_said_of() {
    let grows = "[networks.\"Prod VLAN 100\"]\nbridge = \"vmbr5\"\nvlan = 100\nnad = \"prod/vlan100\"\n\
                 [networks.DMZ]\nbridge = \"vmbr1\"\npod = true\n[guests.busy]\nname = \"other-name\"\nstorage = \"ceph\"\n\
                 max_vcpus = 8\nmax_memory_mib = 8192\n";
    let fixed = "[networks.\"Prod VLAN 100\"]\nbridge = \"vmbr5\"\nnad = \"a/b\"\n[networks.DMZ]\nbridge = \"vmbr1\"\nnad = \"a/c\"\n";
    for proven in [false, true] {
        for (text, map) in [
            (BUSY, Some(grows)),
            (BUSY, Some(fixed)),
            (BUSY, None),
            (PLAIN, None),
            (WORKED, None),
        ] {
            let imported = import(text.as_bytes());
            let mut context = context(&imported.machine, proven);
            context.map = map.map(|map| NetworkMap::parse(map).expect("the map is right"));
            check(imported, &context);
        }
    }
}

#[test]
fn each_accounted_value_of_an_ovf_stands_there_too() {
    let item = |fields: &[(&str, &str)]| {
        let fields: String = fields
            .iter()
            .map(|(name, value)| match name.strip_prefix("vmw:") {
                Some(_) => format!("<{name}>{value}</{name}>"),
                None => format!("<rasd:{name}>{value}</rasd:{name}>"),
            })
            .collect();
        format!("<Item>{fields}</Item>")
    };
    let items = [
        item(&[
            ("InstanceID", "1"),
            ("ResourceType", "3"),
            ("VirtualQuantity", "4"),
            ("vmw:CoresPerSocket", "2"),
            ("Weight", "8000"),
            ("Reservation", "500"),
            ("Limit", "-1"),
        ]),
        item(&[
            ("InstanceID", "2"),
            ("ResourceType", "4"),
            ("VirtualQuantity", "2048"),
            ("AllocationUnits", "byte * 2^20"),
            ("Weight", "20480"),
            ("Reservation", "2048"),
        ]),
        item(&[
            ("InstanceID", "3"),
            ("ResourceType", "6"),
            ("ResourceSubType", "VirtualSCSI"),
            ("Address", "0"),
        ]),
        item(&[
            ("InstanceID", "4"),
            ("ResourceType", "17"),
            ("HostResource", "ovf:/disk/d"),
            ("Parent", "3"),
            ("AddressOnParent", "0"),
        ]),
        item(&[
            ("InstanceID", "5"),
            ("ResourceType", "10"),
            ("ResourceSubType", "VmxNet3"),
            ("Connection", "LAN"),
            ("Address", "00:50:56:11:22:33"),
            ("AutomaticAllocation", "false"),
        ]),
        item(&[
            ("InstanceID", "6"),
            ("ResourceType", "15"),
            ("Parent", "3"),
            ("AddressOnParent", "1"),
        ]),
        item(&[("InstanceID", "7"), ("ResourceType", "21")]),
        item(&[("InstanceID", "8"), ("ResourceType", "24")]),
    ];
    let extras: String = [
        ("vm.genid", "1"),
        ("vm.genidX", "-2"),
        ("vtpm.present", "TRUE"),
        ("bios.bootOrder", "ethernet0"),
        ("uuid.bios", "56 4d 12 34 56 78 9a bc-de f0 12 34 56 78 9a bc"),
        ("svga.present", "TRUE"),
        ("ethernet0.pciSlotNumber", "192"),
        ("disk.EnableUUID", "TRUE"),
        ("sched.mem.pin", "TRUE"),
    ]
    .iter()
    .map(|(key, value)| format!("<vmw:ExtraConfig vmw:key=\"{key}\" vmw:value=\"{value}\"/>"))
    .collect();
    let text = format!(
        "<Envelope xmlns=\"http://schemas.dmtf.org/ovf/envelope/1\" xmlns:ovf=\"http://schemas.dmtf.org/ovf/envelope/1\" \
         xmlns:rasd=\"http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_ResourceAllocationSettingData\" \
         xmlns:vssd=\"http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_VirtualSystemSettingData\" \
         xmlns:vmw=\"http://www.vmware.com/schema/ovf\"><References><File ovf:id=\"f\" ovf:href=\"a.vmdk\"/></References>\
         <DiskSection><Disk ovf:diskId=\"d\" ovf:fileRef=\"f\" ovf:capacity=\"5\" ovf:capacityAllocationUnits=\"byte * 2^30\"/></DiskSection>\
         <VirtualSystem ovf:id=\"app\"><Info/><Name>app</Name><AnnotationSection><Info/><Annotation>owner</Annotation></AnnotationSection>\
         <OperatingSystemSection ovf:id=\"96\"><Info/></OperatingSystemSection><VirtualHardwareSection><Info/>\
         <System><vssd:VirtualSystemType>vmx-19</vssd:VirtualSystemType></System>{}\
         <vmw:Config vmw:key=\"firmware\" vmw:value=\"uefi\"/><vmw:Config vmw:key=\"cpuHotRemoveEnabled\" vmw:value=\"true\"/>{extras}\
         </VirtualHardwareSection></VirtualSystem></Envelope>",
        items.concat()
    );
    let folder = tempfile::tempdir().expect("temporary folder");
    let path = folder.path().join("guest.ovf");
    std::fs::write(&path, text).expect("file");
    std::fs::write(folder.path().join("a.vmdk"), "").expect("file");
    let imported = open(&path, &ImportOptions::default()).expect("importable");
    let machine = &imported.machine;
    // What counts as an extra setting is read.
    assert!(machine.identity.generation_id.is_some());
    assert_eq!(machine.firmware.tpm, esxodus_convert::machine::Tpm::V2);
    assert_eq!(machine.firmware.kind, esxodus_convert::machine::FirmwareKind::Uefi);
    assert_eq!(machine.boot_order, ["ethernet0", "scsi0:0"]);
    assert_eq!(machine.memory.reservation_mib, Some(2048));
    let class = |key: &str| {
        imported
            .accounting
            .keys
            .iter()
            .find(|found| found.key == key)
            .expect(key)
            .class
    };
    assert_eq!(class("ExtraConfig.ethernet0.pciSlotNumber"), KeyClass::DroppedWarning);
    assert_eq!(class("Item[2].Reservation"), KeyClass::Approximated);
    assert_eq!(class("Item[2].Weight"), KeyClass::DroppedHarmless);
    assert_eq!(class("Item[1].Reservation"), KeyClass::DroppedWarning);
    assert_eq!(class("Item[1].Limit"), KeyClass::DroppedHarmless);
    let mut context = context(machine, true);
    context.map = None;
    check(imported, &context);
}

fn disks(prefix: &str, places: &[(u32, u32)]) -> String {
    places
        .iter()
        .fold("guestOS = \"winXPPro\"\n".to_owned(), |text, (controller, unit)| {
            let place = format!("{prefix}{controller}:{unit}");
            format!("{text}{place}.present = \"TRUE\"\n{place}.fileName = \"d{controller}{unit}.vmdk\"\n")
        })
}

#[test]
fn every_index_on_proxmox_is_one_that_it_has() {
    let many: Vec<(u32, u32)> = (0..40).map(|number| (number / 15, number % 15)).collect();
    let drive = "sata3:0.present = \"TRUE\"\nsata3:0.deviceType = \"cdrom-raw\"\n";
    for text in [
        disks("ide", &[(0, 0), (0, 1), (1, 0), (1, 1)]),
        disks("ide", &[(0, 0), (0, 1), (1, 0), (1, 1)]) + drive,
        disks("scsi", &many),
        disks("scsi", &many) + drive,
        disks(
            "sata",
            &[(0, 0), (0, 1), (0, 2), (0, 3), (0, 4), (0, 5), (0, 6), (0, 7)],
        )
        .replace("winXPPro", "debian12-64"),
    ] {
        for proven in [false, true] {
            let machine = import(text.as_bytes()).machine;
            let mut context = context(&machine, proven);
            context.map = None;
            let conf = files_of(&machine, &context, Target::Proxmox, "proxmox.conf");
            let mut seen = std::collections::BTreeSet::new();
            for line in conf.lines().filter(|line| !line.starts_with('#')) {
                let key = line.split(':').next().expect("a key");
                let prefix = key.trim_end_matches(|c: char| c.is_ascii_digit());
                let Ok(index) = key[prefix.len()..].parse::<u32>() else {
                    continue;
                };
                let room = match prefix {
                    "scsi" => 31,
                    "virtio" => 16,
                    "sata" => 6,
                    "ide" => 4,
                    "net" => 32,
                    _ => continue,
                };
                assert!(index < room && seen.insert(key.to_owned()), "{line}\n{conf}");
            }
            assert_eq!(conf.matches("size=1048577K").count(), machine.disks.len());
        }
    }
}

fn files_of(machine: &Machine, context: &TargetContext, target: Target, name: &str) -> String {
    let folder = tempfile::tempdir().expect("temporary folder");
    write_all(machine, context, folder.path(), &[target]).expect("writable");
    std::fs::read_to_string(folder.path().join("targets").join(name)).expect("written")
}

#[test]
fn mapped_storages_take_the_disks_the_firmware_and_the_tpm() {
    let text = BUSY.replace("\"a.vmdk\"", "\"/vmfs/volumes/ds1/busy/a.vmdk\"");
    let machine = import(text.as_bytes()).machine;
    let networks =
        "[networks.\"Prod VLAN 100\"]\nbridge = \"a\"\nnad = \"a\"\n[networks.DMZ]\nbridge = \"b\"\nnad = \"b\"\n";
    let mut context = context(&machine, false);
    context.map = Some(
        NetworkMap::parse(&format!(
            "{networks}[guests.busy]\nstorage = \"ceph\"\naccess_mode = \"ReadWriteOnce\"\nstorage_class = \"s\"\n"
        ))
        .expect("a map"),
    );
    let conf = files_of(&machine, &context, Target::Proxmox, "proxmox.conf");
    assert!(!conf.contains("local-lvm"), "{conf}");
    for line in [
        "efidisk0: ceph:vm-100-disk-0,",
        "tpmstate0: ceph:vm-100-disk-1,",
        "ceph:vm-100-disk-4,",
    ] {
        assert!(conf.contains(line), "{line}\n{conf}");
    }
    let script = files_of(&machine, &context, Target::Proxmox, "proxmox.sh");
    assert!(
        script.contains("--efidisk0 ceph:1,") && script.contains("--tpmstate0 ceph:1,"),
        "{script}"
    );
    let yaml = files_of(&machine, &context, Target::Kubevirt, "kubevirt.yaml");
    assert_eq!(yaml.matches("- \"ReadWriteOnce\"").count(), 3, "{yaml}");
    // A storage numbers its volumes by itself. The guest boots from scsi0:1, which is on no datastore that is named.
    context.map = Some(
        NetworkMap::parse(&format!(
            "{networks}[datastores.ds1]\nstorage = \"ceph\"\nstorage_class = \"s\"\n"
        ))
        .expect("a map"),
    );
    let conf = files_of(&machine, &context, Target::Proxmox, "proxmox.conf");
    for line in [
        "efidisk0: local-lvm:vm-100-disk-0,",
        ": ceph:vm-100-disk-0,",
        ": local-lvm:vm-100-disk-3,",
    ] {
        assert!(conf.contains(line), "{line}\n{conf}");
    }
}

#[test]
fn kubevirt_has_a_volume_for_each_disk_and_the_modes_that_storage_asks_for() {
    for text in [WORKED, BUSY, PLAIN] {
        let machine = import(text.as_bytes()).machine;
        let mut context = context(&machine, true);
        context.map = None;
        let yaml = files_of(&machine, &context, Target::Kubevirt, "kubevirt.yaml");
        let yaml: serde_yaml_ng::Value = serde_yaml_ng::from_str(&yaml).expect("YAML");
        let spec = &yaml["spec"]["template"]["spec"];
        let names = |list: &serde_yaml_ng::Value| -> Vec<String> {
            let list = list.as_sequence().expect("a list").iter();
            list.filter_map(|entry| entry["name"].as_str().map(str::to_owned))
                .collect()
        };
        assert_eq!(names(&spec["domain"]["devices"]["disks"]), names(&spec["volumes"]));
        for (template, disk) in yaml["spec"]["dataVolumeTemplates"]
            .as_sequence()
            .expect("a list")
            .iter()
            .zip(&machine.disks)
        {
            let modes = &template["spec"]["storage"]["accessModes"];
            assert_eq!(
                modes[0].as_str(),
                disk.shared.then_some("ReadWriteMany"),
                "{}",
                disk.name()
            );
        }
        assert!(
            spec["terminationGracePeriodSeconds"]
                .as_u64()
                .is_some_and(|seconds| seconds > 30)
        );
    }
}

#[test]
fn a_local_clock_on_kubevirt_runs_in_the_maps_zone() {
    let machine =
        import("displayName = \"w\"\nguestOS = \"windows2019srv-64\"\nmemSize = \"512\"\n".as_bytes()).machine;
    let with = |map: &str| {
        let context = TargetContext {
            map: Some(NetworkMap::parse(map).expect("a map")),
            ..TargetContext::default()
        };
        files_of(&machine, &context, Target::Kubevirt, "kubevirt.yaml")
    };
    assert!(with("").contains("utc: {}"));
    assert!(with("timezone = \"Europe/Berlin\"\n").contains("timezone: \"Europe/Berlin\""));
    let both = "timezone = \"Europe/Berlin\"\n[guests.w]\ntimezone = \"Asia/Tokyo\"\n";
    assert!(with(both).contains("timezone: \"Asia/Tokyo\""));
    assert!(NetworkMap::parse("timezone = \"CET; x\"").is_err());
}

#[test]
fn a_tag_is_written_for_bridges_that_know_tags() {
    let machine = import(WORKED.as_bytes()).machine;
    let mut context = context(&machine, true);
    assert!(!files_of(&machine, &context, Target::Libvirt, "libvirt.xml").contains("<vlan>"));
    let map = "[networks.\"Prod VLAN 100\"]\nbridge = \"ovs0\"\nvlan = 100\nopenvswitch = true\n[networks.DMZ]\nbridge = \"b\"\n\
               [networks.\"\"]\nbridge = \"c\"\n";
    context.map = Some(NetworkMap::parse(map).expect("a map"));
    let xml = files_of(&machine, &context, Target::Libvirt, "libvirt.xml");
    assert!(
        xml.contains("<tag id=\"100\"/>") && xml.contains("<virtualport type=\"openvswitch\"/>"),
        "{xml}"
    );
    assert_eq!(xml.matches("<virtualport").count(), 1);
}

#[test]
fn more_than_255_vcpus_get_interrupt_remapping() {
    let text = "guestOS = \"debian12-64\"\nmemSize = \"8192\"\nnumvcpus = \"300\"\ncpuid.coresPerSocket = \"150\"\n";
    let machine = import(text.as_bytes()).machine;
    let files = files(&machine, &TargetContext::default());
    assert!(files["libvirt"].contains("<ioapic driver=\"qemu\"/>"));
    assert!(files["libvirt"].contains("<driver intremap=\"on\" eim=\"on\"/>"));
    assert!(files["qemu"].contains("kernel-irqchip=split") && files["qemu"].contains("intel-iommu,intremap=on,eim=on"));
    assert!(files["proxmox"].contains("machine: q35,viommu=intel\n"));
}

#[test]
fn firmware_goes_on_to_the_disk_unless_only_the_network_is_allowed() {
    for (order, wanted) in [
        ("ethernet0", "order=net0;sata0"),
        ("only:net", "order=net0"),
        ("allow:net", "order=net0;sata0"),
        ("cdrom", "order=sata0"),
        ("hdd,ethernet0", "order=sata0;net0"),
    ] {
        let text = format!(
            "guestOS = \"debian12-64\"\nmemSize = \"512\"\nsata0:0.present = \"TRUE\"\nsata0:0.fileName = \"a.vmdk\"\n\
             ethernet0.present = \"TRUE\"\nbios.bootOrder = \"{order}\"\n"
        );
        let machine = import(text.as_bytes()).machine;
        let mut context = context(&machine, false);
        context.map = None;
        let conf = files_of(&machine, &context, Target::Proxmox, "proxmox.conf");
        assert!(conf.contains(&format!("boot: {wanted}\n")), "{order}: {conf}");
    }
}

#[test]
fn a_port_whose_presence_is_unreadable_is_kept_and_said() {
    let text = "guestOS = \"debian12-64\"\nmemSize = \"512\"\nserial0.present = \"yes\"\nparallel0.present = \"1\"\nserial1.fileName = \"x\"\n";
    let imported = import(text.as_bytes());
    assert_eq!((imported.machine.serial.len(), imported.machine.parallel.len()), (1, 1));
    let said: Vec<&str> = imported
        .findings
        .iter()
        .filter(|finding| finding.id == "vmx.present-missing")
        .map(|finding| finding.evidence.as_str())
        .collect();
    assert_eq!(said.len(), 2, "{said:?}");
}

/// Boots a disk that writes to itself, under the script, and looks at the disk afterwards.
#[test]
fn the_scripts_snapshot_keeps_the_disks_as_they_are() {
    if !tool("qemu-system-x86_64") || !tool("qemu-img") {
        return;
    }
    // mov ax,0x0301; mov cx,2; mov dx,0x80; xor bx,bx; mov es,bx; mov bh,0x7c; int 0x13; then power off by the ACPI port of
    // i440FX: mov dx,0x604; mov ax,0x2000; out dx,ax; hlt
    let code: [u8; 25] = [
        0xb8, 0x01, 0x03, 0xb9, 0x02, 0x00, 0xba, 0x80, 0x00, 0x31, 0xdb, 0x8e, 0xc3, 0xb7, 0x7c, 0xcd, 0x13, 0xba,
        0x04, 0x06, 0xb8, 0x00, 0x20, 0xef, 0xf4,
    ];
    let mut disk = code.to_vec();
    disk.resize(510, 0);
    disk.extend([0x55, 0xaa]);
    disk.resize(1 << 20, 0);
    for (mode, snapshot, changes) in [
        ("persistent", "0", true),
        ("persistent", "1", false),
        ("independent-nonpersistent", "0", false),
    ] {
        let text = format!(
            "guestOS = \"winXPPro\"\nmemSize = \"32\"\nide0:0.present = \"TRUE\"\nide0:0.fileName = \"a.vmdk\"\nide0:0.mode = \"{mode}\"\n"
        );
        let machine = import(text.as_bytes()).machine;
        let mut context = context(&machine, false);
        context.map = None;
        "raw".clone_into(&mut context.disks[0].format);
        let folder = tempfile::tempdir().expect("temporary folder");
        write_all(&machine, &context, folder.path(), &[Target::Qemu]).expect("writable");
        let path = folder.path().join(&context.disks[0].path);
        std::fs::create_dir_all(path.parent().expect("a folder")).expect("folder");
        std::fs::write(&path, &disk).expect("disk");
        let done = Command::new("timeout")
            .args(["-k", "5", "60", "sh"])
            .arg(folder.path().join("targets/qemu.sh"))
            .env("ESXODUS_SNAPSHOT", snapshot)
            .stdin(Stdio::null())
            .output()
            .expect("runs");
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        let changed = std::fs::read(&path).expect("disk") != disk;
        assert_eq!(changed, changes, "{mode}, ESXODUS_SNAPSHOT={snapshot}");
        assert_eq!(left_over(folder.path()), Vec::<String>::new());
    }
}

fn left_over(folder: &Path) -> Vec<String> {
    std::fs::read_dir(folder.join("targets"))
        .expect("folder")
        .map(|entry| entry.expect("entry").file_name().to_string_lossy().into_owned())
        .filter(|name| name.starts_with("qemu-scratch"))
        .collect()
}

/// libvirt reads VMX files by itself: what it makes of one is set beside ours.
#[test]
fn libvirts_own_reader_of_vmx_agrees() {
    if !tool("virsh") {
        return;
    }
    let text = "config.version = \"8\"\nvirtualHW.version = \"19\"\ndisplayName = \"web01\"\nguestOS = \"debian12-64\"\n\
                memSize = \"2048\"\nnumvcpus = \"4\"\ncpuid.coresPerSocket = \"2\"\nscsi0.present = \"TRUE\"\nscsi0.virtualDev = \"pvscsi\"\n\
                scsi0:0.present = \"TRUE\"\nscsi0:0.deviceType = \"scsi-hardDisk\"\nscsi0:0.fileName = \"a.vmdk\"\n\
                scsi0:2.present = \"TRUE\"\nscsi0:2.deviceType = \"scsi-hardDisk\"\nscsi0:2.fileName = \"b.vmdk\"\n\
                ethernet0.present = \"TRUE\"\nethernet0.virtualDev = \"e1000e\"\nethernet0.networkName = \"LAN\"\n\
                ethernet0.connectionType = \"bridged\"\nethernet0.addressType = \"static\"\nethernet0.address = \"00:50:56:11:22:33\"\n";
    let folder = tempfile::tempdir().expect("temporary folder");
    let path = folder.path().join("guest.vmx");
    std::fs::write(&path, text).expect("file");
    let out = Command::new("virsh")
        .args(["-c", "vmwareplayer:///session", "domxml-from-native", "vmware-vmx"])
        .arg(&path)
        .output()
        .expect("runs");
    if !out.status.success() {
        println!(
            "SKIP: this libvirt has no connection that reads VMX files: {}",
            String::from_utf8_lossy(&out.stderr).trim()
        );
        return;
    }
    let xml = String::from_utf8_lossy(&out.stdout).into_owned();
    let machine = import(text.as_bytes()).machine;
    for wanted in [
        format!("<name>{}</name>", machine.name),
        format!("{}</vcpu>", machine.cpu.vcpus),
        format!("{}</memory>", machine.memory.mib * 1024),
        "cores='2'".to_owned(),
        format!("address='{}'", machine.nics[0].mac.as_deref().expect("a MAC")),
    ] {
        assert!(xml.contains(&wanted), "{wanted}\n{xml}");
    }
    assert_eq!(xml.matches("device='disk'").count(), machine.disks.len());
}

#[test]
fn the_contract_of_proxmox_knows_the_machine_of_many_cpus() {
    let Some(contract) = shared("data/pve-contract.json") else {
        return;
    };
    let text = std::fs::read_to_string(contract).expect("readable");
    let contract: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    let machine = &contract["endpoints"]["/nodes/{node}/qemu"]["POST"]["params"]["machine"]["sub"];
    assert!(
        machine["viommu"]["enum"]
            .as_array()
            .is_some_and(|kinds| kinds.iter().any(|kind| kind == "intel"))
    );
}
