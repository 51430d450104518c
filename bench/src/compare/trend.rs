//! One metric over several runs.

use reports::schema::{BenchRecord, Better, Metric};
use serde::Serialize;

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
