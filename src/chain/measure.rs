//! Steps that run something: the boot proof and the measurements.

use super::folder::RunFolder;
use crate::cli::Context;
use crate::cli::options::{AccelName, EngineArgs, EngineName};
use anyhow::{Context as _, bail};
use bench::SuiteOptions;
use convert::machine::Machine;
use reports::schema::{BenchRecord, Manifest, Place, Suite};
use runner::engine::{AccelWish, Choice, DiskFormat, EngineWish};
use runner::proof::{ProveDisk, ProveOutcome, ProveRequest};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

/// Longest that the KVM probe may take.
const PROBE_DEADLINE: Duration = Duration::from_secs(5);

/// Probes and chooses what runs guests.
///
/// # Errors
/// The wish can't be met on this host.
pub(crate) fn choose(args: &EngineArgs) -> anyhow::Result<Choice> {
    let engine = match args.engine {
        EngineName::Auto => EngineWish::Auto,
        EngineName::Kvm => EngineWish::Kvm,
        EngineName::Qemu => EngineWish::Qemu,
    };
    let accel = match args.accel {
        AccelName::Auto => AccelWish::Auto,
        AccelName::Kvm => AccelWish::Kvm,
        AccelName::Tcg => AccelWish::Tcg,
    };
    Ok(runner::engine::choose(
        engine,
        accel,
        &runner::probe::probe(PROBE_DEADLINE),
    )?)
}

/// What a boot proof is asked to do.
#[derive(Debug, Clone)]
pub(crate) struct ProofWish {
    pub(crate) timeout: Duration,
    pub(crate) bench: Option<Suite>,
    pub(crate) bench_budget: Option<u64>,
    pub(crate) inject_agent: bool,
}

/// Boots the converted guest from throw-away overlays and keeps the evidence under `proof/`.
///
/// # Errors
/// The engine can't be had or fails; a guest that doesn't boot is a verdict, not an error.
pub(crate) fn prove(
    context: &Context,
    folder: &RunFolder,
    engine: &EngineArgs,
    wish: &ProofWish,
) -> anyhow::Result<ProveOutcome> {
    let request = ProveRequest {
        timeout: wish.timeout,
        bench: wish.bench,
        bench_budget_seconds: wish.bench_budget,
        inject_agent: wish.inject_agent,
        ..request(folder, engine)?
    };
    context.say(&format!("guests run on: {}", request.choice.reason));
    let spinner = context.bars.spinner("booting the guest from a throw-away overlay");
    let outcome = runner::proof::prove(&request, &context.bars, &context.cancel);
    spinner.finish_and_clear();
    let outcome = outcome?;
    folder.write(RunFolder::PROOF, &outcome.record)?;
    if let Some(inspection) = &outcome.inspection {
        folder.write("proof/inspection.json", inspection)?;
    }
    Ok(outcome)
}

/// The converted guest of a run folder, to be run as it is.
fn request(folder: &RunFolder, engine: &EngineArgs) -> anyhow::Result<ProveRequest> {
    let machine: Machine = folder.need(RunFolder::MACHINE, "convert")?;
    let manifest: Manifest = folder.need(RunFolder::MANIFEST, "convert")?;
    let disks = manifest.disks.iter().map(|disk| ProveDisk {
        path: folder.path(&disk.file),
        format: if disk.format == "raw" {
            DiskFormat::Raw
        } else {
            DiskFormat::Qcow2
        },
    });
    Ok(ProveRequest {
        disks: disks.collect(),
        out: folder.root().to_owned(),
        choice: choose(engine)?,
        timeout: Duration::from_secs(300),
        bench: None,
        bench_budget_seconds: None,
        inject_agent: false,
        bus: None,
        firmware: None,
        kernel: None,
        machine,
    })
}

/// Measures this machine.
///
/// # Errors
/// No metric is selected; the folder isn't usable; stopped.
pub(crate) fn bench_host(context: &Context, mut options: SuiteOptions) -> anyhow::Result<BenchRecord> {
    let facts = bench::host::facts();
    options.accelerator = super::class_of(facts.hypervisor.as_deref());
    let spinner = context.bars.spinner("measuring");
    let progress = |id: &str, number: usize, of: usize| spinner.set_message(format!("measuring {number}/{of} {id}"));
    let record = bench::run_suite(&options, &progress, &context.cancel);
    spinner.finish_and_clear();
    Ok(record?)
}

