//! Tens of thousands of damaged images, reproducibly: no panic, no hang, bounded memory, no file outside the folder.
//!
//! The mutants are read in a process of their own, so that its memory is theirs alone, behind a Landlock fence around the
//! folder: an attempt to open anything else fails with "permission denied", which no reader may ever meet.

use std::fs::File;
use std::io::{ErrorKind, Read as _};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use convert::copy::{CopyOptions, convert_disk};
use convert::image::map::{DiskSource, RunSource};
use convert::image::qcow2::{DataFileRule, Qcow2Image};
use convert::image::vmdk::stream::GrainStream;
use convert::image::{DiskChunk, DiskLocation, OpenOptions, describe, open};
use convert::progress::Silent;
use convert::source::{DiskPlace, ImportOptions};
use landlock::{
    ABI, Access as _, AccessFs, Ruleset, RulesetAttr as _, RulesetCreatedAttr as _, RulesetStatus, path_beneath_rules,
};

use crate::fixtures::Random;
use crate::mutants::{Target, Top, zoo};

/// No single image may take longer than this; normal is about a millisecond. A limit for hangs, not a measurement.
const DEADLINE: Duration = Duration::from_secs(60);
/// Tells the process of the mutants its folder.
const FOLDER: &str = "ESXODUS_TEST_MUTANTS";
/// What the product promises for any disk.
const MOST_KIB: u64 = 256 << 10;
/// One mutant in so many is described, its whole map walked; one in so many is converted.
const DESCRIBED: usize = 8;
const CONVERTED: usize = 80;

#[test]
fn mutated_images_neither_panic_nor_hang_nor_eat_memory_nor_leave_the_folder() {
    if let Some(folder) = std::env::var_os(FOLDER) {
        return read_mutants(Path::new(&folder));
    }
    let folder = tempfile::tempdir().expect("folder");
    let root = folder.path().canonicalize().expect("folder");
    let temporary = root.join("tmp");
    std::fs::create_dir(&temporary).expect("folder");
    let name = "mutation::mutated_images_neither_panic_nor_hang_nor_eat_memory_nor_leave_the_folder";
    let child = Command::new(std::env::current_exe().expect("this program"))
        .args([name, "--exact", "--nocapture", "--test-threads=1"])
        .env(FOLDER, &root)
        .env("TMPDIR", &temporary)
        .output()
        .expect("starts");
    let said = String::from_utf8_lossy(&child.stdout);
    for line in said
        .lines()
        .filter(|line| line.contains("SKIP") || line.contains("mutants"))
    {
        println!("{line}");
    }
    assert!(
        child.status.success() && said.contains("1 passed"),
        "{}\n{said}\n{}",
        child.status,
        String::from_utf8_lossy(&child.stderr)
    );
}

/// What the process of its own does.
fn read_mutants(folder: &Path) {
    let mut targets = zoo(folder);
    let mut status = File::open("/proc/self/status").expect("proc");
    let watch = Watch::start();
    if fence(folder) {
        prove_the_fence(folder);
    } else {
        println!("SKIP: this kernel has no Landlock, opens outside the folder are not looked for");
    }
    let mut random = Random(0x5eed_0001);
    let mut tally = Tally::default();
    for target in &mut targets {
        for round in 0..target.rounds {
            watch.now(&target.name, round);
            target.damage(&mut random);
            exercise(target, round, &mut tally);
        }
        target.restore();
    }
    println!(
        "{} mutants: {tally:?}",
        targets.iter().map(|target| target.rounds).sum::<usize>()
    );
    assert!(tally.opened > 1000 && tally.refused > 1000, "both happen: {tally:?}");
    assert!(tally.described > 200 && tally.converted > 20, "{tally:?}");
    let mut text = String::new();
    status.read_to_string(&mut text).expect("proc");
    let peak = peak_kib(&text);
    assert!(peak < MOST_KIB, "{peak} KiB resident, at most {MOST_KIB} are promised");
}

#[derive(Debug, Default)]
struct Tally {
    opened: usize,
    refused: usize,
    described: usize,
    converted: usize,
}

/// Aborts the process when one mutant takes too long, and says which.
#[derive(Clone)]
struct Watch(Arc<Mutex<(String, usize, Instant)>>);

