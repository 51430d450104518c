//! Runs the workloads one after the other within a budget, and writes the record.

use crate::harness::{Clock, Halt, Kernel, NoiseBar, NoiseMeter, Plan, Repeated, SpinReference, Work, repeat, settle};
use crate::host;
use crate::stats;
use crate::workloads::{self, Context, Definition, Planned, usable_cpus};
use reports::schema::{
    AcceleratorClass, BenchRecord, BenchSizes, Better, HostFacts, Metric, Noise, Place, SkippedMetric, Stamp, Suite,
};
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// What to measure, and what it may cost.
#[derive(Debug, Clone)]
pub struct SuiteOptions {
    /// Quick or full: which metrics, how many samples.
    pub suite: Suite,
    /// Folder on the disk to test; its files carry no name while in use, so that nothing can stay behind.
    pub folder: PathBuf,
    /// Wall seconds for everything; `None`: 55 for quick, 900 for full.
    pub budget_seconds: Option<f64>,
    /// Bytes of disk space that may be used at a time.
    pub disk_budget_bytes: u64,
    /// Bytes of memory that may be used; `None`: 40 % of what is available.
    pub memory_budget_bytes: Option<u64>,
    /// Threads of the `all` variants; `None`: the CPUs that may be used.
    pub threads: Option<usize>,
    /// Only metrics whose id contains one of these, or starts with one that ends in `*`.
    pub only: Option<Vec<String>>,
    /// `HOST:PORT` of an agent that serves, for network metrics.
    pub peer: Option<String>,
    /// Sizes of another record to take over, so that the two compare. A metric that cannot have them here is skipped.
    pub like: BenchSizes,
    /// Where this is.
    pub place: Place,
    /// A short name for tables.
    pub label: String,
    /// What lies under it.
    pub accelerator: AcceleratorClass,
    /// Engine and version, for guests.
    pub engine: Option<String>,
    /// Above this a metric is marked unfit.
    pub noise_bar: NoiseBar,
}

impl SuiteOptions {
    /// `suite` in `folder` on this host, everything else as usual.
    #[must_use]
    pub fn new(suite: Suite, folder: impl Into<PathBuf>) -> Self {
        Self {
            suite,
            folder: folder.into(),
            budget_seconds: None,
            disk_budget_bytes: 1 << 30,
            memory_budget_bytes: None,
            threads: None,
            only: None,
            peer: None,
            like: BenchSizes::default(),
            place: Place::Host,
            label: "host".to_owned(),
            accelerator: AcceleratorClass::Unknown,
            engine: None,
            noise_bar: NoiseBar::default(),
        }
    }

    fn budget(&self) -> Duration {
        let usual = if self.suite == Suite::Full { 900.0 } else { 55.0 };
        let wanted = self
            .budget_seconds
            .filter(|seconds| seconds.is_finite() && *seconds > 0.0)
            .unwrap_or(usual);
        Duration::from_secs_f64(wanted.min(86_400.0))
    }
}

/// Why there is no record at all.
#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    /// The cancel flag was set; temporary files are gone.
    #[error("measuring was cancelled; nothing was left behind")]
    Cancelled,
    /// The folder is not usable.
    #[error("cannot use {} for measuring: {source}; give a writable folder on the disk to test", path.display())]
    Folder {
        /// The folder.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// No metric has such a name.
    #[error("no metric matches {patterns:?}; the list of all shows their ids")]
    NothingSelected {
        /// What was asked for.
        patterns: Vec<String>,
    },
}

/// What the suite would measure here.
#[must_use]
pub fn list(options: &SuiteOptions) -> Vec<Definition> {
    let cancel = AtomicBool::new(false);
    let context = context(options, &host::facts(), &cancel);
    workloads::plan(&context)
        .into_iter()
        .map(|planned| planned.definition)
        .filter(|d| selected(options, &d.id))
        .collect()
}

