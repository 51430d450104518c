//! The gate: the only place that opens files which an image names.
//!
//! A name found inside an image is data from a stranger. It is resolved by the kernel beneath the folder of the
//! descriptor that the user named (`openat2`, `RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS`), or beneath a folder that the
//! user allowed. A symbolic link may be followed while it stays inside. Only regular files are opened: the type is read
//! through an `O_PATH` descriptor first, because opening a device or a FIFO can itself do something.

use std::ffi::OsStr;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{FileType, Mode, OFlags, ResolveFlags, Stat};
use rustix::io::Errno;

use super::map::SourceHandle;
use super::{ImageError, ImageErrorKind};

/// A name as it stands in an image: decoded, and the bytes as they were.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Name {
    /// Decoded with the descriptor's encoding.
    pub text: String,
    /// The bytes in the file: names on Linux are bytes, and copies often keep them.
    pub raw: Vec<u8>,
}

impl Name {
    /// The paths to try, in this order.
    fn spellings(&self) -> Vec<PathBuf> {
        let decoded = PathBuf::from(&self.text);
        let raw = PathBuf::from(OsStr::from_bytes(&self.raw));
        if raw == decoded {
            vec![decoded]
        } else {
            vec![decoded, raw]
        }
    }
}

/// Where a file lies: beneath which of the gate's folders, and in which folder there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Place {
    root: usize,
    folder: PathBuf,
}

/// A file that passed.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) file: File,
    pub(crate) path: PathBuf,
    pub(crate) bytes: u64,
    pub(crate) mtime_ns: i64,
    /// Device and inode.
    pub(crate) identity: (u64, u64),
    pub(crate) place: Place,
}

impl Opened {
    /// As a file of link `link`.
    pub(crate) fn into_handle(self, link: usize) -> SourceHandle {
        SourceHandle {
            path: self.path,
            file: self.file,
            bytes: self.bytes,
            mtime_ns: self.mtime_ns,
            link,
        }
    }
}

#[derive(Debug)]
struct Root {
    path: PathBuf,
    folder: OwnedFd,
}

/// Opens what images name, beneath few folders.
#[derive(Debug)]
pub struct Gate {
    roots: Vec<Root>,
    opened: Vec<PathBuf>,
}

impl Gate {
    /// A gate around the folder of `top`, which the user named, and the folders in `allow`.
    ///
    /// # Errors
    /// A folder that isn't there or can't be opened.
    pub fn around(top: &Path, allow: &[PathBuf]) -> Result<Self, ImageError> {
        let real = std::fs::canonicalize(top).map_err(|error| ImageError::io(top, "opening", error))?;
        let folder = real.parent().unwrap_or(Path::new("/"));
        let mut roots = vec![open_folder(folder)?];
        for path in allow {
            let real = std::fs::canonicalize(path)
                .map_err(|error| ImageError::io(path, "opening the allowed folder", error))?;
            roots.push(open_folder(&real)?);
        }
        Ok(Self {
            roots,
            opened: Vec::new(),
        })
    }

    /// Every file opened so far.
    #[must_use]
    pub fn opened(&self) -> &[PathBuf] {
        &self.opened
    }

    /// Opens the file that the user named.
    pub(crate) fn open_top(&mut self, top: &Path) -> Result<Opened, ImageError> {
        let real = std::fs::canonicalize(top).map_err(|error| ImageError::io(top, "opening", error))?;
        let name = real
            .file_name()
            .ok_or_else(|| refused(top, "this is a folder, not a disk image"))?;
        let folder = real.parent().unwrap_or(Path::new("/"));
        let root = self.roots.iter().position(|root| root.path == folder);
        let root = match root {
            Some(root) => root,
            None => {
                self.roots.push(open_folder(folder)?);
                self.roots.len() - 1
            }
        };
        let mut opened = self.open_at(root, Path::new(name))?;
        opened.path = top.to_owned();
        Ok(opened)
    }

