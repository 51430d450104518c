//! The report as Markdown, for a ticket or a pull request.

use super::format::{bytes, duration, float, number, rate};
use super::probed::rows;
use super::verdict::verdict;
use super::view::clean;
use crate::schema::{ComparisonVerdict, GuestReport, KeyClass, LimitEffect, Severity, StepStatus};
use std::fmt::Write as _;

/// Markdown with the same order as the page, without raw samples and pictures. Text of guests is escaped, so that it
/// cannot become markup.
#[must_use]
pub fn markdown(report: &GuestReport) -> String {
    let mut out = String::new();
    let verdict = verdict(report);
    let _ = writeln!(out, "# {}: {}\n", verdict.words, text(&report.machine.name));
    let _ = writeln!(out, "{}\n", text(&verdict.sentence));
    for reason in verdict.reasons.iter().skip(1) {
        let _ = writeln!(out, "- {}", text(reason));
    }
    let _ = writeln!(
        out,
        "\nFrom {}; written {} by {}.",
        text(&report.machine.source),
        text(&report.stamp.created),
        text(&report.stamp.tool)
    );
    steps(&mut out, report);
    proof(&mut out, report);
    inside(&mut out, report);
    changes(&mut out, report);
    measurements(&mut out, report);
    limits(&mut out, report);
    probed_limits(&mut out, report);
    conversion(&mut out, report);
    checks(&mut out, report);
    settings(&mut out, report);
    out
}

fn steps(out: &mut String, report: &GuestReport) {
    heading(out, "Steps", &["Step", "Result", "Time", "Detail"]);
    for step in &report.steps {
        let status = match step.status {
            StepStatus::Good => "done",
            StepStatus::Reused => "reused",
            StepStatus::Bad => "**answer: no**",
            StepStatus::Failed => "**failed**",
            StepStatus::Skipped => "left out",
        };
        row(
            out,
            &[
                text(&step.name),
                status.to_owned(),
                duration(step.seconds),
                text(&step.detail),
            ],
        );
    }
}

fn proof(out: &mut String, report: &GuestReport) {
    let Some(proof) = &report.proof else {
        out.push_str("\n## Boot proof\n\nNo boot was tried.\n");
        return;
    };
    heading(out, "Boot proof", &["Milestone", "At", "Seen"]);
    for milestone in &proof.milestones {
        row(
            out,
            &[
                text(&milestone.name),
                duration(float(milestone.at_ms) / 1000.0),
                text(&milestone.seen),
            ],
        );
    }
    let _ = writeln!(
        out,
        "\n{} Engine: {} ({}).",
        text(&proof.reason),
        text(&proof.engine),
        text(&proof.engine_reason)
    );
    for advice in &proof.advice {
        let _ = writeln!(out, "- {}", text(advice));
    }
}

fn inside(out: &mut String, report: &GuestReport) {
    let Some(deep) = &report.deep else { return };
    let inside = super::inside::inside(deep);
    heading(
        out,
        "Inside the guest",
        &["System", "On", "Kernel", "Disks it finds", "Drivers"],
    );
    for system in &inside.systems {
        for kernel in &system.kernels {
            row(
                out,
                &[
                    text(&system.name),
                    text(&system.device),
                    text(&kernel.version),
                    text(&kernel.badge.word),
                    text(&kernel.drivers),
                ],
            );
        }
        if system.kernels.is_empty() {
            let dash = || "-".to_owned();
            row(out, &[text(&system.name), text(&system.device), dash(), dash(), dash()]);
        }
    }
    out.push('\n');
    for note in &inside.notes {
        let _ = writeln!(out, "- {}", text(note));
    }
}

fn changes(out: &mut String, report: &GuestReport) {
    if report.fixup.is_empty() {
        return;
    }
    heading(
        out,
        "Changes inside the guest",
        &["What", "File", "Why", "Before", "After"],
    );
    for change in super::inside::changes(report) {
        row(
            out,
            &[
                change.badge.word.clone(),
                text(&change.path),
                text(&change.why),
                change.before.as_deref().map_or_else(|| "-".to_owned(), text),
                text(&change.after),
            ],
        );
    }
}

