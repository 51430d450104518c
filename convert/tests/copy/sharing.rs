//! On XFS the target shares the source's extents.

use crate::sources::TestSource;
use crate::support::*;
use convert::copy::{ConvertError, CopyOptions, Reflink, TargetFormat};
use std::path::{Path, PathBuf};
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

/// An XFS in a file, mounted; unmounted when dropped. `None` where that can't be made, with the reason printed.
struct Xfs {
    folder: tempfile::TempDir,
    mounted: PathBuf,
}

impl Xfs {
    fn make(options: &str) -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let image = folder.path().join("xfs");
        std::fs::File::create(&image).unwrap().set_len(600 << 20).unwrap();
        let mounted = folder.path().join("mounted");
        std::fs::create_dir(&mounted).unwrap();
        let (image, place) = (image.to_str().unwrap(), mounted.to_str().unwrap());
        if !run("mkfs.xfs", &["-q", "-m", options, image]) || !run("mount", &["-o", "loop", image, place]) {
            println!("SKIP: making and mounting an XFS in a file needs root, xfsprogs and loop devices");
            return None;
        }
        Some(Self { folder, mounted })
    }
}

impl Drop for Xfs {
    fn drop(&mut self) {
        let gone = run("umount", &[self.mounted.to_str().unwrap()]);
        assert!(gone || std::thread::panicking());
    }
}

/// `copy_file_range` copies there without a word: nothing of it may be called shared.
#[test]
fn an_xfs_made_without_sharing_copies_and_refuses_where_sharing_is_demanded() {
    let Some(xfs) = Xfs::make("reflink=0") else { return };
    let raw = xfs.mounted.join("disk.raw");
    std::fs::write(&raw, text(1, 8 << 20)).unwrap();
    let source = TestSource::raw(&raw);
    let target = xfs.mounted.join("out.qcow2");
    let demanded = CopyOptions {
        reflink: Reflink::Always,
        ..options()
    };
    let error = convert(&source, &target, &demanded).unwrap_err();
    assert!(matches!(error, ConvertError::Reflink { .. }), "{error}");
    assert!(!target.exists());
    let manifest = convert(&source, &target, &options()).unwrap();
    assert_eq!(
        (manifest.mode.as_str(), manifest.notes.len()),
        ("copy", 0),
        "{:?}",
        manifest.notes
    );
}

/// Zeros that the source stores are left out of the tables either way.
#[test]
fn a_shared_image_has_the_bytes_of_a_copied_one() {
    let Some(xfs) = Xfs::make("reflink=1") else { return };
    let raw = xfs.mounted.join("disk.raw");
    let mut bytes = text(1, 24 << 20);
    bytes[3 << 20..9 << 20].fill(0);
    std::fs::write(&raw, bytes).unwrap();
    run("sync", &[]);
    let source = TestSource::raw(&raw);
    let (shared, copied) = (xfs.mounted.join("shared.qcow2"), xfs.folder.path().join("copied.qcow2"));
    assert_eq!(convert(&source, &shared, &options()).unwrap().mode, "reflink");
    assert_eq!(convert(&source, &copied, &options()).unwrap().mode, "copy");
    assert!(std::fs::read(&shared).unwrap() == std::fs::read(&copied).unwrap());
}

#[test]
fn sparse_and_flat_disks_are_shared_and_stay_identical() {
    if !have_qemu_img() {
        return;
    }
    let Some(xfs) = Xfs::make("reflink=1") else { return };
    let (folder, mounted) = (xfs.folder.path(), xfs.mounted.clone());
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
    let outside = folder.join("out.qcow2");
    let source = TestSource::raw(&raw);
    let demanded = CopyOptions {
        reflink: Reflink::Always,
        ..options()
    };
    let error = convert(&source, &outside, &demanded).unwrap_err();
    assert!(matches!(error, ConvertError::Reflink { .. }), "{error}");
    assert_eq!(convert(&source, &outside, &options()).unwrap().mode, "copy");
}
