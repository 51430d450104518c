//! Two records beside each other: ratio, interval, test, effect, verdict in words.
//!
//! Rules: *same* needs the whole 95 % interval of the ratio of medians inside the margin; *better* or *worse* needs it
//! outside of 1 and p below alpha after Holm's correction over all metrics compared; anything else is *can't tell*.

use crate::stats;
use reports::schema::{
    AcceleratorClass, BenchRecord, Better, Comparability, ComparedMetric, Comparison, ComparisonVerdict, Metric, Place,
    RecordRef, Stamp,
};
use serde::Serialize;

/// Equivalence margins as fractions.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Margins {
    /// `cpu.*`.
    pub cpu: f64,
    /// `memory.*`.
    pub memory: f64,
    /// `disk.*`.
    pub disk: f64,
    /// Everything else: `kernel.*`, `hypervisor.*`, `net.*`.
    pub other: f64,
}

impl Default for Margins {
    /// 3 % CPU, 5 % memory, 10 % disk, 5 % others.
    fn default() -> Self {
        Self {
            cpu: 0.03,
            memory: 0.05,
            disk: 0.10,
            other: 0.05,
        }
    }
}

impl Margins {
    /// The margin of a metric.
    #[must_use]
    pub fn of(&self, id: &str) -> f64 {
        match id.split('.').next() {
            Some("cpu") => self.cpu,
            Some("memory") => self.memory,
            Some("disk") => self.disk,
            _ => self.other,
        }
    }
}

/// How to compare.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct CompareOptions {
    /// Go on where the two are not comparable.
    pub force: bool,
    /// Margins.
    pub margins: Margins,
    /// Level of significance after correction.
    pub alpha: f64,
}

impl Default for CompareOptions {
    fn default() -> Self {
        Self {
            force: false,
            margins: Margins::default(),
            alpha: 0.05,
        }
    }
}

/// The two say nothing about each other.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the two records cannot be compared: {}; take both under like conditions, or force it", reasons.join("; "))]
pub struct NotComparable {
    /// Why.
    pub reasons: Vec<String>,
}

/// Sets `candidate` beside `base`.
///
/// # Errors
/// [`NotComparable`] unless forced.
pub fn compare(
    base: &BenchRecord,
    candidate: &BenchRecord,
    options: &CompareOptions,
) -> Result<Comparison, NotComparable> {
    let reasons = obstacles(base, candidate);
    if !reasons.is_empty() && !options.force {
        return Err(NotComparable { reasons });
    }
    let reservations = reservations(base, candidate);
    let comparability = match (reasons.is_empty(), reservations.is_empty()) {
        (false, _) => Comparability::Forced(reasons.into_iter().chain(reservations).collect()),
        (true, false) => Comparability::WithReservations(reservations),
        (true, true) => Comparability::Yes,
    };
    let (pairs, left_out) = pair_up(base, candidate, options.force);
    let raw: Vec<f64> = pairs
        .iter()
        .map(|(b, c)| stats::mann_whitney_u(&b.samples, &c.samples).1)
        .collect();
    let metrics = pairs
        .iter()
        .zip(stats::holm(&raw))
        .map(|((base, candidate), p)| {
            let ratio = stats::median(&candidate.samples) / stats::median(&base.samples);
            let interval = stats::ratio_interval(&base.samples, &candidate.samples);
            judge(base, candidate, (ratio, interval), p, options)
        })
        .collect();
    Ok(Comparison {
        stamp: Stamp::now(concat!("esxodus-bench ", env!("CARGO_PKG_VERSION"))),
        base: reference(base),
        candidate: reference(candidate),
        comparability,
        metrics,
        left_out,
    })
}

