//! Speed of the statistics: a comparison of 50 metrics must not be noticed.

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use esxodus_bench::stats::{Prng, mann_whitney_u, median_interval, ratio_interval, wilcoxon_signed_rank};
use std::hint::black_box;

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
        group.bench_with_input(BenchmarkId::new("mann_whitney_u", n), &a, |bench, a| {
            bench.iter(|| mann_whitney_u(black_box(a), &b));
        });
        group.bench_with_input(BenchmarkId::new("wilcoxon_signed_rank", n), &a, |bench, a| {
            bench.iter(|| wilcoxon_signed_rank(black_box(a), &b));
        });
    }
    group.finish();
}

criterion_group!(benches, statistics);
criterion_main!(benches);
