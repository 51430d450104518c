//! What a look inside the disks means for the migration: its checks, and what the report tells of it.

use super::folder::RunFolder;
use convert::machine::Machine;
use convert::preflight;
use reports::schema::{DeepFacts, Finding, FixupFacts, Severity};
use runner::fixup::FixupOutcome;

/// Runs the checks of the inside and keeps what they find beside the other findings. What `fixed` has put right stays as information; an
/// outcome without changes says that the guest is left as it is.
///
/// # Errors
/// The folder can't be read or written.
pub(crate) fn judge(
    folder: &RunFolder,
    facts: &DeepFacts,
    suppress: &[(String, String)],
    fixed: Option<&FixupOutcome>,
) -> anyhow::Result<Vec<Finding>> {
    let machine: Machine = folder.need(RunFolder::MACHINE, "convert")?;
    let mut findings = preflight::run_inside(&machine, facts);
    preflight::suppress(&mut findings, &suppress.iter().cloned().collect());
    if let Some(outcome) = fixed.filter(|outcome| !outcome.dry_run) {
        for finding in &mut findings {
            mark(finding, outcome);
        }
        findings.sort_by_key(|finding| finding.severity);
    }
    folder.write(RunFolder::INSIDE, &findings)?;
    Ok(findings)
}

/// Takes the weight from a finding that the fix-up put right.
fn mark(finding: &mut Finding, outcome: &FixupOutcome) {
    let any = |wanted: &dyn Fn(&str) -> bool| {
        let paths = outcome.changes.iter().map(|change| change.path.as_str());
        paths.filter(|path| wanted(path)).map(str::to_owned).collect::<Vec<_>>()
    };
    let is_image = |path: &str| path.rsplit('/').next().is_some_and(|name| name.starts_with("init"));
    let by = match finding.id.as_str() {
        "linux.initrd-lacks-virtio" => any(&|path| !path.starts_with("/etc/") && is_image(path)),
        "linux.fstab-by-path" | "linux.fstab-device-names" => any(&|path| {
            path == "/etc/fstab" || path.starts_with("/boot/") && !is_image(path) || path.starts_with("/efi/")
        }),
        "firmware.no-fallback-loader" => any(&|path| path.to_ascii_uppercase().ends_with("/EFI/BOOT/BOOTX64.EFI")),
        "linux.crypttab-unresolved" => any(&|path| path == "/etc/crypttab"),
        "ip.static-inside" => any(&|path| path.ends_with(".link") || path.starts_with("/etc/udev/rules.d/")),
        "guest.space" => vec!["there is room for all that is written".to_owned()],
        _ => Vec::new(),
    };
    let whole = |note: &String| !(note.contains("could not be added") || note.contains(" stays: "));
    if !by.is_empty() && outcome.notes.iter().all(whole) {
        finding.severity = Severity::Info;
        finding.fix = format!("Done by the fix-up: {}", by.join(", "));
    }
}

/// What the run folder knows of the inside: the look of before the fix-up, else the proof's.
///
/// # Errors
/// A record can't be read.
pub(crate) fn known(folder: &RunFolder) -> anyhow::Result<Option<DeepFacts>> {
    if let Some(facts) = folder.read(RunFolder::DEEP)? {
        return Ok(Some(facts));
    }
    seen_by_proof(folder)
}

/// What a boot proof saw inside the disks.
///
/// # Errors
/// The record can't be read.
pub(crate) fn seen_by_proof(folder: &RunFolder) -> anyhow::Result<Option<DeepFacts>> {
    let inspection: Option<serde_json::Value> = folder.read(RunFolder::INSPECTION)?;
    Ok(inspection.and_then(|mut inspection| serde_json::from_value(inspection["deep"].take()).ok()))
}

