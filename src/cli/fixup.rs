//! `esxodus fixup`: makes a converted guest ready for KVM.

use super::options::EngineArgs;
use super::{Context, Outcome};
use crate::chain::fixup::FixupOptions;
use crate::chain::inside::difference;
use crate::chain::{self, RunFolder};
use std::path::PathBuf;

/// Makes a converted Linux guest ready for KVM: virtio in every initramfs, device names, NIC names, VMware's leftovers.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  esxodus fixup out/web01 --dry-run      what would be changed, with before and after
  esxodus fixup out/web01
  esxodus fixup out/web01 --undo         take it back, as far as nobody changed it since
  esxodus fixup out/db01 --key luks.key --serial-console
  esxodus fixup out/win01 --engine virt-v2v     virt-v2v-in-place instead, where it is installed: it knows Windows

Works inside the appliance, a virtual machine: this machine's kernel never mounts the guest's file systems. No program of the guest is
run, but for an initramfs that nothing can be put behind (packed with lzo, lzma or bzip2; made by an old mkinitrd): the guest's own
tool makes it anew, in the appliance and on overlays. '--no-guest-tools' leaves such an image alone. Every change is kept in OUT/fixup.json with what was there before; a second run changes nothing. The manifest gets the changed disks' new
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
    /// Never run a program of the guest, not even for an initramfs that can't be made ready otherwise.
    #[arg(long)]
    no_guest_tools: bool,
    /// Passphrase or key file for LUKS volumes. It stays in the appliance's memory.
    #[arg(long, value_name = "FILE")]
    key: Option<PathBuf>,
}

pub(crate) fn run(context: &Context, args: &Args) -> anyhow::Result<Outcome> {
    let folder = RunFolder::open(&args.out)?;
    let (virt_v2v, engine) = args.engine.split();
    anyhow::ensure!(
        !virt_v2v || !args.serial_console && !args.undo,
        "--serial-console and --undo are the own fix-up's: virt-v2v knows neither"
    );
    let options = FixupOptions {
        virt_v2v,
        dry_run: args.dry_run,
        serial_console: args.serial_console,
        no_guest_tools: args.no_guest_tools,
        key: args.key.clone(),
        suppress: Vec::new(),
    };
    let outcome = if args.undo {
        chain::fixup::undo(context, &folder, &engine, &options)?
    } else {
        chain::fixup::fixup(context, &folder, &engine, &options)?
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
            let (gone, come) = difference(change.before.as_deref().unwrap_or(""), &change.after);
            text.extend(gone.iter().map(|line| format!("  - {line}\n")));
            text.extend(come.iter().map(|line| format!("  + {line}\n")));
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
