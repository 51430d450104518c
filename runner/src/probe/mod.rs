//! The KVM quality probe: a payload of a few milliseconds that tells hardware virtualisation from everything that only
//! looks like it. An openable `/dev/kvm` with all capabilities may still interpret guest kernels.

mod cache;
mod classify;
pub mod limits;
mod machine;
mod payload;

pub use classify::{Figures, ProbeReport};

use classify::{absent, classify, unfit};
use kvm_ioctls::{Cap, Kvm};
use machine::{ProbeMachine, Shot};
use payload::Entry;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use vmm_sys_util::signal::{Killable, SIGRTMIN, register_signal_handler};

/// Length of each loop.
const LOOP: Duration = Duration::from_millis(5);
/// Longest time of a one-shot, and of the series of exits.
const SHOT: Duration = Duration::from_millis(100);
const EXITS: usize = 200;
const DEVICE: &str = "/dev/kvm";

extern "C" fn nothing(_: libc::c_int, _: *mut libc::siginfo_t, _: *mut libc::c_void) {}

/// Probes `/dev/kvm`, or takes this boot's earlier answer. Takes at most `deadline` plus some milliseconds.
#[must_use]
pub fn probe(deadline: Duration) -> ProbeReport {
    // The device may have come or gone since: only what it can do is taken from the cache.
    let kvm = match open() {
        Ok(kvm) => kvm,
        Err(report) => return *report,
    };
    if let Some(report) = cache::load() {
        return report;
    }
    let begun = Instant::now();
    let measured = watched(kvm, deadline);
    let report = ProbeReport {
        seconds: begun.elapsed().as_secs_f64(),
        ..measured
    };
    // A missing permission or module can be put right without a reboot, and a probe cut short says little.
    if report.figures.is_some() {
        cache::store(&report);
    }
    report
}

/// Opens `/dev/kvm`, or says why there is none.
fn open() -> Result<Kvm, Box<ProbeReport>> {
    let gone = |error: std::io::Error| Box::new(absent(error, Path::new(DEVICE).exists()));
    let kvm = Kvm::new().map_err(|error| gone(std::io::Error::from_raw_os_error(error.errno())))?;
    // Something else may stand under that name, in a container for example.
    if kvm.get_api_version() < 0 {
        return Err(gone(std::io::Error::last_os_error()));
    }
    Ok(kvm)
}

/// Probes without the cache.
#[must_use]
pub fn probe_now(deadline: Duration) -> ProbeReport {
    let begun = Instant::now();
    let report = match open() {
        Ok(kvm) => watched(kvm, deadline),
        Err(report) => *report,
    };
    ProbeReport {
        seconds: begun.elapsed().as_secs_f64(),
        ..report
    }
}

/// What the watchdog is told: when to send the signal, as nanoseconds since the probe's start; 0 = never.
struct Watchdog {
    begun: Instant,
    kick_at: AtomicU64,
    done: AtomicBool,
}

