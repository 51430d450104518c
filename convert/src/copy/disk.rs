//! One disk from its source to its final name.

use super::data_file::data_file_shell;
use super::error::ConvertError;
use super::hash;
use super::journal::Journal;
use super::ledger::Ledger;
use super::manifest::{Earlier, manifest};
use super::options::CopyOptions;
use super::pipeline::copy;
use super::pool::Pool;
use super::settle::{fingerprint, settle, unchanged};
use super::share::Sharing;
use super::target::{Target, journal_path};
use super::worker::{Context, unit_bytes};
use crate::image::map::{DiskSource, RunSource};
use crate::image::qcow2::Qcow2Writer;
use crate::progress::Progress;
use reports::schema::DiskManifest;
use rustix::fs::{Advice, fadvise};
use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

/// Converts one disk. The manifest's `file` is the target's file name; callers that keep it elsewhere put the folder in
/// front.
///
/// # Errors
/// See [`ConvertError`]. The partial file and its journal stay for resuming, except where the source changed.
pub fn convert_disk(
    source: &dyn DiskSource,
    target: &Path,
    name: &str,
    options: &CopyOptions,
    progress: &dyn Progress,
    cancel: &AtomicBool,
) -> Result<DiskManifest, ConvertError> {
    let pool = Pool::new(options.jobs, options.bwlimit, largest_unit(source, options));
    convert_with(source, target, name, options, progress, cancel, &pool)
}

/// Removes the journal that [`CopyOptions::keep_journal`] left beside a finished file.
///
/// # Errors
/// Removing it; that there is none is no error.
pub fn discard_journal(target: &Path) -> Result<(), ConvertError> {
    let path = journal_path(target);
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(ConvertError::target(&path, "removing the journal", error))
        }
        _ => Ok(()),
    }
}

/// The largest unit that a conversion of `source` is cut into, in bytes.
pub(super) fn largest_unit(source: &dyn DiskSource, options: &CopyOptions) -> u64 {
    let default = source.compressed_grain_bytes().unwrap_or(64 << 10);
    let cluster_bytes = options.cluster_bytes.unwrap_or(default).min(2 << 20);
    unit_bytes(hash::leaf_bytes(source.virtual_bytes()), cluster_bytes)
}

/// [`convert_disk`] with a pool that other disks may share.
pub(super) fn convert_with(
    source: &dyn DiskSource,
    path: &Path,
    name: &str,
    options: &CopyOptions,
    progress: &dyn Progress,
    cancel: &AtomicBool,
    pool: &Pool,
) -> Result<DiskManifest, ConvertError> {
    let started = Instant::now();
    let settled = settle(source, options)?;
    let mark = fingerprint(source, options, &settled);
    let journal_name = journal_path(path);
    let shape = hash::Shape::of(source.virtual_bytes());
    let finished_before = path.symlink_metadata().is_ok();
    if finished_before && !(options.resume && (options.data_file || journal_name.exists())) {
        return Err(ConvertError::TargetExists { path: path.to_owned() });
    }
    if options.data_file {
        return data_file_shell(source, path, name, &settled, options, finished_before, started);
    }
    let describe = |ledger: &Ledger<'_>, file_bytes: u64, shared: Option<u64>, earlier: &Earlier| {
        let content = settled
            .hash
            .then(|| hash::tree(source.virtual_bytes(), shape, &ledger.leaves.listed()));
        manifest(
            source,
            path,
            name,
            options,
            content,
            ledger.data_bytes,
            file_bytes,
            shared,
            earlier,
            started,
        )
    };
    if finished_before {
        // Killed between the final name and whatever the caller does with the manifest.
        let mut ledger = Ledger::new(None, &settled, options, shape);
        let replayed = Journal::replay(&journal_name, &mark, options.sync, |outcome| {
            ledger.apply(
                outcome,
                |_, _| Ok(()),
                |error| ConvertError::target(path, "reading", error),
            )
        })?;
        let length = path
            .metadata()
            .map_err(|error| ConvertError::target(path, "looking at", error))?
            .len();
        let replayed = replayed.map(|(_, replayed)| replayed).unwrap_or_default();
        if replayed.complete != Some(length) {
            return Err(ConvertError::TargetExists { path: path.to_owned() });
        }
        if !options.keep_journal {
            discard_journal(path)?;
        }
        let earlier = Earlier {
            bytes: source.virtual_bytes(),
            notes: replayed.notes,
        };
        let there = std::fs::File::open(path).map_err(|error| ConvertError::target(path, "opening", error))?;
        let sharing = Sharing::detect(options, settled.hash, source, &there, path)?;
        return Ok(describe(&ledger, length, sharing.shared(), &earlier));
    }

    let target = Target::open(path)?;
    let mut ledger = Ledger::new(settled.writer(&target, options), &settled, options, shape);
    let mut earlier = Earlier::default();
    let mut resumed = None;
    if options.resume
        && let Some((journal, replayed)) = Journal::replay(&journal_name, &mark, options.sync, |outcome| {
            ledger.apply(
                outcome,
                |_, _| Ok(()),
                |error| target.failed("writing tables", 0, error),
            )
        })?
    {
        let there = target.before;
        if there >= replayed.file_bytes {
            earlier.bytes = ledger.done;
            resumed = Some(journal);
        } else {
            ledger = Ledger::new(settled.writer(&target, options), &settled, options, shape);
            earlier.notes.push(format!(
                "started anew: the journal vouches for {} bytes of {}, which had {there}",
                replayed.file_bytes,
                target.partial.display()
            ));
        }
        earlier.notes.extend(replayed.notes);
    }
    // What lies behind the last record is done again; cut it off, so that nothing of it can stay.
    let mut journal = match resumed {
        Some(journal) => {
            target.cut(ledger.end())?;
            journal
        }
        None => {
            target.cut(0)?;
            Journal::create(&journal_name, &mark, options.sync)?
        }
    };
    for handle in source.files() {
        // Advice only: a file system without it reads all the same.
        let _ = fadvise(&handle.file, 0, None, Advice::Sequential);
    }
    let context = Context {
        source,
        target: &target,
        pool,
        mode: settled.mode,
        compress: options.compress,
        cluster_bytes: usize::try_from(settled.cluster_bytes).expect("at most 2 MiB"),
        leaf_bytes: shape.leaf_bytes,
        hash: settled.hash,
        sharing: Sharing::detect(options, settled.hash, source, &target.file, path)?,
        cancel,
    };
    progress.begin(name, source.virtual_bytes());
    let result = copy(&context, &mut ledger, Some(&mut journal), None, options, name, progress);
    progress.end(name);
    let length = result
        .and_then(|()| complete(&target, &mut ledger, Some(&mut journal), source, options.sync))
        .map_err(|error| {
            explain(
                error,
                source,
                &target,
                &journal_name,
                ledger.done,
                settled.cluster_bytes,
            )
        })?;
    if !options.keep_journal {
        discard_journal(path)?;
    }
    Ok(describe(&ledger, length, context.sharing.shared(), &earlier))
}

