//! What KVM on a host really takes, beside what documents say and what the guest needs.

use super::charts::{Axes, Curve};
use super::curve_charts::{Chart, chart};
use super::format::{bytes, duration, float, number};
use super::view::{Badge, Facts, badge, clean};
use crate::schema::{GuestReport, LimitsReport, ProbeEnd, ProbeSeries};
use serde::Serialize;

#[derive(Debug, Serialize)]
pub(super) struct Probed {
    about: Facts,
    rows: Vec<ProbedRow>,
    charts: Vec<Chart>,
    notes: Vec<String>,
}

/// A quantity for people.
#[derive(Debug, Serialize)]
pub(super) struct ProbedRow {
    pub(super) quantity: &'static str,
    pub(super) documented: Vec<String>,
    pub(super) says: String,
    pub(super) accepted: String,
    pub(super) reason: String,
    pub(super) used: String,
    pub(super) badge: Option<Badge>,
    pub(super) cost: String,
}

pub(super) fn probed(report: &GuestReport) -> Option<Probed> {
    let probe = report.probed_limits.as_ref()?;
    Some(Probed {
        about: about(probe),
        rows: rows(report, probe),
        charts: probe.series.iter().filter_map(cost_chart).collect(),
        notes: probe.notes.iter().map(|note| clean(note)).collect(),
    })
}

fn about(probe: &LimitsReport) -> Facts {
    let mut facts: Facts = Vec::new();
    if let Some(cpu) = &probe.host.cpu_model {
        facts.push(("CPU", clean(cpu)));
    }
    if let Some(kernel) = &probe.host.kernel {
        facts.push(("Kernel", clean(kernel)));
    }
    facts.push((
        "Probed",
        format!("{}, in {}", clean(&probe.stamp.created), duration(probe.seconds)),
    ));
    facts
}

/// A row a quantity.
pub(super) fn rows(report: &GuestReport, probe: &LimitsReport) -> Vec<ProbedRow> {
    probe.series.iter().map(|series| row(report, series)).collect()
}

fn row(report: &GuestReport, series: &ProbeSeries) -> ProbedRow {
    let used = match series.key.as_str() {
        "vcpus" => Some(u64::from(report.machine.vcpus)),
        "memory" => Some(report.machine.memory_mib.saturating_mul(1 << 20)),
        _ => None,
    };
    let last = series.curve.last();
    ProbedRow {
        quantity: title(series),
        documented: series.documented_words().iter().map(|words| clean(words)).collect(),
        says: series
            .capability
            .map_or_else(|| "nothing".to_owned(), |count| clean(&series.amount(count))),
        accepted: clean(&series.accepted_words()),
        reason: clean(&series.reason),
        used: used.map_or_else(String::new, |used| {
            if series.unit == "bytes" {
                bytes(used)
            } else {
                clean(&series.amount(used))
            }
        }),
        badge: used.map(|used| match series.ended {
            _ if used <= series.accepted => badge("good", "fits"),
            ProbeEnd::Refused => badge("bad", "does not fit"),
            _ => badge("warn", "not tried so far"),
        }),
        cost: last.map_or_else(
            || "nothing was made".to_owned(),
            |last| {
                format!(
                    "{} and {} of kernel memory for {}; taken down in {}",
                    duration(last.create_ms / 1e3),
                    bytes(last.kernel_bytes),
                    clean(&series.amount(last.count)),
                    duration(series.release_ms / 1e3)
                )
            },
        ),
    }
}

fn title(series: &ProbeSeries) -> &'static str {
    match series.key.as_str() {
        "vcpus" => "vCPUs of a VM",
        "memory-slots" => "Memory slots of a VM",
        "virtio-queues" => "Virtio queues of a VM",
        "memory" => "Memory of a VM",
        _ => "Another quantity",
    }
}

/// Time and kernel memory over the count, all on logarithmic scales.
fn cost_chart(series: &ProbeSeries) -> Option<Chart> {
    let points: Vec<_> = series.curve.iter().filter(|point| point.count > 0).collect();
    if points.len() < 2 {
        return None;
    }
    // What was too little to be seen stands at the bottom: a logarithm has no zero.
    const LEAST: f64 = 0.01;
    const MIB: f64 = 1024.0 * 1024.0;
    let curve = |label: &str, value: &dyn Fn(&crate::schema::ProbePoint) -> f64| Curve {
        label: label.to_owned(),
        points: points
            .iter()
            .map(|point| (float(point.count).log2(), value(point).max(LEAST)))
            .collect(),
    };
    let name = |count: u64| match series.unit.as_str() {
        "bytes" => series.amount(count),
        _ => number(float(count)),
    };
    let axes = Axes {
        title: title(series).to_owned(),
        x_name: if series.unit == "bytes" {
            "memory".to_owned()
        } else {
            clean(&series.unit)
        },
        y_name: "milliseconds, MiB".to_owned(),
        x_ticks: points
            .iter()
            .map(|point| (float(point.count).log2(), name(point.count)))
            .collect(),
        y_log: true,
    };
    Some(chart(
        format!("{}: what they cost", title(series)),
        &axes,
        &[
            curve("time to make, ms", &|point| point.create_ms),
            curve("kernel memory, MiB", &|point| float(point.kernel_bytes) / MIB),
        ],
        "",
    ))
}
