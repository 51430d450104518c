//! What disturbs a measurement: CPU time stolen by the hypervisor, CPU time of other processes, a changing clock rate.

use super::Clock;
use std::hint::black_box;
use std::time::Duration;

/// Above these a metric is marked unfit.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct NoiseBar {
    /// Steal as a fraction of the CPU time of all CPUs.
    pub steal: f64,
    /// CPU time of other processes as a fraction of the CPU time of all CPUs.
    pub foreign: f64,
    /// Change of the spin reference, as a fraction.
    pub drift: f64,
}

impl Default for NoiseBar {
    /// 2 % steal, 10 % foreign CPU time, 10 % drift.
    fn default() -> Self {
        Self {
            steal: 0.02,
            foreign: 0.10,
            drift: 0.10,
        }
    }
}

/// What happened between two points in time.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct NoiseReading {
    /// CPU seconds stolen by the hypervisor, over all CPUs.
    pub steal_seconds: f64,
    /// CPU seconds of others, over all CPUs: other processes, and kernel threads and interrupts unless they are the
    /// meter's own work.
    pub foreign_seconds: f64,
    /// Wall seconds.
    pub wall_seconds: f64,
    /// CPUs that `/proc/stat` counts.
    pub cpus: u32,
}

impl NoiseReading {
    fn share(&self, seconds: f64) -> f64 {
        let all = self.wall_seconds * f64::from(self.cpus.max(1));
        if all > 0.0 { seconds / all } else { 0.0 }
    }

    /// Stolen fraction of all CPU time, 0 to 1.
    #[must_use]
    pub fn steal_share(&self) -> f64 {
        self.share(self.steal_seconds)
    }

    /// Fraction of all CPU time that others used, 0 to 1.
    #[must_use]
    pub fn foreign_share(&self) -> f64 {
        self.share(self.foreign_seconds)
    }

    /// Why the time is unfit for measuring, if it is. Readings shorter than `/proc/stat` can resolve are not judged.
    #[must_use]
    pub fn judge(&self, bar: &NoiseBar) -> Option<String> {
        // Two ticks of 10 ms on a CPU are the resolution.
        const RESOLUTION: f64 = 0.02;
        let steal = self.share(self.steal_seconds);
        if steal > bar.steal && self.steal_seconds > RESOLUTION {
            return Some(format!(
                "the hypervisor stole {:.0} % of the CPU time (bar {:.0} %)",
                steal * 100.0,
                bar.steal * 100.0
            ));
        }
        let foreign = self.share(self.foreign_seconds);
        if foreign > bar.foreign && self.foreign_seconds > RESOLUTION {
            return Some(format!(
                "other processes used {:.0} % of the CPU time (bar {:.0} %)",
                foreign * 100.0,
                bar.foreign * 100.0
            ));
        }
        None
    }
}

/// Reads the counters at its start and again when asked.
#[derive(Debug, Clone, Copy)]
pub struct NoiseMeter {
    start: Clock,
    counters: Counters,
    work: Work,
}

/// Whose work kernel threads and interrupts do meanwhile.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Work {
    /// The measured work stays in user mode: whatever the kernel does besides disturbs it.
    User,
    /// The measured work asks the kernel for disk, network or wake-ups: its threads and interrupts belong to it.
    Kernel,
}

impl Work {
    /// Of a metric.
    #[must_use]
    pub fn of(id: &str) -> Self {
        match id.split('.').next() {
            Some("disk" | "net" | "kernel" | "hypervisor") => Self::Kernel,
            _ => Self::User,
        }
    }
}

#[derive(Debug, Clone, Copy, Default)]
struct Counters {
    busy: f64,
    interrupts: f64,
    kernel_threads: f64,
    steal: f64,
    own: f64,
    cpus: u32,
}

impl NoiseMeter {
    /// Starts.
    #[must_use]
    pub fn start(work: Work) -> Self {
        Self {
            start: Clock::now(),
            counters: Counters::read(work),
            work,
        }
    }

    /// What happened since the start. Where `/proc/stat` cannot be read, only the wall time is known.
    #[must_use]
    pub fn read(&self) -> NoiseReading {
        let (now, then) = (Counters::read(self.work), self.counters);
        let since = |later: f64, earlier: f64| (later - earlier).max(0.0);
        let busy = since(now.busy, then.busy) - since(now.own, then.own);
        let foreign = match self.work {
            Work::User => busy + since(now.interrupts, then.interrupts),
            Work::Kernel => busy - since(now.kernel_threads, then.kernel_threads),
        };
        NoiseReading {
            steal_seconds: since(now.steal, then.steal),
            foreign_seconds: foreign.max(0.0),
            wall_seconds: self.start.elapsed().as_secs_f64(),
            cpus: now.cpus,
        }
    }
}

