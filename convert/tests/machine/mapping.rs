//! What other importers get wrong, a test for each row of the mapping reference's regression list (section 14).

use crate::support::{WORKED, context, import};
use esxodus_convert::machine::{ControllerBus, FirmwareKind, Machine};
use esxodus_convert::source::{ImportOptions, Imported, open};
use esxodus_convert::targets::{NetworkMap, Target, TargetError, write_all};
use reports::schema::KeyClass;

fn worked() -> Imported {
    import(WORKED.as_bytes())
}

fn fires(imported: &Imported, id: &str) -> bool {
    imported.findings.iter().any(|finding| finding.id == id)
}

fn class(imported: &Imported, key: &str) -> KeyClass {
    let found = imported.accounting.keys.iter().find(|found| found.key == key);
    found.unwrap_or_else(|| panic!("{key} is not accounted for")).class
}

fn target(machine: &Machine, name: &str) -> String {
    let folder = tempfile::tempdir().expect("temporary folder");
    write_all(machine, &context(machine, true), folder.path(), &Target::ALL).expect("writable");
    std::fs::read_to_string(folder.path().join("targets").join(name)).expect("written")
}

fn ovf(items: &str) -> Machine {
    let folder = tempfile::tempdir().expect("temporary folder");
    let path = folder.path().join("guest.ovf");
    std::fs::write(folder.path().join("a.vmdk"), "").expect("file");
    let text = format!(
        r#"<Envelope xmlns="http://schemas.dmtf.org/ovf/envelope/1" xmlns:o="http://schemas.dmtf.org/ovf/envelope/1"
         xmlns:r="http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_ResourceAllocationSettingData">
         <References><File o:id="f" o:href="a.vmdk"/></References><DiskSection><Disk o:diskId="d" o:fileRef="f" o:capacity="1024"/></DiskSection>
         <VirtualSystem o:id="x"><Name>x</Name><VirtualHardwareSection>{items}</VirtualHardwareSection></VirtualSystem></Envelope>"#
    );
    std::fs::write(&path, text).expect("file");
    open(&path, &ImportOptions::default()).expect("importable").machine
}

#[test]
fn row_01_a_disk_that_is_not_present_is_absent() {
    let machine = worked().machine;
    assert!(machine.disks.iter().all(|disk| disk.file != "removed.vmdk"));
    assert!(!target(&machine, "libvirt.xml").contains("removed"));
}

#[test]
fn row_02_units_are_ordered_as_numbers() {
    let units: Vec<u32> = worked()
        .machine
        .disks
        .iter()
        .filter(|disk| disk.bus == ControllerBus::Scsi && disk.controller == 0)
        .map(|disk| disk.unit)
        .collect();
    assert_eq!(units, [0, 2, 10]);
}

#[test]
fn row_03_an_empty_cd_is_not_in_the_boot_order() {
    let machine = worked().machine;
    assert!(machine.boot_order.iter().all(|name| !name.starts_with("sata")));
    let conf = target(&machine, "proxmox.conf");
    assert!(conf.lines().any(|line| line == "boot: order=scsi0"), "{conf}");
}

#[test]
fn row_04_the_topology_has_an_integral_product() {
    let cpu = worked().machine.cpu;
    assert_eq!(cpu.sockets * cpu.cores_per_socket * cpu.threads, 6);
}

#[test]
fn row_05_ids_of_windows_are_windows() {
    assert_eq!(worked().machine.os.pve_ostype, "win10");
    assert_eq!(import(b"guestOS = \"windows8srv-64\"\n").machine.os.pve_ostype, "win8");
}

#[test]
fn row_06_an_escaped_quote_is_decoded() {
    assert_eq!(worked().machine.name, "Prod DB_01 \" x");
}

#[test]
fn row_07_the_static_mac_wins_over_a_stale_generated_one() {
    assert_eq!(worked().machine.nics[0].mac.as_deref(), Some("00:50:56:11:22:33"));
}

#[test]
fn row_08_a_static_mac_alone_is_kept() {
    assert_eq!(worked().machine.nics[1].mac.as_deref(), Some("00:50:56:aa:bb:cc"));
}

#[test]
fn row_09_a_second_controller_model_is_a_warning() {
    let imported = worked();
    assert!(fires(&imported, "scsi.mixed-controllers"));
    let models: Vec<&str> = imported
        .machine
        .controllers
        .iter()
        .filter(|controller| controller.bus == ControllerBus::Scsi)
        .map(|controller| controller.model.as_str())
        .collect();
    assert_eq!(models, ["pvscsi", "lsisas1068"]);
}

