//! What `inspect` shows of a disk: a summary, and the map as JSON.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};

use serde::Serialize;

use super::map::{DiskSource, LinkFacts, Run, RunSource};
use super::{ImageError, ImageErrorKind};

/// Guest bytes mapped at once. A window of 512-byte grains, each with a place of its own, takes some 30 MiB.
const WINDOW: u64 = 256 << 20;

/// A disk in words and numbers.
#[derive(Debug, Clone, Serialize)]
pub struct DiskSummary {
    /// As [`DiskSource::kind`].
    pub kind: String,
    /// Guest-visible size in bytes.
    pub virtual_bytes: u64,
    /// Guest bytes that are stored, compressed or not.
    pub data_bytes: u64,
    /// Guest bytes that are explicitly zero.
    pub zero_bytes: u64,
    /// Guest bytes that were never written.
    pub hole_bytes: u64,
    /// File bytes that hold the stored data (compressed lengths for compressed grains).
    pub stored_bytes: u64,
    /// Runs in the map.
    pub runs: u64,
    /// Compressed grains among them.
    pub compressed_grains: u64,
    /// `createType` of the newest link.
    pub create_type: Option<String>,
    /// `ddb.adapterType`.
    pub adapter_type: Option<String>,
    /// The disk data base, newest link first.
    pub ddb: BTreeMap<String, String>,
    /// The chain, newest first.
    pub links: Vec<LinkFacts>,
    /// Files that hold data.
    pub files: Vec<FileSummary>,
    /// Oddities.
    pub notes: Vec<String>,
}

/// A file of the chain.
#[derive(Debug, Clone, Serialize)]
pub struct FileSummary {
    /// Path.
    pub path: PathBuf,
    /// Length in bytes.
    pub bytes: u64,
    /// Link, 0 = newest.
    pub link: usize,
}

/// A run as `inspect --map --json` lists it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct JsonRun {
    /// Guest offset in bytes.
    pub offset: u64,
    /// Bytes.
    pub length: u64,
    /// `data`, `zero` or `hole`.
    pub kind: &'static str,
    /// Where the data lies.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<PathBuf>,
    /// Byte offset in that file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file_offset: Option<u64>,
    /// Compressed bytes there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub compressed: Option<u32>,
    /// Guest offset in bytes at which the compressed grain begins: before `offset` where another link covers its front.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub grain_offset: Option<u64>,
    /// Bytes that the grain inflates to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub grain_bytes: Option<u32>,
}

impl JsonRun {
    /// `run` with its file's name.
    #[must_use]
    pub fn new(source: &dyn DiskSource, run: &Run) -> Self {
        let (kind, file, file_offset, compressed) = match run.source {
            RunSource::Hole => ("hole", None, None, None),
            RunSource::Zero => ("zero", None, None, None),
            RunSource::Raw { file, offset } => ("data", Some(file), Some(offset), None),
            RunSource::Deflate {
                file,
                offset,
                compressed,
                ..
            } => ("data", Some(file), Some(offset), Some(compressed)),
        };
        let grain = match run.source {
            RunSource::Deflate {
                grain_start,
                grain_bytes,
                ..
            } => Some((grain_start, grain_bytes)),
            _ => None,
        };
        let file = file
            .and_then(|file| source.files().get(file))
            .map(|handle| handle.path.clone());
        Self {
            offset: run.offset,
            length: run.length,
            kind,
            file,
            file_offset,
            compressed,
            grain_offset: grain.map(|(start, _)| start),
            grain_bytes: grain.map(|(_, bytes)| bytes),
        }
    }
}

/// Hands every run of the disk to `each`, in order, mapping a window at a time.
///
/// # Errors
/// As [`DiskSource::map`], what `each` returns, and [`ImageErrorKind::Cancelled`].
pub fn for_each_run(
    source: &dyn DiskSource,
    cancel: &AtomicBool,
    mut each: impl FnMut(&Run) -> Result<(), ImageError>,
) -> Result<(), ImageError> {
    let end = source.virtual_bytes();
    let mut at = 0;
    let mut held: Option<Run> = None;
    while at < end {
        if cancel.load(Ordering::Relaxed) {
            let path = source
                .files()
                .first()
                .map(|handle| handle.path.clone())
                .unwrap_or_default();
            return Err(ImageError::new(ImageErrorKind::Cancelled, &path, "stopped by the user"));
        }
        let length = WINDOW.min(end - at);
        for run in source.map(at, length)? {
            match held.take() {
                None => held = Some(run),
                Some(last) => match join(&last, &run) {
                    Some(joined) => held = Some(joined),
                    None => {
                        each(&last)?;
                        held = Some(run);
                    }
                },
            }
        }
        at += length;
    }
    held.map_or(Ok(()), |run| each(&run))
}

/// Two runs as one, where the window's edge cut it.
fn join(last: &Run, next: &Run) -> Option<Run> {
    let joins = match (last.source, next.source) {
        (RunSource::Raw { file: a, offset: at }, RunSource::Raw { file: b, offset }) => {
            a == b && at + last.length == offset
        }
        (RunSource::Deflate { .. }, b) => last.source == b,
        (a, b) => a == b,
    };
    joins.then_some(Run {
        length: last.length + next.length,
        ..*last
    })
}

/// Walks the whole map and sums it up.
///
/// # Errors
/// As [`for_each_run`].
pub fn describe(source: &dyn DiskSource, cancel: &AtomicBool) -> Result<DiskSummary, ImageError> {
    let facts = source.facts();
    let mut summary = DiskSummary {
        kind: source.kind(),
        virtual_bytes: source.virtual_bytes(),
        data_bytes: 0,
        zero_bytes: 0,
        hole_bytes: 0,
        stored_bytes: 0,
        runs: 0,
        compressed_grains: 0,
        create_type: facts.links.first().and_then(|link| link.create_type.clone()),
        adapter_type: facts.ddb.get("adaptertype").cloned(),
        ddb: facts.ddb,
        links: facts.links,
        files: source
            .files()
            .iter()
            .map(|handle| FileSummary {
                path: handle.path.clone(),
                bytes: handle.bytes,
                link: handle.link,
            })
            .collect(),
        notes: Vec::new(),
    };
    for_each_run(source, cancel, |run| {
        summary.runs += 1;
        match run.source {
            RunSource::Hole => summary.hole_bytes += run.length,
            RunSource::Zero => summary.zero_bytes += run.length,
            RunSource::Raw { .. } => {
                summary.data_bytes += run.length;
                summary.stored_bytes += run.length;
            }
            RunSource::Deflate { compressed, .. } => {
                summary.data_bytes += run.length;
                summary.stored_bytes += u64::from(compressed);
                summary.compressed_grains += 1;
            }
        }
        Ok(())
    })?;
    summary.notes = source.notes();
    Ok(summary)
}
