//! `esxodus report`: what the run folders know, for people.

use super::{Context, Outcome};
use crate::chain::{RunFolder, gather};
use anyhow::Context as _;
use std::path::PathBuf;

/// Writes the report of a run folder: HTML for people, Markdown, JSON, CSV and JUnit for everything else.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  esxodus report out/web01                          into the run folder
  esxodus report out/web01 -o web01.html            and the HTML there too

The HTML is one file without anything from the network: it can be mailed.")]
pub(crate) struct Args {
    /// Run folders.
    #[arg(required = true)]
    out: Vec<PathBuf>,
    /// Also write the HTML there (one run folder only).
    #[arg(short, long, value_name = "FILE.html")]
    output: Option<PathBuf>,
}

pub(crate) fn run(context: &Context, args: &Args) -> anyhow::Result<Outcome> {
    anyhow::ensure!(
        args.output.is_none() || args.out.len() == 1,
        "-o takes one run folder: name just one, or leave -o away"
    );
    let mut reports = Vec::new();
    let mut text = String::new();
    for out in &args.out {
        let folder = RunFolder::open(out)?;
        let report = gather::gather(&folder)?;
        for path in gather::write_report(&folder, &report)? {
            text.push_str(&format!("{}\n", path.display()));
        }
        if let Some(output) = &args.output {
            std::fs::copy(folder.path("report.html"), output)
                .with_context(|| format!("cannot write {}", output.display()))?;
            text.push_str(&format!("{}\n", output.display()));
        }
        reports.push(report);
    }
    context.print(&reports, || text)?;
    Ok(Outcome::Good)
}
