//! Conversion through the command line, judged by qemu-img.

use std::path::{Path, PathBuf};

use crate::util::{json_expecting, run_expecting, s, skip, tool, vmdk, vmx};

/// Every subformat that qemu-img writes, converted and compared with its own raw form.
#[test]
fn every_subformat_of_qemu_img_converts_to_the_same_content_and_a_clean_qcow2() {
    for subformat in [
        "monolithicSparse",
        "monolithicFlat",
        "twoGbMaxExtentSparse",
        "twoGbMaxExtentFlat",
        "streamOptimized",
    ] {
        let dir = tempfile::tempdir().unwrap();
        let (raw, disk) = vmdk(dir.path(), "disk", subformat, 9);
        let out = dir.path().join("out");
        run_expecting(0, &["convert", s(&disk), "-o", s(&out)]);
        let target = out.join("disks/disk.qcow2");
        tool(
            "qemu-img",
            &["compare", "-f", "raw", "-F", "qcow2", s(&raw), s(&target)],
        );
        tool("qemu-img", &["check", s(&target)]);
        run_expecting(0, &["verify", s(&out), "--against", s(&disk)]);
    }
}

#[test]
fn every_way_to_compress_gives_the_same_content() {
    let dir = tempfile::tempdir().unwrap();
    let (raw, disk) = vmdk(dir.path(), "disk", "streamOptimized", 9);
    let ways: [&[&str]; 9] = [
        &["--compress", "none"],
        &["--compress", "zstd"],
        &["--compress", "zlib"],
        &["--compress", "keep"],
        &["--compress", "keep", "--trust"],
        &["--format", "raw"],
        &["--preallocation", "metadata"],
        &["--extended-l2"],
        &["--cluster-size", "4K", "-j", "1"],
    ];
    for (number, way) in ways.iter().enumerate() {
        let out = dir.path().join(format!("out{number}"));
        let mut args = vec!["convert", s(&disk), "-o", s(&out)];
        args.extend_from_slice(way);
        run_expecting(0, &args);
        let target = out.join(if way.contains(&"raw") {
            "disks/disk.raw"
        } else {
            "disks/disk.qcow2"
        });
        tool("qemu-img", &["compare", s(&raw), s(&target)]);
        if !way.contains(&"raw") {
            tool("qemu-img", &["check", s(&target)]);
        }
    }
}

/// The guest's disk stays where it is: qcow2's tables alone are written, and every cluster is in them.
#[test]
fn a_data_file_leaves_the_flat_disk_where_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let (raw, disk) = vmdk(dir.path(), "disk", "monolithicFlat", 9);
    let out = dir.path().join("out");
    run_expecting(0, &["convert", s(&disk), "-o", s(&out), "--data-file"]);
    let target = out.join("disks/disk.qcow2");
    tool("qemu-img", &["compare", s(&raw), s(&target)]);
    tool("qemu-img", &["check", s(&target)]);
    assert!(target.metadata().unwrap().len() < 20 << 20);
    run_expecting(0, &["verify", s(&out), "--against", s(&disk)]);
    let (_, other) = vmdk(dir.path(), "other", "monolithicSparse", 2);
    let (_, stderr) = run_expecting(
        2,
        &["convert", s(&other), "-o", s(&dir.path().join("no")), "--data-file"],
    );
    assert!(stderr.contains("flat"), "{stderr}");
}

#[test]
fn a_guest_with_two_disks_gets_both_and_four_machine_definitions() {
    let dir = tempfile::tempdir().unwrap();
    let (boot, _) = vmdk(dir.path(), "boot", "streamOptimized", 4);
    let (data, _) = vmdk(dir.path(), "data", "monolithicSparse", 6);
    let machine = vmx(dir.path(), "web01", &["boot.vmdk", "data.vmdk"]);
    let out = dir.path().join("out");
    let json = json_expecting(0, &["convert", s(&machine), "-o", s(&out)]);
    assert_eq!(json["manifest"]["disks"].as_array().map(Vec::len), Some(2));
    tool("qemu-img", &["compare", s(&boot), s(&out.join("disks/boot.qcow2"))]);
    tool("qemu-img", &["compare", s(&data), s(&out.join("disks/data.qcow2"))]);
    for file in ["proxmox.conf", "libvirt.xml", "qemu.sh", "kubevirt.yaml"] {
        assert!(out.join("targets").join(file).is_file(), "{file} is missing");
    }
}

#[test]
fn verification_names_the_first_differing_place_and_ends_with_1() {
    let dir = tempfile::tempdir().unwrap();
    let (_, disk) = vmdk(dir.path(), "disk", "monolithicSparse", 8);
    let out = dir.path().join("out");
    run_expecting(0, &["convert", s(&disk), "-o", s(&out), "--format", "raw"]);
    let target = out.join("disks/disk.raw");
    let mut bytes = std::fs::read(&target).unwrap();
    bytes[5_308_416 + 17] ^= 1;
    std::fs::write(&target, bytes).unwrap();
    let (stdout, stderr) = run_expecting(1, &["verify", s(&out)]);
    assert!((stdout + &stderr).contains("5242880"), "the leaf at 5 MiB is named");
    let (stdout, stderr) = run_expecting(1, &["verify", s(&out), "--against", s(&disk)]);
    assert!((stdout + &stderr).contains("5308433"), "the byte is named");
}

/// The disk of a real export that was cut at 1 MiB: refused with the place, salvaged on request with what is lost.
#[test]
fn a_truncated_export_is_salvaged_only_on_request() {
    let beside = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/images");
    let samples = std::env::var_os("ESXODUS_SAMPLES").map_or(beside, PathBuf::from);
    let disk = samples.join("govmomi/ttylinux-pc_i486-16.1-disk1.vmdk");
    if !disk.exists() {
        return skip("the folder of sample images is not there (ESXODUS_SAMPLES)");
    }
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    let (_, stderr) = run_expecting(2, &["convert", s(&disk), "-o", s(&out)]);
    assert!(stderr.contains("1029120") && stderr.contains("salvage"), "{stderr}");
    for (number, way) in [
        &["--compress", "none"][..],
        &["--compress", "keep"],
        &["--format", "raw"],
    ]
    .iter()
    .enumerate()
    {
        let out = dir.path().join(format!("out{number}"));
        let mut args = vec!["convert", s(&disk), "-o", s(&out), "--salvage"];
        args.extend_from_slice(way);
        let json = json_expecting(0, &args);
        let told = &json["manifest"]["disks"][0]["notes"];
        assert!(told.to_string().contains("35 complete grains"), "{told}");
        let raw = dir.path().join("guest.raw");
        let target = out.join(json["manifest"]["disks"][0]["file"].as_str().unwrap());
        tool("qemu-img", &["convert", "-O", "raw", s(&target), s(&raw)]);
        let sum = tool("sha256sum", &[s(&raw)]);
        assert!(
            sum.starts_with("2c63e7cf6fe32afda311f280e353539418d8747eaf54fe26fbbece6655765cba"),
            "{sum}"
        );
        run_expecting(2, &["verify", s(&out), "--against", s(&disk)]);
        run_expecting(0, &["verify", s(&out), "--against", s(&disk), "--salvage"]);
    }
}
