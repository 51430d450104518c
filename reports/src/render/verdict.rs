//! The one sentence at the top: did the guest arrive well, and why.

use super::format::{counted, duration, number};
use crate::schema::{
    AcceleratorClass, Comparability, ComparedMetric, ComparisonVerdict, Finding, GuestReport, KeyClass, LimitEffect,
    ProofVerdict, Severity, StepStatus,
};

/// Did the guest arrive well?
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Arrival {
    /// Yes, and nothing is left to do.
    Yes,
    /// Yes: proven; what is left are points to look at, none of which says that it does not work.
    WithTasks,
    /// It is there, and something real speaks against it.
    WithReservations,
    /// It was converted, and nothing proves that it starts.
    Unproven,
    /// No.
    No,
}

/// The answer with its reasons.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// The answer.
    pub arrival: Arrival,
    /// The answer in a few words, the worst reason named.
    pub words: String,
    /// One sentence with why.
    pub sentence: String,
    /// What speaks against, the worst first; empty for a plain yes.
    pub reasons: Vec<String>,
    /// What speaks for.
    pub support: Vec<String>,
}

/// What a reason weighs, the worst first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Weight {
    Unproven,
    Overruled,
    TooLarge,
    Unhashed,
    Slower,
    Task,
}

/// A reason against a plain yes.
struct Reason {
    weight: Weight,
    /// How many things it stands for.
    count: usize,
    text: String,
}

/// Judges a report. *No*: a step of the chain failed, the boot proof failed, a proof changed a disk, or a blocking
/// finding stands. *Unproven*: boot not confirmed or not tried. *With reservations*: a blocking check overruled, limits
/// exceeded, content not hashed, or figures that got worse against ESXi. *With tasks*: only warnings, dropped settings and
/// failed measurements. Comparisons with another base (the host, for example) tell the cost of virtualisation, not of the
/// move, and don't count.
#[must_use]
pub fn verdict(report: &GuestReport) -> Verdict {
    let against = failures(report);
    let support = support(report);
    let spoken = capitalised(&support.join(", "));
    if let Some(worst) = against.first() {
        let early = report.manifest.is_none() && against.len() == 1 && worst == NOTHING_YET;
        return Verdict {
            arrival: Arrival::No,
            words: if early { "Not converted yet" } else { "Did not arrive" }.to_owned(),
            sentence: format!("{}.", capitalised(worst.trim_end_matches('.'))),
            reasons: against,
            support,
        };
    }
    let mut reservations = reservations(report);
    reservations.sort_by_key(|reason| reason.weight);
    let (arrival, words) = in_words(&reservations);
    let sentence = match (reservations.first(), spoken.is_empty()) {
        (None, true) => "Nothing speaks against it.".to_owned(),
        (None, false) => format!("{spoken}."),
        (Some(worst), true) => format!("{}.", capitalised(&worst.text)),
        (Some(worst), false) if arrival == Arrival::WithTasks => format!("{spoken}; {}.", worst.text),
        (Some(worst), false) => format!("{spoken}; but {}.", worst.text),
    };
    Verdict {
        arrival,
        words,
        sentence,
        reasons: reservations.into_iter().map(|reason| reason.text).collect(),
        support,
    }
}

/// From reasons sorted by weight.
fn in_words(reasons: &[Reason]) -> (Arrival, String) {
    let Some(worst) = reasons.first() else {
        return (Arrival::Yes, "Arrived well".to_owned());
    };
    let but = |what: &str| (Arrival::WithReservations, format!("Arrived, but {what}"));
    match worst.weight {
        Weight::Unproven => (Arrival::Unproven, "Converted, not proven to boot".to_owned()),
        Weight::Overruled => but("against a blocking check"),
        Weight::TooLarge => but("too large for a target"),
        Weight::Unhashed => but("not every disk was checked"),
        // With its figures: one slower figure of forty is not a slow guest.
        Weight::Slower => but(&worst.text),
        Weight::Task => {
            let count = reasons.iter().map(|reason| reason.count).sum();
            let points = counted(count, "point", "points");
            (Arrival::WithTasks, format!("Arrived well; {points} to look at"))
        }
    }
}

const NOTHING_YET: &str = "nothing was converted yet";

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
        against.push(NOTHING_YET.to_owned());
    }
    against
}

fn reservations(report: &GuestReport) -> Vec<Reason> {
    let mut reasons = Vec::new();
    let mut add = |weight, count: usize, text: String| {
        if count > 0 {
            reasons.push(Reason { weight, count, text });
        }
    };
    match report.proof.as_ref().map(|proof| (proof.verdict, &proof.reason)) {
        None => add(
            Weight::Unproven,
            1,
            "no boot was tried, so nothing proves that it starts".to_owned(),
        ),
        Some((ProofVerdict::BootedUnconfirmed, reason)) => {
            add(Weight::Unproven, 1, format!("the boot is not confirmed: {reason}"));
        }
        Some(_) => {}
    }
    let disks = report.manifest.iter().flat_map(|manifest| &manifest.disks);
    let unhashed = disks.filter(|disk| disk.content.is_none()).count();
    let words = counted(unhashed, "disk is", "disks are");
    add(Weight::Unhashed, unhashed, format!("{words} without a content hash"));
    for limit in report.limits.iter().filter(|limit| limit.effect == LimitEffect::Blocks) {
        let text = format!(
            "it does not fit {} ({}): {} {} of {} {}",
            limit.product,
            limit.version,
            limit.quantity,
            number(limit.used),
            number(limit.allowed),
            limit.unit
        );
        add(Weight::TooLarge, 1, text);
    }
    let of = |severity: Severity, suppressed: bool| {
        let is = |finding: &&Finding| finding.severity == severity && finding.suppressed.is_some() == suppressed;
        report.findings.iter().filter(is).count()
    };
    // Those that stand are failures.
    let overruled = of(Severity::Block, true);
    let words = counted(overruled, "blocking check was", "blocking checks were");
    add(Weight::Overruled, overruled, format!("{words} overruled by the user"));
    let warnings = of(Severity::Warn, false);
    let words = counted(warnings, "warning asks", "warnings ask");
    add(Weight::Task, warnings, format!("{words} for action"));
    let dropped = report.accounting.count(KeyClass::DroppedWarning);
    let words = counted(dropped, "setting was dropped", "settings were dropped");
    add(Weight::Task, dropped, format!("{words} that somebody may miss"));
    for comparison in &report.comparisons {
        let fair = !matches!(comparison.comparability, Comparability::Forced(_));
        let is_worse = |metric: &&ComparedMetric| metric.verdict == ComparisonVerdict::Worse;
        let worse = comparison.metrics.iter().filter(is_worse).count();
        if fair && comparison.base.accelerator == AcceleratorClass::Esxi {
            let all = comparison.metrics.len();
            let are = if worse == 1 { "is" } else { "are" };
            add(
                Weight::Slower,
                worse,
                format!("{worse} of {all} figures {are} worse than on ESXi"),
            );
        }
    }
    for step in report.steps.iter().filter(|step| step.name.starts_with("bench")) {
        if matches!(step.status, StepStatus::Bad | StepStatus::Failed) {
            let text = format!("the measurement {} failed: {}", step.name, step.detail);
            add(Weight::Task, 1, text);
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
