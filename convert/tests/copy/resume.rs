//! Killed at any point, a conversion continues and ends with the same bytes.

use crate::sources::TestSource;
use crate::support::*;
use convert::copy::{Compress, ConvertError, CopyOptions, TargetFormat};
use convert::image::map::{DiskSource as _, RunSource};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const VARIABLE: &str = "ESXODUS_COPY_CHILD";
/// What the child's limit on bandwidth makes of a whole conversion, about.
const RUN_TIME: Duration = Duration::from_millis(400);

fn parse(way: &str) -> CopyOptions {
    let base = CopyOptions {
        checkpoint_bytes: 1 << 20,
        resume: true,
        keep_journal: true,
        sync: true,
        ..options()
    };
    match way {
        "raw" => CopyOptions {
            format: TargetFormat::Raw,
            ..base
        },
        "plain" => base,
        "zlib" => CopyOptions {
            compress: Compress::Zlib,
            ..base
        },
        "zstd" => CopyOptions {
            compress: Compress::Zstd { level: 1 },
            cluster_bytes: Some(4096),
            ..base
        },
        "keep" => CopyOptions {
            compress: Compress::Keep { trust: false },
            ..base
        },
        other => panic!("{other}"),
    }
}

fn open(path: &Path) -> TestSource {
    if path.extension().is_some_and(|extension| extension == "vmdk") {
        TestSource::stream(path)
    } else {
        TestSource::raw(path)
    }
}

/// Not a test by itself: the process that is killed.
#[test]
fn child() {
    let Ok(spec) = std::env::var(VARIABLE) else { return };
    let [way, source, target] = spec.split('|').collect::<Vec<_>>()[..] else {
        panic!("{spec}");
    };
    let source = open(Path::new(source));
    let data: u64 = source
        .map(0, source.virtual_bytes())
        .unwrap()
        .iter()
        .map(|run| match run.source {
            RunSource::Hole | RunSource::Zero => 0,
            RunSource::Raw { .. } => run.length,
            RunSource::Deflate { compressed, .. } => compressed.into(),
        })
        .sum();
    let options = CopyOptions {
        // Of the memory test's children nothing is expected but to end.
        bwlimit: (data < 200 << 20).then(|| data * 1000 / u64::try_from(RUN_TIME.as_millis()).unwrap()),
        ..parse(way)
    };
    convert(&source, Path::new(target), &options).unwrap();
}

fn spawn(way: &str, source: &Path, target: &Path) -> std::process::Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "resume::child", "--quiet"])
        .env(VARIABLE, format!("{way}|{}|{}", source.display(), target.display()))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

#[test]
fn killed_at_fifty_random_points_the_result_is_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let raw = folder.path().join("disk.raw");
    mixed(&raw, 100 << 20);
    let mut ways = vec![
        ("raw", raw.clone()),
        ("plain", raw.clone()),
        ("zlib", raw.clone()),
        ("zstd", raw.clone()),
    ];
    if have_qemu_img() {
        ways.push(("keep", vmdk(&raw, "streamOptimized")));
    }
    let mut spread = Vec::new();
    let mut kills = 0_u64;
    for (way, path) in &ways {
        let whole = folder.path().join("whole");
        let expected = convert(
            &open(path),
            &whole,
            &CopyOptions {
                resume: false,
                ..parse(way)
            },
        )
        .unwrap();
        let wanted = std::fs::read(&whole).unwrap();
        let target = folder.path().join("out");
        let (partial, journal) = (target.with_extension("partial"), target.with_extension("journal"));
        let mut resumed = 0;
        let mut tries = 0;
        while resumed < 10 {
            tries += 1;
            assert!(
                tries < 60,
                "{way}: only {resumed} of {tries} kills met a conversion in progress"
            );
            // Every third one is killed a second time while it resumes.
            for _ in 0..=u64::from(tries % 3 == 0) {
                kills += 1;
                let dice = u64::from(u16::from_le_bytes(noise(kills * 7919, 2).try_into().unwrap()));
                let mut child = spawn(way, path, &target);
                let deadline = Instant::now() + Duration::from_secs(60);
                while !journal.exists() && child.try_wait().unwrap().is_none() && Instant::now() < deadline {
                    std::thread::sleep(Duration::from_millis(1));
                }
                // The limit on bandwidth makes a whole run take about this long on any machine.
                std::thread::sleep(RUN_TIME * u32::try_from(dice).unwrap() / 65536);
                child.kill().unwrap();
                child.wait().unwrap();
            }
            let interrupted = partial.exists() && !target.exists();
            if interrupted {
                resumed += 1;
                spread.push(journal.metadata().map_or(0, |journal| journal.len()));
            }
            let manifest = convert(&open(path), &target, &parse(way)).unwrap();
            assert!(std::fs::read(&target).unwrap() == wanted, "{way}, try {tries}");
            assert_eq!(manifest.content, expected.content);
            assert_eq!(manifest.data_bytes, expected.data_bytes);
            std::fs::remove_file(&target).unwrap();
            convert::copy::discard_journal(&target).unwrap();
        }
        std::fs::remove_file(&whole).unwrap();
        convert::copy::discard_journal(&whole).unwrap();
    }
    let with_records = spread.iter().filter(|&&bytes| bytes > 40).count();
    println!(
        "{kills} kills, {} in progress, {with_records} of them with records in the journal",
        spread.len()
    );
    assert!(spread.len() >= 40 && with_records * 2 > spread.len());
}