/// The kernel of a metric by itself, for another harness around the same work.
///
/// # Errors
/// [`Halt::Skip`] with the reason where there is no such metric, or this machine cannot take it.
pub fn kernel(options: &SuiteOptions, id: &str, cancel: &'static AtomicBool) -> Result<Kernel<'static>, Halt> {
    let context = Context {
        share: options.budget(),
        ..context(options, &host::facts(), cancel)
    };
    let planned = workloads::plan(&context)
        .into_iter()
        .find(|planned| planned.definition.id == id);
    let planned = planned.ok_or_else(|| Halt::Skip(format!("there is no metric {id}")))?;
    Ok((planned.build)(&context)?.kernel)
}

/// Measures. `progress` is told each metric's id, its number from 1, and how many there are.
///
/// # Errors
/// [`BenchError`]; a metric that cannot be taken is no error but listed as skipped with the reason.
pub fn run_suite(
    options: &SuiteOptions,
    progress: &dyn Fn(&str, usize, usize),
    cancel: &AtomicBool,
) -> Result<BenchRecord, BenchError> {
    let folder = std::fs::metadata(&options.folder);
    let folder = folder.and_then(|meta| {
        if meta.is_dir() {
            Ok(())
        } else {
            Err(std::io::ErrorKind::NotADirectory.into())
        }
    });
    folder.map_err(|source| BenchError::Folder {
        path: options.folder.clone(),
        source,
    })?;
    let facts = host::facts();
    let (start, budget) = (Clock::now(), options.budget());
    let settled = settle(&options.noise_bar, budget / 10, cancel);
    let meter = NoiseMeter::start(Work::Kernel);
    let mut run = Run {
        options,
        start,
        budget,
        spin: SpinReference::new(),
        speeds: Vec::new(),
        metrics: Vec::new(),
        skipped: Vec::new(),
        steal: Vec::new(),
        self_checks: self_checks(),
        cancel,
    };
    run.self_checks.extend(settled.map(|settled| settled.words()));
    let context = context(options, &facts, cancel);
    let sizes = Rc::clone(&context.sizes);
    let planned: Vec<Planned<'_>> = workloads::plan(&context)
        .into_iter()
        .filter(|planned| selected(options, &planned.definition.id))
        .collect();
    if planned.is_empty() {
        return Err(BenchError::NothingSelected {
            patterns: options.only.clone().unwrap_or_default(),
        });
    }
    run.all(planned, context, progress)?;
    let sizes = *sizes.borrow();
    Ok(BenchRecord {
        sizes,
        ..run.finish(facts, &meter)
    })
}

fn selected(options: &SuiteOptions, id: &str) -> bool {
    let matches = |pattern: &String| match pattern.strip_suffix('*') {
        Some(start) => id.starts_with(start),
        None => id.contains(pattern.as_str()),
    };
    options
        .only
        .as_ref()
        .is_none_or(|patterns| patterns.iter().any(matches))
}

fn context<'a>(options: &SuiteOptions, facts: &HostFacts, cancel: &'a AtomicBool) -> Context<'a> {
    let usable = usize::try_from(facts.cpus_usable).unwrap_or(1);
    Context {
        cancel,
        cpus: usable_cpus(),
        threads: options.threads.unwrap_or(usable).max(1),
        memory_bytes: options
            .memory_budget_bytes
            .unwrap_or_else(|| host::memory_available() / 5 * 2),
        last_level_cache_bytes: facts.last_level_cache_bytes.unwrap_or(32 << 20),
        folder: options.folder.clone(),
        disk_budget_bytes: options.disk_budget_bytes,
        suite: options.suite,
        peer: options.peer.clone(),
        share: Duration::ZERO,
        like: options.like,
        sizes: Rc::default(),
    }
}

struct Run<'a> {
    options: &'a SuiteOptions,
    start: Clock,
    budget: Duration,
    spin: SpinReference,
    /// Of each metric taken: the time of the spin reference after it, as a multiple of that at the start.
    speeds: Vec<f64>,
    metrics: Vec<Metric>,
    skipped: Vec<SkippedMetric>,
    steal: Vec<f64>,
    self_checks: Vec<String>,
    cancel: &'a AtomicBool,
}

