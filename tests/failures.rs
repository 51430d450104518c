//! What goes wrong at users' sites: the message names the file, the place and the next step; nothing appears under a
//! final name.

use crate::util::{esxodus, files, run, run_expecting, s, skip, text, tool, vmdk, vmx};
use std::process::Command;

#[test]
fn a_missing_extent_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let (_, disk) = vmdk(dir.path(), "disk", "monolithicFlat", 2);
    std::fs::remove_file(dir.path().join("disk-flat.vmdk")).unwrap();
    let out = dir.path().join("out");
    let (_, stderr) = run_expecting(2, &["convert", s(&disk), "-o", s(&out)]);
    assert!(stderr.contains("disk-flat.vmdk"), "{stderr}");
    assert!(!files(&out).iter().any(|file| file.ends_with(".qcow2")));
}

#[test]
fn a_truncated_stream_is_refused_with_the_offset_and_leaves_no_disk() {
    let dir = tempfile::tempdir().unwrap();
    let (_, disk) = vmdk(dir.path(), "disk", "streamOptimized", 8);
    let length = std::fs::metadata(&disk).unwrap().len();
    std::fs::OpenOptions::new()
        .write(true)
        .open(&disk)
        .unwrap()
        .set_len(length / 2)
        .unwrap();
    let out = dir.path().join("out");
    let (_, stderr) = run_expecting(2, &["convert", s(&disk), "-o", s(&out)]);
    assert!(stderr.contains("disk.vmdk") && stderr.contains("byte"), "{stderr}");
    assert!(!files(&out).iter().any(|file| file.ends_with(".qcow2")));
}

#[test]
fn a_vmx_that_names_a_disk_that_is_not_there_is_blocked_with_the_check_id() {
    let dir = tempfile::tempdir().unwrap();
    let machine = vmx(dir.path(), "web01", &["gone.vmdk"]);
    let (stdout, stderr) = run_expecting(1, &["inspect", s(&machine)]);
    assert!((stdout + &stderr).contains("disk.file-missing"));
    let output = run(&["convert", s(&machine), "-o", s(&dir.path().join("out"))]);
    assert!(matches!(output.status.code(), Some(1 | 2)));
    assert!(text(&output.stderr).contains("gone.vmdk"), "{}", text(&output.stderr));
}

#[test]
fn a_path_that_leaves_the_folder_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("vm")).unwrap();
    std::fs::write(dir.path().join("secret"), vec![7; 1 << 20]).unwrap();
    let disk = dir.path().join("vm/disk.vmdk");
    std::fs::write(&disk, "# Disk DescriptorFile\nversion=1\nCID=1\nparentCID=ffffffff\ncreateType=\"monolithicFlat\"\nRW 2048 FLAT \"../secret\" 0\n").unwrap();
    let (_, stderr) = run_expecting(2, &["convert", s(&disk), "-o", s(&dir.path().join("out"))]);
    assert!(
        stderr.contains("../secret") && stderr.contains("--allow-path"),
        "{stderr}"
    );
}

#[test]
fn a_full_target_says_so_and_leaves_no_disk_under_its_final_name() {
    let dir = tempfile::tempdir().unwrap();
    let small = dir.path().join("small");
    std::fs::create_dir(&small).unwrap();
    if !Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=2m", "tmpfs", s(&small)])
        .status()
        .is_ok_and(|status| status.success())
    {
        return skip("mounting a small tmpfs needs root");
    }
    let (_, disk) = vmdk(dir.path(), "disk", "monolithicSparse", 16);
    let output = run(&["convert", s(&disk), "-o", s(&small.join("out"))]);
    let left = files(&small);
    tool("umount", &[s(&small)]);
    assert_eq!(output.status.code(), Some(2), "{}", text(&output.stderr));
    assert!(
        text(&output.stderr).to_lowercase().contains("space"),
        "{}",
        text(&output.stderr)
    );
    assert!(!left.iter().any(|file| file.ends_with(".qcow2")), "{left:?}");
}

#[test]
fn an_existing_out_is_kept_and_the_message_says_what_to_add() {
    let dir = tempfile::tempdir().unwrap();
    let (_, disk) = vmdk(dir.path(), "disk", "monolithicSparse", 2);
    let out = dir.path().join("out");
    run_expecting(0, &["convert", s(&disk), "-o", s(&out)]);
    let before = std::fs::metadata(out.join("disks/disk.qcow2"))
        .unwrap()
        .modified()
        .unwrap();
    let (_, stderr) = run_expecting(2, &["convert", s(&disk), "-o", s(&out)]);
    assert!(stderr.contains("--resume"), "{stderr}");
    assert_eq!(
        std::fs::metadata(out.join("disks/disk.qcow2"))
            .unwrap()
            .modified()
            .unwrap(),
        before
    );

    let other = dir.path().join("other");
    std::fs::create_dir(&other).unwrap();
    std::fs::write(other.join("thesis.txt"), "years").unwrap();
    run_expecting(2, &["convert", s(&disk), "-o", s(&other)]);
    assert_eq!(files(&other), ["thesis.txt"]);
}

#[test]
fn without_dev_kvm_doctor_says_absent_and_what_runs_instead() {
    let script = "mount --bind /dev/null /dev/kvm && exec \"$0\" doctor --json";
    let mut command = Command::new("unshare");
    let program = esxodus().get_program().to_owned();
    let output = command.args(["-m", "sh", "-c", script]).arg(program).output();
    let Ok(output) = output else {
        return skip("unshare is missing");
    };
    if !std::path::Path::new("/dev/kvm").exists()
        || !output.status.success() && text(&output.stderr).contains("unshare")
    {
        return skip("needs /dev/kvm and the right to make a mount namespace");
    }
    let json: serde_json::Value =
        serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{e}: {}", text(&output.stderr)));
    assert_eq!(json["kvm"]["class"], "absent");
    assert!(
        json["choice"]["reason"]
            .as_str()
            .is_some_and(|reason| !reason.is_empty())
    );
}
