//! Reading a converted disk again and comparing it with its manifest, and with its source.

use super::error::ConvertError;
use super::hash::{self, Leaf, Listing, Shape};
use super::zero::is_zero;
use crate::image::map::DiskSource;
use crate::image::qcow2::{DataFileRule, Qcow2Image};
use crate::image::{ImageError, ImageErrorKind};
use crate::progress::Progress;
use reports::schema::{DiskManifest, HashTree};
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

/// Largest leaf that a manifest may ask for, in bytes.
const MAX_LEAF: u64 = 16 << 20;
/// Most leaves to a group that a manifest may ask for.
const MAX_GROUP: u64 = 1 << 20;
/// Guest bytes that a thread takes at a time: what stays in its processor's cache until it is hashed.
const STEP_BYTES: u64 = 1 << 20;

/// How to verify.
#[derive(Debug, Clone, Copy, Default)]
pub struct VerifyOptions {
    /// Threads; `None` = one a processor.
    pub jobs: Option<usize>,
}

/// What verification found.
#[derive(Debug, Clone, PartialEq)]
pub struct VerifyOutcome {
    /// The content is what the manifest (and the source, where one was given) says.
    pub identical: bool,
    /// First guest byte that differs: exact against a source, else the start of the first stretch that differs.
    pub first_difference: Option<u64>,
    /// Guest bytes that one hash of the manifest covers: how far behind `first_difference` the difference may lie.
    pub stretch_bytes: u64,
    /// Whether `first_difference` is exact to the byte.
    pub exact: bool,
    /// Hashes that differ from the manifest's.
    pub differing_leaves: u64,
    /// Guest bytes compared, holes included.
    pub bytes: u64,
    /// Whether the manifest had a content hash to compare with.
    pub hashed: bool,
    /// Wall time in seconds.
    pub seconds: f64,
    /// What else was seen, in words.
    pub notes: Vec<String>,
}

/// A target to be read.
enum Reader {
    Qcow2(Qcow2Image),
    Raw { path: PathBuf, file: File, bytes: u64 },
    Source,
}

impl Reader {
    fn open(target: &Path, manifest: &DiskManifest) -> Result<Self, ConvertError> {
        match manifest.format.as_str() {
            "qcow2" => {
                let flat = manifest.sources.first().map(|source| PathBuf::from(&source.path));
                let rule = match &flat {
                    Some(flat) if manifest.mode == "data-file" => DataFileRule::Named(flat),
                    _ => DataFileRule::Beside,
                };
                Ok(Self::Qcow2(Qcow2Image::open(target, rule)?))
            }
            "raw" => {
                let file = File::open(target).map_err(|error| ImageError::io(target, "opening", error))?;
                let metadata = file
                    .metadata()
                    .map_err(|error| ImageError::io(target, "looking at", error))?;
                Ok(Self::Raw {
                    path: target.to_owned(),
                    file,
                    bytes: metadata.len(),
                })
            }
            other => Err(ConvertError::Options(format!(
                "the manifest names the format {other}, verifiable are qcow2 and raw"
            ))),
        }
    }

    fn bytes(&self, source: Option<&dyn DiskSource>) -> u64 {
        match self {
            Self::Qcow2(image) => image.virtual_bytes(),
            Self::Raw { bytes, .. } => *bytes,
            Self::Source => source.map_or(0, DiskSource::virtual_bytes),
        }
    }

