//! What the head of a VMDK says, for the checks before a copy: thousands of disks in seconds, so no table is read.
//!
//! Parser and gate are those of the disk reader, so that both see the same names, encodings and refusals.

use super::{DiskPlace, ImportOptions};
use crate::image::gate::{Gate, Opened};
use crate::image::vmdk::descriptor::{Descriptor, ExtentType, MAX_TEXT, looks_like_descriptor};
use crate::image::vmdk::parent;
use crate::image::{ImageError, ImageErrorKind};
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

/// What the head of a VMDK says.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct DiskHeader {
    /// `createType`: `streamOptimized`, `vmfsRawDeviceMap`. Empty where no descriptor was found.
    pub create_type: String,
    /// `ddb.adapterType` in lower case: `lsilogic`, `ide`.
    pub adapter: Option<String>,
    /// The parent's file name (`parentFileNameHint`).
    pub parent: Option<String>,
    /// The parent lies where it may be read.
    pub parent_found: bool,
    /// `parentCID` differs from the parent's `CID`, and nobody said that this shall be ignored.
    pub parent_changed: Option<String>,
    /// Links of the chain below this file.
    pub depth: usize,
    /// Kinds of the extents: `VMFS`, `SESPARSE`.
    pub extents: Vec<String>,
    /// Extent files that are missing or too short, in words.
    pub torn: Vec<String>,
    /// Extents and parents that the gate refused, in words.
    pub refused: Vec<String>,
    /// Size in sectors: the sum of the extents, or the capacity of the sparse header.
    pub sectors: Option<u64>,
    /// An encrypted disk.
    pub encrypted: bool,
    /// `ddb.uuid` in lower-case hex without signs between.
    pub uuid: Option<String>,
}

const MAX_CHAIN: usize = 256;

/// The text of a descriptor and what stands before it.
struct Head {
    text: Vec<u8>,
    /// Where the text begins in its file.
    base: u64,
    /// Sectors that the sparse header around it says.
    capacity: Option<u64>,
}

/// Whether a file of this name is a disk that a guest would name, not an extent of one.
pub(super) fn is_top(path: &Path) -> bool {
    File::open(path).is_ok_and(|file| {
        head(&file, 0)
            .is_some_and(|head| !head.text.is_empty() && Descriptor::parse(path, head.base, &head.text).is_ok())
    })
}

/// The descriptor in `file` from `base` on: the file itself, or embedded behind a sparse header.
fn head(file: &File, base: u64) -> Option<Head> {
    let read = |at: u64, most: u64| {
        // A descriptor is far smaller than it may be: no more room than the file has bytes.
        let there = file.metadata().ok()?.len().saturating_sub(at);
        let mut bytes = vec![0; usize::try_from(most.min(there)).ok()?];
        let mut length = 0;
        while length < bytes.len() {
            let at = at.checked_add(u64::try_from(length).ok()?)?;
            match file.read_at(&mut bytes[length..], at) {
                Ok(0) => break,
                Ok(more) => length += more,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(_) => return None,
            }
        }
        bytes.truncate(length);
        Some(bytes)
    };
    let start = read(base, 512)?;
    if start.starts_with(b"KDMV") && start.len() == 512 {
        let word = |at: usize| Some(u64::from_le_bytes(start[at..at + 8].try_into().ok()?));
        let (capacity, offset, sectors) = (word(12)?, word(28)?, word(36)?);
        let at = base.checked_add(offset.checked_mul(512)?)?;
        let text = if offset == 0 {
            Vec::new()
        } else {
            read(at, sectors.checked_mul(512)?.min(MAX_TEXT))?
        };
        return Some(Head {
            text,
            base: at,
            capacity: Some(capacity),
        });
    }
    looks_like_descriptor(&start).then_some(())?;
    Some(Head {
        text: read(base, MAX_TEXT)?,
        base,
        capacity: None,
    })
}

