//! An image that holds only tables: the guest's disk stays in the flat file that is its source.

use super::error::ConvertError;
use super::manifest::manifest;
use super::options::CopyOptions;
use super::settle::{Settled, unchanged};
use super::target::Target;
use crate::image::ImageError;
use crate::image::map::{DiskSource, RunSource};
use crate::image::qcow2::{CompressedFormat, Qcow2Writer, write_data_file_shell};
use reports::schema::DiskManifest;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// Writes tables over an existing flat file.
pub(super) fn data_file_shell(
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