    /// Fills `out`; false where the whole window is unallocated and so zero (`out` is then left alone).
    fn read(&self, source: Option<&dyn DiskSource>, offset: u64, out: &mut [u8]) -> Result<bool, ImageError> {
        let length = u64::try_from(out.len()).expect("a buffer in memory");
        match self {
            Self::Qcow2(image) => {
                if image.data(offset, length)?.is_empty() {
                    return Ok(false);
                }
                image.read_at(offset, out)?;
            }
            Self::Raw { path, file, .. } => {
                match rustix::fs::seek(file, rustix::fs::SeekFrom::Data(offset)) {
                    Ok(data) if data >= offset + length => return Ok(false),
                    Err(rustix::io::Errno::NXIO) => return Ok(false),
                    _ => {}
                }
                file.read_exact_at(out, offset)
                    .map_err(|error| ImageError::io(path, "reading", error).at(offset))?;
            }
            Self::Source => source.expect("made with a source").read_at(offset, out)?,
        }
        Ok(true)
    }
}

struct Found {
    leaves: Vec<Leaf>,
    first: Option<u64>,
    error: Option<ConvertError>,
}

/// Reads `target` again and compares its content with `manifest`, and byte by byte with `against` where that is given.
///
/// A difference is an outcome, not an error; so is a target that cannot be read to the end only an error.
///
/// # Errors
/// The target or source cannot be opened or read, the manifest contradicts itself, cancellation.
pub fn verify(
    target: &Path,
    manifest: &DiskManifest,
    against: Option<&dyn DiskSource>,
    options: VerifyOptions,
    progress: &dyn Progress,
    cancel: &AtomicBool,
) -> Result<VerifyOutcome, ConvertError> {
    let started = Instant::now();
    let reader = Reader::open(target, manifest)?;
    let mut notes = Vec::new();
    let total = reader.bytes(None);
    let mut outcome = VerifyOutcome {
        identical: false,
        first_difference: None,
        stretch_bytes: 0,
        exact: false,
        differing_leaves: 0,
        bytes: total,
        hashed: manifest.content.is_some(),
        seconds: 0.0,
        notes: Vec::new(),
    };
    let other = against.map(DiskSource::virtual_bytes).filter(|&bytes| bytes != total);
    if total != manifest.virtual_bytes || other.is_some() {
        let least = total.min(manifest.virtual_bytes).min(other.unwrap_or(total));
        outcome.first_difference = Some(least);
        outcome.exact = true;
        outcome.notes.push(format!(
            "the target has {total} bytes, the manifest says {}{}",
            manifest.virtual_bytes,
            other
                .map(|bytes| format!(", the source has {bytes}"))
                .unwrap_or_default()
        ));
        return Ok(outcome);
    }
    let shape = match &manifest.content {
        Some(tree) => check_tree(tree, total)?,
        None => Shape::of(total),
    };
    outcome.stretch_bytes = shape.listed_bytes();
    if manifest.content.is_none() && against.is_none() {
        return Err(ConvertError::Options(
            "the manifest holds no content hash: give the source to compare with".into(),
        ));
    }
    let file_bytes = target
        .metadata()
        .map_err(|error| ImageError::io(target, "looking at", error))?
        .len();
    if file_bytes != manifest.file_bytes {
        notes.push(format!(
            "the file has {file_bytes} bytes, {} when it was written: something has written to it",
            manifest.file_bytes
        ));
    }
    let found = walk(
        &reader,
        against,
        total,
        shape,
        options,
        &manifest.name,
        progress,
        cancel,
    )?;
    outcome.exact = against.is_some() && found.first.is_some();
    outcome.first_difference = found.first;
    if let Some(tree) = &manifest.content {
        let differing = differing(tree, &found.leaves);
        outcome.differing_leaves = u64::try_from(differing.len()).expect("leaves in memory");
        if outcome.first_difference.is_none() {
            outcome.first_difference = differing.first().map(|index| index * shape.listed_bytes());
        }
        if differing.is_empty() && hash::tree(total, shape, &found.leaves).root != tree.root {
            return Err(ConvertError::Options(
                "the manifest's root hash does not belong to its leaves: the manifest was changed".into(),
            ));
        }
    }
    outcome.identical = outcome.first_difference.is_none();
    outcome.seconds = started.elapsed().as_secs_f64();
    outcome.notes = notes;
    Ok(outcome)
}

