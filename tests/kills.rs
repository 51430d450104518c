//! Stopped without warning at any point, by kill -9 or a power cut, a guest with several disks is finished by --resume, and
//! what comes out is what would have come out.

use crate::util::{esxodus, files, run_expecting, s, skip, tool, vmdk, vmx};
use std::collections::BTreeMap;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// How long a whole conversion takes under the limit on bandwidth, about.
const RUN_TIME: Duration = Duration::from_millis(700);
/// MiB of the guest's disks: more than are converted at once, of sizes that differ, so that some are finished before others
/// are begun.
const DISKS: [usize; 6] = [3, 9, 24, 6, 14, 5];

/// Repeatable dice: a number below `bound`.
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % bound
    }

    /// A moment of a conversion; some lie behind its end.
    fn moment(&mut self) -> Duration {
        RUN_TIME * u32::try_from(self.below(1200)).unwrap() / 1000
    }
}

struct Guest {
    machine: PathBuf,
    /// Option that makes a conversion take about [`RUN_TIME`].
    limit: String,
}

fn guest(folder: &Path) -> Guest {
    let mut names = Vec::new();
    let mut stored = 0;
    for (number, mib) in DISKS.iter().enumerate() {
        let subformat = if number % 2 == 0 {
            "streamOptimized"
        } else {
            "monolithicSparse"
        };
        let (raw, disk) = vmdk(folder, &format!("disk{number}"), subformat, *mib);
        stored += disk.metadata().unwrap().len();
        std::fs::remove_file(raw).unwrap();
        names.push(format!("disk{number}.vmdk"));
    }
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    Guest {
        machine: vmx(folder, "guest", &names),
        limit: (u128::from(stored) * 1000 / RUN_TIME.as_millis()).to_string(),
    }
}

