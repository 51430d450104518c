//! Shows a report to people: one self-contained HTML page, Markdown, CSV of the metrics, JUnit, JSON.
//!
//! Everything that came from a guest or its description is hostile text: the templates escape it, and nothing of it
//! becomes markup, a link or a path. The page fetches nothing and runs no script.

mod boot_proof;
mod charts;
mod csv;
mod curve_charts;
mod estate;
mod estate_text;
mod format;
mod html;
mod inside;
mod junit;
mod limit_rows;
mod markdown;
mod measures;
mod probed;
mod settings;
mod svg;
mod verdict;
mod view;

pub use csv::csv;
pub use estate::{EstateJson, estate_html, estate_json};
pub use estate_text::{estate_csv, estate_markdown, estate_summary};
pub use format::{bytes, duration, number};
pub use html::html;
pub use junit::junit;
pub use markdown::markdown;
pub use verdict::{Arrival, Verdict, verdict};

/// The record as JSON, indented, with a final newline. Schema: `docs/report.schema.json`.
///
/// # Panics
/// Never: the record has string keys only and serialises into memory.
#[must_use]
pub fn json(report: &crate::schema::GuestReport) -> String {
    let mut text = serde_json::to_string_pretty(report).expect("records have string keys only");
    text.push('\n');
    text
}
