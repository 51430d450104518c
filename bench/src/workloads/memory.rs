//! STREAM, pointer chase, page faults.

use super::cpu::variant;
use super::{Built, Context, Definition, Planned, run_threads};
use crate::harness::{Clock, Halt, Scale};
use crate::stats::Prng;
use crate::sys::cycle::Cycle;
use crate::sys::mapping::{Mapping, Pages};
use reports::schema::{Better, Suite};
use std::cell::RefCell;
use std::hint::black_box;
use std::rc::Rc;
use std::sync::Mutex;
use std::time::Duration;

const MIB: usize = 1 << 20;

pub(super) fn plan<'a>(context: &Context<'a>) -> Vec<Planned<'a>> {
    let arrays = Rc::new(RefCell::new(None));
    let mut planned = Vec::new();
    for threads in if context.threads > 1 {
        vec![1, context.threads]
    } else {
        vec![1]
    } {
        for operation in OPERATIONS {
            planned.push(stream(operation, threads, context.threads, &arrays));
        }
    }
    // The arrays are freed before the pointer chase takes its memory.
    let mut arrays = Some(arrays);
    let quick = [16 << 10, 256 << 10, 4 * MIB, 64 * MIB];
    let full: Vec<usize> = (14..=30).map(|bits| 1 << bits).collect();
    let sizes = if context.suite == Suite::Full {
        &full[..]
    } else {
        &quick[..]
    };
    for &size in sizes {
        planned.push(chase(size, Pages::Small, arrays.take()));
        if size
            >= if context.suite == Suite::Full {
                4 * MIB
            } else {
                64 * MIB
            }
        {
            planned.push(chase(size, Pages::Huge, None));
        }
    }
    planned.push(page_fault(Pages::Small));
    if context.suite == Suite::Full {
        planned.push(page_fault(Pages::Huge));
    }
    planned
}

/// Three arrays of doubles and how large each is.
struct Arrays {
    a: Mapping,
    b: Mapping,
    c: Mapping,
    len: usize,
    method: String,
}

type Shared = Rc<RefCell<Option<Arrays>>>;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Operation {
    Copy,
    Scale,
    Add,
    Triad,
}

const OPERATIONS: [Operation; 4] = [Operation::Copy, Operation::Scale, Operation::Add, Operation::Triad];

impl Operation {
    fn name(self) -> &'static str {
        match self {
            Self::Copy => "copy",
            Self::Scale => "scale",
            Self::Add => "add",
            Self::Triad => "triad",
        }
    }

    /// Bytes that STREAM counts for an element: no write-allocate.
    fn bytes(self) -> f64 {
        match self {
            Self::Copy | Self::Scale => 16.0,
            Self::Add | Self::Triad => 24.0,
        }
    }

    /// One part of the arrays. McCalpin's order: c = a; b = s c; c = a + b; a = b + s c.
    fn run(self, part: &mut Part<'_>) {
        const FACTOR: f64 = 3.0;
        let (a, b, c) = (&mut *part.a, &mut *part.b, &mut *part.c);
        match self {
            Self::Copy => c.iter_mut().zip(&*a).for_each(|(c, a)| *c = *a),
            Self::Scale => b.iter_mut().zip(&*c).for_each(|(b, c)| *b = FACTOR * *c),
            Self::Add => c.iter_mut().zip(&*a).zip(&*b).for_each(|((c, a), b)| *c = *a + *b),
            Self::Triad => a
                .iter_mut()
                .zip(&*b)
                .zip(&*c)
                .for_each(|((a, b), c)| *a = *b + FACTOR * *c),
        }
    }
}

struct Part<'m> {
    a: &'m mut [f64],
    b: &'m mut [f64],
    c: &'m mut [f64],
}

