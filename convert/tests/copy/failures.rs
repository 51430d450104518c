//! What goes wrong is said clearly, and nothing stands under the final name.

use crate::sources::TestSource;
use crate::support::*;
use convert::copy::{Compress, ConvertError, CopyOptions, Reflink, TargetFormat, convert_disk};
use convert::progress::{Progress, Silent};
use std::os::unix::fs::FileExt as _;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};

/// Does something once the conversion has begun.
struct OnBegin<F: Fn() + Send + Sync>(F);

impl<F: Fn() + Send + Sync> Progress for OnBegin<F> {
    fn begin(&self, _what: &str, _total: u64) {
        (self.0)();
    }
    fn advance(&self, _what: &str, _bytes: u64) {}
    fn end(&self, _what: &str) {}
}

#[test]
fn an_existing_target_is_never_overwritten() {
    let folder = tempfile::tempdir().unwrap();
    let raw = folder.path().join("disk.raw");
    mixed(&raw, 1 << 20);
    let target = folder.path().join("out.qcow2");
    std::fs::write(&target, "precious").unwrap();
    for resume in [false, true] {
        let error = convert(&TestSource::raw(&raw), &target, &CopyOptions { resume, ..options() }).unwrap_err();
        assert!(matches!(error, ConvertError::TargetExists { .. }), "{error}");
    }
    assert_eq!(std::fs::read(&target).unwrap(), b"precious");
}

#[test]
fn a_source_that_changes_is_refused_and_leaves_nothing() {
    for compress in [Compress::None, Compress::Zstd { level: 1 }] {
        let folder = tempfile::tempdir().unwrap();
        let raw = folder.path().join("disk.raw");
        mixed(&raw, 20 << 20);
        let source = TestSource::raw(&raw);
        let target = folder.path().join("out.qcow2");
        let change = OnBegin(|| {
            let file = std::fs::File::options().write(true).open(&raw).unwrap();
            file.write_all_at(b"changed", 1000).unwrap();
        });
        let options = CopyOptions { compress, ..options() };
        let error = convert_disk(&source, &target, "disk", &options, &change, &AtomicBool::new(false)).unwrap_err();
        assert!(matches!(error, ConvertError::SourceChanged { .. }), "{error}");
        assert_eq!(
            std::fs::read_dir(folder.path()).unwrap().count(),
            1,
            "only the source is there"
        );
    }
}

/// What was read is right, but nobody can compare it with its source again.
#[test]
fn a_source_that_is_removed_or_replaced_while_it_is_read_is_refused() {
    for replace in [false, true] {
        let folder = tempfile::tempdir().unwrap();
        let raw = folder.path().join("disk.raw");
        mixed(&raw, 4 << 20);
        let source = TestSource::raw(&raw);
        let target = folder.path().join("out.qcow2");
        let change = OnBegin(|| {
            if replace {
                let other = folder.path().join("other");
                std::fs::copy(&raw, &other).unwrap();
                std::fs::rename(&other, &raw).unwrap();
            } else {
                std::fs::remove_file(&raw).unwrap();
            }
        });
        let error = convert_disk(&source, &target, "disk", &options(), &change, &AtomicBool::new(false)).unwrap_err();
        assert!(matches!(error, ConvertError::SourceChanged { .. }), "{error}");
        assert!(!target.exists());
    }
}

#[test]
fn a_source_that_shrinks_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let raw = folder.path().join("disk.raw");
    mixed(&raw, 20 << 20);
    let source = TestSource::raw(&raw);
    let target = folder.path().join("out.qcow2");
    let cut = OnBegin(|| {
        std::fs::File::options()
            .write(true)
            .open(&raw)
            .unwrap()
            .set_len(1 << 20)
            .unwrap();
    });
    let error = convert_disk(&source, &target, "disk", &options(), &cut, &AtomicBool::new(false)).unwrap_err();
    assert!(matches!(error, ConvertError::SourceChanged { .. }), "{error}");
    assert!(!target.exists());
}

#[test]
fn a_damaged_grain_is_named_with_file_and_offset() {
    if !have_qemu_img() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let raw = folder.path().join("disk.raw");
    mixed(&raw, 8 << 20);
    let stream = vmdk(&raw, "streamOptimized");
    let (offset, length) = TestSource::stream(&stream).a_grain();
    let file = std::fs::File::options().write(true).open(&stream).unwrap();
    // The last byte of the Adler-32.
    file.write_all_at(&[0xee], offset + u64::from(length) - 1).unwrap();
    drop(file);
    let source = TestSource::stream(&stream);
    for compress in [
        Compress::None,
        Compress::Zstd { level: 1 },
        Compress::Keep { trust: false },
    ] {
        let target = folder.path().join("out.qcow2");
        let error = convert(&source, &target, &CopyOptions { compress, ..options() })
            .unwrap_err()
            .to_string();
        assert!(
            error.contains(&format!("at byte {offset}")) && error.contains("streamOptimized.vmdk"),
            "{error}"
        );
        assert!(!target.exists());
    }
}

