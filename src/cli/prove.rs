//! `esxodus prove`: boots the guest and keeps the evidence.

use super::options::{EngineArgs, SourceOptions};
use super::{Context, Outcome};
use crate::chain::RunFolder;
use crate::chain::prove::{self, ProofWish};
use crate::chain::targets;
use clap::ValueEnum;
use reports::schema::{ProofRecord, ProofVerdict, Suite};
use runner::proof::{BenchWish, DiskCheck};
use std::path::PathBuf;
use std::time::Duration;

/// How the disks are compared before and after.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum CheckName {
    /// By content up to 2 GiB, else by identity.
    Auto,
    /// Hash the whole files twice.
    Content,
    /// Inode, size, mtime and ctime.
    Identity,
}

/// Boots the guest from throw-away overlays and says, with evidence, whether it works.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  esxodus prove out/web01                             the converted guest
  esxodus prove out/web01 --search                    if it fails: which bus and firmware does it boot on?
  esxodus prove web01/web01.vmx -o /tmp/web01         before converting
  esxodus prove out/web01 --timeout 600 --accel tcg
  esxodus prove out/web01 --no-agent                  look from outside only

The disks are not changed: what was compared before and after is in the evidence. The guest has no network.
Without --search Linux boots on virtio-blk, everything else on SATA. --search tries virtio-scsi, virtio-blk, SATA and IDE with the
machine's firmware, then with the other one, and leaves out what the failure makes pointless.
Exit code 1: not proven.")]
pub(crate) struct Args {
    /// Run folder with converted disks; or a source: .vmx, .vmtx, .ovf, .ova, .vmdk or .qcow2 file, or the folder of one guest.
    #[arg(value_name = "OUT|SOURCE")]
    what: PathBuf,
    /// Folder for the evidence of a source (default: NAME-proof here).
    #[arg(short, long, value_name = "DIR")]
    output: Option<PathBuf>,
    /// Folder outside the source's own that a descriptor may point into. May be repeated.
    #[arg(long, value_name = "DIR")]
    allow_path: Vec<PathBuf>,
    #[command(flatten)]
    engine: EngineArgs,
    /// Seconds from the guest's start to the verdict, for each try.
    #[arg(long, value_name = "SECONDS", default_value = "300")]
    timeout: u64,
    /// Seconds without a sign of life (console, screen, disk) after which the guest counts as hung (default 120).
    #[arg(long, value_name = "SECONDS")]
    silence: Option<u64>,
    /// Where it fails, try other buses and firmware and recommend the first that is proven.
    #[arg(long)]
    search: bool,
    /// How to show that the disks were not changed.
    #[arg(long, value_enum, default_value = "auto")]
    check: CheckName,
    /// Also measure inside the guest, into OUT/bench/guest.json; with the sizes of a record of before the move in OUT/bench.
    #[arg(long)]
    bench: bool,
    /// Boots in all once it is proven: shows whether it boots every time, and with --bench how its boot times vary.
    #[arg(long, value_name = "N", default_value = "1", value_parser = clap::value_parser!(u32).range(1..=50))]
    boots: u32,
    /// Don't put the agent into the overlay.
    #[arg(long)]
    no_agent: bool,
}

pub(crate) fn run(context: &Context, args: &Args) -> anyhow::Result<Outcome> {
    let wish = ProofWish {
        silence: args.silence.map(Duration::from_secs),
        search: args.search,
        check: match args.check {
            CheckName::Auto => DiskCheck::Auto,
            CheckName::Content => DiskCheck::Content,
            CheckName::Identity => DiskCheck::Identity,
        },
        boots: args.boots,
        bench: args.bench.then(|| BenchWish::new(Suite::Quick)),
        inject_agent: !args.no_agent,
        ..ProofWish::new(Duration::from_secs(args.timeout))
    };
    let (root, outcome) = match RunFolder::open(&args.what) {
        Ok(folder) => {
            anyhow::ensure!(
                args.output.is_none(),
                "-o is for sources: the evidence of a run folder stays in it"
            );
            let mut wish = wish;
            if let Some(bench) = &mut wish.bench {
                bench.like = crate::chain::gather::sizes_before(&folder)?;
            }
            let outcome = prove::converted(context, &folder, &args.engine, &wish)?;
            if let Some(drivers) = targets::renew(&folder)?.and_then(|written| written.drivers) {
                context.say(&drivers.words());
            }
            (folder.root().to_owned(), outcome)
        }
        Err(no_run_folder) => {
            let source = SourceOptions::plain(&args.what, &args.allow_path);
            prove::unconverted(context, &source, args.output.as_deref(), &args.engine, &wish).map_err(|error| {
                // A folder may have been meant as either.
                if args.what.is_dir() {
                    error.context(no_run_folder)
                } else {
                    error
                }
            })?
        }
    };
    if let Some(record) = &outcome.bench {
        let file = root.join("bench/guest.json");
        std::fs::create_dir_all(root.join("bench"))?;
        crate::chain::write_record(&file, record)?;
    }
    context.print(&outcome.record, || text(&outcome.record))?;
    Ok(if outcome.record.verdict == ProofVerdict::Proven {
        Outcome::Good
    } else {
        Outcome::No
    })
}

fn text(record: &ProofRecord) -> String {
    let mut text = format!(
        "{}: {}\n{} · {} · {}\n",
        word(record.verdict),
        record.reason,
        record.engine,
        record.firmware,
        record.devices
    );
    for milestone in &record.milestones {
        text.push_str(&format!(
            "{:>8.1} s  {:<12} {}\n",
            f64::from(u32::try_from(milestone.at_ms).unwrap_or(u32::MAX)) / 1000.0,
            milestone.name,
            milestone.seen
        ));
    }
    for attempt in &record.tries {
        text.push_str(&format!(
            "tried: {:<11} {:<10} {:<4} {:>4.0} s  {}: {} ({})\n",
            attempt.bus,
            attempt.nic,
            attempt.firmware,
            attempt.seconds,
            word(attempt.verdict),
            attempt.reason,
            attempt.evidence
        ));
    }
    for advice in &record.advice {
        text.push_str(&format!("note: {advice}\n"));
    }
    let same = record.disks_before == record.disks_after;
    text.push_str(&match (same, record.disks_check.as_str()) {
        (false, _) => "THE REAL DISKS CHANGED\n".to_owned(),
        (true, "identity") => {
            "the real disks are untouched: same inode, size, mtime and ctime before and after (--check content hashes them)\n"
                .to_owned()
        }
        (true, _) => "the real disks are untouched: same hashes before and after\n".to_owned(),
    });
    for evidence in &record.evidence {
        text.push_str(&format!("evidence: {} ({})\n", evidence.file, evidence.kind));
    }
    text
}

fn word(verdict: ProofVerdict) -> &'static str {
    match verdict {
        ProofVerdict::Proven => "PROVEN",
        ProofVerdict::BootedUnconfirmed => "BOOTED, UNCONFIRMED",
        ProofVerdict::Failed => "FAILED",
    }
}
