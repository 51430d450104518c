//! Steps, proof and findings as test cases, for a build server.

use super::html::environment;
use super::view::clean;
use crate::schema::{GuestReport, ProofVerdict, Severity, StepStatus};
use minijinja::context;
use minijinja::value::Serde;
use serde::Serialize;

#[derive(Debug, Serialize)]
struct Suite {
    name: &'static str,
    time: String,
    failures: usize,
    skipped: usize,
    cases: Vec<Case>,
}

#[derive(Debug, Serialize)]
struct Case {
    name: String,
    time: String,
    state: &'static str,
    message: String,
    text: String,
}

impl Suite {
    fn new(name: &'static str, seconds: f64, cases: Vec<Case>) -> Self {
        let count = |state| cases.iter().filter(|case| case.state == state).count();
        Self {
            name,
            time: seconds_of(seconds),
            failures: count("failed"),
            skipped: count("skipped"),
            cases,
        }
    }
}

/// JUnit XML: a suite each of steps, boot proof and checks. A failed step, an unproven boot and a standing blocking
/// finding are failures; warnings pass with their text as output; what was left out is skipped.
///
/// # Panics
/// Never: the template is compiled in and rendered by the tests.
#[must_use]
pub fn junit(report: &GuestReport) -> String {
    let steps = report.steps.iter().map(|step| Case {
        name: clean(&step.name),
        time: seconds_of(step.seconds),
        state: match step.status {
            StepStatus::Good | StepStatus::Reused => "passed",
            StepStatus::Bad | StepStatus::Failed => "failed",
            StepStatus::Skipped => "skipped",
        },
        message: clean(&step.detail),
        text: clean(&step.detail),
    });
    let proof = report.proof.iter().map(|proof| Case {
        name: "boot".to_owned(),
        time: seconds_of(proof.seconds),
        state: if proof.verdict == ProofVerdict::Proven {
            "passed"
        } else {
            "failed"
        },
        message: clean(&proof.reason),
        text: clean(format!("{} {}", proof.reason, proof.advice.join(" ")).trim()),
    });
    let findings = report.findings.iter().map(|finding| Case {
        name: clean(&finding.id),
        time: "0".to_owned(),
        state: match finding.severity {
            Severity::Block if finding.suppressed.is_none() => "failed",
            Severity::Skipped => "skipped",
            _ => "passed",
        },
        message: clean(&finding.message),
        text: clean(&format!(
            "{} Evidence: {} Fix: {}",
            finding.message, finding.evidence, finding.fix
        )),
    });
    let suites = [
        Suite::new(
            "steps",
            report.steps.iter().map(|step| step.seconds).sum(),
            steps.collect(),
        ),
        Suite::new(
            "proof",
            report.proof.as_ref().map_or(0.0, |proof| proof.seconds),
            proof.collect(),
        ),
        Suite::new("checks", 0.0, findings.collect()),
    ];
    let sum = |part: fn(&Suite) -> usize| suites.iter().map(part).sum::<usize>();
    environment()
        .get_template("guest.xml")
        .expect("the template is compiled in")
        .render(context! {
            guest => clean(&report.machine.name),
            tests => sum(|suite| suite.cases.len()),
            failures => sum(|suite| suite.failures),
            skipped => sum(|suite| suite.skipped),
            suites => Serde(&suites[..]),
        })
        .expect("the template is rendered by the tests")
}

fn seconds_of(seconds: f64) -> String {
    if seconds.is_finite() && seconds > 0.0 {
        format!("{seconds:.3}")
    } else {
        "0".to_owned()
    }
}