impl Watch {
    fn start() -> Self {
        let watch = Self(Arc::new(Mutex::new((String::new(), 0, Instant::now()))));
        let seen = watch.clone();
        std::thread::spawn(move || {
            loop {
                std::thread::sleep(Duration::from_millis(500));
                let (name, round, since) = seen.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
                if since.elapsed() > DEADLINE {
                    eprintln!("{name}, round {round}: hangs");
                    std::process::abort();
                }
            }
        });
        watch
    }

    fn now(&self, name: &str, round: usize) {
        let mut current = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if current.0 != name {
            name.clone_into(&mut current.0);
        }
        current.1 = round;
        current.2 = Instant::now();
    }
}

/// Takes all files but those below `folder` from this thread and those it starts. False where the kernel can't.
fn fence(folder: &Path) -> bool {
    let status = Ruleset::default()
        .handle_access(AccessFs::from_all(ABI::V5))
        .and_then(Ruleset::create)
        .and_then(|ruleset| ruleset.add_rules(path_beneath_rules([folder], AccessFs::from_all(ABI::V5))))
        .and_then(landlock::RulesetCreated::restrict_self)
        .expect("Landlock");
    status.ruleset != RulesetStatus::NotEnforced
}

/// That an open outside would be noticed, also one of the reader's own.
fn prove_the_fence(folder: &Path) {
    let outside = File::open("/etc/passwd").expect_err("fenced");
    assert_eq!(outside.kind(), ErrorKind::PermissionDenied);
    let home = folder.join("fence");
    std::fs::create_dir(&home).expect("folder");
    let top = home.join("top.vmdk");
    std::fs::write(&top, "version=1\nRW 1 FLAT \"/etc/passwd\" 0\n").expect("write");
    let options = OpenOptions {
        allow: vec![PathBuf::from("/etc")],
        ..OpenOptions::default()
    };
    let error = open(&DiskLocation::file(&top), &options)
        .map(|_| ())
        .expect_err("allowed by the user, and fenced");
    assert!(strays(&error), "{error:?}");
}

