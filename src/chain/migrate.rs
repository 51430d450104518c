//! The whole chain, step by step, each step shown, repeatable.
//!
//! A step is left as it is ("reused") where an earlier run of the same source and options finished it and its files are
//! still there. The fingerprint of the source (files, lengths, times) and the options decides, not the clock.

use super::drivers::{self, Drivers};
use super::folder::RunFolder;
use super::measure;
use super::prove::{self, ProofWish};
use super::source::{self, Opened};
use super::{copy, fixup, gather, inside, targets};
use crate::cli::Context;
use crate::cli::options::{CopyArgs, EngineArgs, SourceOptions};
use anyhow::bail;
use bench::SuiteOptions;
use convert::machine::OsFamily;
use convert::preflight;
use reports::schema::{
    Finding, GuestReport, Manifest, Place, ProofRecord, ProofVerdict, Severity, StepRecord, StepStatus, Suite,
};
use runner::fixup::{FixupOutcome, NO_ROOT};
use runner::proof::BenchWish;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// What a migration is asked to do.
#[derive(Debug, Clone)]
pub(crate) struct Wish {
    pub(crate) source: SourceOptions,
    pub(crate) output: PathBuf,
    pub(crate) copy: CopyArgs,
    pub(crate) targets: Vec<String>,
    pub(crate) map: Option<PathBuf>,
    pub(crate) resume: bool,
    pub(crate) engine: EngineArgs,
    pub(crate) timeout: Duration,
    pub(crate) bench: bool,
    pub(crate) bench_budget: Option<u64>,
    pub(crate) fixup: bool,
    pub(crate) virt_v2v: bool,
    pub(crate) no_guest_tools: bool,
    pub(crate) prove: bool,
}

/// What earlier runs finished: step to the fingerprint under which it did. `state.json`.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
struct State {
    finished: BTreeMap<String, Finished>,
    /// The converted disks as the fix-up left them. While they are so, what was found before the fix-up stays valid.
    #[serde(default)]
    fixed: Option<DisksFixed>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct DisksFixed {
    /// Print of the disks as converted.
    before: String,
    /// Print of the disks as fixed up.
    after: String,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Finished {
    fingerprint: String,
    record: StepRecord,
}

const STATE: &str = "state.json";

/// One step's answer: good or bad, with its verdict in words.
type Answer = (bool, String);

struct Run<'a> {
    context: &'a Context,
    folder: RunFolder,
    state: State,
    steps: Vec<StepRecord>,
}

impl Run<'_> {
    /// Does a step, or keeps what an earlier run made of it.
    fn step(
        &mut self,
        name: &str,
        fingerprint: &str,
        files: &[&str],
        work: impl FnOnce(&RunFolder) -> anyhow::Result<Answer>,
    ) -> anyhow::Result<bool> {
        if let Some(good) = self.reused(name, fingerprint, files)? {
            return Ok(good);
        }
        self.context.say(&format!("{name} …"));
        let begun = Instant::now();
        match work(&self.folder) {
            Ok((good, detail)) => {
                let status = if good { StepStatus::Good } else { StepStatus::Bad };
                self.note(name, status, begun.elapsed().as_secs_f64(), detail)?;
                self.keep(name, fingerprint)?;
                Ok(good)
            }
            Err(error) => {
                self.note(
                    name,
                    StepStatus::Failed,
                    begun.elapsed().as_secs_f64(),
                    format!("{error:#}"),
                )?;
                Err(error)
            }
        }
    }

    /// Notes what an earlier run made of the step, where that still holds, and says whether it was good.
    fn reused(&mut self, name: &str, fingerprint: &str, files: &[&str]) -> anyhow::Result<Option<bool>> {
        let Some(earlier) = self.state.finished.get(name) else {
            return Ok(None);
        };
        if earlier.fingerprint != fingerprint || !files.iter().all(|file| self.folder.has(file)) {
            return Ok(None);
        }
        let StepRecord {
            status,
            seconds,
            ref detail,
            ..
        } = earlier.record;
        let detail = format!("reused: {detail}");
        self.note(name, StepStatus::Reused, seconds, detail)?;
        Ok(Some(status == StepStatus::Good))
    }

