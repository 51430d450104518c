//! The boot proof: of a converted guest in its run folder, and of a source before it is converted.

use super::copy::target_names;
use super::fixup;
use super::folder::{RunFolder, write_whole};
use super::hands_on;
use super::measure::{choose, choose_direct};
use super::source::{self, Opened};
use crate::cli::Context;
use crate::cli::options::{EngineArgs, SourceOptions};
use anyhow::{Context as _, bail};
use bench::harness::{NoiseBar, NoiseMeter, NoiseReading, Work};
use convert::copy::{CopyOptions, DiskJob, TargetFormat};
use convert::image::map::{DiskSource, RunSource};
use convert::image::qcow2::{DataFileRule, Qcow2Image};
use convert::machine::{Disk, Machine};
use reports::schema::{BenchRecord, Better, Manifest, Metric, Milestone, Place};
use runner::direct;
use runner::engine::{DiskFormat, EngineKind};
use runner::proof::{BenchWish, DiskCheck, InTurn, ProveDisk, ProveOutcome, ProveRequest};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// What a boot proof is asked to do.
#[derive(Debug, Clone)]
pub(crate) struct ProofWish {
    pub(crate) timeout: Duration,
    /// `None`: the runner's own.
    pub(crate) silence: Option<Duration>,
    pub(crate) search: bool,
    pub(crate) check: DiskCheck,
    /// Boots in all.
    pub(crate) boots: u32,
    pub(crate) bench: Option<BenchWish>,
    /// Another place, measured in turn with the guest.
    pub(crate) in_turn: Option<InTurn>,
    pub(crate) inject_agent: bool,
}

impl ProofWish {
    /// With the agent, without measuring.
    pub(crate) fn new(timeout: Duration) -> Self {
        Self {
            timeout,
            silence: None,
            search: false,
            check: DiskCheck::default(),
            boots: 1,
            bench: None,
            in_turn: None,
            inject_agent: true,
        }
    }

    fn applied(&self, request: ProveRequest) -> ProveRequest {
        ProveRequest {
            timeout: self.timeout,
            silence: self.silence.unwrap_or(request.silence),
            search: self.search,
            check: self.check,
            boots: self.boots,
            bench: self.bench.clone(),
            in_turn: self.in_turn.clone(),
            inject_agent: self.inject_agent,
            ..request
        }
    }
}

/// Boots the converted guest from throw-away overlays and keeps the evidence under `proof/`.
///
/// # Errors
/// The engine can't be had or fails; a guest that doesn't boot is a verdict, not an error.
pub(crate) fn converted(
    context: &Context,
    folder: &RunFolder,
    engine: &EngineArgs,
    wish: &ProofWish,
) -> anyhow::Result<ProveOutcome> {
    fixup::settle(context, folder)?;
    run(context, wish.applied(request(folder, engine)?), engine)
}

/// The request with the guest's own kernel, where the engine has no firmware to boot its loader with; and the folder that the
/// kernel lies in.
fn entered(
    context: &Context,
    request: ProveRequest,
    engine: &EngineArgs,
) -> anyhow::Result<(ProveRequest, Option<tempfile::TempDir>)> {
    if request.choice.engine == EngineKind::Qemu || request.kernel.is_some() {
        return Ok((request, None));
    }
    let folder = tempfile::Builder::new()
        .prefix(".kernel-")
        .tempdir_in(&request.out)
        .with_context(|| format!("cannot make a folder in {}", request.out.display()))?;
    let disks: Vec<_> = request
        .disks
        .iter()
        .map(|disk| (disk.path.clone(), disk.format))
        .collect();
    let mut found = hands_on::kernel_of(context, engine, &disks, folder.path())?;
    context.say(&format!("entering the guest's kernel directly: {}", found.chosen));
    found.kernel.cmdline = direct::with_console(&found.kernel.cmdline);
    let kernel = Some(found.kernel);
    Ok((ProveRequest { kernel, ..request }, Some(folder)))
}

/// Runs the proof and writes its records into the request's folder.
fn run(context: &Context, request: ProveRequest, engine: &EngineArgs) -> anyhow::Result<ProveOutcome> {
    let (request, _kernel) = entered(context, request, engine)?;
    let request = &request;
    context.say(&format!("guests run on: {}", request.choice.reason));
    let spinner = context.bars.spinner("booting the guest from a throw-away overlay");
    let meter = NoiseMeter::start(Work::Kernel);
    let outcome = runner::proof::prove(request, &context.bars, &context.cancel);
    let noise = meter.read();
    spinner.finish_and_clear();
    let mut outcome = outcome?;
    if let Some(record) = &mut outcome.bench {
        record.place = Place::Guest;
        record
            .metrics
            .extend(boot_metrics(&outcome.record.milestones, &outcome.repeats));
        seen_from_outside(record, &noise);
    }
    let write = |name: &str, value: Vec<u8>| write_whole(&request.out.join(name), &value);
    write(RunFolder::PROOF, serde_json::to_vec_pretty(&outcome.record)?)?;
    if let Some(inspection) = &outcome.inspection {
        write(RunFolder::INSPECTION, serde_json::to_vec_pretty(inspection)?)?;
    }
    Ok(outcome)
}

