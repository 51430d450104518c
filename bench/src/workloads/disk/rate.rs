//! Requests at a fixed rate, whatever the disk does: their latency counts from the intended start.

use super::requests::{PATTERNS, Requests};
use super::target::{Shared, Target, open};
use super::{BLOCK, closed};
use crate::harness::{Clock, Halt, Kernel, Recorder, Scale};
use crate::workloads::engine::Engine;
use crate::workloads::{Built, Context, Definition, Planned};
use reports::schema::Better;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Requests a second for the rate-limited run: round numbers, so that two machines of like speed get the same.
const RATES: [u32; 9] = [10, 50, 100, 500, 1000, 2000, 5000, 10_000, 20_000];

pub(super) fn plan<'a>(shared: &Shared) -> Planned<'a> {
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
        let took = closed::run(engine.as_mut(), 1, 64, &mut requests, &mut probe, cancel)?;
        let half = 32.0 / took.as_secs_f64().max(1e-9);
        let rate = context.like.disk_rate.filter(|rate| *rate > 0).unwrap_or_else(|| {
            let reached = |rate: &u32| f64::from(*rate) <= half;
            RATES.into_iter().rev().find(reached).unwrap_or(RATES[0])
        });
        // A rate above what the disk can do measures how long the queue has grown, which depends on the time alone.
        if f64::from(rate) > half * 2.0 {
            return Err(Halt::Skip(format!(
                "the other record's rate of {rate} a second is beyond the {:.0} that depth 1 reaches here",
                half * 2.0
            )));
        }
        context.sizes.borrow_mut().disk_rate = Some(rate);
        let method = format!(
            "random reads of 4 KiB at {rate} a second from intended starts, {}",
            target.how
        );
        let period = Duration::from_secs(1) / rate;
        let kernel: Kernel<'a> = Box::new(move |iterations, recorder| {
            let _file = &target.file;
            run(
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
fn run(
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

#[cfg(test)]
mod tests {
    use super::super::requests::{PATTERNS, Requests};
    use super::run;
    use crate::harness::{Clock, Recorder};
    use crate::workloads::engine::{Engine, Operation};
    use std::sync::atomic::AtomicBool;
    use std::time::Duration;

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
        run(
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
