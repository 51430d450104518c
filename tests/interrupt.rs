//! Ctrl-C in the middle of a copy: stops soon, leaves nothing under a final name, and --resume finishes the work.

use crate::util::{esxodus, files, run_expecting, s, text, tool, vmdk};
use std::io::Write as _;
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

/// Whoever feeds the pipe stalls in the middle; a stop does not wait for him and promises no resume.
#[test]
fn ctrl_c_on_a_stalled_pipe_stops_at_once_and_leaves_no_disk() {
    let dir = tempfile::tempdir().unwrap();
    let (_, disk) = vmdk(dir.path(), "disk", "streamOptimized", 24);
    let bytes = std::fs::read(&disk).unwrap();
    let out = dir.path().join("out");
    let mut child = esxodus()
        .args(["convert", "-", "-o", s(&out)])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut feed = child.stdin.take().unwrap();
    feed.write_all(&bytes[..bytes.len() / 2]).unwrap();
    let deadline = Instant::now() + Duration::from_secs(60);
    while !out.join("disks/out.qcow2.partial").exists() && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(
        Command::new("kill")
            .args(["-INT", &child.id().to_string()])
            .status()
            .unwrap()
            .success()
    );
    // The pipe stays open: only the signal can have ended the work.
    let output = child.wait_with_output().unwrap();
    drop(feed);
    assert_eq!(output.status.code(), Some(130), "{}", text(&output.stderr));
    let said = text(&output.stderr);
    assert!(
        said.contains("nothing of the disk is kept") && !said.contains("--resume"),
        "{said}"
    );
    assert!(files(&out.join("disks")).is_empty(), "{:?}", files(&out));
}