    /// Remembers the last step under `fingerprint`, where it came out well.
    fn keep(&mut self, name: &str, fingerprint: &str) -> anyhow::Result<()> {
        let Some(record) = self.steps.last().filter(|step| step.status == StepStatus::Good) else {
            return Ok(());
        };
        let finished = Finished {
            fingerprint: fingerprint.to_owned(),
            record: record.clone(),
        };
        self.state.finished.insert(name.to_owned(), finished);
        self.folder.write(STATE, &self.state).map(|_| ())
    }

    /// The converted disks as they are now; a fix-up of ours counts as no change.
    fn disks_print(&self, manifest: &Manifest) -> String {
        let now = disks_print(&self.folder, manifest);
        match &self.state.fixed {
            Some(fixed) if fixed.after == now => fixed.before.clone(),
            _ => now,
        }
    }

    fn note(&mut self, name: &str, status: StepStatus, seconds: f64, detail: String) -> anyhow::Result<()> {
        self.context.say(&format!(
            "{name:<12} {:<8} {seconds:>7.1} s  {detail}",
            status_word(status)
        ));
        self.steps.push(StepRecord {
            name: name.to_owned(),
            status,
            seconds,
            detail,
        });
        self.folder.write(RunFolder::STEPS, &self.steps).map(|_| ())
    }

    fn skip(&mut self, name: &str, why: &str) -> anyhow::Result<()> {
        self.note(name, StepStatus::Skipped, 0.0, why.to_owned())
    }
}

/// For tables.
pub(crate) fn status_word(status: StepStatus) -> &'static str {
    match status {
        StepStatus::Good => "good",
        StepStatus::Reused => "reused",
        StepStatus::Bad => "BAD",
        StepStatus::Failed => "FAILED",
        StepStatus::Skipped => "skipped",
    }
}

/// Takes the guest through the chain. Returns the report and whether every answer was yes.
///
/// # Errors
/// A step could not be done; the report of what was done until then stands in the folder.
pub(crate) fn migrate(context: &Context, wish: &Wish) -> anyhow::Result<(GuestReport, Vec<PathBuf>, bool)> {
    let options = copy::options(&wish.copy, wish.resume)?;
    let opened = source::open(&wish.source)?;
    opened.all_disks()?;
    let folder = RunFolder::create(&wish.output, wish.resume)?;
    folder.keep_to(&opened.imported.machine)?;
    let state = if wish.resume {
        folder.read::<State>(STATE)?.unwrap_or_default()
    } else {
        State::default()
    };
    let source_print = fingerprint(&opened);
    let copy_print = format!("{source_print};{:?}", wish.copy);
    let mut run = Run {
        context,
        folder,
        state,
        steps: Vec::new(),
    };

    let done = chain(&mut run, wish, &opened, &options, &source_print, &copy_print);
    if let Err(error) = &done
        && context.cancelled()
    {
        bail!("{error:#}");
    }
    // The report is written whatever happened: it is how a person learns what did.
    let begun = Instant::now();
    let mut report = gather::gather(&run.folder)?;
    report.steps.clone_from(&run.steps);
    let written = gather::write_report(&run.folder, &report)?;
    run.note(
        "report",
        StepStatus::Good,
        begun.elapsed().as_secs_f64(),
        format!("{}", written[0].display()),
    )?;
    report.steps.clone_from(&run.steps);
    let written = gather::write_report(&run.folder, &report)?;
    done.map(|good| (report, written, good))
}

