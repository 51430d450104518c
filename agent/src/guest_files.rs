//! Files of a mounted guest root, read without leaving it: whoever made the guest also made its links.

use esxodus_agent::protocol::MAX_PIECE;
use rustix::fs::{Dir, Mode, OFlags, ResolveFlags, open, openat2};
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

/// Opens `path` as the guest would: from its root, with its links.
fn inside(root: &Path, path: &str, flags: OFlags) -> io::Result<OwnedFd> {
    let folder = open(root, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    // Not blocking: a path may name a pipe.
    let flags = flags | OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    Ok(openat2(folder, path, flags, Mode::empty(), resolve)?)
}

/// A piece of a regular file, and the file's length.
pub(crate) fn read(root: &Path, path: &str, offset: u64, length: u32) -> io::Result<(u64, Vec<u8>)> {
    let named = |error: io::Error| io::Error::new(error.kind(), format!("{path}: {error}"));
    let file = File::from(inside(root, path, OFlags::empty()).map_err(named)?);
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(named(io::Error::other("not a regular file")));
    }
    let mut piece = vec![0; usize::try_from(length.min(MAX_PIECE)).map_err(io::Error::other)?];
    let count = file.read_at(&mut piece, offset).map_err(named)?;
    piece.truncate(count);
    Ok((metadata.len(), piece))
}

/// At most `limit` names in a folder, without `.` and `..`; names that are no text are left out.
pub(crate) fn names(root: &Path, path: &str, limit: u32) -> io::Result<Vec<String>> {
    let named = |error: io::Error| io::Error::new(error.kind(), format!("{path}: {error}"));
    let folder = inside(root, path, OFlags::DIRECTORY).map_err(named)?;
    let mut found = Vec::new();
    for entry in Dir::new(folder)? {
        if found.len() >= usize::try_from(limit).unwrap_or(usize::MAX) {
            break;
        }
        if let Ok(name) = entry?.file_name().to_str()
            && ![".", ".."].contains(&name)
        {
            found.push(name.to_owned());
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn links_of_the_guest_do_not_lead_out_of_its_root() {
        let outside = tempfile::tempdir().expect("folder");
        let root = outside.path().join("root");
        std::fs::create_dir_all(root.join("boot")).expect("mkdir");
        std::fs::write(outside.path().join("secret"), "host").expect("write");
        std::fs::write(root.join("boot/vmlinuz-1"), "kernel").expect("write");
        symlink("/boot/vmlinuz-1", root.join("boot/vmlinuz")).expect("symlink");
        symlink("../../secret", root.join("boot/out")).expect("symlink");
        symlink(outside.path().join("secret"), root.join("boot/far")).expect("symlink");
        assert_eq!(
            read(&root, "/boot/vmlinuz", 0, 100).expect("inside"),
            (6, b"kernel".to_vec())
        );
        assert_eq!(read(&root, "/boot/vmlinuz", 4, 100).expect("inside").1, b"el");
        assert_eq!(read(&root, "/boot/vmlinuz", 6, 100).expect("inside").1, b"");
        for path in ["/boot/out", "/boot/far", "/../secret", "/boot", "/none"] {
            read(&root, path, 0, 1).expect_err(path);
        }
        let mut found = names(&root, "/boot", 10).expect("a folder");
        found.sort();
        assert_eq!(found, ["far", "out", "vmlinuz", "vmlinuz-1"]);
        assert_eq!(names(&root, "/boot", 2).expect("a folder").len(), 2);
    }
}
