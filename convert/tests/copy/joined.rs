//! The real readers and the real pipeline together: every kind of VMDK through every way of writing.

use crate::fixtures::{
    Grain, SeGrain, content_sha, cowd, descriptor, hosted, open_file, pattern, read_gz, samples, sesparse, stream,
};
use crate::support::*;
use convert::copy::{Compress, ConvertError, CopyOptions, TargetFormat, VerifyOptions, hash_source, verify};
use convert::image::map::DiskSource;
use convert::image::{DiskChunk, DiskLocation, OpenOptions};
use convert::progress::Silent;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::AtomicBool;

/// Plain, raw, zstd, keep checked and keep trusted.
fn ways() -> [(&'static str, CopyOptions); 5] {
    [
        ("plain", options()),
        (
            "raw",
            CopyOptions {
                format: TargetFormat::Raw,
                ..options()
            },
        ),
        (
            "zstd",
            CopyOptions {
                compress: Compress::Zstd { level: 1 },
                ..options()
            },
        ),
        (
            "keep",
            CopyOptions {
                compress: Compress::Keep { trust: false },
                ..options()
            },
        ),
        (
            "trust",
            CopyOptions {
                compress: Compress::Keep { trust: true },
                ..options()
            },
        ),
    ]
}

/// Converts `source` in every way; qemu-img compares each with the first, and `verify` with the source.
fn every_way(source: &dyn DiskSource, what: &str, wanted: Option<&Path>) {
    let folder = tempfile::tempdir().unwrap();
    let idle = AtomicBool::new(false);
    let tree = hash_source(source, "disk", VerifyOptions::default(), &Silent, &idle).unwrap();
    for (way, options) in ways() {
        let target = folder.path().join(way);
        let manifest = convert(source, &target, &options).unwrap_or_else(|error| panic!("{what}, {way}: {error}"));
        if way == "trust" {
            assert_eq!(manifest.content, None, "{what}");
        } else {
            assert_eq!(manifest.content.as_ref(), Some(&tree), "{what}, {way}");
        }
        let outcome = verify(
            &target,
            &manifest,
            Some(source),
            VerifyOptions::default(),
            &Silent,
            &idle,
        )
        .unwrap();
        assert!(outcome.identical, "{what}, {way}: {outcome:?}");
        if !have_qemu_img() {
            continue;
        }
        let format = manifest.format.as_str();
        let image = target.to_str().unwrap();
        if format == "qcow2" {
            let (clean, text) = qemu_img(&["check", "-f", "qcow2", image]);
            assert!(clean && text.contains("No errors were found"), "{what}, {way}: {text}");
        }
        let first = folder.path().join("plain");
        let (other, other_format) = match wanted {
            Some(raw) => (raw, "raw"),
            None => (first.as_path(), "qcow2"),
        };
        let (equal, text) = qemu_img(&[
            "compare",
            "-f",
            other_format,
            "-F",
            format,
            other.to_str().unwrap(),
            image,
        ]);
        assert!(equal, "{what}, {way}: {text}");
    }
}

#[test]
fn every_subformat_of_qemu_img_goes_through_every_way() {
    if !have_qemu_img() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let raw = folder.path().join("disk.raw");
    // Ends inside a grain and inside a cluster.
    mixed(&raw, (24 << 20) + 512 * 37);
    for subformat in [
        "monolithicSparse",
        "monolithicFlat",
        "twoGbMaxExtentSparse",
        "twoGbMaxExtentFlat",
        "streamOptimized",
    ] {
        let disk = open_file(&vmdk(&raw, subformat)).expect(subformat);
        every_way(&*disk, subformat, Some(&raw));
    }
}

#[test]
fn delta_chains_go_through_every_way() {
    if !have_qemu_img() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let raw = folder.path().join("disk.raw");
    mixed(&raw, 20 << 20);
    let mut below = vmdk(&raw, "monolithicSparse");
    for number in 1..4_u64 {
        let top = folder.path().join(format!("delta{number}.vmdk"));
        let (made, text) = qemu_img(&[
            "create",
            "-q",
            "-f",
            "vmdk",
            "-F",
            "vmdk",
            "-b",
            below.to_str().unwrap(),
            top.to_str().unwrap(),
        ]);
        assert!(made, "{text}");
        let write = format!("write -q -P {number} {number}M 700k");
        let status = Command::new("qemu-io")
            .args(["-f", "vmdk", "-c", &write])
            .arg(&top)
            .status();
        assert!(status.is_ok_and(|status| status.success()));
        below = top;
    }
    let flat = folder.path().join("flat.raw");
    let (made, text) = qemu_img(&["convert", "-O", "raw", below.to_str().unwrap(), flat.to_str().unwrap()]);
    assert!(made, "{text}");
    let disk = open_file(&below).unwrap();
    assert_eq!(disk.facts().links.len(), 4);
    every_way(&*disk, "chain of four", Some(&flat));
}

fn write(folder: &Path, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
    let path = folder.join(name);
    std::fs::write(&path, bytes).unwrap();
    path
}

#[test]
fn generated_kinds_and_a_chain_that_mixes_them_go_through_every_way() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let data = |seed| Grain::Data(pattern(seed, 65_536));
    let sectors = 16_384_u64;
    let lines = |kind: &str, file: &str| [format!("RW {sectors} {kind} \"{file}\"")];
    write(folder, "flat-flat.vmdk", pattern(1, 8 << 20));
    write(
        folder,
        "flat.vmdk",
        descriptor(1, None, "vmfs", &lines("VMFS", "flat-flat.vmdk")),
    );
    let grains = [
        (0, Grain::Data(pattern(2, 512))),
        (5, Grain::Zero),
        (9000, Grain::Data(pattern(3, 512))),
        (16_383, Grain::Data(pattern(4, 512))),
    ];
    write(folder, "cowd-delta.vmdk", cowd(16_384, 4, &grains));
    let text = descriptor(
        2,
        Some((1, "flat.vmdk")),
        "vmfsSparse",
        &lines("VMFSSPARSE", "cowd-delta.vmdk"),
    );
    let cowd_top = write(folder, "cowd.vmdk", text);
    let grains = [
        (0, SeGrain::Zero),
        (7, SeGrain::Data(pattern(5, 4096))),
        (8, SeGrain::Data(pattern(6, 4096))),
        (2000, SeGrain::Unmapped),
    ];
    write(folder, "se-delta.vmdk", sesparse(sectors, &grains));
    let text = descriptor(
        3,
        Some((2, "cowd.vmdk")),
        "seSparse",
        &lines("SESPARSE", "se-delta.vmdk"),
    );
    let se_top = write(folder, "se.vmdk", text);
    for (top, what) in [(cowd_top, "COWD over flat"), (se_top, "seSparse over COWD over flat")] {
        every_way(&*open_file(&top).expect(what), what, None);
    }
    let text = descriptor(4, None, "monolithicSparse", &lines("SPARSE", "hosted.vmdk"));
    let grains = [Grain::Absent, data(7), Grain::Zero, data(8)];
    let top = write(folder, "hosted.vmdk", hosted(sectors, &grains, Some(&text)));
    every_way(&*open_file(&top).unwrap(), "hosted with zeroed grains", None);
    // The last grain is clipped by the disk's end; its stream may hold the whole grain or the clipped one.
    for length in [65_536, 512] {
        let grains = [data(9), Grain::Absent, data(10), Grain::Data(pattern(11, length))];
        let top = write(folder, "stream.vmdk", stream(128 * 3 + 1, &grains));
        every_way(&*open_file(&top).unwrap(), "stream with a clipped last grain", None);
    }
    // Shorter than what the disk has there: refused by the reader and by every way that inflates.
    let grains = [data(9), Grain::Data(pattern(12, 60_000)), data(10)];
    let top = write(folder, "short.vmdk", stream(128 * 3, &grains));
    let disk = open_file(&top).unwrap();
    for (way, options) in ways().into_iter().filter(|(way, _)| *way != "trust") {
        let target = folder.join("short-out");
        let error = convert(&*disk, &target, &options).expect_err(way).to_string();
        assert!(error.contains("60000") && error.contains("65536"), "{way}: {error}");
        assert!(!target.exists());
        let _ = std::fs::remove_file(folder.join("short-out.partial"));
        let _ = std::fs::remove_file(folder.join("short-out.journal"));
    }
}

