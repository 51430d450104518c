//! The boot proof: the guest boots from a throw-away overlay, and everything seen is kept as evidence.

mod diagnosis;
mod disks;
mod evidence;
mod life;
mod request;
mod screen;
mod search;
mod signs;
mod verdict;
mod watch;

pub use disks::DiskCheck;
pub use request::{BenchWish, InTurn, MeasureGuest, ProveDisk, ProveOutcome, ProveRequest, Turns};
pub use search::SEARCH_ORDER;

use crate::appliance::Appliance;
use crate::engine::{self, Accelerator, DiskFormat, Engine, EngineKind};
use crate::qemu;
use crate::{Result, RunnerError};
use agent::protocol::Request;
use convert::machine::OsFamily;
use convert::progress::Progress;
use evidence::Folder;
use reports::schema::{BenchRecord, DeepFacts, Milestone, Place, ProofRecord, ProofTry, ProofVerdict, Stamp, Suite};
use request::Hardware;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};
use verdict::Outcome;
use watch::{Watch, Wish};

/// The appliance's start and its work, together.
const APPLIANCE_DEADLINE: Duration = Duration::from_secs(90);

/// Wall seconds by stage; what several tries spent on a stage is added up.
#[derive(Default)]
struct Stages(Vec<(String, f64)>);

impl Stages {
    fn done(&mut self, name: &str, since: Instant) {
        let seconds = since.elapsed().as_secs_f64();
        match self.0.iter_mut().find(|(known, _)| known == name) {
            Some((_, sum)) => *sum += seconds,
            None => self.0.push((name.to_owned(), seconds)),
        }
    }
}

/// What all tries share.
struct Ground<'a> {
    engine: Box<dyn Engine>,
    version: String,
    request: &'a ProveRequest,
    scratch: &'a Path,
    /// Overlays on the real disks, with the agent in them; every try writes into overlays of its own on top.
    overlays: Vec<PathBuf>,
    inspection: Option<Value>,
    /// The typed part of `inspection`.
    deep: Option<DeepFacts>,
    injected: bool,
    notes: Vec<String>,
    measured: bool,
}

/// One boot.
struct Boot {
    hardware: Hardware,
    outcome: Outcome,
    bench: Option<BenchRecord>,
    bench_missing: Option<String>,
    turns: Turns,
    seconds: f64,
    folder: String,
}

impl Boot {
    fn good(&self) -> bool {
        self.outcome.verdict == ProofVerdict::Proven
    }

    /// Did the kernel fall silent before it looked for its root, with nothing that explains it?
    fn stopped_in_kernel(&self) -> bool {
        let outcome = &self.outcome;
        let has = |name: &str| outcome.milestones.iter().any(|milestone| milestone.name == name);
        outcome.silent
            && outcome.verdict == ProofVerdict::Failed
            && outcome.cause.is_none()
            && has("kernel")
            && !["root-found", "init"].iter().any(|name| has(name))
    }

    fn as_try(&self) -> ProofTry {
        ProofTry {
            bus: self.hardware.bus.name().to_owned(),
            nic: self.hardware.nic.to_owned(),
            firmware: self.hardware.firmware_name().to_owned(),
            verdict: self.outcome.verdict,
            reason: self.outcome.reason.clone(),
            seconds: self.seconds,
            evidence: self.folder.clone(),
        }
    }

    fn words(&self) -> String {
        format!(
            "{}, {}, {}",
            self.hardware.bus.name(),
            self.hardware.nic,
            self.hardware.firmware_name()
        )
    }
}

