//! `createType` is a label: what is in the extents is read alike under every name that is in use.

use std::path::Path;

use convert::image::ImageErrorKind;

use crate::fixtures::{Grain, content, descriptor, hosted, open_file, pattern};

const GRAIN: usize = 65_536;

fn labelled(folder: &Path, label: &str, lines: &[&str]) -> std::path::PathBuf {
    let lines: Vec<String> = lines.iter().map(|line| (*line).to_owned()).collect();
    let path = folder.join("disk.vmdk");
    std::fs::write(&path, descriptor(1, None, label, &lines)).expect("write");
    path
}

#[test]
fn flat_disks_read_alike_under_every_label() {
    let folder = tempfile::tempdir().expect("folder");
    let (one, two) = (pattern(1, 128 * 512), pattern(2, 64 * 512));
    std::fs::write(folder.path().join("disk-f001.vmdk"), &one).expect("write");
    std::fs::write(folder.path().join("disk-f002.vmdk"), &two).expect("write");
    let wanted = [one, two].concat();
    for label in [
        "monolithicFlat",
        "twoGbMaxExtentFlat",
        "2GbMaxExtentFlat",
        "2gbmaxextentflat",
        "vmfs",
        "vmfsThin",
        "vmfsEager",
        "vmfsEagerZeroedThick",
        "vmfsPreallocated",
        "vmfsThick",
        "custom",
        "",
    ] {
        for (first, second) in [
            ("RW 128 FLAT \"disk-f001.vmdk\" 0", "RW 64 FLAT \"disk-f002.vmdk\" 0"),
            ("RW 128 VMFS \"disk-f001.vmdk\"", "RW 64 VMFS \"disk-f002.vmdk\""),
        ] {
            let disk = open_file(&labelled(folder.path(), label, &[first, second])).expect(label);
            assert!(content(&*disk) == wanted, "{label}: the content differs");
            assert_eq!(disk.notes(), Vec::<String>::new(), "{label}");
            let told = disk.facts().links[0].create_type.clone();
            assert_eq!(told.as_deref(), Some(label), "the label is kept as it stands");
        }
    }
}

#[test]
fn split_sparse_disks_read_alike_under_both_spellings() {
    let folder = tempfile::tempdir().expect("folder");
    let (one, two) = (pattern(1, GRAIN), pattern(2, GRAIN));
    for (name, data) in [("disk-s001.vmdk", &one), ("disk-s002.vmdk", &two)] {
        let part = hosted(128, &[Grain::Data(data.clone())], None);
        std::fs::write(folder.path().join(name), part).expect("write");
    }
    let wanted = [one, two].concat();
    for label in ["twoGbMaxExtentSparse", "2GbMaxExtentSparse"] {
        let lines = ["RW 128 SPARSE \"disk-s001.vmdk\"", "RW 128 SPARSE \"disk-s002.vmdk\""];
        let disk = open_file(&labelled(folder.path(), label, &lines)).expect(label);
        assert!(content(&*disk) == wanted, "{label}: the content differs");
        assert_eq!(disk.notes(), Vec::<String>::new(), "{label}");
        let part = open_file(&folder.path().join("disk-s001.vmdk"))
            .map(|_| ())
            .expect_err("one part of two");
        assert_eq!(part.kind, ImageErrorKind::Unsupported, "{part}");
    }
}

#[test]
fn device_disks_are_refused_for_their_devices_and_not_for_their_label() {
    let folder = tempfile::tempdir().expect("folder");
    std::fs::write(folder.path().join("disk-pt.vmdk"), pattern(1, 63 * 512)).expect("write");
    let table = "RW 63 FLAT \"disk-pt.vmdk\" 0";
    let cases: [(&str, &[&str]); 3] = [
        ("fullDevice", &["RW 100 FLAT \"/dev/sdb\" 0"]),
        (
            "partitionedDevice",
            &[table, "RW 100 FLAT \"/dev/sdb1\" 0", "RW 8 ZERO"],
        ),
        ("partitionedDevice", &[table, r#"RW 100 FLAT "\\.\PhysicalDrive1" 63"#]),
    ];
    for (label, lines) in cases {
        let error = open_file(&labelled(folder.path(), label, lines))
            .map(|_| ())
            .expect_err(label);
        assert_eq!(error.kind, ImageErrorKind::Unsupported, "{label}: {error}");
        let text = error.to_string();
        assert!(
            text.contains("device") && text.contains("Copy the device"),
            "{label}: {text}"
        );
    }
    // What VMware itself leaves of a partition that the guest may not see.
    for label in ["fullDevice", "partitionedDevice"] {
        let lines = [table, "NOACCESS 100 FLAT \"/dev/sdb1\" 0", "RW 8 ZERO"];
        let disk = open_file(&labelled(folder.path(), label, &lines)).expect(label);
        let mut wanted = pattern(1, 63 * 512);
        wanted.resize(171 * 512, 0);
        assert!(content(&*disk) == wanted, "{label}: the content differs");
    }
}
