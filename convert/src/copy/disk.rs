//! One disk from its source to its final name, and several under one budget.

use super::error::ConvertError;
use super::hash::{self, Leaf};
use super::journal::{Journal, Outcome, Replayed, STORED};
use super::options::{Compress, CopyOptions, POLL, Preallocation, TargetFormat};
use super::plan::{Planner, Unit};
use super::pool::Pool;
use super::share::Sharing;
use super::target::{Target, journal_path, partial_path};
use super::worker::{Context, Done, Mode};
use crate::image::ImageError;
use crate::image::map::{DiskSource, RunSource};
use crate::image::qcow2::{CompressedFormat, Geometry, Qcow2Writer, write_data_file_shell};
use crate::progress::Progress;
use crossbeam_channel::{RecvTimeoutError, Sender, bounded, unbounded};
use reports::schema::{DiskManifest, SourceFile};
use rustix::fs::{Advice, fadvise};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

/// Disks of a guest that are converted at the same time.
const DISKS_AT_ONCE: usize = 4;

/// One disk for [`convert_disks`].
#[derive(Clone, Copy)]
pub struct DiskJob<'a> {
    /// What to read.
    pub source: &'a dyn DiskSource,
    /// Final name of the file.
    pub target: &'a Path,
    /// Name of the disk in the machine, for the manifest and progress.
    pub name: &'a str,
    /// Options; `jobs` and `bwlimit` are taken from the first disk's and hold for all together.
    pub options: &'a CopyOptions,
}

impl std::fmt::Debug for DiskJob<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DiskJob")
            .field("target", &self.target)
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

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
    let pool = Pool::new(options.jobs, options.bwlimit);
    convert_with(source, target, name, options, progress, cancel, &pool)
}

/// Converts the disks of a guest, up to four at a time, under one budget of threads, memory and bandwidth. Manifests come in
/// the order of `jobs`. Stops at the first error; disks that were complete by then stay.
///
/// # Errors
/// As [`convert_disk`].
pub fn convert_disks(
    jobs: &[DiskJob<'_>],
    progress: &dyn Progress,
    cancel: &AtomicBool,
) -> Result<Vec<DiskManifest>, ConvertError> {
    let Some(first) = jobs.first() else {
        return Ok(Vec::new());
    };
    let pool = Pool::new(first.options.jobs, first.options.bwlimit);
    let next = Mutex::new(0_usize);
    let results = Mutex::new(BTreeMap::new());
    // A failing disk stops the others without touching the caller's flag.
    let stop = AtomicBool::new(false);
    let finished = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !finished.load(Ordering::Relaxed) {
                if cancel.load(Ordering::Relaxed) {
                    stop.store(true, Ordering::Relaxed);
                }
                std::thread::park_timeout(POLL);
            }
        });
        let lanes: Vec<_> = (0..jobs.len().min(DISKS_AT_ONCE))
            .map(|_| {
                scope.spawn(|| {
                    loop {
                        let index = {
                            let mut next = next.lock().unwrap_or_else(PoisonError::into_inner);
                            *next += 1;
                            *next - 1
                        };
                        let Some(job) = jobs.get(index) else { break };
                        if stop.load(Ordering::Relaxed) {
                            break;
                        }
                        let result =
                            convert_with(job.source, job.target, job.name, job.options, progress, &stop, &pool);
                        if result.is_err() {
                            stop.store(true, Ordering::Relaxed);
                        }
                        results
                            .lock()
                            .unwrap_or_else(PoisonError::into_inner)
                            .insert(index, result);
                    }
                })
            })
            .collect();
        for lane in lanes {
            if let Err(panic) = lane.join() {
                finished.store(true, Ordering::Relaxed);
                std::panic::resume_unwind(panic);
            }
        }
        finished.store(true, Ordering::Relaxed);
    });
    let mut results = results.into_inner().unwrap_or_else(PoisonError::into_inner);
    // The cause, not the disks that were stopped because of it.
    let cause = results
        .iter()
        .find(|(_, result)| matches!(result, Err(error) if !matches!(error, ConvertError::Cancelled { .. })))
        .map(|(&index, _)| index);
    if let Some(result) = cause.and_then(|index| results.remove(&index)) {
        return result.map(|manifest| vec![manifest]);
    }
    let started = results.len();
    let manifests: Vec<DiskManifest> = results.into_values().collect::<Result<_, _>>()?;
    if started < jobs.len() {
        return Err(ConvertError::Cancelled {
            partial: partial_path(jobs[started].target),
        });
    }
    Ok(manifests)
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

