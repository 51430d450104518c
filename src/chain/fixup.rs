//! The step that makes the converted guest ready for KVM, and the manifest that says so.

use super::folder::RunFolder;
use super::targets::{self, Written};
use super::{drivers, inside, measure, prove, source};
use crate::cli::Context;
use crate::cli::options::{EngineArgs, SourceOptions};
use anyhow::Context as _;
use convert::copy::VerifyOptions;
use convert::machine::Machine;
use reports::schema::{DeepFacts, DiskManifest, Manifest};
use runner::engine::DiskFormat;
use runner::fixup::{Change, FixupOutcome, FixupRequest, Staged};
use serde::{Deserialize, Serialize};
use std::io::Read;
use std::path::{Path, PathBuf};

/// Stands in the run folder from the moment from which a fix-up is to be finished until it is recorded.
const PENDING: &str = "fixup.pending";
/// What virt-v2v-in-place said.
const V2V_LOG: &str = "fixup-v2v.log";
/// The overlays that it is finished from.
const OVERLAYS: &str = "fixup.overlays";

/// All that is needed to finish a fix-up, however often that was interrupted.
#[derive(Debug, Serialize, Deserialize)]
struct Pending {
    /// Overlays in the run folder, in the order of the disks.
    overlays: Vec<String>,
    /// `fixup.json` as it is to be.
    history: Vec<FixupOutcome>,
    /// What the manifest is to say of a disk that changes.
    note: String,
}

/// Whether the converted image is only tables over the source's own data: a fix-up would change the source.
pub(crate) fn writes_the_source(manifest: &Manifest) -> bool {
    manifest.disks.iter().any(|disk| disk.mode == "data-file")
}

/// What was done, for a table of steps.
pub(crate) fn words(outcome: &FixupOutcome) -> String {
    match outcome.changes.as_slice() {
        [] => "ready as it is, nothing to change".to_owned(),
        [only] => format!("1 change: {}", only.path),
        [first, rest @ ..] => format!("{} changes: {} and others", rest.len() + 1, first.path),
    }
}

/// How to fix up.
#[derive(Debug, Clone, Default)]
pub(crate) struct FixupOptions {
    /// Only say what would be changed.
    pub(crate) dry_run: bool,
    /// Adds a serial console to the kernels' command lines.
    pub(crate) serial_console: bool,
    /// The guest's own tool is never run, not even for an initramfs that can't be made ready otherwise.
    pub(crate) no_guest_tools: bool,
    /// File with the passphrase or key of LUKS volumes.
    pub(crate) key: Option<PathBuf>,
    /// virt-v2v-in-place does it.
    pub(crate) virt_v2v: bool,
    /// Checks of the inside that the user overrules, with the reason.
    pub(crate) suppress: Vec<(String, String)>,
}

/// Largest key file that cryptsetup takes by default (8 MiB) is above what a message carries; keys are short.
const MAX_KEY: u64 = 1 << 20;

/// Bytes of a key file.
fn read_key(path: Option<&Path>) -> anyhow::Result<Option<Vec<u8>>> {
    let Some(path) = path else { return Ok(None) };
    let mut key = Vec::new();
    std::fs::File::open(path)
        .and_then(|file| file.take(MAX_KEY + 1).read_to_end(&mut key))
        .with_context(|| format!("cannot read the key {}", path.display()))?;
    anyhow::ensure!(
        key.len() as u64 <= MAX_KEY,
        "the key {} is longer than {MAX_KEY} bytes",
        path.display()
    );
    Ok(Some(key))
}

/// The converted disks, in the manifest's order.
pub(crate) fn disks(folder: &RunFolder, manifest: &Manifest) -> Vec<(PathBuf, DiskFormat)> {
    let disk = |disk: &DiskManifest| {
        let format = if disk.format == "raw" {
            DiskFormat::Raw
        } else {
            DiskFormat::Qcow2
        };
        (folder.path(&disk.file), format)
    };
    manifest.disks.iter().map(disk).collect()
}