/// Sets two things beside each other that were measured in turn: `base[i]` beside `candidate[i]`, as
/// [`take_turns`](crate::harness::take_turns) leaves them. The value of a metric in a round is its median there; ratio and
/// interval are of the paired ratios, p is Wilcoxon's signed-rank test. Metrics that are unfit or missing in a round are
/// left out of that round on both sides.
///
/// # Errors
/// [`NotComparable`] unless forced; without rounds.
pub fn compare_paired(
    base: &[BenchRecord],
    candidate: &[BenchRecord],
    options: &CompareOptions,
) -> Result<Comparison, NotComparable> {
    let (Some(base_last), Some(candidate_last)) = (base.last(), candidate.last()) else {
        return Err(NotComparable {
            reasons: vec!["there is no pair of rounds".to_owned()],
        });
    };
    // Facts do not change between rounds; the plain comparison judges them and says what is missing altogether.
    let mut comparison = compare(
        base_last,
        candidate_last,
        &CompareOptions {
            force: true,
            ..*options
        },
    )?;
    let reasons = obstacles(base_last, candidate_last);
    if !reasons.is_empty() && !options.force {
        return Err(NotComparable { reasons });
    }
    let mut paired: Vec<(Metric, Metric)> = Vec::new();
    for metric in &base_last.metrics {
        let mut sides = (merged(metric), merged(metric));
        for (base, candidate) in base.iter().zip(candidate) {
            let of = |record: &BenchRecord| record.metrics.iter().find(|other| other.id == metric.id).cloned();
            if let (Some(b), Some(c)) = (of(base), of(candidate))
                && unusable(&b, &c, options.force).is_none()
            {
                sides.0.samples.push(stats::median(&b.samples));
                sides.1.samples.push(stats::median(&c.samples));
            }
        }
        let rounds = sides.0.samples.len();
        if rounds >= LEAST_SAMPLES {
            sides.0.summary = stats::summarise(&sides.0.samples);
            sides.1.summary = stats::summarise(&sides.1.samples);
            paired.push(sides);
        } else if comparison.left_out.iter().all(|(id, _)| *id != metric.id) {
            let of = base.len().min(candidate.len());
            let reason = format!("only {rounds} of {of} rounds were fit on both sides, {LEAST_SAMPLES} are needed");
            comparison.left_out.push((metric.id.clone(), reason));
        }
    }
    let raw: Vec<f64> = paired
        .iter()
        .map(|(b, c)| stats::wilcoxon_signed_rank(&b.samples, &c.samples).1)
        .collect();
    comparison.metrics = paired
        .iter()
        .zip(stats::holm(&raw))
        .map(|((base, candidate), p)| {
            let ratios: Vec<f64> = base
                .samples
                .iter()
                .zip(&candidate.samples)
                .map(|(b, c)| c / b)
                .collect();
            let interval = stats::ratio_interval_paired(&base.samples, &candidate.samples);
            judge(base, candidate, (stats::median(&ratios), interval), p, options)
        })
        .collect();
    Ok(comparison)
}

/// The metric without what belongs to one round.
fn merged(metric: &Metric) -> Metric {
    Metric {
        samples: Vec::new(),
        percentiles: Vec::new(),
        unfit: None,
        ..metric.clone()
    }
}

/// Below so many samples a side nothing is decided, whatever the interval: it cannot be known from them.
const LEAST_SAMPLES: usize = 5;

fn reference(record: &BenchRecord) -> RecordRef {
    RecordRef {
        label: record.label.clone(),
        created: record.stamp.created.clone(),
        accelerator: record.accelerator,
        file: None,
    }
}

/// Groups of accelerators whose figures mean the same: hardware at work. `Unknown` goes with these, as a reservation.
fn is_hardware(class: AcceleratorClass) -> bool {
    use AcceleratorClass::{Esxi, Metal, Native, Unknown};
    matches!(class, Native | Esxi | Metal | Unknown)
}

fn obstacles(base: &BenchRecord, candidate: &BenchRecord) -> Vec<String> {
    let mut reasons = Vec::new();
    let (a, b) = (base.accelerator, candidate.accelerator);
    // What CPUID says outranks what the caller said.
    let tcg = |record: &BenchRecord| record.host.hypervisor.as_deref() == Some("TCGTCGTCGTCG");
    if a != b && !(is_hardware(a) && is_hardware(b)) {
        reasons.push(format!(
            "the accelerators differ in kind: {} against {}",
            words(a),
            words(b)
        ));
    } else if tcg(base) != tcg(candidate) {
        reasons.push("one ran under TCG emulation, as CPUID says, the other did not".to_owned());
    }
    if let (Some(a), Some(b)) = (&base.host.cpu_model, &candidate.host.cpu_model)
        && a != b
    {
        reasons.push(format!("the CPU models differ: {a} against {b}"));
    }
    let (a, b) = (base.host.cpus_usable, candidate.host.cpus_usable);
    if a != b {
        reasons.push(format!("the numbers of usable CPUs differ: {a} against {b}"));
    }
    reasons
}

