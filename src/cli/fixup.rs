//! `esxodus fixup`: makes a converted guest ready for KVM.

use super::options::EngineArgs;
use super::{Context, Outcome};
use crate::chain::fixup::FixupOptions;
use crate::chain::{self, RunFolder};
use std::path::PathBuf;

/// Makes a converted Linux guest ready for KVM: virtio in every initramfs, device names, NIC names, VMware's leftovers.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  esxodus fixup out/web01 --dry-run      what would be changed, with before and after
  esxodus fixup out/web01
  esxodus fixup out/web01 --undo         take it back, as far as nobody changed it since
  esxodus fixup out/db01 --key luks.key --serial-console

Works inside the appliance: this machine's kernel never mounts the guest's file systems, and no program of the guest is run. Every
change is kept in OUT/fixup.json with what was there before; a second run changes nothing. The manifest gets the changed disks' new
content hashes, so that 'esxodus verify OUT' stays good; '--against SOURCE' then names the first changed byte.")]
pub(crate) struct Args {
    /// Run folder with converted disks.
    out: PathBuf,
    #[command(flatten)]
    engine: EngineArgs,
    /// Only say what would be changed.
    #[arg(long)]
    dry_run: bool,
    /// Take the changes of earlier fix-ups back.
    #[arg(long, conflicts_with = "serial_console")]
    undo: bool,
    /// Add a serial console to the kernels' command lines.
    #[arg(long)]
    serial_console: bool,
    /// Passphrase or key file for LUKS volumes. It stays in the appliance's memory.
    #[arg(long, value_name = "FILE")]
    key: Option<PathBuf>,
}

pub(crate) fn run(context: &Context, args: &Args) -> anyhow::Result<Outcome> {
    let folder = RunFolder::open(&args.out)?;
    let options = FixupOptions {
        dry_run: args.dry_run,
        serial_console: args.serial_console,
        key: args.key.clone(),
    };
    let outcome = if args.undo {
        chain::fixup::undo(context, &folder, &args.engine, &options)?
    } else {
        chain::fixup::fixup(context, &folder, &args.engine, &options)?
    };
    let renewed = if options.dry_run {
        None
    } else {
        chain::fixup::renew_targets(context, &folder, &args.engine, &options)?
    };
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
            text.push_str(&difference(change.before.as_deref().unwrap_or(""), &change.after));
        }
        for note in &outcome.notes {
            text.push_str(&format!("{note}\n"));
        }
        if outcome.changes.is_empty() {
            text.push_str("nothing to change\n");
        }
        if let Some(drivers) = renewed.and_then(|written| written.drivers) {
            text.push_str(&format!("{}\n", drivers.words()));
        }
        text
    })?;
    Ok(Outcome::Good)
}

/// Lines that only one side has. Files are edited line by line: what is common stays unsaid.
fn difference(before: &str, after: &str) -> String {
    let (old, new): (Vec<&str>, Vec<&str>) = (before.lines().collect(), after.lines().collect());
    let gone = old
        .iter()
        .filter(|line| !new.contains(line))
        .map(|line| format!("  - {line}\n"));
    let come = new
        .iter()
        .filter(|line| !old.contains(line))
        .map(|line| format!("  + {line}\n"));
    gone.chain(come).collect()
}

#[cfg(test)]
mod tests {
    use super::difference;

    #[test]
    fn only_changed_lines_are_shown() {
        assert_eq!(difference("a\nb\nc\n", "a\nB\nc\n"), "  - b\n  + B\n");
        assert_eq!(difference("", "x\n"), "  + x\n");
    }
}