/// The content hash of a source, read in parallel; for comparing a source with a manifest without a target.
///
/// # Errors
/// Reading, cancellation.
pub fn hash_source(
    source: &dyn DiskSource,
    name: &str,
    options: VerifyOptions,
    progress: &dyn Progress,
    cancel: &AtomicBool,
) -> Result<HashTree, ConvertError> {
    let total = source.virtual_bytes();
    let shape = Shape::of(total);
    let found = walk(
        &Reader::Source,
        Some(source),
        total,
        shape,
        options,
        name,
        progress,
        cancel,
    )?;
    Ok(hash::tree(total, shape, &found.leaves))
}

/// The content hash of a converted disk as it is now: after something has changed it on purpose.
///
/// # Errors
/// The target cannot be opened or read, cancellation.
pub fn hash_target(
    target: &Path,
    manifest: &DiskManifest,
    options: VerifyOptions,
    progress: &dyn Progress,
    cancel: &AtomicBool,
) -> Result<HashTree, ConvertError> {
    let reader = Reader::open(target, manifest)?;
    let total = reader.bytes(None);
    let shape = Shape::of(total);
    let found = walk(&reader, None, total, shape, options, &manifest.name, progress, cancel)?;
    Ok(hash::tree(total, shape, &found.leaves))
}

fn check_tree(tree: &HashTree, total: u64) -> Result<Shape, ConvertError> {
    if tree.algorithm != "blake3" {
        return Err(ConvertError::Options(format!(
            "the manifest's hash is {}, verifiable is blake3",
            tree.algorithm
        )));
    }
    if !tree.leaf_bytes.is_power_of_two() || !(4096..=MAX_LEAF).contains(&tree.leaf_bytes) {
        return Err(ConvertError::Options(format!(
            "the manifest's leaves have {} bytes, allowed are powers of two from 4096 to {MAX_LEAF}",
            tree.leaf_bytes
        )));
    }
    if !tree.group_leaves.is_power_of_two() || tree.group_leaves > MAX_GROUP {
        return Err(ConvertError::Options(format!(
            "the manifest's groups have {} leaves, allowed are powers of two up to {MAX_GROUP}",
            tree.group_leaves
        )));
    }
    let shape = Shape {
        leaf_bytes: tree.leaf_bytes,
        group_leaves: tree.group_leaves,
    };
    let ascending = tree.leaves.windows(2).all(|pair| pair[0].0 < pair[1].0);
    let inside = tree
        .leaves
        .last()
        .is_none_or(|(index, _)| *index < total.div_ceil(shape.listed_bytes()));
    if !ascending || !inside {
        return Err(ConvertError::Options(
            "the manifest's leaves are out of order or past the disk: the manifest was changed".into(),
        ));
    }
    Ok(shape)
}

/// Indices of leaves that differ, ascending.
fn differing(tree: &HashTree, found: &[Leaf]) -> Vec<u64> {
    let mut expected = tree.leaves.iter().peekable();
    let mut seen = found.iter().peekable();
    let mut out = Vec::new();
    loop {
        match (expected.peek(), seen.peek()) {
            (None, None) => return out,
            (Some((a, hash)), Some((b, bytes))) if a == b => {
                if blake3::Hash::from_bytes(*bytes).to_hex().as_str() != hash {
                    out.push(*a);
                }
                expected.next();
                seen.next();
            }
            (Some((a, _)), other) if other.is_none_or(|(b, _)| a < b) => {
                out.push(*a);
                expected.next();
            }
            (_, Some((b, _))) => {
                out.push(*b);
                seen.next();
            }
            (Some(_), None) => unreachable!("covered by the arm with the guard"),
        }
    }
}

