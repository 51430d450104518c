//! On XFS the target shares the source's extents.

use crate::sources::TestSource;
use crate::support::*;
use convert::copy::{ConvertError, CopyOptions, Reflink, TargetFormat};
use std::path::Path;
use std::process::Command;

fn run(program: &str, arguments: &[&str]) -> bool {
    Command::new(program)
        .args(arguments)
        .output()
        .is_ok_and(|output| output.status.success())
}

fn free(path: &Path) -> u64 {
    let facts = rustix::fs::statvfs(path).unwrap();
    facts.f_bavail * facts.f_frsize
}

#[test]
fn sparse_and_flat_disks_are_shared_and_stay_identical() {
    if !have_qemu_img() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let image = folder.path().join("xfs");
    std::fs::File::create(&image).unwrap().set_len(600 << 20).unwrap();
    let mounted = folder.path().join("mounted");
    std::fs::create_dir(&mounted).unwrap();
    let (image, place) = (image.to_str().unwrap(), mounted.to_str().unwrap());
    if !run("mkfs.xfs", &["-q", "-m", "reflink=1", image]) || !run("mount", &["-o", "loop", image, place]) {
        println!("SKIP: making and mounting an XFS in a file needs root, xfsprogs and loop devices");
        return;
    }
    let result = std::panic::catch_unwind(|| {
        let raw = mounted.join("disk.raw");
        std::fs::write(&raw, text(1, (60 << 20) + 512)).unwrap();
        let sparse = vmdk(&raw, "monolithicSparse");
        run("sync", &[]);
        for hash in [true, false] {
            for (format, source) in [
                (TargetFormat::Qcow2, TestSource::sparse(&sparse)),
                (TargetFormat::Qcow2, TestSource::raw(&raw)),
                (TargetFormat::Raw, TestSource::sparse(&sparse)),
            ] {
                let target = mounted.join("out");
                let before = free(&mounted);
                let options = CopyOptions {
                    format,
                    hash,
                    sync: true,
                    reflink: Reflink::Always,
                    ..options()
                };
                let manifest = convert(&source, &target, &options).unwrap();
                assert_eq!(manifest.mode, "reflink");
                let taken = before.saturating_sub(free(&mounted));
                assert!(taken < 10 << 20, "{taken} bytes were taken by a copy of 60 MiB");
                if format == TargetFormat::Raw {
                    assert!(std::fs::read(&target).unwrap() == std::fs::read(&raw).unwrap());
                } else {
                    assert_sound(&target, &raw, "shared");
                }
                std::fs::remove_file(&target).unwrap();
            }
        }
        // The other file system cannot share: automatic copies, demanded fails.
        let outside = folder.path().join("out.qcow2");
        let source = TestSource::raw(&raw);
        let demanded = CopyOptions {
            reflink: Reflink::Always,
            ..options()
        };
        let error = convert(&source, &outside, &demanded).unwrap_err();
        assert!(matches!(error, ConvertError::Reflink { .. }), "{error}");
        assert_eq!(convert(&source, &outside, &options()).unwrap().mode, "copy");
    });
    assert!(run("umount", &[place]));
    if let Err(panic) = result {
        std::panic::resume_unwind(panic);
    }
}
