//! What an extent line means before a file is opened for it: refused, or the file that holds the descriptor itself.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use crate::image::{ImageError, ImageErrorKind};

use super::descriptor::{Access, Descriptor, ExtentLine, ExtentType};

fn unsupported(path: &Path, line: &ExtentLine, text: &str, advice: &str) -> ImageError {
    ImageError::new(
        ImageErrorKind::Unsupported,
        path,
        format!("descriptor line {}: {text}", line.line),
    )
    .advise(advice)
}

/// Refuses a line whose data is in no file, with what to do. A `NOACCESS` device passes: nobody reads it.
pub(crate) fn refuse_foreign(path: &Path, line: &ExtentLine) -> Result<(), ImageError> {
    match line.kind {
        ExtentType::VmfsRdm => {
            return Err(unsupported(
                path,
                line,
                "a raw device mapping (RDM): this file is a pointer, the data is on a LUN",
                "Convert the LUN itself as a raw image, or migrate the RDM to a virtual disk at the source",
            ));
        }
        ExtentType::VmfsRaw => {
            return Err(unsupported(
                path,
                line,
                "the extent is a raw device of the host",
                "Copy the device into a file and convert that",
            ));
        }
        ExtentType::VsanSparse => {
            return Err(unsupported(
                path,
                line,
                "the extent is an object on vSAN, whose layout is not public",
                "Export the guest through HttpNfc (export OVF) or VDDK",
            ));
        }
        _ => {}
    }
    let device = |name: &str| {
        ["/dev/", "/vmfs/devices/", r"\\.\"]
            .iter()
            .any(|folder| name.starts_with(folder))
    };
    match &line.file {
        Some(name) if line.access != Access::None && device(&name.text) => Err(unsupported(
            path,
            line,
            &format!(
                "the extent is the device {:?} of the host that ran the guest",
                name.text
            ),
            "Copy the device into a file and convert that",
        )),
        _ => Ok(()),
    }
}

/// The line, as an index into the descriptor's extents, that means the sparse file `path` which holds the descriptor.
///
/// By the specification that is the first line, and by nature a sparse one. The name in it is often stale, so the name
/// decides only where there are several. A first line of another type gives no right to read the grains as something else.
///
/// # Errors
/// No line can mean the file.
pub(crate) fn own_line(path: &Path, descriptor: &Descriptor) -> Result<usize, ImageError> {
    let lines: Vec<(usize, &ExtentLine)> = descriptor
        .extents
        .iter()
        .enumerate()
        .filter(|(_, line)| line.sectors > 0)
        .collect();
    let named: Vec<usize> = lines
        .iter()
        .filter(|(_, line)| line.kind.is_sparse() && names(line, path))
        .map(|(index, _)| *index)
        .collect();
    if let [own] = named.as_slice() {
        return Ok(*own);
    }
    let Some((index, first)) = lines.first() else {
        return Err(ImageError::new(
            ImageErrorKind::Damaged,
            path,
            "the descriptor has no extent",
        ));
    };
    if first.kind.is_sparse() {
        return Ok(*index);
    }
    refuse_foreign(path, first)?;
    Err(unsupported(
        path,
        first,
        &format!(
            "the extent is {:?}, but the descriptor lies in a sparse extent, which has to be its first",
            first.kind
        ),
        "The descriptor is damaged or was edited; restore it from the source",
    ))
}

fn names(line: &ExtentLine, path: &Path) -> bool {
    line.file.as_ref().is_some_and(|name| {
        path.file_name().is_some_and(|own| {
            [OsStr::new(&name.text), OsStr::from_bytes(&name.raw)]
                .iter()
                .any(|name| Path::new(name).file_name() == Some(own))
        })
    })
}

/// What is said of a line that nobody may read.
pub(crate) fn no_access_note(path: &Path, line: &ExtentLine) -> String {
    format!(
        "{}: descriptor line {} is NOACCESS and reads as zeros",
        path.display(),
        line.line
    )
}
