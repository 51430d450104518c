//! The one way to open a disk.

use std::path::{Path, PathBuf};

use super::gate::Gate;
use super::map::DiskSource;
use super::storage::{Part, Storage};
use super::vmdk::{Disk, Opener, Sniffed, sniff};
use super::{ImageError, ImageErrorKind};

/// A stretch of a file: a member of an OVA, or a chunk of a disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiskChunk {
    /// The file.
    pub path: PathBuf,
    /// Where the chunk begins in it, in bytes.
    pub offset: u64,
    /// Its bytes; `None` = to the end of the file.
    pub length: Option<u64>,
}

/// Where a disk lies.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DiskLocation {
    /// The file; for chunks the name to show.
    pub path: PathBuf,
    /// Offset and length in bytes, for a disk inside an OVA.
    pub window: Option<(u64, u64)>,
    /// The chunks that make the disk, in order; where there are any, `window` is not used.
    pub chunks: Vec<DiskChunk>,
}

impl DiskLocation {
    /// A disk that is a file, or a descriptor with files beside it.
    #[must_use]
    pub fn file(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            ..Self::default()
        }
    }

    /// A disk inside of a file, `length` bytes from `offset` on.
    #[must_use]
    pub fn window(path: impl Into<PathBuf>, offset: u64, length: u64) -> Self {
        Self {
            path: path.into(),
            window: Some((offset, length)),
            ..Self::default()
        }
    }

    /// A disk cut into chunks.
    #[must_use]
    pub fn chunks(shown: impl Into<PathBuf>, chunks: Vec<DiskChunk>) -> Self {
        Self {
            path: shown.into(),
            window: None,
            chunks,
        }
    }
}

/// How to open.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OpenOptions {
    /// Folders that files named inside the image may lie in, besides the image's own (`--allow-path`).
    pub allow: Vec<PathBuf>,
    /// Accept a parent whose CID isn't the child's `parentCID`.
    pub ignore_cid_mismatch: bool,
    /// Read what is readable: damage becomes zeros and a note. Only for rescuing data.
    pub salvage: bool,
    /// Take the file as raw, whatever its first bytes are.
    pub raw: bool,
}

/// Opens a disk, whatever its kind, with all links of its chain.
///
/// # Errors
/// Missing files, refused names, recognised kinds that cannot be read, damage in headers and descriptors. Damage in tables
/// and grains is met later, by [`DiskSource::map`] and [`DiskSource::read_at`].
pub fn open(location: &DiskLocation, options: &OpenOptions) -> Result<Box<dyn DiskSource>, ImageError> {
    let first = location.chunks.first().map_or(&location.path, |chunk| &chunk.path);
    let mut opener = Opener::new(Gate::around(first, &options.allow)?, options);
    let (storage, place) = if location.chunks.is_empty() {
        let opened = opener.gate().open_top(&location.path)?;
        match location.window {
            None => {
                let place = (opened.place.clone(), opened.identity);
                (opener.whole(opened, 0)?, Some(place))
            }
            Some((offset, length)) => {
                let bytes = opened.bytes;
                let file = opener.register(opened, 0);
                let part = window(&location.path, bytes, file, offset, length)?;
                (Storage::new(&location.path, vec![part])?, None)
            }
        }
    } else {
        let mut parts = Vec::with_capacity(location.chunks.len());
        for chunk in &location.chunks {
            let opened = opener.gate().open_top(&chunk.path)?;
            let bytes = opened.bytes;
            let file = opener.register(opened, 0);
            let length = chunk.length.unwrap_or_else(|| bytes.saturating_sub(chunk.offset));
            parts.push(window(&chunk.path, bytes, file, chunk.offset, length)?);
        }
        (Storage::new(&location.path, parts)?, None)
    };
    let head = opener.head(&storage)?;
    let kind = sniff(&head);
    let is_raw = options.raw || (kind == Sniffed::Other && !claims_vmdk(&location.path));
    if kind == Sniffed::Qcow2 && !options.raw {
        return Err(storage
            .error(
                ImageErrorKind::Unsupported,
                0,
                "this is a qcow2 image, not a source that is converted",
            )
            .advise("It can be used as it is"));
    }
    let links = if is_raw {
        vec![opener.raw(storage)?]
    } else {
        let (place, identity) = place.unzip();
        opener.chain(storage, place, identity)?
    };
    Ok(Box::new(Disk::new(opener, links, options.salvage)))
}

fn window(path: &Path, bytes: u64, file: usize, offset: u64, length: u64) -> Result<Part, ImageError> {
    match offset.checked_add(length) {
        Some(end) if end <= bytes => Ok(Part {
            start: 0,
            length,
            file,
            base: offset,
        }),
        _ => Err(ImageError::new(
            ImageErrorKind::Truncated,
            path,
            format!("the disk is said to be {length} bytes from {offset} on, the file has {bytes}"),
        )
        .at(offset)
        .advise("The archive is cut; copy it again")),
    }
}

/// Whether the name promises a VMDK that isn't flat data: such a file must not pass as raw when its header is gone.
fn claims_vmdk(path: &Path) -> bool {
    let name = path
        .file_name()
        .map(|name| name.to_string_lossy().to_ascii_lowercase())
        .unwrap_or_default();
    let Some(stem) = name.strip_suffix(".vmdk") else {
        return false;
    };
    let numbered = stem
        .rsplit_once("-f")
        .is_some_and(|(_, digits)| !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit()));
    !(stem.ends_with("-flat") || numbered)
}
