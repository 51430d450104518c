//! Takes a record that was written elsewhere: is it one, can this version read it, does it hold together?
//!
//! It finds the wrong file, a newer program's file and a file edited by hand or cut short. It is no signature: whoever
//! changes samples and recomputes the summary passes.

use crate::stats;
use reports::schema::{BenchRecord, Metric, SCHEMA_VERSION};
use serde_json::Value;

/// Why a file is not taken.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum ImportError {
    /// No JSON at all.
    #[error(
        "it is no JSON ({0}); was it cut short on the way? Expected is what 'esxodus-agent bench --json' wrote to standard output"
    )]
    NotJson(String),
    /// JSON of something else.
    #[error("it is JSON but no measurement: {what}; expected is what 'esxodus-agent bench --json' wrote")]
    WrongFile {
        /// What it looks like or lacks.
        what: String,
    },
    /// A later program wrote it.
    #[error(
        "it has schema {found}, this program reads up to {SCHEMA_VERSION}: use an esxodus as new as the agent that measured ({tool})"
    )]
    Newer {
        /// Its schema.
        found: u64,
        /// Who wrote it.
        tool: String,
    },
    /// It contradicts itself.
    #[error("it does not hold together: {}; it was changed or damaged after it was measured: bring it again, as it is", found.join("; "))]
    Implausible {
        /// What contradicts what.
        found: Vec<String>,
    },
}

/// Reads and checks a record.
///
/// # Errors
/// [`ImportError`].
pub fn import(bytes: &[u8]) -> Result<BenchRecord, ImportError> {
    let value: Value = serde_json::from_slice(bytes).map_err(|error| ImportError::NotJson(error.to_string()))?;
    let schema = value.get("schema").and_then(Value::as_u64);
    let tool = value.get("tool").and_then(Value::as_str).unwrap_or("unknown program");
    if let Some(found) = schema.filter(|found| *found > u64::from(SCHEMA_VERSION)) {
        return Err(ImportError::Newer {
            found,
            tool: tool.to_owned(),
        });
    }
    if schema.is_none() || value.get("metrics").is_none() || value.get("suite").is_none() {
        return Err(ImportError::WrongFile {
            what: looks_like(&value),
        });
    }
    let record: BenchRecord = serde_json::from_value(value).map_err(|error| ImportError::WrongFile {
        what: error.to_string(),
    })?;
    let found = contradictions(&record);
    if found.is_empty() {
        Ok(record)
    } else {
        Err(ImportError::Implausible { found })
    }
}

fn looks_like(value: &Value) -> String {
    let has = |key: &str| value.get(key).is_some();
    let what = match value {
        _ if has("fio version") => "it looks like fio's output",
        _ if has("verdict") && has("milestones") => "it looks like a boot proof (proof.json)",
        _ if has("comparability") => "it looks like a comparison; give the records that were compared",
        _ if has("proof") && has("bench") => {
            "it looks like a whole report; its measurements lie in the run folder under bench/"
        }
        Value::Object(_) => "the fields schema, suite and metrics are not all there",
        _ => "the outermost value is no object",
    };
    what.to_owned()
}

/// Everything in which the record contradicts itself.
#[must_use]
pub fn contradictions(record: &BenchRecord) -> Vec<String> {
    let mut found = Vec::new();
    if record.metrics.is_empty() {
        found.push("it holds no metric".to_owned());
    }
    for (at, metric) in record.metrics.iter().enumerate() {
        if record.metrics[..at].iter().any(|other| other.id == metric.id) {
            found.push(format!("{} is there twice", metric.id));
        }
        found.extend(in_metric(metric).map(|what| format!("{}: {what}", metric.id)));
    }
    let wall = record.noise.wall_seconds;
    if !(wall.is_finite() && wall > 0.0) {
        found.push(format!("it took {wall} seconds"));
    }
    if record.host.cpus_usable == 0 {
        found.push("it ran on no CPU".to_owned());
    }
    found
}

