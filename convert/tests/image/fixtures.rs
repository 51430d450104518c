//! Makes small images of every kind, byte by byte, so that tests know what each byte means.

use std::io::Read;
use std::path::{Path, PathBuf};

use convert::image::map::DiskSource;
use convert::image::{DiskLocation, ImageError, OpenOptions, open};
use sha2::{Digest, Sha256};

/// The folder with the sample images, or the reason to skip.
pub(crate) fn samples() -> Option<PathBuf> {
    let beside = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/images");
    let path = std::env::var_os("ESXODUS_SAMPLES").map_or(beside, PathBuf::from);
    if path.is_dir() {
        return Some(path);
    }
    println!("SKIP: {} is not there", path.display());
    None
}

pub(crate) fn read_gz(path: &Path) -> Vec<u8> {
    let mut out = Vec::new();
    flate2::read::GzDecoder::new(std::fs::File::open(path).expect("sample"))
        .read_to_end(&mut out)
        .expect("gzip");
    out
}

pub(crate) fn read_xz(path: &Path) -> Vec<u8> {
    let mut out = Vec::new();
    xz2::read::XzDecoder::new(std::fs::File::open(path).expect("sample"))
        .read_to_end(&mut out)
        .expect("xz");
    out
}

pub(crate) fn open_file(path: &Path) -> Result<Box<dyn DiskSource>, ImageError> {
    open(&DiskLocation::file(path), &OpenOptions::default())
}

pub(crate) fn open_salvage(path: &Path) -> Result<Box<dyn DiskSource>, ImageError> {
    open(
        &DiskLocation::file(path),
        &OpenOptions {
            salvage: true,
            ..OpenOptions::default()
        },
    )
}

/// SHA-256 of the guest-visible bytes; holes are hashed without being read.
pub(crate) fn content_sha(disk: &dyn DiskSource) -> String {
    let mut hash = Sha256::new();
    let zeros = vec![0; 1 << 20];
    let mut buffer = vec![0; 1 << 20];
    let mut at = 0;
    while at < disk.virtual_bytes() {
        let length = (64 << 20).min(disk.virtual_bytes() - at);
        for run in disk.map(at, length).expect("map") {
            let mut done = 0;
            while done < run.length {
                let take = (run.length - done).min(1 << 20);
                let size = usize::try_from(take).expect("small");
                let empty = matches!(
                    run.source,
                    convert::image::map::RunSource::Hole | convert::image::map::RunSource::Zero
                );
                if empty {
                    hash.update(&zeros[..size]);
                } else {
                    disk.read_at(run.offset + done, &mut buffer[..size]).expect("read");
                    hash.update(&buffer[..size]);
                }
                done += take;
            }
        }
        at += length;
    }
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// All guest bytes.
pub(crate) fn content(disk: &dyn DiskSource) -> Vec<u8> {
    let mut all = vec![0; usize::try_from(disk.virtual_bytes()).expect("small")];
    disk.read_at(0, &mut all).expect("read");
    all
}

/// Checks what every map promises: ascending, no gap, no overlap, exactly the window.
pub(crate) fn check_map(disk: &dyn DiskSource, offset: u64, length: u64) {
    let mut at = offset;
    for run in disk.map(offset, length).expect("map") {
        assert_eq!(run.offset, at, "runs follow each other");
        assert!(run.length > 0, "no empty run");
        at += run.length;
    }
    assert_eq!(at, offset + length, "the window is covered");
}

/// A reproducible number sequence (xorshift64*), so that a failure can be repeated.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    pub(crate) fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.next() % u64::try_from(limit.max(1)).expect("usize")).expect("small")
    }
}

/// `length` bytes that compress a little, different for each seed.
pub(crate) fn pattern(seed: u64, length: usize) -> Vec<u8> {
    let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let mut out = Vec::with_capacity(length);
    while out.len() < length {
        let word = random.next().to_le_bytes();
        out.extend_from_slice(&word[..4]);
        out.extend_from_slice(&[word[0]; 12]);
    }
    out.truncate(length);
    out
}

pub(crate) fn put16(bytes: &mut [u8], at: usize, value: u16) {
    bytes[at..at + 2].copy_from_slice(&value.to_le_bytes());
}

pub(crate) fn put32(bytes: &mut [u8], at: usize, value: u32) {
    bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
}

pub(crate) fn put64(bytes: &mut [u8], at: usize, value: u64) {
    bytes[at..at + 8].copy_from_slice(&value.to_le_bytes());
}

fn size32(value: usize) -> u32 {
    u32::try_from(value).expect("small")
}

fn size64(value: usize) -> u64 {
    u64::try_from(value).expect("small")
}

/// What a grain of a generated image is.
#[derive(Debug, Clone)]
pub(crate) enum Grain {
    Absent,
    Zero,
    Data(Vec<u8>),
}