/// Proves that the guest boots. The disks are opened read-only; marks of them before and after are in the record.
///
/// # Errors
/// The proof could not be tried: engine, firmware, disk or space missing, stopped. A guest that does not boot is an outcome.
pub fn prove(request: &ProveRequest, progress: &dyn Progress, cancel: &AtomicBool) -> Result<ProveOutcome> {
    let begun = Instant::now();
    if request.choice.engine == EngineKind::Kvm && request.kernel.is_none() {
        return Err(RunnerError::Unusable {
            what: "the own VMM has no firmware, and no kernel was given that it could enter".into(),
            advice: "Use --engine qemu".into(),
        });
    }
    let engine = engine::engine(request.choice.engine);
    let mut stages = Stages::default();
    let folder = Folder::create(&request.out)?;
    let version = engine.version()?;

    let since = Instant::now();
    let check = request.check.name(request);
    let before = disks::marks(request, check, progress, cancel)?;
    stages.done("check", since);

    let scratch = folder.scratch()?;
    let mut overlays = Vec::new();
    for (index, disk) in request.disks.iter().enumerate() {
        let name = format!("disk{index}");
        overlays.push(qemu::overlay(&disk.path, disk.format, scratch.path(), &name)?);
    }
    progress.begin("prove", 100);
    let mut ground = Ground {
        engine,
        version,
        request,
        scratch: scratch.path(),
        overlays,
        inspection: None,
        deep: None,
        injected: false,
        notes: Vec::new(),
        measured: false,
    };
    if request.inject_agent {
        let since = Instant::now();
        ground.prepare(cancel)?;
        stages.done("inject", since);
    }
    progress.advance("prove", 20);

    let linux = ground
        .inspection
        .as_ref()
        .is_some_and(|found| found["roots"].as_array().is_some_and(|roots| !roots.is_empty()));
    let first = ground.boot(request.hardware(linux), 1, &folder, &mut stages, cancel)?;
    let first = ground.once_more(first, &folder, &mut stages, cancel)?;
    let mut boots = vec![first];
    let plan = if request.search && !boots[0].good() {
        let (plan, notes) = search::next(&boots[0].hardware, boots[0].outcome.cause, request.disks.len());
        ground.notes.extend(notes);
        plan
    } else {
        Vec::new()
    };
    for hardware in plan {
        let number = boots.len() + 1;
        let name = format!("{number}-{}-{}", hardware.bus.name(), hardware.firmware_name());
        tracing::warn!("not proven: {}; trying {}", boots[number - 2].outcome.reason, name);
        let further = folder.further(&name)?;
        boots.push(ground.boot(hardware, number, &further, &mut stages, cancel)?);
        if boots.last().is_some_and(Boot::good) {
            break;
        }
    }
    let repeats = ground.repeat(&boots, &folder, &mut stages, cancel)?;
    progress.end("prove");

    let notes = std::mem::take(&mut ground.notes);
    let mut outcome = conclude(request, &ground.version, boots, notes);
    outcome.inspection = ground.inspection.take();
    let record = &mut outcome.record;
    outcome.repeats = judge_repeats(record, repeats);
    drop(scratch);
    let since = Instant::now();
    check.clone_into(&mut record.disks_check);
    record.disks_before = before;
    record.disks_after = disks::marks(request, check, progress, cancel)?;
    stages.done("check-after", since);
    if record.disks_before != record.disks_after {
        record.verdict = ProofVerdict::Failed;
        record.reason = format!(
            "a real disk changed during the proof ({check} differs); {}",
            record.reason
        );
    }
    record.seconds = begun.elapsed().as_secs_f64();
    outcome.stages = stages.0;
    Ok(outcome)
}

/// Puts further boots on the proven hardware into the record: what boots only sometimes is not proven. Returns their milestones.
fn judge_repeats(record: &mut ProofRecord, repeats: Vec<Boot>) -> Vec<Vec<Milestone>> {
    let of = repeats.len() + 1;
    for (index, boot) in repeats.iter().enumerate() {
        record.tries.push(boot.as_try());
        if record.verdict == ProofVerdict::Proven && !boot.good() {
            record.verdict = boot.outcome.verdict;
            record.reason = format!(
                "boot {} of {of} on the same hardware was not proven: {}; the first was",
                index + 2,
                boot.outcome.reason
            );
            record.advice.splice(0..0, boot.outcome.advice.iter().cloned());
        }
    }
    if record.verdict == ProofVerdict::Proven && of > 1 {
        record.reason = format!("{}; all {of} boots were proven", record.reason);
    }
    repeats.into_iter().map(|boot| boot.outcome.milestones).collect()
}