impl Watchdog {
    fn now(&self) -> u64 {
        u64::try_from(self.begun.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    fn arm(&self, after: Duration) {
        let after = u64::try_from(after.as_nanos()).unwrap_or(u64::MAX);
        self.kick_at
            .store(self.now().saturating_add(after).max(1), Ordering::Release);
    }
}

/// Runs the payload on a thread of its own. This thread is the watchdog: it repeats the signal until the vCPU thread disarms
/// it, so a signal that comes just before KVM_RUN is entered is not lost.
fn watched(kvm: Kvm, deadline: Duration) -> ProbeReport {
    let signal = SIGRTMIN() + 7;
    if let Err(error) = register_signal_handler(signal, nothing) {
        return unfit(format!("the watchdog's signal cannot be installed: {error}"));
    }
    let dog = Arc::new(Watchdog {
        begun: Instant::now(),
        kick_at: AtomicU64::new(0),
        done: AtomicBool::new(false),
    });
    let shared = Arc::clone(&dog);
    let thread = std::thread::spawn(move || {
        let result = measure(&kvm, &shared, deadline);
        shared.done.store(true, Ordering::Release);
        result
    });
    while !dog.done.load(Ordering::Acquire) {
        std::thread::sleep(Duration::from_micros(500));
        let kick_at = dog.kick_at.load(Ordering::Acquire);
        let late = dog.begun.elapsed() >= deadline;
        if late || (kick_at != 0 && dog.now() >= kick_at) {
            // The thread is not joined yet, so its handle is valid.
            let _ = thread.kill(signal);
        }
        if dog.begun.elapsed() >= deadline + Duration::from_millis(200) {
            return unfit(format!("KVM_RUN did not return within {deadline:?}"));
        }
    }
    match thread.join() {
        Ok(Ok(figures)) => classify(figures),
        Ok(Err(reason)) => unfit(reason),
        Err(_) => unfit("the probe's thread panicked".into()),
    }
}

fn measure(kvm: &Kvm, dog: &Watchdog, deadline: Duration) -> Result<Figures, String> {
    let until = dog.begun + deadline;
    let in_time = || {
        if Instant::now() < until {
            Ok(())
        } else {
            Err(format!("the probe was not done after {deadline:?}"))
        }
    };
    let mut figures = Figures {
        api_version: kvm.get_api_version(),
        max_vcpus: kvm.get_max_vcpus() as u64,
        memory_slots: kvm.get_nr_memslots() as u64,
        hints: hints(),
        ..Figures::default()
    };
    if figures.api_version != 12 {
        return Err(format!("its API version is {}, 12 is needed", figures.api_version));
    }
    let needed = [
        (Cap::Irqchip, "IRQCHIP"),
        (Cap::UserMemory, "USER_MEMORY"),
        (Cap::SetTssAddr, "SET_TSS_ADDR"),
        (Cap::ExtCpuid, "EXT_CPUID"),
    ];
    if let Some((_, name)) = needed.iter().find(|(cap, _)| !kvm.check_extension(*cap)) {
        return Err(format!("it lacks the capability {name}"));
    }
    let mut machine = ProbeMachine::new(kvm)?;
    let per_second = |machine: &mut ProbeMachine, entry| -> Result<(f64, u8), String> {
        let (mut instructions, mut time, mut level) = (0_u64, Duration::ZERO, 0);
        // The first run maps the pages and is not counted.
        for round in 0..2 {
            in_time()?;
            let found = machine.measure(entry, &|| dog.arm(LOOP));
            dog.kick_at.store(0, Ordering::Release);
            let found = found?;
            if round > 0 {
                instructions += found.instructions;
                time += found.time;
                level = found.level;
            }
        }
        #[expect(clippy::cast_precision_loss, reason = "far below 2^52 in 5 ms")]
        Ok((instructions as f64 / time.as_secs_f64().max(1e-6), level))
    };
    figures.kernel_insn_per_s = per_second(&mut machine, Entry::KernelLoop)?.0;
    figures.user_insn_per_s = match per_second(&mut machine, Entry::UserLoop) {
        Ok((rate, 3)) => Some(rate),
        Ok(_) | Err(_) => None,
    };
    let shots = [
        (Entry::Cmpxchg16b, "cmpxchg16b"),
        (Entry::Int3, "int3"),
        (Entry::Xrstor, "xrstor"),
        (Entry::SseAdd, "sse-add"),
    ];
    for (entry, name) in shots {
        if entry == Entry::Xrstor && !machine.has_xsave() {
            continue;
        }
        in_time()?;
        let shot = machine.shoot(entry, &|| dog.arm(SHOT));
        dog.kick_at.store(0, Ordering::Release);
        // An exception is the CPU's own answer (int3 must raise 3); a refusal is KVM's.
        if matches!(shot?, Shot::Refused | Shot::Stuck) {
            figures.refused.push(name.to_owned());
        }
    }
    in_time()?;
    // A vCPU that ended in an internal error may not run again: the exits get a fresh one.
    let mut machine = ProbeMachine::new(kvm)?;
    let times = machine.exits(EXITS, (Instant::now() + SHOT).min(until), &|| dog.arm(SHOT));
    dog.kick_at.store(0, Ordering::Release);
    let times = times?;
    figures.exit_ns = *times.get(times.len() / 2).ok_or("no port write came through")?;
    Ok(figures)
}

/// What the host says about itself; printed, not decided by.
fn hints() -> Vec<String> {
    let modules = ["kvm_intel", "kvm_amd", "kvm_pvm"];
    let loaded = modules
        .iter()
        .filter(|name| Path::new("/sys/module").join(name).exists());
    loaded.map(|name| format!("module {name}")).collect()
}

#[cfg(test)]
mod tests {
    use super::probe_now;
    use reports::schema::AcceleratorClass;
    use std::time::{Duration, Instant};

    #[test]
    fn the_probe_ends_in_time_and_gives_a_verdict() {
        let deadline = Duration::from_secs(2);
        let begun = Instant::now();
        let report = probe_now(deadline);
        // The bound is the product's promise, not a speed: the watchdog gives up 200 ms after the deadline.
        assert!(
            begun.elapsed() < deadline + Duration::from_secs(3),
            "{:?}",
            begun.elapsed()
        );
        assert!(report.class != AcceleratorClass::Unknown && !report.sentence.is_empty());
        eprintln!("this host: {report:?}");
    }

    #[test]
    fn a_deadline_of_nothing_still_returns() {
        let report = probe_now(Duration::ZERO);
        assert!(!report.sentence.is_empty());
    }
}
