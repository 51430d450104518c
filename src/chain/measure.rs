//! Steps that run something: the boot proof and the measurements.

use super::folder::RunFolder;
use crate::cli::Context;
use crate::cli::options::{AccelName, EngineArgs, EngineName};
use anyhow::{Context as _, bail};
use bench::SuiteOptions;
use bench::harness::{NoiseBar, NoiseMeter, NoiseReading, Work, take_turns};
use convert::machine::Machine;
use reports::schema::{BenchRecord, Better, Comparison, Manifest, Metric, Milestone, Place, Suite};
use runner::engine::{AccelWish, Choice, DiskFormat, EngineWish};
use runner::proof::{ProveDisk, ProveOutcome, ProveRequest};
use std::io::{Read as _, Seek as _};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

/// Longest that the KVM probe may take.
const PROBE_DEADLINE: Duration = Duration::from_secs(5);

/// What the options wish.
fn wishes(args: &EngineArgs) -> (EngineWish, AccelWish) {
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
    (engine, accel)
}

/// Probes and chooses what runs guests that boot through firmware.
///
/// # Errors
/// The wish can't be met on this host.
pub(crate) fn choose(args: &EngineArgs) -> anyhow::Result<Choice> {
    let (engine, accel) = wishes(args);
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
    let (engine, accel) = wishes(args);
    Ok(runner::engine::choose_direct(
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
    let meter = NoiseMeter::start(Work::Kernel);
    let outcome = runner::proof::prove(&request, &context.bars, &context.cancel);
    let noise = meter.read();
    spinner.finish_and_clear();
    let mut outcome = outcome?;
    if let Some(record) = &mut outcome.bench {
        record.place = Place::Guest;
        record.metrics.extend(boot_metrics(&outcome.record.milestones));
        seen_from_outside(record, &noise);
    }
    folder.write(RunFolder::PROOF, &outcome.record)?;
    if let Some(inspection) = &outcome.inspection {
        folder.write("proof/inspection.json", inspection)?;
    }
    Ok(outcome)
}

/// Boot time by stages, from the proof's milestones: one boot, one sample, so that a comparison decides nothing from it alone.
fn boot_metrics(milestones: &[Milestone]) -> Vec<Metric> {
    let stages = milestones.iter().filter(|milestone| milestone.name != "powered-off");
    let metric = |milestone: &Milestone| {
        let samples = vec![Duration::from_millis(milestone.at_ms).as_secs_f64() * 1e3];
        Metric {
            id: format!("boot.{}", milestone.name),
            name: format!("Boot until {}", milestone.name),
            unit: "ms".to_owned(),
            better: Better::Lower,
            summary: bench::stats::summarise(&samples),
            samples,
            percentiles: Vec::new(),
            percentile_unit: None,
            method:
                "from the guest's start until the runner saw it (looks every 50 ms); a single boot, a single sample"
                    .to_owned(),
            stopped: "count".to_owned(),
            unfit: None,
        }
    };
    stages.map(metric).collect()
}

/// A guest cannot see what else runs on its host, and TCG has no steal: say it for it.
fn seen_from_outside(record: &mut BenchRecord, noise: &NoiseReading) {
    let cpus = f64::from(noise.cpus.max(1));
    let percent = |seconds: f64| seconds / noise.wall_seconds.max(1e-3) / cpus * 100.0;
    let (foreign, steal) = (percent(noise.foreign_seconds), percent(noise.steal_seconds));
    let mut line = format!(
        "seen from the host: other processes used {foreign:.0} % of its CPU time while the guest ran, {steal:.0} % was stolen"
    );
    if let Some(why) = noise.judge(&NoiseBar::default()) {
        record.noise.noisy = true;
        line.push_str(&format!("; noisy: {why}"));
    }
    record.self_checks.push(line);
}

/// The converted guest of a run folder, to be run as it is.
///
/// # Errors
/// The folder has no converted guest, or the engine can't be had.
pub(crate) fn request(folder: &RunFolder, engine: &EngineArgs) -> anyhow::Result<ProveRequest> {
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
}

impl AgentWish<'_> {
    fn arguments(&self, label: &str) -> Vec<String> {
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
        arguments
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
    const LEAST_ROUND: u64 = 2;
    let turns = u64::try_from(rounds)?.saturating_mul(2);
    let wish = AgentWish {
        budget: Some((wish.budget.unwrap_or(240) / turns.max(1)).max(LEAST_ROUND)),
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
            on_host(context, &wish)
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
    command.args(wish.arguments(&format!("lxc {container}"))).stdin(agent);
    let advice = format!("Is it running ('lxc-start -n {container}')? Is lxc installed?");
    let mut record = run_agent(context, command, &format!("in the container {container}"), &advice)?;
    record.place = Place::Lxc;
    Ok(record)
}

fn on_host(context: &Context, wish: &AgentWish<'_>) -> anyhow::Result<BenchRecord> {
    let folder = Path::new("/var/tmp");
    let mut command = Command::new(runner::appliance::agent_binary()?);
    command
        .arg("bench")
        .args(wish.arguments("host"))
        .arg("--folder")
        .arg(folder);
    command.stdin(std::process::Stdio::null());
    let mut record = run_agent(context, command, "on this host", "Is /var/tmp writable?")?;
    record.place = Place::Host;
    Ok(record)
}

/// Runs a command that ends with the agent's record on standard output; stops it when the user stops.
fn run_agent(context: &Context, mut command: Command, place: &str, advice: &str) -> anyhow::Result<BenchRecord> {
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
        if context.cancelled() {
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

#[cfg(test)]
mod tests {
    use super::{boot_metrics, seen_from_outside};
    use bench::harness::NoiseReading;
    use reports::schema::{Better, Milestone};

    fn milestone(name: &str, at_ms: u64) -> Milestone {
        Milestone {
            name: name.to_owned(),
            at_ms,
            seen: String::new(),
            screenshot: None,
        }
    }

    #[test]
    fn milestones_become_single_samples_in_milliseconds_where_lower_is_better() {
        let found = boot_metrics(&[
            milestone("firmware", 120),
            milestone("kernel", 2500),
            milestone("powered-off", 9000),
        ]);
        let ids: Vec<&str> = found.iter().map(|metric| metric.id.as_str()).collect();
        assert_eq!(ids, ["boot.firmware", "boot.kernel"]);
        assert_eq!(
            (found[1].samples.as_slice(), found[1].unit.as_str()),
            (&[2500.0][..], "ms")
        );
        assert_eq!((found[1].better, found[1].summary.n), (Better::Lower, 1));
        assert!(found[1].method.contains("a single sample"));
    }

    #[test]
    fn load_on_the_host_marks_the_guests_record_which_cannot_see_it() {
        let options = bench::SuiteOptions {
            only: Some(vec!["kernel.getppid".to_owned()]),
            budget_seconds: Some(0.2),
            ..bench::SuiteOptions::new(reports::schema::Suite::Quick, std::env::temp_dir())
        };
        let go = std::sync::atomic::AtomicBool::new(false);
        let mut record = bench::run_suite(&options, &|_, _, _| (), &go).unwrap();
        record.noise.noisy = false;
        let busy = NoiseReading {
            steal_seconds: 0.0,
            foreign_seconds: 5.0,
            wall_seconds: 10.0,
            cpus: 2,
        };
        seen_from_outside(&mut record, &busy);
        assert!(record.noise.noisy);
        assert!(record.self_checks.last().is_some_and(|line| line.contains("used 25 %")));
    }
}
