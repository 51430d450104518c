//! Limits, faults of the source, and workers that do not come back.

use crate::support::*;
use convert::copy::{Compress, ConvertError, CopyOptions, DiskJob, TargetFormat, convert_disks};
use convert::image::ImageError;
use convert::image::map::{DiskSource, Run, RunSource, SourceHandle};
use convert::progress::Silent;
use std::fs::File;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

/// A disk of data whose second file cannot be read, or is missing.
struct Faulty {
    files: Vec<SourceHandle>,
    bytes: u64,
    /// Guest offset of the MiB that the second file holds.
    fault: u64,
    /// Notes of a source that is to be salvaged.
    salvage: Option<Mutex<Vec<String>>>,
}

fn handle(path: &Path) -> SourceHandle {
    let file = File::open(path).unwrap();
    let metadata = file.metadata().unwrap();
    SourceHandle {
        path: path.to_owned(),
        bytes: metadata.len(),
        mtime_ns: metadata.mtime() * 1_000_000_000 + metadata.mtime_nsec(),
        file,
        link: 0,
    }
}

impl DiskSource for Faulty {
    fn virtual_bytes(&self) -> u64 {
        self.bytes
    }
    fn kind(&self) -> String {
        "faulty".into()
    }
    fn files(&self) -> &[SourceHandle] {
        &self.files
    }
    fn compressed_grain_bytes(&self) -> Option<u64> {
        None
    }
    fn map(&self, offset: u64, length: u64) -> Result<Vec<Run>, ImageError> {
        let end = offset + length;
        let run = |from: u64, to: u64, file| Run {
            offset: from.max(offset),
            length: to.min(end).saturating_sub(from.max(offset)),
            source: RunSource::Raw {
                file,
                offset: from.max(offset),
            },
        };
        let after = self.fault + (1 << 20);
        Ok([
            run(0, self.fault, 0),
            run(self.fault, after, 1),
            run(after, self.bytes, 0),
        ]
        .into_iter()
        .filter(|run| run.length > 0)
        .collect())
    }
    fn read_at(&self, _offset: u64, _buffer: &mut [u8]) -> Result<(), ImageError> {
        unreachable!("the pipeline reads by runs")
    }
    fn notes(&self) -> Vec<String> {
        self.salvage
            .as_ref()
            .map(|notes| notes.lock().unwrap().clone())
            .unwrap_or_default()
    }
    fn damage(&self, error: ImageError) -> Result<(), ImageError> {
        match &self.salvage {
            Some(notes) => notes.lock().unwrap().push(error.to_string()),
            None => return Err(error),
        }
        Ok(())
    }
}

fn ways() -> [CopyOptions; 3] {
    [
        options(),
        CopyOptions {
            format: TargetFormat::Raw,
            ..options()
        },
        CopyOptions {
            compress: Compress::Zstd { level: 1 },
            ..options()
        },
    ]
}

#[test]
fn a_read_error_in_the_middle_is_named_with_its_offset_and_leaves_no_final_name() {
    let folder = tempfile::tempdir().unwrap();
    let raw = folder.path().join("disk.raw");
    std::fs::write(&raw, noise(1, 32 << 20)).unwrap();
    // Reading a process's memory where nothing is mapped gives a genuine EIO.
    let source = Faulty {
        files: vec![handle(&raw), handle(Path::new("/proc/self/mem"))],
        bytes: 32 << 20,
        fault: 17 << 20,
        salvage: None,
    };
    // Address 17 MiB of this process might be mapped, though no loader does so.
    for options in ways() {
        let target = folder.path().join("out");
        let error = convert(&source, &target, &options).unwrap_err();
        let causes = std::iter::successors(Some(&error as &dyn std::error::Error), |error| error.source());
        let system = causes
            .filter_map(|cause| cause.downcast_ref::<std::io::Error>())
            .find_map(std::io::Error::raw_os_error);
        assert_eq!(system, Some(5), "EIO: {error:?}");
        let error = error.to_string();
        assert!(
            error.contains(&format!("{}", 17 << 20)) && error.contains("/proc/self/mem"),
            "{error}"
        );
        assert!(!target.exists());
        // What came before is vouched for: with a source that can be read the conversion goes on.
        let whole = Faulty {
            files: vec![handle(&raw), handle(&raw)],
            bytes: 32 << 20,
            fault: 17 << 20,
            salvage: None,
        };
        let error = convert(
            &whole,
            &target,
            &CopyOptions {
                resume: true,
                ..options.clone()
            },
        )
        .unwrap_err();
        assert!(matches!(error, ConvertError::Journal { .. }), "another source: {error}");
        std::fs::remove_file(target.with_extension("journal")).unwrap();
        convert(&whole, &target, &options).unwrap();
        std::fs::remove_file(&target).unwrap();
    }
}

#[test]
fn what_cannot_be_read_is_salvaged_as_zeros_and_named() {
    let folder = tempfile::tempdir().unwrap();
    let raw = folder.path().join("disk.raw");
    let mut content = noise(1, 24 << 20);
    std::fs::write(&raw, &content).unwrap();
    content[17 << 20..18 << 20].fill(0);
    for options in ways() {
        let source = Faulty {
            files: vec![handle(&raw), handle(Path::new("/proc/self/mem"))],
            bytes: 24 << 20,
            fault: 17 << 20,
            salvage: Some(Mutex::default()),
        };
        let target = folder.path().join("out");
        let manifest = convert(&source, &target, &options).unwrap();
        assert!(
            manifest
                .notes
                .iter()
                .any(|note| note.contains("/proc/self/mem at byte 17825792")),
            "{:?}",
            manifest.notes
        );
        let wanted = folder.path().join("wanted.raw");
        std::fs::write(&wanted, &content).unwrap();
        if options.format == TargetFormat::Raw {
            assert!(std::fs::read(&target).unwrap() == content);
        } else if have_qemu_img() {
            assert_sound(&target, &wanted, "salvaged");
        }
        std::fs::remove_file(&target).unwrap();
    }
}

