//! `esxodus run`: hands on a guest.

use super::options::EngineArgs;
use super::{Context, Outcome};
use crate::chain::{RunFolder, measure};
use std::path::PathBuf;

/// Boots a converted guest with its console on this terminal; Ctrl-] leaves.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  esxodus run out/web01                 writes go to a throw-away overlay
  esxodus run out/web01 --persist       writes go to the converted disks

The console is the guest's first serial port. A guest that shows nothing there needs console=ttyS0 on its kernel command line.")]
pub(crate) struct Args {
    /// Run folder with converted disks.
    out: PathBuf,
    #[command(flatten)]
    engine: EngineArgs,
    /// Write to the converted disks themselves.
    #[arg(long)]
    persist: bool,
}

pub(crate) fn run(context: &Context, args: &Args) -> anyhow::Result<Outcome> {
    let folder = RunFolder::open(&args.out)?;
    let ended = measure::hands_on(context, &folder, &args.engine, args.persist)?;
    context.print(&serde_json::json!({ "ended": ended }), || ended.clone())?;
    Ok(Outcome::Good)
}
