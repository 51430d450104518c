//! What the targets share: images written into a folder of their own, opened, mapped and read in part.

use std::path::{Path, PathBuf};

use convert::image::{DiskLocation, OpenOptions, open};

/// A descriptor with one extent line of type `kind` that names `body.vmdk`.
pub fn descriptor(kind: &str, sectors: u64) -> String {
    format!("# Disk DescriptorFile\nversion=1\nCID=00000001\nparentCID=ffffffff\ncreateType=\"custom\"\nRW {sectors} {kind} \"body.vmdk\"\n")
}

/// Writes `files` into a fresh folder and exercises the first of them, strictly and with salvage.
pub fn exercise(files: &[(&str, &[u8])]) {
    let folder = tempfile::tempdir().expect("temporary folder");
    for (name, bytes) in files {
        std::fs::write(folder.path().join(name), bytes).expect("write");
    }
    let top: PathBuf = folder.path().join(files[0].0);
    for salvage in [false, true] {
        read(&top, folder.path(), salvage);
    }
}

fn read(top: &Path, folder: &Path, salvage: bool) {
    let options = OpenOptions { salvage, ..OpenOptions::default() };
    let Ok(disk) = open(&DiskLocation::file(top), &options) else { return };
    for handle in disk.files() {
        assert!(handle.path.starts_with(folder), "opened {}", handle.path.display());
    }
    let bytes = disk.virtual_bytes();
    let mut buffer = vec![0; 1 << 16];
    for start in [0, bytes / 2, bytes.saturating_sub(16 << 20)] {
        let length = (16 << 20).min(bytes - start);
        let Ok(runs) = disk.map(start, length) else { continue };
        assert_eq!(runs.iter().map(|run| run.length).sum::<u64>(), length);
        let size = usize::try_from(length.min(1 << 16)).expect("small");
        let _ = disk.read_at(start, &mut buffer[..size]);
    }
}
