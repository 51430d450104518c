//! What a person sees while work goes on: log lines and progress bars, both on stderr.

use convert::progress::Progress;
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::sync::Mutex;
use std::time::Duration;

/// When to colour.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Colour {
    /// On a terminal, unless NO_COLOR is set.
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

/// Progress bars, one a piece of work. Draws nothing where stderr is no terminal.
#[derive(Debug)]
pub(crate) struct Bars {
    multi: MultiProgress,
    bars: Mutex<BTreeMap<String, ProgressBar>>,
}

impl Bars {
    pub(crate) fn new(quiet: bool) -> Self {
        let visible = !quiet && std::io::stderr().is_terminal();
        let target = if visible {
            ProgressDrawTarget::stderr_with_hz(8)
        } else {
            ProgressDrawTarget::hidden()
        };
        Self {
            multi: MultiProgress::with_draw_target(target),
            bars: Mutex::default(),
        }
    }

    /// A line above the bars (or a plain line on stderr where there are none).
    pub(crate) fn say(&self, line: &str) {
        if self.multi.is_hidden() {
            eprintln!("{line}");
        } else if self.multi.println(line).is_err() {
            // The terminal went away: nothing left to say it to.
        }
    }

    /// A spinner for work that has no byte count.
    pub(crate) fn spinner(&self, what: &str) -> ProgressBar {
        let style = ProgressStyle::with_template("{spinner} {msg} {elapsed}")
            .unwrap_or_else(|_| ProgressStyle::default_spinner());
        let bar = self.multi.add(
            ProgressBar::new_spinner()
                .with_style(style)
                .with_message(what.to_owned()),
        );
        bar.enable_steady_tick(Duration::from_millis(120));
        bar
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, ProgressBar>> {
        self.bars.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl Progress for Bars {
    fn begin(&self, what: &str, total: u64) {
        let template = "{msg:<28!} {wide_bar:.cyan/blue} {bytes:>10}/{total_bytes} {bytes_per_sec:>12} ETA {eta:>4}";
        let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
        let bar = self
            .multi
            .add(ProgressBar::new(total).with_style(style).with_message(what.to_owned()));
        if let Some(earlier) = self.lock().insert(what.to_owned(), bar) {
            earlier.finish_and_clear();
        }
    }

    fn advance(&self, what: &str, bytes: u64) {
        if let Some(bar) = self.lock().get(what) {
            bar.inc(bytes);
        }
    }

    fn end(&self, what: &str) {
        if let Some(bar) = self.lock().remove(what) {
            bar.finish_and_clear();
        }
    }
}

/// Bytes for people: `1.5 GiB`.
pub(crate) fn bytes(value: u64) -> String {
    indicatif::BinaryBytes(value).to_string()
}

/// A table for terminals, with the header given.
pub(crate) fn table(header: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> comfy_table::Table {
    let mut table = comfy_table::Table::new();
    table.load_style(comfy_table::presets::UTF8_HORIZONTAL_ONLY);
    table.set_content_arrangement(comfy_table::ContentArrangement::Dynamic);
    if !std::io::stdout().is_terminal() {
        table.set_width(160);
    }
    table.set_header(header.iter().copied());
    for row in rows {
        table.add_row(row);
    }
    table
}
