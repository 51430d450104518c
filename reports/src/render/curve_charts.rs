//! Curves over percentiles, threads and sizes, found by the metrics' ids.

use super::charts::{Axes, Curve, curves};
use super::format::number;
use super::measures::{find, ids};
use super::view::clean;
use crate::schema::{BenchRecord, Metric};
use minijinja::Value;
use serde::Serialize;

/// A chart, and its points as a table: what is drawn has to be readable without seeing it.
#[derive(Debug, Serialize)]
pub(super) struct Chart {
    title: String,
    svg: Value,
    x_name: String,
    columns: Vec<String>,
    rows: Vec<(String, Vec<String>)>,
}

/// `unit` goes behind the labels in the table's head; empty where they have it already.
pub(super) fn chart(title: String, axes: &Axes, drawn: &[Curve], unit: &str) -> Chart {
    let value = |curve: &Curve, x: f64| {
        let point = curve.points.iter().find(|point| (point.0 - x).abs() < 1e-9);
        point.map_or_else(String::new, |point| number(point.1))
    };
    Chart {
        title,
        svg: Value::from_safe_string(curves(axes, drawn)),
        x_name: axes.x_name.clone(),
        columns: drawn.iter().map(|curve| format!("{}{unit}", curve.label)).collect(),
        rows: axes
            .x_ticks
            .iter()
            .map(|(x, name)| (name.clone(), drawn.iter().map(|curve| value(curve, *x)).collect()))
            .collect(),
    }
}

pub(super) fn charts(records: &[BenchRecord]) -> Vec<Chart> {
    let mut charts = latency_charts(records);
    charts.extend(scaling_charts(records));
    charts
}

/// Position of a percentile: each further nine is one step to the right.
fn nines(percent: f64) -> f64 {
    let tail = (1.0 - percent / 100.0).max(1e-6);
    -tail.log10()
}

fn latency_charts(records: &[BenchRecord]) -> Vec<Chart> {
    let mut charts = Vec::new();
    for metric in ids(records) {
        let with: Vec<(&BenchRecord, &Metric)> = records
            .iter()
            .filter_map(|record| Some((record, find(record, &metric.id)?)))
            .filter(|(_, own)| own.percentiles.len() > 1)
            .collect();
        let Some((_, first)) = with.first() else {
            continue;
        };
        let unit = first.percentile_unit.clone();
        let drawn: Vec<Curve> = with
            .iter()
            .filter(|(_, own)| own.percentile_unit == unit)
            .map(|(record, own)| {
                let mut points: Vec<(f64, f64)> = own
                    .percentiles
                    .iter()
                    .map(|point| (nines(point.percent), point.value))
                    .collect();
                points.sort_by(|a, b| a.0.total_cmp(&b.0));
                Curve {
                    label: clean(&record.label),
                    points,
                }
            })
            .collect();
        let mut ticks: Vec<f64> = with
            .iter()
            .flat_map(|(_, own)| own.percentiles.iter().map(|point| point.percent))
            .collect();
        ticks.sort_by(f64::total_cmp);
        ticks.dedup();
        let axes = Axes {
            title: clean(&metric.name),
            x_name: "percentile".to_owned(),
            y_name: format!("latency, {}", clean(unit.as_deref().unwrap_or(&metric.unit))),
            x_ticks: ticks
                .iter()
                .map(|percent| (nines(*percent), format!("{percent}")))
                .collect(),
            y_log: true,
        };
        charts.push(chart(
            format!("{}: latency by percentile", clean(&metric.name)),
            &axes,
            &drawn,
            &format!(" ({})", axes.y_name),
        ));
    }
    charts
}

/// What the last part of an id varies.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Point {
    Threads(f64),
    Bytes(f64),
}

/// A place on a curve: `memory.latency.4m.huge` is 4 MiB on the curve with huge pages of `memory.latency`.
#[derive(Debug, Clone, PartialEq)]
struct Place<'a> {
    stem: &'a str,
    point: Point,
    huge: bool,
}

fn place<'a>(id: &'a str, record: &BenchRecord) -> Option<Place<'a>> {
    let (plain, huge) = id.strip_suffix(".huge").map_or((id, false), |plain| (plain, true));
    let (stem, last) = plain.rsplit_once('.')?;
    let point = point_of(last, record)?;
    Some(Place { stem, point, huge })
}