    /// Opens `name`, found in a descriptor that lies at `from`.
    pub(crate) fn open_named(&mut self, from: &Place, name: &Name) -> Result<Opened, ImageError> {
        let mut first = None;
        for spelling in name.spellings() {
            match self.open_path(from, &spelling) {
                Ok(opened) => return Ok(opened),
                Err(error) if error.kind == ImageErrorKind::Missing => first = first.or(Some(error)),
                Err(error) => return Err(error),
            }
        }
        Err(first.unwrap_or_else(|| refused(Path::new(&name.text), "the image names no file")))
    }

    /// Searches the parent that `hint` names for a child at `from`: its base name beside the child, then the hint as
    /// written, then `../FOLDER/BASE` with the hint's last folder; the last two mostly need an allowed folder. A
    /// candidate that `skip` knows (a link of the chain already) is passed over.
    pub(crate) fn open_parent(
        &mut self,
        from: &Place,
        child: &Path,
        hint: &Name,
        skip: &[(u64, u64)],
    ) -> Result<Opened, ImageError> {
        let mut tried = Vec::new();
        let mut refusal = None;
        let mut looped = false;
        for spelling in hint.spellings() {
            for candidate in parent_candidates(&spelling) {
                if tried.contains(&candidate) {
                    continue;
                }
                match self.open_path(from, &candidate) {
                    Ok(opened) if skip.contains(&opened.identity) => looped = true,
                    Ok(opened) => return Ok(opened),
                    Err(error) if error.kind == ImageErrorKind::Missing => {}
                    Err(error) if error.kind == ImageErrorKind::Refused => refusal = refusal.or(Some(error)),
                    Err(error) => return Err(error),
                }
                tried.push(candidate);
            }
        }
        if let Some(error) = refusal {
            return Err(error);
        }
        if looped {
            return Err(ImageError::new(
                ImageErrorKind::Chain,
                child,
                format!(
                    "the parent {:?} is a link of the same chain: the chain is a loop",
                    hint.text
                ),
            )
            .advise("Restore the right parentFileNameHint from the source"));
        }
        let tried: Vec<String> = tried.iter().map(|path| path.display().to_string()).collect();
        Err(ImageError::new(
            ImageErrorKind::Missing,
            child,
            format!(
                "the parent disk {:?} is missing (tried {})",
                hint.text,
                tried.join(", ")
            ),
        )
        .advise("Copy the parent beside the child, or name its folder with --allow-path"))
    }

    fn open_path(&mut self, from: &Place, name: &Path) -> Result<Opened, ImageError> {
        let shown = self.roots[from.root].path.join(&from.folder).join(name);
        let text = name.to_string_lossy();
        if text.is_empty() || text.contains('\0') {
            return Err(refused(&shown, "the name in the image is empty or holds a NUL"));
        }
        if text.contains("://") || text.starts_with("json:") || text.starts_with("nbd:") {
            return Err(refused(
                &shown,
                format!("the image names {text:?}, which is no file but a protocol"),
            ));
        }
        let climbs = name.components().any(|part| matches!(part, Component::ParentDir));
        if !climbs && !name.is_absolute() {
            return self.open_at(from.root, &from.folder.join(name));
        }
        // Outside of its own folder: only through a folder that the user allowed. Lexical, and safe all the same,
        // because the open below is confined whatever this computes.
        let wanted = normalise(&shown);
        for root in 1..self.roots.len() {
            if let Ok(inside) = wanted.strip_prefix(&self.roots[root].path) {
                let inside = inside.to_owned();
                return self.open_at(root, &inside);
            }
        }
        Err(
            refused(&shown, format!("the image names {text:?}, which leaves its own folder"))
                .advise("If you trust it, name the folder of that file with --allow-path"),
        )
    }

