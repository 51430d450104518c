//! Speed of the statistics: a comparison of 50 metrics must not be noticed.

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use esxodus_bench::harness::Recorder;
use esxodus_bench::stats::{
    Prng, holm, mann_whitney_u, median_interval, ratio_interval, ratio_interval_paired, wilcoxon_signed_rank,
};
use std::hint::black_box;
use std::time::Duration;

fn statistics(c: &mut Criterion) {
    let mut group = c.benchmark_group("stats");
    for n in [10_usize, 60] {
        let mut prng = Prng::new(1);
        let mut draw = || -> Vec<f64> { (0..n).map(|_| 100.0 + prng.normal()).collect() };
        let (a, b) = (draw(), draw());
        group.bench_with_input(BenchmarkId::new("median_interval", n), &a, |bench, a| {
            bench.iter(|| median_interval(black_box(a)));
        });
        group.bench_with_input(BenchmarkId::new("ratio_interval", n), &a, |bench, a| {
            bench.iter(|| ratio_interval(black_box(a), &b));
        });
        group.bench_with_input(BenchmarkId::new("ratio_interval_paired", n), &a, |bench, a| {
            bench.iter(|| ratio_interval_paired(black_box(a), &b));
        });
        group.bench_with_input(BenchmarkId::new("mann_whitney_u", n), &a, |bench, a| {
            bench.iter(|| mann_whitney_u(black_box(a), &b));
        });
        group.bench_with_input(BenchmarkId::new("wilcoxon_signed_rank", n), &a, |bench, a| {
            bench.iter(|| wilcoxon_signed_rank(black_box(a), &b));
        });
    }
    for n in [50_usize, 100] {
        let mut prng = Prng::new(2);
        let p: Vec<f64> = (0..n).map(|_| prng.normal().abs() / 100.0).collect();
        group.bench_with_input(BenchmarkId::new("holm", n), &p, |bench, p| {
            bench.iter(|| holm(black_box(p)));
        });
    }
    group.finish();
}

/// What a latency costs to be recorded: it stands inside of every closed loop.
fn recorder(c: &mut Criterion) {
    let mut group = c.benchmark_group("recorder");
    let mut recorder = Recorder::default();
    let mut latency = Duration::from_nanos(700);
    group.bench_function("record", |bench| {
        bench.iter(|| {
            // Walks through the buckets of the histogram.
            latency = if latency > Duration::from_millis(50) {
                Duration::from_nanos(700)
            } else {
                latency * 9 / 8
            };
            recorder.record(black_box(latency));
        });
    });
    group.bench_function("keep_sample", |bench| bench.iter(|| recorder.keep_sample()));
    group.bench_function("percentiles", |bench| {
        bench.iter(|| black_box(&recorder).percentiles_us());
    });
    group.finish();
}

criterion_group!(benches, statistics, recorder);
criterion_main!(benches);