/// Measures inside the converted guest: boots it as the proof does.
///
/// # Errors
/// The guest doesn't boot, or its agent doesn't answer.
pub(crate) fn bench_guest(
    context: &Context,
    out: &Path,
    suite: Suite,
    budget: Option<u64>,
    engine: &EngineArgs,
) -> anyhow::Result<BenchRecord> {
    let folder = RunFolder::open(out)?;
    let wish = ProofWish {
        timeout: Duration::from_secs(300),
        bench: Some(suite),
        bench_budget: budget,
        inject_agent: true,
    };
    let outcome = prove(context, &folder, engine, &wish)?;
    match outcome.bench {
        Some(record) => Ok(record),
        None => bail!(
            "no measurement from inside the guest: {}",
            outcome.bench_missing.unwrap_or_else(|| outcome.record.reason.clone())
        ),
    }
}

/// Measures inside a running LXC container: the agent is copied in, run and removed again.
///
/// # Errors
/// The container doesn't run, or the agent fails in it.
pub(crate) fn bench_lxc(
    context: &Context,
    container: &str,
    suite: Suite,
    budget: Option<u64>,
) -> anyhow::Result<BenchRecord> {
    let agent = runner::appliance::agent_binary()?;
    let agent = std::fs::File::open(&agent).with_context(|| format!("cannot read {}", agent.display()))?;
    // The binary goes in through standard input: that works whatever the container's file system is.
    let script = "f=$(mktemp /tmp/esxodus-agent.XXXXXX) && cat > \"$f\" && chmod 700 \"$f\" && cd /tmp && \"$f\" bench \"$@\" < /dev/null; s=$?; rm -f \"$f\"; exit $s";
    let suite_name = if suite == Suite::Full { "full" } else { "quick" };
    let mut command = Command::new("lxc-attach");
    command.args([
        "-n", container, "--", "sh", "-c", script, "sh", "--suite", suite_name, "--label",
    ]);
    command.arg(format!("lxc {container}"));
    if let Some(budget) = budget {
        command.args(["--budget", &budget.to_string()]);
    }
    let spinner = context.bars.spinner(&format!("measuring in the container {container}"));
    let output = command.stdin(agent).stderr(std::process::Stdio::piped()).output();
    spinner.finish_and_clear();
    let output = output.context("cannot run lxc-attach: install the package lxc")?;
    if !output.status.success() {
        bail!(
            "measuring in the container {container} failed: {}. Is it running ('lxc-start -n {container}')?",
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    let mut record: BenchRecord =
        serde_json::from_slice(&output.stdout).context("the agent in the container wrote no record")?;
    record.place = Place::Lxc;
    Ok(record)
}

/// Budgets come as whole seconds.
pub(crate) fn seconds(budget: u64) -> f64 {
    Duration::from_secs(budget).as_secs_f64()
}

/// Connects this terminal with the guest's console until the guest ends or Ctrl-] is pressed. Returns how it ended.
///
/// # Errors
/// The engine can't be had or fails.
pub(crate) fn hands_on(
    context: &Context,
    folder: &RunFolder,
    engine: &EngineArgs,
    persist: bool,
) -> anyhow::Result<String> {
    use runner::console::Left;
    use runner::engine::Engine as _;
    let scratch = tempfile::Builder::new()
        .prefix(".run-")
        .tempdir_in(folder.root())
        .context("cannot make a folder for overlays")?;
    let request = request(folder, engine)?;
    context.say(&format!("guests run on: {}", request.choice.reason));
    context.say("console of the guest: Ctrl-] leaves");
    let (spec, notes) = request.hands_on_spec(scratch.path(), persist);
    for note in notes {
        context.say(&note);
    }
    let mut vm = runner::qemu::Qemu.start(&spec)?;
    let left = runner::console::attach(vm.as_mut(), &context.cancel)?;
    Ok(match left {
        Left::User => "left by Ctrl-]; the guest was switched off".to_owned(),
        Left::Guest(ended) => format!("the guest ended: {}", ended.detail),
        Left::Cancelled => "stopped".to_owned(),
    })
}