/// Options after the defaults were filled in and checked against each other and the source.
struct Settled {
    mode: Mode,
    cluster_bytes: u64,
    geometry: Option<Geometry>,
    hash: bool,
}

fn settle(source: &dyn DiskSource, options: &CopyOptions) -> Result<Settled, ConvertError> {
    let refuse = |message: &str| Err(ConvertError::Options(message.to_owned()));
    let raw = options.format == TargetFormat::Raw;
    if raw && (options.compress != Compress::None || options.data_file || options.extended_l2) {
        return refuse("compression, data files and extended L2 need the format qcow2");
    }
    if raw && options.preallocation != Preallocation::None {
        return refuse("raw files are always sparse: preallocation needs the format qcow2");
    }
    if options.data_file && options.compress != Compress::None {
        return refuse("an image with a data file cannot be compressed: leave out one of them");
    }
    if options.preallocation != Preallocation::None && options.compress != Compress::None {
        return refuse("compressed clusters have no place in advance: leave out compression or preallocation");
    }
    if let Compress::Zstd { level } = options.compress
        && !(1..=19).contains(&level)
    {
        return Err(ConvertError::Options(format!(
            "zstd level {level} is not one of 1 to 19"
        )));
    }
    let default = match (options.data_file, options.compress) {
        (true, _) => 2 << 20,
        (false, Compress::Keep { .. }) => source
            .compressed_grain_bytes()
            .filter(|bytes| bytes.is_power_of_two() && (4 << 10..=2 << 20).contains(bytes))
            .unwrap_or(64 << 10),
        _ => 64 << 10,
    };
    // Raw files share and plan in pieces of this size.
    let cluster_bytes = if raw {
        64 << 10
    } else {
        options.cluster_bytes.unwrap_or(default)
    };
    let geometry = if raw {
        None
    } else {
        Some(Geometry::new(
            cluster_bytes,
            source.virtual_bytes(),
            options.extended_l2,
        )?)
    };
    let mode = match (raw, options.compress) {
        (true, _) => Mode::Raw,
        (false, Compress::None) => Mode::Planned,
        (false, _) => Mode::Packed,
    };
    Ok(Settled {
        mode,
        cluster_bytes,
        geometry,
        hash: options.hash && options.compress != Compress::Keep { trust: true } && !options.data_file,
    })
}

/// What a journal belongs to: everything that the target's bytes and the manifest depend on.
fn fingerprint(source: &dyn DiskSource, options: &CopyOptions, settled: &Settled) -> [u8; 32] {
    let mut text = format!(
        "{:?} {:?} {} {} {:?} {} {:?} {}",
        options.format,
        options.compress,
        settled.cluster_bytes,
        options.extended_l2,
        options.preallocation,
        settled.hash,
        options.reflink,
        source.virtual_bytes()
    );
    for handle in source.files() {
        let _ = write!(text, "\n{} {} {}", handle.bytes, handle.mtime_ns, handle.path.display());
    }
    *blake3::hash(text.as_bytes()).as_bytes()
}

fn unchanged(source: &dyn DiskSource) -> Result<(), ConvertError> {
    for handle in source.files() {
        let changed = |detail: String| ConvertError::SourceChanged {
            path: handle.path.clone(),
            detail,
        };
        let now = handle
            .file
            .metadata()
            .map_err(|error| ImageError::io(&handle.path, "looking at", error))?;
        if now.len() != handle.bytes {
            return Err(changed(format!("{} bytes then, {} now", handle.bytes, now.len())));
        }
        let mtime = now
            .mtime()
            .saturating_mul(1_000_000_000)
            .saturating_add(now.mtime_nsec());
        if mtime != handle.mtime_ns {
            return Err(changed("its modification time is another".into()));
        }
    }
    Ok(())
}

/// Applies outcomes in guest order: tables, leaves, sums.
struct Ledger<'f> {
    writer: Option<Qcow2Writer<'f>>,
    mode: Mode,
    everything: bool,
    cluster_bytes: u64,
    leaves: Vec<Leaf>,
    data_bytes: u64,
    /// Guest offset up to which everything is done.
    done: u64,
}

