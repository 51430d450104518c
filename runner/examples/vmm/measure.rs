//! Measures another program's guest from outside, the same way for every monitor: when the processor first entered it (KVM's
//! own trace event), when its init spoke, what the monitor holds in memory beside the guest's own; and, inside a guest, how
//! many small random reads a disk gives.

use std::{
    fs::{self, OpenOptions},
    io::{BufRead as _, BufReader},
    os::unix::fs::{FileExt as _, OpenOptionsExt as _},
    process::{Command, Stdio},
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    time::{Duration, Instant},
};

use super::Failure;

const TRACING: &str = "/sys/kernel/tracing";

/// Seconds of CLOCK_MONOTONIC, which the trace shares.
fn now() -> f64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    Duration::new(
        u64::try_from(time.tv_sec).unwrap_or(0),
        u32::try_from(time.tv_nsec).unwrap_or(0),
    )
    .as_secs_f64()
}

/// Starts a small trace of guest entries that keeps its first events.
fn trace() -> std::io::Result<()> {
    let set = |name: &str, value: &str| fs::write(format!("{TRACING}/{name}"), value);
    set("tracing_on", "0")?;
    set("trace_clock", "mono")?;
    set("options/overwrite", "0")?;
    set("buffer_size_kb", "64")?;
    set("trace", "")?;
    set("events/kvm/kvm_entry/enable", "1")?;
    set("tracing_on", "1")
}

/// The time of the first guest entry in the trace.
fn first_entry() -> Option<f64> {
    let text = fs::read_to_string(format!("{TRACING}/trace")).ok()?;
    let times = text.lines().filter(|line| !line.starts_with('#')).filter_map(|line| {
        let (before, _) = line.split_once(": kvm_entry:")?;
        before.split_whitespace().last()?.parse::<f64>().ok()
    });
    times.reduce(f64::min)
}

/// Resident KiB of a process without the mapping that is the guest's memory.
fn beside_guest(pid: u32, guest_kib: u64) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps")).ok()?;
    let (mut size, mut total) = (0, 0);
    for line in text.lines() {
        let kib = |line: &str| line.split_whitespace().nth(1)?.parse::<u64>().ok();
        if line.starts_with("Size:") {
            size = kib(line)?;
        } else if line.starts_with("Rss:") && size < guest_kib {
            total += kib(line)?;
        }
    }
    Some(total)
}

/// KVM's own counters of what this guest has cost so far (debugfs): all of them, as there is no other guest.
fn counters() -> serde_json::Map<String, serde_json::Value> {
    const FOLDER: &str = "/sys/kernel/debug/kvm";
    let names = [
        "exits",
        "io_exits",
        "mmio_exits",
        "pf_taken",
        "pf_fixed",
        "pages_4k",
        "pages_2m",
        "halt_exits",
        "irq_exits",
    ];
    let count = |name: &str| {
        let text = fs::read_to_string(format!("{FOLDER}/{name}")).ok()?;
        text.trim().parse::<u64>().ok()
    };
    names
        .iter()
        .filter_map(|name| Some(((*name).to_owned(), count(name)?.into())))
        .collect()
}

/// `measure NAME MARKER GUEST-MIB PROGRAM ARGUMENT…`: one line `MEASURED {json}`.
pub(super) fn program(arguments: &[String]) -> Result<(), Failure> {
    let [name, marker, guest_mib, program, rest @ ..] = arguments else {
        return Err("measure NAME MARKER GUEST-MIB PROGRAM ARGUMENT…".into());
    };
    let guest_kib = guest_mib.parse::<u64>()? << 10;
    let traced = trace();
    let start = now();
    let mut child = Command::new(program)
        .args(rest)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()?;
    let output = child.stdout.take().ok_or("no output")?;
    let (mut init, mut beside, mut counted) = (None, None, None);
    let mut words = Vec::new();
    for line in BufReader::new(output).split(b'\n') {
        let line = String::from_utf8_lossy(&line?).into_owned();
        if init.is_none() && line.contains(marker.as_str()) {
            init = Some(now() - start);
            // The guest rests for a moment now.
            counted = Some(counters());
            beside = beside_guest(child.id(), guest_kib);
        }
        if line.contains("L2-READS") {
            words.push(line.trim().to_owned());
        }
    }
    child.wait()?;
    let entered = match traced {
        Ok(()) => first_entry().map(|time| time - start),
        Err(error) => {
            println!("no trace of guest entries: {error}");
            None
        }
    };
    let record = serde_json::json!({
        "name": name, "entered": entered, "init": init, "beside_kib": beside, "words": words, "counters": counted,
    });
    println!("\nMEASURED {record}");
    Ok(())
}

/// `randread DEVICE SECONDS THREADS`: reads of 4 KiB at random places, past the page cache.
pub(super) fn random_reads(arguments: &[String]) -> Result<(), Failure> {
    let [device, seconds, threads] = arguments else {
        return Err("randread DEVICE SECONDS THREADS".into());
    };
    const BLOCK: usize = 4096;
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_DIRECT)
        .open(device)?;
    let mut end = &file;
    let blocks = std::io::Seek::seek(&mut end, std::io::SeekFrom::End(0))? / 4096;
    if blocks == 0 {
        return Err("an empty device".into());
    }
    let limit = Duration::from_secs(seconds.parse()?);
    let threads: u64 = threads.parse()?;
    let (count, failed) = (AtomicU64::new(0), AtomicBool::new(false));
    let started = Instant::now();
    std::thread::scope(|scope| {
        for thread in 1..=threads {
            let (file, count, failed) = (&file, &count, &failed);
            scope.spawn(move || {
                let mut memory = vec![0_u8; 2 * BLOCK];
                let skip = memory.as_ptr().align_offset(BLOCK);
                let buffer = &mut memory[skip..skip + BLOCK];
                // xorshift64: places need no quality, and the same ones for every monitor.
                let mut state = thread.wrapping_mul(0x9e37_79b9_7f4a_7c15);
                while started.elapsed() < limit {
                    state ^= state << 13;
                    state ^= state >> 7;
                    state ^= state << 17;
                    if file.read_exact_at(buffer, state % blocks * 4096).is_err() {
                        failed.store(true, Ordering::Relaxed);
                        return;
                    }
                    count.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
    });
    if failed.load(Ordering::Relaxed) {
        return Err("a read failed".into());
    }
    let rate = u32::try_from(count.load(Ordering::Relaxed)).map(f64::from)? / started.elapsed().as_secs_f64();
    println!("L2-READS {threads} {rate:.0}");
    Ok(())
}
