//! The images that are damaged, and how: in place, so that a mutant costs a few bytes and not a copy of the image.

use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use crate::fixtures::{
    Grain, Random, SeGrain, cowd, descriptor, hosted, pattern, read_gz, read_xz, samples, sesparse, stream,
};

const GRAIN: usize = 65_536;
/// Mutants of each image.
const ROUNDS: usize = 2000;
/// What a stranger would write into a text.
const WORDS: [&[u8]; 7] = [
    b"\"../hosted/body.vmdk\"",
    b"\"/etc/passwd\"",
    b"\"link.img\"",
    b"NOACCESS ",
    b"99999999",
    b"ffffffff",
    b"ZERO\n",
];

/// How the damaged file is read.
pub(crate) enum Top {
    /// As a disk, through this file.
    Disk(PathBuf),
    /// As a package, the disks inside of which are then read.
    Package(PathBuf),
}

/// A file to damage.
pub(crate) struct Target {
    pub(crate) name: String,
    pub(crate) home: PathBuf,
    pub(crate) top: Top,
    pub(crate) rounds: usize,
    victim: File,
    good: Vec<u8>,
    /// Where the metadata is; half of the damage goes there.
    hot: Vec<Range<usize>>,
    /// A text takes more harm from words than from bits.
    text: bool,
    touched: Vec<Range<usize>>,
    cut: Option<usize>,
}

impl Target {
    /// Damages one to four places: bits, bytes, extreme numbers, copies of other places, words; now and then the length.
    /// The damage before is undone.
    pub(crate) fn damage(&mut self, random: &mut Random) {
        self.restore();
        for _ in 0..=random.below(4) {
            let hot = &self.hot[random.below(self.hot.len())];
            let area = if random.below(2) == 0 {
                hot.start..hot.end.min(self.good.len())
            } else {
                0..self.good.len()
            };
            let at = area.start + random.below(area.len());
            let from = random.below(self.good.len());
            let words = self.text && random.below(2) == 0;
            let mut bytes = match if words { 7 } else { random.below(8) } {
                0 => vec![self.good[at] ^ (1 << random.below(8))],
                1 => vec![random.next().to_le_bytes()[0]],
                2 => vec![0xff; 4],
                3 => random.next().to_le_bytes().to_vec(),
                4 => vec![0; 8],
                5 => self.good[from..].iter().take(8).copied().collect(),
                6 => random.below(GRAIN).to_le_bytes()[..4].to_vec(),
                _ => WORDS[random.below(WORDS.len())].to_vec(),
            };
            bytes.truncate(self.good.len() - at);
            self.put(at, &bytes);
            self.touched.push(at..at + bytes.len());
        }
        if random.below(24) == 0 {
            let length = random.below(self.good.len());
            self.resize(length);
            self.cut = Some(length);
        }
    }

    /// Makes the file whole again.
    pub(crate) fn restore(&mut self) {
        if let Some(length) = self.cut.take() {
            self.resize(self.good.len());
            self.put(length, &self.good[length..]);
        }
        for range in std::mem::take(&mut self.touched) {
            self.put(range.start, &self.good[range]);
        }
    }

    fn put(&self, at: usize, bytes: &[u8]) {
        let at = u64::try_from(at).expect("small");
        self.victim.write_all_at(bytes, at).expect("the mutant is written");
    }

    fn resize(&self, length: usize) {
        let length = u64::try_from(length).expect("small");
        self.victim.set_len(length).expect("the mutant is cut");
    }
}

/// Collects targets, each in a folder of its own below `root`.
struct Zoo<'a> {
    root: &'a Path,
    targets: Vec<Target>,
}

impl Zoo<'_> {
    /// `good` under `file`; read through a `top.vmdk` with this text where there is one. `hot` beside both ends.
    fn add(&mut self, name: &str, file: &str, good: Vec<u8>, top: Option<&str>, hot: &[Range<usize>]) -> PathBuf {
        let home = self.root.join(name);
        std::fs::create_dir(&home).expect("folder");
        let victim = home.join(file);
        std::fs::write(&victim, &good).expect("write");
        let top = match top {
            Some(text) => {
                let path = home.join("top.vmdk");
                std::fs::write(&path, text).expect("write");
                Top::Disk(path)
            }
            None if file.ends_with(".ova") => Top::Package(victim.clone()),
            None => Top::Disk(victim.clone()),
        };
        let ends = [0..good.len().min(4096), good.len().saturating_sub(4096)..good.len()];
        let text = good.starts_with(b"#");
        let starts = |index: &usize| text && b" \n=".contains(&good[index - 1]);
        let words = (1..good.len()).filter(starts).map(|index| index..index + 1);
        let hot = ends.iter().chain(hot).cloned().chain(words).collect();
        self.targets.push(Target {
            name: name.to_owned(),
            home: home.clone(),
            top,
            rounds: ROUNDS,
            victim: File::options().write(true).open(&victim).expect("victim"),
            hot,
            text,
            good,
            touched: Vec::new(),
            cut: None,
        });
        home
    }
}