fn chain(
    run: &mut Run<'_>,
    wish: &Wish,
    opened: &Opened,
    options: &convert::copy::CopyOptions,
    source_print: &str,
    copy_print: &str,
) -> anyhow::Result<bool> {
    let context = run.context;
    let go = run.step(
        "inspect",
        &format!("{source_print};{:?}", wish.source.suppress),
        &[RunFolder::MACHINE, RunFolder::FACTS],
        |folder| inspect(context, folder, opened),
    )?;
    if !go {
        return Ok(false);
    }
    run.step("convert", copy_print, &[RunFolder::MANIFEST], |folder| {
        let manifest = copy::copy(context, opened, folder, options)?;
        Ok((true, conversion_words(&manifest)))
    })?;
    fixup::settle(context, &run.folder)?;
    let manifest: Manifest = run.folder.need(RunFolder::MANIFEST, "convert")?;
    let disks_print = format!("{copy_print};{}", run.disks_print(&manifest));
    let good = run.step("verify", &disks_print, &[], |folder| {
        verify(context, folder, &manifest, opened)
    })?;
    if !good {
        return Ok(false);
    }
    fix_up(run, wish, opened, &manifest, &disks_print)?;
    let map = wish.map.as_ref().map(std::fs::read_to_string).transpose()?;
    run.step(
        "targets",
        &format!(
            "{disks_print};{:?};{map:?};{:?}",
            wish.targets,
            drivers::known(&run.folder, &manifest)?
        ),
        &[],
        |folder| {
            let machine = &opened.imported.machine;
            let mut written = targets::write(machine, &manifest, folder, &wish.targets, wish.map.as_deref())?;
            let reasons = wish.source.suppress.iter().cloned().collect();
            preflight::suppress(&mut written.findings, &reasons);
            let mut findings = opened.findings();
            findings.append(&mut written.findings);
            folder.write(RunFolder::FINDINGS, &findings)?;
            let hardware = written.drivers.as_ref().map(Drivers::words);
            Ok((
                true,
                hardware.map_or_else(
                    || file_names(&written.files),
                    |words| format!("{}; {words}", file_names(&written.files)),
                ),
            ))
        },
    )?;
    let budget = wish.bench_budget;
    if wish.bench {
        run.step("bench-host", &format!("{budget:?}"), &["bench/host.json"], |folder| {
            let mut options = SuiteOptions::new(Suite::Quick, folder.root());
            options.budget_seconds = budget.map(measure::seconds);
            let record = measure::bench_host(context, options)?;
            folder.write("bench/host.json", &record)?;
            Ok((true, bench_words(&record)))
        })?;
    }
    if !wish.prove {
        run.skip("prove", "left out as asked (--no-prove)")?;
        return Ok(!judge_inside(run, wish)?);
    }
    let like = gather::sizes_before(&run.folder)?;
    let proof_print = format!(
        "{disks_print};{};{:?};{};{budget:?};{like:?}",
        wish.fixup, wish.engine, wish.bench
    );
    let mut measured = None;
    let proven = run.step("prove", &proof_print, &[RunFolder::PROOF], |folder| {
        let proof_wish = ProofWish {
            bench: wish.bench.then(|| BenchWish {
                budget_seconds: budget,
                like,
                ..BenchWish::new(Suite::Quick)
            }),
            ..ProofWish::new(wish.timeout)
        };
        let outcome = prove::converted(context, folder, &wish.engine, &proof_wish)?;
        let seconds = outcome
            .stages
            .iter()
            .filter(|(name, _)| name == "bench")
            .map(|(_, seconds)| seconds)
            .sum::<f64>();
        if let Some(mut record) = outcome.bench {
            record.place = Place::Guest;
            folder.write("bench/guest.json", &record)?;
            measured = Some((seconds, Ok(bench_words(&record))));
        } else if let Some(why) = outcome.bench_missing {
            measured = Some((seconds, Err(why)));
        }
        Ok(proof_answer(&outcome.record))
    })?;
    // The boot may have shown what no look inside could.
    if let Some(written) = targets::renew(&run.folder)?
        && let Some(drivers) = &written.drivers
    {
        context.say(&format!("{}: {}", file_names(&written.files), drivers.words()));
    }
    // Measuring happened inside the proof's boot: its time is shown as its own.
    if let (Some((seconds, _)), Some(step)) = (&measured, run.steps.last_mut()) {
        step.seconds = (step.seconds - seconds).max(0.0);
        run.keep("prove", &proof_print)?;
    }
    match measured {
        Some((seconds, Ok(words))) => {
            run.note("bench-guest", StepStatus::Good, seconds, words)?;
            run.keep("bench-guest", &proof_print)?;
        }
        Some((seconds, Err(why))) => run.note("bench-guest", StepStatus::Bad, seconds, why)?,
        None if wish.bench
            && run
                .reused("bench-guest", &proof_print, &["bench/guest.json"])?
                .is_some() => {}
        None if wish.bench => run.skip("bench-guest", "the guest was not reached from inside")?,
        None => {}
    }
    Ok(!judge_inside(run, wish)? && proven)
}

