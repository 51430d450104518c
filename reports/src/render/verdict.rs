//! The one sentence at the top: did the guest arrive well, and why.

use super::format::{counted, duration, number};
use crate::schema::{
    AcceleratorClass, Comparability, ComparisonVerdict, GuestReport, KeyClass, LimitEffect, ProofVerdict, Severity,
    StepStatus,
};

/// Did the guest arrive well?
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Arrival {
    /// Yes.
    Yes,
    /// Yes, but.
    WithReservations,
    /// No.
    No,
}

/// The answer with its reasons.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// The answer.
    pub arrival: Arrival,
    /// One sentence with why.
    pub sentence: String,
    /// What speaks against, the worst first; empty for a plain yes.
    pub reasons: Vec<String>,
    /// What speaks for.
    pub support: Vec<String>,
}

impl Arrival {
    /// Two or three words.
    #[must_use]
    pub const fn words(self) -> &'static str {
        match self {
            Self::Yes => "Arrived well",
            Self::WithReservations => "Arrived, with reservations",
            Self::No => "Did not arrive",
        }
    }
}

/// Judges a report. *No*: a step of the chain failed, the boot proof failed, a proof changed a disk, or a blocking
/// finding stands. *With reservations*: boot not confirmed or not tried, content not hashed, warnings, dropped settings,
/// limits exceeded, or figures that got worse against ESXi. Comparisons with another base (the host, for example) tell
/// the cost of virtualisation, not of the move, and don't count.
#[must_use]
pub fn verdict(report: &GuestReport) -> Verdict {
    let against = failures(report);
    let (arrival, reasons) = if against.is_empty() {
        let reservations = reservations(report);
        if reservations.is_empty() {
            (Arrival::Yes, reservations)
        } else {
            (Arrival::WithReservations, reservations)
        }
    } else {
        (Arrival::No, against)
    };
    let support = support(report);
    let sentence = match arrival {
        Arrival::Yes if support.is_empty() => "Nothing speaks against it.".to_owned(),
        Arrival::Yes => format!("{}.", capitalised(&support.join(", "))),
        Arrival::WithReservations if support.is_empty() => format!("{}.", capitalised(&reasons[0])),
        Arrival::WithReservations => format!("{}; but {}.", capitalised(&support.join(", ")), reasons[0]),
        Arrival::No => format!("{}.", capitalised(reasons[0].trim_end_matches('.'))),
    };
    Verdict {
        arrival,
        sentence,
        reasons,
        support,
    }
}

fn failures(report: &GuestReport) -> Vec<String> {
    let mut against = Vec::new();
    if let Some(proof) = &report.proof {
        if proof.verdict == ProofVerdict::Failed {
            against.push(format!("it did not boot: {}", proof.reason));
        }
        if !proof.disks_after.is_empty() && proof.disks_before != proof.disks_after {
            against.push("the content of a converted disk changed during the boot proof".to_owned());
        }
    }
    // Measuring and reporting say nothing about whether the guest works.
    let essential = |name: &str| !name.starts_with("bench") && name != "report";
    for step in report.steps.iter().filter(|step| essential(&step.name)) {
        match step.status {
            StepStatus::Bad | StepStatus::Failed if step.name != "prove" || report.proof.is_none() => {
                against.push(format!("the step {} failed: {}", step.name, step.detail));
            }
            _ => {}
        }
    }
    for finding in &report.findings {
        if finding.severity == Severity::Block && finding.suppressed.is_none() {
            against.push(format!("the check {} blocks: {}", finding.id, finding.message));
        }
    }
    if report.manifest.is_none() && against.is_empty() {
        against.push("nothing was converted yet".to_owned());
    }
    against
}

fn reservations(report: &GuestReport) -> Vec<String> {
    let mut reasons = Vec::new();
    match report.proof.as_ref().map(|proof| (proof.verdict, &proof.reason)) {
        None => reasons.push("no boot was tried, so nothing proves that it starts".to_owned()),
        Some((ProofVerdict::BootedUnconfirmed, reason)) => {
            reasons.push(format!("the boot is not confirmed: {reason}"));
        }
        Some(_) => {}
    }
    let unhashed = report
        .manifest
        .iter()
        .flat_map(|manifest| &manifest.disks)
        .filter(|disk| disk.content.is_none());
    match unhashed.count() {
        0 => {}
        count => reasons.push(format!(
            "{} without a content hash",
            counted(count, "disk is", "disks are")
        )),
    }
    for limit in report.limits.iter().filter(|limit| limit.effect == LimitEffect::Blocks) {
        reasons.push(format!(
            "it does not fit {} ({}): {} {} of {} {}",
            limit.product,
            limit.version,
            limit.quantity,
            number(limit.used),
            number(limit.allowed),
            limit.unit
        ));
    }
    let overruled = report
        .findings
        .iter()
        .filter(|finding| finding.severity == Severity::Block)
        .count();
    if overruled > 0 {
        reasons.push(format!(
            "{} overruled by the user",
            counted(overruled, "blocking check was", "blocking checks were")
        ));
    }
    let warnings = report
        .findings
        .iter()
        .filter(|finding| finding.severity == Severity::Warn && finding.suppressed.is_none());
    match warnings.count() {
        0 => {}
        count => reasons.push(format!("{} for action", counted(count, "warning asks", "warnings ask"))),
    }
    match report.accounting.count(KeyClass::DroppedWarning) {
        0 => {}
        count => reasons.push(format!(
            "{} that somebody may miss",
            counted(count, "setting was dropped", "settings were dropped")
        )),
    }
    for comparison in &report.comparisons {
        let fair = !matches!(comparison.comparability, Comparability::Forced(_));
        let worse = comparison
            .metrics
            .iter()
            .filter(|metric| metric.verdict == ComparisonVerdict::Worse)
            .count();
        if fair && worse > 0 && comparison.base.accelerator == AcceleratorClass::Esxi {
            reasons.push(format!(
                "{worse} of {} figures {} worse than on ESXi",
                comparison.metrics.len(),
                if worse == 1 { "is" } else { "are" }
            ));
        }
    }
    for step in report.steps.iter().filter(|step| step.name.starts_with("bench")) {
        if matches!(step.status, StepStatus::Bad | StepStatus::Failed) {
            reasons.push(format!("the measurement {} failed: {}", step.name, step.detail));
        }
    }
    reasons
}

fn support(report: &GuestReport) -> Vec<String> {
    let mut support = Vec::new();
    if let Some(manifest) = &report.manifest {
        let verified = report
            .steps
            .iter()
            .any(|step| step.name == "verify" && matches!(step.status, StepStatus::Good | StepStatus::Reused));
        let disks = counted(manifest.disks.len(), "disk", "disks");
        support.push(if verified {
            format!("{disks} converted and verified against the source")
        } else {
            format!("{disks} converted")
        });
    }
    if let Some(proof) = &report.proof
        && proof.verdict == ProofVerdict::Proven
    {
        let first = proof
            .milestones
            .iter()
            .find(|milestone| matches!(milestone.name.as_str(), "login" | "agent" | "steady"));
        support.push(match first {
            Some(milestone) => format!(
                "boot proven in {} ({})",
                duration(super::format::float(milestone.at_ms) / 1000.0),
                if milestone.name == "login" {
                    "login prompt seen"
                } else {
                    "its agent answered"
                }
            ),
            None => "boot proven".to_owned(),
        });
    }
    support
}

fn capitalised(text: &str) -> String {
    let mut chars = text.chars();
    chars
        .next()
        .map_or_else(String::new, |first| first.to_uppercase().chain(chars).collect())
}
