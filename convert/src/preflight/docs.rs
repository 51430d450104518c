//! The documentation of the checks, from the register.

use super::CHECKS;
use reports::schema::Severity;
use std::fmt::Write as _;

/// `docs/checks.md`.
#[must_use]
pub fn markdown() -> String {
    let mut text = String::from(
        "# Checks before a copy\n\n\
         Made from the register in `convert/src/preflight/checks.rs`; a test keeps the two alike. To write this page anew:\n\
         `ESXODUS_WRITE_DOCS=1 cargo test -p esxodus-convert --test machine`.\n\n\
         *block* stops the migration unless it is suppressed by id with a reason; *warn* works, but something is lost or wants\n\
         action; *info* is good to know. A suppressed finding stays in the report with its reason.\n",
    );
    for (severity, title) in [
        (Severity::Block, "Block"),
        (Severity::Warn, "Warn"),
        (Severity::Info, "Info"),
    ] {
        let _ = write!(
            text,
            "\n## {title}\n\n| Id | Fires when | What it means | What to do |\n|--|--|--|--|\n"
        );
        for check in CHECKS.iter().filter(|check| check.severity == severity) {
            let cell = |text: &str| text.replace('|', "\\|");
            let _ = writeln!(
                text,
                "| `{}` | {} | {} | {} |",
                check.id,
                cell(check.condition),
                cell(check.message),
                cell(check.fix)
            );
        }
    }
    text
}
