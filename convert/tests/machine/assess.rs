//! Estates.

use esxodus_convert::assess::{AssessOptions, assess};
use reports::schema::EstateVerdict;
use std::sync::atomic::AtomicBool;

#[test]
fn a_broken_file_costs_its_own_row_and_networks_stay_together() {
    let folder = tempfile::tempdir().expect("temporary folder");
    for number in 0..40 {
        let sub = folder.path().join(format!("{number:02}"));
        std::fs::create_dir(&sub).expect("folder");
        std::fs::write(sub.join("d.vmdk"), "# Disk DescriptorFile\nRW 2048 ZERO\n").expect("file");
        let text = format!(
            "displayName = \"g{number}\"\nguestOS = \"debian12-64\"\nmemSize = \"1024\"\nnumvcpus = \"2\"\nscsi0:0.present = \"TRUE\"\n\
             scsi0:0.fileName = \"d.vmdk\"\nethernet0.present = \"TRUE\"\nethernet0.networkName = \"n{}\"\n",
            number % 4
        );
        std::fs::write(sub.join("g.vmx"), text).expect("file");
    }
    std::fs::write(folder.path().join("broken.vmx"), "\0").expect("file");
    std::fs::write(folder.path().join("broken.ova"), "junk").expect("file");
    let sheet = folder.path().join("rvtools.csv");
    std::fs::write(
        &sheet,
        "VM;Powerstate;CPUs;Memory;Disks;Provisioned MiB;In Use MiB;Network #1;Firmware\na;poweredOn;4;8\u{2019}192;1;2.048;1024;n0;efi\nb;suspended;1;1024;1;1;1;;bios\nc;;x;;;;;;\n",
    )
    .expect("file");
    let options = AssessOptions {
        wave_guests: 12,
        ..AssessOptions::default()
    };
    let sources = [folder.path().to_owned(), sheet];
    let report = assess(&sources, &options, "test", &mut |_, _| {}, &AtomicBool::new(false));
    let count = |verdict| report.guests.iter().filter(|guest| guest.verdict == verdict).count();
    assert_eq!(report.guests.len(), 45);
    assert_eq!(count(EstateVerdict::Unreadable), 3);
    assert_eq!(count(EstateVerdict::Blocked), 1, "{:?}", report.risks);
    assert_eq!((report.vcpus, report.memory_mib), (85, 40 * 1024 + 8192 + 1024));
    assert_eq!(report.sizing.hosts_with_spare, 2);
    for network in 0..4 {
        let name = format!("n{network}");
        let waves: std::collections::HashSet<u32> = report
            .guests
            .iter()
            .filter(|guest| guest.networks.contains(&name))
            .map(|guest| guest.wave)
            .collect();
        assert_eq!(waves.len(), 1, "{name}: {waves:?}");
    }
    assert!(
        report
            .guests
            .iter()
            .all(|guest| (guest.wave == 0) == (guest.verdict == EstateVerdict::Unreadable))
    );
}

fn judged(sources: &[std::path::PathBuf], options: &AssessOptions) -> reports::schema::EstateReport {
    assess(sources, options, "test", &mut |_, _| {}, &AtomicBool::new(false))
}