impl Counters {
    fn read(work: Work) -> Self {
        let text = std::fs::read_to_string("/proc/stat").unwrap_or_default();
        let mut counters = Self::parse(&text, own_cpu_seconds());
        if work == Work::Kernel {
            counters.kernel_threads = kernel_thread_seconds();
        }
        counters
    }

    /// `cpu user nice system idle iowait irq softirq steal guest guest_nice` in ticks, proc(5). Guest time is inside user.
    fn parse(text: &str, own: f64) -> Self {
        let ticks = rustix::param::clock_ticks_per_second().max(1) as f64;
        let mut fields = text
            .lines()
            .find(|line| line.starts_with("cpu "))
            .map(|line| {
                line.split_ascii_whitespace()
                    .skip(1)
                    .map(|field| field.parse().unwrap_or(0.0))
                    .collect()
            })
            .unwrap_or_else(Vec::<f64>::new);
        fields.resize(10, 0.0);
        let is_cpu = |line: &&str| line.starts_with("cpu") && !line.starts_with("cpu ");
        Self {
            busy: (fields[0] + fields[1] + fields[2]) / ticks,
            interrupts: (fields[5] + fields[6]) / ticks,
            kernel_threads: 0.0,
            steal: fields[7] / ticks,
            own,
            cpus: u32::try_from(text.lines().filter(is_cpu).count()).unwrap_or(1),
        }
    }
}

/// CPU time of this process and of its children that ended. `utime stime cutime cstime` are fields 14 to 17 of
/// `/proc/self/stat`, proc(5); the name in brackets may hold blanks.
fn own_cpu_seconds() -> f64 {
    let text = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let after_name = text.rsplit_once(')').map_or("", |(_, rest)| rest);
    let ticks: f64 = after_name
        .split_ascii_whitespace()
        .skip(11)
        .take(4)
        .filter_map(|f| f.parse::<f64>().ok())
        .sum();
    ticks / rustix::param::clock_ticks_per_second().max(1) as f64
}

/// CPU time of all kernel threads that can be seen: none in a container, where they then count as foreign.
fn kernel_thread_seconds() -> f64 {
    let Ok(entries) = std::fs::read_dir("/proc") else {
        return 0.0;
    };
    let is_number = |name: &std::ffi::OsStr| {
        name.to_str()
            .is_some_and(|name| name.starts_with(|c: char| c.is_ascii_digit()))
    };
    let ticks: f64 = entries
        .flatten()
        .filter(|entry| is_number(&entry.file_name()))
        .filter_map(|entry| kernel_thread_ticks(&std::fs::read_to_string(entry.path().join("stat")).ok()?))
        .sum();
    ticks / rustix::param::clock_ticks_per_second().max(1) as f64
}

/// `utime + stime` of a line of `/proc/PID/stat` if its flags, field 9, hold PF_KTHREAD (include/linux/sched.h).
fn kernel_thread_ticks(stat: &str) -> Option<f64> {
    const PF_KTHREAD: u64 = 0x0020_0000;
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_ascii_whitespace().collect();
    let flags: u64 = fields.get(6)?.parse().ok()?;
    if flags & PF_KTHREAD == 0 {
        return None;
    }
    Some(fields.get(11)?.parse::<f64>().ok()? + fields.get(12)?.parse::<f64>().ok()?)
}

/// Speed of a fixed dependent loop: sees what the counters don't, such as a falling clock rate or a hypervisor that does not
/// account for steal.
#[derive(Debug, Clone, Copy)]
pub struct SpinReference {
    iterations: u64,
    base: Duration,
}

impl SpinReference {
    /// Calibrated to about 0.3 ms.
    #[must_use]
    pub fn new() -> Self {
        let mut iterations = 1_000_u64;
        // The best of three: an interruption, or an emulator that translates the loop first, must not pass for a slow CPU.
        // The loop would be so short that reading the clock (an exit, where it is an emulated HPET) decides its time.
        let best_of_three = |iterations| (0..3).map(|_| spin(iterations)).min().unwrap_or_default();
        while best_of_three(iterations) < Duration::from_micros(300) && iterations < 1 << 40 {
            iterations *= 2;
        }
        let mut reference = Self {
            iterations,
            base: Duration::ZERO,
        };
        reference.base = reference.best();
        reference
    }