/// The changes of all fix-ups, in order, with the lines that differ.
pub(crate) fn changes(history: &[FixupOutcome]) -> Vec<FixupFacts> {
    let last_undo = history.iter().rposition(|outcome| outcome.undone);
    let mut facts = Vec::new();
    for (index, outcome) in history.iter().enumerate() {
        for change in &outcome.changes {
            let (gone, come) = difference(change.before.as_deref().unwrap_or(""), &change.after);
            facts.push(FixupFacts {
                path: change.path.clone(),
                why: change.why.clone(),
                before: change.before.as_ref().map(|_| gone.join("\n")),
                after: come.join("\n"),
                undone: outcome.undone || last_undo.is_some_and(|last| index < last),
            });
        }
    }
    facts
}

/// Lines that only one side has. Files are edited line by line: what is common stays unsaid.
pub(crate) fn difference<'t>(before: &'t str, after: &'t str) -> (Vec<&'t str>, Vec<&'t str>) {
    let (old, new): (Vec<&str>, Vec<&str>) = (before.lines().collect(), after.lines().collect());
    let gone = old.iter().filter(|line| !new.contains(line)).copied().collect();
    let come = new.iter().filter(|line| !old.contains(line)).copied().collect();
    (gone, come)
}

#[cfg(test)]
mod tests {
    use super::{changes, difference, mark};
    use convert::preflight;
    use reports::schema::Severity;
    use runner::fixup::{Change, FixupOutcome};

    fn outcome(path: &str, note: &str) -> FixupOutcome {
        FixupOutcome {
            changes: vec![Change {
                path: path.to_owned(),
                before: Some("a\nold\n".to_owned()),
                after: "a\nnew\n".to_owned(),
                why: "because".to_owned(),
                undo: runner::fixup::Undo::Restore,
            }],
            notes: vec![note.to_owned()],
            ..FixupOutcome::default()
        }
    }

    #[test]
    fn only_changed_lines_are_shown() {
        assert_eq!(difference("a\nb\nc\n", "a\nB\nc\n"), (vec!["b"], vec!["B"]));
        assert_eq!(difference("", "x\n"), (vec![], vec!["x"]));
    }

    #[test]
    fn a_finding_loses_its_weight_only_by_a_change_that_puts_it_right() {
        for (id, path, note, severity) in [
            (
                "firmware.no-fallback-loader",
                "/boot/efi/EFI/BOOT/BOOTX64.EFI",
                "",
                Severity::Info,
            ),
            ("firmware.no-fallback-loader", "/etc/fstab", "", Severity::Block),
            (
                "linux.initrd-lacks-virtio",
                "/boot/initrd.img-6.1.0",
                "",
                Severity::Info,
            ),
            (
                "linux.initrd-lacks-virtio",
                "/etc/initramfs-tools/modules",
                "",
                Severity::Warn,
            ),
            (
                "linux.initrd-lacks-virtio",
                "/boot/initrd.img-6.1.0",
                "/boot/initrd.img-5.10.0: virtio drivers could not be added: full",
                Severity::Warn,
            ),
            ("linux.crypttab-unresolved", "/etc/fstab", "", Severity::Warn),
            ("guest.bitlocker", "/etc/fstab", "", Severity::Block),
            ("guest.space", "/etc/fstab", "", Severity::Info),
        ] {
            let mut finding = preflight::finding(id, "seen".to_owned());
            mark(&mut finding, &outcome(path, note));
            assert_eq!(finding.severity, severity, "{id} by {path}");
        }
    }

    #[test]
    fn what_was_taken_back_is_told_so_and_what_came_later_is_not() {
        let undo = FixupOutcome {
            undone: true,
            ..outcome("/etc/fstab", "")
        };
        let facts = changes(&[outcome("/etc/fstab", ""), undo, outcome("/etc/crypttab", "")]);
        let told: Vec<bool> = facts.iter().map(|change| change.undone).collect();
        assert_eq!(told, [true, true, false]);
        assert_eq!(
            (facts[2].before.as_deref(), facts[2].after.as_str()),
            (Some("old"), "new")
        );
    }
}