#[test]
fn five_hundred_guests_are_counted_summed_planned_and_each_is_told_once() {
    let folder = tempfile::tempdir().expect("temporary folder");
    for number in 0..500_u32 {
        let sub = folder.path().join(format!("rack{}/vm{number:03}", number % 7));
        std::fs::create_dir_all(&sub).expect("folder");
        let suspended = if number % 50 == 0 {
            "checkpoint.vmState = \"x.vmss\"\n"
        } else {
            ""
        };
        let text = format!(
            "displayName = \"vm{number:03}\"\nguestOS = \"debian12-64\"\nmemSize = \"2048\"\nnumvcpus = \"2\"\n\
             uuid.bios = \"56 4d {:02x} {:02x} 56 78 9a bc-de f0 12 34 56 78 9a bc\"\nscsi0.present = \"TRUE\"\n\
             scsi0.virtualDev = \"pvscsi\"\nscsi0:0.present = \"TRUE\"\nscsi0:0.fileName = \"d.vmdk\"\n{suspended}",
            number >> 8,
            number & 0xff
        );
        std::fs::write(sub.join("g.vmx"), text).expect("file");
        let disk = "# Disk DescriptorFile\nversion=1\nCID=1\nparentCID=ffffffff\ncreateType=\"vmfs\"\nRW 4096 VMFS \"d-flat.vmdk\"\n";
        std::fs::write(sub.join("d.vmdk"), disk).expect("file");
        let flat = std::fs::File::create(sub.join("d-flat.vmdk")).expect("file");
        flat.set_len(4096 * 512).expect("sparse");
    }
    let mut told = 0;
    let options = AssessOptions {
        host_cores: 16,
        host_memory_mib: 64 * 1024,
        copy_bytes_per_second: 1 << 20,
        ..AssessOptions::default()
    };
    let mut on_guest = |guest: &mut reports::schema::EstateGuest,
                        machine: Option<&esxodus_convert::machine::Machine>| {
        told += 1;
        assert_eq!(machine.map(|machine| machine.name.as_str()), Some(guest.name.as_str()));
    };
    let report = assess(
        &[folder.path().to_owned()],
        &options,
        "test",
        &mut on_guest,
        &AtomicBool::new(false),
    );
    let count = |verdict| report.guests.iter().filter(|guest| guest.verdict == verdict).count();
    assert_eq!((report.guests.len(), told), (500, 500));
    assert!(
        report.guests.is_sorted_by_key(|guest| &guest.source),
        "in the order of their folders, whichever thread read them"
    );
    assert_eq!(count(EstateVerdict::Blocked), 10, "{:?}", report.risks);
    assert_eq!(count(EstateVerdict::Unreadable), 0);
    assert_eq!((report.vcpus, report.memory_mib), (1000, 1_024_000));
    assert_eq!(report.capacity_bytes, 500 * 4096 * 512);
    // 1 024 000 MiB on hosts of 65 536 MiB: 16 of them; 1000 vCPUs on 64 each: 16.
    assert_eq!(
        (
            report.sizing.hosts,
            report.sizing.hosts_with_spare,
            report.sizing.too_large
        ),
        (16, 17, 0)
    );
    let planned: u32 = report.waves.iter().map(|wave| wave.guests).sum();
    assert_eq!((planned, report.waves.len()), (500, 25));
    assert_eq!(report.waves.iter().map(|wave| wave.blocked).sum::<u32>(), 10);
    assert_eq!(
        report.waves.last().map(|wave| wave.blocked),
        Some(10),
        "what is blocked goes last"
    );
    let suspended = report
        .risks
        .iter()
        .find(|risk| risk.id == "vm.suspended")
        .expect("a risk");
    assert_eq!(suspended.guests, 10);
    assert!(
        report
            .guests
            .iter()
            .all(|guest| guest.uuid.as_ref().is_some_and(|uuid| uuid.starts_with("564d")))
    );
}

#[test]
fn guests_larger_than_a_host_are_counted_apart_and_a_fleet_is_filled_whole() {
    let folder = tempfile::tempdir().expect("temporary folder");
    for (name, vcpus, memory) in [("big", 8, 40_960), ("mid", 4, 20_480), ("small", 2, 10_240)] {
        let text = format!(
            "displayName = \"{name}\"\nguestOS = \"debian12-64\"\nmemSize = \"{memory}\"\nnumvcpus = \"{vcpus}\"\n"
        );
        std::fs::write(folder.path().join(format!("{name}.vmx")), text).expect("file");
    }
    let options = AssessOptions {
        host_cores: 8,
        host_memory_mib: 32_768,
        fleet: vec![(8, 49_152), (8, 32_768)],
        ..AssessOptions::default()
    };
    let sizing = judged(&[folder.path().to_owned()], &options).sizing;
    assert_eq!(
        (sizing.hosts, sizing.too_large),
        (1, 1),
        "20 and 10 GiB share a host of 32"
    );
    let fleet = sizing.fleet.expect("a fleet was given");
    assert_eq!(
        (fleet.memory_mib, fleet.unplaced, fleet.unplaced_with_spare),
        (81_920, 0, 1)
    );
}

