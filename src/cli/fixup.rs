//! `esxodus fixup`: makes a converted guest ready for KVM.

use super::options::EngineArgs;
use super::{Context, Outcome};
use crate::chain::{self, RunFolder};
use std::path::PathBuf;

/// Makes a converted Linux guest ready for KVM. So far: binds NIC names such as ens192 to their MAC, so that static addresses survive.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  esxodus fixup out/web01 --dry-run      what would be changed, with before and after
  esxodus fixup out/web01

Works inside the appliance: this machine's kernel never mounts the guest's file systems. Every change is kept in OUT/fixup.json with the
text before; a second run changes nothing. The manifest gets the changed disks' new content hashes, so that 'esxodus verify OUT' stays
good; '--against SOURCE' then names the first changed byte.")]
pub(crate) struct Args {
    /// Run folder with converted disks.
    out: PathBuf,
    #[command(flatten)]
    engine: EngineArgs,
    /// Only say what would be changed.
    #[arg(long)]
    dry_run: bool,
}

pub(crate) fn run(context: &Context, args: &Args) -> anyhow::Result<Outcome> {
    let folder = RunFolder::open(&args.out)?;
    let outcome = chain::fixup::fixup(context, &folder, &args.engine, args.dry_run)?;
    context.print(&outcome, || {
        let mut text = String::new();
        for change in &outcome.changes {
            let verb = match (&change.before, outcome.dry_run) {
                (None, false) => "wrote",
                (Some(_), false) => "changed",
                (None, true) => "would write",
                (Some(_), true) => "would change",
            };
            text.push_str(&format!("{verb} {}: {}\n", change.path, change.why));
            for line in change.before.iter().flat_map(|before| before.lines()) {
                text.push_str(&format!("  - {line}\n"));
            }
            for line in change.after.lines() {
                text.push_str(&format!("  + {line}\n"));
            }
        }
        for note in &outcome.notes {
            text.push_str(&format!("{note}\n"));
        }
        if outcome.changes.is_empty() {
            text.push_str("nothing to change\n");
        }
        text
    })?;
    Ok(Outcome::Good)
}
