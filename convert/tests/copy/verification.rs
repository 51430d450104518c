//! Verification finds what differs and where.

use crate::sources::TestSource;
use crate::support::*;
use convert::copy::{Compress, CopyOptions, TargetFormat, VerifyOptions, hash_source, verify};
use convert::image::map::DiskSource;
use convert::image::qcow2::{DataFileRule, Qcow2Image};
use convert::progress::Silent;
use reports::schema::DiskManifest;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::atomic::AtomicBool;

fn check(target: &Path, manifest: &DiskManifest, against: Option<&dyn DiskSource>) -> convert::copy::VerifyOutcome {
    verify(
        target,
        manifest,
        against,
        VerifyOptions::default(),
        &Silent,
        &AtomicBool::new(false),
    )
    .unwrap()
}

#[test]
fn whatever_was_written_verifies() {
    let folder = tempfile::tempdir().unwrap();
    let raw = folder.path().join("disk.raw");
    mixed(&raw, (30 << 20) + 512);
    let source = TestSource::raw(&raw);
    for (format, compress) in [
        (TargetFormat::Raw, Compress::None),
        (TargetFormat::Qcow2, Compress::None),
        (TargetFormat::Qcow2, Compress::Zlib),
        (TargetFormat::Qcow2, Compress::Zstd { level: 3 }),
    ] {
        let target = folder.path().join("out");
        let manifest = convert(
            &source,
            &target,
            &CopyOptions {
                format,
                compress,
                ..options()
            },
        )
        .unwrap();
        let outcome = check(&target, &manifest, None);
        assert!(outcome.identical && outcome.hashed && outcome.first_difference.is_none());
        assert!(check(&target, &manifest, Some(&source)).identical);
        let own = hash_source(
            &source,
            "disk",
            VerifyOptions::default(),
            &Silent,
            &AtomicBool::new(false),
        )
        .unwrap();
        assert_eq!(Some(own), manifest.content);
        std::fs::remove_file(&target).unwrap();
    }
}

#[test]
fn a_changed_byte_is_named_by_its_leaf_and_exactly_against_the_source() {
    let folder = tempfile::tempdir().unwrap();
    let raw = folder.path().join("disk.raw");
    mixed(&raw, 30 << 20);
    let source = TestSource::raw(&raw);
    let target = folder.path().join("out.raw");
    let options = CopyOptions {
        format: TargetFormat::Raw,
        ..options()
    };
    let manifest = convert(&source, &target, &options).unwrap();
    let file = std::fs::File::options().write(true).open(&target).unwrap();
    for at in [17_654_321_u64, 20_000_000] {
        file.write_all_at(&[0x5a, 0xa5], at).unwrap();
    }
    let outcome = check(&target, &manifest, None);
    assert_eq!((outcome.identical, outcome.first_difference), (false, Some(16 << 20)));
    assert!(!outcome.exact && outcome.differing_leaves == 2);
    let outcome = check(&target, &manifest, Some(&source));
    assert_eq!((outcome.first_difference, outcome.exact), (Some(17_654_321), true));
}

/// 200 GiB: the manifest lists groups of leaves, and stays small.
#[test]
fn a_large_disk_is_listed_in_groups_and_a_changed_byte_is_named_by_its_group() {
    let folder = tempfile::tempdir().unwrap();
    let raw = folder.path().join("disk.raw");
    let file = std::fs::File::create(&raw).unwrap();
    file.set_len(200 << 30).unwrap();
    for gib in [0, 3, 77, 199] {
        for mib in [1, 2, 5] {
            file.write_all_at(b"there", (gib << 30) + (mib << 20) + 9).unwrap();
        }
    }
    let source = TestSource::raw(&raw);
    let target = folder.path().join("out.raw");
    let options = CopyOptions {
        format: TargetFormat::Raw,
        ..options()
    };
    let manifest = convert(&source, &target, &options).unwrap();
    let tree = manifest.content.as_ref().unwrap();
    assert_eq!((tree.leaf_bytes, tree.group_leaves), (1 << 20, 4));
    // MiB 1 and 2 share a group, MiB 5 has its own.
    assert_eq!(tree.leaves.len(), 8);
    assert!(check(&target, &manifest, Some(&source)).identical);
    let file = std::fs::File::options().write(true).open(&target).unwrap();
    let at = (77 << 30) + (2 << 20) + 10;
    file.write_all_at(b"X", at).unwrap();
    let outcome = check(&target, &manifest, None);
    assert_eq!(
        (
            outcome.first_difference,
            outcome.stretch_bytes,
            outcome.differing_leaves
        ),
        (Some(77 << 30), 4 << 20, 1)
    );
    let outcome = check(&target, &manifest, Some(&source));
    assert_eq!((outcome.first_difference, outcome.exact), (Some(at), true));
}

