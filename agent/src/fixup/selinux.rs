//! SELinux labels of what is new in a guest. Without one an enforcing system could not read it; relabelling everything costs the guest a
//! long boot, so that is asked for only where a label could not be given.

use std::fs;
use std::path::Path;

const ATTRIBUTE: &str = "security.selinux";

/// Does the guest load a policy? `permissive` counts: the owner may switch it to enforcing.
pub(crate) fn enabled(root: &Path) -> bool {
    let text = fs::read_to_string(root.join("etc/selinux/config")).unwrap_or_default();
    let mode = text.lines().rev().find_map(|line| line.trim().strip_prefix("SELINUX="));
    mode.is_some_and(|mode| mode.trim() != "disabled")
}

/// Gives a new file or folder the label of the folder around it, as the guest's own kernel would. `false`: there is none, or it can't be
/// written.
pub(crate) fn label_like_parent(path: &Path) -> bool {
    let Some(parent) = path.parent() else { return false };
    let mut label = [0; 256];
    let Ok(length @ 1..) = rustix::fs::getxattr(parent, ATTRIBUTE, &mut label) else {
        return false;
    };
    rustix::fs::lsetxattr(path, ATTRIBUTE, &label[..length], rustix::fs::XattrFlags::empty()).is_ok()
}
