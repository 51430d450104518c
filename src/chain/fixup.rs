//! The step that makes the converted guest ready for KVM, and the manifest that says so.

use super::folder::RunFolder;
use super::measure;
use crate::cli::Context;
use crate::cli::options::EngineArgs;
use convert::copy::VerifyOptions;
use convert::machine::Machine;
use reports::schema::Manifest;
use runner::engine::DiskFormat;
use runner::fixup::{FixupOutcome, FixupRequest};

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

/// Fixes the guest up. What was changed is kept in `fixup.json` with the text before, and the manifest gets the disks' new hashes.
///
/// # Errors
/// The appliance can't be had or doesn't answer; no Linux root is on the disks.
pub(crate) fn fixup(
    context: &Context,
    folder: &RunFolder,
    engine: &EngineArgs,
    dry_run: bool,
) -> anyhow::Result<FixupOutcome> {
    let machine: Machine = folder.need(RunFolder::MACHINE, "convert")?;
    let mut manifest: Manifest = folder.need(RunFolder::MANIFEST, "convert")?;
    anyhow::ensure!(
        !writes_the_source(&manifest),
        "the guest's data is still the source's own file (--data-file), which is never changed: convert without --data-file first"
    );
    let choice = measure::choose(engine)?;
    context.say(&format!("the appliance runs on: {}", choice.reason));
    let disks = manifest.disks.iter().map(|disk| {
        let format = if disk.format == "raw" {
            DiskFormat::Raw
        } else {
            DiskFormat::Qcow2
        };
        (folder.path(&disk.file), format)
    });
    let request = FixupRequest {
        machine,
        disks: disks.collect(),
        out: folder.root().to_owned(),
        choice,
        dry_run,
    };
    let spinner = context.bars.spinner("looking into the guest");
    let outcome = runner::fixup::fixup(&request, &context.cancel);
    spinner.finish_and_clear();
    let outcome = outcome?;
    if outcome.changes.is_empty() || dry_run {
        return Ok(outcome);
    }
    // The record of what was there before comes first: it is what an undo needs.
    let mut history: Vec<FixupOutcome> = folder.read(RunFolder::FIXUP)?.unwrap_or_default();
    history.push(outcome.clone());
    folder.write(RunFolder::FIXUP, &history)?;
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
                disk.notes
                    .push("changed by fixup after the conversion; fixup.json says how".to_owned());
            }
            disk.content = Some(tree);
        }
        disk.file_bytes = std::fs::metadata(&path)?.len();
    }
    folder.write(RunFolder::MANIFEST, &manifest)?;
    Ok(outcome)
}
