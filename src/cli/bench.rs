//! `esxodus bench`: measures CPU, memory and disk.

use super::{Context, Outcome};
use crate::chain::measure::AgentWish;
use anyhow::{Context as _, bail};
use bench::SuiteOptions;
use reports::schema::{BenchRecord, Comparison, Place, Suite};
use runner::proof::BenchWish;
use std::path::PathBuf;

/// Measures this host, an LXC container or a converted guest: CPU, memory, disk, with raw samples.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  esxodus bench -o before.json                       this host, about a minute
  esxodus bench --suite full -o host.json            about a quarter of an hour
  esxodus bench --in guest:out/web01 -o after.json   inside the converted guest, on a throw-away overlay
  esxodus bench --in guest:out/web01 --like before.json -o after.json
                                                     with the sizes of before.json
  esxodus bench --in lxc:web -o container.json       inside a running LXC container
  esxodus bench --in lxc:web --against-host -o both.json
                                                     host and container in turn, compared pair by pair
  esxodus bench --in guest:out/web01 --against-host  host and guest in turn, in one boot of the guest
  esxodus bench --import esxi.json -o before.json    a record that esxodus-agent wrote on another machine
  esxodus bench --serve 7077                         be the other side of a network measurement, until Ctrl-C
  esxodus bench --only net --peer db01:7077          the network from here to the agent that serves there

On an ESXi guest: copy the static esxodus-agent into it, run 'esxodus-agent bench --json > esxi.json', bring the file back.")]
pub(crate) struct Args {
    /// Where: host, lxc:CONTAINER, or guest:OUT (a run folder with converted disks).
    #[arg(long = "in", value_name = "PLACE", default_value = "host")]
    place: String,
    /// How thorough.
    #[arg(long, value_parser = ["quick", "full"], default_value = "quick")]
    suite: String,
    /// Time budget in seconds (default: 60 for quick, 900 for full).
    #[arg(long, value_name = "SECONDS")]
    budget: Option<u64>,
    /// Folder on the disk to measure, there (default: the temporary folder).
    #[arg(long, value_name = "DIR")]
    folder: Option<PathBuf>,
    /// Only metrics whose id contains this. May be repeated.
    #[arg(long, value_name = "TEXT")]
    only: Vec<String>,
    /// Take the sizes of that record (disk file, request rate, arrays), so that the two compare metric by metric.
    #[arg(long, value_name = "FILE.json")]
    like: Option<PathBuf>,
    /// Boots of --in guest:OUT, for boot.*: five are the least that decide anything.
    #[arg(long, value_name = "N", default_value = "1", value_parser = clap::value_parser!(u32).range(1..=50))]
    boots: u32,
    /// Measure this host and the container or guest in turn (A B, B A, ...) and compare pair by pair: drift hits both alike.
    #[arg(long)]
    against_host: bool,
    /// Pairs of rounds for --against-host; the budget is shared by all rounds.
    #[arg(long, value_name = "N", default_value = "12", requires = "against_host", value_parser = clap::value_parser!(u16).range(5..=200))]
    rounds: u16,
    /// Compare with --against-host what isn't comparable, as a guest under emulation; the result says so loudly.
    #[arg(long, requires = "against_host")]
    force: bool,
    /// Folder of LXC's containers where it is not LXC's own (lxc-attach -P).
    #[arg(long, value_name = "DIR")]
    lxc_path: Option<PathBuf>,
    /// Measure the network too, against an agent that serves there (esxodus bench --serve PORT, or esxodus-agent's).
    #[arg(long, value_name = "HOST:PORT")]
    peer: Option<String>,
    /// Be that other agent instead of measuring: reads, discards and answers, without any password. Ends with Ctrl-C.
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..), conflicts_with_all = ["place", "suite", "folder", "only", "against_host", "import", "peer", "output", "budget", "like", "boots"])]
    serve: Option<u16>,
    /// Take a record that the agent wrote elsewhere instead of measuring.
    #[arg(long, value_name = "FILE.json", conflicts_with_all = ["place", "suite", "folder", "only", "against_host", "peer", "like", "boots"])]
    import: Option<PathBuf>,
    /// Write the record there (otherwise --json prints it).
    #[arg(short, long, value_name = "FILE.json")]
    output: Option<PathBuf>,
    #[command(flatten)]
    engine: super::options::EngineArgs,
}

/// Writes and shows what was measured in turn.
fn paired(context: &Context, args: &Args, comparison: &Comparison) -> anyhow::Result<Outcome> {
    if let Some(output) = &args.output {
        crate::chain::write_record(output, comparison)?;
        context.say(&format!("written to {}", output.display()));
    }
    context.print(comparison, || super::compare::text(comparison))?;
    Ok(Outcome::Good)
}

