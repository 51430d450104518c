//! A disk on standard input: converted as it arrives, refused or salvaged where it is torn.

use crate::util::{esxodus, files, run_expecting, s, text, tool, vmdk};
use std::path::Path;
use std::process::{Command, Stdio};

const WAYS: [&[&str]; 4] = [
    &[],
    &["--compress", "keep"],
    &["--compress", "zstd", "--level", "1", "--cluster-size", "16K"],
    &["--format", "raw"],
];

/// The disk comes through a pipe: nothing is extracted, nothing is sought.
#[test]
fn a_stream_from_a_pipe_becomes_the_same_image_as_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let (raw, disk) = vmdk(folder.path(), "disk", "streamOptimized", 40);
    for (number, way) in WAYS.iter().enumerate() {
        let wanted = folder.path().join(format!("file{number}"));
        let mut args = vec!["convert", s(&disk), "-o", s(&wanted), "--target", "none"];
        args.extend(*way);
        run_expecting(0, &args);
        let out = folder.path().join(format!("piped{number}"));
        let mut feeder = Command::new("cat").arg(&disk).stdout(Stdio::piped()).spawn().unwrap();
        let result = esxodus()
            .args(["convert", "-", "-o", s(&out), "--json"])
            .args(*way)
            .stdin(feeder.stdout.take().unwrap())
            .output()
            .unwrap();
        feeder.wait().unwrap();
        assert_eq!(result.status.code(), Some(0), "{}", text(&result.stderr));
        let ending = if way.contains(&"raw") { "raw" } else { "qcow2" };
        let target = out.join(format!("disks/piped{number}.{ending}"));
        let same =
            std::fs::read(&target).unwrap() == std::fs::read(wanted.join(format!("disks/disk.{ending}"))).unwrap();
        assert!(same, "{way:?}");
        tool("qemu-img", &["compare", s(&raw), s(&target)]);
        run_expecting(0, &["verify", s(&out), "--against", s(&disk)]);
        assert!(out.join("targets/qemu.sh").is_file());
    }
}

#[test]
fn a_torn_or_foreign_stream_leaves_no_disk_and_salvage_keeps_what_is_whole() {
    let folder = tempfile::tempdir().unwrap();
    let (_, disk) = vmdk(folder.path(), "disk", "streamOptimized", 24);
    let bytes = std::fs::read(&disk).unwrap();
    let feed = |out: &Path, bytes: &[u8], more: &[&str]| {
        let file = folder.path().join("fed");
        std::fs::write(&file, bytes).unwrap();
        esxodus()
            .args(["convert", "-", "-o", s(out), "--json"])
            .args(more)
            .stdin(std::fs::File::open(file).unwrap())
            .output()
            .unwrap()
    };
    let torn = &bytes[..bytes.len() / 2];
    let out = folder.path().join("torn");
    let result = feed(&out, torn, &[]);
    assert_eq!(result.status.code(), Some(2), "{}", text(&result.stderr));
    assert!(
        text(&result.stderr).contains("standard input at byte"),
        "{}",
        text(&result.stderr)
    );
    assert!(files(&out.join("disks")).is_empty(), "{:?}", files(&out));

    let result = feed(&out, torn, &["--resume", "--salvage"]);
    assert_eq!(result.status.code(), Some(0), "{}", text(&result.stderr));
    assert!(text(&result.stdout).contains("salvage: "), "{}", text(&result.stdout));
    tool("qemu-img", &["check", s(&out.join("disks/torn.qcow2"))]);

    for foreign in [&b"hello"[..], &[0; 600_000]] {
        let result = feed(&folder.path().join("foreign"), foreign, &[]);
        assert_eq!(result.status.code(), Some(2));
    }
}