/// Whether an open met the fence.
fn strays(error: &(dyn std::error::Error + 'static)) -> bool {
    std::iter::successors(Some(error), |error| error.source()).any(|error| {
        error
            .downcast_ref::<std::io::Error>()
            .is_some_and(|error| error.kind() == ErrorKind::PermissionDenied)
    })
}

fn exercise(target: &Target, round: usize, tally: &mut Tally) {
    match &target.top {
        Top::Disk(path) => {
            disk(target, &DiskLocation::file(path), round, tally);
            if let Ok(stream) = GrainStream::new(File::open(path).expect("file"), path) {
                for grain in stream {
                    let Ok(grain) = grain else { break };
                    assert!(grain.data.len() <= 1 << 21, "{}", target.name);
                }
            }
        }
        Top::Package(path) => {
            let options = ImportOptions {
                skip_manifest: !round.is_multiple_of(4),
                ..ImportOptions::default()
            };
            match convert::source::open(path, &options) {
                Ok(imported) => {
                    let findings = format!("{:?}", imported.findings);
                    assert!(!findings.contains("ermission denied"), "{}: {findings}", target.name);
                    for place in imported.disks.iter().filter(|place| !place.path.as_os_str().is_empty()) {
                        disk(target, &location(place), round, tally);
                    }
                }
                Err(error) => {
                    tally.refused += 1;
                    assert!(!strays(&error), "{}, round {round}: {error}", target.name);
                }
            }
        }
    }
}

fn location(place: &DiskPlace) -> DiskLocation {
    let chunk = |(path, offset, length): &(PathBuf, u64, u64)| DiskChunk {
        path: path.clone(),
        offset: *offset,
        length: Some(*length),
    };
    DiskLocation {
        path: place.path.clone(),
        window: place.window,
        chunks: place.chunks.iter().map(chunk).collect(),
    }
}

fn disk(target: &Target, location: &DiskLocation, round: usize, tally: &mut Tally) {
    let name = &target.name;
    let options = OpenOptions {
        salvage: round.is_multiple_of(3),
        ..OpenOptions::default()
    };
    let disk = match open(location, &options) {
        Ok(disk) => disk,
        Err(error) => {
            tally.refused += 1;
            assert!(!strays(&error), "{name}, round {round}: {error}");
            return;
        }
    };
    tally.opened += 1;
    for handle in disk.files() {
        let seams = handle.path.to_string_lossy().ends_with("(seams)");
        let inside = handle
            .path
            .canonicalize()
            .is_ok_and(|path| path.starts_with(&target.home));
        assert!(
            inside || seams,
            "{name}, round {round}: opened {}",
            handle.path.display()
        );
    }
    windows(name, &*disk);
    if round.is_multiple_of(DESCRIBED)
        && let Ok(summary) = describe(&*disk, &AtomicBool::new(false))
    {
        tally.described += 1;
        let all = summary.data_bytes + summary.zero_bytes + summary.hole_bytes;
        assert_eq!(all, disk.virtual_bytes(), "{name}, round {round}");
        let small = summary.data_bytes <= 32 << 20 && disk.virtual_bytes() <= 64 << 30;
        if round.is_multiple_of(CONVERTED) && small {
            tally.converted += usize::from(converted(target, &*disk));
        }
    }
    assert!(disk.notes().len() <= 201, "{name}: notes are bounded");
}

/// Maps and reads at the beginning, in the middle and at the end.
fn windows(name: &str, disk: &dyn DiskSource) {
    let bytes = disk.virtual_bytes();
    let mut buffer = vec![0; 128 << 10];
    for start in [0, bytes / 2, bytes.saturating_sub(64 << 20)] {
        let length = (64 << 20).min(bytes - start);
        let Ok(runs) = disk.map(start, length) else { continue };
        assert!(runs.len() <= 64 << 11, "{name}: more runs than sectors");
        let mut at = start;
        for run in &runs {
            assert_eq!(run.offset, at, "{name}");
            at += run.length;
            if let RunSource::Raw { file, offset } = run.source {
                let end = disk.files()[file].bytes;
                assert!(offset + run.length <= end, "{name}: a run past the end");
            }
        }
        assert_eq!(at, start + length, "{name}");
        let size = usize::try_from(length.min(128 << 10)).expect("small");
        let _ = disk.read_at(start, &mut buffer[..size]);
    }
}

/// Converts the mutant. Where that succeeds, the image holds what the reader reads, and it lies in the folder.
fn converted(target: &Target, disk: &dyn DiskSource) -> bool {
    let path = target.home.join("out.qcow2");
    let options = CopyOptions {
        jobs: Some(2),
        sync: false,
        ..CopyOptions::default()
    };
    let made = convert_disk(disk, &path, "disk", &options, &Silent, &AtomicBool::new(false));
    let good = match &made {
        Ok(_) => {
            let image = Qcow2Image::open(&path, DataFileRule::Refuse).expect("our own image");
            assert_eq!(image.virtual_bytes(), disk.virtual_bytes(), "{}", target.name);
            let size = usize::try_from(disk.virtual_bytes().min(2 << 20)).expect("small");
            let (mut ours, mut theirs) = (vec![1; size], vec![2; size]);
            for start in [0, disk.virtual_bytes() - u64::try_from(size).expect("small")] {
                image.read_at(start, &mut ours).expect("our own image");
                disk.read_at(start, &mut theirs).expect("it was converted");
                assert!(ours == theirs, "{}: the content differs", target.name);
            }
            true
        }
        Err(error) => {
            assert!(!strays(error), "{}: {error}", target.name);
            assert!(!path.exists(), "{}: a failure leaves no final name", target.name);
            false
        }
    };
    for entry in std::fs::read_dir(&target.home).expect("folder") {
        let entry = entry.expect("entry");
        if entry.file_name().to_string_lossy().starts_with("out.qcow2") {
            std::fs::remove_file(entry.path()).expect("remove");
        }
    }
    good
}

/// Highest resident size in KiB, from the text of `/proc/self/status`.
fn peak_kib(status: &str) -> u64 {
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).expect("VmHWM");
    line.split_whitespace()
        .nth(1)
        .and_then(|value| value.parse().ok())
        .expect("number")
}
