//! Direct I/O on a preallocated file of incompressible data.
//!
//! The file has no name (O_TMPFILE, or unlinked right after it was made where that is not to be had), so that its space comes
//! back however the program ends. It is filled once and shared by all disk metrics.

use super::engine::{Engine, EngineKind, Operation};
use super::{Built, Context, Definition, Planned};
use crate::harness::{Clock, Halt, Kernel, Recorder, Scale};
use crate::stats::Prng;
use crate::sys::mapping::{Mapping, Pages};
use reports::schema::Better;
use rustix::fs::{FallocateFlags, OFlags, fallocate, fstatvfs};
use std::cell::RefCell;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

const MIB: u64 = 1 << 20;

/// Direct I/O wants this alignment at most.
const BLOCK: usize = 4096;

/// A pattern of requests.
#[derive(Debug, Clone, Copy)]
struct Pattern {
    id: &'static str,
    title: &'static str,
    block: usize,
    /// Reads in a hundred.
    reads: u64,
    random: bool,
    reference: &'static str,
}

const PATTERNS: [Pattern; 5] = [
    Pattern {
        id: "seqread-1m",
        title: "Sequential read, 1 MiB",
        block: 1 << 20,
        reads: 100,
        random: false,
        reference: "fio --rw=read --bs=1m --direct=1",
    },
    Pattern {
        id: "seqwrite-1m",
        title: "Sequential write, 1 MiB",
        block: 1 << 20,
        reads: 0,
        random: false,
        reference: "fio --rw=write --bs=1m --direct=1",
    },
    Pattern {
        id: "randread-4k",
        title: "Random read, 4 KiB",
        block: 4096,
        reads: 100,
        random: true,
        reference: "fio --rw=randread --bs=4k --direct=1",
    },
    Pattern {
        id: "randwrite-4k",
        title: "Random write, 4 KiB",
        block: 4096,
        reads: 0,
        random: true,
        reference: "fio --rw=randwrite --bs=4k --direct=1",
    },
    Pattern {
        id: "randrw-4k",
        title: "Random 70/30 read/write, 4 KiB",
        block: 4096,
        reads: 70,
        random: true,
        reference: "fio --rw=randrw --rwmixread=70 --bs=4k --direct=1",
    },
];

type Shared = Rc<RefCell<Option<Result<Rc<Target>, String>>>>;

pub(super) fn plan<'a>(_context: &Context<'a>) -> Vec<Planned<'a>> {
    let shared: Shared = Rc::new(RefCell::new(None));
    let mut planned = Vec::new();
    for pattern in PATTERNS {
        for depth in if pattern.random { [1, 32] } else { [1, 8] } {
            planned.push(closed_loop(pattern, depth, &shared));
        }
    }
    planned.push(rate_limited(&shared));
    planned.push(fdatasync(&shared));
    // Filling the file is in the share of the first.
    if let Some(first) = planned.first_mut() {
        first.weight = 4.0;
    }
    planned
}

/// The file under test.
struct Target {
    file: File,
    bytes: u64,
    engine: EngineKind,
    how: String,
}

impl Target {
    fn of(shared: &Shared, context: &Context<'_>) -> Result<Rc<Self>, Halt> {
        let made = shared.borrow().clone();
        let made = match made {
            Some(made) => made,
            None => match Self::create(context) {
                Ok(target) => Ok(Rc::new(target)),
                Err(Halt::Cancelled) => return Err(Halt::Cancelled),
                Err(Halt::Skip(reason)) => Err(reason),
            },
        };
        *shared.borrow_mut() = Some(made.clone());
        made.map_err(Halt::Skip)
    }

    fn create(context: &Context<'_>) -> Result<Self, Halt> {
        let file = nameless(&context.folder);
        let file = file.map_err(|error| match error.raw_os_error() {
            Some(libc::EINVAL) => {
                Halt::Skip("this file system has no direct I/O (tmpfs?); give a folder on the disk to test".to_owned())
            }
            _ => Halt::failed("cannot make a file in the folder", error),
        })?;
        let wanted = room(&file, context.disk_budget_bytes)?;
        allocate(&file, wanted)?;
        let bytes = fill(&file, wanted, context)?;
        let engine = EngineKind::best(&file, BLOCK);
        let how = format!(
            "O_DIRECT on a preallocated file of {} MiB of random data, {}",
            bytes / MIB,
            engine.name()
        );
        Ok(Self {
            file,
            bytes,
            engine,
            how,
        })
    }
}