impl Arrays {
    /// At least 4 times the last cache level each, a power of two, unless memory or time forbid.
    fn new(context: &Context<'_>) -> Result<Self, Halt> {
        let wanted =
            usize::try_from(context.last_level_cache_bytes.max(4 << 20).saturating_mul(4)).unwrap_or(usize::MAX);
        let wanted = wanted.checked_next_power_of_two().unwrap_or(1 << 40);
        let memory = usize::try_from(context.memory_bytes / 3).unwrap_or(usize::MAX);
        let time = affordable_bytes(context.share)?;
        let like = context
            .like
            .stream_array_bytes
            .map(|bytes| usize::try_from(bytes).unwrap_or(usize::MAX));
        if let Some(bytes) = like.filter(|bytes| *bytes > memory) {
            return Err(Halt::Skip(format!(
                "the other record's arrays of {} MiB need more memory than the {} bytes that may be used",
                bytes / MIB,
                context.memory_bytes
            )));
        }
        let len = like.unwrap_or_else(|| wanted.min(previous_power(memory)).min(previous_power(time))) / 8 * 8;
        if len < MIB {
            return Err(Halt::Skip(format!(
                "needs 3 MiB of memory, {} may be used",
                context.memory_bytes
            )));
        }
        let new = |value: f64| {
            let mut mapping = Mapping::new(len, Pages::Huge).map_err(|error| Halt::failed("mmap", error))?;
            mapping.doubles().fill(value);
            Ok(mapping)
        };
        let (a, b, c) = (new(1.0)?, new(2.0)?, new(0.0)?);
        context.sizes.borrow_mut().stream_array_bytes = Some(len as u64);
        let method = format!(
            "3 arrays of {} MiB, ordinary stores, transparent huge pages wanted",
            len / MIB
        );
        Ok(Self { a, b, c, len, method })
    }

    fn parts(&mut self, threads: usize) -> Vec<Part<'_>> {
        let chunk = (self.len / 8).div_ceil(threads);
        let (a, b, c) = (self.a.doubles(), self.b.doubles(), self.c.doubles());
        let chunks = a.chunks_mut(chunk).zip(b.chunks_mut(chunk)).zip(c.chunks_mut(chunk));
        chunks.map(|((a, b), c)| Part { a, b, c }).collect()
    }
}

/// How large an array may be so that first touch of three of them takes a third of `share`: measured on 4 MiB.
fn affordable_bytes(share: Duration) -> Result<usize, Halt> {
    const PROBE: usize = 4 * MIB;
    let mut probe = Mapping::new(PROBE, Pages::Huge).map_err(|error| Halt::failed("mmap", error))?;
    let start = Clock::now();
    probe.doubles().fill(1.0);
    let seconds = start.elapsed().as_secs_f64().max(1e-6);
    let bytes = share.as_secs_f64() / 3.0 / seconds * PROBE as f64 / 3.0;
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "`as` saturates, and it is positive"
    )]
    Ok((bytes as usize).max(PROBE))
}

/// The largest power of two that is not above `n`; 0 for 0.
fn previous_power(n: usize) -> usize {
    n.checked_ilog2().map_or(0, |bits| 1 << bits)
}

fn stream<'a>(operation: Operation, threads: usize, all: usize, shared: &Shared) -> Planned<'a> {
    let plural = if threads == 1 {
        "one thread".to_owned()
    } else {
        format!("{threads} threads")
    };
    let definition = Definition {
        id: format!("memory.{}.{}", operation.name(), variant(threads, all)),
        name: format!("STREAM {}, {plural}", operation.name()),
        unit: "MB/s",
        better: Better::Higher,
        measures: "sustained memory bandwidth as STREAM counts it (no write-allocate), 1 MB = 10^6 bytes",
        pitfalls: "ordinary stores: non-temporal ones (icc's STREAM, glibc memcpy) show up to half as much again; \
                   shared with every neighbour on the socket",
        reference: "STREAM (McCalpin), gcc -O3",
    };
    let shared = Rc::clone(shared);
    let first = operation == Operation::Copy && threads == 1;
    let build = move |context: &Context<'a>| {
        let made = shared.borrow_mut().take();
        let arrays = match made {
            Some(arrays) => arrays,
            None => Arrays::new(context)?,
        };
        let (elements, method) = ((arrays.len / 8) as f64, format!("{}; {plural}", arrays.method));
        *shared.borrow_mut() = Some(arrays);
        let cpus = context.cpus.clone();
        Ok(Built {
            kernel: Box::new(move |iterations, _| {
                let mut shared = shared.borrow_mut();
                let arrays = shared
                    .as_mut()
                    .ok_or_else(|| Halt::Skip("the arrays are gone".to_owned()))?;
                let parts: Vec<Mutex<Part<'_>>> = arrays.parts(threads).into_iter().map(Mutex::new).collect();
                Ok(run_threads(threads, &cpus, |thread| {
                    let Some(Ok(mut part)) = parts.get(thread).map(Mutex::lock) else {
                        return;
                    };
                    for _ in 0..iterations {
                        operation.run(&mut part);
                        black_box(&mut *part.a);
                    }
                }))
            }),
            scale: Scale::Rate(elements * operation.bytes() / 1e6),
            method,
        })
    };
    Planned {
        definition,
        weight: if first { 2.0 } else { 1.0 },
        build: Box::new(build),
    }
}

