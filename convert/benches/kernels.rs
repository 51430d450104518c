//! The kernels that bound a conversion, each alone on one core.

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use esxodus_convert::copy::is_zero;
use esxodus_convert::image::map::DiskSource as _;
use esxodus_convert::image::qcow2::{
    CompressedFormat, DataFileRule, Encoder, Geometry, Qcow2Image, Qcow2Writer, parse_l2_entry,
};
use std::hint::black_box;

const CLUSTER: usize = 65536;

/// A cluster that compresses to about a third.
fn cluster() -> Vec<u8> {
    let mut dice = vec![0_u8; CLUSTER / 3];
    blake3::Hasher::new().finalize_xof().fill(&mut dice);
    let mut bytes = Vec::with_capacity(CLUSTER + 16);
    for pair in dice.chunks(2) {
        bytes.extend(format!("{:x} etc ", pair[0] & 0x3f).as_bytes());
    }
    bytes.resize(CLUSTER, b'.');
    bytes
}

fn kernels(criterion: &mut Criterion) {
    let content = cluster();
    let mut out = vec![0_u8; CLUSTER + 4096];
    let bytes = Throughput::Bytes(u64::try_from(CLUSTER).expect("64 KiB"));

    let mut group = criterion.benchmark_group("cluster of 64 KiB");
    group.throughput(bytes);
    let mut compressor = libdeflater::Compressor::new(libdeflater::CompressionLvl::new(6).expect("a level"));
    let length = compressor.zlib_compress(&content, &mut out).expect("room");
    let grain = out[..length].to_vec();
    let mut inflater = libdeflater::Decompressor::new();
    group.bench_function("grain inflate with Adler-32", |bench| {
        bench.iter(|| inflater.zlib_decompress(black_box(&grain), &mut out[..CLUSTER]));
    });
    let zeros = vec![0_u8; CLUSTER];
    group.bench_function("zero scan", |bench| bench.iter(|| is_zero(black_box(&zeros))));
    for (name, format, level) in [
        ("compress deflate 6, window 4 KiB", CompressedFormat::Deflate, 6),
        ("compress zstd 1", CompressedFormat::Zstd, 1),
        ("compress zstd 3", CompressedFormat::Zstd, 3),
    ] {
        let mut encoder = Encoder::new(format, level).expect("the encoder starts");
        group.bench_function(name, |bench| {
            bench.iter(|| encoder.compress(black_box(&content), &mut out[..CLUSTER - 1]));
        });
    }
    group.finish();

    let leaf: Vec<u8> = content.iter().copied().cycle().take(1 << 20).collect();
    let mut group = criterion.benchmark_group("leaf of 1 MiB");
    group.throughput(Throughput::Bytes(1 << 20));
    group.bench_function("hash", |bench| bench.iter(|| blake3::hash(black_box(&leaf))));
    group.finish();

    let mut group = criterion.benchmark_group("L2");
    group.bench_function("parse an entry", |bench| {
        bench.iter(|| parse_l2_entry(16, false, black_box(0x4012_3456_789a_bcde)));
    });
    let geometry = Geometry::new(65536, 1 << 40, false).expect("sizes that fit");
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("lookup.qcow2");
    let file = std::fs::File::create(&path).expect("a file");
    group.bench_function("place 8192 clusters", |bench| {
        bench.iter_batched(
            || Qcow2Writer::new(&file, geometry, CompressedFormat::Deflate),
            |mut writer| {
                for cluster in 0..8192 {
                    writer
                        .stored(black_box(cluster), true)
                        .expect("no table is written yet");
                }
                writer
            },
            BatchSize::SmallInput,
        );
    });
    let mut writer = Qcow2Writer::new(&file, geometry, CompressedFormat::Deflate);
    for cluster in (0..16 << 10).step_by(3) {
        writer.stored(cluster, true).expect("room");
    }
    let header = writer.finish().expect("room");
    writer.write_header(&header).expect("room");
    let image = Qcow2Image::open(&path, DataFileRule::Refuse).expect("what was just written");
    group.bench_function("look up 512 MiB of clusters", |bench| {
        bench.iter(|| image.map(black_box(0), 512 << 20).expect("sound tables").len());
    });
    group.finish();
}

criterion_group!(benches, kernels);
criterion_main!(benches);
