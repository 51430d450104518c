//! What is written is what was read, in every format, and independent readers agree.

use crate::sources::TestSource;
use crate::support::*;
use convert::copy::{Compress, ConvertError, CopyOptions, DiskJob, Preallocation, TargetFormat, convert_disks};
use convert::image::map::DiskSource;
use convert::image::qcow2::{DataFileRule, Qcow2Image};
use convert::progress::Silent;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::atomic::AtomicBool;

const ZSTD: Compress = Compress::Zstd { level: 1 };
const KEEP: Compress = Compress::Keep { trust: false };

fn qcow2(compress: Compress, cluster_bytes: u64) -> CopyOptions {
    CopyOptions {
        compress,
        cluster_bytes: Some(cluster_bytes),
        ..options()
    }
}

/// Our own reader sees the raw file's content.
fn assert_reads_back(image: &Path, raw: &Path) {
    let image = Qcow2Image::open(image, DataFileRule::Beside).unwrap();
    let expected = std::fs::read(raw).unwrap();
    let mut found = vec![0xaa; expected.len()];
    // An odd step crosses clusters and subclusters at every possible place.
    for (index, window) in found.chunks_mut(300_007).enumerate() {
        image.read_at(u64::try_from(index * 300_007).unwrap(), window).unwrap();
    }
    assert!(found == expected);
}

#[test]
fn every_cluster_size_and_compression_passes_check_and_compare() {
    if !have_qemu_img() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let raw = folder.path().join("disk.raw");
    mixed(&raw, (37 << 20) + 512 * 3);
    let source = TestSource::raw(&raw);
    for bits in 12..=21 {
        for compress in [Compress::None, Compress::Zlib, ZSTD] {
            let what = format!("{compress:?} at 2^{bits}");
            let target = folder.path().join(format!("{bits}.qcow2"));
            let manifest = convert(&source, &target, &qcow2(compress, 1 << bits)).unwrap();
            assert_sound(&target, &raw, &what);
            assert_reads_back(&target, &raw);
            assert_eq!(manifest.file_bytes, target.metadata().unwrap().len(), "{what}");
            std::fs::remove_file(&target).unwrap();
        }
    }
}

#[test]
fn extended_l2_and_metadata_preallocation_pass_check_and_compare() {
    if !have_qemu_img() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let raw = folder.path().join("disk.raw");
    mixed(&raw, (21 << 20) + 512);
    let source = TestSource::raw(&raw);
    for (extended_l2, preallocation, compress, cluster) in [
        (true, Preallocation::None, Compress::None, 16 << 10),
        (true, Preallocation::None, ZSTD, 64 << 10),
        (true, Preallocation::Metadata, Compress::None, 64 << 10),
        (false, Preallocation::Metadata, Compress::None, 4 << 10),
        (false, Preallocation::Metadata, Compress::None, 2 << 20),
    ] {
        let what = format!("{extended_l2} {preallocation:?} {compress:?} {cluster}");
        let target = folder.path().join("out.qcow2");
        let options = CopyOptions {
            extended_l2,
            preallocation,
            ..qcow2(compress, cluster)
        };
        convert(&source, &target, &options).unwrap();
        assert_sound(&target, &raw, &what);
        assert_reads_back(&target, &raw);
        if preallocation == Preallocation::Metadata {
            let (_, map) = qemu_img(&["map", "--output=json", target.to_str().unwrap()]);
            assert!(!map.contains("\"present\": false"), "{what}: {map}");
        }
        std::fs::remove_file(&target).unwrap();
    }
}

#[test]
fn streams_are_converted_by_every_way() {
    if !have_qemu_img() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let raw = folder.path().join("disk.raw");
    // The last grain is partial.
    mixed(&raw, (45 << 20) + 512 * 7);
    let stream = vmdk(&raw, "streamOptimized");
    let source = TestSource::stream(&stream);
    for compress in [
        Compress::None,
        Compress::Zlib,
        ZSTD,
        KEEP,
        Compress::Keep { trust: true },
    ] {
        for cluster in [4 << 10, 64 << 10, 1 << 20] {
            let target = folder.path().join("out.qcow2");
            let manifest = convert(&source, &target, &qcow2(compress, cluster)).unwrap();
            assert_sound(&target, &raw, &format!("{compress:?} {cluster}"));
            assert_reads_back(&target, &raw);
            let trusting = compress == Compress::Keep { trust: true };
            assert_eq!(manifest.content.is_none(), trusting);
            assert_eq!(manifest.notes.iter().any(|note| note.contains("unchecked")), trusting);
            std::fs::remove_file(&target).unwrap();
        }
    }
}