    /// How much slower (positive) or faster it is than at the start, as a fraction. Beyond `bar` it looks again up to four
    /// times, 5 ms apart, and takes what is nearest to the start: a disturbance of some milliseconds is no drift, and
    /// samples have a median against it.
    #[must_use]
    pub fn drift(&self, bar: f64) -> f64 {
        let look = || self.best().as_secs_f64() / self.base.as_secs_f64().max(1e-9) - 1.0;
        let mut nearest = look();
        for _ in 0..4 {
            if nearest.abs() <= bar {
                break;
            }
            std::thread::sleep(Duration::from_millis(5));
            let again = look();
            if again.abs() < nearest.abs() {
                nearest = again;
            }
        }
        nearest
    }

    /// The best of seven: an interruption does not count as drift.
    fn best(&self) -> Duration {
        (0..7).map(|_| spin(self.iterations)).min().unwrap_or_default()
    }
}

impl Default for SpinReference {
    fn default() -> Self {
        Self::new()
    }
}

fn spin(iterations: u64) -> Duration {
    let start = Clock::now();
    let mut x = black_box(1_u64);
    for _ in 0..iterations {
        x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
    }
    black_box(x);
    start.elapsed()
}

#[cfg(test)]
mod tests {
    use super::{Counters, NoiseBar, NoiseMeter, NoiseReading, SpinReference, Work, kernel_thread_ticks};

    const STAT: &str =
        "cpu  100 10 50 1000 5 3 2 40 0 0\ncpu0 50 5 25 500 3 2 1 20 0 0\ncpu1 50 5 25 500 2 1 1 20 0 0\nctxt 1\n";

    #[test]
    fn proc_stat_is_read_in_seconds_and_idle_is_not_busy() {
        let ticks = rustix::param::clock_ticks_per_second() as f64;
        let counters = Counters::parse(STAT, 0.0);
        assert_eq!(counters.busy * ticks, 160.0);
        assert_eq!(counters.interrupts * ticks, 5.0);
        assert_eq!(counters.steal * ticks, 40.0);
        assert_eq!(counters.cpus, 2);
    }

    #[test]
    fn kernels_without_a_steal_column_count_as_no_steal() {
        assert_eq!(Counters::parse("cpu 1 2 3 4\n", 0.0).steal, 0.0);
    }

    #[test]
    fn noise_above_the_bar_is_named_and_below_is_not() {
        let reading = NoiseReading {
            steal_seconds: 0.1,
            foreign_seconds: 0.0,
            wall_seconds: 1.0,
            cpus: 2,
        };
        assert!(
            reading
                .judge(&NoiseBar::default())
                .is_some_and(|why| why.contains("stole 5 %"))
        );
        let reading = NoiseReading {
            steal_seconds: 0.0,
            foreign_seconds: 0.5,
            wall_seconds: 1.0,
            cpus: 2,
        };
        assert!(
            reading
                .judge(&NoiseBar::default())
                .is_some_and(|why| why.contains("other processes used 25 %"))
        );
        let reading = NoiseReading {
            steal_seconds: 0.0,
            foreign_seconds: 0.1,
            wall_seconds: 1.0,
            cpus: 2,
        };
        assert_eq!(reading.judge(&NoiseBar::default()), None);
    }

    #[test]
    fn kernel_threads_are_told_from_processes_by_their_flag() {
        let worker = "12 (kworker/0:1 (x)) I 2 0 0 0 -1 69238880 0 0 0 0 7 30 0 0 20 0 1 0";
        assert_eq!(kernel_thread_ticks(worker), Some(37.0));
        let shell = "12 (sh) S 1 12 12 0 -1 4194304 0 0 0 0 7 30 0 0 20 0 1 0";
        assert_eq!(kernel_thread_ticks(shell), None);
        assert_eq!(kernel_thread_ticks("broken"), None);
    }

    #[test]
    fn what_the_kernel_does_is_part_of_disk_metrics_and_foreign_to_cpu_metrics() {
        assert_eq!(Work::of("disk.randread-4k.qd32"), Work::Kernel);
        assert_eq!(Work::of("cpu.integer.single"), Work::User);
    }

    #[test]
    fn own_work_is_not_foreign() {
        let meter = NoiseMeter::start(Work::Kernel);
        let spin = SpinReference::new();
        assert!(spin.drift(0.1).is_finite());
        let reading = meter.read();
        assert!(reading.foreign_seconds >= 0.0 && reading.wall_seconds > 0.0);
    }
}