fn reservations(base: &BenchRecord, candidate: &BenchRecord) -> Vec<String> {
    let mut found = Vec::new();
    for (which, record) in [("base", base), ("candidate", candidate)] {
        if record.noise.noisy {
            found.push(format!(
                "the {which} was noisy: {:.1} CPU seconds stolen and {:.1} used by others in {:.0} s",
                record.noise.steal_cpu_seconds, record.noise.foreign_cpu_seconds, record.noise.wall_seconds
            ));
        }
        if record.accelerator == AcceleratorClass::Unknown && record.place != Place::Host {
            found.push(format!("what lay under the {which} is not known"));
        }
    }
    let differs = |what: &str, a: &dyn std::fmt::Debug, b: &dyn std::fmt::Debug| {
        let (a, b) = (format!("{a:?}"), format!("{b:?}"));
        (a != b).then(|| format!("{what} differ: {a} against {b}"))
    };
    let (a, b) = (&base.host, &candidate.host);
    found.extend(differs("agent versions", &base.stamp.tool, &candidate.stamp.tool));
    found.extend(differs("kernels", &a.kernel, &b.kernel));
    found.extend(differs("clock sources", &a.clock_source, &b.clock_source));
    found.extend(differs("suites", &base.suite, &candidate.suite));
    let missing: Vec<&str> = a
        .cpu_flags
        .iter()
        .filter(|flag| !b.cpu_flags.contains(flag))
        .map(String::as_str)
        .collect();
    if !missing.is_empty() && !b.cpu_flags.is_empty() {
        found.push(format!(
            "the candidate's CPU lacks flags that the base had: {}",
            missing.join(" ")
        ));
    }
    found
}

fn words(class: AcceleratorClass) -> &'static str {
    match class {
        AcceleratorClass::Native => "KVM on hardware",
        AcceleratorClass::Nested => "nested KVM",
        AcceleratorClass::Emulated => "page-table KVM",
        AcceleratorClass::Unfit => "unfit KVM",
        AcceleratorClass::Absent => "no KVM",
        AcceleratorClass::Tcg => "TCG emulation",
        AcceleratorClass::Esxi => "ESXi",
        AcceleratorClass::Metal => "no hypervisor",
        AcceleratorClass::Unknown => "unknown",
    }
}

type Pairs<'r> = Vec<(&'r Metric, &'r Metric)>;

fn pair_up<'r>(base: &'r BenchRecord, candidate: &'r BenchRecord, force: bool) -> (Pairs<'r>, Vec<(String, String)>) {
    let (mut pairs, mut left_out) = (Vec::new(), Vec::new());
    let skipped = |record: &BenchRecord, id: &str| {
        let found = record.skipped.iter().find(|skipped| skipped.id == id);
        found.map_or_else(
            || "was not measured".to_owned(),
            |skipped| format!("was skipped: {}", skipped.reason),
        )
    };
    for metric in &base.metrics {
        match candidate.metrics.iter().find(|other| other.id == metric.id) {
            None => left_out.push((
                metric.id.clone(),
                format!("in the candidate it {}", skipped(candidate, &metric.id)),
            )),
            Some(other) => match unusable(metric, other, force) {
                Some(reason) => left_out.push((metric.id.clone(), reason)),
                None => pairs.push((metric, other)),
            },
        }
    }
    for metric in candidate
        .metrics
        .iter()
        .filter(|metric| base.metrics.iter().all(|other| other.id != metric.id))
    {
        left_out.push((
            metric.id.clone(),
            format!("in the base it {}", skipped(base, &metric.id)),
        ));
    }
    (pairs, left_out)
}

fn unusable(base: &Metric, candidate: &Metric, force: bool) -> Option<String> {
    if base.unit != candidate.unit || base.better != candidate.better {
        return Some(format!("units differ: {} against {}", base.unit, candidate.unit));
    }
    let positive = |metric: &Metric| {
        !metric.samples.is_empty()
            && metric.samples.iter().all(|v| v.is_finite())
            && stats::median(&metric.samples) > 0.0
    };
    if !positive(base) || !positive(candidate) {
        return Some(format!(
            "no ratio can be formed: medians {} and {} {}",
            base.summary.median, candidate.summary.median, base.unit
        ));
    }
    if force {
        return None;
    }
    if base.method != candidate.method {
        return Some(format!(
            "measured differently: \"{}\" against \"{}\"",
            base.method, candidate.method
        ));
    }
    let unfit = |which: &str, metric: &Metric| {
        metric
            .unfit
            .as_ref()
            .map(|why| format!("the {which}'s samples are unfit: {why}"))
    };
    unfit("base", base).or_else(|| unfit("candidate", candidate))
}