/// A workbook as RVTools writes it, as far as it is read.
fn workbook(path: &std::path::Path) {
    let mut book = rust_xlsxwriter::Workbook::new();
    let mut tab = |name: &str, rows: &[&[&str]]| {
        let sheet = book.add_worksheet();
        sheet.set_name(name).expect("a name");
        for (row, cells) in (0_u32..).zip(rows) {
            for (column, cell) in (0_u16..).zip(cells.iter()) {
                match cell.parse::<f64>() {
                    Ok(number) => sheet.write_number(row, column, number).expect("writes"),
                    Err(_) => sheet.write_string(row, column, *cell).expect("writes"),
                };
            }
        }
    };
    tab("vSource", &[&["Name"], &["vcenter"]]);
    tab(
        "vInfo",
        &[
            &[
                "VM",
                "Powerstate",
                "Template",
                "CPUs",
                "Memory",
                "NICs",
                "Disks",
                "Provisioned MiB",
                "In Use MiB",
                "Network #1",
                "Firmware",
                "EFI Secure boot",
                "HW version",
                "EnableUUID",
                "OS according to the configuration file",
                "VM ID",
                "SMBIOS UUID",
            ],
            &[
                "db1",
                "poweredOn",
                "False",
                "4",
                "8192",
                "1",
                "2",
                "204800",
                "51200",
                "LAN",
                "efi",
                "True",
                "19",
                "True",
                "Debian 12",
                "vm-1",
                "564d0000-0000-0000-0000-000000000001",
            ],
            &[
                "db2",
                "suspended",
                "False",
                "2",
                "4096",
                "1",
                "1",
                "1024",
                "512",
                "LAN",
                "bios",
                "False",
                "vmx-13",
                "",
                "Windows",
                "vm-2",
                "564d0000-0000-0000-0000-000000000002",
            ],
            &[
                "files",
                "poweredOff",
                "False",
                "2",
                "4096",
                "1",
                "1",
                "1024",
                "512",
                "DMZ",
                "bios",
                "False",
                "13",
                "",
                "Linux",
                "vm-3",
                "564d1234-5678-9abc-def0-123456789abc",
            ],
            &["", "", "", "", "", "", "", "", "", "", "", "", "", "", "", "", ""],
            &[
                "bad",
                "poweredOn",
                "False",
                "many",
                "",
                "",
                "",
                "",
                "",
                "",
                "",
                "",
                "",
                "",
                "",
                "vm-4",
                "",
            ],
        ],
    );
    tab(
        "vDisk",
        &[
            &[
                "VM",
                "Disk",
                "Capacity MiB",
                "Raw",
                "Disk Mode",
                "Sharing mode",
                "Shared Bus",
                "Controller",
                "Raw Comp. Mode",
                "VM ID",
            ],
            &[
                "db1",
                "Hard disk 1",
                "102400",
                "False",
                "persistent",
                "sharingNone",
                "noSharing",
                "VMware paravirtual SCSI",
                "",
                "vm-1",
            ],
            &[
                "db1",
                "Hard disk 2",
                "512000",
                "True",
                "independent_persistent",
                "sharingMultiWriter",
                "noSharing",
                "NVME controller",
                "physicalMode",
                "vm-1",
            ],
        ],
    );
    tab(
        "vNetwork",
        &[
            &["VM", "NIC label", "Adapter", "Network", "Starts Connected", "VM ID"],
            &["db1", "Network adapter 1", "Vmxnet3", "LAN", "True", "vm-1"],
            &["db2", "Network adapter 1", "Flexible", "Storage", "False", "vm-2"],
        ],
    );
    tab(
        "vSnapshot",
        &[
            &["VM", "Name", "VM ID"],
            &["db2", "a", "vm-2"],
            &["db2", "b", "vm-2"],
            &["db2", "c", "vm-2"],
            &["db2", "d", "vm-2"],
        ],
    );
    book.save(path).expect("saved");
}

