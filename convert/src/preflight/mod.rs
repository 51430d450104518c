//! Checks before a copy: what can be known from the files alone.
//!
//! [`CHECKS`] is the one register: the code that runs, the texts that people read and `docs/checks.md` all come from it.

mod checks;
mod docs;

pub use docs::markdown;

use crate::machine::{Machine, Notice};
use crate::source::bare::DiskHeader;
use reports::schema::{Accounting, Finding, Severity};
use std::collections::BTreeMap;

/// What the checks look at.
#[derive(Debug, Clone, Copy)]
pub struct Subject<'a> {
    /// The machine.
    pub machine: &'a Machine,
    /// Its source's keys.
    pub accounting: &'a Accounting,
    /// What readers met on the way.
    pub notices: &'a [Notice],
    /// What the disks' heads say, in the machine's order.
    pub disks: &'a [DiskHeader],
}

/// A check: a condition on the subject, and what to tell.
#[derive(Debug, Clone, Copy)]
pub struct Check {
    /// Stable id, `area.what`; never re-used.
    pub id: &'static str,
    /// How bad.
    pub severity: Severity,
    /// When it fires, for the documentation.
    pub condition: &'static str,
    /// What is wrong and what happens if it is ignored.
    pub message: &'static str,
    /// What to do.
    pub fix: &'static str,
    /// The condition: each text is the evidence of one finding.
    pub run: fn(&Subject<'_>) -> Vec<String>,
}

pub use checks::CHECKS;

/// Runs all checks. Findings come in the register's order, blocking ones first.
#[must_use]
pub fn run(subject: &Subject<'_>) -> Vec<Finding> {
    let mut findings: Vec<Finding> = Vec::new();
    for check in CHECKS {
        let noticed = subject
            .notices
            .iter()
            .filter(|notice| notice.id == check.id)
            .map(|notice| notice.evidence.clone());
        for evidence in (check.run)(subject).into_iter().chain(noticed) {
            findings.push(Finding {
                id: check.id.to_owned(),
                severity: check.severity,
                message: check.message.to_owned(),
                evidence,
                fix: check.fix.to_owned(),
                suppressed: None,
            });
        }
    }
    findings.sort_by_key(|finding| finding.severity);
    findings
}

/// The finding of check `id`, for readers that know its evidence from elsewhere (a spreadsheet).
///
/// # Panics
/// There is no such check: ids are written in the source only, and a test names them all.
#[must_use]
pub fn finding(id: &str, evidence: String) -> Finding {
    let check = CHECKS
        .iter()
        .find(|check| check.id == id)
        .expect("the id is in the register");
    Finding {
        id: check.id.to_owned(),
        severity: check.severity,
        message: check.message.to_owned(),
        evidence,
        fix: check.fix.to_owned(),
        suppressed: None,
    }
}

/// Marks the findings whose id is in `reasons` as suppressed, with the reason. They stay in the report.
pub fn suppress(findings: &mut [Finding], reasons: &BTreeMap<String, String>) {
    for finding in findings {
        finding.suppressed = reasons.get(&finding.id).cloned();
    }
}

/// Does a finding stop the migration?
#[must_use]
pub fn blocks(findings: &[Finding]) -> bool {
    findings
        .iter()
        .any(|finding| finding.severity == Severity::Block && finding.suppressed.is_none())
}
