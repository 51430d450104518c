//! Steps that run something: the measurements, and the hands-on console.

use super::folder::RunFolder;
use super::prove::{self, ProofWish};
use crate::cli::Context;
use crate::cli::options::{AccelName, EngineArgs, EngineName};
use anyhow::{Context as _, bail};
use bench::SuiteOptions;
use bench::harness::take_turns;
use reports::schema::{AcceleratorClass, BenchRecord, BenchSizes, Comparison, Place, Suite};
use runner::RunnerError;
use runner::engine::{AccelWish, Choice, EngineWish};
use runner::proof::{BenchWish, InTurn, MeasureGuest};
use std::io::{Read as _, Seek as _};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Longest that the KVM probe may take.
const PROBE_DEADLINE: Duration = Duration::from_secs(5);

/// What the options wish.
fn wishes(args: &EngineArgs) -> anyhow::Result<(EngineWish, AccelWish)> {
    let engine = match args.engine {
        EngineName::Auto => EngineWish::Auto,
        EngineName::Kvm => EngineWish::Kvm,
        EngineName::Qemu => EngineWish::Qemu,
        EngineName::VirtV2v => bail!("virt-v2v runs no guests: --engine virt-v2v is for 'fixup' and 'migrate'"),
    };
    let accel = match args.accel {
        AccelName::Auto => AccelWish::Auto,
        AccelName::Kvm => AccelWish::Kvm,
        AccelName::Tcg => AccelWish::Tcg,
    };
    Ok((engine, accel))
}

/// Probes and chooses what runs guests that boot through firmware.
///
/// # Errors
/// The wish can't be met on this host.
pub(crate) fn choose(args: &EngineArgs) -> anyhow::Result<Choice> {
    let (engine, accel) = wishes(args)?;
    Ok(runner::engine::choose(
        engine,
        accel,
        &runner::probe::probe(PROBE_DEADLINE),
    )?)
}

/// As [`choose`], for guests whose kernel is entered directly.
///
/// # Errors
/// The wish can't be met on this host.
pub(crate) fn choose_direct(args: &EngineArgs) -> anyhow::Result<Choice> {
    let (engine, accel) = wishes(args)?;
    Ok(runner::engine::choose_direct(
        engine,
        accel,
        &runner::probe::probe(PROBE_DEADLINE),
    )?)
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
    wish: BenchWish,
    boots: u32,
    engine: &EngineArgs,
) -> anyhow::Result<BenchRecord> {
    let folder = RunFolder::open(out)?;
    let wish = ProofWish {
        bench: Some(wish),
        boots,
        ..ProofWish::new(Duration::from_secs(300))
    };
    let outcome = prove::converted(context, &folder, engine, &wish)?;
    match outcome.bench {
        Some(record) => Ok(record),
        None => bail!(
            "no measurement from inside the guest: {}",
            outcome.bench_missing.unwrap_or_else(|| outcome.record.reason.clone())
        ),
    }
}

/// Measures this host and a converted guest in turn, in one boot of the guest, and compares pair by pair.
///
/// # Errors
/// The guest can't be booted or measured; the two are not comparable and `force` is not given: a guest under emulation says nothing
/// about its host.
pub(crate) fn bench_guest_in_turn(
    context: &Context,
    out: &Path,
    wish: BenchWish,
    engine: &EngineArgs,
    rounds: usize,
    force: bool,
) -> anyhow::Result<Comparison> {
    let folder = RunFolder::open(out)?;
    let choice = choose(engine)?;
    anyhow::ensure!(
        force || choice.class != AcceleratorClass::Tcg,
        "the guest would run under emulation ({}), which says nothing about this host beside it; --force measures both all the same",
        choice.reason
    );
    let budget = turn_budget(wish.budget_seconds, rounds)?;
    let (suite, only, like) = (wish.suite, wish.only.clone(), wish.like);
    // The disk that the guest's overlays are on.
    let on = folder.root().to_owned();
    let cancel = std::sync::Arc::clone(&context.cancel);
    let in_turn = move |guest: MeasureGuest<'_>| {
        let wish = AgentWish {
            suite,
            budget: Some(budget),
            only: &only,
            lxc_path: None,
            peer: None,
            folder: Some(&on),
            like,
        };
        let taken =
            take_turns::<_, anyhow::Error>(rounds, &mut || on_host(&cancel, &wish), &mut || Ok(guest()?), &cancel);
        match taken {
            Ok((host, inside)) => Ok(host.into_iter().zip(inside).collect()),
            Err(_) if cancel.load(Ordering::Relaxed) => Err(RunnerError::Cancelled),
            Err(error) => Err(error
                .downcast()
                .unwrap_or_else(|error| RunnerError::Agent(format!("{error:#}")))),
        }
    };
    let wish = ProofWish {
        bench: Some(BenchWish {
            budget_seconds: Some(budget),
            ..wish
        }),
        in_turn: Some(InTurn(std::sync::Arc::new(in_turn))),
        ..ProofWish::new(Duration::from_secs(300))
    };
    let outcome = prove::converted(context, &folder, engine, &wish)?;
    if outcome.turns.is_empty() {
        bail!(
            "no measurement from inside the guest: {}",
            outcome.bench_missing.unwrap_or_else(|| outcome.record.reason.clone())
        );
    }
    let (host, inside): (Vec<_>, Vec<_>) = outcome.turns.into_iter().unzip();
    let options = bench::CompareOptions {
        force,
        ..bench::CompareOptions::default()
    };
    bench::compare_paired(&host, &inside, &options)
        .context("host and guest are not comparable: give the guest the host's CPUs, or --force")
}

