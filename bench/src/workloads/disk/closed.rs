//! Closed loops: a fixed number of requests in flight.

use super::requests::{Pattern, Requests};
use super::target::{Shared, Target, open};
use crate::harness::{Clock, Halt, Kernel, Recorder, Scale};
use crate::workloads::engine::Engine;
use crate::workloads::{Built, Context, Definition, Planned};
use reports::schema::Better;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

pub(super) fn plan<'a>(pattern: Pattern, depth: u32, shared: &Shared) -> Planned<'a> {
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
            run(engine.as_mut(), slots, iterations, &mut requests, recorder, cancel)
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

pub(super) fn run(
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