fn measurements(out: &mut String, report: &GuestReport) {
    out.push_str("\n## Measurements\n");
    for comparison in &report.comparisons {
        let _ = writeln!(
            out,
            "\n### {} against {}\n",
            text(&comparison.candidate.label),
            text(&comparison.base.label)
        );
        if let crate::schema::Comparability::WithReservations(reasons) | crate::schema::Comparability::Forced(reasons) =
            &comparison.comparability
        {
            for reason in reasons {
                let _ = writeln!(out, "- Caution: {}", text(reason));
            }
            out.push('\n');
        }
        table(
            out,
            &[
                "Figure",
                "Unit",
                "Base",
                "Candidate",
                "Ratio (95 % interval)",
                "Verdict",
            ],
        );
        for metric in &comparison.metrics {
            let verdict = match metric.verdict {
                ComparisonVerdict::Better => "better",
                ComparisonVerdict::Same => "same",
                ComparisonVerdict::Worse => "**worse**",
                ComparisonVerdict::CantTell => "can't tell",
            };
            row(
                out,
                &[
                    text(&metric.name),
                    text(&metric.unit),
                    number(metric.base_median),
                    number(metric.candidate_median),
                    format!(
                        "{} ({} to {})",
                        number(metric.ratio),
                        number(metric.ratio_ci.0),
                        number(metric.ratio_ci.1)
                    ),
                    verdict.to_owned(),
                ],
            );
        }
    }
    for record in &report.bench {
        let _ = writeln!(out, "\n### {}\n", text(&record.label));
        table(out, &["Figure", "Median", "95 % interval", "Samples", "Unit"]);
        for metric in &record.metrics {
            row(
                out,
                &[
                    text(&metric.id),
                    number(metric.summary.median),
                    format!(
                        "{} to {}",
                        number(metric.summary.ci_low),
                        number(metric.summary.ci_high)
                    ),
                    metric.summary.n.to_string(),
                    text(&metric.unit),
                ],
            );
        }
    }
}

fn limits(out: &mut String, report: &GuestReport) {
    heading(
        out,
        "Limits",
        &[
            "Product", "Quantity", "Used", "Allowed", "Headroom", "Verdict", "Source",
        ],
    );
    for limit in &report.limits {
        let verdict = match limit.effect {
            LimitEffect::Fits => "fits",
            LimitEffect::Warns => "**exceeds (warning)**",
            LimitEffect::Blocks => "**does not fit**",
            LimitEffect::PrintedOnly => "shown, not enforced",
        };
        row(
            out,
            &[
                format!("{} ({})", text(&limit.product), text(&limit.version)),
                text(&limit.quantity),
                number(limit.used),
                format!("{} {}", number(limit.allowed), text(&limit.unit)),
                number(limit.headroom()),
                verdict.to_owned(),
                format!("{} ({})", text(&limit.source), text(&limit.confidence)),
            ],
        );
    }
}

fn probed_limits(out: &mut String, report: &GuestReport) {
    let Some(probe) = &report.probed_limits else { return };
    let columns = [
        "Quantity",
        "Documented",
        "KVM says",
        "Accepted there",
        "This guest",
        "Ended",
        "Cost",
    ];
    heading(out, "What KVM really takes", &columns);
    for found in rows(report, probe) {
        let fits = found.badge.map_or(String::new(), |badge| format!(": {}", badge.word));
        row(
            out,
            &[
                found.quantity.to_owned(),
                text(&found.documented.join("; ")),
                text(&found.says),
                text(&found.accepted),
                text(&format!("{}{fits}", found.used)),
                text(&found.reason),
                text(&found.cost),
            ],
        );
    }
}