/// The record of all boots: the one that is proven, else one that came up unconfirmed, else the first one, which is the machine as it is.
fn conclude(request: &ProveRequest, version: &str, mut boots: Vec<Boot>, notes: Vec<String>) -> ProveOutcome {
    let tries: Vec<ProofTry> = boots.iter().map(Boot::as_try).collect();
    let many = tries.len() > 1;
    let unconfirmed = |boot: &Boot| boot.outcome.verdict == ProofVerdict::BootedUnconfirmed;
    let chosen = boots
        .iter()
        .position(Boot::good)
        .or_else(|| boots.iter().position(unconfirmed))
        .unwrap_or(0);
    let first = boots[0].outcome.reason.clone();
    let first_words = boots[0].words();
    let boot = boots.swap_remove(chosen);
    let words = boot.words();
    let Boot {
        hardware,
        outcome,
        bench,
        bench_missing,
        turns,
        ..
    } = boot;
    let mut reason = outcome.reason;
    let mut advice = outcome.advice;
    if many && chosen > 0 && outcome.verdict == ProofVerdict::BootedUnconfirmed {
        reason = format!("with {words} it seems to boot: {reason}. With {first_words} it does not: {first}");
        advice.insert(
            0,
            format!(
                "Look at the evidence of {words}: no hardware is proven, and with this one the guest came furthest"
            ),
        );
    } else if many && chosen > 0 {
        reason = format!("it boots with {words}: {reason}. With {first_words} it does not: {first}");
        advice.insert(
            0,
            format!("Give the machine {words}: the first hardware in the search's order on which it was proven"),
        );
    } else if many {
        reason = format!(
            "{reason}; {} further sets of hardware were tried, none is proven",
            tries.len() - 1
        );
    }
    advice.extend(notes);
    let record = ProofRecord {
        stamp: Stamp::now(concat!("esxodus ", env!("CARGO_PKG_VERSION"))),
        verdict: outcome.verdict,
        reason,
        advice,
        engine: version.to_owned(),
        accelerator: request.choice.class,
        engine_reason: request.choice.reason.clone(),
        firmware: match request.kernel {
            Some(_) => "none, the kernel was entered directly".to_owned(),
            None => hardware.firmware_name().to_owned(),
        },
        devices: format!(
            "{}, {}",
            if request.disks.is_empty() {
                "no disk"
            } else {
                hardware.bus.name()
            },
            if request.machine.nics.is_empty() {
                "no network adapter"
            } else {
                hardware.nic
            }
        ),
        milestones: outcome.milestones,
        guest: outcome.guest,
        evidence: outcome.evidence,
        tries: if many { tries } else { Vec::new() },
        disks_check: String::new(),
        disks_before: Vec::new(),
        disks_after: Vec::new(),
        seconds: 0.0,
    };
    ProveOutcome {
        record,
        inspection: None,
        bench,
        bench_missing,
        turns,
        repeats: Vec::new(),
        stages: Vec::new(),
    }
}