/// What the appliance needs to look into the converted disks of a run folder.
fn request(
    context: &Context,
    folder: &RunFolder,
    manifest: &Manifest,
    engine: &EngineArgs,
    options: &FixupOptions,
) -> anyhow::Result<FixupRequest> {
    let machine: Machine = folder.need(RunFolder::MACHINE, "convert")?;
    let choice = measure::choose_direct(engine)?;
    context.say(&format!("the appliance runs on: {}", choice.reason));
    Ok(FixupRequest {
        machine,
        disks: disks(folder, manifest),
        names: manifest.disks.iter().map(|disk| disk.name.clone()).collect(),
        out: folder.root().to_owned(),
        choice,
        dry_run: options.dry_run,
        serial_console: options.serial_console,
        guest_tools: !options.no_guest_tools,
        key: read_key(options.key.as_deref())?,
    })
}

/// What is inside the converted disks of a run folder; kept in `deep.json`, and judged with what a fix-up did (see [`inside::judge`]).
///
/// # Errors
/// The appliance can't be had or doesn't answer.
pub(crate) fn look_into_converted(
    context: &Context,
    folder: &RunFolder,
    engine: &EngineArgs,
    options: &FixupOptions,
    fixed: Option<&FixupOutcome>,
) -> anyhow::Result<DeepFacts> {
    settle(context, folder)?;
    let manifest: Manifest = folder.need(RunFolder::MANIFEST, "convert")?;
    let facts = look(context, &request(context, folder, &manifest, engine, options)?)?;
    folder.write(RunFolder::DEEP, &facts)?;
    inside::judge(folder, &facts, &options.suppress, fixed)?;
    Ok(facts)
}

/// A source's machine and what is inside its disks, from overlays on them where QEMU reads them, else from temporary copies.
///
/// # Errors
/// The source can't be read, there is no room for copies, and as [`look_into_converted`].
pub(crate) fn look_into_source(
    context: &Context,
    options: &SourceOptions,
    engine: &EngineArgs,
    key: Option<&Path>,
) -> anyhow::Result<(Machine, DeepFacts)> {
    let opened = source::open(options)?;
    let choice = measure::choose_direct(engine)?;
    context.say(&format!("the appliance runs on: {}", choice.reason));
    let scratch = tempfile::Builder::new().prefix("esxodus-deep-").tempdir()?;
    let (disks, _) = prove::bootable(context, &opened, scratch.path())?;
    let request = FixupRequest {
        machine: opened.imported.machine.clone(),
        disks: disks.into_iter().map(|disk| (disk.path, disk.format)).collect(),
        names: opened
            .imported
            .machine
            .disks
            .iter()
            .map(convert::machine::Disk::name)
            .collect(),
        out: scratch.path().to_owned(),
        choice,
        dry_run: true,
        serial_console: false,
        guest_tools: false,
        key: read_key(key)?,
    };
    let facts = look(context, &request)?;
    Ok((request.machine, facts))
}

fn look(context: &Context, request: &FixupRequest) -> anyhow::Result<DeepFacts> {
    let spinner = context.bars.spinner("looking into the guest");
    let facts = runner::fixup::inspect(request, &context.cancel);
    spinner.finish_and_clear();
    Ok(facts?)
}

fn writable(folder: &RunFolder) -> anyhow::Result<Manifest> {
    let manifest: Manifest = folder.need(RunFolder::MANIFEST, "convert")?;
    anyhow::ensure!(
        !writes_the_source(&manifest),
        "the guest's data is still the source's own file (--data-file), which is never changed: convert without --data-file first"
    );
    Ok(manifest)
}

