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