pub(crate) fn run(context: &Context, args: &Args) -> anyhow::Result<Outcome> {
    let suite = if args.suite == "full" {
        Suite::Full
    } else {
        Suite::Quick
    };
    if let Some(port) = args.serve {
        context.say(&format!("serving on port {port}; end with Ctrl-C"));
        bench::workloads::serve(port, &context.cancel).with_context(|| format!("cannot serve on port {port}"))?;
        return Ok(Outcome::Good);
    }
    if args.peer.is_some() && args.place.starts_with("guest:") {
        bail!(
            "--peer cannot be used with --in guest:OUT: a guest under proof has no way to any network, so that two of the \
             same name never meet. Measure its network where it runs for good, with esxodus-agent bench --peer"
        );
    }
    if args.against_host && args.place == "host" {
        bail!("--against-host sets a container or a guest beside this host: add --in lxc:CONTAINER or --in guest:OUT");
    }
    anyhow::ensure!(
        args.boots == 1 || args.place.starts_with("guest:"),
        "--boots is for --in guest:OUT"
    );
    let like = args.like.as_deref().map(read).transpose()?;
    let like = like.map(|record| record.sizes).unwrap_or_default();
    let record = if let Some(file) = &args.import {
        import(file)?
    } else if let Some(out) = args.place.strip_prefix("guest:") {
        let wish = BenchWish {
            budget_seconds: args.budget,
            only: args.only.clone(),
            folder: args.folder.as_ref().map(|folder| folder.display().to_string()),
            like,
            ..BenchWish::new(suite)
        };
        if args.against_host {
            anyhow::ensure!(
                args.boots == 1,
                "--against-host measures in one boot: leave --boots out"
            );
            let rounds = usize::from(args.rounds);
            let comparison =
                crate::chain::bench_guest_in_turn(context, out.as_ref(), wish, &args.engine, rounds, args.force)?;
            return paired(context, args, &comparison);
        }
        crate::chain::bench_guest(context, out.as_ref(), wish, args.boots, &args.engine)?
    } else if let Some(container) = args.place.strip_prefix("lxc:") {
        let wish = AgentWish {
            suite,
            budget: args.budget,
            only: &args.only,
            lxc_path: args.lxc_path.as_deref(),
            peer: args.peer.as_deref(),
            folder: args.folder.as_deref(),
            like,
        };
        if args.against_host {
            let comparison = crate::chain::bench_in_turn(context, container, &wish, usize::from(args.rounds))?;
            return paired(context, args, &comparison);
        }
        crate::chain::bench_lxc(context, container, &wish)?
    } else if args.place == "host" {
        let folder = args.folder.clone().unwrap_or_else(std::env::temp_dir);
        let mut options = SuiteOptions::new(suite, folder);
        options.only = (!args.only.is_empty()).then(|| args.only.clone());
        options.peer.clone_from(&args.peer);
        options.like = like;
        options.budget_seconds = args.budget.map(crate::chain::measure::seconds);
        crate::chain::bench_host(context, options)?
    } else {
        bail!("--in {}: write host, lxc:CONTAINER or guest:OUT", args.place);
    };
    if let Some(output) = &args.output {
        crate::chain::write_record(output, &record)?;
        context.say(&format!("written to {}", output.display()));
    }
    context.print(&record, || text(&record))?;
    Ok(Outcome::Good)
}

fn import(file: &std::path::Path) -> anyhow::Result<BenchRecord> {
    let mut record = read(file)?;
    record.place = Place::Imported;
    Ok(record)
}

/// Reads a record and refuses what is none, is newer, or contradicts itself.
pub(crate) fn read(file: &std::path::Path) -> anyhow::Result<BenchRecord> {
    let bytes = std::fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
    bench::import(&bytes).with_context(|| format!("{} is not taken", file.display()))
}

pub(crate) fn text(record: &BenchRecord) -> String {
    let rows = record.metrics.iter().map(|metric| {
        vec![
            metric.id.clone(),
            format!("{:.4}", metric.summary.median),
            format!("{:.4} … {:.4}", metric.summary.ci_low, metric.summary.ci_high),
            metric.unit.clone(),
            metric.summary.n.to_string(),
            metric.unfit.clone().unwrap_or_default(),
        ]
    });
    let mut text = format!("{} ({})\n", record.label, record.stamp.created);
    text.push_str(
        &crate::terminal::table(
            &["metric", "median", "95 % interval", "unit", "n", "unfit because"],
            rows,
        )
        .to_string(),
    );
    for skipped in &record.skipped {
        text.push_str(&format!("\nskipped {}: {}", skipped.id, skipped.reason));
    }
    text
}