/// The text of a descriptor with these extent lines.
pub(crate) fn descriptor(cid: u32, parent: Option<(u32, &str)>, create_type: &str, lines: &[String]) -> String {
    let (parent_cid, hint) = parent.map_or((0xffff_ffff, String::new()), |(cid, hint)| {
        (cid, format!("parentFileNameHint=\"{hint}\"\n"))
    });
    format!(
        "# Disk DescriptorFile\nversion=1\nCID={cid:08x}\nparentCID={parent_cid:08x}\ncreateType=\"{create_type}\"\n{hint}\n# Extent description\n{}\n\n# The Disk Data Base\nddb.adapterType = \"lsilogic\"\n",
        lines.join("\n")
    )
}

/// A hosted sparse file: 64 KiB grains, 512 entries, redundant tables, descriptor embedded where given.
/// Sectors: 0 header, 1 descriptor (20), 21 RGD, 22 its tables, then GD, then its tables, grains from a 64 KiB boundary.
pub(crate) fn hosted(sectors: u64, grains: &[Grain], text: Option<&str>) -> Vec<u8> {
    hosted_of(128, sectors, grains, text)
}

/// As [`hosted`], with grains of `grain` sectors, which begin at a multiple of that.
pub(crate) fn hosted_of(grain: usize, sectors: u64, grains: &[Grain], text: Option<&str>) -> Vec<u8> {
    let tables = usize::try_from(sectors.div_ceil(size64(grain) * 512)).expect("small");
    assert!(tables <= 128, "the directory is one sector");
    let (rgd, rgt) = (21, 22);
    let gd = rgt + tables * 4;
    let gt = gd + 1;
    let first = (gt + tables * 4).div_ceil(grain) * grain;
    let mut out = vec![0; first * 512];
    put32(&mut out, 0, 0x564d_444b);
    put32(&mut out, 4, 2);
    put32(&mut out, 8, 7);
    put64(&mut out, 12, sectors);
    put64(&mut out, 20, size64(grain));
    put64(&mut out, 28, u64::from(text.is_some()));
    put64(&mut out, 36, if text.is_some() { 20 } else { 0 });
    put32(&mut out, 44, 512);
    put64(&mut out, 48, size64(rgd));
    put64(&mut out, 56, size64(gd));
    put64(&mut out, 64, size64(first));
    out[73..77].copy_from_slice(b"\n \r\n");
    if let Some(text) = text {
        out[512..512 + text.len()].copy_from_slice(text.as_bytes());
    }
    for table in 0..tables {
        put32(&mut out, rgd * 512 + table * 4, size32(rgt + table * 4));
        put32(&mut out, gd * 512 + table * 4, size32(gt + table * 4));
    }
    for (number, content) in grains.iter().enumerate() {
        let entry = match content {
            Grain::Absent => 0,
            Grain::Zero => 1,
            Grain::Data(data) => {
                let sector = out.len() / 512;
                out.extend_from_slice(data);
                out.resize((sector + grain) * 512, 0);
                size32(sector)
            }
        };
        put32(&mut out, rgt * 512 + number * 4, entry);
        put32(&mut out, gt * 512 + number * 4, entry);
    }
    out
}

/// Where [`hosted`] puts GD and GT, in bytes.
pub(crate) fn hosted_tables(sectors: u64) -> (usize, usize) {
    let tables = usize::try_from(sectors.div_ceil(65_536)).expect("small");
    ((22 + tables * 4) * 512, (23 + tables * 4) * 512)
}

pub(crate) fn zlib(data: &[u8]) -> Vec<u8> {
    let mut compressor = libdeflater::Compressor::new(libdeflater::CompressionLvl::default());
    let mut out = vec![0; compressor.zlib_compress_bound(data.len())];
    let length = compressor.zlib_compress(data, &mut out).expect("bound");
    out.truncate(length);
    out
}

fn sector_up(out: &mut Vec<u8>) {
    out.resize(out.len().div_ceil(512) * 512, 0);
}

fn metadata(out: &mut Vec<u8>, kind: u32, body: &[u8]) -> usize {
    let mut marker = vec![0; 512];
    put64(&mut marker, 0, size64(body.len() / 512));
    put32(&mut marker, 12, kind);
    out.extend_from_slice(&marker);
    let at = out.len() / 512;
    out.extend_from_slice(body);
    at
}

/// A streamOptimized file as ESXi writes it; a progress marker after the first grain.
pub(crate) fn stream(sectors: u64, grains: &[Grain]) -> Vec<u8> {
    stream_saying(
        &format!("RDONLY {sectors} SPARSE \"generated-stream.vmdk\""),
        sectors,
        128,
        grains,
    )
}

