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
    for row in probed(report) {
        writer.write_record(&row).expect("memory can be written");
    }
    let bytes = writer.into_inner().expect("memory can be flushed");
    String::from_utf8(bytes).expect("only strings were written")
}

/// The costs of the limits' probe as metrics of one sample: `limits.vcpus.1024.create`.
fn probed(report: &GuestReport) -> Vec<[String; 21]> {
    let Some(probe) = &report.probed_limits else {
        return Vec::new();
    };
    let row = |key: &str, count: u64, what: &str, unit: &str, value: String, method: &str| -> [String; 21] {
        let mut row: [String; 21] = Default::default();
        let text = [
            (0, safe(&report.machine.name)),
            (1, "limits probe".to_owned()),
            (2, "host".to_owned()),
            (4, safe(&probe.stamp.created)),
            (5, safe(&format!("limits.{key}.{count}.{what}"))),
            (7, unit.to_owned()),
            (8, "lower".to_owned()),
            (9, "1".to_owned()),
            (10, value.clone()),
            (19, safe(method)),
            (20, value),
        ];
        for (at, text) in text {
            row[at] = text;
        }
        row
    };
    let mut rows = Vec::new();
    for series in &probe.series {
        for point in &series.curve {
            let made = row(
                &series.key,
                point.count,
                "create",
                "ms",
                point.create_ms.to_string(),
                "one VM that grows",
            );
            let bytes = point.kernel_bytes.to_string();
            let memory = row(
                &series.key,
                point.count,
                "kernel-memory",
                "bytes",
                bytes,
                "growth of the kernel's memory",
            );
            rows.extend([made, memory]);
        }
    }
    rows
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