#[test]
fn a_lost_table_and_a_wrong_size_are_differences() {
    let folder = tempfile::tempdir().unwrap();
    let raw = folder.path().join("disk.raw");
    mixed(&raw, 30 << 20);
    let source = TestSource::raw(&raw);
    let target = folder.path().join("out.qcow2");
    let manifest = convert(&source, &target, &options()).unwrap();
    let other = DiskManifest {
        virtual_bytes: 31 << 20,
        ..manifest.clone()
    };
    assert!(!check(&target, &other, None).identical);
    // L1 gone: qemu-img check would find leaks only; the content is zeros.
    let l1 = Qcow2Image::open(&target, DataFileRule::Refuse)
        .unwrap()
        .header()
        .l1_offset;
    std::fs::File::options()
        .write(true)
        .open(&target)
        .unwrap()
        .write_all_at(&[0; 8], l1)
        .unwrap();
    let outcome = check(&target, &manifest, None);
    assert_eq!((outcome.identical, outcome.first_difference), (false, Some(0)));
}

#[test]
fn mutated_images_are_read_or_refused_but_never_panic() {
    let folder = tempfile::tempdir().unwrap();
    let raw = folder.path().join("disk.raw");
    mixed(&raw, 3 << 20);
    let target = folder.path().join("out.qcow2");
    for (compress, extended_l2) in [
        (Compress::None, false),
        (Compress::Zlib, true),
        (Compress::Zstd { level: 1 }, false),
    ] {
        let options = CopyOptions {
            compress,
            extended_l2,
            cluster_bytes: Some(16 << 10),
            ..options()
        };
        convert(&TestSource::raw(&raw), &target, &options).unwrap();
        let good = std::fs::read(&target).unwrap();
        std::fs::remove_file(&target).unwrap();
        let mutant = folder.path().join("mutant.qcow2");
        let mut buffer = vec![0; 256 << 10];
        for seed in 0..400 {
            let dice = noise(seed, 64);
            let mut bytes = good.clone();
            for pair in dice.chunks(8).take(1 + usize::from(dice[63] % 6)) {
                let mut at = usize::try_from(u32::from_le_bytes(pair[..4].try_into().unwrap())).unwrap() % bytes.len();
                // Most damage goes where structure is.
                at %= [bytes.len(), 160, 64 << 10][usize::from(pair[4] % 3)];
                bytes[at] = [pair[5], 0, 0xff, 0x80][usize::from(pair[6] % 4)];
            }
            std::fs::write(&mutant, &bytes).unwrap();
            let Ok(image) = Qcow2Image::open(&mutant, DataFileRule::Beside) else {
                continue;
            };
            let mut at = 0;
            while at < image.virtual_bytes().min(4 << 20) {
                let count = usize::try_from((image.virtual_bytes() - at).min(256 << 10)).unwrap();
                let _ = image.read_at(at, &mut buffer[..count]);
                let _ = image.map(at, u64::try_from(count).unwrap());
                at += 256 << 10;
            }
        }
    }
}

#[test]
fn a_data_file_elsewhere_is_not_opened() {
    let folder = tempfile::tempdir().unwrap();
    let (here, there) = (folder.path().join("here"), folder.path().join("there"));
    std::fs::create_dir(&here).unwrap();
    std::fs::create_dir(&there).unwrap();
    let raw = there.join("disk-flat.vmdk");
    mixed(&raw, 3 << 20);
    let source = TestSource::raw(&raw);
    let target = here.join("disk.qcow2");
    let manifest = convert(
        &source,
        &target,
        &CopyOptions {
            data_file: true,
            ..options()
        },
    )
    .unwrap();
    for rule in [DataFileRule::Refuse, DataFileRule::Beside, DataFileRule::Named(&target)] {
        assert!(Qcow2Image::open(&target, rule).is_err(), "{rule:?}");
    }
    assert!(Qcow2Image::open(&target, DataFileRule::Named(&raw)).is_ok());
    assert!(check(&target, &manifest, Some(&source)).identical);
}
