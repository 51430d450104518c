//! Two records beside each other: ratio, interval, test, effect, verdict in words.
//!
//! Rules: *same* needs the whole 95 % interval of the ratio of medians inside the margin; *better* or *worse* needs it
//! outside of 1 and p below alpha after Holm's correction over all metrics compared; anything else is *can't tell*.

mod comparable;
mod trend;
mod verdict;

use crate::stats;
use comparable::{obstacles, pair_up, reservations, unusable};
use reports::schema::{BenchRecord, Comparability, Comparison, ComparisonVerdict, Metric, RecordRef, Stamp};
use serde::Serialize;
use verdict::{LEAST_SAMPLES, judge};

pub use trend::{Trend, TrendPoint, trend};

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
    // A metric may be missing or unfit in the last round and be there in enough others.
    let mut known: Vec<&Metric> = Vec::new();
    for metric in base.iter().chain(candidate).flat_map(|record| &record.metrics) {
        if known.iter().all(|other| other.id != metric.id) {
            known.push(metric);
        }
    }
    let mut paired: Vec<(Metric, Metric)> = Vec::new();
    for metric in known {
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
            comparison.left_out.retain(|(id, _)| *id != metric.id);
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

fn reference(record: &BenchRecord) -> RecordRef {
    RecordRef {
        label: record.label.clone(),
        created: record.stamp.created.clone(),
        accelerator: record.accelerator,
        file: None,
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