#[test]
fn a_workbook_of_rvtools_is_read_with_its_further_tabs() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let path = folder.path().join("RVTools_export.xlsx");
    workbook(&path);
    let report = judged(&[path], &AssessOptions::default());
    let names: Vec<&str> = report.guests.iter().map(|guest| guest.name.as_str()).collect();
    assert_eq!(names, ["db1", "db2", "files", "bad"]);
    let ids = |number: usize| -> std::collections::BTreeSet<&str> {
        report.guests[number]
            .findings
            .iter()
            .map(|finding| finding.id.as_str())
            .collect()
    };
    let db1 = &report.guests[0];
    assert_eq!(
        (db1.vcpus, db1.memory_mib, db1.disks, db1.hw_version),
        (4, 8192, 2, Some(19))
    );
    assert_eq!(
        (db1.capacity_bytes, db1.largest_disk_bytes),
        (614_400 << 20, 512_000 << 20)
    );
    assert_eq!(db1.allocated_bytes, 51_200 << 20);
    assert_eq!((db1.firmware.as_str(), db1.verdict), ("uefi", EstateVerdict::Blocked));
    for id in [
        "disk.rdm-physical",
        "disk.shared",
        "disk.independent-persistent",
        "nvme.not-native",
        "firmware.nvram-lost",
        "secureboot.enabled",
        "disk.enable-uuid",
        "vm.sheet-only",
    ] {
        assert!(ids(0).contains(id), "{id} in {:?}", ids(0));
    }
    let db2 = &report.guests[1];
    assert_eq!(db2.networks, ["LAN", "Storage"]);
    assert_eq!((db2.hw_version, db2.capacity_bytes), (Some(13), 1024 << 20));
    for id in [
        "vm.suspended",
        "nic.model-obsolete",
        "nic.start-disconnected",
        "snapshot.present",
        "snapshot.many",
    ] {
        assert!(ids(1).contains(id), "{id} in {:?}", ids(1));
    }
    assert_eq!(
        report.guests[2].verdict,
        EstateVerdict::Attention,
        "a sheet alone never calls a guest ready"
    );
    assert_eq!(report.guests[3].verdict, EstateVerdict::Unreadable);
    assert!(
        report.guests[3].source.ends_with("row 6"),
        "{}",
        report.guests[3].source
    );
}

#[test]
fn a_guest_in_a_sheet_and_in_files_counts_once() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let path = folder.path().join("RVTools_export.xlsx");
    workbook(&path);
    // Another name, the same UUID; and the same name without a UUID.
    let text = "displayName = \"renamed\"\nguestOS = \"debian12-64\"\nmemSize = \"4096\"\nuuid.bios = \"56 4d 12 34 56 78 9a bc-de f0 12 34 56 78 9a bc\"\n";
    std::fs::write(folder.path().join("renamed.vmx"), text).expect("file");
    std::fs::write(
        folder.path().join("db2.vmx"),
        "displayName = \"DB2\"\nguestOS = \"debian12-64\"\nmemSize = \"4096\"\n",
    )
    .expect("file");
    let report = judged(&[path, folder.path().to_owned()], &AssessOptions::default());
    let names: Vec<&str> = report.guests.iter().map(|guest| guest.name.as_str()).collect();
    assert_eq!(names, ["DB2", "renamed", "db1", "bad"]);
    assert!(report.guests[1].source.contains("renamed.vmx; ") && report.guests[1].source.ends_with("row 4"));
    assert_eq!(report.memory_mib, 8192 + 4096 + 4096);
}

#[test]
fn tabs_as_csv_beside_each_other_are_read_together() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).expect("file");
    write("RVTools_tabvInfo.csv", "VM,CPUs,Memory,VM ID\na,2,\"1,024\",vm-1\n");
    write(
        "RVTools_tabvDisk.csv",
        "VM,Disk,Capacity MiB,VM ID\na,Hard disk 1,\"2,048\",vm-1\na,Hard disk 2,10,vm-1\nb,Hard disk 1,5,vm-2\n",
    );
    let report = judged(&[folder.path().join("RVTools_tabvInfo.csv")], &AssessOptions::default());
    assert_eq!(report.guests.len(), 1);
    assert_eq!(
        (report.guests[0].disks, report.guests[0].capacity_bytes),
        (2, 2058 << 20)
    );
    write("other.csv", "a,b\n1,2\n");
    let report = judged(&[folder.path().join("other.csv")], &AssessOptions::default());
    assert!(
        report.guests[0]
            .error
            .as_ref()
            .is_some_and(|error| error.contains("vInfo")),
        "{:?}",
        report.guests[0].error
    );
}

#[test]
fn a_cancelled_assessment_returns_what_it_has() {
    let folder = tempfile::tempdir().expect("temporary folder");
    for number in 0..5 {
        std::fs::write(
            folder.path().join(format!("{number}.vmx")),
            "displayName = \"x\"\nmemSize = \"4\"\n",
        )
        .expect("file");
    }
    let cancel = AtomicBool::new(false);
    let mut on_guest = |_: &mut reports::schema::EstateGuest, _: Option<&esxodus_convert::machine::Machine>| {
        cancel.store(true, std::sync::atomic::Ordering::Relaxed);
    };
    let report = assess(
        &[folder.path().to_owned()],
        &AssessOptions::default(),
        "test",
        &mut on_guest,
        &cancel,
    );
    assert_eq!(report.guests.len(), 1);
}