/// A file for direct I/O that has no name: made so where the kernel (3.11) and the file system can, or unlinked at once.
fn nameless(folder: &Path) -> std::io::Result<File> {
    let flags = |flags: OFlags| i32::try_from(flags.bits()).map_err(std::io::Error::other);
    let mut options = OpenOptions::new();
    options.read(true).write(true).mode(0o600);
    let made = options
        .clone()
        .custom_flags(flags(OFlags::DIRECT | OFlags::TMPFILE)?)
        .open(folder);
    // Which error says "not here" differs between file systems; what is truly wrong shows again below.
    if let Ok(file) = made {
        return Ok(file);
    }
    let name = folder.join(format!(".esxodus-bench-{}", std::process::id()));
    let file = options
        .create_new(true)
        .custom_flags(flags(OFlags::DIRECT)?)
        .open(&name);
    // Even an open that fails with EINVAL for O_DIRECT has made the name; one that was there before is not ours.
    if !matches!(&file, Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists) {
        let _ = std::fs::remove_file(&name);
    }
    file
}

/// The size of the file: the budget rounded down to a power of two, or a refusal where that would leave the disk short.
fn room(file: &File, budget: u64) -> Result<u64, Halt> {
    const LEAST: u64 = 16 * MIB;
    let stat = fstatvfs(file).map_err(|error| Halt::failed("statvfs", error))?;
    let free = stat.f_bavail.saturating_mul(stat.f_frsize);
    let bytes = budget.checked_ilog2().map_or(0, |bits| 1_u64 << bits).min(64 << 30);
    if bytes < LEAST {
        return Err(Halt::Skip(format!(
            "the disk budget is {} MiB, at least {} MiB are needed",
            budget / MIB,
            LEAST / MIB
        )));
    }
    // A tenth of the file system stays free for others.
    let reserve = stat.f_blocks.saturating_mul(stat.f_frsize) / 10;
    let needed = bytes.saturating_add(reserve.min(4 << 30));
    if free < needed {
        return Err(Halt::Skip(format!(
            "free space is short: {} MiB free, {} MiB wanted and {} MiB left for others; lower the disk budget",
            free / MIB,
            bytes / MIB,
            (needed - bytes) / MIB
        )));
    }
    Ok(bytes)
}

fn allocate(file: &File, bytes: u64) -> Result<(), Halt> {
    use rustix::io::Errno;
    match fallocate(file, FallocateFlags::empty(), 0, bytes) {
        // File systems without fallocate get their blocks from the fill.
        Ok(()) | Err(Errno::OPNOTSUPP | Errno::NOSYS) => Ok(()),
        Err(error) => Err(Halt::failed("fallocate", error)),
    }
}

/// Writes random data, and stops at a power of two where the share of time is used up. Returns the size.
fn fill(file: &File, wanted: u64, context: &Context<'_>) -> Result<u64, Halt> {
    const CHUNK: u64 = 4 * MIB;
    let size = usize::try_from(CHUNK).map_err(|error| Halt::failed("chunk", error))?;
    let mut buffer = Mapping::new(size, Pages::Small).map_err(|error| Halt::failed("mmap", error))?;
    Prng::new(99).fill(buffer.bytes());
    let start = Clock::now();
    let (mut at, mut power) = (0, 0);
    while at < wanted {
        if context.cancel.load(Ordering::Relaxed) {
            return Err(Halt::Cancelled);
        }
        // Every block differs from every other, so that storage cannot deduplicate.
        for (index, block) in buffer.words().chunks_mut(BLOCK / 8).enumerate() {
            block[0] = at + (index * BLOCK) as u64;
        }
        file.write_all_at(buffer.bytes(), at)
            .map_err(|error| Halt::failed("cannot fill the file", error))?;
        at += CHUNK;
        if at.is_power_of_two() && at >= 16 * MIB {
            power = at;
        }
        let used = start.elapsed();
        // The next power of two would take as long again as all up to here.
        if power == at && used > context.share * 3 / 8 || used > context.share && power > 0 {
            break;
        }
    }
    let bytes = power.max(wanted.min(16 * MIB)).min(wanted);
    file.set_len(bytes)
        .map_err(|error| Halt::failed("cannot cut the file", error))?;
    file.sync_all().map_err(|error| Halt::failed("fsync", error))?;
    Ok(bytes)
}