/// Images of every kind below `root`: generated ones, and every sample where they are there.
pub(crate) fn zoo(root: &Path) -> Vec<Target> {
    let mut zoo = Zoo {
        root,
        targets: Vec::new(),
    };
    generated(&mut zoo);
    if let Some(samples) = samples() {
        genuine(&mut zoo, &samples);
    }
    zoo.targets
}

fn one_line(kind: &str, line: &str) -> String {
    descriptor(1, None, kind, &[line.to_owned()])
}

fn generated(zoo: &mut Zoo<'_>) {
    let grain = |seed| match seed {
        3 => Grain::Zero,
        _ => Grain::Data(pattern(seed, GRAIN)),
    };
    let grains: Vec<Grain> = (0..6).map(grain).collect();
    let text = one_line("monolithicSparse", "RW 1024 SPARSE \"body.vmdk\"");
    let tables = 21 * 512..32 * 512;
    zoo.add(
        "hosted",
        "body.vmdk",
        hosted(1024, &grains, Some(&text)),
        None,
        &[tables],
    );
    zoo.add("stream", "body.vmdk", stream(1024, &grains), None, &[]);
    let grains = [(0, Grain::Data(pattern(1, 512))), (5000, Grain::Zero)];
    zoo.add(
        "cowd",
        "body.vmdk",
        cowd(8192, 4, &grains),
        Some(&one_line("vmfsSparse", "RW 8192 VMFSSPARSE \"body.vmdk\"")),
        &[],
    );
    let grains = [(0, SeGrain::Data(pattern(1, 4096))), (9, SeGrain::Unmapped)];
    zoo.add(
        "sesparse",
        "body.vmdk",
        sesparse(32_768, &grains),
        Some(&one_line("seSparse", "RW 32768 SESPARSE \"body.vmdk\"")),
        &[16 * 512..16 * 512 + 64, 32 * 512..32 * 512 + 128],
    );
    let lines = [
        "RW 8 FLAT \"flat.img\" 0".to_owned(),
        "RW 8 ZERO".to_owned(),
        "RW 1024 SPARSE \"hosted.vmdk\"".to_owned(),
    ];
    let text = descriptor(1, Some((1, "/vmfs/volumes/5f/x/base.vmdk")), "custom", &lines);
    let home = zoo.add("descriptor", "body.vmdk", text.into_bytes(), None, &[]);
    std::fs::write(home.join("flat.img"), [1; 8192]).expect("write");
    std::fs::write(home.join("base.vmdk"), one_line("custom", "RW 1040 ZERO")).expect("write");
    std::fs::copy(zoo.root.join("hosted/body.vmdk"), home.join("hosted.vmdk")).expect("copy");
    std::os::unix::fs::symlink("/etc/passwd", home.join("link.img")).expect("link");
}

/// Every file of the sample folder.
fn genuine(zoo: &mut Zoo<'_>, samples: &Path) {
    for name in [
        "qemu/iotest-version3.vmdk",
        "qemu/afl9.vmdk",
        "govmomi/ttylinux-pc_i486-16.1-disk1.vmdk",
        "cot/blank.vmdk",
        "cot/input.vmdk",
        "cot/ubuntu.2.0-disk1.vmdk",
        "vcd/test_vapp_template.ova",
        "vcd/template_without_vmdk_size.ova",
        "vcd/template_with_custom_chunk_size.ova",
        "vcd/tf_test_vapp_template.ova",
        "vcd/vapp_with_3_vms.ova",
        "harvester/test.ova",
        "govmomi/ttylinux-pc_i486-16.1.ova",
    ] {
        let good = std::fs::read(samples.join(name)).expect(name);
        let file = if name.ends_with(".ova") {
            "body.ova"
        } else {
            "body.vmdk"
        };
        // The description and the first disk's header of a package.
        let hot = 512..20_480;
        zoo.add(&name.replace('/', "-"), file, good, None, &[hot]);
    }
    let body = read_xz(&samples.join("osv-scalibr/valid-ext-exfat-fat32-ntfs.vmdk.xz"));
    let tables = 21 * 512..64 * 512;
    zoo.add("osv-scalibr", "body.vmdk", body, None, &[tables]);
    // Directory, tables and the journal's header, where the genuine file has them.
    let body = read_gz(&samples.join("dissect/sesparse.vmdk.gz"));
    let (directory, tables) = (0x1000 * 512, 0x1800 * 512);
    zoo.add(
        "genuine-sesparse",
        "body.vmdk",
        body,
        Some(&one_line("seSparse", "RW 1048576 SESPARSE \"body.vmdk\"")),
        &[directory..directory + 256, tables..tables + 32_768],
    );
    let text = std::fs::read(samples.join("dissect/sesparse-desc.vmdk")).expect("descriptor");
    let home = zoo.add("genuine-sesparse-descriptor", "body.vmdk", text, None, &[]);
    std::fs::hard_link(zoo.root.join("genuine-sesparse/body.vmdk"), home.join("sesparse.vmdk")).expect("link");
}