impl Ground<'_> {
    /// Looks at the disks and puts the agent into the overlays. What does not work is a note: the proof goes on from outside.
    fn prepare(&mut self, cancel: &AtomicBool) -> Result<()> {
        match inject(self.request, &self.overlays, self.scratch, cancel) {
            Ok((found, result)) => {
                match result {
                    Ok(_) => self.injected = true,
                    Err(error) => self
                        .notes
                        .push(format!("the agent could not be put into the guest: {error}")),
                }
                self.deep = serde_json::from_value(found["deep"].clone()).ok();
                self.inspection = Some(found);
            }
            Err(RunnerError::Cancelled) => return Err(RunnerError::Cancelled),
            Err(error) => self
                .notes
                .push(format!("the appliance could not look at the disks: {error}")),
        }
        Ok(())
    }

    /// Boots again on the hardware that is proven, as often as is wished, without measuring.
    fn repeat(
        &mut self,
        boots: &[Boot],
        folder: &Folder,
        stages: &mut Stages,
        cancel: &AtomicBool,
    ) -> Result<Vec<Boot>> {
        let mut repeats = Vec::new();
        let Some(proven) = boots.iter().find(|boot| boot.good()) else {
            return Ok(repeats);
        };
        for again in 2..=self.request.boots {
            let further = folder.further(&format!("boot-{again}"))?;
            let number = boots.len() + repeats.len() + 1;
            repeats.push(self.boot(proven.hardware.clone(), number, &further, stages, cancel)?);
        }
        Ok(repeats)
    }

    /// Repeats a first boot whose kernel stopped where processors are emulated: once in some hundreds of boots such a kernel stops for
    /// no reason of the guest's, and then a second one does not.
    fn once_more(&mut self, first: Boot, folder: &Folder, stages: &mut Stages, cancel: &AtomicBool) -> Result<Boot> {
        if self.request.choice.accelerator != Accelerator::Tcg || !first.stopped_in_kernel() {
            return Ok(first);
        }
        tracing::warn!(
            "{}; processors are emulated here, so it is tried once more",
            first.outcome.reason
        );
        let further = folder.further("again")?;
        let second = self.boot(first.hardware.clone(), 2, &further, stages, cancel)?;
        if second.stopped_in_kernel() {
            let reason = &second.outcome.reason;
            self.notes.push(format!("a second boot ended alike: {reason}"));
            return Ok(first);
        }
        self.notes.push(format!(
            "a first boot ended so, and is not counted, as processors are emulated here: {} (its evidence: {})",
            first.outcome.reason, first.folder
        ));
        Ok(second)
    }

    /// Boots once on `hardware`, from overlays of this boot's own. What is measured is measured at the first one that is proven.
    fn boot(
        &mut self,
        hardware: Hardware,
        number: usize,
        folder: &Folder,
        stages: &mut Stages,
        cancel: &AtomicBool,
    ) -> Result<Boot> {
        let begun = Instant::now();
        let request = self.request;
        let mut disks = Vec::new();
        for (index, overlay) in self.overlays.iter().enumerate() {
            disks.push(qemu::overlay(
                overlay,
                DiskFormat::Qcow2,
                self.scratch,
                &format!("try{number}-disk{index}"),
            )?);
        }
        let (spec, smaller) = request.spec(&hardware, &disks, self.scratch);
        if number == 1 {
            self.notes.extend(smaller);
        }
        let since = Instant::now();
        let vm = self.engine.start(&spec)?;
        let wish = Wish {
            timeout: request.timeout,
            silence: request.silence,
            injected: self.injected,
            foreseen: diagnosis::foresee(self.deep.as_ref(), hardware.bus),
        };
        let mut watch = Watch::new(vm, folder, wish);
        watch.until_decided(cancel)?;
        stages.done("boot", since);

        let since = Instant::now();
        watch.until_steady(cancel)?;
        stages.done("steady", since);

        let (mut bench, mut bench_missing, mut turns) = (None, None, Vec::new());
        if let Some(wish) = request.bench.as_ref().filter(|_| !self.measured) {
            let since = Instant::now();
            let mut guest = || -> Result<BenchRecord> {
                Ok(BenchRecord {
                    storage: request.storage(&spec),
                    ..measure(&mut watch, wish, request, &self.version, cancel)?
                })
            };
            let measured = match &request.in_turn {
                None => guest().map(|record| bench = Some(record)),
                Some(in_turn) => (in_turn.0)(&mut guest).map(|taken| {
                    bench = taken.last().map(|(_, guest)| guest.clone());
                    turns = taken;
                }),
            };
            match measured {
                Ok(()) => self.measured = true,
                Err(RunnerError::Cancelled) => return Err(RunnerError::Cancelled),
                Err(error) => bench_missing = Some(error.to_string()),
            }
            stages.done("bench", since);
        }
        let since = Instant::now();
        watch.power_off(cancel)?;
        stages.done("power-off", since);
        let graphical = request.machine.os.family != OsFamily::Linux;
        let outcome = watch.conclude(&hardware, self.deep.as_ref(), graphical)?;
        for disk in disks {
            // A search must not keep every try's writes until its end.
            let _ = std::fs::remove_file(disk);
        }
        Ok(Boot {
            hardware,
            outcome,
            bench,
            bench_missing,
            turns,
            seconds: begun.elapsed().as_secs_f64(),
            folder: folder.name().to_owned(),
        })
    }
}

/// Looks at the disks and puts the agent into the overlay. The inner result is the injection's.
fn inject(
    request: &ProveRequest,
    overlays: &[PathBuf],
    scratch: &Path,
    cancel: &AtomicBool,
) -> Result<(Value, Result<Value>)> {
    let disks: Vec<_> = overlays.iter().map(|path| (path.clone(), DiskFormat::Qcow2)).collect();
    let choice = engine::fitting(&request.appliance, &disks);
    let mut appliance = Appliance::start(
        &*engine::engine(choice.engine),
        choice.accelerator,
        &disks,
        scratch,
        APPLIANCE_DEADLINE,
        cancel,
    )?;
    let found = appliance.inspect(cancel)?;
    let result = appliance.inject(cancel);
    appliance.stop(cancel)?;
    Ok((found, result))
}

fn measure(
    watch: &mut Watch<'_>,
    wish: &BenchWish,
    request: &ProveRequest,
    version: &str,
    cancel: &AtomicBool,
) -> Result<BenchRecord> {
    let (name, patience) = match wish.suite {
        Suite::Quick => ("quick", Duration::from_secs(300)),
        Suite::Full => ("full", Duration::from_secs(3600)),
    };
    let patience = patience.max(Duration::from_secs(wish.budget_seconds.unwrap_or(0).saturating_mul(2)));
    let agent = watch
        .agent()
        .ok_or_else(|| RunnerError::Agent("it did not answer from inside, so nothing could be measured".into()))?;
    let deadline_ms = u64::try_from(patience.as_millis()).unwrap_or(u64::MAX);
    let value = agent.facts(
        Request::Bench {
            suite: name.into(),
            budget_seconds: wish.budget_seconds.unwrap_or(0),
            deadline_ms,
            only: wish.only.clone(),
            folder: wish.folder.clone(),
            like: wish.like,
        },
        patience + Duration::from_secs(30),
        cancel,
    )?;
    let mut record: BenchRecord = serde_json::from_value(value)
        .map_err(|error| RunnerError::Agent(format!("the benchmark's record is not one: {error}")))?;
    record.place = Place::Guest;
    record.accelerator = request.choice.class;
    record.engine = Some(version.to_owned());
    record.label = format!(
        "guest {} ({version} {})",
        request.machine.name,
        request.choice.accelerator.name()
    );
    Ok(record)
}