type Ratio = (f64, (f64, f64));

fn judge(
    base: &Metric,
    candidate: &Metric,
    (ratio, ratio_ci): Ratio,
    p_adjusted: f64,
    options: &CompareOptions,
) -> ComparedMetric {
    let (base_median, candidate_median) = (stats::median(&base.samples), stats::median(&candidate.samples));
    let samples = base.samples.len().min(candidate.samples.len());
    let margin = options.margins.of(&base.id);
    let outside = ratio_ci.0 > 1.0 || ratio_ci.1 < 1.0;
    let verdict = if samples < LEAST_SAMPLES {
        ComparisonVerdict::CantTell
    } else if ratio_ci.0 >= 1.0 - margin && ratio_ci.1 <= 1.0 + margin {
        ComparisonVerdict::Same
    } else if outside && p_adjusted < options.alpha {
        if (ratio > 1.0) == (base.better == Better::Higher) {
            ComparisonVerdict::Better
        } else {
            ComparisonVerdict::Worse
        }
    } else {
        ComparisonVerdict::CantTell
    };
    let mut compared = ComparedMetric {
        id: base.id.clone(),
        name: base.name.clone(),
        unit: base.unit.clone(),
        better: base.better,
        base_median,
        base_ci: (base.summary.ci_low, base.summary.ci_high),
        candidate_median,
        candidate_ci: (candidate.summary.ci_low, candidate.summary.ci_high),
        ratio,
        ratio_ci,
        p_adjusted,
        effect: stats::cliffs_delta(&base.samples, &candidate.samples),
        margin,
        verdict,
        words: String::new(),
    };
    compared.words = in_words(&compared, samples, options.alpha);
    if let Some(why) = base.unfit.as_ref().or(candidate.unfit.as_ref()) {
        compared.words.push_str(&format!(" Unfit samples: {why}."));
    }
    compared
}

fn in_words(m: &ComparedMetric, samples: usize, alpha: f64) -> String {
    let percent = |ratio: f64| (ratio - 1.0) * 100.0;
    let (low, high) = (percent(m.ratio_ci.0), percent(m.ratio_ci.1));
    let interval = format!("95 % interval {low:+.1} % to {high:+.1} %");
    let margin = m.margin * 100.0;
    let change = |what: &str| {
        let more = if m.ratio > 1.0 { "higher" } else { "lower" };
        let side = if m.better == Better::Higher {
            "higher is better"
        } else {
            "lower is better"
        };
        format!(
            "{what}: {:.1} % {more} ({side}); {interval}, p = {}",
            percent(m.ratio).abs(),
            PValue(m.p_adjusted)
        )
    };
    match m.verdict {
        ComparisonVerdict::Same => format!("Same: {interval}, all of it within ±{margin:.0} %."),
        ComparisonVerdict::Better => format!("{}.", change("Better")),
        ComparisonVerdict::Worse => format!("{}.", change("Worse")),
        ComparisonVerdict::CantTell if samples < LEAST_SAMPLES => {
            let change = percent(m.ratio);
            format!(
                "Can't tell: {change:+.1} % from {samples} sample(s) a side; {LEAST_SAMPLES} are the least that decide."
            )
        }
        ComparisonVerdict::CantTell => {
            let reason = if m.p_adjusted >= alpha {
                format!("p = {} is not below {alpha}", PValue(m.p_adjusted))
            } else {
                "the interval holds 1".to_owned()
            };
            let more = more_samples(m, samples);
            format!("Can't tell: {interval} is not within ±{margin:.0} %, and {reason}; {more}.")
        }
    }
}

