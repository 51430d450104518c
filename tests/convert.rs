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

/// What a look inside of a Linux guest would leave, with or without virtio in its initramfs.
fn looked_inside(out: &Path, ready: bool) {
    let facts = serde_json::json!({"systems": [{
        "device": "vda1", "kind": "linux", "name": "Debian GNU/Linux 12", "id": "debian", "version": "12",
        "kernels": [{"version": "6.1.0-42-amd64", "initramfs": "/boot/initrd.img-6.1.0-42-amd64", "boots_virtio_blk": ready,
                     "boots_virtio_scsi": ready}],
    }]});
    std::fs::write(out.join("deep.json"), facts.to_string()).unwrap();
}

#[test]
fn the_definitions_take_virtio_only_where_the_guest_is_known_to_drive_it() {
    let dir = tempfile::tempdir().unwrap();
    vmdk(dir.path(), "boot", "monolithicSparse", 2);
    // The source declares a Linux: that alone proves no driver.
    let machine = vmx(dir.path(), "web01", &["boot.vmdk"]);
    let out = dir.path().join("out");
    let config = || std::fs::read_to_string(out.join("targets/proxmox.conf")).unwrap();
    let accounted = || {
        let text = std::fs::read_to_string(out.join("accounting.json")).unwrap();
        let accounting: serde_json::Value = serde_json::from_str(&text).unwrap();
        let keys = accounting["keys"].as_array().unwrap();
        let key = keys.iter().find(|key| key["key"] == "scsi0:0.fileName").unwrap();
        key["targets"]["proxmox"].as_str().unwrap().to_owned()
    };
    let json = json_expecting(0, &["convert", s(&machine), "-o", s(&out)]);
    assert_eq!(json["hardware"]["virtio"], false, "{}", json["hardware"]);
    assert!(
        json["hardware"]["why"].as_str().unwrap().contains("esxodus fixup"),
        "{}",
        json["hardware"]
    );
    assert!(
        config().contains("\nsata0: ") && config().contains("net0: vmxnet3="),
        "{}",
        config()
    );
    assert_eq!(accounted(), "sata0:");

    for (ready, disk, nic) in [(false, "sata0:", "net0: vmxnet3="), (true, "scsi0:", "net0: virtio=")] {
        looked_inside(&out, ready);
        let json = json_expecting(0, &["convert", s(&machine), "-o", s(&out), "--resume"]);
        assert_eq!(json["hardware"]["virtio"], ready, "{}", json["hardware"]);
        assert!(
            config().contains(&format!("\n{disk} ")) && config().contains(nic),
            "{}",
            config()
        );
        assert_eq!(accounted(), disk);
    }
}

#[test]
fn a_map_places_networks_and_disks_and_what_it_lacks_is_said_with_what_to_add() {
    let dir = tempfile::tempdir().unwrap();
    vmdk(dir.path(), "boot", "monolithicSparse", 2);
    let machine = vmx(dir.path(), "web01", &["boot.vmdk"]);
    let (out, map) = (dir.path().join("out"), dir.path().join("map.toml"));
    let convert = |code: i32, more: &[&str]| {
        let mut args = vec![
            "convert",
            s(&machine),
            "-o",
            s(&out),
            "--resume",
            "--map",
            s(&map),
            "--target",
            "proxmox,libvirt",
        ];
        args.extend_from_slice(more);
        run_expecting(code, &args)
    };
    std::fs::write(&map, "[networks.DMZ]\nbridge = \"vmbr9\"\n").unwrap();
    let (_, stderr) = convert(2, &[]);
    assert!(
        stderr.contains("[networks.\"VM Network\"]") && stderr.contains("bridge ="),
        "{stderr}"
    );
    std::fs::write(&map, "[networks.\"VM Network\"]\nbrigde = \"vmbr7\"\n").unwrap();
    let (_, stderr) = convert(2, &[]);
    assert!(stderr.contains("map.toml") && stderr.contains("brigde"), "{stderr}");
    let good = "[networks.\"VM Network\"]\nbridge = \"vmbr7\"\nvlan = 42\n[guests.web01]\nname = \"web-new\"\nstorage = \"ceph\"\n";
    std::fs::write(&map, good).unwrap();
    let (stdout, _) = convert(
        0,
        &["--json", "--suppress", "nic.vlan-untagged=the bridge is in the VLAN"],
    );
    let json: serde_json::Value = serde_json::from_str(&stdout).unwrap();
    let findings = json["findings"].as_array().unwrap();
    let untagged = findings
        .iter()
        .find(|finding| finding["id"] == "nic.vlan-untagged")
        .unwrap();
    assert_eq!(untagged["suppressed"], "the bridge is in the VLAN");
    assert!(findings.iter().all(|finding| finding["id"] != "nic.network-default"));
    let config = std::fs::read_to_string(out.join("targets/proxmox.conf")).unwrap();
    for line in ["name: web-new", "bridge=vmbr7,tag=42", ": ceph:vm-100-disk-0,"] {
        assert!(config.contains(line), "{line}\n{config}");
    }
    assert!(!out.join("targets/qemu.sh").exists());
    let accounting = std::fs::read_to_string(out.join("accounting.json")).unwrap();
    assert!(accounting.contains("bridge=vmbr7,tag=42") && accounting.contains("name: web-new"));
    // Without a map the defaults are a warning, which may be suppressed as any other.
    let out = dir.path().join("plain");
    let json = json_expecting(
        0,
        &[
            "convert",
            s(&machine),
            "-o",
            s(&out),
            "--suppress",
            "nic.network-default=a lab",
        ],
    );
    let findings = json["findings"].as_array().unwrap();
    let default = findings
        .iter()
        .find(|finding| finding["id"] == "nic.network-default")
        .unwrap();
    assert_eq!(default["suppressed"], "a lab");
}