impl Ledger<'_> {
    /// Brings tables up to date; `write` gets the offset of each cluster that the ledger has to write itself.
    fn apply(
        &mut self,
        outcome: Outcome,
        mut write: impl FnMut(usize, u64) -> Result<(), ConvertError>,
        failed: impl Fn(std::io::Error) -> ConvertError,
    ) -> Result<(), ConvertError> {
        if let Some(writer) = &mut self.writer {
            let first = outcome.offset / self.cluster_bytes;
            for (slot, (guest, &code)) in (first..).zip(&outcome.codes).enumerate() {
                match (self.mode, code) {
                    (_, super::journal::ABSENT) => {}
                    (Mode::Planned, code) => {
                        writer
                            .stored(guest, code == STORED || self.everything)
                            .map_err(&failed)?;
                    }
                    (_, STORED) => write(slot, writer.stored(guest, true).map_err(&failed)?)?,
                    (_, length) => write(slot, writer.compressed(guest, length.into()).map_err(&failed)?)?,
                }
            }
        }
        self.leaves.extend(outcome.leaves);
        self.data_bytes += outcome.data_bytes;
        self.done = outcome.offset + outcome.length;
        Ok(())
    }
}

fn convert_with(
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
    let leaf_bytes = hash::leaf_bytes(source.virtual_bytes());
    let finished_before = path.symlink_metadata().is_ok();
    if finished_before && !(options.resume && journal_name.exists()) {
        return Err(ConvertError::TargetExists { path: path.to_owned() });
    }
    if options.data_file {
        return data_file_shell(source, path, name, &settled, options, started);
    }
    let describe = |ledger: &Ledger<'_>, file_bytes: u64, shared: u64| {
        let content = settled
            .hash
            .then(|| hash::tree(source.virtual_bytes(), leaf_bytes, &ledger.leaves));
        manifest(
            source,
            path,
            name,
            options,
            content,
            ledger.data_bytes,
            file_bytes,
            shared,
            started,
        )
    };
    if finished_before {
        // Killed between the final name and whatever the caller does with the manifest.
        let mut ledger = Ledger {
            writer: None,
            mode: settled.mode,
            everything: false,
            cluster_bytes: settled.cluster_bytes,
            leaves: Vec::new(),
            data_bytes: 0,
            done: 0,
        };
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
        let Some((_, Replayed::Complete(expected))) = replayed else {
            return Err(ConvertError::TargetExists { path: path.to_owned() });
        };
        if expected != length {
            return Err(ConvertError::TargetExists { path: path.to_owned() });
        }
        if !options.keep_journal {
            discard_journal(path)?;
        }
        return Ok(describe(&ledger, length, 0));
    }

    let target = Target::open(path)?;
    let mut ledger = Ledger {
        writer: settled.geometry.map(|geometry| {
            let format = options.compress.format().unwrap_or(CompressedFormat::Deflate);
            Qcow2Writer::new(&target.file, geometry, format)
        }),
        mode: settled.mode,
        everything: options.preallocation == Preallocation::Metadata,
        cluster_bytes: settled.cluster_bytes,
        leaves: Vec::new(),
        data_bytes: 0,
        done: 0,
    };
    let cut = |length: u64| {
        target
            .file
            .set_len(length)
            .map_err(|error| target.failed("setting the length of", length, error))
    };
    let replayed = if options.resume {
        Journal::replay(&journal_name, &mark, options.sync, |outcome| {
            ledger.apply(
                outcome,
                |_, _| Ok(()),
                |error| target.failed("writing tables", 0, error),
            )
        })?
    } else {
        None
    };
    let mut journal = match replayed {
        Some((journal, _)) => {
            // What lies behind the last record is done again; cut it off, so that nothing of it can stay.
            cut(ledger.writer.as_ref().map_or(ledger.done, Qcow2Writer::end))?;
            journal
        }
        None => {
            cut(0)?;
            Journal::create(&journal_name, &mark, options.sync)?
        }
    };
    for handle in source.files() {
        // Advice only: a file system without it reads all the same.
        let _ = fadvise(&handle.file, 0, None, Advice::Sequential);
    }
    let uncompressed = options.compress == Compress::None;
    let context = Context {
        source,
        target: &target,
        pool,
        mode: settled.mode,
        compress: options.compress,
        cluster_bytes: usize::try_from(settled.cluster_bytes).expect("at most 2 MiB"),
        leaf_bytes,
        hash: settled.hash,
        sharing: Sharing::detect(options.reflink, uncompressed, settled.hash, source, &target)?,
        cancel,
    };
    progress.begin(name, source.virtual_bytes());
    let result = copy(&context, &mut ledger, &mut journal, options, name, progress);
    progress.end(name);
    if let Err(error) = result {
        return Err(explain(
            error,
            source,
            &target,
            &journal_name,
            ledger.done,
            settled.cluster_bytes,
        ));
    }

    let failed = |doing: &'static str| {
        let target = &target;
        move |error| target.failed(doing, 0, error)
    };
    let sync = || {
        if options.sync {
            target.file.sync_data().map_err(failed("syncing"))
        } else {
            Ok(())
        }
    };
    let mut finish = || -> Result<u64, ConvertError> {
        let header = match &mut ledger.writer {
            Some(writer) => Some(writer.finish().map_err(failed("writing tables"))?),
            None => {
                cut(source.virtual_bytes())?;
                None
            }
        };
        sync()?;
        unchanged(source)?;
        if let (Some(writer), Some(header)) = (&ledger.writer, header) {
            writer.write_header(&header).map_err(failed("writing the header"))?;
            sync()?;
        }
        let length = ledger.writer.as_ref().map_or(source.virtual_bytes(), Qcow2Writer::end);
        journal.complete(length)?;
        target.publish(options.sync)?;
        Ok(length)
    };
    let length = finish().map_err(|error| {
        explain(
            error,
            source,
            &target,
            &journal_name,
            source.virtual_bytes(),
            settled.cluster_bytes,
        )
    })?;
    if !options.keep_journal {
        discard_journal(path)?;
    }
    Ok(describe(&ledger, length, context.sharing.bytes.load(Ordering::Relaxed)))
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
            needed: remaining(source, done, cluster_bytes),
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

