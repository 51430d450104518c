//! What is put behind an initramfs: one more archive, which the kernel unpacks over the others.

use super::unpack::{Packing, lz4_frame};
use super::{Initramfs, Maker};
use crate::kmod::Modules;
use esxodus_agent::cpio::Archive;
use std::collections::BTreeSet;
use std::io;

/// A file in our archive that says who added it.
pub(crate) const MARK: &str = "etc/esxodus-virtio";

/// Modules to put in.
#[derive(Debug)]
pub(crate) struct Addition {
    /// Path relative to the modules' folder, without the ending of a compression, and the module's bytes.
    pub(crate) files: Vec<(String, Vec<u8>)>,
    /// Names to load early, in this order.
    pub(crate) load: Vec<&'static str>,
}

/// The bytes to put behind the file of `old`, which has `length` bytes.
///
/// Modules are added unpacked: whatever reads the initramfs's own ones reads plain files too. Lists of modules to load are extended for
/// initramfs-tools (`conf/modules`) and for systemd in a dracut image (`modules-load.d`); beside them udev finds the modules by the
/// regenerated aliases.
///
/// # Errors
/// The file has no place for modules.
pub(crate) fn append(
    old: &Initramfs,
    length: usize,
    modules: &Modules,
    version: &str,
    add: &Addition,
) -> io::Result<Vec<u8>> {
    let folder = old.folder.clone().unwrap_or_else(|| {
        let base = if old.links.contains("lib") { "usr/lib" } else { "lib" };
        format!("{base}/modules/{version}")
    });
    let mut present = old.modules.clone();
    let mut files: Vec<(String, Vec<u8>)> = Vec::new();
    for (path, bytes) in &add.files {
        present.insert(crate::kmod::module_name(path), path.clone());
        files.push((format!("{folder}/{path}"), bytes.clone()));
    }
    for (name, content) in modules.description(&present) {
        files.push((format!("{folder}/{name}"), content));
    }
    let list = |words: &mut dyn Iterator<Item = &str>| words.flat_map(|word| [word, "\n"]).collect::<String>();
    match old.maker {
        Maker::InitramfsTools => {
            let mut text =
                String::from_utf8_lossy(old.texts.get("conf/modules").map_or(&[][..], Vec::as_slice)).into_owned();
            if !text.is_empty() && !text.ends_with('\n') {
                text.push('\n');
            }
            let there: BTreeSet<String> = text.lines().map(|line| line.trim().to_owned()).collect();
            let new = list(&mut add.load.iter().copied().filter(|name| !there.contains(*name)));
            files.push(("conf/modules".to_owned(), (text + &new).into_bytes()));
        }
        _ => files.push((
            "etc/modules-load.d/esxodus-virtio.conf".to_owned(),
            list(&mut add.load.iter().copied()).into_bytes(),
        )),
    }
    files.push((
        MARK.to_owned(),
        b"Added by esxodus fixup: virtio drivers for KVM.\n".to_vec(),
    ));

    let mut archive = Archive::default();
    let mut made: BTreeSet<String> = BTreeSet::new();
    for (path, content) in &files {
        for parent in old.missing_folders(path) {
            if made.insert(parent.to_owned()) {
                archive.folder(parent);
            }
        }
        archive.file(path, 0o644, content);
    }
    let archive = archive.finish();
    Ok(match old.last {
        // Without an end mark a frame's reader would take what follows for a block: another frame is what it expects.
        Packing::Lz4 if old.end == length => lz4_frame(&archive)?,
        // An unpacked archive is taken wherever the kernel is done with a part, at a multiple of four bytes.
        _ => {
            let mut bytes = vec![0; length.wrapping_neg() % 4];
            bytes.extend(archive);
            bytes
        }
    })
}
