//! Whether a parent is the disk that the child was made on: by content id, and by VirtualBox's UUIDs.

use std::path::Path;

use crate::image::{ImageError, ImageErrorKind};

use super::descriptor::{Descriptor, LONG_CONTENT_ID, NO_PARENT};

/// Compares what a child says of its parent with what the parent says of itself. A note where nothing proves it.
///
/// # Errors
/// They contradict each other.
pub(crate) fn check(
    child: (&Path, &Descriptor),
    parent: (&Path, Option<&Descriptor>),
) -> Result<Option<String>, ImageError> {
    let (shown, below) = (child.0.display(), parent.0.display());
    let misfit = |message: String| {
        ImageError::new(ImageErrorKind::Chain, child.0, message).advise(
            "The parent was changed after the snapshot, or is another disk. If you know that it fits, --ignore-cid-mismatch reads it",
        )
    };
    let mut uuid_agrees = false;
    if let Some(wanted) = child.1.uuid("uuid.parent")
        && let Some(found) = parent.1.and_then(|parent| parent.uuid("uuid.image"))
    {
        if wanted != found {
            return Err(misfit(format!(
                "ddb.uuid.parent is {wanted}, the parent {below} has {found}"
            )));
        }
        uuid_agrees = true;
    }
    let wanted = child.1.parent_cid;
    let found = parent.1.and_then(|parent| parent.cid);
    if wanted != NO_PARENT && found != Some(wanted) {
        let found = found.map_or("none".to_owned(), |cid| format!("{cid:08x}"));
        return Err(misfit(format!(
            "parentCID is {wanted:08x}, the parent {below} has CID {found}"
        )));
    }
    let unproven = match wanted {
        _ if uuid_agrees => return Ok(None),
        NO_PARENT => "it has neither a parentCID nor the UUID of its parent to compare with".to_owned(),
        LONG_CONTENT_ID => {
            format!("parentCID {wanted:08x} stands for a long content id, which a child doesn't repeat")
        }
        _ => return Ok(None),
    };
    Ok(Some(format!(
        "{shown}: nothing proves that {below} is its parent: {unproven}"
    )))
}
