//! The documentation of the checks, from the register.

use super::{UNMADE, checks};
use reports::schema::Severity;
use std::fmt::Write as _;

/// `docs/checks.md`.
#[must_use]
pub fn markdown() -> String {
    let mut text = String::from(
        "# Checks before a copy\n\n\
         Made from the register in `convert/src/preflight/checks`; a test keeps the two alike. To write this page anew:\n\
         `ESXODUS_WRITE_DOCS=1 cargo test -p esxodus-convert --test machine`.\n\n\
         *block* stops the migration unless it is suppressed by id with a reason; *warn* works, but something is lost or wants\n\
         action; *info* is good to know; *skipped* says that something could not be looked at. A suppressed finding stays in the\n\
         report with its reason. *Needs* says what must be known: all other checks are made by `inspect`, `assess`, `convert` and\n\
         `migrate` from the files.\n",
    );
    for (severity, title) in [
        (Severity::Block, "Block"),
        (Severity::Warn, "Warn"),
        (Severity::Info, "Info"),
        (Severity::Skipped, "Skipped"),
    ] {
        let _ = write!(
            text,
            "\n## {title}\n\n| Id | Needs | Fires when | What it means | What to do |\n|--|--|--|--|--|\n"
        );
        for check in checks().filter(|check| check.severity == severity) {
            let cell = |text: &str| text.replace('|', "\\|");
            let _ = writeln!(
                text,
                "| `{}` | {} | {} | {} | {} |",
                check.id,
                check.needs.title(),
                cell(check.condition),
                cell(check.message),
                cell(check.fix)
            );
        }
    }
    text.push_str(
        "\n## Not made\n\nChecks of other tools, or that one would wish for, that are not made here.\n\n| Ids | Why |\n|--|--|\n",
    );
    for unmade in UNMADE {
        let ids: Vec<String> = unmade.ids.iter().map(|id| format!("`{id}`")).collect();
        let _ = writeln!(text, "| {} | {} |", ids.join(", "), unmade.why);
    }
    text
}
