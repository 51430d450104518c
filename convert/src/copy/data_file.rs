//! An image that holds only tables: the guest's disk stays in the flat file that is its source.

use super::error::ConvertError;
use super::manifest::{Earlier, manifest};
use super::options::CopyOptions;
use super::settle::{Settled, unchanged};
use super::target::Target;
use crate::image::ImageError;
use crate::image::map::{DiskSource, RunSource};
use crate::image::qcow2::{CompressedFormat, Qcow2Writer, write_data_file_shell};
use reports::schema::DiskManifest;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// Guest bytes mapped at a time: what a disk in small pieces makes of it fits into memory, and the first piece already refuses.
const WINDOW_BYTES: u64 = 1 << 30;
/// Bound on the holes that are remembered until it is known which file they are holes of.
const MAX_HOLES: usize = 1 << 20;

/// Writes tables over an existing flat file. With `finished_before` a file under the final name is taken for the work of an
/// earlier run if it is what this one writes: the tables depend on nothing but the source and the options.
pub(super) fn data_file_shell(
    source: &dyn DiskSource,
    path: &Path,
    name: &str,
    settled: &Settled,
    options: &CopyOptions,
    finished_before: bool,
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
    if finished_before {
        let same = same_content(&target, path);
        std::fs::remove_file(&target.partial).map_err(|error| target.failed("removing", 0, error))?;
        if !same? {
            return Err(ConvertError::TargetExists { path: path.to_owned() });
        }
    } else {
        target.publish(options.sync)?;
    }
    let length = path
        .metadata()
        .map_err(|error| ConvertError::target(path, "looking at", error))?
        .len();
    let mut manifest = manifest(
        source,
        path,
        name,
        options,
        None,
        0,
        length,
        None,
        &Earlier::default(),
        started,
    );
    // What the image names: verification opens this file and no other.
    if let Some(first) = manifest.sources.first_mut() {
        first.path = stored.display().to_string();
    }
    manifest.notes.push(format!(
        "the guest's disk is {} itself: a running guest writes to it, and its content was not hashed",
        flat.display()
    ));
    Ok(manifest)
}

/// Whether the file under the final name holds what the partial one does.
fn same_content(target: &Target, path: &Path) -> Result<bool, ConvertError> {
    let failed = |error| ConvertError::target(path, "reading", error);
    let there = std::fs::File::open(path).map_err(failed)?;
    let length = target.bytes()?;
    if there.metadata().map_err(failed)?.len() != length {
        return Ok(false);
    }
    let (mut mine, mut other) = (vec![0; 1 << 20], vec![0; 1 << 20]);
    let mut at = 0;
    while at < length {
        let count = usize::try_from(length - at).unwrap_or(usize::MAX).min(mine.len());
        target.file.read_exact_at(&mut mine[..count], at).map_err(failed)?;
        there.read_exact_at(&mut other[..count], at).map_err(failed)?;
        if mine[..count] != other[..count] {
            return Ok(false);
        }
        at += u64::try_from(count).expect("at most 1 MiB");
    }
    Ok(true)
}

/// The one file that already is the guest's disk, byte for byte. A descriptor beside it holds none of the disk.
fn flat_file(source: &dyn DiskSource) -> Result<PathBuf, ConvertError> {
    let refuse = |why: String| {
        ConvertError::Options(format!(
            "{why}: a data file needs a disk in one flat extent. Convert it without a data file"
        ))
    };
    let total = source.virtual_bytes();
    let mut found = None;
    let mut holes = Vec::new();
    let mut at = 0;
    while at < total {
        let length = WINDOW_BYTES.min(total - at);
        for run in source.map(at, length)? {
            match run.source {
                RunSource::Raw { file, offset } if offset == run.offset && *found.get_or_insert(file) == file => {}
                RunSource::Hole | RunSource::Zero if holes.len() < MAX_HOLES => match holes.last_mut() {
                    Some((begin, bytes)) if *begin + *bytes == run.offset => *bytes += run.length,
                    _ => holes.push((run.offset, run.length)),
                },
                _ => {
                    return Err(refuse(format!(
                        "guest byte {} does not lie at the same byte of one file",
                        run.offset
                    )));
                }
            }
        }
        at += length;
    }
    let handle = match (found, source.files()) {
        (Some(file), files) => &files[file],
        // Nothing was ever written: the largest file is the extent, and has to hold nothing but holes.
        (None, files) => files
            .iter()
            .max_by_key(|handle| handle.bytes)
            .ok_or_else(|| refuse("the disk has no file".into()))?,
    };
    if handle.bytes < total {
        return Err(refuse(format!("the file has {} bytes, the disk {total}", handle.bytes)));
    }
    match holes
        .iter()
        .find(|(offset, length)| !is_hole(&handle.file, *offset, *length))
    {
        Some((offset, _)) => Err(refuse(format!("guest byte {offset} is zero, the file's is not"))),
        None => Ok(handle.path.clone()),
    }
}

fn is_hole(file: &std::fs::File, offset: u64, length: u64) -> bool {
    match rustix::fs::seek(file, rustix::fs::SeekFrom::Data(offset)) {
        Ok(data) => data >= offset + length,
        Err(rustix::io::Errno::NXIO) => true,
        Err(_) => false,
    }
}
