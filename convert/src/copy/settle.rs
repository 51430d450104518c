//! Options settled with the source, and whether the source is still what it was.

use super::error::ConvertError;
use super::options::{Compress, CopyOptions, Preallocation, TargetFormat};
use super::target::Target;
use super::worker::Mode;
use crate::image::ImageError;
use crate::image::map::DiskSource;
use crate::image::qcow2::{CompressedFormat, Geometry, Qcow2Writer};
use std::fmt::Write as _;
use std::fs::File;
use std::os::fd::AsRawFd as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;

/// Options after the defaults were filled in and checked against each other and the source.
pub(super) struct Settled {
    pub(super) mode: Mode,
    pub(super) cluster_bytes: u64,
    pub(super) geometry: Option<Geometry>,
    pub(super) hash: bool,
}

impl Settled {
    /// The writer of `target`'s tables; `None` for raw.
    pub(super) fn writer<'f>(&self, target: &'f Target, options: &CopyOptions) -> Option<Qcow2Writer<'f>> {
        let format = options.compress.format().unwrap_or(CompressedFormat::Deflate);
        self.geometry
            .map(|geometry| Qcow2Writer::new(&target.file, geometry, format))
    }
}

/// Fills in defaults and refuses contradictions, before anything is written.
pub(super) fn settle(source: &dyn DiskSource, options: &CopyOptions) -> Result<Settled, ConvertError> {
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
pub(super) fn fingerprint(source: &dyn DiskSource, options: &CopyOptions, settled: &Settled) -> [u8; 32] {
    let mut text = format!(
        "{} {:?} {:?} {} {} {:?} {} {:?} {}",
        // Another version may lay out or compress otherwise, and a mixture of both is nobody's image.
        env!("CARGO_PKG_VERSION"),
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

/// Refuses a source whose files are gone, replaced, or of another length or modification time than when they were opened.
pub(super) fn unchanged(source: &dyn DiskSource) -> Result<(), ConvertError> {
    for handle in source.files() {
        let changed = |detail: String| ConvertError::SourceChanged {
            path: handle.path.clone(),
            detail,
        };
        let now = handle
            .file
            .metadata()
            .map_err(|error| ImageError::io(&handle.path, "looking at", error))?;
        if !in_memory(&handle.file) {
            if now.nlink() == 0 {
                return Err(changed("it was removed".into()));
            }
            if let Ok(named) = std::fs::metadata(&handle.path)
                && (named.dev(), named.ino()) != (now.dev(), now.ino())
            {
                return Err(changed("another file has its name now".into()));
            }
        }
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

/// Whether a file never had a name: the grains across the seams of a chunked disk, the nameplate of a pipe.
fn in_memory(file: &File) -> bool {
    std::fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd()))
        .is_ok_and(|name| name.as_os_str().as_bytes().starts_with(b"/memfd:"))
}
