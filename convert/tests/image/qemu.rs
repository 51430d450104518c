//! Every subformat that qemu-img writes, compared with what qemu-img reads.

use std::path::Path;
use std::process::Command;

use convert::image::vmdk::stream::GrainStream;

use crate::fixtures::{Random, check_map, content, open_file, pattern};

pub(crate) fn have_qemu() -> bool {
    let there = Command::new("qemu-img")
        .arg("--version")
        .output()
        .is_ok_and(|output| output.status.success());
    if !there {
        println!("SKIP: qemu-img is not installed");
    }
    there
}

pub(crate) fn run(folder: &Path, arguments: &[&str]) {
    let output = Command::new(arguments[0])
        .current_dir(folder)
        .args(&arguments[1..])
        .output()
        .expect("starts");
    assert!(
        output.status.success(),
        "{arguments:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// A raw disk of 70 MiB and an odd tail, with data at few places.
pub(crate) fn raw(path: &Path, seed: u64) -> Vec<u8> {
    let mut disk = vec![0; (70 << 20) + 512 * 37];
    let mut random = Random(seed);
    for piece in 0..24 {
        let length = 1 + random.below(300_000);
        let at = random.below(disk.len() - length) / 512 * 512;
        disk[at..at + length].copy_from_slice(&pattern(seed + piece, length));
    }
    let tail = disk.len() - 512 * 5;
    disk[tail..].copy_from_slice(&pattern(99, 512 * 5));
    std::fs::write(path, &disk).expect("write");
    disk
}

#[test]
fn every_subformat_of_qemu_img_reads_as_its_source() {
    if !have_qemu() {
        return;
    }
    for subformat in [
        "monolithicSparse",
        "monolithicFlat",
        "twoGbMaxExtentSparse",
        "twoGbMaxExtentFlat",
        "streamOptimized",
    ] {
        let folder = tempfile::tempdir().expect("folder");
        let wanted = raw(&folder.path().join("in.raw"), 7);
        let option = format!("subformat={subformat}");
        run(
            folder.path(),
            &[
                "qemu-img",
                "convert",
                "-f",
                "raw",
                "-O",
                "vmdk",
                "-o",
                &option,
                "in.raw",
                "disk.vmdk",
            ],
        );
        let disk = open_file(&folder.path().join("disk.vmdk")).expect(subformat);
        assert_eq!(
            disk.virtual_bytes(),
            u64::try_from(wanted.len()).expect("small"),
            "{subformat}"
        );
        assert!(content(&*disk) == wanted, "{subformat}: the content differs");
        assert_eq!(disk.notes(), Vec::<String>::new(), "{subformat}");
        let mut random = Random(3);
        for _ in 0..200 {
            let at = random.below(wanted.len());
            let length = 1 + random.below((wanted.len() - at).min(300_000));
            let mut part = vec![0xee; length];
            let offset = u64::try_from(at).expect("small");
            check_map(&*disk, offset, u64::try_from(length).expect("small"));
            disk.read_at(offset, &mut part).expect(subformat);
            assert!(
                part == wanted[at..at + length],
                "{subformat}: {length} bytes at {at} differ"
            );
        }
        if subformat == "streamOptimized" {
            front_to_back(&folder.path().join("disk.vmdk"), &wanted);
        }
    }
}

fn front_to_back(path: &Path, wanted: &[u8]) {
    let mut stream = GrainStream::new(std::fs::File::open(path).expect("stream"), path).expect("header");
    let mut found = vec![0; wanted.len()];
    let mut inflater = convert::image::inflate::GrainInflater::new();
    let full = stream.header().grain;
    while let Some(grain) = stream.next_grain().expect("grain") {
        let bytes = inflater
            .inflate(&grain.data, full, grain.grain_bytes)
            .expect("inflates");
        let at = usize::try_from(grain.guest_offset).expect("small");
        found[at..at + bytes.len()].copy_from_slice(bytes);
    }
    let account = stream.finish();
    assert!(found == wanted, "front to back differs");
    assert!(account.cross_checked, "{account:?}");
}

#[test]
fn a_chain_with_zeroed_grains_reads_as_qemu_reads_it() {
    if !have_qemu() {
        return;
    }
    let folder = tempfile::tempdir().expect("folder");
    let at = folder.path();
    raw(&at.join("in.raw"), 11);
    run(
        at,
        &["qemu-img", "convert", "-f", "raw", "-O", "vmdk", "in.raw", "base.vmdk"],
    );
    let options = "zeroed_grain=on";
    run(
        at,
        &[
            "qemu-img",
            "create",
            "-q",
            "-f",
            "vmdk",
            "-o",
            options,
            "-b",
            "base.vmdk",
            "-F",
            "vmdk",
            "one.vmdk",
        ],
    );
    run(
        at,
        &[
            "qemu-io",
            "-f",
            "vmdk",
            "-c",
            "write -P 0x55 3M 70000",
            "-c",
            "write -z 0 2M",
            "-c",
            "write -z 20M 5M",
            "one.vmdk",
        ],
    );
    run(
        at,
        &[
            "qemu-img", "create", "-q", "-f", "vmdk", "-o", options, "-b", "one.vmdk", "-F", "vmdk", "two.vmdk",
        ],
    );
    run(
        at,
        &[
            "qemu-io",
            "-f",
            "vmdk",
            "-c",
            "write -P 0x66 1M 64k",
            "-c",
            "write -z 3M 64k",
            "-c",
            "write -P 1 69M 100k",
            "two.vmdk",
        ],
    );
    run(
        at,
        &["qemu-img", "convert", "-f", "vmdk", "-O", "raw", "two.vmdk", "out.raw"],
    );
    let wanted = std::fs::read(at.join("out.raw")).expect("raw");
    let disk = open_file(&at.join("two.vmdk")).expect("opens");
    assert_eq!(disk.facts().links.len(), 3);
    assert!(content(&*disk) == wanted, "the chain's content differs");
    assert_eq!(disk.notes(), Vec::<String>::new());
}
