//! The measuring half of the page: comparisons, records side by side, curves, raw figures.

use super::charts::{Bar, bars, ratio_track};
use super::csv::word;
use super::curve_charts::{Chart, charts};
use super::format::{bytes, counted, duration, float, number};
use super::view::{Badge, Facts, badge, clean, host_facts};
use crate::schema::{
    AcceleratorClass, BenchRecord, BenchSizes, Better, Comparability, ComparedMetric, Comparison, ComparisonVerdict,
    GuestReport, Metric,
};
use minijinja::Value;
use serde::Serialize;

#[derive(Debug, Serialize)]
pub(super) struct Measures {
    comparisons: Vec<ComparisonView>,
    charts: Vec<Chart>,
    areas: Vec<Area>,
    labels: Vec<String>,
    records: Vec<Record>,
}

#[derive(Debug, Serialize)]
struct ComparisonView {
    base: String,
    candidate: String,
    base_about: String,
    candidate_about: String,
    is_move: bool,
    /// Beside a comparison with ESXi, any other is detail.
    folded: bool,
    summary: String,
    caution: Option<Badge>,
    reasons: Vec<String>,
    areas: Vec<ComparedArea>,
    left_out: Vec<(String, String)>,
}

#[derive(Debug, Serialize)]
struct ComparedArea {
    name: String,
    metrics: Vec<Compared>,
}

#[derive(Debug, Serialize)]
struct Compared {
    id: String,
    name: String,
    unit: String,
    better: &'static str,
    base: String,
    base_ci: String,
    candidate: String,
    candidate_ci: String,
    ratio: String,
    ratio_ci: String,
    p: String,
    effect: String,
    badge: Badge,
    words: String,
    bars: Value,
    track: Value,
}

#[derive(Debug, Serialize)]
struct Area {
    name: String,
    rows: Vec<AreaRow>,
}

#[derive(Debug, Serialize)]
struct AreaRow {
    id: String,
    name: String,
    unit: String,
    better: &'static str,
    cells: Vec<Cell>,
    bars: Value,
}

#[derive(Debug, Serialize)]
struct Cell {
    label: String,
    median: String,
    ci: String,
    unfit: Option<String>,
}

#[derive(Debug, Serialize)]
struct Record {
    label: String,
    about: Facts,
    host: Facts,
    noise: Badge,
    noise_detail: String,
    metrics: Vec<RawMetric>,
    skipped: Vec<(String, String)>,
    self_checks: Vec<String>,
}

#[derive(Debug, Serialize)]
struct RawMetric {
    id: String,
    unit: String,
    better: &'static str,
    summary: Vec<(&'static str, String)>,
    samples: String,
    percentiles: String,
    method: String,
    stopped: String,
    unfit: Option<String>,
}

pub(super) fn new(report: &GuestReport) -> Measures {
    let has_move = report.comparisons.iter().any(is_move);
    Measures {
        comparisons: report.comparisons.iter().map(|one| comparison(one, has_move)).collect(),
        charts: charts(&report.bench),
        areas: areas(&report.bench),
        labels: report.bench.iter().map(|record| clean(&record.label)).collect(),
        records: report.bench.iter().map(record).collect(),
    }
}

/// Value and note of the performance tile: from the first comparison with ESXi as its base, else from the first.
pub(super) fn headline(report: &GuestReport) -> Option<(String, String)> {
    let comparison = report
        .comparisons
        .iter()
        .find(|comparison| is_move(comparison))
        .or_else(|| report.comparisons.first())?;
    let count = |verdict| {
        comparison
            .metrics
            .iter()
            .filter(|metric| metric.verdict == verdict)
            .count()
    };
    let worse = count(ComparisonVerdict::Worse);
    let value = if worse == 0 {
        "no figure worse".to_owned()
    } else {
        format!("{worse} of {} worse", comparison.metrics.len())
    };
    let note = format!(
        "{} better, {} same, {} can't tell; against {}",
        count(ComparisonVerdict::Better),
        count(ComparisonVerdict::Same),
        count(ComparisonVerdict::CantTell),
        clean(&comparison.base.label)
    );
    Some((value, note))
}

fn is_move(comparison: &Comparison) -> bool {
    comparison.base.accelerator == AcceleratorClass::Esxi
}

/// `cpu.integer.single` lies in the area `CPU`.
fn area_of(id: &str) -> String {
    match id.split('.').next().unwrap_or(id) {
        "cpu" => "CPU".to_owned(),
        area => {
            let mut chars = clean(area).chars().collect::<Vec<_>>();
            if let Some(first) = chars.first_mut() {
                *first = first.to_ascii_uppercase();
            }
            chars.into_iter().collect()
        }
    }
}

const fn direction(better: Better) -> &'static str {
    match better {
        Better::Higher => "higher is better",
        Better::Lower => "lower is better",
    }
}

fn interval(low: f64, high: f64) -> String {
    format!("{} to {}", number(low), number(high))
}