fn copy(
    context: &Context<'_>,
    ledger: &mut Ledger<'_>,
    journal: &mut Journal,
    options: &CopyOptions,
    name: &str,
    progress: &dyn Progress,
) -> Result<(), ConvertError> {
    let start = ledger.done;
    progress.advance(name, start);
    let planner = Planner {
        source: context.source,
        pool: context.pool,
        unit_bytes: context
            .pool
            .unit_bytes
            .max(context.leaf_bytes)
            .max(u64::try_from(context.cluster_bytes).expect("at most 2 MiB")),
        cluster_bytes: u64::try_from(context.cluster_bytes).expect("at most 2 MiB"),
        placer: (context.mode == Mode::Planned).then(|| {
            ledger
                .writer
                .as_ref()
                .expect("planned places are a qcow2 writer's")
                .placer()
        }),
        everything: ledger.everything,
    };
    let failed = AtomicBool::new(false);
    let stopped = || failed.load(Ordering::Relaxed) || context.cancel.load(Ordering::Relaxed);
    let (unit_in, unit_out) = bounded::<Unit>(1);
    let (done_in, done_out) = unbounded::<Result<Done, ConvertError>>();
    let (record_in, record_out) = bounded::<Vec<u8>>(16);
    std::thread::scope(|scope| {
        let vouch = scope.spawn(|| {
            while let Ok(mut records) = record_out.recv() {
                // One sync covers everything that has come in meanwhile: all of it was written before it was sent.
                for more in record_out.try_iter() {
                    records.extend(more);
                }
                let synced = if options.sync {
                    context.target.file.sync_data()
                } else {
                    Ok(())
                };
                let written = synced
                    .map_err(|error| context.target.failed("syncing", 0, error))
                    .and_then(|()| journal.outcomes(&records));
                if written.is_err() {
                    failed.store(true, Ordering::Relaxed);
                    // Keep receiving, so that nobody waits for room.
                    while record_out.recv().is_ok() {}
                    return written;
                }
            }
            Ok(())
        });
        let errors = done_in.clone();
        let planner_stopped = &stopped;
        scope.spawn(move || {
            if let Err(error) = planner.run(start, planner_stopped, &unit_in) {
                let _ = errors.send(Err(error));
            }
        });
        for _ in 0..context.pool.threads {
            let (units, done) = (unit_out.clone(), done_in.clone());
            let stopped = &stopped;
            scope.spawn(move || work(context, &units, &done, stopped));
        }
        drop((unit_out, done_in));
        let mut waiting = BTreeMap::new();
        let mut next = 0;
        let mut first_error = None;
        let mut records = Vec::new();
        let mut since = start;
        loop {
            let result = match done_out.recv_timeout(POLL) {
                Ok(result) => result,
                Err(RecvTimeoutError::Timeout) => continue,
                Err(RecvTimeoutError::Disconnected) => break,
            };
            match result {
                Ok(done) => {
                    waiting.insert(done.sequence, done);
                }
                Err(error) => {
                    failed.store(true, Ordering::Relaxed);
                    first_error.get_or_insert(error);
                }
            }
            while first_error.is_none()
                && let Some(done) = waiting.remove(&next)
            {
                next += 1;
                let before = ledger.done;
                if let Err(error) = settle_unit(context, ledger, done, &mut records) {
                    failed.store(true, Ordering::Relaxed);
                    first_error = Some(error);
                    break;
                }
                progress.advance(name, ledger.done - before);
                if ledger.done - since >= options.checkpoint_bytes.min(4 << 30) {
                    since = ledger.done;
                    let _ = record_in.send(std::mem::take(&mut records));
                }
            }
            if first_error.is_some() {
                // Permits of units that nobody will apply go back to the pool.
                waiting.clear();
            }
        }
        // What was applied in order is good, whatever stopped the rest.
        if !records.is_empty() {
            let _ = record_in.send(records);
        }
        drop(record_in);
        let vouched = match vouch.join() {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        };
        match first_error {
            Some(error) => return Err(error),
            None => vouched?,
        }
        if context.cancel.load(Ordering::Relaxed) {
            return Err(ConvertError::Cancelled {
                partial: context.target.partial.clone(),
            });
        }
        progress.advance(name, context.source.virtual_bytes() - ledger.done);
        Ok(())
    })
}