#[expect(clippy::too_many_arguments, reason = "one call from two places")]
fn walk(
    reader: &Reader,
    source: Option<&dyn DiskSource>,
    total: u64,
    shape: Shape,
    options: VerifyOptions,
    name: &str,
    progress: &dyn Progress,
    cancel: &AtomicBool,
) -> Result<Found, ConvertError> {
    let step = STEP_BYTES.max(shape.leaf_bytes);
    // A thread takes whole groups, so that it can close them alone.
    let stretch = step.max(shape.listed_bytes());
    let threads = options
        .jobs
        .unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from))
        .clamp(1, 24);
    let next = AtomicU64::new(0);
    let stop = AtomicBool::new(false);
    let found = Mutex::new(Found {
        leaves: Vec::new(),
        first: None,
        error: None,
    });
    progress.begin(name, total);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                let room = usize::try_from(step).expect("at most 16 MiB");
                let mut mine = vec![0_u8; room];
                let compares = source.is_some() && !matches!(reader, Reader::Source);
                let mut other = vec![0_u8; if compares { room } else { 0 }];
                while !stop.load(Ordering::Relaxed) && !cancel.load(Ordering::Relaxed) {
                    let begin = next.fetch_add(1, Ordering::Relaxed).saturating_mul(stretch);
                    if begin >= total {
                        break;
                    }
                    let end = total.min(begin.saturating_add(stretch));
                    let mut listing = Listing::new(shape);
                    let mut first = None;
                    let mut offset = begin;
                    while offset < end && !stop.load(Ordering::Relaxed) && !cancel.load(Ordering::Relaxed) {
                        let length = step.min(end - offset);
                        let count = usize::try_from(length).expect("at most 16 MiB");
                        let (mine, other) = (&mut mine[..count], other.get_mut(..count));
                        match look(reader, source, offset, mine, other, shape.leaf_bytes) {
                            Ok((leaves, differs)) => {
                                for leaf in leaves {
                                    listing.push(leaf);
                                }
                                first = first.or(differs);
                            }
                            Err(error) => {
                                stop.store(true, Ordering::Relaxed);
                                let mut found = found.lock().unwrap_or_else(PoisonError::into_inner);
                                found.error.get_or_insert(error.into());
                            }
                        }
                        progress.advance(name, length);
                        offset += length;
                    }
                    let mut found = found.lock().unwrap_or_else(PoisonError::into_inner);
                    found.leaves.extend(listing.listed());
                    if let Some(first) = first {
                        found.first = Some(found.first.map_or(first, |known| known.min(first)));
                    }
                }
            });
        }
    });
    progress.end(name);
    let mut found = found.into_inner().unwrap_or_else(PoisonError::into_inner);
    if let Some(error) = found.error.take() {
        return Err(error);
    }
    if cancel.load(Ordering::Relaxed) {
        return Err(ImageError::new(ImageErrorKind::Cancelled, Path::new(name), "verification was stopped").into());
    }
    found.leaves.sort_unstable_by_key(|(index, _)| *index);
    Ok(found)
}

/// Leaves of one window, and the first byte of it that differs from the source.
fn look(
    reader: &Reader,
    source: Option<&dyn DiskSource>,
    offset: u64,
    mine: &mut [u8],
    other: Option<&mut [u8]>,
    leaf_bytes: u64,
) -> Result<(Vec<Leaf>, Option<u64>), ImageError> {
    let data = reader.read(source, offset, mine)?;
    let mut first = None;
    if let (Some(source), Some(other)) = (source, other.filter(|other| !other.is_empty())) {
        source.read_at(offset, other)?;
        let differs = if data { mine != other } else { !is_zero(other) };
        if differs {
            if !data {
                mine.fill(0);
            }
            let at = mine
                .iter()
                .zip(other.iter())
                .position(|(a, b)| a != b)
                .expect("they differ");
            first = Some(offset + u64::try_from(at).expect("inside a buffer"));
        }
    }
    let leaves = if data {
        hash::leaves(offset, mine, leaf_bytes)
    } else {
        Vec::new()
    };
    Ok((leaves, first))
}
