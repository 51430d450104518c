//! Which parent is accepted: by content id, by long content id, by VirtualBox's UUIDs, and by the user's word.

use std::path::{Path, PathBuf};

use convert::image::map::DiskSource;
use convert::image::{DiskLocation, ImageError, ImageErrorKind, OpenOptions, open};

fn write(folder: &Path, name: &str, keys: &str) -> PathBuf {
    let path = folder.join(name);
    std::fs::write(&path, format!("# Disk DescriptorFile\nversion=1\n{keys}\nRW 8 ZERO\n")).expect("write");
    path
}

fn opened(path: &Path, salvage: bool, ignore: bool) -> Result<Box<dyn DiskSource>, ImageError> {
    let options = OpenOptions {
        salvage,
        ignore_cid_mismatch: ignore,
        ..OpenOptions::default()
    };
    open(&DiskLocation::file(path), &options)
}

fn refused(path: &Path, words: &[&str]) {
    for salvage in [false, true] {
        let error = opened(path, salvage, false).map(|_| ()).expect_err("another disk");
        assert_eq!(error.kind, ImageErrorKind::Chain, "{error}");
        for word in words.iter().chain(&["--ignore-cid-mismatch"]) {
            assert!(error.to_string().contains(word), "{word} in {error}");
        }
    }
    let disk = opened(path, false, true).expect("the user knows better");
    assert!(
        disk.notes().iter().any(|note| note.contains("ignored")),
        "{:?}",
        disk.notes()
    );
}

#[test]
fn salvage_does_not_take_another_disk_for_the_parent() {
    let folder = tempfile::tempdir().expect("folder");
    write(folder.path(), "base.vmdk", "CID=00000001");
    let child = write(
        folder.path(),
        "child.vmdk",
        "CID=00000002\nparentCID=00000007\nparentFileNameHint=\"base.vmdk\"",
    );
    refused(&child, &["00000007", "00000001"]);
}

#[test]
fn a_parent_whose_virtualbox_uuid_is_another_is_refused() {
    let folder = tempfile::tempdir().expect("folder");
    let (one, two) = (
        "5f6e3c2a-0001-4abc-9def-000000000001",
        "5F6E3C2A-0001-4ABC-9DEF-000000000002",
    );
    write(
        folder.path(),
        "base.vmdk",
        &format!("CID=00000001\nddb.uuid.image=\"{one}\""),
    );
    // VirtualBox refers by UUID where the CID says nothing, and beside it where it does.
    for cid in ["ffffffff", "00000001"] {
        let child = |uuid: &str| {
            write(
                folder.path(),
                "child.vmdk",
                &format!("CID=00000002\nparentCID={cid}\nparentFileNameHint=\"base.vmdk\"\nddb.uuid.parent=\"{uuid}\""),
            )
        };
        let disk = opened(&child(&one.to_ascii_uppercase()), false, false).expect("the same UUID");
        assert_eq!(disk.facts().links.len(), 2, "{cid}");
        assert_eq!(disk.notes(), Vec::<String>::new(), "{cid}");
        refused(&child(two), &["ddb.uuid.parent", "000000000002"]);
    }
}

#[test]
fn a_parent_that_nothing_proves_is_read_with_a_note() {
    let folder = tempfile::tempdir().expect("folder");
    write(
        folder.path(),
        "base.vmdk",
        "CID=fffffffe\nddb.longContentID=\"00112233445566778899aabbfffffffe\"",
    );
    let long = write(
        folder.path(),
        "long.vmdk",
        "CID=fffffffe\nparentCID=fffffffe\nparentFileNameHint=\"base.vmdk\"",
    );
    let uuid = write(
        folder.path(),
        "uuid.vmdk",
        "CID=00000002\nparentCID=ffffffff\nparentFileNameHint=\"base.vmdk\"\nddb.uuid.parent=\"5f6e3c2a-0001-4abc-9def-000000000001\"",
    );
    for (path, words) in [(long, "long content id"), (uuid, "UUID")] {
        let disk = opened(&path, false, false).expect("opens");
        assert_eq!(disk.facts().links.len(), 2);
        let notes = disk.notes().join("\n");
        assert!(notes.contains("nothing proves") && notes.contains(words), "{notes}");
    }
}
