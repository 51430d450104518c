//! `esxodus migrate`: the whole chain.

use super::options::{CopyArgs, EngineArgs, SourceOptions};
use super::{Context, Outcome};
use crate::chain::migrate;
use crate::terminal::table;
use std::path::PathBuf;
use std::time::Duration;

/// Takes a guest through the whole chain: inspect, convert, verify, fix up, machine definitions, boot proof, measurements, report.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  esxodus migrate web01/web01.vmx -o out/web01
  esxodus migrate web01/web01.vmx -o out/web01 --resume       go on after a stop; finished steps are reused
  esxodus migrate appliance.ova -o out/appliance --compress keep --no-bench

Exit code 1: an answer was no (a blocking check, a difference, a guest that does not boot); the report says which.")]
pub(crate) struct Args {
    #[command(flatten)]
    source: SourceOptions,
    /// Run folder: new, empty, or with --resume an earlier one of the same source.
    #[arg(short, long, value_name = "OUT")]
    output: PathBuf,
    #[command(flatten)]
    copy: CopyArgs,
    /// Machine definitions to write: all, none, proxmox, libvirt, qemu, kubevirt.
    #[arg(long, value_name = "NAMES", value_delimiter = ',', default_value = "all")]
    target: Vec<String>,
    /// TOML file that maps networks and storages of the source to those of the target.
    #[arg(long, value_name = "FILE")]
    map: Option<PathBuf>,
    /// Continue an earlier run; steps that are finished and still valid are reused.
    #[arg(long)]
    resume: bool,
    #[command(flatten)]
    engine: EngineArgs,
    /// Seconds that the guest may take from its start to the proof.
    #[arg(long, value_name = "SECONDS", default_value = "300")]
    timeout: u64,
    /// Don't measure.
    #[arg(long)]
    no_bench: bool,
    /// Time budget of each measurement in seconds (host, guest).
    #[arg(long, value_name = "SECONDS", default_value = "60")]
    bench_budget: u64,
    /// Leave the guest as it is: virtio in its initramfs, device names and NIC names are its own affair.
    #[arg(long)]
    no_fixup: bool,
    /// Never run a program of the guest in the fix-up (see 'esxodus fixup --help').
    #[arg(long)]
    no_guest_tools: bool,
    /// Don't boot the guest.
    #[arg(long)]
    no_prove: bool,
}

pub(crate) fn run(context: &Context, args: &Args) -> anyhow::Result<Outcome> {
    let (virt_v2v, engine) = args.engine.split();
    let wish = migrate::Wish {
        virt_v2v,
        source: args.source.clone(),
        output: args.output.clone(),
        copy: args.copy.clone(),
        targets: args.target.clone(),
        map: args.map.clone(),
        resume: args.resume,
        engine,
        timeout: Duration::from_secs(args.timeout),
        bench: !args.no_bench,
        bench_budget: Some(args.bench_budget),
        fixup: !args.no_fixup,
        no_guest_tools: args.no_guest_tools,
        prove: !args.no_prove,
    };
    let (report, written, good) = migrate::migrate(context, &wish)?;
    context.print(&report, || {
        let rows = report.steps.iter().map(|step| {
            vec![
                step.name.clone(),
                migrate::status_word(step.status).to_owned(),
                format!("{:.1} s", step.seconds),
                step.detail.clone(),
            ]
        });
        let mut text = table(&["step", "verdict", "time", "what was found"], rows).to_string();
        text.push_str(&format!("\n\nReport: {}\n", written[0].display()));
        text
    })?;
    Ok(if good { Outcome::Good } else { Outcome::No })
}
