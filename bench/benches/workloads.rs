//! Criterion's view of the kernels that the agent times: an independent harness around the same work.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use esxodus_bench::workloads::{float, integer, parse_text, sieve};
use std::hint::black_box;

fn kernels(c: &mut Criterion) {
    let mut group = c.benchmark_group("cpu");
    group.throughput(Throughput::Elements(8 * 10_000));
    group.bench_function("integer", |bench| bench.iter(|| integer(black_box(10_000))));
    group.throughput(Throughput::Elements(16 * 10_000));
    group.bench_function("float", |bench| bench.iter(|| float(black_box(10_000))));
    group.throughput(Throughput::Elements(1));
    group.bench_function("sieve", |bench| bench.iter(|| sieve(black_box(1))));
    group.throughput(Throughput::Bytes(64 << 10));
    group.bench_function("parse", |bench| bench.iter(|| parse_text(black_box(1))));
    group.finish();
}

criterion_group!(benches, kernels);
criterion_main!(benches);
