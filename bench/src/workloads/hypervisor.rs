//! What the hypervisor costs: a forced VM exit, and how late a timer wakes.

use super::{Built, Context, Definition, Planned};
use crate::harness::{Clock, Halt, Scale};
use reports::schema::Better;
use rustix::thread::{ClockId as SleepClock, clock_nanosleep_absolute};
use rustix::time::{ClockId, Timespec, clock_gettime};
use std::hint::black_box;
use std::sync::atomic::Ordering;
use std::time::Duration;

pub(super) fn plan<'a>(_context: &Context<'a>) -> Vec<Planned<'a>> {
    vec![cpuid(), timer()]
}

fn cpuid<'a>() -> Planned<'a> {
    let definition = Definition {
        id: "hypervisor.cpuid".to_owned(),
        name: "VM exit (cpuid)".to_owned(),
        unit: "ns",
        better: Better::Lower,
        measures: "the cpuid instruction, which always leaves the guest under VT-x and AMD-V",
        pitfalls: "on metal it is only the instruction (some 100 cycles); under TCG it is a helper call without an exit",
        reference: "kvm-unit-tests vmexit cpuid",
    };
    let build = |_: &Context<'a>| {
        Ok(Built {
            kernel: Box::new(|iterations, _| {
                let start = Clock::now();
                for _ in 0..iterations {
                    black_box(raw_cpuid::native_cpuid::cpuid_count(0, 0));
                }
                Ok(start.elapsed())
            }),
            scale: Scale::Each(1e9),
            method: "cpuid leaf 0, one thread".to_owned(),
        })
    };
    Planned {
        definition,
        weight: 0.7,
        build: Box::new(build),
    }
}

/// 1 kHz.
const PERIOD: Duration = Duration::from_millis(1);

fn timer<'a>() -> Planned<'a> {
    let definition = Definition {
        id: "hypervisor.timer".to_owned(),
        name: "Timer wake-up latency".to_owned(),
        unit: "us",
        better: Better::Lower,
        measures: "how late a thread runs after an absolute 1 kHz sleep: timer, interrupt, wake-up, scheduler",
        pitfalls: "normal scheduling class with 50 us of timer slack; idle states of the host add tens of microseconds",
        reference: "cyclictest -i 1000 with policy other",
    };
    let build = |context: &Context<'a>| {
        let cancel = context.cancel;
        Ok(Built {
            kernel: Box::new(move |iterations, recorder| {
                let start = Clock::now();
                let mut due = monotonic() + PERIOD;
                for _ in 0..iterations {
                    sleep_until(due)?;
                    let now = monotonic();
                    recorder.record(now.saturating_sub(due));
                    // Next from the intended time; after a long stall from now, or the stall would count many times over
                    // as a storm of wake-ups in the past.
                    due = if now > due + PERIOD * 100 { now } else { due } + PERIOD;
                    if cancel.load(Ordering::Relaxed) {
                        return Err(Halt::Cancelled);
                    }
                }
                Ok(start.elapsed())
            }),
            scale: Scale::MedianLatency(1e-3),
            method: "clock_nanosleep to absolute CLOCK_MONOTONIC times 1 ms apart, latency from the intended time"
                .to_owned(),
        })
    };
    Planned {
        definition,
        weight: 1.5,
        build: Box::new(build),
    }
}

fn monotonic() -> Duration {
    let now = clock_gettime(ClockId::Monotonic);
    Duration::new(
        u64::try_from(now.tv_sec).unwrap_or(0),
        u32::try_from(now.tv_nsec).unwrap_or(0),
    )
}

/// Sleeps until `due` on CLOCK_MONOTONIC.
fn sleep_until(due: Duration) -> Result<(), Halt> {
    let request = Timespec::try_from(due).map_err(|error| Halt::failed("time out of range", error))?;
    loop {
        match clock_nanosleep_absolute(SleepClock::Monotonic, &request) {
            Ok(()) => return Ok(()),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(Halt::failed("clock_nanosleep", error)),
        }
    }
}
