//! Checks before a copy: from the files, from the whole estate, and from a look into the disks.
//!
//! [`checks()`] is the one register: the code that runs, the texts that people read and `docs/checks.md` all come from it.

mod checks;
mod docs;
mod evidence;
mod unmade;

pub use checks::all as checks;
pub use docs::markdown;
pub use unmade::{UNMADE, Unmade};

use crate::machine::{Machine, Notice};
use crate::source::header::DiskHeader;
use reports::schema::{AccountedKey, Accounting, DeepFacts, Finding, Severity};
use std::collections::BTreeMap;

/// What the checks of the files look at.
#[derive(Debug, Clone)]
pub struct Subject<'a> {
    /// The machine.
    pub machine: &'a Machine,
    /// Its source's keys.
    pub accounting: &'a Accounting,
    /// What readers met on the way.
    pub notices: &'a [Notice],
    /// What the disks' heads say, in the machine's order.
    pub disks: &'a [DiskHeader],
    /// Keys of living devices, with their names in lower case: many checks look through them.
    living: Vec<(String, &'a AccountedKey)>,
}

impl<'a> Subject<'a> {
    /// Puts together what is known of a guest from its files.
    #[must_use]
    pub fn new(
        machine: &'a Machine,
        accounting: &'a Accounting,
        notices: &'a [Notice],
        disks: &'a [DiskHeader],
    ) -> Self {
        let living = accounting
            .keys
            .iter()
            .filter(|key| !key.why.starts_with("left over"))
            .map(|key| (key.key.to_ascii_lowercase(), key))
            .collect();
        Self {
            machine,
            accounting,
            notices,
            disks,
            living,
        }
    }
}

/// What the checks of the guest's inside look at.
#[derive(Debug, Clone, Copy)]
pub struct Inside<'a> {
    /// The machine as its description has it.
    pub machine: &'a Machine,
    /// What the look into its disks found.
    pub facts: &'a DeepFacts,
}

/// What must be known before a check can be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Needs {
    /// The guest's files.
    Files,
    /// The other guests of the estate.
    Estate,
    /// The spreadsheet of an inventory.
    Sheet,
    /// A look into the disks.
    Inside,
    /// The targets that are written, and the map.
    Targets,
}

impl Needs {
    /// For the documentation.
    #[must_use]
    pub fn title(self) -> &'static str {
        match self {
            Self::Files => "files",
            Self::Estate => "`assess`: the other guests",
            Self::Sheet => "`assess`: RVTools' sheet",
            Self::Inside => "`--deep`",
            Self::Targets => "the targets that are written, and `--map`",
        }
    }
}

/// How a check is made. Each text is the evidence of one finding.
#[derive(Debug, Clone, Copy)]
pub enum Run {
    /// A condition on the files.
    Files(fn(&Subject<'_>) -> Vec<String>),
    /// A condition on the inside of the guest.
    Inside(fn(&Inside<'_>) -> Vec<String>),
    /// Raised by whoever knows its evidence, see [`finding`].
    Raised,
}

/// A check: a condition, and what to tell.
#[derive(Debug, Clone, Copy)]
pub struct Check {
    /// Stable id, `area.what`; never re-used.
    pub id: &'static str,
    /// How bad.
    pub severity: Severity,
    /// What must be known.
    pub needs: Needs,
    /// When it fires, for the documentation.
    pub condition: &'static str,
    /// What is wrong and what happens if it is ignored.
    pub message: &'static str,
    /// What to do.
    pub fix: &'static str,
    /// How it is made.
    pub run: Run,
}

impl Check {
    fn finding(&self, evidence: String) -> Finding {
        Finding {
            id: self.id.to_owned(),
            severity: self.severity,
            message: self.message.to_owned(),
            evidence,
            fix: self.fix.to_owned(),
            suppressed: None,
        }
    }
}

/// A check of the files.
const fn check(
    id: &'static str,
    severity: Severity,
    condition: &'static str,
    message: &'static str,
    fix: &'static str,
    run: fn(&Subject<'_>) -> Vec<String>,
) -> Check {
    Check {
        id,
        severity,
        needs: Needs::Files,
        condition,
        message,
        fix,
        run: Run::Files(run),
    }
}

/// A check of the guest's inside.
const fn inside(
    id: &'static str,
    severity: Severity,
    condition: &'static str,
    message: &'static str,
    fix: &'static str,
    run: fn(&Inside<'_>) -> Vec<String>,
) -> Check {
    Check {
        id,
        severity,
        needs: Needs::Inside,
        condition,
        message,
        fix,
        run: Run::Inside(run),
    }
}

/// A check that is raised elsewhere.
const fn raised(
    id: &'static str,
    severity: Severity,
    needs: Needs,
    condition: &'static str,
    message: &'static str,
    fix: &'static str,
) -> Check {
    Check {
        id,
        severity,
        needs,
        condition,
        message,
        fix,
        run: Run::Raised,
    }
}

/// Runs the checks of the files. Findings come in the register's order, blocking ones first.
#[must_use]
pub fn run(subject: &Subject<'_>) -> Vec<Finding> {
    let mut findings: Vec<Finding> = Vec::new();
    for check in checks() {
        let Run::Files(run) = check.run else { continue };
        let noticed = subject
            .notices
            .iter()
            .filter(|notice| notice.id == check.id)
            .map(|notice| notice.evidence.clone());
        findings.extend(
            run(subject)
                .into_iter()
                .chain(noticed)
                .map(|evidence| check.finding(evidence)),
        );
    }
    findings.sort_by_key(|finding| finding.severity);
    findings
}

/// Runs the checks that a look into the disks makes possible, in the same order.
#[must_use]
pub fn run_inside(machine: &Machine, facts: &DeepFacts) -> Vec<Finding> {
    let subject = Inside { machine, facts };
    let mut findings: Vec<Finding> = Vec::new();
    for check in checks() {
        if let Run::Inside(run) = check.run {
            findings.extend(run(&subject).into_iter().map(|evidence| check.finding(evidence)));
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
    checks()
        .find(|check| check.id == id)
        .expect("the id is in the register")
        .finding(evidence)
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