#[test]
fn samples_windows_and_chunks_go_through_every_way() {
    let Some(root) = samples() else { return };
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    std::fs::copy(
        root.join("dissect/sesparse-desc.vmdk"),
        folder.join("sesparse-desc.vmdk"),
    )
    .unwrap();
    write(folder, "sesparse.vmdk", read_gz(&root.join("dissect/sesparse.vmdk.gz")));
    for path in [
        folder.join("sesparse-desc.vmdk"),
        root.join("qemu/iotest-version3.vmdk"),
        root.join("cot/blank.vmdk"),
        root.join("cot/input.vmdk"),
    ] {
        every_way(&*open_file(&path).unwrap(), &path.display().to_string(), None);
    }
    let chunk = |offset, length| DiskChunk {
        path: root.join("vcd/template_with_custom_chunk_size.ova"),
        offset,
        length: Some(length),
    };
    let window = |name: &str, offset| DiskLocation::window(root.join(name), offset, 68_096);
    let forty = "80a3721188e40218b08b26776bc53bdae81e4784fff71d71450a197319cba113";
    for (location, sum) in [
        (window("vcd/test_vapp_template.ova", 11_776), forty),
        (
            window("vcd/vapp_with_3_vms.ova", 109_056),
            "e5b844cc57f57094ea4585e235f36c78c1cd222262bb89d53c94dcb4d6b3e55d",
        ),
        (
            DiskLocation::chunks("disk.vmdk", vec![chunk(13_312, 40_960), chunk(54_784, 27_136)]),
            forty,
        ),
    ] {
        let disk = convert::image::open(&location, &OpenOptions::default()).unwrap();
        assert_eq!(content_sha(&*disk), sum);
        every_way(&*disk, sum, None);
    }
}