/// Fixes the guest up. What is changed is kept in `fixup.json` with the text before; the manifest gets the disks' new hashes; `deep.json`
/// gets what was inside before.
///
/// # Errors
/// The appliance can't be had or doesn't answer; no Linux root is on the disks.
pub(crate) fn fixup(
    context: &Context,
    folder: &RunFolder,
    engine: &EngineArgs,
    options: &FixupOptions,
) -> anyhow::Result<FixupOutcome> {
    settle(context, folder)?;
    let manifest = writable(folder)?;
    let request = request(context, folder, &manifest, engine, options)?;
    let history: Vec<FixupOutcome> = folder.read(RunFolder::FIXUP)?.unwrap_or_default();
    let spinner = context.bars.spinner("fixing the guest up, on overlays");
    let staged = if options.virt_v2v {
        runner::v2v::fixup(&request, &folder.path(V2V_LOG), &context.cancel)
    } else {
        runner::fixup::fixup(&request, &context.cancel)
    };
    spinner.finish_and_clear();
    let staged = staged?;
    let deep = staged.deep.clone();
    let note = "changed by fixup after the conversion; fixup.json says how";
    let outcome = finish(context, folder, manifest, staged, history, note)?;
    if let Some(deep) = &deep {
        folder.write(RunFolder::DEEP, deep)?;
        inside::judge(folder, deep, &options.suppress, Some(&outcome))?;
    }
    Ok(outcome)
}

/// Looks into the disks as they are now where nobody did, and writes the machine definitions anew where that changes their hardware.
/// A guest that can't be looked into keeps the definitions that need no driver of it.
///
/// # Errors
/// The definitions can't be written; stopped.
pub(crate) fn renew_targets(
    context: &Context,
    folder: &RunFolder,
    engine: &EngineArgs,
    options: &FixupOptions,
) -> anyhow::Result<Option<Written>> {
    if !folder.has(RunFolder::TARGETS) {
        return Ok(None);
    }
    let manifest: Manifest = folder.need(RunFolder::MANIFEST, "convert")?;
    look_where_nobody_did(context, folder, &manifest, engine, options)?;
    targets::renew(folder)
}

/// Looks into the disks as they are now where nobody did. That it can't be done is said and stops nothing.
///
/// # Errors
/// Stopped.
pub(crate) fn look_where_nobody_did(
    context: &Context,
    folder: &RunFolder,
    manifest: &Manifest,
    engine: &EngineArgs,
    options: &FixupOptions,
) -> anyhow::Result<()> {
    if !drivers::looked_inside(folder, manifest)
        && let Err(error) = look_into_converted(context, folder, engine, options, None)
    {
        if context.cancelled() {
            return Err(error);
        }
        context.say(&format!("whether the guest drives virtio is not known: {error:#}"));
    }
    Ok(())
}

/// Takes back what fix-ups changed since the last undo.
///
/// # Errors
/// Nothing was changed; as [`fixup`].
pub(crate) fn undo(
    context: &Context,
    folder: &RunFolder,
    engine: &EngineArgs,
    options: &FixupOptions,
) -> anyhow::Result<FixupOutcome> {
    settle(context, folder)?;
    let manifest = writable(folder)?;
    let history: Vec<FixupOutcome> = folder.need(RunFolder::FIXUP, "fixup")?;
    let since = history
        .iter()
        .rposition(|outcome| outcome.undone)
        .map_or(0, |last| last + 1);
    let changes: Vec<Change> = history[since..]
        .iter()
        .flat_map(|outcome| outcome.changes.clone())
        .collect();
    anyhow::ensure!(
        !changes.is_empty(),
        "{} names no change that is not taken back yet",
        RunFolder::FIXUP
    );
    let mut devices: Vec<&str> = history[since..]
        .iter()
        .filter(|outcome| !outcome.changes.is_empty())
        .filter_map(|outcome| outcome.device.as_deref())
        .collect();
    devices.dedup();
    anyhow::ensure!(
        devices.len() <= 1,
        "{} has changes of several roots ({}), which cannot be taken back together: convert the guest again",
        RunFolder::FIXUP,
        devices.join(", ")
    );
    let request = request(context, folder, &manifest, engine, options)?;
    let spinner = context.bars.spinner("taking the changes back, on overlays");
    let staged = runner::fixup::undo(&request, &changes, devices.first().copied(), &context.cancel);
    spinner.finish_and_clear();
    let note = "the changes of fixup were taken back; fixup.json says how";
    finish(context, folder, manifest, staged?, history, note)
}