/// A line of the cache.
const LINE_WORDS: usize = 8;

fn chase<'a>(size: usize, pages: Pages, free_first: Option<Shared>) -> Planned<'a> {
    let label = if size < MIB {
        format!("{}k", size >> 10)
    } else {
        format!("{}m", size / MIB)
    };
    let (suffix, with) = match pages {
        Pages::Small => ("", "4 KiB pages"),
        Pages::Huge => (".huge", "huge pages"),
    };
    let definition = Definition {
        id: format!("memory.latency.{label}{suffix}"),
        name: format!("Memory latency, {}, {with}", label.to_uppercase()),
        unit: "ns",
        better: Better::Lower,
        measures: "one dependent load in a random cycle over all cache lines of the area",
        pitfalls: "above the TLB's reach it holds page walks: two-dimensional under nested paging, so that the difference \
                   between 4 KiB and huge pages is the cost of nested paging",
        reference: "lmbench lat_mem_rd with a random stride",
    };
    let build = move |context: &Context<'a>| {
        if let Some(shared) = free_first {
            shared.borrow_mut().take();
        }
        if size as u64 > context.memory_bytes {
            return Err(Halt::Skip(format!(
                "needs {size} bytes of memory, {} may be used",
                context.memory_bytes
            )));
        }
        let mut area = Mapping::new(size, pages).map_err(|error| Halt::failed("mmap", error))?;
        let estimate = set_up_estimate(size)?;
        if estimate > context.share {
            let (estimate, share) = (estimate.as_secs_f64(), context.share.as_secs_f64());
            return Err(Halt::Skip(format!(
                "setting it up would take {estimate:.1} s of a share of {share:.1} s; raise the budget"
            )));
        }
        link(area.words());
        let mut cycle = Cycle::new(area, LINE_WORDS)
            .ok_or_else(|| Halt::Skip("its area is no whole number of lines".to_owned()))?;
        if pages == Pages::Huge && cycle.huge_bytes().is_none_or(|huge| huge < size as u64 / 2) {
            return Err(Halt::Skip(
                "the kernel gave no huge pages (transparent_hugepage/enabled, fragmentation)".to_owned(),
            ));
        }
        Ok(Built {
            kernel: Box::new(move |iterations, _| {
                let start = Clock::now();
                black_box(cycle.follow(iterations));
                Ok(start.elapsed())
            }),
            scale: Scale::Each(1e9),
            method: format!("pointer chase over a random cyclic permutation of 64-byte lines, {size} bytes, {with}"),
        })
    };
    Planned {
        definition,
        weight: if size > 16 * MIB { 1.5 } else { 0.7 },
        build: Box::new(build),
    }
}

/// What linking `size` bytes will take, from a small area; times four, as large areas miss caches.
fn set_up_estimate(size: usize) -> Result<Duration, Halt> {
    const PROBE: usize = MIB;
    if size <= PROBE {
        return Ok(Duration::ZERO);
    }
    let mut probe = Mapping::new(PROBE, Pages::Small).map_err(|error| Halt::failed("mmap", error))?;
    let start = Clock::now();
    link(probe.words());
    Ok(start.elapsed().mul_f64(4.0 * size as f64 / PROBE as f64))
}