/// Makes the guest ready for KVM. One that can't be fixed up goes on to its proof, which shows whether that matters.
fn fix_up(
    run: &mut Run<'_>,
    wish: &Wish,
    opened: &Opened,
    manifest: &Manifest,
    disks_print: &str,
) -> anyhow::Result<()> {
    if !wish.fixup {
        run.skip("fixup", "left out as asked (--no-fixup)")?;
        return look(run, wish);
    }
    if fixup::writes_the_source(manifest) {
        run.skip("fixup", "the guest's data is still the source's own file (--data-file)")?;
        return look(run, wish);
    }
    let context = run.context;
    let before = self::disks_print(&run.folder, manifest);
    let print = format!(
        "{disks_print};{:?};{};{}",
        wish.engine, wish.virt_v2v, wish.no_guest_tools
    );
    let declared = &opened.imported.machine.os;
    let options = fixup::FixupOptions {
        virt_v2v: wish.virt_v2v,
        no_guest_tools: wish.no_guest_tools,
        suppress: wish.source.suppress.clone(),
        ..fixup::FixupOptions::default()
    };
    if run.reused("fixup", &print, &[])?.is_none() {
        context.say("fixup …");
        let begun = Instant::now();
        let done = fixup::fixup(context, &run.folder, &wish.engine, &options);
        let seconds = begun.elapsed().as_secs_f64();
        match done {
            Ok(outcome) => {
                run.note("fixup", StepStatus::Good, seconds, fixup::words(&outcome))?;
                run.keep("fixup", &print)?;
            }
            Err(error) if context.cancelled() => return Err(error),
            // The description may be wrong: what lies on the disks decides.
            Err(error) if declared.family != OsFamily::Linux && format!("{error:#}").contains(NO_ROOT) => {
                let why = format!("no Linux on the disks (the guest is declared as {})", declared.title);
                run.note("fixup", StepStatus::Skipped, seconds, why)?;
            }
            Err(error) => run.note("fixup", StepStatus::Bad, seconds, format!("{error:#}"))?,
        }
    }
    // A proof looks inside anyway; without one the definitions would not be known to be for the fixed-up guest.
    if !wish.prove {
        fixup::look_where_nobody_did(context, &run.folder, manifest, &wish.engine, &options)?;
    }
    let after = self::disks_print(&run.folder, manifest);
    if before != after {
        run.state.fixed = Some(DisksFixed { before, after });
        run.folder.write(STATE, &run.state)?;
    }
    Ok(())
}

/// For people.
fn file_names(files: &[PathBuf]) -> String {
    let names: Vec<_> = files
        .iter()
        .filter_map(|path| path.file_name())
        .map(|name| name.to_string_lossy())
        .collect();
    if names.is_empty() {
        "nothing asked for".to_owned()
    } else {
        format!("wrote {}", names.join(", "))
    }
}

/// Looks inside a guest that is left as it is, where no proof will do so. That it can't be done stops nothing.
fn look(run: &mut Run<'_>, wish: &Wish) -> anyhow::Result<()> {
    if wish.prove {
        return Ok(());
    }
    let options = fixup::FixupOptions {
        dry_run: true,
        suppress: wish.source.suppress.clone(),
        ..fixup::FixupOptions::default()
    };
    let begun = Instant::now();
    let untouched = FixupOutcome::default();
    match fixup::look_into_converted(run.context, &run.folder, &wish.engine, &options, Some(&untouched)) {
        Ok(facts) => {
            let names: Vec<&str> = facts.systems.iter().map(|system| system.name.as_str()).collect();
            let words = format!("{} volumes; systems: {}", facts.volumes.len(), names.join(", "));
            run.note("look", StepStatus::Good, begun.elapsed().as_secs_f64(), words)
        }
        Err(error) if run.context.cancelled() => Err(error),
        Err(error) => run.skip("look", &format!("the disks could not be looked into: {error:#}")),
    }
}

/// Runs the checks of the inside over what the proof saw, where nobody had looked before. Says whether one of them stops the guest.
fn judge_inside(run: &Run<'_>, wish: &Wish) -> anyhow::Result<bool> {
    if !run.folder.has(RunFolder::DEEP)
        && let Some(facts) = inside::known(&run.folder)?
    {
        inside::judge(
            &run.folder,
            &facts,
            &wish.source.suppress,
            Some(&FixupOutcome::default()),
        )?;
    }
    let findings: Vec<Finding> = run.folder.read(RunFolder::INSIDE)?.unwrap_or_default();
    for finding in source::blocking(&findings) {
        run.context.say(&format!(
            "BLOCK {}: {} ({}). {}",
            finding.id, finding.message, finding.evidence, finding.fix
        ));
    }
    Ok(preflight::blocks(&findings))
}