/// As [`stream`], with this extent line and grains of `grain` sectors.
pub(crate) fn stream_saying(line: &str, sectors: u64, grain: usize, grains: &[Grain]) -> Vec<u8> {
    let text = descriptor(0x1234_5678, None, "streamOptimized", &[line.to_owned()]);
    let mut out = vec![0; grain * 512];
    put32(&mut out, 0, 0x564d_444b);
    put32(&mut out, 4, 3);
    put32(&mut out, 8, 0x30001);
    put64(&mut out, 12, sectors);
    put64(&mut out, 20, size64(grain));
    put64(&mut out, 28, 1);
    put64(&mut out, 36, 1);
    put32(&mut out, 44, 512);
    put64(&mut out, 56, u64::MAX);
    put64(&mut out, 64, size64(grain));
    out[73..77].copy_from_slice(b"\n \r\n");
    put16(&mut out, 77, 1);
    out[512..512 + text.len()].copy_from_slice(text.as_bytes());
    let mut directory = vec![0; 512];
    for (table, part) in grains.chunks(512).enumerate() {
        let mut entries = vec![0; 2048];
        let mut any = false;
        for (slot, content) in part.iter().enumerate() {
            let Grain::Data(data) = content else { continue };
            put32(&mut entries, slot * 4, size32(out.len() / 512));
            let packed = zlib(data);
            let mut head = vec![0; 12];
            put64(&mut head, 0, size64((table * 512 + slot) * grain));
            put32(&mut head, 8, size32(packed.len()));
            out.extend_from_slice(&head);
            out.extend_from_slice(&packed);
            sector_up(&mut out);
            if !any {
                metadata(&mut out, 4, &[]);
            }
            any = true;
        }
        if any {
            let at = metadata(&mut out, 1, &entries);
            put32(&mut directory, table * 4, size32(at));
        }
    }
    let at = metadata(&mut out, 2, &directory);
    let mut footer = out[..512].to_vec();
    put64(&mut footer, 56, size64(at));
    metadata(&mut out, 3, &footer);
    metadata(&mut out, 0, &[]);
    out
}

/// A COWD file with the directory at `gd_sector`; grains of one sector.
pub(crate) fn cowd(sectors: u32, gd_sector: u32, grains: &[(u32, Grain)]) -> Vec<u8> {
    let tables = sectors.div_ceil(4096);
    let gd = usize::try_from(gd_sector).expect("small") * 512;
    let mut out = vec![0; gd];
    put32(&mut out, 0, 0x4457_4f43);
    put32(&mut out, 4, 1);
    put32(&mut out, 8, 3);
    put32(&mut out, 12, sectors);
    put32(&mut out, 16, 1);
    put32(&mut out, 20, gd_sector);
    put32(&mut out, 24, tables);
    out.resize(gd + usize::try_from(tables.div_ceil(128)).expect("small") * 512, 0);
    let mut places = std::collections::BTreeMap::new();
    for (number, grain) in grains {
        let table = number / 4096;
        let at = *places.entry(table).or_insert_with(|| {
            let at = out.len();
            out.resize(at + 16_384, 0);
            at
        });
        put32(
            &mut out,
            gd + usize::try_from(table).expect("small") * 4,
            size32(at / 512),
        );
        let entry = match grain {
            Grain::Absent => 0,
            Grain::Zero => 1,
            Grain::Data(data) => {
                let sector = out.len() / 512;
                out.extend_from_slice(data);
                size32(sector)
            }
        };
        put32(&mut out, at + usize::try_from(number % 4096).expect("small") * 4, entry);
    }
    let free = size32(out.len() / 512);
    put32(&mut out, 28, free);
    out
}

/// What an entry of a generated seSparse table is.
#[derive(Debug, Clone)]
pub(crate) enum SeGrain {
    Unmapped,
    Zero,
    Data(Vec<u8>),
}

/// A seSparse file of one table (at most 16 MiB).
pub(crate) fn sesparse(sectors: u64, grains: &[(usize, SeGrain)]) -> Vec<u8> {
    let (gd, gt, data) = (16_usize, 32_usize, 128_usize);
    let mut out = vec![0; data * 512];
    for (at, value) in [
        (0, 0xcafe_babe),
        (8, 0x2_0000_0001),
        (16, sectors),
        (24, 8),
        (32, 64),
        (80, 1),
        (88, 1),
        (96, 2),
        (104, 2),
        (112, 4),
        (120, 4),
        (128, size64(gd)),
        (136, 16),
        (144, size64(gt)),
        (152, 64),
        (192, size64(data)),
        (200, sectors),
        (512, 0xcafe_cafe),
        (gd * 512, 0x1000_0000_0000_0000),
    ] {
        put64(&mut out, at, value);
    }
    for (number, grain) in grains {
        let entry = match grain {
            SeGrain::Unmapped => 0x1000_0000_0000_0000,
            SeGrain::Zero => 0x2000_0000_0000_0000,
            SeGrain::Data(bytes) => {
                let index = size64((out.len() - data * 512) / 4096);
                out.extend_from_slice(bytes);
                0x3000_0000_0000_0000 | ((index & 0xfff) << 48) | (index >> 12)
            }
        };
        put64(&mut out, gt * 512 + number * 8, entry);
    }
    out
}