fn grouped<T, R>(
    items: impl Iterator<Item = T>,
    area: impl Fn(&T) -> String,
    row: impl Fn(T) -> R,
) -> Vec<(String, Vec<R>)> {
    let mut groups: Vec<(String, Vec<R>)> = Vec::new();
    for item in items {
        let name = area(&item);
        let row = row(item);
        match groups.iter_mut().find(|(known, _)| *known == name) {
            Some((_, rows)) => rows.push(row),
            None => groups.push((name, vec![row])),
        }
    }
    groups
}

fn comparison(comparison: &Comparison, has_move: bool) -> ComparisonView {
    let count = |verdict| {
        comparison
            .metrics
            .iter()
            .filter(|metric| metric.verdict == verdict)
            .count()
    };
    let about = |reference: &crate::schema::RecordRef| {
        let taken = clean(&reference.created.replace('T', " ").replace('Z', " UTC"));
        format!("{}, taken {taken}", accelerator(reference.accelerator))
    };
    let (caution, reasons) = match &comparison.comparability {
        Comparability::Yes => (None, Vec::new()),
        Comparability::WithReservations(reasons) => {
            (Some(badge("warn", "compared with reservations")), reasons.clone())
        }
        Comparability::Forced(reasons) => (
            Some(badge("bad", "not comparable; compared because the user said so")),
            reasons.clone(),
        ),
    };
    ComparisonView {
        base: clean(&comparison.base.label),
        candidate: clean(&comparison.candidate.label),
        base_about: about(&comparison.base),
        candidate_about: about(&comparison.candidate),
        is_move: is_move(comparison),
        folded: has_move && !is_move(comparison),
        summary: format!(
            "{}: {} better, {} same, {} worse, {} can't tell.",
            counted(comparison.metrics.len(), "figure", "figures"),
            count(ComparisonVerdict::Better),
            count(ComparisonVerdict::Same),
            count(ComparisonVerdict::Worse),
            count(ComparisonVerdict::CantTell)
        ),
        caution,
        reasons: reasons.iter().map(|reason| clean(reason)).collect(),
        areas: grouped(
            comparison.metrics.iter(),
            |metric| area_of(&metric.id),
            |metric| compared(comparison, metric),
        )
        .into_iter()
        .map(|(name, metrics)| ComparedArea { name, metrics })
        .collect(),
        left_out: comparison
            .left_out
            .iter()
            .map(|(id, why)| (clean(id), clean(why)))
            .collect(),
    }
}

fn compared(comparison: &Comparison, metric: &ComparedMetric) -> Compared {
    let bar = |label: &str, value, (low, high), series| Bar {
        label: label.to_owned(),
        value,
        low,
        high,
        series,
    };
    let badge = match metric.verdict {
        ComparisonVerdict::Better => badge("good", "better"),
        ComparisonVerdict::Same => badge("good", "same"),
        ComparisonVerdict::Worse => badge("bad", "worse"),
        ComparisonVerdict::CantTell => badge("quiet", "can't tell"),
    };
    Compared {
        id: clean(&metric.id),
        name: clean(&metric.name),
        unit: clean(&metric.unit),
        better: direction(metric.better),
        base: number(metric.base_median),
        base_ci: interval(metric.base_ci.0, metric.base_ci.1),
        candidate: number(metric.candidate_median),
        candidate_ci: interval(metric.candidate_ci.0, metric.candidate_ci.1),
        ratio: number(metric.ratio),
        ratio_ci: interval(metric.ratio_ci.0, metric.ratio_ci.1),
        p: number(metric.p_adjusted),
        effect: number(metric.effect),
        words: clean(&metric.words),
        bars: Value::from_safe_string(bars(
            &metric.unit,
            &[
                bar(&comparison.base.label, metric.base_median, metric.base_ci, 0),
                bar(
                    &comparison.candidate.label,
                    metric.candidate_median,
                    metric.candidate_ci,
                    1,
                ),
            ],
        )),
        track: Value::from_safe_string(ratio_track(
            metric.better,
            metric.ratio,
            metric.ratio_ci,
            metric.margin,
            &badge.word,
        )),
        badge,
    }
}

pub(super) fn find<'a>(record: &'a BenchRecord, id: &str) -> Option<&'a Metric> {
    record.metrics.iter().find(|metric| metric.id == id)
}

/// Every metric of any record, in the order first met.
pub(super) fn ids(records: &[BenchRecord]) -> Vec<&Metric> {
    let mut seen: Vec<&Metric> = Vec::new();
    let mut known = std::collections::BTreeSet::new();
    for metric in records.iter().flat_map(|record| &record.metrics) {
        if known.insert(&metric.id) {
            seen.push(metric);
        }
    }
    seen
}

fn areas(records: &[BenchRecord]) -> Vec<Area> {
    grouped(
        ids(records).into_iter(),
        |metric| area_of(&metric.id),
        |metric| area_row(records, metric),
    )
    .into_iter()
    .map(|(name, rows)| Area { name, rows })
    .collect()
}