fn inspect(context: &Context, folder: &RunFolder, opened: &Opened) -> anyhow::Result<Answer> {
    let summaries = opened.summaries(&context.cancel)?;
    let findings = opened.findings();
    folder.write(RunFolder::ACCOUNTING, &opened.imported.accounting)?;
    folder.write(RunFolder::FINDINGS, &findings)?;
    folder.write(RunFolder::FACTS, &source::facts(opened, &summaries))?;
    folder.write(RunFolder::MACHINE, &opened.imported.machine)?;
    let count = |severity| {
        findings
            .iter()
            .filter(|finding| finding.severity == severity && finding.suppressed.is_none())
            .count()
    };
    let blocking = source::blocking(&findings);
    let words = format!(
        "{} disks, {} NICs; {} checks block, {} warn, {} inform",
        opened.imported.machine.disks.len(),
        opened.imported.machine.nics.len(),
        blocking.len(),
        count(Severity::Warn),
        count(Severity::Info)
    );
    for finding in &blocking {
        context.say(&format!(
            "BLOCK {}: {} ({}). {}",
            finding.id, finding.message, finding.evidence, finding.fix
        ));
    }
    Ok((blocking.is_empty(), words))
}

fn verify(context: &Context, folder: &RunFolder, manifest: &Manifest, opened: &Opened) -> anyhow::Result<Answer> {
    let sources = opened.all_disks()?;
    // What a fix-up changed is not the source's any more; the manifest has its hashes.
    let fixed = folder.has(RunFolder::FIXUP);
    let outcomes = copy::verify(context, folder, manifest, (!fixed).then_some(sources.as_slice()))?;
    let bytes: u64 = outcomes.iter().map(|(_, outcome)| outcome.bytes).sum();
    match outcomes.iter().find(|(_, outcome)| !outcome.identical) {
        Some((file, outcome)) => Ok((
            false,
            format!(
                "{file} differs from {} at guest byte {}",
                if fixed { "its manifest" } else { "the source" },
                outcome.first_difference.unwrap_or_default()
            ),
        )),
        None => Ok((
            true,
            format!(
                "{} disks, {} re-read: {}",
                outcomes.len(),
                crate::terminal::bytes(bytes),
                if fixed {
                    "hashes match; not compared with the source, since the guest is fixed up"
                } else {
                    "identical with the source, hashes match"
                }
            ),
        )),
    }
}

fn proof_answer(record: &ProofRecord) -> Answer {
    let word = match record.verdict {
        ProofVerdict::Proven => "proven",
        ProofVerdict::BootedUnconfirmed => "booted, unconfirmed",
        ProofVerdict::Failed => "FAILED",
    };
    (
        record.verdict == ProofVerdict::Proven,
        format!("{word}: {}", record.reason),
    )
}

fn conversion_words(manifest: &Manifest) -> String {
    let data: u64 = manifest.disks.iter().map(|disk| disk.data_bytes).sum();
    let file: u64 = manifest.disks.iter().map(|disk| disk.file_bytes).sum();
    format!(
        "{} disks, {} of data in {} of files",
        manifest.disks.len(),
        crate::terminal::bytes(data),
        crate::terminal::bytes(file)
    )
}

fn bench_words(record: &reports::schema::BenchRecord) -> String {
    let unfit = record.metrics.iter().filter(|metric| metric.unfit.is_some()).count();
    format!(
        "{} metrics, {unfit} of them unfit, {} skipped",
        record.metrics.len(),
        record.skipped.len()
    )
}

/// The source as it is now: every file of every disk with length and time.
fn fingerprint(opened: &Opened) -> String {
    let mut print = format!("{}", opened.imported.machine.source.display());
    for disk in opened.disks.iter().flatten() {
        for file in disk.files() {
            print.push_str(&format!(";{}:{}:{}", file.path.display(), file.bytes, file.mtime_ns));
        }
    }
    print
}

/// The converted disks as they are now.
fn disks_print(folder: &RunFolder, manifest: &Manifest) -> String {
    let mut print = String::new();
    for disk in &manifest.disks {
        let meta = std::fs::metadata(folder.path(&disk.file));
        let time = meta
            .as_ref()
            .ok()
            .and_then(|meta| meta.modified().ok())
            .and_then(|time| time.duration_since(std::time::UNIX_EPOCH).ok());
        print.push_str(&format!(
            "{}:{}:{};",
            disk.file,
            meta.map(|meta| meta.len()).unwrap_or_default(),
            time.unwrap_or_default().as_nanos()
        ));
    }
    print
}