/// How many samples each side would need. The interval shrinks with the square root of their number.
fn more_samples(m: &ComparedMetric, samples: usize) -> String {
    const PRACTICAL: f64 = 10_000.0;
    let half_width = (m.ratio_ci.1 - m.ratio_ci.0) / 2.0;
    let distance = (m.ratio - 1.0).abs();
    // A difference shows once the half width is below the distance, sameness once it fits between distance and margin.
    let needed = distance.max(m.margin - distance);
    let factor = (half_width / needed.max(1e-6)).powi(2) * 1.2;
    let wanted = (samples as f64 * factor).ceil().max(samples as f64 + 1.0);
    if wanted > PRACTICAL || !wanted.is_finite() {
        "no practical number of samples would decide; lower the noise".to_owned()
    } else {
        format!("about {wanted:.0} samples a side would decide, {samples} were taken")
    }
}

/// Shows a p with two digits, small ones as a bound.
struct PValue(f64);

impl std::fmt::Display for PValue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            p if p < 0.0001 => write!(f, "{p:.0e}"),
            p => write!(f, "{p:.4}"),
        }
    }
}

/// A metric that got worse by more than was allowed.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Regression {
    /// Id of the metric.
    pub id: String,
    /// By how many percent the median got worse.
    pub percent: f64,
    /// The verdict in words.
    pub words: String,
}

/// Metrics judged *worse* whose median is worse by more than `percent`, worst first.
#[must_use]
pub fn regressions(comparison: &Comparison, percent: f64) -> Vec<Regression> {
    let worse = comparison
        .metrics
        .iter()
        .filter(|metric| metric.verdict == ComparisonVerdict::Worse);
    let mut found: Vec<Regression> = worse
        .map(|metric| {
            let percent = (metric.ratio - 1.0).abs() * 100.0;
            Regression {
                id: metric.id.clone(),
                percent,
                words: metric.words.clone(),
            }
        })
        .filter(|regression| regression.percent > percent)
        .collect();
    found.sort_by(|a, b| b.percent.total_cmp(&a.percent));
    found
}

/// One metric over several runs.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Trend {
    /// Id of the metric.
    pub id: String,
    /// For people.
    pub name: String,
    /// Unit.
    pub unit: String,
    /// Direction.
    pub better: Better,
    /// The runs that have it, in time order.
    pub points: Vec<TrendPoint>,
    /// Last median : first median.
    pub ratio: f64,
    /// Are all points measured the same way, on the same CPU model and accelerator?
    pub like: bool,
}

/// A run in a trend.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TrendPoint {
    /// Label of the record.
    pub label: String,
    /// When it was taken.
    pub created: String,
    /// Median.
    pub median: f64,
    /// 95 % interval of the median.
    pub ci: (f64, f64),
    /// Were the samples unfit?
    pub unfit: bool,
}

/// Every metric that at least two of `records` have, over time.
#[must_use]
pub fn trend(records: &[BenchRecord]) -> Vec<Trend> {
    let mut ordered: Vec<&BenchRecord> = records.iter().collect();
    // RFC 3339 in UTC sorts as text.
    ordered.sort_by(|a, b| a.stamp.created.cmp(&b.stamp.created));
    let mut ids: Vec<&str> = Vec::new();
    for metric in ordered.iter().flat_map(|record| &record.metrics) {
        if !ids.contains(&metric.id.as_str()) {
            ids.push(&metric.id);
        }
    }
    ids.into_iter().filter_map(|id| trend_of(id, &ordered)).collect()
}

fn trend_of(id: &str, ordered: &[&BenchRecord]) -> Option<Trend> {
    let having: Vec<(&BenchRecord, &Metric)> = ordered
        .iter()
        .filter_map(|record| Some((*record, record.metrics.iter().find(|metric| metric.id == id)?)))
        .collect();
    let [(first_record, first), .., (_, last)] = having[..] else {
        return None;
    };
    let alike = |(record, metric): &(&BenchRecord, &Metric)| {
        metric.method == first.method
            && metric.unit == first.unit
            && record.host.cpu_model == first_record.host.cpu_model
            && record.accelerator == first_record.accelerator
    };
    let point = |(record, metric): &(&BenchRecord, &Metric)| TrendPoint {
        label: record.label.clone(),
        created: record.stamp.created.clone(),
        median: metric.summary.median,
        ci: (metric.summary.ci_low, metric.summary.ci_high),
        unfit: metric.unfit.is_some(),
    };
    Some(Trend {
        id: id.to_owned(),
        name: first.name.clone(),
        unit: first.unit.clone(),
        better: first.better,
        ratio: last.summary.median / first.summary.median,
        like: having.iter().all(alike),
        points: having.iter().map(point).collect(),
    })
}
