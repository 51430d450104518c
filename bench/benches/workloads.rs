//! Criterion's view of the kernels that the agent times: an independent harness around the very same work.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use esxodus_bench::harness::{Halt, Recorder};
use esxodus_bench::workloads::{float, integer, parse_text, sieve};
use esxodus_bench::{SuiteOptions, kernel};
use reports::schema::Suite;
use std::hint::black_box;
use std::sync::atomic::AtomicBool;

static NEVER: AtomicBool = AtomicBool::new(false);

/// Work that needs nothing prepared.
fn functions(c: &mut Criterion) {
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

/// Kernels as the suite builds them; an iteration is the suite's. What this machine lacks is left out with the reason.
fn kernels(c: &mut Criterion) {
    const BUFFER: u64 = 16 << 10;
    let families: [(&str, &[&str], Option<u64>); 4] = [
        (
            "crypto",
            &["cpu.sha256.plain", "cpu.sha256.ni", "cpu.aes.plain", "cpu.aes.ni"],
            Some(BUFFER),
        ),
        (
            "stream",
            &[
                "memory.copy.single",
                "memory.scale.single",
                "memory.add.single",
                "memory.triad.single",
            ],
            None,
        ),
        (
            "chase",
            &["memory.latency.16k", "memory.latency.256k", "memory.latency.4m"],
            None,
        ),
        ("fault", &["memory.page-fault"], None),
    ];
    let options = SuiteOptions {
        // Three arrays of 32 MiB.
        memory_budget_bytes: Some(96 << 20),
        ..SuiteOptions::new(Suite::Quick, std::env::temp_dir())
    };
    for (name, ids, bytes) in families {
        let mut group = c.benchmark_group(name);
        group.sample_size(20);
        if let Some(bytes) = bytes {
            group.throughput(Throughput::Bytes(bytes));
        }
        for id in ids {
            match kernel(&options, id, &NEVER) {
                Ok(mut kernel) => {
                    let mut recorder = Recorder::default();
                    group.bench_function(*id, |bench| {
                        bench.iter_custom(|iterations| {
                            recorder.begin_sample();
                            kernel(iterations, &mut recorder).expect("a kernel that was built runs")
                        });
                    });
                }
                Err(Halt::Skip(reason)) => println!("SKIP: {id}: {reason}"),
                Err(Halt::Cancelled) => {}
            }
        }
        group.finish();
    }
}

criterion_group!(benches, functions, kernels);
criterion_main!(benches);