/// Seconds of one turn, of a budget for all of them.
fn turn_budget(budget: Option<u64>, rounds: usize) -> anyhow::Result<u64> {
    const LEAST_ROUND: u64 = 2;
    let turns = u64::try_from(rounds)?.saturating_mul(2);
    Ok((budget.unwrap_or(240) / turns.max(1)).max(LEAST_ROUND))
}

/// What the agent is asked to measure somewhere.
#[derive(Debug, Clone, Copy)]
pub(crate) struct AgentWish<'a> {
    pub(crate) suite: Suite,
    /// Wall seconds; `None`: the suite's own.
    pub(crate) budget: Option<u64>,
    /// As [`SuiteOptions::only`]; empty: everything.
    pub(crate) only: &'a [String],
    /// Folder of LXC's containers, where it is not LXC's own.
    pub(crate) lxc_path: Option<&'a Path>,
    /// `HOST:PORT` of an agent that serves, for the network.
    pub(crate) peer: Option<&'a str>,
    /// Folder there; `None`: a writable one on the disk.
    pub(crate) folder: Option<&'a Path>,
    /// Sizes to take over.
    pub(crate) like: BenchSizes,
}

impl AgentWish<'_> {
    fn arguments(&self, label: &str) -> anyhow::Result<Vec<String>> {
        let suite = if self.suite == Suite::Full { "full" } else { "quick" };
        let mut arguments: Vec<String> = ["--suite", suite, "--label", label].map(str::to_owned).to_vec();
        if let Some(budget) = self.budget {
            arguments.extend(["--budget".to_owned(), budget.to_string()]);
        }
        for only in self.only {
            arguments.extend(["--only".to_owned(), only.clone()]);
        }
        if let Some(peer) = self.peer {
            arguments.extend(["--peer".to_owned(), peer.to_owned()]);
        }
        if !self.like.is_empty() {
            arguments.extend(["--like".to_owned(), serde_json::to_string(&self.like)?]);
        }
        if let Some(folder) = self.folder {
            arguments.extend(["--folder".to_owned(), folder.display().to_string()]);
        }
        Ok(arguments)
    }
}

/// Measures inside a running LXC container: the agent is copied in, run and removed again.
///
/// # Errors
/// The container doesn't run, or the agent fails in it.
pub(crate) fn bench_lxc(context: &Context, container: &str, wish: &AgentWish<'_>) -> anyhow::Result<BenchRecord> {
    let spinner = context.bars.spinner(&format!("measuring in the container {container}"));
    let record = in_container(context, container, wish);
    spinner.finish_and_clear();
    record
}

/// Measures this host and a container in turn with the same agent, and compares pair by pair.
///
/// # Errors
/// A round fails on either side.
pub(crate) fn bench_in_turn(
    context: &Context,
    container: &str,
    wish: &AgentWish<'_>,
    rounds: usize,
) -> anyhow::Result<Comparison> {
    let turns = u64::try_from(rounds)?.saturating_mul(2);
    let wish = AgentWish {
        budget: Some(turn_budget(wish.budget, rounds)?),
        ..*wish
    };
    let spinner = context.bars.spinner("measuring in turn");
    let mut turn = 0;
    let mut tell = |place: &str| {
        turn += 1;
        spinner.set_message(format!("measuring {place}: turn {turn} of {turns}"));
    };
    let tell = std::cell::RefCell::new(&mut tell);
    let result = take_turns(
        rounds,
        &mut || {
            (tell.borrow_mut())("this host");
            on_host(&context.cancel, &wish)
        },
        &mut || {
            (tell.borrow_mut())(container);
            in_container(context, container, &wish)
        },
        &context.cancel,
    );
    spinner.finish_and_clear();
    let (host, inside) = result?;
    bench::compare_paired(&host, &inside, &bench::CompareOptions::default())
        .context("host and container are not comparable: give the container the host's CPUs")
}

