//! `esxodus verify`: content hashes again.

use super::options::SourceOptions;
use super::{Context, Outcome};
use crate::chain::{self, RunFolder};
use crate::terminal::bytes;
use reports::schema::Manifest;
use std::path::PathBuf;

/// Reads the converted disks again and compares their content with the manifest, and with the source.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  esxodus verify out/web01
  esxodus verify out/web01 --against web01/web01.vmx

Exit code 1: the content differs; the first differing guest offset is named, exact to the byte with --against.")]
pub(crate) struct Args {
    /// Run folder.
    out: PathBuf,
    /// Compare with this source too, byte by byte.
    #[arg(long, value_name = "SOURCE")]
    against: Option<PathBuf>,
    /// Folder outside the source's own that a descriptor may point into. May be repeated.
    #[arg(long, value_name = "DIR")]
    allow_path: Vec<PathBuf>,
    /// Read the source as 'convert --salvage' did.
    #[arg(long)]
    salvage: bool,
    /// Read the source as 'convert --ignore-cid-mismatch' did.
    #[arg(long)]
    ignore_cid_mismatch: bool,
}

pub(crate) fn run(context: &Context, args: &Args) -> anyhow::Result<Outcome> {
    let folder = RunFolder::open(&args.out)?;
    let manifest: Manifest = folder.need(RunFolder::MANIFEST, "convert")?;
    let opened = args
        .against
        .as_ref()
        .map(|source| {
            chain::source::open(&SourceOptions {
                salvage: args.salvage,
                ignore_cid_mismatch: args.ignore_cid_mismatch,
                ..SourceOptions::plain(source, &args.allow_path)
            })
        })
        .transpose()?;
    let sources = opened.as_ref().map(chain::source::Opened::all_disks).transpose()?;
    let outcomes = chain::copy::verify(context, &folder, &manifest, sources.as_deref())?;
    let good = outcomes.iter().all(|(_, outcome)| outcome.identical);
    let rows: Vec<serde_json::Value> = outcomes
        .iter()
        .map(|(file, outcome)| {
            serde_json::json!({
                "file": file, "identical": outcome.identical, "first_difference": outcome.first_difference, "exact": outcome.exact, "stretch_bytes": outcome.stretch_bytes,
                "differing_leaves": outcome.differing_leaves, "bytes": outcome.bytes, "hashed": outcome.hashed, "seconds": outcome.seconds, "notes": outcome.notes,
            })
        })
        .collect();
    context.print(&serde_json::json!({ "identical": good, "disks": rows }), || {
        let mut text = String::new();
        for (file, outcome) in &outcomes {
            let verdict = match (outcome.identical, outcome.first_difference) {
                (true, _) => format!("identical, {} in {:.1} s", bytes(outcome.bytes), outcome.seconds),
                (false, Some(at)) if outcome.exact => format!("DIFFERS first at guest byte {at}"),
                (false, Some(at)) => {
                    format!(
                        "DIFFERS in the {} from guest byte {at}; --against SOURCE names the byte",
                        bytes(outcome.stretch_bytes)
                    )
                }
                (false, None) => "DIFFERS in size".to_owned(),
            };
            text.push_str(&format!("{file}: {verdict}\n"));
            for note in &outcome.notes {
                text.push_str(&format!("  {note}\n"));
            }
        }
        text
    })?;
    Ok(if good { Outcome::Good } else { Outcome::No })
}