fn area_row(records: &[BenchRecord], metric: &Metric) -> AreaRow {
    let mut cells = Vec::new();
    let mut drawn = Vec::new();
    for (series, record) in records.iter().enumerate() {
        let Some(own) = find(record, &metric.id) else {
            continue;
        };
        // Another unit under the same id is another figure: shown, but not on the same scale.
        let same_unit = own.unit == metric.unit;
        let suffix = if same_unit {
            String::new()
        } else {
            format!(" {}", clean(&own.unit))
        };
        cells.push(Cell {
            label: clean(&record.label),
            median: format!("{}{suffix}", number(own.summary.median)),
            ci: interval(own.summary.ci_low, own.summary.ci_high),
            unfit: own.unfit.as_deref().map(clean),
        });
        if same_unit {
            drawn.push(Bar {
                label: record.label.clone(),
                value: own.summary.median,
                low: own.summary.ci_low,
                high: own.summary.ci_high,
                series,
            });
        }
    }
    AreaRow {
        id: clean(&metric.id),
        name: clean(&metric.name),
        unit: clean(&metric.unit),
        better: direction(metric.better),
        cells,
        bars: Value::from_safe_string(bars(&metric.unit, &drawn)),
    }
}

fn accelerator(class: AcceleratorClass) -> &'static str {
    match class {
        AcceleratorClass::Native => "native KVM",
        AcceleratorClass::Nested => "nested KVM",
        AcceleratorClass::Emulated => "page-table KVM",
        AcceleratorClass::Unfit => "unfit KVM",
        AcceleratorClass::Absent => "no KVM",
        AcceleratorClass::Tcg => "software emulation (TCG)",
        AcceleratorClass::Esxi => "ESXi",
        AcceleratorClass::Metal => "no hypervisor between",
        AcceleratorClass::Unknown => "unknown accelerator",
    }
}

fn record(record: &BenchRecord) -> Record {
    let noise = &record.noise;
    Record {
        label: clean(&record.label),
        about: vec![
            ("Where", word(&record.place)),
            ("Under it", accelerator(record.accelerator).to_owned()),
            ("Engine", clean(record.engine.as_deref().unwrap_or("none"))),
            (
                "Storage",
                clean(record.storage.as_deref().unwrap_or("not known from inside")),
            ),
            ("Sizes", sizes(&record.sizes)),
            ("Suite", word(&record.suite)),
            ("Taken", clean(&record.stamp.created)),
            ("By", clean(&record.stamp.tool)),
        ],
        host: host_facts(&record.host),
        noise: if noise.noisy {
            badge("warn", "noisy run")
        } else {
            badge("good", "quiet run")
        },
        noise_detail: format!(
            "{} CPU s stolen, {} CPU s used by others, {} in all",
            number(noise.steal_cpu_seconds),
            number(noise.foreign_cpu_seconds),
            duration(noise.wall_seconds)
        ),
        metrics: record.metrics.iter().map(raw_metric).collect(),
        skipped: record
            .skipped
            .iter()
            .map(|metric| (clean(&metric.id), clean(&metric.reason)))
            .collect(),
        self_checks: record.self_checks.iter().map(|check| clean(check)).collect(),
    }
}

fn sizes(sizes: &BenchSizes) -> String {
    let parts = [
        sizes.disk_file_bytes.map(|size| format!("disk file {}", bytes(size))),
        sizes
            .disk_rate
            .map(|rate| format!("{rate} requests a second at a fixed rate")),
        sizes
            .stream_array_bytes
            .map(|size| format!("three arrays of {}", bytes(size))),
    ];
    let parts: Vec<String> = parts.into_iter().flatten().collect();
    if parts.is_empty() {
        "none that depend on the budget".to_owned()
    } else {
        parts.join(", ")
    }
}

fn raw_metric(metric: &Metric) -> RawMetric {
    let summary = &metric.summary;
    let samples: Vec<String> = metric.samples.iter().map(f64::to_string).collect();
    let percentiles: Vec<String> = metric
        .percentiles
        .iter()
        .map(|point| format!("p{} {}", point.percent, number(point.value)))
        .collect();
    let unit = metric.percentile_unit.as_deref().unwrap_or(&metric.unit);
    RawMetric {
        id: clean(&metric.id),
        unit: clean(&metric.unit),
        better: direction(metric.better),
        summary: vec![
            ("n", number(float(u64::from(summary.n)))),
            ("median", number(summary.median)),
            ("95 % interval", interval(summary.ci_low, summary.ci_high)),
            ("mean", number(summary.mean)),
            ("quartiles", interval(summary.q1, summary.q3)),
            ("range", interval(summary.min, summary.max)),
        ],
        samples: samples.join(" "),
        percentiles: if percentiles.is_empty() {
            String::new()
        } else {
            format!("{} {}", percentiles.join(", "), clean(unit))
        },
        method: clean(&metric.method),
        stopped: clean(&metric.stopped),
        unfit: metric.unfit.as_deref().map(clean),
    }
}