impl<'a> Run<'a> {
    fn all(
        &mut self,
        planned: Vec<Planned<'a>>,
        mut context: Context<'a>,
        progress: &dyn Fn(&str, usize, usize),
    ) -> Result<(), BenchError> {
        let total = planned.len();
        let mut weight_left: f64 = planned.iter().map(|planned| planned.weight).sum();
        for (at, one) in planned.into_iter().enumerate() {
            if self.cancel.load(Ordering::Relaxed) {
                return Err(BenchError::Cancelled);
            }
            progress(&one.definition.id, at + 1, total);
            let left = self.budget.saturating_sub(self.start.elapsed());
            context.share = left.mul_f64((one.weight / weight_left).clamp(0.0, 1.0));
            weight_left -= one.weight;
            let id = one.definition.id.clone();
            let taken = if left.is_zero() {
                let budget = self.budget.as_secs_f64();
                Err(Halt::Skip(format!(
                    "the time budget of {budget:.0} s was used up; raise it"
                )))
            } else {
                self.one(one, &context)
            };
            match taken {
                Ok(metric) => self.metrics.push(metric),
                Err(Halt::Cancelled) => return Err(BenchError::Cancelled),
                Err(Halt::Skip(reason)) => self.skipped.push(SkippedMetric { id, reason }),
            }
        }
        Ok(())
    }

    fn one(&mut self, planned: Planned<'a>, context: &Context<'a>) -> Result<Metric, Halt> {
        let begin = Clock::now();
        let mut built = (planned.build)(context)?;
        let share = context.share.saturating_sub(begin.elapsed()).max(context.share / 4);
        let mut plan = if context.suite == Suite::Full {
            Plan::full(share)
        } else {
            Plan::quick(share)
        };
        plan.limit = plan.limit.min(self.budget.saturating_sub(self.start.elapsed()));
        let meter = NoiseMeter::start(Work::of(&planned.definition.id));
        let repeated = repeat(&mut built.kernel, built.scale, &plan, context.cancel)?;
        let reading = meter.read();
        self.steal.push(reading.steal_share() * 100.0);
        drop(built.kernel);
        self.speeds.push(1.0 + self.spin.drift(self.options.noise_bar.drift));
        let unfit = reading.judge(&self.options.noise_bar);
        Ok(self.metric(planned.definition, built.method, repeated, unfit))
    }

    fn metric(&mut self, definition: Definition, method: String, repeated: Repeated, unfit: Option<String>) -> Metric {
        let Repeated {
            samples,
            stopped,
            recorder,
            ..
        } = repeated;
        let odd = stats::outliers(&samples);
        if !odd.is_empty() {
            let (id, bar) = (&definition.id, stats::OUTLIER_BAR);
            let list: Vec<String> = odd
                .iter()
                .map(|&at| format!("#{} = {:.4}", at + 1, samples[at]))
                .collect();
            self.self_checks.push(format!(
                "outliers kept in {id} (modified z-score above {bar}): {}",
                list.join(", ")
            ));
        }
        let percentiles = recorder.percentiles_us();
        Metric {
            percentile_unit: (!percentiles.is_empty()).then(|| "us".to_owned()),
            percentiles,
            summary: stats::summarise(&samples),
            id: definition.id,
            name: definition.name,
            unit: definition.unit.to_owned(),
            better: definition.better,
            samples,
            method,
            stopped: stopped.as_str().to_owned(),
            unfit,
        }
    }

    fn finish(mut self, facts: HostFacts, meter: &NoiseMeter) -> BenchRecord {
        let reading = meter.read();
        self.self_checks
            .extend(drifted(&mut self.metrics, &self.speeds, self.options.noise_bar.drift));
        if !self.steal.is_empty() && self.options.only.is_none() {
            self.metrics.push(steal_metric(std::mem::take(&mut self.steal)));
        }
        BenchRecord {
            stamp: Stamp::now(concat!("esxodus-bench ", env!("CARGO_PKG_VERSION"))),
            label: self.options.label.clone(),
            place: self.options.place,
            accelerator: self.options.accelerator,
            engine: self.options.engine.clone(),
            storage: None,
            host: facts,
            suite: self.options.suite,
            noise: Noise {
                steal_cpu_seconds: reading.steal_seconds,
                foreign_cpu_seconds: reading.foreign_seconds,
                wall_seconds: reading.wall_seconds,
                noisy: reading.judge(&self.options.noise_bar).is_some(),
            },
            sizes: BenchSizes::default(),
            metrics: self.metrics,
            skipped: self.skipped,
            self_checks: self.self_checks,
        }
    }
}