#[test]
fn a_damaged_grain_is_salvaged_as_zeros_and_everything_else_is_kept() {
    if !have_qemu_img() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let raw = folder.path().join("disk.raw");
    mixed(&raw, 8 << 20);
    let stream = vmdk(&raw, "streamOptimized");
    let sound = crate::fixtures::open_file(&stream).unwrap();
    let runs = sound.map(0, sound.virtual_bytes()).unwrap();
    let (offset, length, guest, bytes) = runs
        .iter()
        .filter_map(|run| match run.source {
            RunSource::Deflate { offset, compressed, .. } => Some((offset, compressed, run.offset, run.length)),
            _ => None,
        })
        .nth(3)
        .unwrap();
    let file = File::options().write(true).open(&stream).unwrap();
    // The last byte of the Adler-32.
    file.write_all_at(&[0xee], offset + u64::from(length) - 1).unwrap();
    drop(file);
    let mut wanted = std::fs::read(&raw).unwrap();
    wanted[usize::try_from(guest).unwrap()..usize::try_from(guest + bytes).unwrap()].fill(0);
    let raw = folder.path().join("wanted.raw");
    std::fs::write(&raw, wanted).unwrap();
    for compress in [
        Compress::None,
        Compress::Zstd { level: 1 },
        Compress::Keep { trust: false },
    ] {
        let source = crate::fixtures::open_salvage(&stream).unwrap();
        let target = folder.path().join("out.qcow2");
        let manifest = convert(&*source, &target, &CopyOptions { compress, ..options() }).unwrap();
        assert_sound(&target, &raw, "salvaged");
        let told = manifest
            .notes
            .iter()
            .any(|note| note.contains("salvage") && note.contains(&format!("at byte {offset}")));
        assert!(told, "{:?}", manifest.notes);
        std::fs::remove_file(&target).unwrap();
    }
}

#[test]
fn a_worker_that_panics_ends_all_disks_instead_of_hanging() {
    let folder = tempfile::tempdir().unwrap();
    let raw = folder.path().join("disk.raw");
    std::fs::write(&raw, noise(1, 64 << 20)).unwrap();
    // Runs that name a file that does not exist: a bug of a reader, on which workers panic.
    let broken = Faulty {
        files: vec![handle(&raw)],
        bytes: 64 << 20,
        fault: 5 << 20,
        salvage: None,
    };
    let sound = Faulty {
        files: vec![handle(&raw), handle(&raw)],
        bytes: 64 << 20,
        fault: 5 << 20,
        salvage: None,
    };
    let slow = CopyOptions {
        bwlimit: Some(30 << 20),
        jobs: Some(2),
        ..options()
    };
    let (one, two) = (folder.path().join("one"), folder.path().join("two"));
    let job = |source, target| DiskJob {
        source,
        target,
        name: "disk",
        options: &slow,
    };
    let (done, told) = std::sync::mpsc::channel();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let jobs = [job(&broken, &one), job(&sound, &two)];
            let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                convert_disks(&jobs, &Silent, &AtomicBool::new(false))
            }));
            done.send(result.is_err()).unwrap();
        });
        match told.recv_timeout(Duration::from_secs(120)) {
            Ok(panicked) => assert!(panicked, "the panic is passed on"),
            Err(_) => {
                eprintln!("the conversion hangs after a worker panicked");
                std::process::abort();
            }
        }
    });
    assert!(!one.exists() && !two.exists());
}

#[test]
fn the_bandwidth_limit_holds_for_all_disks_together_and_changes_no_byte() {
    let folder = tempfile::tempdir().unwrap();
    let sources: Vec<_> = (0..2_u64)
        .map(|seed| {
            let raw = folder.path().join(format!("{seed}.raw"));
            std::fs::write(&raw, noise(seed, 6 << 20)).unwrap();
            crate::sources::TestSource::raw(&raw)
        })
        .collect();
    let targets: Vec<_> = (0..2).map(|n| folder.path().join(format!("{n}.qcow2"))).collect();
    for jobs in [1, 2, 7] {
        let limited = CopyOptions {
            bwlimit: Some(8 << 20),
            jobs: Some(jobs),
            ..options()
        };
        let list: Vec<_> = sources
            .iter()
            .zip(&targets)
            .map(|(source, target)| DiskJob {
                source,
                target,
                name: "disk",
                options: &limited,
            })
            .collect();
        let started = Instant::now();
        convert_disks(&list, &Silent, &AtomicBool::new(false)).unwrap();
        // Twelve MiB at eight a second; the first pieces go through at once. No upper bound: the machine may be slow.
        assert!(
            started.elapsed() > Duration::from_millis(1000),
            "{:?}",
            started.elapsed()
        );
        for (source, target) in sources.iter().zip(&targets) {
            let alone = folder.path().join("alone");
            convert(source, &alone, &options()).unwrap();
            assert!(
                std::fs::read(&alone).unwrap() == std::fs::read(target).unwrap(),
                "{jobs} jobs"
            );
            std::fs::remove_file(&alone).unwrap();
            std::fs::remove_file(target).unwrap();
        }
    }
}