#[test]
fn an_estate_is_set_beside_a_map_and_the_targets_hosts() {
    let dir = tempfile::tempdir().unwrap();
    vmdk(dir.path(), "boot", "monolithicSparse", 2);
    vmx(dir.path(), "web01", &["boot.vmdk"]);
    let estate = dir.path().join("estate");
    std::fs::create_dir(&estate).unwrap();
    for name in ["boot.vmdk", "web01.vmx"] {
        std::fs::rename(dir.path().join(name), estate.join(name)).unwrap();
    }
    let (map, hosts) = (dir.path().join("map.toml"), dir.path().join("hosts.toml"));
    std::fs::write(&map, "[networks.DMZ]\nbridge = \"vmbr9\"\n").unwrap();
    let json = json_expecting(1, &["assess", s(&estate), "--map", s(&map), "--target", "proxmox"]);
    let findings = json["guests"][0]["findings"].as_array().unwrap();
    let unmapped = findings
        .iter()
        .find(|finding| finding["id"] == "nic.network-unmapped")
        .unwrap();
    assert!(
        unmapped["evidence"]
            .as_str()
            .unwrap()
            .contains("[networks.\"VM Network\"] bridge"),
        "{unmapped}"
    );
    std::fs::write(&map, "[networks.\"VM Network\"]\nbridge = \"vmbr9\"\n").unwrap();
    run_expecting(0, &["assess", s(&estate), "--map", s(&map), "--target", "proxmox"]);

    let host = |product: &str| {
        format!(
            "[[host]]\nname = \"pve1\"\nproduct = \"{product}\"\nversion = \"9.1\"\nlogical_cpus = 64\nmemory_gib = 512\n"
        )
    };
    std::fs::write(&hosts, host("Proxmox")).unwrap();
    let (_, stderr) = run_expecting(2, &["assess", s(&estate), "--target-host", s(&hosts)]);
    assert!(
        stderr.contains("hosts.toml:1") && stderr.contains("\"Proxmox VE\""),
        "{stderr}"
    );
    std::fs::write(&hosts, host("Proxmox VE")).unwrap();
    let (html, csv) = (dir.path().join("a.html"), dir.path().join("a.csv"));
    let json = json_expecting(
        0,
        &[
            "assess",
            s(&estate),
            "--target-host",
            s(&hosts),
            "--html",
            s(&html),
            "--csv",
            s(&csv),
        ],
    );
    assert_eq!(json["hosts"][0]["name"], "pve1");
    assert!(
        json["hosts"][0]["limits"]
            .as_array()
            .is_some_and(|limits| !limits.is_empty())
    );
    assert!(std::fs::read_to_string(&html).unwrap().contains("pve1"));
    assert!(std::fs::read_to_string(&csv).unwrap().contains("web01"));
}