    fn open_at(&mut self, root: usize, inside: &Path) -> Result<Opened, ImageError> {
        let shown = self.roots[root].path.join(inside);
        let folder = &self.roots[root].folder;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
        let fail = |error: Errno| match error {
            Errno::XDEV | Errno::LOOP => refused(&shown, "a symbolic link on the way leaves the image's folder")
                .advise("Copy the file itself, or name its folder with --allow-path"),
            Errno::NOSYS => ImageError::new(
                ImageErrorKind::Unsupported,
                &shown,
                "the kernel has no openat2, without which files named in images cannot be opened safely",
            )
            .advise("Use Linux 5.6 or later, and a container profile that permits openat2"),
            other => ImageError::io(&shown, "opening", other.into()),
        };
        let probe = rustix::fs::openat2(folder, inside, OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), resolve)
            .map_err(fail)?;
        let found = rustix::fs::fstat(&probe).map_err(fail)?;
        match FileType::from_raw_mode(found.st_mode) {
            FileType::RegularFile => {}
            FileType::BlockDevice | FileType::CharacterDevice => {
                return Err(refused(&shown, "this is a device, only regular files are opened")
                    .advise("Copy the device into a file first"));
            }
            FileType::Fifo => return Err(refused(&shown, "this is a FIFO, only regular files are opened")),
            FileType::Directory => return Err(refused(&shown, "this is a folder, only regular files are opened")),
            _ => return Err(refused(&shown, "only regular files are opened")),
        }
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
        let file = rustix::fs::openat2(folder, inside, flags, Mode::empty(), resolve).map_err(fail)?;
        let stat = rustix::fs::fstat(&file).map_err(fail)?;
        if identity(&stat) != identity(&found) {
            return Err(ImageError::new(
                ImageErrorKind::Changed,
                &shown,
                "the file was replaced while it was opened",
            ));
        }
        self.opened.push(shown.clone());
        Ok(Opened {
            file: File::from(file),
            bytes: u64::try_from(stat.st_size).unwrap_or(0),
            mtime_ns: mtime_ns(&stat),
            identity: identity(&stat),
            place: Place {
                root,
                folder: inside.parent().unwrap_or(Path::new("")).to_owned(),
            },
            path: shown,
        })
    }
}

fn identity(stat: &Stat) -> (u64, u64) {
    (stat.st_dev, stat.st_ino)
}

/// Modification time, nanoseconds since 1970; saturates.
pub(crate) fn mtime_ns(stat: &Stat) -> i64 {
    let nanoseconds = i64::try_from(stat.st_mtime_nsec).unwrap_or(0);
    stat.st_mtime.saturating_mul(1_000_000_000).saturating_add(nanoseconds)
}

fn open_folder(path: &Path) -> Result<Root, ImageError> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let folder = rustix::fs::open(path, flags, Mode::empty())
        .map_err(|error| ImageError::io(path, "opening the folder", error.into()))?;
    Ok(Root {
        path: path.to_owned(),
        folder,
    })
}

fn refused(path: &Path, message: impl Into<String>) -> ImageError {
    ImageError::new(ImageErrorKind::Refused, path, message)
}

/// `a/b/../c` becomes `a/c`, without looking at the file system.
fn normalise(path: &Path) -> PathBuf {
    let mut out = PathBuf::new();
    for part in path.components() {
        match part {
            Component::ParentDir => {
                out.pop();
            }
            Component::CurDir => {}
            other => out.push(other),
        }
    }
    out
}

