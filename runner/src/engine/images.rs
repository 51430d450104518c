//! Which files an image is made of: the backing files and data files that qcow2 headers name.
//!
//! A header is input: a disk from a stranger may name any file of this host as its backing file, and whoever opens it hands
//! that file to the guest. So the files are listed before anything is opened, and callers decide what may be among them.

use super::DiskFormat;
use crate::{Result, RunnerError};
use std::fs::File;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

/// Longest chain that is followed.
const MAX_DEPTH: usize = 16;
/// Longest name in a header (the qcow2 specification's bound for backing files).
const MAX_NAME: u32 = 1023;
/// Header extensions end within the first cluster, which has at least so many bytes.
const MAX_EXTENSIONS: u64 = 512 * 1024;

const MAGIC: u32 = 0x5146_49fb;
/// "DATA": the external data file's name.
const EXTENSION_DATA_FILE: u32 = 0x4441_5441;
/// The backing file's format.
const EXTENSION_BACKING_FORMAT: u32 = 0xe279_2aca;

/// Fields of a qcow2 header that name other files (qcow2 specification, "Header" and "Header extensions").
#[derive(Debug, Default, PartialEq, Eq)]
struct Named {
    backing: Option<PathBuf>,
    /// The backing file is raw: whatever looks like a header in it was written by a guest.
    raw_backing: bool,
    data: Option<PathBuf>,
}

fn u32_at(file: &File, offset: u64) -> io::Result<u32> {
    let mut bytes = [0; 4];
    file.read_exact_at(&mut bytes, offset)?;
    Ok(u32::from_be_bytes(bytes))
}

fn name_at(file: &File, offset: u64, length: u32) -> io::Result<PathBuf> {
    if length > MAX_NAME {
        return Err(io::Error::other(format!("a file name of {length} bytes in the header")));
    }
    let mut bytes = vec![0; usize::try_from(length).map_err(io::Error::other)?];
    file.read_exact_at(&mut bytes, offset)?;
    Ok(PathBuf::from(std::ffi::OsStr::from_bytes(&bytes)))
}

fn named(file: &File) -> io::Result<Named> {
    if u32_at(file, 0)? != MAGIC {
        return Err(io::Error::other("not a qcow2 image (its magic is missing)"));
    }
    let mut found = Named::default();
    let backing = u64::from(u32_at(file, 8)?) << 32 | u64::from(u32_at(file, 12)?);
    let length = u32_at(file, 16)?;
    if backing != 0 && length != 0 {
        found.backing = Some(name_at(file, backing, length)?);
    }
    let version = u32_at(file, 4)?;
    let mut at = if version >= 3 {
        u64::from(u32_at(file, 100)?)
    } else {
        72
    };
    while at < MAX_EXTENSIONS {
        let (kind, length) = (u32_at(file, at)?, u32_at(file, at + 4)?);
        match kind {
            0 => break,
            EXTENSION_DATA_FILE => found.data = Some(name_at(file, at + 8, length)?),
            EXTENSION_BACKING_FORMAT => found.raw_backing = name_at(file, at + 8, length)?.as_os_str() == "raw",
            _ => {}
        }
        at += 8 + u64::from(length).next_multiple_of(8);
    }
    Ok(found)
}

/// The files beside `path` itself that opening it opens: data file and backing chain, nearest first, with symbolic links
/// resolved. Raw images have none.
///
/// # Errors
/// A file that cannot be read, a chain that is too long, a backing file that names no file (`nbd:…`, `json:…`).
pub fn other_files(path: &Path, format: DiskFormat) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    if format != DiskFormat::Qcow2 {
        return Ok(files);
    }
    let mut next = Some(path.to_owned());
    while let Some(image) = next {
        if files.len() > MAX_DEPTH {
            return Err(RunnerError::Unusable {
                what: format!("{} has more than {MAX_DEPTH} files behind it", path.display()),
                advice: "Flatten it with qemu-img convert".into(),
            });
        }
        let failed = |error| RunnerError::io("reading the header of", &image, error);
        let file = File::open(&image).map_err(failed)?;
        let mut magic = [0; 4];
        // A raw base ends the chain.
        if file.read_exact_at(&mut magic, 0).is_err() || u32::from_be_bytes(magic) != MAGIC {
            if image == path {
                return Err(failed(io::Error::other("not a qcow2 image (its magic is missing)")));
            }
            break;
        }
        let named = named(&file).map_err(failed)?;
        let folder = image.parent().unwrap_or(Path::new("")).to_owned();
        let resolved = |name: PathBuf| {
            let name = name
                .to_string_lossy()
                .strip_prefix("file:")
                .map_or(name.clone(), PathBuf::from);
            let whole = folder.join(name);
            std::fs::canonicalize(&whole).map_err(|error| RunnerError::io("opening", &whole, error))
        };
        if let Some(data) = named.data {
            files.push(resolved(data)?);
        }
        next = named.backing.map(resolved).transpose()?;
        files.extend(next.clone());
        if named.raw_backing {
            break;
        }
    }
    Ok(files)
}