fn in_container(context: &Context, container: &str, wish: &AgentWish<'_>) -> anyhow::Result<BenchRecord> {
    let agent = runner::appliance::agent_binary()?;
    let agent = std::fs::File::open(&agent).with_context(|| format!("cannot read {}", agent.display()))?;
    // The binary goes in through standard input: that works whatever the container's file system is. /var/tmp is on the
    // disk where /tmp is often memory, which has no direct I/O.
    let script = "for d in /var/tmp /tmp; do [ -d $d ] && [ -w $d ] && break; done; cd $d || exit 9; \
        f=$d/.esxodus-agent.$$; trap 'rm -f \"$f\"' EXIT; trap 'exit 130' INT TERM HUP; \
        cat > \"$f\" && chmod 700 \"$f\" && \"$f\" bench \"$@\" < /dev/null";
    let mut command = Command::new("lxc-attach");
    if let Some(path) = wish.lxc_path {
        command.arg("-P").arg(path);
    }
    command.args(["-n", container, "--clear-env", "--", "sh", "-c", script, "sh"]);
    command.args(wish.arguments(&format!("lxc {container}"))?).stdin(agent);
    let advice = format!("Is it running ('lxc-start -n {container}')? Is lxc installed?");
    let mut record = run_agent(
        &context.cancel,
        command,
        &format!("in the container {container}"),
        &advice,
    )?;
    record.place = Place::Lxc;
    Ok(record)
}

fn on_host(cancel: &AtomicBool, wish: &AgentWish<'_>) -> anyhow::Result<BenchRecord> {
    let wish = AgentWish {
        folder: wish.folder.or(Some(Path::new("/var/tmp"))),
        ..*wish
    };
    let mut command = Command::new(runner::appliance::agent_binary()?);
    command.arg("bench").args(wish.arguments("host")?);
    command.stdin(std::process::Stdio::null());
    let mut record = run_agent(cancel, command, "on this host", "Is /var/tmp writable?")?;
    record.place = Place::Host;
    Ok(record)
}

/// Runs a command that ends with the agent's record on standard output; stops it when the user stops.
fn run_agent(cancel: &AtomicBool, mut command: Command, place: &str, advice: &str) -> anyhow::Result<BenchRecord> {
    let (mut out, mut err) = (tempfile::tempfile()?, tempfile::tempfile()?);
    command.stdout(out.try_clone()?).stderr(err.try_clone()?);
    let program = command.get_program().to_string_lossy().into_owned();
    let mut child = command
        .spawn()
        .with_context(|| format!("cannot run {program}. {advice}"))?;
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        if cancel.load(Ordering::Relaxed) {
            stop(&mut child);
            bail!("stopped");
        }
        std::thread::sleep(Duration::from_millis(50));
    };
    let text = |file: &mut std::fs::File| -> anyhow::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        file.rewind()?;
        file.read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    if !status.success() {
        let words = text(&mut err)?;
        let words = String::from_utf8_lossy(&words);
        bail!("measuring {place} failed ({status}): {}. {advice}", words.trim());
    }
    let mut record = bench::import(&text(&mut out)?).with_context(|| format!("the agent {place} wrote no record"))?;
    record.accelerator = super::class_of(record.host.hypervisor.as_deref());
    Ok(record)
}

/// Asks to end, then insists.
fn stop(child: &mut std::process::Child) {
    if let Ok(id) = i32::try_from(child.id())
        && let Some(id) = rustix::process::Pid::from_raw(id)
    {
        let _ = rustix::process::kill_process(id, rustix::process::Signal::TERM);
    }
    for _ in 0..40 {
        if matches!(child.try_wait(), Ok(Some(_))) {
            return;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    let _ = child.kill();
    let _ = child.wait();
}

/// Budgets come as whole seconds.
pub(crate) fn seconds(budget: u64) -> f64 {
    Duration::from_secs(budget).as_secs_f64()
}
