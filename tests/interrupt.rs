//! Ctrl-C in the middle of a copy: stops soon, leaves nothing under a final name, and --resume finishes the work.

use crate::util::{esxodus, files, run_expecting, s, text, tool, vmdk};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

#[test]
fn ctrl_c_stops_the_copy_and_resume_completes_it() {
    let dir = tempfile::tempdir().unwrap();
    let (raw, disk) = vmdk(dir.path(), "disk", "monolithicSparse", 48);
    let out = dir.path().join("out");
    let child = esxodus()
        .args(["convert", s(&disk), "-o", s(&out), "--bwlimit", "8M"])
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let deadline = Instant::now() + Duration::from_secs(60);
    while !out.join("disks/disk.qcow2.partial").exists() && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(20));
    }
    std::thread::sleep(Duration::from_millis(500));
    assert!(
        Command::new("kill")
            .args(["-INT", &child.id().to_string()])
            .status()
            .unwrap()
            .success()
    );
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130), "{}", text(&output.stderr));
    assert!(text(&output.stderr).contains("--resume"));
    assert!(
        !files(&out).iter().any(|file| file.ends_with(".qcow2")),
        "{:?}",
        files(&out)
    );

    run_expecting(0, &["convert", s(&disk), "-o", s(&out), "--resume"]);
    tool("qemu-img", &["compare", s(&raw), s(&out.join("disks/disk.qcow2"))]);
    tool("qemu-img", &["check", s(&out.join("disks/disk.qcow2"))]);
    assert!(
        !files(&out).iter().any(|file| file.contains(".partial")),
        "{:?}",
        files(&out)
    );
}
