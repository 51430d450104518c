//! The step that makes the converted guest ready for KVM, and the manifest that says so.

use super::folder::RunFolder;
use super::targets::{self, Written};
use super::{drivers, measure, prove, source};
use crate::cli::Context;
use crate::cli::options::{EngineArgs, SourceOptions};
use anyhow::Context as _;
use convert::copy::VerifyOptions;
use convert::machine::Machine;
use reports::schema::{DeepFacts, Manifest};
use runner::engine::DiskFormat;
use runner::fixup::{Change, FixupOutcome, FixupRequest};
use std::io::Read;
use std::path::{Path, PathBuf};

/// Stands in the run folder while the disks may differ from what the manifest says of them.
const PENDING: &str = "fixup.pending";

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
    /// File with the passphrase or key of LUKS volumes.
    pub(crate) key: Option<PathBuf>,
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
    let disks = manifest.disks.iter().map(|disk| {
        let format = if disk.format == "raw" {
            DiskFormat::Raw
        } else {
            DiskFormat::Qcow2
        };
        (folder.path(&disk.file), format)
    });
    Ok(FixupRequest {
        machine,
        disks: disks.collect(),
        out: folder.root().to_owned(),
        choice,
        dry_run: options.dry_run,
        serial_console: options.serial_console,
        key: read_key(options.key.as_deref())?,
    })
}

/// What is inside the converted disks of a run folder; kept in `deep.json`.
///
/// # Errors
/// The appliance can't be had or doesn't answer.
pub(crate) fn look_into_converted(
    context: &Context,
    folder: &RunFolder,
    engine: &EngineArgs,
    options: &FixupOptions,
) -> anyhow::Result<DeepFacts> {
    let manifest: Manifest = folder.need(RunFolder::MANIFEST, "convert")?;
    let facts = look(context, &request(context, folder, &manifest, engine, options)?)?;
    folder.write(RunFolder::DEEP, &facts)?;
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
        out: scratch.path().to_owned(),
        choice,
        dry_run: true,
        serial_console: false,
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

/// Fixes the guest up. What is changed is kept in `fixup.json` with the text before, before the disks are written; the manifest gets
/// the disks' new hashes.
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
    let mut manifest = writable(folder)?;
    let request = request(context, folder, &manifest, engine, options)?;
    let history: Vec<FixupOutcome> = folder.read(RunFolder::FIXUP)?.unwrap_or_default();
    let with = |outcome: &FixupOutcome| history.iter().cloned().chain([outcome.clone()]).collect::<Vec<_>>();
    let mut keep = |planned: &FixupOutcome| {
        let written = folder
            .write(PENDING, &true)
            .and_then(|_| folder.write(RunFolder::FIXUP, &with(planned)));
        written.map(drop).map_err(std::io::Error::other)
    };
    let spinner = context.bars.spinner("looking into the guest");
    let outcome = runner::fixup::fixup(&request, &mut keep, &context.cancel);
    spinner.finish_and_clear();
    let outcome = outcome?;
    if outcome.changes.is_empty() || options.dry_run {
        return Ok(outcome);
    }
    folder.write(RunFolder::FIXUP, &with(&outcome))?;
    rehash(
        context,
        folder,
        &mut manifest,
        "changed by fixup after the conversion; fixup.json says how",
    )?;
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
    if !drivers::looked_inside(folder, &manifest)
        && let Err(error) = look_into_converted(context, folder, engine, options)
    {
        if context.cancelled() {
            return Err(error);
        }
        context.say(&format!("whether the guest drives virtio is not known: {error:#}"));
    }
    targets::renew(folder)
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
    let mut manifest = writable(folder)?;
    let mut history: Vec<FixupOutcome> = folder.need(RunFolder::FIXUP, "fixup")?;
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
    let request = request(context, folder, &manifest, engine, options)?;
    if !options.dry_run {
        folder.write(PENDING, &true)?;
    }
    let spinner = context.bars.spinner("taking the changes back");
    let outcome = runner::fixup::undo(&request, &changes, &context.cancel);
    spinner.finish_and_clear();
    let outcome = outcome?;
    if options.dry_run {
        return Ok(outcome);
    }
    if outcome.changes.is_empty() {
        folder.remove(PENDING)?;
        return Ok(outcome);
    }
    history.push(outcome.clone());
    folder.write(RunFolder::FIXUP, &history)?;
    rehash(
        context,
        folder,
        &mut manifest,
        "the changes of fixup were taken back; fixup.json says how",
    )?;
    Ok(outcome)
}

/// Takes the disks as they are into the manifest where an earlier fix-up was stopped between writing them and recording that.
///
/// # Errors
/// The disks can't be read.
pub(crate) fn settle(context: &Context, folder: &RunFolder) -> anyhow::Result<()> {
    if !folder.has(PENDING) {
        return Ok(());
    }
    context.say("an earlier fix-up was stopped before it was recorded: the disks are hashed again");
    let mut manifest = writable(folder)?;
    rehash(
        context,
        folder,
        &mut manifest,
        "an interrupted fixup may have changed it",
    )
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
    folder.write(RunFolder::MANIFEST, manifest)?;
    folder.remove(PENDING)
}