const VARIABLE: &str = "ESXODUS_JOINED_CHILD";

/// Not a test by itself: the process whose memory is watched.
#[test]
fn child() {
    let Ok(spec) = std::env::var(VARIABLE) else { return };
    let [way, source, target] = spec.split('|').collect::<Vec<_>>()[..] else {
        panic!("{spec}");
    };
    let (_, options) = ways().into_iter().find(|(name, _)| *name == way).unwrap();
    let disk = open_file(Path::new(source)).unwrap();
    convert(&*disk, Path::new(target), &options).unwrap();
    println!("peak {} KiB", peak_kib());
}

/// The process's own high-water mark, which no sampling can miss.
fn peak_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

fn peak_of(way: &str, source: &Path, target: &Path) -> u64 {
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "joined::child", "--nocapture", "--quiet"])
        .env(VARIABLE, format!("{way}|{}|{}", source.display(), target.display()))
        .stderr(Stdio::inherit())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{way}: {text}");
    let peak = text.split("peak ").nth(1).unwrap().split(' ').next().unwrap();
    peak.parse().unwrap()
}

#[test]
fn memory_stays_below_256_mib_in_every_way_and_for_62_tb() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let grains: Vec<Grain> = (0..4096_u64).map(|number| Grain::Data(text(number, 65_536))).collect();
    let large = write(folder, "large.vmdk", stream(4096 * 128, &grains));
    drop(grains);
    // 62 TB of one zero-length table each: an seSparse-less descriptor of sparse and zero extents is the largest there is.
    let sectors = 62 * 1_000_000_000_000_u64 / 512 / 128 * 128;
    let half = 1_u64 << 32;
    let body = hosted(131_072, &[Grain::Absent, Grain::Data(pattern(1, 65_536))], None);
    write(folder, "first.vmdk", body);
    let mut lines = vec!["RW 131072 SPARSE \"first.vmdk\"".to_owned()];
    let mut left = sectors - 131_072;
    while left > 0 {
        lines.push(format!("RW {} ZERO", left.min(half)));
        left -= left.min(half);
    }
    let huge = write(folder, "huge.vmdk", descriptor(1, None, "custom", &lines));
    for (way, _) in ways() {
        for (what, source) in [("stream", &large), ("62 TB", &huge)] {
            if (way, what) == ("raw", "62 TB") {
                println!("SKIP: most file systems hold no sparse file of 62 TB");
                continue;
            }
            let target = folder.join("out");
            let peak = peak_of(way, source, &target);
            println!("{way}, {what}: {} MiB resident at most", peak / 1024);
            assert!(peak < 256 << 10, "{way}, {what}: {peak} KiB");
            std::fs::remove_file(&target).unwrap();
        }
    }
}

#[test]
fn a_data_file_of_one_flat_extent_reads_as_its_source() {
    if !have_qemu_img() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let raw = folder.path().join("disk.raw");
    mixed(&raw, 9 << 20);
    let shell = CopyOptions {
        data_file: true,
        ..options()
    };
    let target = folder.path().join("shell.qcow2");
    convert(&*open_file(&vmdk(&raw, "monolithicFlat")).unwrap(), &target, &shell).unwrap();
    assert_sound(&target, &raw, "data file");
    let other = folder.path().join("no.qcow2");
    let error = convert(&*open_file(&vmdk(&raw, "monolithicSparse")).unwrap(), &other, &shell).unwrap_err();
    assert!(matches!(error, ConvertError::Options(_)), "{error}");
    assert!(!other.exists());
}