fn work(
    context: &Context<'_>,
    units: &crossbeam_channel::Receiver<Unit>,
    done: &Sender<Result<Done, ConvertError>>,
    stopped: &dyn Fn() -> bool,
) {
    while let Ok(unit) = units.recv() {
        if stopped() {
            continue;
        }
        let result = context.pool.with_slot(|slot| context.process(unit, slot));
        if done.send(result).is_err() {
            break;
        }
    }
}

/// Applies a unit and writes the clusters whose places were found only now, joining neighbours.
fn settle_unit(
    context: &Context<'_>,
    ledger: &mut Ledger<'_>,
    done: Done,
    records: &mut Vec<u8>,
) -> Result<(), ConvertError> {
    let Done {
        outcome, bytes, ranges, ..
    } = &done;
    let mut pending: Option<(u64, std::ops::Range<usize>)> = None;
    ledger.apply(
        outcome.clone(),
        |slot, place| {
            let range = ranges[slot].clone();
            match &mut pending {
                Some((at, joined))
                    if joined.end == range.start
                        && *at + u64::try_from(joined.len()).expect("a unit fits into memory") == place =>
                {
                    joined.end = range.end;
                    Ok(())
                }
                _ => match pending.replace((place, range)) {
                    Some((at, joined)) => context.target.write(&bytes[joined], at),
                    None => Ok(()),
                },
            }
        },
        |error| context.target.failed("writing tables", 0, error),
    )?;
    if let Some((at, joined)) = pending {
        context.target.write(&bytes[joined], at)?;
    }
    // Only now: the journal vouches for nothing that failed to be written.
    outcome.encode(records);
    Ok(())
}