fn closed_loop<'a>(pattern: Pattern, depth: u32, shared: &Shared) -> Planned<'a> {
    let bandwidth = !pattern.random;
    let definition = Definition {
        id: format!("disk.{}.qd{depth}", pattern.id),
        name: format!("{}, depth {depth}", pattern.title),
        unit: if bandwidth { "MB/s" } else { "IOPS" },
        better: Better::Higher,
        measures: "a closed loop with a fixed number of requests in flight, latency from submission",
        pitfalls: "a closed loop hides its own stalls from the percentiles (see disk.randread-4k.rate); the cache of the \
                   hypervisor and of the storage behind may answer instead of the disk",
        reference: pattern.reference,
    };
    let shared = Rc::clone(shared);
    let build = move |context: &Context<'a>| {
        let target = Target::of(&shared, context)?;
        let scale = if bandwidth { pattern.block as f64 / 1e6 } else { 1.0 };
        let mix = match pattern.reads {
            100 => "reads".to_owned(),
            0 => "writes".to_owned(),
            reads => format!("{reads} % reads"),
        };
        let order = if pattern.random { "random" } else { "sequential" };
        let method = format!(
            "{order} {mix} of {} KiB at depth {depth}, closed loop, {}",
            pattern.block >> 10,
            target.how
        );
        let mut engine = open(&target, pattern.block, depth)?;
        let mut requests = Requests::new(pattern, target.bytes);
        let slots = usize::try_from(depth).unwrap_or(1);
        let cancel = context.cancel;
        // The target must live as long as its engine.
        let kernel: Kernel<'a> = Box::new(move |iterations, recorder| {
            let _file = &target.file;
            run_closed(engine.as_mut(), slots, iterations, &mut requests, recorder, cancel)
        });
        Ok(Built {
            kernel,
            scale: Scale::Rate(scale),
            method,
        })
    };
    Planned {
        definition,
        weight: 1.3,
        build: Box::new(build),
    }
}

fn open(target: &Target, block: usize, depth: u32) -> Result<Box<dyn Engine>, Halt> {
    let random = |bytes: &mut [u8]| Prng::new(u64::from(depth)).fill(bytes);
    target
        .engine
        .open(&target.file, block, depth, &random)
        .map_err(|error| Halt::failed(target.engine.name(), error))
}

/// Where the next request goes.
struct Requests {
    pattern: Pattern,
    blocks: u64,
    next: u64,
    prng: Prng,
}

impl Requests {
    fn new(pattern: Pattern, bytes: u64) -> Self {
        let blocks = (bytes / pattern.block as u64).max(1);
        Self {
            pattern,
            blocks,
            next: 0,
            prng: Prng::new(7),
        }
    }

    fn next(&mut self) -> (Operation, u64) {
        let block = if self.pattern.random {
            self.prng.below(self.blocks)
        } else {
            let block = self.next;
            self.next = (self.next + 1) % self.blocks;
            block
        };
        let read = self.prng.below(100) < self.pattern.reads;
        (
            if read { Operation::Read } else { Operation::Write },
            block * self.pattern.block as u64,
        )
    }
}

fn run_closed(
    engine: &mut dyn Engine,
    slots: usize,
    iterations: u64,
    requests: &mut Requests,
    recorder: &mut Recorder,
    cancel: &AtomicBool,
) -> Result<Duration, Halt> {
    let failed = |error| Halt::failed("disk request failed", error);
    let start = Clock::now();
    let mut began = vec![start; slots];
    let mut free: Vec<usize> = (0..slots).collect();
    let mut done = Vec::with_capacity(slots);
    let (mut left, mut in_flight) = (iterations, 0_usize);
    // After a cancel the requests in flight are still waited for: their buffers belong to the kernel.
    while left > 0 || in_flight > 0 {
        if cancel.load(Ordering::Relaxed) {
            left = 0;
        }
        while left > 0
            && let Some(slot) = free.pop()
        {
            let (operation, offset) = requests.next();
            began[slot] = Clock::now();
            engine.submit(slot, operation, offset).map_err(failed)?;
            left -= 1;
            in_flight += 1;
        }
        if in_flight > 0 {
            engine.wait(&mut done, true).map_err(failed)?;
            let now = Clock::now();
            for slot in done.drain(..) {
                recorder.record(now.since(began[slot]));
                free.push(slot);
                in_flight -= 1;
            }
        }
    }
    if cancel.load(Ordering::Relaxed) {
        Err(Halt::Cancelled)
    } else {
        Ok(start.elapsed())
    }
}

/// Requests a second for the rate-limited run: round numbers, so that two machines of like speed get the same.
const RATES: [u32; 9] = [10, 50, 100, 500, 1000, 2000, 5000, 10_000, 20_000];

