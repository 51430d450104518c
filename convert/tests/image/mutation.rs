//! Thousands of damaged images, reproducibly: no panic, no hang, bounded memory, no file outside the folder.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use convert::image::map::RunSource;
use convert::image::vmdk::stream::GrainStream;
use convert::image::{DiskLocation, OpenOptions, open};

use crate::fixtures::{Grain, Random, SeGrain, cowd, descriptor, hosted, pattern, read_gz, samples, sesparse, stream};

const GRAIN: usize = 65_536;
/// No single image may take longer than this; normal is some milliseconds. A limit for hangs, not a measurement.
const DEADLINE: Duration = Duration::from_secs(60);

struct Target {
    name: String,
    /// The file to damage.
    victim: PathBuf,
    good: Vec<u8>,
    /// The file to open.
    top: PathBuf,
    rounds: usize,
}

/// Damages one to four places: bits, bytes, extreme numbers, copies of other places, the length.
fn mutate(random: &mut Random, good: &[u8]) -> Vec<u8> {
    let mut image = good.to_vec();
    for _ in 0..=random.below(4) {
        if image.len() < 16 {
            break;
        }
        // Metadata is mostly in front; half of the damage goes there.
        let area = if random.below(2) == 0 {
            image.len().min(4096)
        } else {
            image.len()
        };
        let at = random.below(area - 8);
        match random.below(7) {
            0 => image[at] ^= 1 << random.below(8),
            1 => image[at] = random.next().to_le_bytes()[0],
            2 => image[at..at + 4].fill(0xff),
            3 => image[at..at + 8].copy_from_slice(&random.next().to_le_bytes()),
            4 => image[at..at + 8].fill(0),
            5 => {
                let from = random.below(image.len() - 8);
                image.copy_within(from..from + 8, at);
            }
            _ => image.truncate(random.below(image.len())),
        }
    }
    image
}

fn exercise(target: &Target, salvage: bool, folder: &Path) {
    let started = Instant::now();
    let options = OpenOptions {
        salvage,
        ..OpenOptions::default()
    };
    if let Ok(disk) = open(&DiskLocation::file(&target.top), &options) {
        for handle in disk.files() {
            let inside = handle.path.starts_with(folder) || handle.path.to_string_lossy().ends_with("(seams)");
            assert!(inside, "{}: opened {}", target.name, handle.path.display());
        }
        let bytes = disk.virtual_bytes();
        let mut buffer = vec![0; 1 << 20];
        for start in [0, bytes / 2, bytes.saturating_sub(64 << 20)] {
            let length = (64 << 20).min(bytes - start);
            let Ok(runs) = disk.map(start, length) else { continue };
            assert!(runs.len() <= 64 << 11, "{}: more runs than sectors", target.name);
            let mut at = start;
            for run in &runs {
                assert_eq!(run.offset, at, "{}", target.name);
                at += run.length;
                if let RunSource::Raw { file, offset } = run.source {
                    assert!(
                        offset + run.length <= disk.files()[file].bytes,
                        "{}: a run past the end",
                        target.name
                    );
                }
            }
            assert_eq!(at, start + length, "{}", target.name);
            let size = usize::try_from(length.min(1 << 20)).expect("small");
            let _ = disk.read_at(start, &mut buffer[..size]);
        }
        assert!(disk.notes().len() <= 201, "{}: notes are bounded", target.name);
    }
    if let Ok(stream) = GrainStream::new(std::fs::File::open(&target.top).expect("file"), &target.top) {
        for grain in stream {
            let Ok(grain) = grain else { break };
            assert!(grain.data.len() <= 1 << 21, "{}", target.name);
        }
    }
    assert!(
        started.elapsed() < DEADLINE,
        "{}: took {:?}",
        target.name,
        started.elapsed()
    );
}

/// Highest resident size of this process so far, in KiB.
fn peak_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("proc");
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).expect("VmHWM");
    line.split_whitespace()
        .nth(1)
        .and_then(|value| value.parse().ok())
        .expect("number")
}

