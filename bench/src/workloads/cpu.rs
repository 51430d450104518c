//! Integer, prime sieve, floating point, branchy parsing; on one thread, on all, and the scaling curve between.
//!
//! Pitfalls common to all: user-mode code runs at native speed under any hardware virtualisation, so that differences show
//! the CPU, its clock rate and noisy neighbours rather than the hypervisor. Under TCG they show the translator.

use super::{Built, Context, Definition, Planned, parser, run_threads};
use crate::harness::Scale;
use crate::sys::divide::remainder;
use reports::schema::{Better, Suite};
use std::hint::black_box;
use std::num::NonZeroU64;

/// Work of one thread: iterations in, checksum out.
type Work = fn(u64) -> u64;

struct Family {
    name: &'static str,
    title: &'static str,
    unit: &'static str,
    /// Units of the rate that an iteration is worth.
    factor: f64,
    work: Work,
    method: &'static str,
    measures: &'static str,
    pitfalls: &'static str,
    reference: &'static str,
}

const FAMILIES: [Family; 4] = [
    Family {
        name: "integer",
        title: "Integer arithmetic",
        unit: "Mops/s",
        factor: 8.0 / 1e6,
        work: integer,
        method: "8 dependent 64-bit operations an iteration (multiply, add, shift, xor, rotate) on 2 chains",
        measures: "64-bit multiply, add, shift, xor, rotate on two dependency chains",
        pitfalls: "latency-bound by design, so that vector units and compilers change little",
        reference: "stress-ng --cpu-method int64",
    },
    Family {
        name: "sieve",
        title: "Primes as sysbench counts them",
        unit: "events/s",
        factor: 1.0,
        work: sieve,
        method: "sysbench cpu: trial division of 3..10000 by 2..sqrt(n) with the 64-bit div instruction, one event a pass",
        measures: "integer division and branches: sysbench's cpu test with cpu-max-prime 10000",
        pitfalls: "dominated by 64-bit division, whose latency differs by a factor of 4 between CPU generations",
        reference: "sysbench cpu --cpu-max-prime=10000",
    },
    Family {
        name: "float",
        title: "Floating point",
        unit: "Mflop/s",
        factor: 16.0 / 1e6,
        work: float,
        method: "8 independent double multiply-adds an iteration, baseline SSE2",
        measures: "double precision multiply and add on eight independent chains",
        pitfalls: "built for baseline x86-64: a quarter or less of what AVX2 or AVX-512 code reaches",
        reference: "stress-ng --cpu-method double",
    },
    Family {
        name: "parse",
        title: "Branchy parsing",
        unit: "MB/s",
        factor: parser::TEXT_BYTES as f64 / 1e6,
        work: parser::parse_text,
        method: "tokens of a generated 64 KiB JSON text classified and numbers summed",
        measures: "unpredictable branches and byte loads: a tokenizer over a JSON text",
        pitfalls: "branch prediction state survives between passes; mitigations against Spectre show here",
        reference: "none",
    },
];

pub(super) fn plan<'a>(context: &Context<'a>) -> Vec<Planned<'a>> {
    let mut planned = Vec::new();
    for family in &FAMILIES {
        for threads in thread_counts(context.threads, family.name == "integer", context.suite) {
            planned.push(one(family, threads, context.threads));
        }
    }
    planned
}

/// 1 and N, and the powers of two between for the scaling curve.
fn thread_counts(all: usize, curve: bool, suite: Suite) -> Vec<usize> {
    let mut counts = vec![1];
    if curve || suite == Suite::Full {
        counts.extend(
            (1..usize::BITS)
                .map(|bit| 1_usize << bit)
                .take_while(|&count| count < all),
        );
    }
    if all > 1 {
        counts.push(all);
    }
    counts
}

/// `single`, `all`, or `tN` between.
pub(super) fn variant(threads: usize, all: usize) -> String {
    match threads {
        1 => "single".to_owned(),
        n if n == all => "all".to_owned(),
        n => format!("t{n}"),
    }
}