#[test]
fn passthrough_moves_streams_and_keeps_their_size() {
    if !have_qemu_img() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let raw = folder.path().join("disk.raw");
    std::fs::write(&raw, text(1, 16 << 20)).unwrap();
    let stream = vmdk(&raw, "streamOptimized");
    let source = TestSource::stream(&stream);
    let target = folder.path().join("out.qcow2");
    convert(&source, &target, &qcow2(KEEP, 65536)).unwrap();
    let image = std::fs::read(&target).unwrap();
    let (offset, length) = source.a_grain();
    let whole = std::fs::read(&stream).unwrap();
    let from = usize::try_from(offset).unwrap();
    let grain = &whole[from + 2..from + usize::try_from(length).unwrap() - 4];
    assert!(
        image.windows(grain.len()).any(|window| window == grain),
        "the stream lies in the image as it is"
    );
    assert!(image.len() < whole.len() + (1 << 20));
}

#[test]
fn sparse_vmdk_and_raw_targets_are_identical() {
    if !have_qemu_img() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let raw = folder.path().join("disk.raw");
    mixed(&raw, (33 << 20) + 512);
    let sparse = vmdk(&raw, "monolithicSparse");
    let source = TestSource::sparse(&sparse);
    let target = folder.path().join("out.qcow2");
    let first = convert(&source, &target, &options()).unwrap();
    assert_sound(&target, &raw, "sparse");
    let flat = folder.path().join("out.raw");
    let second = convert(
        &source,
        &flat,
        &CopyOptions {
            format: TargetFormat::Raw,
            ..options()
        },
    )
    .unwrap();
    assert!(std::fs::read(&flat).unwrap() == std::fs::read(&raw).unwrap());
    assert_eq!(
        first.content, second.content,
        "the hash is the content's, not the format's"
    );
}

#[test]
fn empty_tiny_and_incompressible_disks_convert() {
    if !have_qemu_img() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let raw = folder.path().join("disk.raw");
    let contents: [(&str, Vec<u8>); 4] = [
        ("zeros", vec![0; 9 << 20]),
        ("noise", noise(1, (9 << 20) + 512)),
        ("one sector", noise(2, 512)),
        (
            "noise then text",
            [noise(3, 70_000 / 512 * 512), text(4, 5 << 20)].concat(),
        ),
    ];
    for (what, bytes) in contents {
        std::fs::write(&raw, &bytes).unwrap();
        let source = TestSource::raw(&raw);
        for compress in [Compress::None, Compress::Zlib, ZSTD] {
            let target = folder.path().join("out.qcow2");
            let manifest = convert(&source, &target, &qcow2(compress, 65536)).unwrap();
            assert_sound(&target, &raw, what);
            if what == "zeros" {
                assert_eq!(manifest.data_bytes, 0);
                assert!(manifest.content.unwrap().leaves.is_empty());
            }
            if what == "noise" {
                // No padding: data and a handful of tables.
                assert!(manifest.file_bytes < (9 << 20) + 12 * 65536, "{}", manifest.file_bytes);
            }
            std::fs::remove_file(&target).unwrap();
        }
    }
}

#[test]
fn switching_between_stored_and_compressed_wastes_little() {
    let folder = tempfile::tempdir().unwrap();
    let raw = folder.path().join("disk.raw");
    let mut bytes = Vec::new();
    let mut packed = 0;
    for step in 0..128 {
        bytes.extend(if step % 2 == 0 {
            noise(step, 65536)
        } else {
            text(step, 65536)
        });
        packed += if step % 2 == 0 {
            65536
        } else {
            zstd::bulk::compress(&bytes[bytes.len() - 65536..], 1).unwrap().len()
        };
    }
    std::fs::write(&raw, &bytes).unwrap();
    let target = folder.path().join("out.qcow2");
    let manifest = convert(&TestSource::raw(&raw), &target, &qcow2(ZSTD, 65536)).unwrap();
    let overhead = manifest.file_bytes - u64::try_from(packed).unwrap();
    // Dropping the rest of the cluster at each switch would cost 64 times about 40 KiB.
    assert!(overhead < 1 << 20, "{overhead}");
}