#[cfg(test)]
mod tests {
    use super::{Boot, Outcome, judge_repeats};
    use crate::engine::{DiskBus, FirmwareSpec};
    use crate::proof::request::Hardware;
    use crate::proof::signs::Cause;
    use reports::schema::{AcceleratorClass, Milestone, ProofRecord, ProofVerdict, Stamp};

    fn boot(verdict: ProofVerdict, at_ms: u64) -> Boot {
        Boot {
            hardware: Hardware::new(DiskBus::VirtioBlk, FirmwareSpec::Bios),
            outcome: Outcome {
                verdict,
                reason: "the kernel panicked".to_owned(),
                advice: vec!["look at its console".to_owned()],
                cause: None,
                silent: true,
                milestones: vec![Milestone {
                    name: "kernel".to_owned(),
                    at_ms,
                    seen: String::new(),
                    screenshot: None,
                }],
                guest: None,
                evidence: Vec::new(),
            },
            bench: None,
            bench_missing: None,
            turns: Vec::new(),
            seconds: 1.0,
            folder: "proof/try-boot-2".to_owned(),
        }
    }

    fn proven() -> ProofRecord {
        ProofRecord {
            stamp: Stamp::now("test"),
            verdict: ProofVerdict::Proven,
            reason: "the agent answered".to_owned(),
            advice: Vec::new(),
            engine: "qemu".to_owned(),
            accelerator: AcceleratorClass::Tcg,
            engine_reason: String::new(),
            firmware: "bios".to_owned(),
            devices: String::new(),
            milestones: Vec::new(),
            guest: None,
            evidence: Vec::new(),
            tries: Vec::new(),
            disks_check: String::new(),
            disks_before: Vec::new(),
            disks_after: Vec::new(),
            seconds: 0.0,
        }
    }

    #[test]
    fn only_a_kernel_that_stopped_before_its_root_and_without_a_reason_is_tried_once_more() {
        let stopped = boot(ProofVerdict::Failed, 100);
        assert!(stopped.stopped_in_kernel());
        assert!(!boot(ProofVerdict::Proven, 100).stopped_in_kernel());
        let mut explained = boot(ProofVerdict::Failed, 100);
        explained.outcome.cause = Some(Cause::Root);
        assert!(!explained.stopped_in_kernel());
        let mut further = boot(ProofVerdict::Failed, 100);
        let mut root = further.outcome.milestones[0].clone();
        root.name = "root-found".to_owned();
        further.outcome.milestones.push(root);
        assert!(!further.stopped_in_kernel());
        let mut loud = boot(ProofVerdict::Failed, 100);
        loud.outcome.silent = false;
        assert!(!loud.stopped_in_kernel());
    }

    #[test]
    fn what_boots_only_sometimes_is_not_proven_and_the_boot_that_failed_is_named() {
        let mut record = proven();
        let repeats = vec![boot(ProofVerdict::Proven, 100), boot(ProofVerdict::Failed, 90)];
        let milestones = judge_repeats(&mut record, repeats);
        assert_eq!(record.verdict, ProofVerdict::Failed);
        assert!(
            record.reason.contains("boot 3 of 3") && record.reason.contains("panicked"),
            "{}",
            record.reason
        );
        assert_eq!(record.advice, ["look at its console"]);
        assert_eq!(
            (record.tries.len(), milestones.len(), milestones[1][0].at_ms),
            (2, 2, 90)
        );

        let mut record = proven();
        judge_repeats(&mut record, vec![boot(ProofVerdict::Proven, 100)]);
        assert_eq!(record.verdict, ProofVerdict::Proven);
        assert!(record.reason.contains("all 2 boots"), "{}", record.reason);
        let mut record = proven();
        judge_repeats(&mut record, Vec::new());
        assert_eq!(record.reason, "the agent answered");
    }
}
