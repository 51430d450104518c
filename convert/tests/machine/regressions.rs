//! What other importers get wrong, a test a line.

use crate::support::{WORKED, import};
use esxodus_convert::machine::{ControllerBus, FirmwareKind, Machine};
use esxodus_convert::source::Imported;
use reports::schema::KeyClass;
use std::collections::HashSet;

fn ids(imported: &Imported) -> HashSet<&str> {
    imported.findings.iter().map(|finding| finding.id.as_str()).collect()
}

#[test]
fn the_worked_example_comes_out_as_stated() {
    let imported = import(WORKED.as_bytes());
    let machine = &imported.machine;
    assert_eq!(machine.name, "Prod DB_01 \" x");
    let files: Vec<&str> = machine.disks.iter().map(|disk| disk.file.as_str()).collect();
    assert_eq!(files, ["boot.vmdk", "d2.vmdk", "d10.vmdk", "s1.vmdk", "n0.vmdk"]);
    let macs: Vec<&str> = machine.nics.iter().filter_map(|nic| nic.mac.as_deref()).collect();
    assert_eq!(macs, ["00:50:56:11:22:33", "00:50:56:aa:bb:cc", "00:50:56:80:00:10"]);
    assert_eq!(
        (machine.cpu.vcpus, machine.cpu.sockets, machine.cpu.cores_per_socket),
        (6, 6, 1)
    );
    assert_eq!(machine.firmware.kind, FirmwareKind::Uefi);
    assert!(machine.firmware.secure_boot);
    assert_eq!(machine.memory.mib, 8192);
    assert_eq!(machine.os.pve_ostype, "win10");
    assert_eq!(machine.boot_order, ["scsi0:0"]);
    assert_eq!(machine.notes, "owner: Ops\n100 % sure");
    let ids = ids(&imported);
    for expected in [
        "cpu.topology-not-divisible",
        "scsi.mixed-controllers",
        "nvme.not-native",
        "firmware.nvram-lost",
        "tpm.present",
        "secureboot.enabled",
        "cdrom.image-attached",
        "nic.rename-risk",
        "os.id-stale",
        "nic.mac-ambiguous",
        "cpu.hot-add",
        "mem.hot-add",
        "nic.network-missing",
        "nic.start-disconnected",
        "time.tools-sync",
        "vmx.present-false-leftover",
        "vmx.key-unknown",
    ] {
        assert!(ids.contains(expected), "{expected} is missing in {ids:?}");
    }
    for quiet in [
        "disk.file-missing",
        "disk.none",
        "disk.path-outside",
        "vmx.duplicate-key",
        "nic.mac-conflict",
    ] {
        assert!(!ids.contains(quiet), "{quiet}");
    }
}

#[test]
fn every_line_is_accounted_for_once() {
    for text in [
        WORKED,
        "a = \"1\"\nA = \"2\"\nscsi0:0.present = \"TRUE\"\nscsi0:0.fileName = \"a.vmdk\"\n",
    ] {
        let imported = import(text.as_bytes());
        let lines: Vec<u32> = text
            .lines()
            .enumerate()
            .filter(|(_, line)| line.contains('='))
            .map(|(number, _)| u32::try_from(number + 1).expect("few lines"))
            .collect();
        let accounted: Vec<u32> = imported.accounting.keys.iter().filter_map(|key| key.line).collect();
        assert_eq!(accounted, lines);
    }
}