fn rate_limited<'a>(shared: &Shared) -> Planned<'a> {
    let definition = Definition {
        id: "disk.randread-4k.rate".to_owned(),
        name: "Random read latency at a fixed rate, 4 KiB".to_owned(),
        unit: "us",
        better: Better::Lower,
        measures: "latency from the intended start of each request at a fixed rate: free of coordinated omission",
        pitfalls: "the rate is the largest round one below half of what depth 1 reaches; only equal rates compare",
        reference: "fio --rate_iops with rate_process=linear",
    };
    let shared = Rc::clone(shared);
    let build = move |context: &Context<'a>| {
        const DEPTH: u32 = 32;
        let target = Target::of(&shared, context)?;
        let mut engine = open(&target, BLOCK, DEPTH)?;
        let mut requests = Requests::new(PATTERNS[2], target.bytes);
        let cancel = context.cancel;
        let mut probe = Recorder::default();
        let took = run_closed(engine.as_mut(), 1, 64, &mut requests, &mut probe, cancel)?;
        let half = 32.0 / took.as_secs_f64().max(1e-9);
        let rate = RATES
            .into_iter()
            .rev()
            .find(|rate| f64::from(*rate) <= half)
            .unwrap_or(RATES[0]);
        let method = format!(
            "random reads of 4 KiB at {rate} a second from intended starts, {}",
            target.how
        );
        let period = Duration::from_secs(1) / rate;
        let kernel: Kernel<'a> = Box::new(move |iterations, recorder| {
            let _file = &target.file;
            run_rate(
                engine.as_mut(),
                DEPTH,
                iterations,
                period,
                &mut requests,
                recorder,
                cancel,
            )
        });
        Ok(Built {
            kernel,
            scale: Scale::MedianLatency(1e-3),
            method,
        })
    };
    Planned {
        definition,
        weight: 1.3,
        build: Box::new(build),
    }
}

/// Request `i` is due at `start + i * period`, and its latency counts from then, also where it had to wait for a slot.
fn run_rate(
    engine: &mut dyn Engine,
    depth: u32,
    iterations: u64,
    period: Duration,
    requests: &mut Requests,
    recorder: &mut Recorder,
    cancel: &AtomicBool,
) -> Result<Duration, Halt> {
    let failed = |error| Halt::failed("disk request failed", error);
    let slots = usize::try_from(depth).unwrap_or(1);
    let start = Clock::now();
    let mut due = start;
    let mut intended = vec![start; slots];
    let mut free: Vec<usize> = (0..slots).collect();
    let mut done = Vec::with_capacity(slots);
    let (mut left, mut in_flight) = (iterations, 0_usize);
    while left > 0 || in_flight > 0 {
        if cancel.load(Ordering::Relaxed) {
            left = 0;
        }
        while left > 0
            && Clock::now() >= due
            && let Some(slot) = free.pop()
        {
            let (operation, offset) = requests.next();
            intended[slot] = due;
            engine.submit(slot, operation, offset).map_err(failed)?;
            due = due.after(period);
            left -= 1;
            in_flight += 1;
        }
        if in_flight > 0 {
            // Without blocking while another request will be due: its start must not wait for this one's end.
            let block = left == 0 || free.is_empty();
            engine.wait(&mut done, block).map_err(failed)?;
            if done.is_empty() {
                std::thread::yield_now();
            }
            let now = Clock::now();
            for slot in done.drain(..) {
                recorder.record(now.since(intended[slot]));
                free.push(slot);
                in_flight -= 1;
            }
        } else if left > 0 {
            // Sleeping overshoots by the timer slack: stop short of it and spin the rest.
            let wait = due.since(Clock::now());
            if wait > Duration::from_micros(150) {
                std::thread::sleep(
                    wait.min(Duration::from_millis(100))
                        .saturating_sub(Duration::from_micros(100)),
                );
            } else {
                std::hint::spin_loop();
            }
        }
    }
    if cancel.load(Ordering::Relaxed) {
        Err(Halt::Cancelled)
    } else {
        Ok(start.elapsed())
    }
}