#[test]
fn row_10_what_others_drop_in_silence_is_accounted_for() {
    let imported = worked();
    for key in [
        "uefi.secureBoot.enabled",
        "vtpm.present",
        "vcpu.hotadd",
        "mem.hotadd",
        "vm.genid",
        "ethernet0.networkName",
    ] {
        assert_ne!(class(&imported, key), KeyClass::Unknown, "{key}");
        assert_ne!(class(&imported, key), KeyClass::DroppedHarmless, "{key}");
    }
    for id in [
        "secureboot.enabled",
        "tpm.present",
        "cpu.hot-add",
        "mem.hot-add",
        "genid.kubevirt",
    ] {
        assert!(fires(&imported, id), "{id}");
    }
}

#[test]
fn row_11_firmware_in_capitals_is_uefi() {
    assert_eq!(worked().machine.firmware.kind, FirmwareKind::Uefi);
}

#[test]
fn row_12_a_nic_without_a_network_blocks_until_mapped() {
    let machine = worked().machine;
    let mut context = context(&machine, true);
    let map = "[networks.\"Prod VLAN 100\"]\nbridge = \"vmbr0\"\n[networks.DMZ]\nbridge = \"vmbr1\"\n";
    context.map = Some(NetworkMap::parse(map).expect("TOML"));
    let folder = tempfile::tempdir().expect("temporary folder");
    let error = write_all(&machine, &context, folder.path(), &[Target::Proxmox]).expect_err("unmapped");
    let TargetError::Unmapped { add, .. } = error else {
        panic!("{error}")
    };
    assert!(add.contains("00:50:56:80:00:10"), "named by its MAC: {add}");
    context.map = Some(NetworkMap::parse(&format!("{map}{add}")).expect("TOML"));
    write_all(&machine, &context, folder.path(), &[Target::Proxmox]).expect("mapped");
}

#[test]
fn row_13_what_becomes_of_nvme_is_stated_for_each_target() {
    let imported = import(b"guestOS = \"debian12-64\"\nnvme0.present = \"TRUE\"\nnvme0:0.present = \"TRUE\"\nnvme0:0.fileName = \"a.vmdk\"\n");
    assert_eq!(imported.machine.disks[0].bus, ControllerBus::Nvme);
    assert!(fires(&imported, "nvme.not-native"));
    let key = imported
        .accounting
        .keys
        .iter()
        .find(|key| key.key == "nvme0:0.fileName")
        .expect("accounted");
    for target in ["proxmox", "libvirt", "qemu", "kubevirt"] {
        assert!(key.targets.contains_key(target), "{target}: {:?}", key.targets);
    }
}

#[test]
fn row_14_a_nic_that_is_not_present_is_absent() {
    let indexes: Vec<u32> = worked().machine.nics.iter().map(|nic| nic.index).collect();
    assert_eq!(indexes, [0, 2, 10]);
}

#[test]
fn row_15_an_nvme_controller_of_an_ovf_is_nvme() {
    let machine = ovf(
        "<Item><r:InstanceID>7</r:InstanceID><r:ResourceType>20</r:ResourceType><r:ResourceSubType>vmware.nvme.controller</r:ResourceSubType></Item>\
         <Item><r:InstanceID>9</r:InstanceID><r:ResourceType>17</r:ResourceType><r:HostResource>ovf:/disk/d</r:HostResource><r:Parent>7</r:Parent></Item>",
    );
    assert_eq!(machine.disks[0].bus, ControllerBus::Nvme);
}

#[test]
fn row_16_memsize_in_lower_case_is_read() {
    assert_eq!(worked().machine.memory.mib, 8192);
}

#[test]
fn row_17_memory_in_gib_is_converted() {
    for (units, quantity) in [
        ("byte * 2^30", 8),
        ("GigaBytes", 8),
        ("byte * 2^20", 8192),
        ("MegaBytes", 8192),
    ] {
        let machine = ovf(&format!(
            "<Item><r:AllocationUnits>{units}</r:AllocationUnits><r:ResourceType>4</r:ResourceType><r:VirtualQuantity>{quantity}</r:VirtualQuantity></Item>"
        ));
        assert_eq!(machine.memory.mib, 8192, "{units}");
    }
}