#[test]
fn contradicting_options_are_refused_before_anything_is_written() {
    let folder = tempfile::tempdir().unwrap();
    let raw = folder.path().join("disk.raw");
    mixed(&raw, 1 << 20);
    let source = TestSource::raw(&raw);
    let target = folder.path().join("out");
    let base = options();
    for bad in [
        CopyOptions {
            format: TargetFormat::Raw,
            compress: Compress::Zlib,
            ..base.clone()
        },
        CopyOptions {
            data_file: true,
            compress: Compress::Zlib,
            ..base.clone()
        },
        CopyOptions {
            cluster_bytes: Some(100_000),
            ..base.clone()
        },
        CopyOptions {
            compress: Compress::Zstd { level: 40 },
            ..base.clone()
        },
        CopyOptions {
            compress: Compress::Zlib,
            reflink: Reflink::Always,
            ..base.clone()
        },
    ] {
        assert!(convert(&source, &target, &bad).is_err());
        assert!(!target.exists());
    }
}

#[test]
fn stopping_is_quick_and_can_be_resumed() {
    let folder = tempfile::tempdir().unwrap();
    let raw = folder.path().join("disk.raw");
    mixed(&raw, 40 << 20);
    let source = TestSource::raw(&raw);
    let target = folder.path().join("out.qcow2");
    let cancel = AtomicBool::new(false);
    // Slow enough that it cannot finish, whatever the machine.
    let slow = CopyOptions {
        bwlimit: Some(1 << 20),
        ..options()
    };
    let error = std::thread::scope(|scope| {
        scope.spawn(|| {
            std::thread::sleep(std::time::Duration::from_millis(300));
            cancel.store(true, Ordering::Relaxed);
        });
        convert_disk(&source, &target, "disk", &slow, &Silent, &cancel).unwrap_err()
    });
    assert!(matches!(error, ConvertError::Cancelled { .. }), "{error}");
    assert!(!target.exists());
    convert(
        &source,
        &target,
        &CopyOptions {
            resume: true,
            ..options()
        },
    )
    .unwrap();
    let whole = folder.path().join("whole.qcow2");
    convert(&source, &whole, &options()).unwrap();
    assert!(std::fs::read(&target).unwrap() == std::fs::read(&whole).unwrap());
}

#[test]
fn a_full_disk_is_named_with_what_is_needed_and_resumes_once_there_is_room() {
    let folder = tempfile::tempdir().unwrap();
    let small = folder.path().join("small");
    std::fs::create_dir(&small).unwrap();
    let mount = |option: &str| {
        Command::new("mount")
            .args(["-t", "tmpfs", "-o", option, "tmpfs"])
            .arg(&small)
            .output()
            .is_ok_and(|output| output.status.success())
    };
    if !mount("size=3m") {
        println!("SKIP: mounting a small tmpfs needs root");
        return;
    }
    let result = std::panic::catch_unwind(|| {
        let raw = folder.path().join("disk.raw");
        mixed(&raw, 90 << 20);
        let source = TestSource::raw(&raw);
        for compress in [Compress::None, Compress::Zlib] {
            let target = small.join("out.qcow2");
            let error = convert(&source, &target, &CopyOptions { compress, ..options() }).unwrap_err();
            let ConvertError::NoSpace { needed, .. } = &error else {
                panic!("{error}");
            };
            assert!(
                needed.is_some_and(|bytes| bytes > 0) && error.to_string().contains("more are needed"),
                "{error}"
            );
            assert!(!target.exists());
            assert!(mount("remount,size=200m"));
            convert(
                &source,
                &target,
                &CopyOptions {
                    compress,
                    resume: true,
                    ..options()
                },
            )
            .unwrap();
            let whole = folder.path().join("whole.qcow2");
            convert(&source, &whole, &CopyOptions { compress, ..options() }).unwrap();
            assert!(std::fs::read(&target).unwrap() == std::fs::read(&whole).unwrap());
            std::fs::remove_file(&target).unwrap();
            std::fs::remove_file(&whole).unwrap();
            assert!(mount("remount,size=3m"));
        }
    });
    let unmounted = Command::new("umount").arg(&small).status().unwrap().success();
    if let Err(panic) = result {
        std::panic::resume_unwind(panic);
    }
    assert!(unmounted);
}