#[expect(clippy::too_many_arguments, reason = "everything that a manifest tells")]
fn manifest(
    source: &dyn DiskSource,
    path: &Path,
    name: &str,
    options: &CopyOptions,
    content: Option<reports::schema::HashTree>,
    data_bytes: u64,
    file_bytes: u64,
    shared: u64,
    started: Instant,
) -> DiskManifest {
    let mut notes = source.notes();
    let mode = match options.compress {
        _ if options.data_file => "data-file",
        Compress::None if shared > 0 => {
            notes.push(format!(
                "{shared} bytes share their place on the disk with the source until either is written to"
            ));
            "reflink"
        }
        Compress::None => "copy",
        Compress::Zlib => "zlib",
        Compress::Zstd { .. } => "zstd",
        Compress::Keep { trust } => {
            if trust {
                notes.push(
                    "compressed grains were moved unchecked: neither their checksums nor a content hash were taken"
                        .into(),
                );
            }
            "passthrough"
        }
    };
    DiskManifest {
        name: name.to_owned(),
        file: path
            .file_name()
            .unwrap_or(path.as_os_str())
            .to_string_lossy()
            .into_owned(),
        format: options.format.name().to_owned(),
        virtual_bytes: source.virtual_bytes(),
        data_bytes,
        file_bytes,
        content,
        sources: source
            .files()
            .iter()
            .map(|handle| SourceFile {
                path: handle.path.display().to_string(),
                bytes: handle.bytes,
                mtime_ns: handle.mtime_ns,
            })
            .collect(),
        mode: mode.to_owned(),
        seconds: started.elapsed().as_secs_f64(),
        notes,
    }
}

/// Writes tables over an existing flat file.
fn data_file_shell(
    source: &dyn DiskSource,
    path: &Path,
    name: &str,
    settled: &Settled,
    options: &CopyOptions,
    started: Instant,
) -> Result<DiskManifest, ConvertError> {
    let flat = flat_file(source)?;
    let target = Target::open(path)?;
    let geometry = settled.geometry.expect("a data file's format is qcow2");
    let failed = |error| target.failed("writing tables", 0, error);
    target.file.set_len(0).map_err(failed)?;
    // QEMU looks a relative name up in its own working folder, not beside the image: only a whole path always works.
    let stored = flat
        .canonicalize()
        .map_err(|error| ConvertError::from(ImageError::io(&flat, "resolving", error)))?;
    if stored.as_os_str().len() > 1023 {
        return Err(ConvertError::Options(format!(
            "the path of the data file, {}, is longer than 1023 bytes: put it beside the image",
            flat.display()
        )));
    }
    let header = write_data_file_shell(&target.file, geometry, stored.as_os_str().as_bytes()).map_err(failed)?;
    let sync = || if options.sync { target.file.sync_data() } else { Ok(()) };
    sync().map_err(failed)?;
    unchanged(source)?;
    Qcow2Writer::new(&target.file, geometry, CompressedFormat::Deflate)
        .write_header(&header)
        .and_then(|()| sync())
        .map_err(failed)?;
    target.publish(options.sync)?;
    let length = path
        .metadata()
        .map_err(|error| ConvertError::target(path, "looking at", error))?
        .len();
    let mut manifest = manifest(source, path, name, options, None, 0, length, 0, started);
    manifest.notes.push(format!(
        "the guest's disk is {} itself: a running guest writes to it, and its content was not hashed",
        flat.display()
    ));
    Ok(manifest)
}

/// The one file that already is the guest's disk, byte for byte.
fn flat_file(source: &dyn DiskSource) -> Result<PathBuf, ConvertError> {
    let refuse = |why: String| {
        ConvertError::Options(format!(
            "{why}: a data file needs a disk in one flat extent. Convert it without a data file"
        ))
    };
    let [handle] = source.files() else {
        return Err(refuse(format!("the disk consists of {} files", source.files().len())));
    };
    let total = source.virtual_bytes();
    if handle.bytes < total {
        return Err(refuse(format!("the file has {} bytes, the disk {total}", handle.bytes)));
    }
    let mut at = 0;
    while at < total {
        let length = (1 << 30).min(total - at);
        for run in source.map(at, length)? {
            let in_place = match run.source {
                RunSource::Raw { offset, .. } => offset == run.offset,
                RunSource::Hole | RunSource::Zero => is_hole(&handle.file, run.offset, run.length),
                RunSource::Deflate { .. } => false,
            };
            if !in_place {
                return Err(refuse(format!(
                    "guest byte {} does not lie at the same byte of the file",
                    run.offset
                )));
            }
        }
        at += length;
    }
    Ok(handle.path.clone())
}

fn is_hole(file: &std::fs::File, offset: u64, length: u64) -> bool {
    match rustix::fs::seek(file, rustix::fs::SeekFrom::Data(offset)) {
        Ok(data) => data >= offset + length,
        Err(rustix::io::Errno::NXIO) => true,
        Err(_) => false,
    }
}