/// What a hint can mean. Hints are Linux, ESXi (`/vmfs/volumes/…`, `[datastore] dir/x.vmdk`) or Windows paths.
fn parent_candidates(hint: &Path) -> Vec<PathBuf> {
    let bytes = hint.as_os_str().as_bytes();
    let datastore = bytes.first() == Some(&b'[');
    let written = match bytes.iter().position(|byte| *byte == b']') {
        Some(end) if datastore => bytes[end + 1..].trim_ascii_start(),
        _ => bytes,
    };
    let windows = !written.contains(&b'/') && written.contains(&b'\\');
    let parts: Vec<&[u8]> = written
        .split(|byte| *byte == b'/' || (windows && *byte == b'\\'))
        .filter(|part| !part.is_empty())
        .collect();
    let path = |bytes: &[u8]| PathBuf::from(OsStr::from_bytes(bytes));
    let Some(base) = parts.last() else { return Vec::new() };
    let mut candidates = vec![path(base)];
    if !windows && !datastore {
        candidates.push(path(written));
    }
    if parts.len() > 1 {
        let folder = parts[parts.len() - 2];
        if folder != b".." && folder != b"." && !folder.ends_with(b":") {
            candidates.push(Path::new("..").join(path(folder)).join(path(base)));
        }
    }
    candidates
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn name(text: &str) -> Name {
        Name {
            text: text.to_owned(),
            raw: text.as_bytes().to_vec(),
        }
    }

    #[test]
    fn hints_of_all_systems_begin_with_the_base_name_beside_the_child() {
        for hint in [
            "/vmfs/volumes/5f-aa/guest/base.vmdk",
            "[ds 1] guest/base.vmdk",
            r"C:\VMs\guest\base.vmdk",
        ] {
            let candidates = parent_candidates(Path::new(hint));
            assert_eq!(candidates[0], Path::new("base.vmdk"), "{hint}");
            assert_eq!(
                candidates.last().map(PathBuf::as_path),
                Some(Path::new("../guest/base.vmdk")),
                "{hint}"
            );
        }
        assert_eq!(parent_candidates(Path::new("base.vmdk"))[0], Path::new("base.vmdk"));
        assert!(parent_candidates(Path::new("[ds]")).is_empty());
    }

    #[test]
    fn names_that_leave_the_folder_are_refused_and_not_opened() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let inner = folder.path().join("guest");
        std::fs::create_dir(&inner).expect("folder");
        std::fs::write(folder.path().join("secret"), b"x").expect("file");
        std::fs::write(inner.join("disk.vmdk"), b"x").expect("file");
        std::fs::write(inner.join("inside"), b"x").expect("file");
        symlink("../secret", inner.join("out")).expect("link");
        symlink("inside", inner.join("in")).expect("link");
        symlink("/proc/self/root/etc/passwd", inner.join("magic")).expect("link");
        symlink("loop", inner.join("loop")).expect("link");
        rustix::fs::mknodat(
            rustix::fs::CWD,
            inner.join("fifo"),
            FileType::Fifo,
            Mode::RUSR | Mode::WUSR,
            0,
        )
        .expect("FIFO");
        let top = inner.join("disk.vmdk");
        let mut gate = Gate::around(&top, &[]).expect("gate");
        let place = gate.open_top(&top).expect("top").place;
        let absolute = folder.path().join("secret").display().to_string();
        let refused = [
            "../secret",
            "out",
            "magic",
            "loop",
            "fifo",
            ".",
            "",
            "nbd://host/x",
            "json:{\"driver\":\"file\"}",
            "/etc/passwd",
            "/dev/null",
            "guest/../../secret",
            "a\0b",
            absolute.as_str(),
        ];
        for wanted in refused {
            let error = gate.open_named(&place, &name(wanted)).expect_err(wanted);
            assert_eq!(error.kind, ImageErrorKind::Refused, "{wanted}: {error}");
        }
        assert_eq!(gate.opened().len(), 1, "only the top was opened: {:?}", gate.opened());
        gate.open_named(&place, &name("in"))
            .expect("a link that stays inside is fine");
        let missing = gate.open_named(&place, &name("nothing")).expect_err("missing");
        assert_eq!(missing.kind, ImageErrorKind::Missing);

        let mut wider = Gate::around(&top, &[folder.path().to_owned()]).expect("gate");
        let place = wider.open_top(&top).expect("top").place;
        wider.open_named(&place, &name("../secret")).expect("allowed");
        wider.open_named(&place, &name(&absolute)).expect("allowed");
        assert_eq!(
            wider
                .open_named(&place, &name("/etc/passwd"))
                .expect_err("not allowed")
                .kind,
            ImageErrorKind::Refused
        );
    }
}
