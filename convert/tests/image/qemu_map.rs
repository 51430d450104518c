//! Our extent map beside `qemu-img map`: the same bytes in the same link at the same place of the file.

use std::path::{Path, PathBuf};
use std::process::Command;

use convert::image::map::RunSource;
use serde::Deserialize;

use crate::fixtures::{Grain, SeGrain, cowd, descriptor, open_file, pattern, sesparse};
use crate::qemu::{have_qemu, raw, run};

/// A line of `qemu-img map --output=json`.
#[derive(Debug, Deserialize)]
struct Mapped {
    start: u64,
    length: u64,
    depth: usize,
    zero: bool,
    data: bool,
    #[serde(default)]
    compressed: bool,
    offset: Option<u64>,
}

/// Where a sector of the disk comes from; `None` reads as zeros.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stored {
    Plain { link: usize, offset: u64 },
    Compressed { link: usize },
}

fn by_qemu(path: &Path, sectors: usize) -> Vec<Option<Stored>> {
    let output = Command::new("qemu-img")
        .args(["map", "--output=json", "-f", "vmdk"])
        .arg(path)
        .output()
        .expect("starts");
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{}: {told}", path.display());
    let lines: Vec<Mapped> = serde_json::from_slice(&output.stdout).expect("JSON");
    let mut all = vec![None; sectors];
    for line in lines.iter().filter(|line| line.data && !line.zero) {
        for at in (line.start..line.start + line.length).step_by(512) {
            let link = line.depth;
            all[usize::try_from(at / 512).expect("small")] = Some(match line.offset {
                Some(offset) if !line.compressed => Stored::Plain {
                    link,
                    offset: offset + (at - line.start),
                },
                _ => Stored::Compressed { link },
            });
        }
    }
    all
}

fn ours(path: &Path) -> Vec<Option<Stored>> {
    let disk = open_file(path).expect("opens");
    let mut all = Vec::new();
    for run in disk.map(0, disk.virtual_bytes()).expect("map") {
        for into in (0..run.length).step_by(512) {
            all.push(match run.source {
                RunSource::Hole | RunSource::Zero => None,
                RunSource::Raw { file, offset } => Some(Stored::Plain {
                    link: disk.files()[file].link,
                    offset: offset + into,
                }),
                RunSource::Deflate { file, .. } => Some(Stored::Compressed {
                    link: disk.files()[file].link,
                }),
            });
        }
    }
    all
}

fn compare(path: &Path) {
    let ours = ours(path);
    let theirs = by_qemu(path, ours.len());
    assert!(
        ours.iter().any(Option::is_some),
        "{}: nothing is stored",
        path.display()
    );
    assert!(
        ours.iter().any(Option::is_none),
        "{}: everything is stored",
        path.display()
    );
    for (sector, (ours, theirs)) in ours.iter().zip(&theirs).enumerate() {
        assert_eq!(ours, theirs, "{}: sector {sector}", path.display());
    }
}

#[test]
fn the_map_of_every_subformat_is_qemu_s() {
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
        raw(&folder.path().join("in.raw"), 21);
        let option = format!("subformat={subformat}");
        let convert = ["qemu-img", "convert", "-f", "raw", "-O", "vmdk", "-o"];
        run(
            folder.path(),
            &[&convert[..], &[&option, "in.raw", "disk.vmdk"]].concat(),
        );
        compare(&folder.path().join("disk.vmdk"));
    }
}

#[test]
fn the_map_of_a_chain_is_qemu_s_with_the_link_of_each_run() {
    if !have_qemu() {
        return;
    }
    let folder = tempfile::tempdir().expect("folder");
    let at = folder.path();
    raw(&at.join("in.raw"), 22);
    run(at, &["qemu-img", "convert", "-O", "vmdk", "in.raw", "base.vmdk"]);
    for (parent, child, write) in [
        ("base.vmdk", "one.vmdk", ["write -P 85 3M 70000", "write -z 20M 5M"]),
        ("one.vmdk", "two.vmdk", ["write -P 102 1M 64k", "write -z 3M 64k"]),
    ] {
        let create = ["qemu-img", "create", "-q", "-f", "vmdk", "-F", "vmdk"];
        run(
            at,
            &[&create[..], &["-o", "zeroed_grain=on", "-b", parent, child]].concat(),
        );
        run(at, &["qemu-io", "-f", "vmdk", "-c", write[0], "-c", write[1], child]);
    }
    compare(&at.join("two.vmdk"));
}

#[test]
fn the_maps_of_generated_cowd_and_sesparse_are_qemu_s() {
    if !have_qemu() {
        return;
    }
    let folder = tempfile::tempdir().expect("folder");
    let beside = |name: &str, kind: &str, body: Vec<u8>, sectors: u64| -> PathBuf {
        std::fs::write(folder.path().join(format!("{name}.body")), body).expect("write");
        let line = format!("RW {sectors} {kind} \"{name}.body\"");
        let path = folder.path().join(format!("{name}.vmdk"));
        let label = if name == "cowd" { "vmfsSparse" } else { "seSparse" };
        std::fs::write(&path, descriptor(1, None, label, &[line])).expect("write");
        path
    };
    // Without zero entries, which QEMU reads out of the header.
    let grains: Vec<(u32, Grain)> = (0..500)
        .map(|number| (number * 13 % 8192, Grain::Data(pattern(u64::from(number), 512))))
        .collect();
    compare(&beside("cowd", "VMFSSPARSE", cowd(8192, 4, &grains), 8192));
    let grains: Vec<(usize, SeGrain)> = (0..300_u64)
        .map(|number| {
            let grain = match number % 7 {
                0 => SeGrain::Zero,
                1 => SeGrain::Unmapped,
                _ => SeGrain::Data(pattern(number, 4096)),
            };
            (usize::try_from(number * 11).expect("small"), grain)
        })
        .collect();
    compare(&beside("sesparse", "SESPARSE", sesparse(32_768, &grains), 32_768));
}