fn fdatasync<'a>(shared: &Shared) -> Planned<'a> {
    let definition = Definition {
        id: "disk.write-fdatasync".to_owned(),
        name: "Durable write (4 KiB + fdatasync)".to_owned(),
        unit: "us",
        better: Better::Lower,
        measures: "one 4 KiB write and fdatasync, one after the other: what a database's commit waits for",
        pitfalls: "a hypervisor's cache mode `unsafe`, or storage with a battery, answers before the data is safe",
        reference: "fio --rw=write --bs=4k --fdatasync=1",
    };
    let shared = Rc::clone(shared);
    let build = move |context: &Context<'a>| {
        let target = Target::of(&shared, context)?;
        let mut buffer = Mapping::new(BLOCK, Pages::Small).map_err(|error| Halt::failed("mmap", error))?;
        Prng::new(3).fill(buffer.bytes());
        let mut requests = Requests::new(
            Pattern {
                reads: 0,
                random: false,
                ..PATTERNS[3]
            },
            target.bytes,
        );
        let cancel = context.cancel;
        let how = target.how.replace(&format!(", {}", target.engine.name()), "");
        let kernel: Kernel<'a> = Box::new(move |iterations, recorder| {
            let failed = |error| Halt::failed("durable write failed", error);
            let start = Clock::now();
            for _ in 0..iterations {
                if cancel.load(Ordering::Relaxed) {
                    return Err(Halt::Cancelled);
                }
                let began = Clock::now();
                target
                    .file
                    .write_all_at(buffer.bytes(), requests.next().1)
                    .map_err(failed)?;
                target.file.sync_data().map_err(failed)?;
                recorder.record(began.elapsed());
            }
            Ok(start.elapsed())
        });
        Ok(Built {
            kernel,
            scale: Scale::MedianLatency(1e-3),
            method: format!("pwrite of 4 KiB and fdatasync in turn, {how}"),
        })
    };
    Planned {
        definition,
        weight: 1.3,
        build: Box::new(build),
    }
}

#[cfg(test)]
mod tests {
    use super::{Engine, Operation, PATTERNS, Requests, room, run_rate};
    use crate::harness::{Clock, Halt, Recorder};
    use std::sync::atomic::AtomicBool;
    use std::time::Duration;

    #[test]
    fn too_little_space_is_refused_with_the_figures() {
        let file = tempfile::tempfile().expect("a temporary file");
        let refused = room(&file, 1 << 60);
        // The file is never larger than 64 GiB; where that much is free the test shows nothing.
        match refused {
            Err(Halt::Skip(reason)) => assert!(reason.contains("free space is short"), "{reason}"),
            other => println!("SKIP: more than 64 GiB free: {other:?}"),
        }
        assert!(matches!(room(&file, 1 << 20), Err(Halt::Skip(reason)) if reason.contains("at least 16 MiB")));
    }

    #[test]
    fn requests_stay_inside_the_file_and_mix_as_told() {
        let mut requests = Requests::new(PATTERNS[4], 1 << 20);
        let mut reads = 0;
        for _ in 0..1000 {
            let (operation, offset) = requests.next();
            assert!(offset + 4096 <= 1 << 20 && offset % 4096 == 0);
            reads += u32::from(operation == Operation::Read);
        }
        assert!((640..760).contains(&reads), "{reads}");
    }

    /// Completes at once, but stalls once for a while.
    struct Stalling {
        pending: Vec<usize>,
        requests: u32,
    }

    impl Engine for Stalling {
        fn submit(&mut self, slot: usize, _: Operation, _: u64) -> std::io::Result<()> {
            self.pending.push(slot);
            Ok(())
        }

        fn wait(&mut self, done: &mut Vec<usize>, _: bool) -> std::io::Result<()> {
            self.requests += 1;
            if self.requests == 10 {
                std::thread::sleep(Duration::from_millis(50));
            }
            done.append(&mut self.pending);
            Ok(())
        }
    }

    #[test]
    fn a_stall_is_charged_to_every_request_that_was_due_meanwhile() {
        let mut engine = Stalling {
            pending: Vec::new(),
            requests: 0,
        };
        let mut requests = Requests::new(PATTERNS[2], 1 << 20);
        let mut recorder = Recorder::default();
        recorder.begin_sample();
        let start = Clock::now();
        let period = Duration::from_millis(1);
        run_rate(
            &mut engine,
            4,
            100,
            period,
            &mut requests,
            &mut recorder,
            &AtomicBool::new(false),
        )
        .expect("it runs");
        recorder.keep_sample();
        assert!(start.elapsed() >= Duration::from_millis(99));
        // 50 of 100 were due during the stall of 50 ms; a closed loop would have seen one slow request.
        let p90 = recorder
            .percentiles_us()
            .iter()
            .find(|p| p.percent == 90.0)
            .map_or(0.0, |p| p.value);
        assert!(p90 > 10_000.0, "{p90}");
    }
}