/// `single`, `all`, `t4`, `4t`, `threads-4`, `16k`, `16KiB`, `1m`.
fn point_of(part: &str, record: &BenchRecord) -> Option<Point> {
    let part = part.to_ascii_lowercase();
    if part == "single" {
        return Some(Point::Threads(1.0));
    }
    if part == "all" {
        return Some(Point::Threads(f64::from(record.host.cpus_usable)));
    }
    let threads = part
        .strip_prefix("threads-")
        .or_else(|| part.strip_prefix('t'))
        .or_else(|| part.strip_suffix("threads"))
        .or_else(|| part.strip_suffix('t'));
    if let Some(count) = threads.and_then(|count| count.parse::<u32>().ok()) {
        return Some(Point::Threads(f64::from(count)));
    }
    let digits = part.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let factor = match &part[digits.len()..] {
        "k" | "kib" => 1024.0,
        "m" | "mib" => 1024.0 * 1024.0,
        "g" | "gib" => 1024.0 * 1024.0 * 1024.0,
        _ => return None,
    };
    Some(Point::Bytes(f64::from(digits.parse::<u32>().ok()?) * factor))
}

/// A chart for each stem that has two points or more: one curve a record, and one more where huge pages were used.
fn scaling_charts(records: &[BenchRecord]) -> Vec<Chart> {
    let mut stems: Vec<(&str, bool, &Metric)> = Vec::new();
    for record in records {
        for metric in &record.metrics {
            if let Some(place) = place(&metric.id, record) {
                let by_threads = matches!(place.point, Point::Threads(_));
                let known = |(stem, kind, _): &(&str, bool, &Metric)| *stem == place.stem && *kind == by_threads;
                if !stems.iter().any(known) {
                    stems.push((place.stem, by_threads, metric));
                }
            }
        }
    }
    stems
        .iter()
        .filter_map(|(stem, by_threads, first)| scaling_chart(records, stem, *by_threads, first))
        .collect()
}

fn scaling_chart(records: &[BenchRecord], stem: &str, by_threads: bool, first: &Metric) -> Option<Chart> {
    let mut drawn = Vec::new();
    let mut ticks: Vec<f64> = Vec::new();
    for (record, huge) in records.iter().flat_map(|record| [(record, false), (record, true)]) {
        let mut points: Vec<(f64, f64)> = record
            .metrics
            .iter()
            .filter(|metric| metric.unit == first.unit)
            .filter_map(|metric| {
                let place = place(&metric.id, record)?;
                let x = match place.point {
                    Point::Threads(count) if by_threads => count,
                    Point::Bytes(size) if !by_threads => size.log2(),
                    _ => return None,
                };
                (place.stem == stem && place.huge == huge).then_some((x, metric.summary.median))
            })
            .collect();
        points.sort_by(|a, b| a.0.total_cmp(&b.0));
        points.dedup_by(|a, b| a.0 == b.0);
        if points.len() < 2 {
            continue;
        }
        ticks.extend(points.iter().map(|point| point.0));
        let label = clean(&record.label);
        drawn.push(Curve {
            label: if huge { format!("{label}, huge pages") } else { label },
            points,
        });
    }
    if drawn.is_empty() {
        return None;
    }
    ticks.sort_by(f64::total_cmp);
    ticks.dedup();
    let what = if by_threads { "threads" } else { "size" };
    let title = clean(family(&first.name));
    let axes = Axes {
        title: title.clone(),
        x_name: what.to_owned(),
        y_name: clean(&first.unit),
        x_ticks: ticks
            .iter()
            .map(|tick| (*tick, if by_threads { number(*tick) } else { size_of_log(*tick) }))
            .collect(),
        y_log: !by_threads,
    };
    Some(chart(
        format!("{title} by {what}"),
        &axes,
        &drawn,
        &format!(" ({})", axes.y_name),
    ))
}

/// The name without its variant: `Integer arithmetic, one thread` is of the family `Integer arithmetic`.
fn family(name: &str) -> &str {
    name.split_once(", ").map_or(name, |(family, _)| family)
}

fn size_of_log(log: f64) -> String {
    let (power, unit) = match log {
        _ if log >= 30.0 => (30.0, "GiB"),
        _ if log >= 20.0 => (20.0, "MiB"),
        _ => (10.0, "KiB"),
    };
    format!("{} {unit}", number((log - power).exp2()))
}
