//! `esxodus prove`: boots the converted guest and keeps the evidence.

use super::options::EngineArgs;
use super::{Context, Outcome};
use crate::chain::{RunFolder, measure};
use reports::schema::{ProofRecord, ProofVerdict, Suite};
use std::path::PathBuf;
use std::time::Duration;

/// Boots the converted guest from throw-away overlays and says, with evidence, whether it works.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  esxodus prove out/web01
  esxodus prove out/web01 --timeout 600 --accel tcg
  esxodus prove out/web01 --no-agent            look from outside only

The converted disks are not changed: their hashes before and after are in the evidence. The guest has no network.
Exit code 1: not proven.")]
pub(crate) struct Args {
    /// Run folder with converted disks.
    out: PathBuf,
    #[command(flatten)]
    engine: EngineArgs,
    /// Seconds from the guest's start to the verdict.
    #[arg(long, value_name = "SECONDS", default_value = "300")]
    timeout: u64,
    /// Also measure inside the guest, into OUT/bench/guest.json.
    #[arg(long)]
    bench: bool,
    /// Don't put the agent into the overlay.
    #[arg(long)]
    no_agent: bool,
}

pub(crate) fn run(context: &Context, args: &Args) -> anyhow::Result<Outcome> {
    let folder = RunFolder::open(&args.out)?;
    let wish = measure::ProofWish {
        timeout: Duration::from_secs(args.timeout),
        bench: args.bench.then_some(Suite::Quick),
        bench_budget: None,
        inject_agent: !args.no_agent,
    };
    let outcome = measure::prove(context, &folder, &args.engine, &wish)?;
    if let Some(record) = &outcome.bench {
        folder.write("bench/guest.json", record)?;
    }
    context.print(&outcome.record, || text(&outcome.record))?;
    Ok(if outcome.record.verdict == ProofVerdict::Proven {
        Outcome::Good
    } else {
        Outcome::No
    })
}

fn text(record: &ProofRecord) -> String {
    let verdict = match record.verdict {
        ProofVerdict::Proven => "PROVEN",
        ProofVerdict::BootedUnconfirmed => "BOOTED, UNCONFIRMED",
        ProofVerdict::Failed => "FAILED",
    };
    let mut text = format!(
        "{verdict}: {}\n{} · {} · {}\n",
        record.reason, record.engine, record.firmware, record.devices
    );
    for milestone in &record.milestones {
        text.push_str(&format!(
            "{:>8.1} s  {:<12} {}\n",
            f64::from(u32::try_from(milestone.at_ms).unwrap_or(u32::MAX)) / 1000.0,
            milestone.name,
            milestone.seen
        ));
    }
    for advice in &record.advice {
        text.push_str(&format!("try: {advice}\n"));
    }
    let same = record.disks_before == record.disks_after;
    text.push_str(if same {
        "the converted disks are untouched: same hashes before and after\n"
    } else {
        "THE CONVERTED DISKS CHANGED\n"
    });
    for evidence in &record.evidence {
        text.push_str(&format!("evidence: {} ({})\n", evidence.file, evidence.kind));
    }
    text
}