/// Writes tables, then the header, then gives the file its name; each is on the disk before the next. Returns the length.
pub(super) fn complete(
    target: &Target,
    ledger: &mut Ledger<'_>,
    journal: Option<&mut Journal>,
    source: &dyn DiskSource,
    sync: bool,
) -> Result<u64, ConvertError> {
    let failed = |doing: &'static str| move |error| target.failed(doing, 0, error);
    let settle = || {
        if sync {
            target.file.sync_data().map_err(failed("syncing"))
        } else {
            Ok(())
        }
    };
    let header = match &mut ledger.writer {
        Some(writer) => Some(writer.finish().map_err(failed("writing tables"))?),
        None => {
            target.cut(source.virtual_bytes())?;
            None
        }
    };
    settle()?;
    unchanged(source)?;
    if let (Some(writer), Some(header)) = (&ledger.writer, header) {
        writer.write_header(&header).map_err(failed("writing the header"))?;
        settle()?;
    }
    let length = ledger.writer.as_ref().map_or(source.virtual_bytes(), Qcow2Writer::end);
    if let Some(journal) = journal {
        journal.complete(length)?;
    }
    target.publish(sync)?;
    Ok(length)
}

/// Completes an error with what only the whole conversion knows, and removes what cannot be resumed.
fn explain(
    error: ConvertError,
    source: &dyn DiskSource,
    target: &Target,
    journal: &Path,
    done: u64,
    cluster_bytes: u64,
) -> ConvertError {
    // A source that changed explains whatever else went wrong.
    let error = match (unchanged(source), error) {
        (Err(changed @ ConvertError::SourceChanged { .. }), _) => changed,
        (_, error) => error,
    };
    match error {
        ConvertError::SourceChanged { .. } => {
            // Nothing of a mixture can be used. Failing to remove it changes nothing about the error.
            let _ = std::fs::remove_file(&target.partial);
            let _ = std::fs::remove_file(journal);
            error
        }
        ConvertError::NoSpace {
            path,
            offset,
            free,
            source: cause,
            ..
        } => ConvertError::NoSpace {
            path,
            offset,
            free,
            needed: Some(remaining(source, done, cluster_bytes)),
            source: cause,
        },
        error => error,
    }
}

/// Upper bound of what the guest bytes from `done` on take in the target.
fn remaining(source: &dyn DiskSource, done: u64, cluster_bytes: u64) -> u64 {
    let total = source.virtual_bytes();
    let mut at = done;
    let mut bytes = 0_u64;
    while at < total {
        let length = (256 << 20).min(total - at);
        let Ok(runs) = source.map(at, length) else { break };
        bytes += runs
            .iter()
            .filter(|run| !matches!(run.source, RunSource::Hole | RunSource::Zero))
            .map(|run| run.length)
            .sum::<u64>();
        at += length;
    }
    // Tables: 8 bytes of L2 and 2 of refcount a cluster, and a cluster of each to begin with.
    bytes + bytes / cluster_bytes * 10 + 4 * cluster_bytes
}