fn one<'a>(family: &'static Family, threads: usize, all: usize) -> Planned<'a> {
    let plural = if threads == 1 {
        "one thread".to_owned()
    } else {
        format!("{threads} threads")
    };
    let definition = Definition {
        id: format!("cpu.{}.{}", family.name, variant(threads, all)),
        name: format!("{}, {plural}", family.title),
        unit: family.unit,
        better: Better::Higher,
        measures: family.measures,
        pitfalls: family.pitfalls,
        reference: family.reference,
    };
    let build = move |context: &Context<'a>| {
        let cpus = context.cpus.clone();
        let work = family.work;
        Ok(Built {
            kernel: Box::new(move |iterations, _| {
                Ok(run_threads(threads, &cpus, |thread| {
                    black_box(work(black_box(iterations)).wrapping_add(thread as u64));
                }))
            }),
            scale: Scale::Rate(family.factor * threads as f64),
            method: format!("{}; {plural}", family.method),
        })
    };
    Planned {
        definition,
        weight: 1.0,
        build: Box::new(build),
    }
}

/// Two chains of four operations each, every one needing the one before.
#[must_use]
pub fn integer(iterations: u64) -> u64 {
    let (mut a, mut b) = (0x9e37_79b9_7f4a_7c15_u64, 0xbf58_476d_1ce4_e5b9_u64);
    for i in 0..iterations {
        a = a.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(i);
        a ^= a >> 29;
        b = b.rotate_left(17) ^ a;
        b = b.wrapping_mul(0x94d0_49bb_1331_11eb);
    }
    a ^ b
}

/// The loop of sysbench's `sb_cpu.c` (`cpu_execute_event`), `cpu-max-prime` 10000, with the instructions that gcc makes of
/// it: a 64-bit division, and the divisor compared with the root as a double. Returns the number of primes found.
#[must_use]
pub fn sieve(events: u64) -> u64 {
    const MAX_PRIME: i64 = 10_000;
    const FIRST: NonZeroU64 = NonZeroU64::new(2).expect("two");
    let mut found = 0;
    for _ in 0..events {
        let max_prime = black_box(MAX_PRIME);
        for candidate in 3..max_prime {
            let root = (candidate as f64).sqrt();
            let mut divisor = FIRST;
            let within = |divisor: NonZeroU64| divisor.get().cast_signed() as f64 <= root;
            while within(divisor) && remainder(candidate.cast_unsigned(), divisor) != 0 {
                divisor = divisor.saturating_add(1);
            }
            found += u64::from(!within(divisor));
        }
    }
    found
}

/// Eight independent multiply-adds an iteration; values converge, so that they never become denormal or infinite.
#[must_use]
pub fn float(iterations: u64) -> u64 {
    let factor = black_box(0.999_9);
    let term = black_box(0.000_1);
    let mut values = black_box([1.0_f64, 1.1, 1.2, 1.3, 1.4, 1.5, 1.6, 1.7]);
    for _ in 0..iterations {
        for value in &mut values {
            *value = *value * factor + term;
        }
    }
    values.iter().sum::<f64>().to_bits()
}

#[cfg(test)]
mod tests {
    use super::{sieve, thread_counts, variant};
    use reports::schema::Suite;

    #[test]
    fn one_event_finds_the_odd_primes_below_ten_thousand() {
        // 1229 primes below 10,000, without 2, as sysbench starts at 3.
        assert_eq!(sieve(1), 1228);
        assert_eq!(sieve(2), 2456);
    }

    #[test]
    fn scaling_curve_has_one_all_and_powers_of_two_between() {
        assert_eq!(thread_counts(6, true, Suite::Quick), [1, 2, 4, 6]);
        assert_eq!(thread_counts(6, false, Suite::Quick), [1, 6]);
        assert_eq!(thread_counts(1, true, Suite::Full), [1]);
        assert_eq!([variant(1, 6), variant(4, 6), variant(6, 6)], ["single", "t4", "all"]);
    }
}
