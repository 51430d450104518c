//! The boot proof: the guest boots from a throw-away overlay, and everything seen is kept as evidence.

mod evidence;
mod request;
mod signs;
mod watch;

pub use request::{ProveDisk, ProveOutcome, ProveRequest};

use crate::appliance::Appliance;
use crate::engine::{Engine, EngineKind};
use crate::qemu::{self, Qemu};
use crate::{Result, RunnerError};
use agent::protocol::Request;
use convert::progress::Progress;
use evidence::Folder;
use reports::schema::{BenchRecord, Place, ProofRecord, ProofVerdict, Stamp, Suite};
use serde_json::Value;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};
use watch::Watch;

/// The appliance's start and its work, together.
const APPLIANCE_DEADLINE: Duration = Duration::from_secs(90);

struct Stages(Vec<(String, f64)>);

impl Stages {
    fn done(&mut self, name: &str, since: Instant) {
        self.0.push((name.to_owned(), since.elapsed().as_secs_f64()));
    }
}

/// Proves that the guest boots. The disks are opened read-only; their hashes before and after are in the record.
///
/// # Errors
/// The proof could not be tried: engine, firmware, disk or space missing, stopped. A guest that does not boot is an outcome.
pub fn prove(request: &ProveRequest, progress: &dyn Progress, cancel: &AtomicBool) -> Result<ProveOutcome> {
    let begun = Instant::now();
    if request.choice.engine == EngineKind::Kvm {
        return Err(RunnerError::Unusable {
            what: "the own VMM has no firmware, and this proof boots through the guest's own boot loader".into(),
            advice: "Use --engine qemu".into(),
        });
    }
    let engine = Qemu;
    let mut stages = Stages(Vec::new());
    let folder = Folder::create(&request.out)?;
    let version = engine.version()?;

    let since = Instant::now();
    let before = evidence::hashes(request, progress, cancel)?;
    stages.done("hash", since);

    let scratch = folder.scratch()?;
    let mut overlays = Vec::new();
    for (index, disk) in request.disks.iter().enumerate() {
        overlays.push(qemu::overlay(
            &disk.path,
            disk.format,
            scratch.path(),
            &format!("disk{index}"),
        )?);
    }

    progress.begin("prove", 100);
    let (mut inspection, mut notes) = (None, Vec::new());
    let mut injected = false;
    if request.inject_agent {
        let since = Instant::now();
        match inject(&engine, request, &overlays, scratch.path(), cancel) {
            Ok((found, result)) => {
                match result {
                    Ok(_) => injected = true,
                    Err(error) => notes.push(format!("the agent could not be put into the guest: {error}")),
                }
                inspection = Some(found);
            }
            Err(RunnerError::Cancelled) => return Err(RunnerError::Cancelled),
            Err(error) => notes.push(format!("the appliance could not look at the disks: {error}")),
        }
        stages.done("inject", since);
    }
    progress.advance("prove", 20);

    let (spec, smaller) = request.spec(&overlays, scratch.path());
    notes.extend(smaller);
    let since = Instant::now();
    let vm = engine.start(&spec)?;
    let mut watch = Watch::new(vm, &folder, request.timeout, injected);
    watch.until_decided(cancel)?;
    stages.done("boot", since);
    progress.advance("prove", 40);

    let since = Instant::now();
    let guest = watch.until_steady(cancel)?;
    stages.done("steady", since);
    progress.advance("prove", 20);

    let (mut bench, mut bench_missing) = (None, None);
    if let Some(suite) = request.bench {
        let since = Instant::now();
        match measure(&mut watch, suite, request, &version, cancel) {
            Ok(record) => bench = Some(record),
            Err(RunnerError::Cancelled) => return Err(RunnerError::Cancelled),
            Err(error) => bench_missing = Some(error.to_string()),
        }
        stages.done("bench", since);
    }
    let since = Instant::now();
    watch.power_off(cancel)?;
    stages.done("power-off", since);
    progress.end("prove");

    let mut record = ProofRecord {
        stamp: Stamp::now(concat!("esxodus ", env!("CARGO_PKG_VERSION"))),
        verdict: ProofVerdict::Failed,
        reason: String::new(),
        advice: Vec::new(),
        engine: version,
        accelerator: request.choice.class,
        engine_reason: request.choice.reason.clone(),
        firmware: if spec.firmware == crate::engine::FirmwareSpec::Bios {
            "bios".into()
        } else {
            "uefi".into()
        },
        devices: format!(
            "{}, {}",
            spec.disks.first().map_or("no disk", |disk| disk.bus.name()),
            spec.nics.first().map_or("no network adapter", |nic| nic.model.as_str())
        ),
        milestones: Vec::new(),
        guest,
        evidence: Vec::new(),
        disks_before: before,
        disks_after: Vec::new(),
        seconds: 0.0,
    };
    watch.conclude(&mut record, &notes)?;
    drop(scratch);
    let since = Instant::now();
    record.disks_after = evidence::hashes(request, progress, cancel)?;
    stages.done("hash-after", since);
    if record.disks_before != record.disks_after {
        record.verdict = ProofVerdict::Failed;
        record.reason = format!(
            "a real disk changed during the proof (hashes differ); {}",
            record.reason
        );
    }
    record.seconds = begun.elapsed().as_secs_f64();
    Ok(ProveOutcome {
        record,
        inspection,
        bench,
        bench_missing,
        stages: stages.0,
    })
}

/// Looks at the disks and puts the agent into the overlay. The inner result is the injection's.
fn inject(
    engine: &Qemu,
    request: &ProveRequest,
    overlays: &[PathBuf],
    scratch: &std::path::Path,
    cancel: &AtomicBool,
) -> Result<(Value, Result<Value>)> {
    let disks: Vec<_> = overlays
        .iter()
        .map(|path| (path.clone(), crate::engine::DiskFormat::Qcow2))
        .collect();
    let mut appliance = Appliance::start(
        engine,
        request.choice.accelerator,
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
    suite: Suite,
    request: &ProveRequest,
    version: &str,
    cancel: &AtomicBool,
) -> Result<BenchRecord> {
    let (name, patience) = match suite {
        Suite::Quick => ("quick", Duration::from_secs(300)),
        Suite::Full => ("full", Duration::from_secs(3600)),
    };
    let agent = watch
        .agent()
        .ok_or_else(|| RunnerError::Agent("it did not answer from inside, so nothing could be measured".into()))?;
    let deadline_ms = u64::try_from(patience.as_millis()).unwrap_or(u64::MAX);
    let value = agent.facts(
        Request::Bench {
            suite: name.into(),
            budget_seconds: request.bench_budget_seconds.unwrap_or(0),
            deadline_ms,
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