#[test]
fn the_same_input_gives_the_same_bytes_with_one_worker_and_with_many() {
    let folder = tempfile::tempdir().unwrap();
    let raw = folder.path().join("disk.raw");
    mixed(&raw, 60 << 20);
    let source = TestSource::raw(&raw);
    for (format, compress) in [
        (TargetFormat::Qcow2, Compress::None),
        (TargetFormat::Qcow2, Compress::Zlib),
        (TargetFormat::Qcow2, ZSTD),
        (TargetFormat::Raw, Compress::None),
    ] {
        let files: Vec<(Vec<u8>, _)> = [1, 4, 9]
            .into_iter()
            .map(|jobs| {
                let target = folder.path().join(format!("{jobs}.out"));
                let options = CopyOptions {
                    format,
                    compress,
                    jobs: Some(jobs),
                    ..options()
                };
                let manifest = convert(&source, &target, &options).unwrap();
                let bytes = std::fs::read(&target).unwrap();
                std::fs::remove_file(&target).unwrap();
                (bytes, manifest.content)
            })
            .collect();
        assert!(files[0] == files[1] && files[0] == files[2], "{format:?} {compress:?}");
    }
}

#[test]
fn qcow2_rs_and_imago_read_what_we_write() {
    let folder = tempfile::tempdir().unwrap();
    let raw = folder.path().join("disk.raw");
    mixed(&raw, 24 << 20);
    let expected = std::fs::read(&raw).unwrap();
    let source = TestSource::raw(&raw);
    for compress in [Compress::None, Compress::Zlib] {
        let target = folder.path().join("out.qcow2");
        convert(&source, &target, &qcow2(compress, 65536)).unwrap();
        assert!(by_imago(&target, expected.len()) == expected, "imago, {compress:?}");
        assert!(
            by_qcow2_rs(&target, expected.len()) == expected,
            "qcow2-rs, {compress:?}"
        );
        std::fs::remove_file(&target).unwrap();
    }
}

#[test]
fn qcow2_rs_imago_and_7_zip_read_grains_that_were_moved() {
    if !have_qemu_img() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let raw = folder.path().join("disk.raw");
    mixed(&raw, (24 << 20) + 512 * 9);
    let expected = std::fs::read(&raw).unwrap();
    let source = TestSource::stream(&vmdk(&raw, "streamOptimized"));
    for trust in [false, true] {
        let target = folder.path().join("out.qcow2");
        convert(&source, &target, &qcow2(Compress::Keep { trust }, 65536)).unwrap();
        assert!(by_imago(&target, expected.len()) == expected, "imago, trust {trust}");
        assert!(
            by_qcow2_rs(&target, expected.len()) == expected,
            "qcow2-rs, trust {trust}"
        );
        match by_7_zip(&target) {
            Some(found) => assert!(found == expected, "7-Zip, trust {trust}"),
            None => println!("SKIP: 7-Zip is not installed"),
        }
        std::fs::remove_file(&target).unwrap();
    }
}