/// Marks the metrics beside which the CPU was slower or faster than it mostly was in this run, and says how steady it was.
/// The measure is the median over the run and not its start: a start that happened to be fast or slow would condemn all others.
fn drifted(metrics: &mut [Metric], times: &[f64], bar: f64) -> Option<String> {
    if times.is_empty() {
        return None;
    }
    let usual = stats::median(times);
    let change = |time: f64| time / usual - 1.0;
    for (metric, &time) in metrics.iter_mut().zip(times) {
        let drift = change(time);
        if drift.abs() > bar && metric.unfit.is_none() {
            let slower = if drift > 0.0 { "slower" } else { "faster" };
            let (drift, bar) = (drift.abs() * 100.0, bar * 100.0);
            metric.unfit = Some(format!(
                "the CPU ran {drift:.0} % {slower} than it mostly did in this run (bar {bar:.0} %)"
            ));
        }
    }
    let (least, most) = times.iter().fold((f64::INFINITY, 0.0_f64), |(least, most), &time| {
        (least.min(time), most.max(time))
    });
    Some(format!(
        "spin reference beside {} metrics: {:+.1} % to {:+.1} % against its median",
        times.len(),
        change(least) * 100.0,
        change(most) * 100.0
    ))
}

fn steal_metric(samples: Vec<f64>) -> Metric {
    Metric {
        id: "hypervisor.steal".to_owned(),
        name: "Steal".to_owned(),
        unit: "%".to_owned(),
        better: Better::Lower,
        summary: stats::summarise(&samples),
        samples,
        percentiles: Vec::new(),
        percentile_unit: None,
        method: "steal of /proc/stat over the CPU time of all CPUs, one sample for each metric of the run".to_owned(),
        stopped: "count".to_owned(),
        unfit: None,
    }
}

/// Known answers before anything is measured: a kernel that computes wrongly measures nothing.
fn self_checks() -> Vec<String> {
    let primes = workloads::sieve(1);
    let verdict = if primes == 1228 { "right" } else { "WRONG" };
    let first = Clock::now();
    let gap = (0..1000)
        .map(|_| first.elapsed())
        .fold((Duration::ZERO, true), |(last, up), now| (now, up && now >= last));
    let clock = if gap.1 { "never ran backwards" } else { "RAN BACKWARDS" };
    vec![
        format!("odd primes below 10,000: {primes}, {verdict}"),
        format!(
            "CLOCK_MONOTONIC_RAW over 1000 reads: {clock}, {:.0} ns a read",
            gap.0.as_secs_f64() * 1e6
        ),
    ]
}

#[cfg(test)]
mod tests {
    use super::{drifted, steal_metric};

    #[test]
    fn a_fast_start_condemns_itself_and_not_the_rest_of_the_run() {
        let mut metrics: Vec<_> = (0..6).map(|_| steal_metric(vec![1.0])).collect();
        // The first two took four fifths of the time that the others take; the last was disturbed.
        let words = drifted(&mut metrics, &[0.8, 0.8, 1.0, 1.0, 1.02, 1.4], 0.1);
        let unfit: Vec<bool> = metrics.iter().map(|metric| metric.unfit.is_some()).collect();
        assert_eq!(unfit, [true, true, false, false, false, true]);
        assert!(metrics[0].unfit.as_ref().is_some_and(|why| why.contains("20 % faster")));
        assert!(metrics[5].unfit.as_ref().is_some_and(|why| why.contains("40 % slower")));
        assert!(words.is_some_and(|words| words.contains("-20.0 % to +40.0 %")));
        assert_eq!(drifted(&mut metrics, &[], 0.1), None);
    }
}
