//! The gate: which files a description may name.

use super::{DiskPlace, ImportOptions};
use std::path::{Component, Path, PathBuf};

/// What became of a file name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Passed {
    /// There and allowed.
    File(DiskPlace),
    /// Allowed, and not there: the path that was looked at.
    Missing(PathBuf),
    /// Refused: why.
    Refused(String),
}

/// Resolves `name`, as a description in `folder` gives it.
pub(super) fn resolve(folder: &Path, name: &str, options: &ImportOptions) -> Passed {
    if name.contains('\0') {
        return Passed::Refused("a NUL in the name".to_owned());
    }
    if name.contains("://") {
        return Passed::Refused("a URL; only files are read".to_owned());
    }
    let path = Path::new(name);
    let candidate = if let Some(rest) = name.strip_prefix("/vmfs/volumes/") {
        let (datastore, rest) = rest.split_once('/').unwrap_or((rest, ""));
        match options.datastores.get(datastore) {
            Some(mount) => mount.join(rest),
            // A copied folder keeps absolute names: then the file lies beside the description.
            None => match path.file_name() {
                Some(file) if folder.join(file).exists() => folder.join(file),
                _ => return Passed::Missing(path.to_owned()),
            },
        }
    } else {
        folder.join(path)
    };
    let climbs = path.components().any(|part| matches!(part, Component::ParentDir));
    // Before anything is looked for: what lies outside is nobody's business unless a folder there was allowed.
    if climbs && options.allow.is_empty() && options.datastores.is_empty() {
        return Passed::Refused(
            "the name leaves its folder with `..`; allow the other folder if it is meant".to_owned(),
        );
    }
    let Ok(real) = candidate.canonicalize() else {
        let inside = !climbs && !path.is_absolute() || name.starts_with("/vmfs/volumes/");
        return if inside {
            Passed::Missing(candidate)
        } else {
            Passed::Refused("an absolute path outside of the allowed folders".to_owned())
        };
    };
    // Compared by components, after links are resolved: `/x/ova-evil` is not inside `/x/ova`.
    let own = (!climbs).then_some(folder);
    let allowed = own
        .into_iter()
        .chain(options.allow.iter().map(PathBuf::as_path))
        .chain(options.datastores.values().map(PathBuf::as_path))
        .filter_map(|folder| {
            let folder = if folder.as_os_str().is_empty() {
                Path::new(".")
            } else {
                folder
            };
            folder.canonicalize().ok()
        })
        .any(|folder| real.starts_with(folder));
    if !allowed {
        return Passed::Refused(format!("it lies in {}, outside of the allowed folders", real.display()));
    }
    if !real.is_file() {
        return Passed::Refused("not a regular file".to_owned());
    }
    Passed::File(DiskPlace {
        path: candidate,
        ..DiskPlace::default()
    })
}

#[cfg(test)]
mod tests {
    use super::{Passed, resolve};
    use crate::source::ImportOptions;

    #[test]
    fn nothing_outside_of_the_folder_is_opened() {
        let root = tempfile::tempdir().expect("temporary folder");
        let (folder, evil) = (root.path().join("ova"), root.path().join("ova-evil"));
        std::fs::create_dir_all(&folder).expect("folder");
        std::fs::create_dir_all(&evil).expect("folder");
        std::fs::write(folder.join("a.vmdk"), "x").expect("file");
        std::fs::write(evil.join("b.vmdk"), "x").expect("file");
        std::os::unix::fs::symlink(evil.join("b.vmdk"), folder.join("link.vmdk")).expect("link");
        let mut options = ImportOptions::default();
        let outside = evil.join("b.vmdk");
        assert!(matches!(resolve(&folder, "a.vmdk", &options), Passed::File(_)));
        assert!(matches!(
            resolve(&folder, "/vmfs/volumes/ds/vm/a.vmdk", &options),
            Passed::File(_)
        ));
        assert!(matches!(resolve(&folder, "none.vmdk", &options), Passed::Missing(_)));
        for bad in ["link.vmdk", "../ova-evil/b.vmdk", "/etc/passwd", "http://x/y", "."] {
            assert!(matches!(resolve(&folder, bad, &options), Passed::Refused(_)), "{bad}");
        }
        assert!(matches!(
            resolve(&folder, &outside.to_string_lossy(), &options),
            Passed::Refused(_)
        ));
        options.allow.push(evil);
        assert!(matches!(resolve(&folder, "link.vmdk", &options), Passed::File(_)));
    }
}
