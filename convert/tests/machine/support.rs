//! What the tests share.

use esxodus_convert::machine::Machine;
use esxodus_convert::source::{ImportOptions, Imported, open};
use esxodus_convert::targets::{NetworkMap, TargetContext, TargetDisk};
use std::path::{Path, PathBuf};

pub(crate) const WORKED: &str = include_str!("worked.vmx");

/// Imports a VMX text from a folder of its own; the files of its disks are made, empty.
pub(crate) fn import(text: &[u8]) -> Imported {
    let folder = tempfile::tempdir().expect("temporary folder");
    import_in(folder.path(), text)
}

pub(crate) fn import_in(folder: &Path, text: &[u8]) -> Imported {
    let path = folder.join("guest.vmx");
    std::fs::write(&path, text).expect("file");
    for name in ["boot", "d2", "d10", "s1", "n0", "a", "b"] {
        std::fs::write(folder.join(format!("{name}.vmdk")), "").expect("file");
    }
    open(&path, &ImportOptions::default()).expect("importable")
}

pub(crate) fn context(machine: &Machine, virtio_proven: bool) -> TargetContext {
    TargetContext {
        disks: (0..machine.disks.len())
            .map(|number| TargetDisk {
                path: PathBuf::from(format!("disks/it's, disk {number}.qcow2")),
                format: "qcow2".to_owned(),
                virtual_bytes: (1 << 30) + 512,
            })
            .collect(),
        map: Some(
            NetworkMap::parse(
                "[networks.\"Prod VLAN 100\"]\nbridge = \"vmbr0\"\nvlan = 100\nnad = \"prod/vlan100\"\n\
                 [networks.DMZ]\nbridge = \"vmbr1\"\nnad = \"prod/dmz\"\n\
                 [guests.\"Prod DB_01 \\\" x\".nics.\"00:50:56:80:00:10\"]\nbridge = \"vmbr2\"\nnad = \"prod/other\"\n",
            )
            .expect("the map is right"),
        ),
        virtio_proven,
    }
}

/// A file of the shared reference data or images, or `None` with a printed reason.
pub(crate) fn shared(path: &str) -> Option<PathBuf> {
    // Beside the repository, or beside the folder of its worktrees.
    let found = Path::new(env!("CARGO_MANIFEST_DIR"))
        .ancestors()
        .map(|folder| folder.join("shared").join(path))
        .find(|path| path.exists());
    if found.is_none() {
        println!("SKIP: shared/{path} is missing");
    }
    found
}

/// Is a program there? Prints the reason where it isn't.
pub(crate) fn tool(name: &str) -> bool {
    let found = std::env::var_os("PATH")
        .is_some_and(|path| std::env::split_paths(&path).any(|folder| folder.join(name).is_file()));
    if !found {
        println!("SKIP: {name} is not installed");
    }
    found
}