/// The converted guest of a run folder, to be run as it is.
///
/// # Errors
/// It is not converted, the engine can't be had.
pub(crate) fn request(folder: &RunFolder, engine: &EngineArgs) -> anyhow::Result<ProveRequest> {
    fixup::refuse_unfinished(folder)?;
    let machine: Machine = folder.need(RunFolder::MACHINE, "convert")?;
    let manifest: Manifest = folder.need(RunFolder::MANIFEST, "convert")?;
    let disks = fixup::disks(folder, &manifest)
        .into_iter()
        .map(|(path, format)| ProveDisk { path, format })
        .collect();
    Ok(ProveRequest {
        appliance: choose_direct(engine)?,
        ..ProveRequest::new(machine, disks, folder.root(), choose(engine)?)
    })
}

/// Boots a guest that is not converted: from overlays on its own disks where QEMU reads them, else from temporary copies. Evidence goes
/// to `out`, or to a folder named after the guest.
///
/// # Errors
/// The source can't be read, there is no room for copies, and as [`converted`].
pub(crate) fn unconverted(
    context: &Context,
    options: &SourceOptions,
    out: Option<&Path>,
    engine: &EngineArgs,
    wish: &ProofWish,
) -> anyhow::Result<(PathBuf, ProveOutcome)> {
    let (machine, opened) = if is_qcow2(&options.source) {
        (bare_machine(&options.source)?, None)
    } else {
        let opened = source::open(options)?;
        (opened.imported.machine.clone(), Some(opened))
    };
    let out = out.map_or_else(
        || PathBuf::from(format!("{}-proof", folder_name(&machine.name))),
        Path::to_owned,
    );
    let choice = choose(engine)?;
    evidence_folder(&out)?;
    let scratch = tempfile::Builder::new()
        .prefix(".source-")
        .tempdir_in(&out)
        .with_context(|| format!("cannot make a folder in {}", out.display()))?;
    let (disks, real) = match &opened {
        Some(opened) => bootable(context, opened, scratch.path())?,
        None => {
            let disk = ProveDisk {
                path: options.source.clone(),
                format: DiskFormat::Qcow2,
            };
            (vec![disk], vec![options.source.clone()])
        }
    };
    let request = ProveRequest {
        real,
        appliance: choose_direct(engine)?,
        ..ProveRequest::new(machine, disks, &out, choice)
    };
    let outcome = run(context, wish.applied(request), engine)?;
    Ok((out, outcome))
}

fn is_qcow2(path: &Path) -> bool {
    use std::io::Read as _;
    let mut magic = [0; 4];
    // The header's first field, in every version (QEMU docs/interop/qcow2.rst).
    std::fs::File::open(path).is_ok_and(|mut file| file.read_exact(&mut magic).is_ok()) && &magic == b"QFI\xfb"
}

/// A machine around a qcow2 image that nothing describes; the image names no other file.
fn bare_machine(path: &Path) -> anyhow::Result<Machine> {
    Qcow2Image::open(path, DataFileRule::Refuse)
        .map_err(|error| anyhow::anyhow!("{error}"))
        .context("a qcow2 image is proven only where it stands alone")?;
    let text = b"memSize = \"1024\"\nnumvcpus = \"1\"\nguestOS = \"other-64\"\n";
    let file = convert::vmx::parse(text).context("the machine around a bare image")?;
    Ok(convert::machine::from_vmx::build(&file, path)?.0)
}

/// A plain name for a folder.
fn folder_name(guest: &str) -> String {
    let plain = |c: char| {
        if c.is_alphanumeric() || "-_.".contains(c) {
            c
        } else {
            '_'
        }
    };
    let name: String = guest.chars().map(plain).take(100).collect();
    let name = name.trim_matches('.');
    if name.is_empty() {
        "guest".to_owned()
    } else {
        name.to_owned()
    }
}

/// Makes the folder, or takes one that is empty or holds a proof.
fn evidence_folder(out: &Path) -> anyhow::Result<()> {
    std::fs::create_dir_all(out).with_context(|| format!("cannot make {}", out.display()))?;
    let empty = std::fs::read_dir(out)?.next().is_none();
    if !empty && !out.join(RunFolder::PROOF).is_file() && !out.join("proof").is_dir() {
        bail!("{} holds other files: choose another folder with -o", out.display());
    }
    Ok(())
}

