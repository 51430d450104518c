//! What the manifest tells of a disk.

use super::options::{Compress, CopyOptions};
use crate::image::map::DiskSource;
use reports::schema::{DiskManifest, SourceFile};
use std::path::Path;
use std::time::Instant;

/// What an interrupted run had done.
#[derive(Debug, Default)]
pub(super) struct Earlier {
    /// Guest bytes from the front that its journal vouches for.
    pub(super) bytes: u64,
    /// What it noted about the source.
    pub(super) notes: Vec<String>,
}

/// How the data travels with these options, as [`DiskManifest::mode`] names it; sharing blocks is a kind of `copy` here.
#[must_use]
pub fn mode_name(options: &CopyOptions) -> &'static str {
    match options.compress {
        _ if options.data_file => "data-file",
        Compress::None => "copy",
        Compress::Zlib => "zlib",
        Compress::Zstd { .. } => "zstd",
        Compress::Keep { .. } => "passthrough",
    }
}

#[expect(clippy::too_many_arguments, reason = "everything that a manifest tells")]
pub(super) fn manifest(
    source: &dyn DiskSource,
    path: &Path,
    name: &str,
    options: &CopyOptions,
    content: Option<reports::schema::HashTree>,
    data_bytes: u64,
    file_bytes: u64,
    shared: Option<u64>,
    earlier: &Earlier,
    started: Instant,
) -> DiskManifest {
    let mut notes = earlier.notes.clone();
    notes.extend(source.notes().into_iter().filter(|note| !earlier.notes.contains(note)));
    if earlier.bytes > 0 {
        notes.push(format!(
            "continued: the first {} guest bytes were done by an interrupted run and not read again",
            earlier.bytes
        ));
    }
    let mut mode = mode_name(options);
    if let (true, Some(bytes)) = (mode == "copy", shared) {
        if bytes > 0 {
            notes.push(format!(
                "{bytes} bytes share their place on the disk with the source until either is written to"
            ));
        }
        // What an interrupted run did, it did in the same way.
        if bytes > 0 || earlier.bytes > 0 {
            mode = "reflink";
        }
    }
    if options.compress == (Compress::Keep { trust: true }) {
        notes.push(
            "compressed grains were moved unchecked: neither their checksums nor a content hash were taken".into(),
        );
    }
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