/// Can the image and everything behind it be read past the page cache? A tmpfs or some network file systems cannot.
#[must_use]
pub fn direct_io(path: &Path, format: DiskFormat) -> bool {
    let Ok(behind) = other_files(path, format) else {
        return false;
    };
    let open = |file: &Path| {
        let flags = i32::try_from(rustix::fs::OFlags::DIRECT.bits()).ok()?;
        File::options().read(true).custom_flags(flags).open(file).ok()
    };
    std::iter::once(path)
        .chain(behind.iter().map(PathBuf::as_path))
        .all(|file| open(file).is_some())
}

/// Refuses an image that names files outside `folders` and its own folder.
///
/// # Errors
/// The file that is refused, and how to allow it; as [`other_files`].
pub fn check_named_files(path: &Path, format: DiskFormat, folders: &[PathBuf]) -> Result<()> {
    let own = std::fs::canonicalize(path).map_err(|error| RunnerError::io("opening", path, error))?;
    let mut allowed: Vec<PathBuf> = own.parent().map(Path::to_owned).into_iter().collect();
    for folder in folders {
        allowed.push(std::fs::canonicalize(folder).map_err(|error| RunnerError::io("opening", folder, error))?);
    }
    for file in other_files(path, format)? {
        if !allowed.iter().any(|folder| file.starts_with(folder)) {
            return Err(RunnerError::Unusable {
                what: format!(
                    "{} names {} as part of itself, which lies outside its folder: the guest would read that file",
                    path.display(),
                    file.display()
                ),
                advice: format!(
                    "If it belongs to the disk: --allow-path {}",
                    file.parent().unwrap_or(Path::new("/")).display()
                ),
            });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    fn qemu_img(args: &[&str], folder: &Path) -> bool {
        Command::new("qemu-img")
            .args(args)
            .current_dir(folder)
            .status()
            .is_ok_and(|status| status.success())
    }

    #[test]
    fn chains_and_data_files_are_listed_and_files_elsewhere_are_refused() {
        let folder = tempfile::tempdir().expect("folder");
        let inner = folder.path().join("inner");
        std::fs::create_dir(&inner).expect("mkdir");
        std::fs::write(folder.path().join("outside.raw"), vec![0; 1 << 16]).expect("write");
        let steps: [&[&str]; 3] = [
            &[
                "create",
                "-q",
                "-f",
                "qcow2",
                "-o",
                "data_file=d.raw",
                "base.qcow2",
                "1M",
            ],
            &[
                "create",
                "-q",
                "-f",
                "qcow2",
                "-b",
                "base.qcow2",
                "-F",
                "qcow2",
                "top.qcow2",
            ],
            &[
                "create",
                "-q",
                "-f",
                "qcow2",
                "-b",
                "../outside.raw",
                "-F",
                "raw",
                "evil.qcow2",
            ],
        ];
        for step in steps {
            if !qemu_img(step, &inner) {
                println!("SKIP: qemu-img is not installed");
                return;
            }
        }
        let real = std::fs::canonicalize(&inner).expect("exists");
        let top = inner.join("top.qcow2");
        assert_eq!(
            other_files(&top, DiskFormat::Qcow2).expect("readable"),
            [real.join("base.qcow2"), real.join("d.raw")]
        );
        check_named_files(&top, DiskFormat::Qcow2, &[]).expect("all in its own folder");
        let evil = inner.join("evil.qcow2");
        let error = check_named_files(&evil, DiskFormat::Qcow2, &[]).expect_err("outside");
        assert!(error.to_string().contains("outside.raw"), "{error}");
        check_named_files(&evil, DiskFormat::Qcow2, &[folder.path().to_owned()]).expect("allowed by name");
        assert!(
            other_files(&evil, DiskFormat::Raw)
                .expect("raw names nothing")
                .is_empty()
        );
    }

    #[test]
    fn names_longer_than_the_specification_allows_are_refused() {
        let file = tempfile::NamedTempFile::new().expect("file");
        let mut header = vec![0; 4096];
        header[..8].copy_from_slice(&[0x51, 0x46, 0x49, 0xfb, 0, 0, 0, 3]);
        header[8..20].copy_from_slice(&[0, 0, 0, 0, 0, 0, 2, 0, 0xff, 0xff, 0xff, 0xff]);
        std::fs::write(file.path(), header).expect("write");
        assert!(other_files(file.path(), DiskFormat::Qcow2).is_err());
    }
}