#[test]
fn mutated_images_neither_panic_nor_hang_nor_eat_memory_nor_leave_the_folder() {
    let folder = tempfile::tempdir().expect("folder");
    let root = folder.path();
    let mut targets = Vec::new();
    let mut add = |name: &str, good: Vec<u8>, top: Option<String>, rounds: usize| {
        let home = root.join(name);
        std::fs::create_dir(&home).expect("folder");
        let victim = home.join("body.vmdk");
        std::fs::write(&victim, &good).expect("write");
        let top = top.map_or_else(
            || victim.clone(),
            |text| {
                let path = home.join("top.vmdk");
                std::fs::write(&path, text).expect("write");
                path
            },
        );
        targets.push(Target {
            name: name.to_owned(),
            victim,
            good,
            top,
            rounds,
        });
    };
    let grains: Vec<Grain> = (0..6)
        .map(|seed| {
            if seed == 3 {
                Grain::Zero
            } else {
                Grain::Data(pattern(seed, GRAIN))
            }
        })
        .collect();
    let text = descriptor(
        1,
        None,
        "monolithicSparse",
        &["RW 1024 SPARSE \"body.vmdk\"".to_owned()],
    );
    add("hosted", hosted(1024, &grains, Some(&text)), None, 1500);
    add("stream", stream(1024, &grains), None, 1500);
    add(
        "cowd",
        cowd(8192, 4, &[(0, Grain::Data(pattern(1, 512))), (5000, Grain::Zero)]),
        Some(descriptor(
            1,
            None,
            "",
            &["RW 8192 VMFSSPARSE \"body.vmdk\"".to_owned()],
        )),
        1500,
    );
    add(
        "sesparse",
        sesparse(32_768, &[(0, SeGrain::Data(pattern(1, 4096))), (9, SeGrain::Unmapped)]),
        Some(descriptor(1, None, "", &["RW 32768 SESPARSE \"body.vmdk\"".to_owned()])),
        1500,
    );
    let custom = descriptor(
        1,
        Some((1, "/vmfs/volumes/5f/x/base.vmdk")),
        "custom",
        &[
            "RW 8 FLAT \"flat.img\" 0".to_owned(),
            "RW 8 ZERO".to_owned(),
            "RW 1024 SPARSE \"../hosted/body.vmdk\"".to_owned(),
        ],
    );
    add("descriptor", custom.into_bytes(), None, 3000);
    std::fs::write(root.join("descriptor/flat.img"), [1; 8192]).expect("write");
    if let Some(samples) = samples() {
        for (name, rounds) in [
            ("qemu/iotest-version3.vmdk", 600),
            ("qemu/afl9.vmdk", 600),
            ("govmomi/ttylinux-pc_i486-16.1-disk1.vmdk", 200),
            ("cot/blank.vmdk", 600),
            ("cot/input.vmdk", 600),
            ("cot/ubuntu.2.0-disk1.vmdk", 600),
        ] {
            add(
                &name.replace('/', "-"),
                std::fs::read(samples.join(name)).expect(name),
                None,
                rounds,
            );
        }
        let body = read_gz(&samples.join("dissect/sesparse.vmdk.gz"));
        add(
            "genuine-sesparse",
            body[..8 << 20].to_vec(),
            Some(descriptor(
                1,
                None,
                "seSparse",
                &["RW 1048576 SESPARSE \"body.vmdk\"".to_owned()],
            )),
            60,
        );
    }
    let mut random = Random(0x5eed_0001);
    for target in &targets {
        for round in 0..target.rounds {
            std::fs::write(&target.victim, mutate(&mut random, &target.good)).expect("write");
            exercise(target, round % 2 == 0, &root.join(&target.name));
        }
    }
    let peak = peak_kib();
    assert!(
        peak < 1 << 20,
        "the whole test may use 1 GiB with all others beside it, it used {peak} KiB"
    );
}