/// Links the first words of all lines into one random cycle (Sattolo's algorithm), without a second array.
fn link(words: &mut [u64]) {
    let lines = words.len() / LINE_WORDS;
    for line in 0..lines {
        words[line * LINE_WORDS] = (line * LINE_WORDS) as u64;
    }
    let mut prng = Prng::new(17);
    for line in (1..lines).rev() {
        words.swap(line * LINE_WORDS, prng.index(line) * LINE_WORDS);
    }
}

fn page_fault<'a>(pages: Pages) -> Planned<'a> {
    const AREA: usize = 16 * MIB;
    let (suffix, with, step) = match pages {
        Pages::Small => ("", "4 KiB", 4096),
        Pages::Huge => (".huge", "2 MiB", 2 * MIB),
    };
    let definition = Definition {
        id: format!("memory.page-fault{suffix}"),
        name: format!("Page faults, {with}"),
        unit: "faults/s",
        better: Better::Higher,
        measures: "first touch of anonymous pages: fault, allocation, zeroing; giving them back is outside of the time",
        pitfalls: "memory that the hypervisor has not backed yet faults twice; calibration and warm-up touch it first",
        reference: "stress-ng --fault; will-it-scale page_fault1",
    };
    let build = move |context: &Context<'a>| {
        if AREA as u64 > context.memory_bytes {
            return Err(Halt::Skip(format!(
                "needs {AREA} bytes of memory, {} may be used",
                context.memory_bytes
            )));
        }
        let mut area = Mapping::new(AREA, pages).map_err(|error| Halt::failed("mmap", error))?;
        if pages == Pages::Huge {
            area.bytes().fill(1);
            if area.huge_bytes().is_none_or(|huge| huge < AREA as u64 / 2) {
                return Err(Halt::Skip(
                    "the kernel gave no huge pages (transparent_hugepage/enabled)".to_owned(),
                ));
            }
        }
        Ok(Built {
            kernel: Box::new(move |iterations, _| {
                let mut elapsed = Duration::ZERO;
                let mut left = usize::try_from(iterations).unwrap_or(usize::MAX);
                while left > 0 {
                    area.forget_pages().map_err(|error| Halt::failed("madvise", error))?;
                    let now = left.min(AREA / step);
                    let bytes = area.bytes();
                    let start = Clock::now();
                    for page in 0..now {
                        bytes[page * step] = 1;
                    }
                    black_box(bytes);
                    elapsed += start.elapsed();
                    left -= now;
                }
                Ok(elapsed)
            }),
            scale: Scale::Rate(1.0),
            method: format!("first touch of {with} pages of a 16 MiB private anonymous mapping, one thread"),
        })
    };
    Planned {
        definition,
        weight: 0.7,
        build: Box::new(build),
    }
}

#[cfg(test)]
mod tests {
    use super::{LINE_WORDS, Operation, Part, link, previous_power};

    #[test]
    fn chase_visits_every_line_once_before_it_returns() {
        let mut words = vec![0_u64; 1000 * LINE_WORDS];
        link(&mut words);
        let (mut at, mut steps) = (0, 0);
        loop {
            at = usize::try_from(words[at]).expect("an index");
            steps += 1;
            if at == 0 {
                break;
            }
        }
        assert_eq!(steps, 1000);
    }

    #[test]
    fn stream_operations_compute_what_they_say() {
        let (mut a, mut b, mut c) = (vec![1.0; 4], vec![2.0; 4], vec![0.0; 4]);
        let mut part = Part {
            a: &mut a,
            b: &mut b,
            c: &mut c,
        };
        Operation::Copy.run(&mut part);
        Operation::Scale.run(&mut part);
        Operation::Add.run(&mut part);
        Operation::Triad.run(&mut part);
        assert_eq!((part.a[3], part.b[3], part.c[3]), (15.0, 3.0, 4.0));
    }

    #[test]
    fn powers_round_down() {
        assert_eq!([0, 1, 3, 4, 1023].map(previous_power), [0, 1, 2, 4, 512]);
    }
}