/// Reads what the head of the disk at `place` says, following its parents through the gate.
#[must_use]
pub fn header(place: &DiskPlace, options: &ImportOptions) -> DiskHeader {
    let (path, base, member) = match (place.chunks.first(), place.window) {
        (Some((path, offset, _)), _) => (path, *offset, true),
        (None, Some((offset, _))) => (&place.path, offset, true),
        (None, None) => (&place.path, 0, false),
    };
    let mut header = DiskHeader::default();
    if path.as_os_str().is_empty() {
        return header;
    }
    let Ok(mut gate) = Gate::around(path, &options.allow) else {
        return header;
    };
    let Some((opened, found)) = gate
        .open_top(path)
        .ok()
        .and_then(|opened| head(&opened.file, base).map(|found| (opened, found)))
    else {
        return header;
    };
    header.sectors = found.capacity;
    let descriptor = match Descriptor::parse(path, found.base, &found.text) {
        Ok(descriptor) => descriptor,
        Err(error) => {
            header.encrypted = error.kind == ImageErrorKind::Unsupported && error.to_string().contains("encrypted");
            return header;
        }
    };
    header.create_type.clone_from(&descriptor.create_type);
    header.adapter = descriptor.ddb.get("adaptertype").map(|kind| kind.to_ascii_lowercase());
    header.uuid = descriptor.ddb.get("uuid").map(|uuid| {
        uuid.chars()
            .filter(char::is_ascii_hexdigit)
            .map(|digit| digit.to_ascii_lowercase())
            .collect()
    });
    header.extents = descriptor
        .extents
        .iter()
        .map(|extent| extent.kind.word().to_owned())
        .collect();
    header.sectors = found.capacity.or_else(|| Some(descriptor.sectors()));
    // An embedded descriptor names its own file, by whatever name it had once.
    if found.capacity.is_none() && !member {
        look_at_extents(&mut gate, &opened, &descriptor, options, &mut header);
    }
    if descriptor.has_parent() {
        header.parent = descriptor.parent_hint.as_ref().map(|hint| hint.text.clone());
        // A member of an archive has nothing beside it.
        if !member {
            follow(&mut gate, opened, descriptor, options, &mut header);
        }
    }
    header
}

/// Looks for the extents' files; those of devices and objects are the reader's to refuse.
fn look_at_extents(
    gate: &mut Gate,
    from: &Opened,
    descriptor: &Descriptor,
    options: &ImportOptions,
    header: &mut DiskHeader,
) {
    for extent in &descriptor.extents {
        let Some(name) = &extent.file else { continue };
        if matches!(
            extent.kind,
            ExtentType::Zero | ExtentType::VmfsRaw | ExtentType::VmfsRdm | ExtentType::VsanSparse
        ) {
            continue;
        }
        match gate.open_named(&from.place, name) {
            Ok(opened) => {
                let needed = extent.sectors.saturating_add(extent.offset).saturating_mul(512);
                let flat = matches!(extent.kind, ExtentType::Flat | ExtentType::Vmfs);
                // Salvage fills up what is short.
                if flat && opened.bytes < needed && !options.salvage {
                    header
                        .torn
                        .push(format!("{}: {} bytes, {needed} needed", name.text, opened.bytes));
                }
            }
            Err(error) => complain(header, &name.text, &error),
        }
    }
}

fn complain(header: &mut DiskHeader, name: &str, error: &ImageError) {
    if error.kind == ImageErrorKind::Missing {
        header.torn.push(format!("{name}: not there"));
    } else {
        header.refused.push(error.to_string());
    }
}

/// Down the chain of parents.
fn follow(
    gate: &mut Gate,
    mut child: Opened,
    mut descriptor: Descriptor,
    options: &ImportOptions,
    header: &mut DiskHeader,
) {
    let mut seen = vec![child.identity];
    while descriptor.has_parent() && header.depth < MAX_CHAIN {
        let Some(hint) = descriptor.parent_hint.clone() else {
            return;
        };
        let parent = match gate.open_parent(&child.place, &child.path, &hint, &seen) {
            Ok(parent) => parent,
            Err(error) => {
                if error.kind == ImageErrorKind::Refused {
                    // It may be there: nobody looked.
                    header.refused.push(error.to_string());
                    header.parent = None;
                } else {
                    header.parent = Some(hint.text);
                }
                return;
            }
        };
        let found = head(&parent.file, 0).map(|head| Descriptor::parse(&parent.path, head.base, &head.text));
        let Some(Ok(below)) = found else {
            // It is there; what is wrong with it the reader says.
            break;
        };
        let fits = parent::check((&child.path, &descriptor), (&parent.path, Some(&below)));
        if let (Err(error), false, None) = (fits, options.ignore_cid_mismatch, &header.parent_changed) {
            header.parent_changed = Some(error.to_string());
        }
        header.depth += 1;
        seen.push(parent.identity);
        (child, descriptor) = (parent, below);
    }
    header.parent_found = true;
}

/// Headers of all disks.
pub(super) fn headers(disks: &[DiskPlace], options: &ImportOptions) -> Vec<DiskHeader> {
    disks.iter().map(|place| header(place, options)).collect()
}
