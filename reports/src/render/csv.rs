//! The metrics as CSV: one line a sample summary, for a spreadsheet.

use crate::schema::GuestReport;

/// One line for each metric of each record. The raw samples are one field, separated by spaces. Fields that a
/// spreadsheet would take for a formula get an apostrophe in front.
///
/// # Panics
/// Never: it writes into memory.
#[must_use]
pub fn csv(report: &GuestReport) -> String {
    let mut writer = csv::Writer::from_writer(Vec::new());
    let header = [
        "guest",
        "record",
        "place",
        "accelerator",
        "created",
        "metric",
        "name",
        "unit",
        "better",
        "n",
        "median",
        "ci_low",
        "ci_high",
        "mean",
        "min",
        "q1",
        "q3",
        "max",
        "unfit",
        "method",
        "samples",
    ];
    writer.write_record(header).expect("memory can be written");
    for record in &report.bench {
        for metric in &record.metrics {
            let summary = &metric.summary;
            let samples: Vec<String> = metric.samples.iter().map(f64::to_string).collect();
            let row = [
                safe(&report.machine.name),
                safe(&record.label),
                word(&record.place),
                word(&record.accelerator),
                safe(&record.stamp.created),
                safe(&metric.id),
                safe(&metric.name),
                safe(&metric.unit),
                word(&metric.better),
                summary.n.to_string(),
                summary.median.to_string(),
                summary.ci_low.to_string(),
                summary.ci_high.to_string(),
                summary.mean.to_string(),
                summary.min.to_string(),
                summary.q1.to_string(),
                summary.q3.to_string(),
                summary.max.to_string(),
                safe(metric.unfit.as_deref().unwrap_or("")),
                safe(&metric.method),
                samples.join(" "),
            ];
            writer.write_record(&row).expect("memory can be written");
        }
    }
    let bytes = writer.into_inner().expect("memory can be flushed");
    String::from_utf8(bytes).expect("only strings were written")
}

/// Text that no spreadsheet takes for a formula.
pub(super) fn safe(text: &str) -> String {
    if text.starts_with(['=', '+', '-', '@', '\t', '\r']) {
        format!("'{text}")
    } else {
        text.to_owned()
    }
}

/// An enum as its record spells it.
pub(super) fn word<T: serde::Serialize>(value: &T) -> String {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(text)) => text,
        _ => String::new(),
    }
}