fn begin(guest: &Guest, out: &Path, way: &[&str]) -> Child {
    esxodus()
        .args([
            "convert",
            s(&guest.machine),
            "-o",
            s(out),
            "--target",
            "none",
            "--resume",
        ])
        .args(["--checkpoint", "1M", "--bwlimit", &guest.limit])
        .args(way)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

/// Content of all disks of a run folder.
fn disks(out: &Path) -> BTreeMap<String, Vec<u8>> {
    files(&out.join("disks"))
        .into_iter()
        .map(|name| {
            let bytes = std::fs::read(out.join("disks").join(&name)).unwrap();
            (name, bytes)
        })
        .collect()
}

/// Where an interrupted conversion stood.
#[derive(Debug, Default)]
struct Tally {
    stops: u32,
    /// Between the first byte and the last.
    in_progress: u32,
    /// Some disks had their final names, others not.
    between_disks: u32,
    /// Disks that went on behind what an earlier process had done.
    continued: u32,
}

impl Tally {
    fn look(&mut self, out: &Path) {
        self.stops += 1;
        let there = files(&out.join("disks"));
        let partial = there.iter().filter(|name| name.ends_with(".partial")).count();
        let journals = there.iter().filter(|name| name.ends_with(".journal")).count();
        let done = there.len() - partial - journals;
        for name in there.iter().filter(|name| name.ends_with(".qcow2.partial")) {
            let path = out.join("disks").join(name);
            let mut magic = [0; 4];
            let begun = std::fs::File::open(&path).unwrap().read_exact(&mut magic).is_ok();
            // The header is written last: an image that is not complete is no image.
            if begun && magic == *b"QFI\xfb" {
                tool("qemu-img", &["check", "-f", "qcow2", s(&path)]);
            }
        }
        self.in_progress += u32::from(partial > 0);
        self.between_disks += u32::from(done > 0 && done < DISKS.len());
    }

    /// Finishes the conversion and compares it with `wanted`.
    fn finish(&mut self, guest: &Guest, out: &Path, way: &[&str], wanted: &BTreeMap<String, Vec<u8>>) {
        let mut args = vec![
            "convert",
            s(&guest.machine),
            "-o",
            s(out),
            "--target",
            "none",
            "--resume",
            "--json",
        ];
        args.extend(["--checkpoint", "1M"]);
        args.extend(way);
        let (json, _) = run_expecting(0, &args);
        let json: serde_json::Value = serde_json::from_str(&json).unwrap();
        for disk in json["manifest"]["disks"].as_array().unwrap() {
            let notes = disk["notes"].as_array().cloned().unwrap_or_default();
            self.continued += u32::from(
                notes
                    .iter()
                    .any(|note| note.as_str().unwrap().starts_with("continued: ")),
            );
        }
        let found = disks(out);
        assert_eq!(
            found.keys().collect::<Vec<_>>(),
            wanted.keys().collect::<Vec<_>>(),
            "nothing else is left"
        );
        for (name, bytes) in wanted {
            assert!(found[name] == *bytes, "{name} differs, {self:?}");
        }
    }
}

const WAYS: [&[&str]; 4] = [
    &[],
    &["--compress", "keep"],
    &["--compress", "zstd", "--level", "1", "--cluster-size", "16K"],
    &["--format", "raw"],
];

fn whole(guest: &Guest, folder: &Path, way: &[&str]) -> BTreeMap<String, Vec<u8>> {
    let out = folder.join("whole");
    let mut args = vec!["convert", s(&guest.machine), "-o", s(&out), "--target", "none"];
    args.extend(way);
    run_expecting(0, &args);
    run_expecting(0, &["verify", s(&out), "--against", s(&guest.machine)]);
    let found = disks(&out);
    std::fs::remove_dir_all(out).unwrap();
    found
}

#[test]
fn killed_at_fifty_random_points_a_guest_of_six_disks_is_finished_by_resume() {
    let folder = tempfile::tempdir().unwrap();
    let guest = guest(folder.path());
    let mut dice = Dice(0x2545_f491_4f6c_dd1d);
    let mut tally = Tally::default();
    let wanted: Vec<_> = WAYS.iter().map(|way| whole(&guest, folder.path(), way)).collect();
    for round in 0_usize.. {
        if tally.stops >= 50 {
            break;
        }
        let way = WAYS[round % WAYS.len()];
        let out = folder.path().join(format!("out{round}"));
        // Every third one is killed a second time while it resumes.
        for _ in 0..=usize::from(round.is_multiple_of(3)) {
            let mut child = begin(&guest, &out, way);
            let deadline = Instant::now() + Duration::from_secs(60);
            while !out.join("disks").exists() && child.try_wait().unwrap().is_none() && Instant::now() < deadline {
                std::thread::sleep(Duration::from_millis(1));
            }
            std::thread::sleep(dice.moment());
            child.kill().unwrap();
            child.wait().unwrap();
            tally.look(&out);
        }
        tally.finish(&guest, &out, way, &wanted[round % WAYS.len()]);
        std::fs::remove_dir_all(out).unwrap();
    }
    println!("{tally:?}");
    assert!(
        tally.in_progress >= 20 && tally.between_disks >= 5 && tally.continued >= 20,
        "{tally:?}"
    );
}

/// A file system of its own on a loop device, which can lose its power.
struct Drive {
    image: PathBuf,
    at: PathBuf,
    mounted: bool,
}

impl Drive {
    fn new(folder: &Path, kind: &str) -> Option<Self> {
        let image = folder.join(format!("{kind}.img"));
        let at = folder.join(kind);
        std::fs::create_dir(&at).unwrap();
        std::fs::File::create(&image).unwrap().set_len(400 << 20).unwrap();
        let made = Command::new(format!("mkfs.{kind}")).arg("-q").arg(&image).output();
        if !made.is_ok_and(|output| output.status.success()) {
            skip(&format!("mkfs.{kind} is missing"));
            return None;
        }
        let mut drive = Self {
            image,
            at,
            mounted: false,
        };
        if !drive.mount() {
            skip("mounting a loop device needs root");
            return None;
        }
        Some(drive)
    }

    fn mount(&mut self) -> bool {
        self.mounted = Command::new("mount")
            .args(["-o", "loop", s(&self.image), s(&self.at)])
            .output()
            .is_ok_and(|output| output.status.success());
        self.mounted
    }

    /// From this moment on nothing more reaches the drive, and what the file system had only in memory is lost.
    fn cut_power(&self) -> bool {
        Command::new("xfs_io")
            .args(["-x", "-c", "shutdown", s(&self.at)])
            .output()
            .is_ok_and(|output| output.status.success())
    }

    fn unmount(&mut self) {
        if std::mem::take(&mut self.mounted) {
            let _ = Command::new("umount").arg(&self.at).output();
        }
    }
}

impl Drop for Drive {
    fn drop(&mut self) {
        self.unmount();
    }
}

/// XFS and ext4 can be shut down without writing back what they hold: what a power cut does, and what their own developers
/// test with.
#[test]
fn after_power_cuts_at_random_points_resume_finishes_with_the_same_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let guest = guest(folder.path());
    let mut dice = Dice(0x9e37_79b9_7f4a_7c15);
    let mut tally = Tally::default();
    let wanted: Vec<_> = WAYS.iter().map(|way| whole(&guest, folder.path(), way)).collect();
    for kind in ["xfs", "ext4"] {
        let Some(mut drive) = Drive::new(folder.path(), kind) else {
            continue;
        };
        for round in 0..8_usize {
            let way = WAYS[round % WAYS.len()];
            let out = drive.at.join(format!("out{round}"));
            let mut child = begin(&guest, &out, way);
            let end = Instant::now() + Duration::from_millis(50) + dice.moment();
            while Instant::now() < end {
                // The kernel may write back any file at any time: journals first is the hardest case.
                for name in files(&out.join("disks"))
                    .iter()
                    .filter(|name| name.ends_with(".journal"))
                {
                    if let Ok(journal) = std::fs::File::open(out.join("disks").join(name)) {
                        let _ = journal.sync_data();
                    }
                }
                std::thread::sleep(Duration::from_millis(5));
            }
            if !drive.cut_power() {
                child.kill().unwrap();
                child.wait().unwrap();
                return skip("xfs_io is missing or the file system cannot be shut down");
            }
            child.kill().unwrap();
            child.wait().unwrap();
            drive.unmount();
            assert!(drive.mount(), "{kind} mounts again after the cut");
            tally.look(&out);
            tally.finish(&guest, &out, way, &wanted[round % WAYS.len()]);
            std::fs::remove_dir_all(out).unwrap();
        }
        drive.unmount();
    }
    println!("{tally:?}");
    if tally.stops > 0 {
        assert!(tally.in_progress >= 4 && tally.continued >= 4, "{tally:?}");
    }
}