fn conversion(out: &mut String, report: &GuestReport) {
    heading(
        out,
        "Conversion",
        &["Disk", "Visible", "Data", "On target", "Time", "MB/s", "Content hash"],
    );
    for disk in report.manifest.iter().flat_map(|manifest| &manifest.disks) {
        row(
            out,
            &[
                format!("{} → {}", text(&disk.name), text(&disk.file)),
                bytes(disk.virtual_bytes),
                bytes(disk.data_bytes),
                bytes(disk.file_bytes),
                duration(disk.seconds),
                rate(disk.data_bytes, disk.seconds).map_or_else(|| "unknown".to_owned(), number),
                disk.content
                    .as_ref()
                    .map_or_else(|| "not hashed".to_owned(), |tree| text(&tree.root)),
            ],
        );
    }
}

fn checks(out: &mut String, report: &GuestReport) {
    heading(out, "Risks and checks", &["Severity", "Check", "What", "What to do"]);
    let mut findings: Vec<_> = report.findings.iter().collect();
    findings.sort_by_key(|finding| finding.severity);
    for finding in findings {
        let severity = match finding.severity {
            Severity::Block => "**blocks**",
            Severity::Warn => "warning",
            Severity::Info => "info",
            Severity::Skipped => "not checked",
        };
        let overruled = finding
            .suppressed
            .as_deref()
            .map_or_else(String::new, |why| format!(" (overruled: {})", text(why)));
        row(
            out,
            &[
                format!("{severity}{overruled}"),
                text(&finding.id),
                format!("{} ({})", text(&finding.message), text(&finding.evidence)),
                text(&finding.fix),
            ],
        );
    }
}

fn settings(out: &mut String, report: &GuestReport) {
    let count = |class| report.accounting.count(class);
    let _ = writeln!(
        out,
        "\n## Settings\n\n{} in all: {} mapped, {} approximated, {} dropped and may be missed, {} unknown, {} dropped harmlessly.",
        report.accounting.keys.len(),
        count(KeyClass::Mapped),
        count(KeyClass::Approximated),
        count(KeyClass::DroppedWarning),
        count(KeyClass::Unknown),
        count(KeyClass::DroppedHarmless)
    );
    let read = |class| {
        matches!(
            class,
            KeyClass::Approximated | KeyClass::DroppedWarning | KeyClass::Unknown
        )
    };
    if report.accounting.keys.iter().any(|key| read(key.class)) {
        out.push('\n');
        table(out, &["Setting", "Value", "Class", "Why"]);
        for key in report.accounting.keys.iter().filter(|key| read(key.class)) {
            row(
                out,
                &[
                    text(&key.key),
                    text(&key.value),
                    super::csv::word(&key.class),
                    text(&key.why),
                ],
            );
        }
    }
}

pub(super) fn heading(out: &mut String, title: &str, columns: &[&str]) {
    let _ = writeln!(out, "\n## {title}\n");
    table(out, columns);
}

pub(super) fn table(out: &mut String, columns: &[&str]) {
    let _ = writeln!(out, "| {} |", columns.join(" | "));
    let _ = writeln!(out, "|{}", "---|".repeat(columns.len()));
}

pub(super) fn row(out: &mut String, cells: &[String]) {
    let _ = writeln!(out, "| {} |", cells.join(" | "));
}

/// Text on one line in which no character starts markup: CommonMark lets every ASCII punctuation character be escaped.
pub(super) fn text(raw: &str) -> String {
    let mut out = String::with_capacity(raw.len());
    for c in clean(raw).chars() {
        match c {
            '\n' | '\r' | '\t' => out.push(' '),
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '\\' | '`' | '*' | '_' | '[' | ']' | '|' | '#' | '!' | '~' | '$' | '@' => {
                out.push('\\');
                out.push(c);
            }
            _ => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::text;

    #[test]
    fn hostile_text_starts_no_markup_and_no_new_line() {
        assert_eq!(
            text("a|b\n# <img src=x> [x](y) `c` *d*"),
            "a\\|b \\# &lt;img src=x&gt; \\[x\\](y) \\`c\\` \\*d\\*"
        );
    }
}