/// What 7-Zip unpacks of the image; `None` where it is not installed.
fn by_7_zip(path: &Path) -> Option<Vec<u8>> {
    let output = ["7z", "7zz", "7za"].iter().find_map(|program| {
        std::process::Command::new(program)
            .args(["x", "-tqcow", "-so"])
            .arg(path)
            .output()
            .ok()
    })?;
    assert!(
        output.status.success(),
        "7-Zip: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    Some(output.stdout)
}

fn by_imago(path: &Path, length: usize) -> Vec<u8> {
    use imago::{FormatAccess, FormatDriverBuilder as _};
    let image = imago::qcow2::Qcow2::<imago::file::File>::builder_path(path)
        .open(imago::PermissiveImplicitOpenGate::default())
        .unwrap();
    let image = FormatAccess::new(image);
    let mut bytes = vec![0; length];
    image.read(&mut bytes, 0).unwrap();
    bytes
}

fn by_qcow2_rs(path: &Path, length: usize) -> Vec<u8> {
    let parameters = qcow2_rs::dev::Qcow2DevParams::new(9, None, None, true, false);
    let device = qcow2_rs::utils::qcow2_setup_dev_sync(path, &parameters).unwrap();
    let mut bytes = qcow2_rs::helpers::Qcow2IoBuf::<u8>::new(length);
    let runtime = tokio_less();
    runtime(Box::pin(async {
        device.qcow2_prep_io().await.unwrap();
        let mut at = 0;
        while at < length {
            let end = length.min(at + (1 << 20));
            device
                .read_at(&mut bytes[at..end], u64::try_from(at).unwrap())
                .await
                .unwrap();
            at = end;
        }
    }));
    bytes.to_vec()
}

/// The synchronous back end never waits, so polling once is enough.
fn tokio_less() -> impl Fn(std::pin::Pin<Box<dyn Future<Output = ()> + '_>>) {
    |mut future| {
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        while future.as_mut().poll(&mut context).is_pending() {}
    }
}

#[test]
fn a_data_file_shell_reads_as_the_flat_file_and_is_written_in_no_time() {
    if !have_qemu_img() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let raw = folder.path().join("disk-flat.vmdk");
    mixed(&raw, (50 << 20) + 512 * 5);
    let source = TestSource::raw(&raw);
    for extended_l2 in [false, true] {
        for cluster_bytes in [None, Some(65536)] {
            let target = folder.path().join("disk.qcow2");
            let options = CopyOptions {
                data_file: true,
                extended_l2,
                cluster_bytes,
                ..options()
            };
            let manifest = convert(&source, &target, &options).unwrap();
            assert_sound(&target, &raw, "data file");
            assert_reads_back(&target, &raw);
            assert_eq!(manifest.mode, "data-file");
            // Killed before the manifest was written: found finished, unless it is another file.
            let resumed = CopyOptions {
                resume: true,
                ..options
            };
            assert_eq!(
                convert(&source, &target, &resumed).unwrap().file_bytes,
                manifest.file_bytes
            );
            let file = std::fs::File::options().write(true).open(&target).unwrap();
            file.write_all_at(b"X", 9).unwrap();
            let error = convert(&source, &target, &resumed).unwrap_err();
            assert!(matches!(error, ConvertError::TargetExists { .. }), "{error}");
            assert!(!folder.path().join("disk.qcow2.partial").exists());
            std::fs::remove_file(&target).unwrap();
        }
    }
}

#[test]
fn disks_of_many_tebibytes_take_little_time_and_little_space() {
    if !have_qemu_img() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let raw = folder.path().join("disk.raw");
    let file = std::fs::File::create(&raw).unwrap();
    file.set_len(7 << 40).unwrap();
    for at in [0, (3 << 40) + 12345, (7 << 40) - 5] {
        file.write_all_at(b"there", at).unwrap();
    }
    let source = TestSource::raw(&raw);
    for (compress, cluster) in [(Compress::None, 4096), (ZSTD, 65536), (Compress::None, 2 << 20)] {
        let target = folder.path().join("out.qcow2");
        let manifest = convert(&source, &target, &qcow2(compress, cluster)).unwrap();
        let (clean, text) = qemu_img(&["check", target.to_str().unwrap()]);
        assert!(clean, "{text}");
        let image = Qcow2Image::open(&target, DataFileRule::Refuse).unwrap();
        for at in [0, (3 << 40) + 12345, (7 << 40) - 5] {
            let mut bytes = [0; 5];
            image.read_at(at, &mut bytes).unwrap();
            assert_eq!(&bytes, b"there");
        }
        assert!(manifest.file_bytes < 40 << 20, "{}", manifest.file_bytes);
        std::fs::remove_file(&target).unwrap();
    }
}

#[test]
fn several_disks_convert_under_one_budget() {
    let folder = tempfile::tempdir().unwrap();
    let sources: Vec<_> = (0..6)
        .map(|index| {
            let raw = folder.path().join(format!("{index}.raw"));
            mixed(&raw, (10 + index) << 20);
            TestSource::raw(&raw)
        })
        .collect();
    let targets: Vec<_> = (0..6)
        .map(|index| folder.path().join(format!("{index}.qcow2")))
        .collect();
    let options = qcow2(ZSTD, 65536);
    let jobs: Vec<_> = sources
        .iter()
        .zip(&targets)
        .map(|(source, target)| DiskJob {
            source,
            target,
            name: "disk",
            options: &options,
        })
        .collect();
    let manifests = convert_disks(&jobs, &Silent, &AtomicBool::new(false)).unwrap();
    assert_eq!(manifests.len(), 6);
    for ((source, target), together) in sources.iter().zip(&targets).zip(&manifests) {
        let alone = folder.path().join("alone.qcow2");
        let manifest = convert(source, &alone, &options).unwrap();
        assert_eq!(manifest.content, together.content);
        assert!(std::fs::read(&alone).unwrap() == std::fs::read(target).unwrap());
        std::fs::remove_file(&alone).unwrap();
    }
    // One that fails stops the rest and gives its own error.
    let error = convert_disks(&jobs, &Silent, &AtomicBool::new(false)).unwrap_err();
    assert!(matches!(error, ConvertError::TargetExists { .. }), "{error}");
}