fn in_metric(metric: &Metric) -> Option<String> {
    let (samples, told) = (&metric.samples, &metric.summary);
    if samples.is_empty() {
        return Some("no samples".to_owned());
    }
    if let Some(odd) = samples.iter().find(|value| !value.is_finite() || **value < 0.0) {
        return Some(format!("the sample {odd} is no measured value"));
    }
    if usize::try_from(told.n).ok() != Some(samples.len()) {
        return Some(format!(
            "the summary counts {} samples, there are {}",
            told.n,
            samples.len()
        ));
    }
    let own = stats::summarise(samples);
    let same = |a: f64, b: f64| (a - b).abs() <= 1e-9 * a.abs().max(b.abs()).max(1e-300);
    let pairs = [
        ("median", told.median, own.median),
        ("mean", told.mean, own.mean),
        ("smallest", told.min, own.min),
        ("largest", told.max, own.max),
        ("first quartile", told.q1, own.q1),
        ("third quartile", told.q3, own.q3),
    ];
    if let Some((name, told, own)) = pairs.into_iter().find(|(_, told, own)| !same(*told, *own)) {
        return Some(format!("the summary's {name} is {told}, the samples' is {own}"));
    }
    let inside = |value: f64| value >= own.min && value <= own.max;
    if !(inside(told.ci_low) && inside(told.ci_high) && told.ci_low <= told.ci_high) {
        return Some(format!(
            "the interval {} to {} does not lie within the samples",
            told.ci_low, told.ci_high
        ));
    }
    let rising = metric
        .percentiles
        .windows(2)
        .all(|pair| pair[0].percent < pair[1].percent && pair[0].value <= pair[1].value);
    (!rising).then(|| "the percentiles do not rise".to_owned())
}

#[cfg(test)]
mod tests {
    use super::{ImportError, import};
    use crate::{SuiteOptions, run_suite};
    use reports::schema::{SCHEMA_VERSION, Suite};
    use serde_json::{Value, json};
    use std::sync::OnceLock;
    use std::sync::atomic::AtomicBool;

    /// A real one.
    fn record() -> Value {
        static RECORD: OnceLock<Value> = OnceLock::new();
        let make = || {
            let mut options = SuiteOptions::new(Suite::Quick, std::env::temp_dir());
            options.only = Some(vec!["kernel.getppid".to_owned(), "hypervisor.timer".to_owned()]);
            options.budget_seconds = Some(1.0);
            let record = run_suite(&options, &|_, _, _| (), &AtomicBool::new(false)).expect("it runs");
            serde_json::to_value(record).expect("JSON")
        };
        RECORD.get_or_init(make).clone()
    }

    fn import_value(value: &Value) -> Result<(), ImportError> {
        import(value.to_string().as_bytes()).map(|_| ())
    }

    #[test]
    fn what_was_measured_is_taken_as_it_is() {
        assert_eq!(import_value(&record()), Ok(()));
    }

    #[test]
    fn other_files_are_named_for_what_they_look_like() {
        assert!(matches!(import(b"metric median\n"), Err(ImportError::NotJson(_))));
        let whole = record().to_string();
        assert!(matches!(
            import(&whole.as_bytes()[..whole.len() / 2]),
            Err(ImportError::NotJson(_))
        ));
        for (value, words) in [
            (json!({"fio version": "fio-3.33"}), "fio's output"),
            (
                json!({"schema": 1, "verdict": "proven", "milestones": []}),
                "boot proof",
            ),
            (json!([1, 2]), "no object"),
            (json!({"schema": 1}), "not all there"),
        ] {
            let error = import_value(&value).expect_err("refused").to_string();
            assert!(error.contains(words), "{error}");
        }
    }

    #[test]
    fn a_newer_schema_is_refused_with_the_way_out() {
        let mut value = record();
        value["schema"] = json!(SCHEMA_VERSION + 1);
        let error = import_value(&value).expect_err("refused").to_string();
        assert!(error.contains("use an esxodus as new"), "{error}");
    }

    #[test]
    fn edited_figures_are_found() {
        type Edit = fn(&mut Value);
        let edits: [(Edit, &str); 8] = [
            (|v| v["metrics"][0]["summary"]["n"] = json!(99), "counts 99 samples"),
            (
                |v| v["metrics"][0]["samples"].as_array_mut().expect("samples").truncate(2),
                "there are 2",
            ),
            (|v| v["metrics"][0]["samples"][0] = json!(1e-6), "the summary's"),
            (
                |v| v["metrics"][0]["summary"]["median"] = json!(1.0),
                "the summary's median is 1",
            ),
            (|v| v["metrics"][0]["samples"][0] = json!(-5.0), "no measured value"),
            (
                |v| v["metrics"][0]["summary"]["ci_high"] = json!(1e12),
                "does not lie within",
            ),
            (|v| v["metrics"] = json!([]), "no metric"),
            (|v| v["noise"]["wall_seconds"] = json!(0.0), "took 0 seconds"),
        ];
        for (edit, words) in edits {
            let mut value = record();
            edit(&mut value);
            let error = import_value(&value).expect_err(words).to_string();
            assert!(error.contains(words), "{words}: {error}");
        }
    }
}