/// Gets a fix-up from its overlays into the disks, and into the records. From the moment in which `fixup.pending` stands it is finished,
/// now or by [`settle`]; before that, nothing has happened.
fn finish(
    context: &Context,
    folder: &RunFolder,
    manifest: Manifest,
    staged: Staged,
    mut history: Vec<FixupOutcome>,
    note: &str,
) -> anyhow::Result<FixupOutcome> {
    let outcome = staged.outcome.clone();
    if outcome.dry_run || outcome.changes.is_empty() {
        return Ok(outcome);
    }
    anyhow::ensure!(!context.cancelled(), "stopped; the disks are as they were");
    let kept = staged.keep(&folder.path(OVERLAYS))?;
    let name = |path: &PathBuf| {
        Path::new(OVERLAYS)
            .join(path.file_name().unwrap_or_default())
            .display()
            .to_string()
    };
    history.push(outcome.clone());
    let pending = Pending {
        overlays: kept.iter().map(name).collect(),
        history,
        note: note.to_owned(),
    };
    folder.write(PENDING, &pending)?;
    complete(context, folder, manifest, &pending)?;
    Ok(outcome)
}

/// Refuses disks that a fix-up is only half-way in.
///
/// # Errors
/// One is.
pub(crate) fn refuse_unfinished(folder: &RunFolder) -> anyhow::Result<()> {
    anyhow::ensure!(
        !folder.has(PENDING),
        "a fix-up of {} was stopped before its end: run 'esxodus fixup' again, which finishes it first",
        folder.root().display()
    );
    Ok(())
}

/// Finishes a fix-up that was stopped between the moment from which it counts and its last record.
///
/// # Errors
/// The disks can't be written or read.
pub(crate) fn settle(context: &Context, folder: &RunFolder) -> anyhow::Result<()> {
    let Some(pending) = folder.read::<Pending>(PENDING)? else {
        return Ok(());
    };
    context.say("an earlier fix-up was stopped before its end: it is finished first");
    complete(context, folder, writable(folder)?, &pending)
}

fn complete(context: &Context, folder: &RunFolder, mut manifest: Manifest, pending: &Pending) -> anyhow::Result<()> {
    let overlays: Vec<PathBuf> = pending.overlays.iter().map(|name| folder.path(name)).collect();
    anyhow::ensure!(
        overlays.len() == manifest.disks.len(),
        "{PENDING} is about {} disks, the manifest about {}: convert the guest again",
        overlays.len(),
        manifest.disks.len()
    );
    runner::fixup::commit(&disks(folder, &manifest), &overlays)
        .with_context(|| "the changes wait in the run folder: run 'esxodus fixup' again to finish them".to_owned())?;
    folder.write(RunFolder::FIXUP, &pending.history)?;
    rehash(context, folder, &mut manifest, &pending.note)?;
    folder.remove(PENDING)?;
    std::fs::remove_dir_all(folder.path(OVERLAYS))
        .with_context(|| format!("cannot remove {}", folder.path(OVERLAYS).display()))
}

/// The disks as they are now, for the manifest.
fn rehash(context: &Context, folder: &RunFolder, manifest: &mut Manifest, why: &str) -> anyhow::Result<()> {
    for disk in &mut manifest.disks {
        let path = folder.path(&disk.file);
        if disk.content.is_some() {
            let tree = convert::copy::hash_target(
                &path,
                disk,
                VerifyOptions { jobs: None },
                &context.bars,
                &context.cancel,
            )?;
            if disk.content.as_ref() != Some(&tree) {
                disk.notes.push(why.to_owned());
            }
            disk.content = Some(tree);
        }
        disk.file_bytes = std::fs::metadata(&path)?.len();
    }
    folder.write(RunFolder::MANIFEST, manifest).map(drop)
}