/// Disks that QEMU can boot, and the source's files behind them.
pub(crate) fn bootable(
    context: &Context,
    opened: &Opened,
    scratch: &Path,
) -> anyhow::Result<(Vec<ProveDisk>, Vec<PathBuf>)> {
    let sources = opened.all_disks()?;
    let machine = &opened.imported.machine;
    let mut real: Vec<PathBuf> = Vec::new();
    for source in &sources {
        for file in source.files() {
            if !real.contains(&file.path) {
                real.push(file.path.clone());
            }
        }
    }
    let direct: Vec<Option<ProveDisk>> = sources
        .iter()
        .map(|source| as_it_is(*source))
        .collect::<Result<_, _>>()?;
    let files: Vec<String> = machine.disks.iter().map(|disk| disk.file.clone()).collect();
    let names: Vec<String> = machine.disks.iter().map(Disk::name).collect();
    let targets: Vec<PathBuf> = target_names(&files, TargetFormat::Qcow2)
        .iter()
        .map(|name| scratch.join(name))
        .collect();
    // Gone after the proof: neither hash nor sync is worth its time.
    let options = CopyOptions {
        hash: false,
        sync: false,
        keep_journal: false,
        ..CopyOptions::default()
    };
    let jobs: Vec<DiskJob<'_>> = (0..sources.len())
        .filter(|&index| direct[index].is_none())
        .map(|index| DiskJob {
            source: sources[index],
            target: &targets[index],
            name: &names[index],
            options: &options,
        })
        .collect();
    for job in &jobs {
        context.say(&format!(
            "{} ({}): QEMU can't boot it as it is; a temporary copy is made",
            job.name,
            job.source.kind()
        ));
    }
    convert::copy::convert_disks(&jobs, &context.bars, &context.cancel)?;
    let disks = direct.into_iter().zip(targets).map(|(direct, target)| {
        direct.unwrap_or(ProveDisk {
            path: target,
            format: DiskFormat::Qcow2,
        })
    });
    Ok((disks.collect(), real))
}

/// The disk as QEMU takes it without a copy: one file that stands alone. Everything else names further files, and what an image names
/// is opened by us only, through the gate.
fn as_it_is(source: &dyn DiskSource) -> anyhow::Result<Option<ProveDisk>> {
    let [file] = source.files() else { return Ok(None) };
    if source.facts().links.len() > 1 {
        return Ok(None);
    }
    let disk = |format| {
        Ok(Some(ProveDisk {
            path: file.path.clone(),
            format,
        }))
    };
    if ["monolithicSparse (hosted sparse)", "streamOptimized"].contains(&source.kind().as_str()) {
        return disk(DiskFormat::Vmdk);
    }
    // A flat extent is a raw disk.
    let bytes = source.virtual_bytes();
    if file.bytes != bytes {
        return Ok(None);
    }
    let runs = source.map(0, bytes).map_err(|error| anyhow::anyhow!("{error}"))?;
    let flat = runs.len() == 1
        && runs
            .first()
            .is_some_and(|run| matches!(run.source, RunSource::Raw { offset: 0, .. }) && run.length == bytes);
    if flat { disk(DiskFormat::Raw) } else { Ok(None) }
}

/// Boot time by stages, from the proof's milestones. A boot is a sample: a single one decides nothing in a comparison.
fn boot_metrics(milestones: &[Milestone], repeats: &[Vec<Milestone>]) -> Vec<Metric> {
    let stages = milestones.iter().filter(|milestone| milestone.name != "powered-off");
    let milliseconds = |milestone: &Milestone| Duration::from_millis(milestone.at_ms).as_secs_f64() * 1e3;
    let metric = |milestone: &Milestone| {
        let again = repeats
            .iter()
            .filter_map(|boot| boot.iter().find(|other| other.name == milestone.name));
        let samples: Vec<f64> = std::iter::once(milestone).chain(again).map(milliseconds).collect();
        Metric {
            id: format!("boot.{}", milestone.name),
            name: format!("Boot until {}", milestone.name),
            unit: "ms".to_owned(),
            better: Better::Lower,
            summary: bench::stats::summarise(&samples),
            samples,
            percentiles: Vec::new(),
            percentile_unit: None,
            method: "from the guest's start until the runner saw it (looks every 50 ms); a boot is a sample".to_owned(),
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

#[cfg(test)]
mod tests {
    use super::{boot_metrics, folder_name, seen_from_outside};
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
    fn each_boot_is_a_sample_in_milliseconds_where_lower_is_better() {
        let found = boot_metrics(
            &[
                milestone("firmware", 120),
                milestone("kernel", 2500),
                milestone("powered-off", 9000),
            ],
            &[
                vec![milestone("kernel", 2600)],
                vec![milestone("firmware", 110), milestone("kernel", 2400)],
            ],
        );
        let ids: Vec<&str> = found.iter().map(|metric| metric.id.as_str()).collect();
        assert_eq!(ids, ["boot.firmware", "boot.kernel"]);
        assert_eq!(
            (found[1].samples.as_slice(), found[1].unit.as_str()),
            (&[2500.0, 2600.0, 2400.0][..], "ms")
        );
        assert_eq!((found[1].better, found[1].summary.median), (Better::Lower, 2500.0));
        // A boot that never reached the milestone adds no sample.
        assert_eq!(found[0].samples, [120.0, 110.0]);
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

    #[test]
    fn a_guests_name_becomes_a_plain_folder_name() {
        assert_eq!(folder_name("web 01/../x"), "web_01_.._x");
        assert_eq!(folder_name(".."), "guest");
    }
}