#[test]
fn resuming_does_not_read_again_what_the_journal_vouches_for() {
    let folder = tempfile::tempdir().unwrap();
    let raw = folder.path().join("disk.raw");
    std::fs::write(&raw, text(9, 64 << 20)).unwrap();
    let target = folder.path().join("out");
    let mut child = spawn("zlib", &raw, &target);
    let journal = target.with_extension("journal");
    let deadline = Instant::now() + Duration::from_secs(60);
    while journal.metadata().map_or(0, |journal| journal.len()) < 4096 && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(1));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    // A marker in the data that the journal covers: it stays only if nobody writes there again.
    let partial = target.with_extension("partial");
    if !partial.exists() {
        println!("SKIP: the conversion was finished before it could be killed");
        return;
    }
    let before = std::fs::read(&partial).unwrap();
    let at = 5 * 65536;
    let file = std::fs::File::options().write(true).open(&partial).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, b"MARKER", at).unwrap();
    convert(&open(&raw), &target, &parse("zlib")).unwrap();
    let after = std::fs::read(&target).unwrap();
    let from = usize::try_from(at).unwrap();
    assert_eq!(&after[from..from + 6], b"MARKER");
    assert_eq!(&after[from + 6..from + 60_000], &before[from + 6..from + 60_000]);
}

#[test]
fn a_journal_whose_partial_file_is_lost_or_cut_is_not_believed() {
    let folder = tempfile::tempdir().unwrap();
    let raw = folder.path().join("disk.raw");
    mixed(&raw, 40 << 20);
    for way in ["plain", "raw", "zstd"] {
        let whole = folder.path().join("whole");
        convert(&open(&raw), &whole, &parse(way)).unwrap();
        let wanted = std::fs::read(&whole).unwrap();
        let target = folder.path().join("out");
        let (partial, journal) = (target.with_extension("partial"), target.with_extension("journal"));
        for left in [0, 1 << 20] {
            // What an interruption leaves: a journal with records, and the partial file.
            std::fs::copy(&whole, &partial).unwrap();
            std::fs::copy(whole.with_extension("journal"), &journal).unwrap();
            if left == 0 {
                std::fs::remove_file(&partial).unwrap();
            } else {
                std::fs::File::options()
                    .write(true)
                    .open(&partial)
                    .unwrap()
                    .set_len(left)
                    .unwrap();
            }
            let manifest = convert(&open(&raw), &target, &parse(way)).unwrap();
            assert!(std::fs::read(&target).unwrap() == wanted, "{way}, {left} bytes left");
            assert!(
                manifest.notes.iter().any(|note| note.starts_with("started anew: ")),
                "{:?}",
                manifest.notes
            );
            std::fs::remove_file(&target).unwrap();
        }
        std::fs::remove_file(&whole).unwrap();
        convert::copy::discard_journal(&whole).unwrap();
        convert::copy::discard_journal(&target).unwrap();
    }
}

#[test]
fn a_journal_of_other_options_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let raw = folder.path().join("disk.raw");
    mixed(&raw, 20 << 20);
    let target = folder.path().join("out");
    let finished = convert(&open(&raw), &target, &parse("plain")).unwrap();
    // With the journal kept, a finished conversion gives its manifest again.
    let again = convert(&open(&raw), &target, &parse("plain")).unwrap();
    assert_eq!(
        (again.content, again.file_bytes),
        (finished.content, finished.file_bytes)
    );
    std::fs::rename(&target, target.with_extension("partial")).unwrap();
    let error = convert(&open(&raw), &target, &parse("zlib")).unwrap_err();
    assert!(matches!(error, ConvertError::Journal { .. }), "{error}");
}

/// Resident memory of a child that converts more than fits into its bound.
#[test]
fn memory_stays_below_the_bound() {
    let folder = tempfile::tempdir().unwrap();
    let raw = folder.path().join("disk.raw");
    std::fs::write(&raw, text(5, 320 << 20)).unwrap();
    for way in ["plain", "zstd"] {
        let target = folder.path().join("out");
        let child = spawn(way, &raw, &target);
        let status = format!("/proc/{}/status", child.id());
        let mut peak = 0_u64;
        let mut child = child;
        while child.try_wait().unwrap().is_none() {
            let text = std::fs::read_to_string(&status).unwrap_or_default();
            let line = text.lines().find(|line| line.starts_with("VmHWM"));
            let found = line
                .and_then(|line| line.split_whitespace().nth(1)?.parse().ok())
                .unwrap_or(0);
            peak = peak.max(found);
            std::thread::sleep(Duration::from_millis(5));
        }
        assert!(child.wait().unwrap().success());
        println!("{way}: {} MiB resident at most", peak / 1024);
        assert!(peak > 0 && peak < 256 << 10, "{way}: {peak} KiB");
        std::fs::remove_file(&target).unwrap();
        convert::copy::discard_journal(&target).unwrap();
    }
}