#[test]
fn of_the_worked_example_only_the_invented_key_is_unknown() {
    let imported = import(WORKED.as_bytes());
    let unknown: Vec<&str> = imported
        .accounting
        .keys
        .iter()
        .filter(|key| key.class == KeyClass::Unknown)
        .map(|key| key.key.as_str())
        .collect();
    assert_eq!(unknown, ["some.future.key"]);
    let class = |key: &str| {
        let found = imported.accounting.keys.iter().find(|found| found.key == key);
        found.map(|found| found.class)
    };
    assert_eq!(class("cpuid.coresPerSocket"), Some(KeyClass::Approximated));
    assert_eq!(class("scsi0:5.fileName"), Some(KeyClass::DroppedHarmless));
    assert_eq!(class("ethernet0.generatedAddress"), Some(KeyClass::DroppedHarmless));
    assert_eq!(class("sata0:0.fileName"), Some(KeyClass::DroppedWarning));
    assert_eq!(class("tools.syncTime"), Some(KeyClass::DroppedWarning));
    let name = imported
        .accounting
        .keys
        .iter()
        .find(|key| key.key == "displayName")
        .expect("there");
    assert_eq!(name.targets["proxmox"], "name: Prod-DB01-x");
    assert_eq!(name.targets["kubevirt"], "name: \"prod-db01-x\"");
}

fn machine(text: &str) -> Machine {
    import(text.as_bytes()).machine
}

#[test]
fn a_server_2012_is_windows() {
    assert_eq!(machine("guestOS = \"windows8srv-64\"\n").os.pve_ostype, "win8");
}

#[test]
fn a_static_mac_is_kept_even_alone() {
    let machine = machine(
        "ethernet0.present = \"TRUE\"\nethernet0.addressType = \"static\"\nethernet0.address = \"00:50:56:00:00:01\"\n",
    );
    assert_eq!(machine.nics[0].mac.as_deref(), Some("00:50:56:00:00:01"));
}

#[test]
fn an_unknown_firmware_blocks() {
    assert!(ids(&import(b"firmware = \"coreboot\"\n")).contains("firmware.unknown"));
}

#[test]
fn memory_that_is_no_number_is_refused() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let path = folder.path().join("x.vmx");
    for bad in ["", "many", "0", "-1"] {
        std::fs::write(&path, format!("displayName = \"x\"\nmemSize = \"{bad}\"\n")).expect("file");
        let error = esxodus_convert::source::open(&path, &Default::default())
            .expect_err(bad)
            .to_string();
        assert!(error.contains("line 2: memSize"), "{error}");
    }
}

#[test]
fn nvme_stays_nvme_in_the_machine() {
    let machine = machine("nvme0:0.present = \"TRUE\"\nnvme0:0.fileName = \"a.vmdk\"\n");
    assert_eq!(machine.disks[0].bus, ControllerBus::Nvme);
    assert_eq!(machine.controllers[0].model, "nvme");
}

#[test]
fn a_disk_that_leaves_its_folder_blocks_and_is_not_opened() {
    let imported = import(b"scsi0:0.present = \"TRUE\"\nscsi0:0.fileName = \"../../etc/passwd\"\n");
    assert!(ids(&imported).contains("disk.path-outside"));
    assert!(imported.disks[0].path.as_os_str().is_empty());
}

#[test]
fn the_machine_survives_json() {
    let machine = import(WORKED.as_bytes()).machine;
    let json = serde_json::to_string_pretty(&machine).expect("serializes");
    assert_eq!(serde_json::from_str::<Machine>(&json).expect("reads back"), machine);
}

#[test]
fn a_suppressed_block_no_longer_stops_and_keeps_its_reason() {
    let mut imported = import(b"scsi0:0.present = \"TRUE\"\nscsi0:0.fileName = \"none.vmdk\"\n");
    assert!(esxodus_convert::preflight::blocks(&imported.findings));
    let reasons = [("disk.file-missing".to_owned(), "comes tomorrow".to_owned())].into();
    esxodus_convert::preflight::suppress(&mut imported.findings, &reasons);
    assert!(!esxodus_convert::preflight::blocks(&imported.findings));
}

#[test]
fn a_folder_with_two_guests_lists_them() {
    let folder = tempfile::tempdir().expect("temporary folder");
    for name in ["a.vmx", "b.vmx"] {
        std::fs::write(folder.path().join(name), "displayName = \"x\"\n").expect("file");
    }
    let error = esxodus_convert::source::open(folder.path(), &Default::default())
        .expect_err("two")
        .to_string();
    assert!(error.contains("a.vmx, b.vmx"), "{error}");
}
