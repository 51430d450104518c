//! What is put behind an initramfs: one more archive, which the kernel unpacks over the others.

use super::unpack::{Packing, lz4_frame};
use super::{Initramfs, Maker};
use crate::kmod::Modules;
use esxodus_agent::cpio::Archive;
use std::collections::BTreeSet;
use std::io;

/// A file in our archive that says who added it.
pub(crate) const MARK: &str = "etc/esxodus-virtio";

/// A file of an image: its path in it, and its text.
pub(crate) type Text = (String, String);

/// What to put in.
#[derive(Debug)]
pub(crate) struct Addition {
    /// Path relative to the modules' folder, without the ending of a compression, and the module's bytes.
    pub(crate) files: Vec<(String, Vec<u8>)>,
    /// Names to load early, in this order.
    pub(crate) load: Vec<&'static str>,
    /// Settings that replace those of the image.
    pub(crate) texts: Vec<Text>,
}

/// The bytes to put behind the file of `old`, which has `length` bytes.
///
/// Modules are added unpacked: whatever reads the initramfs's own ones reads plain files too. Lists of modules to load are extended for
/// initramfs-tools (`conf/modules`) and for systemd in a dracut image (`modules-load.d`); beside them udev finds the modules by the
/// regenerated aliases.
///
/// # Errors
/// Modules are to be added and the kernel's description of them is not there.
pub(crate) fn append(
    old: &Initramfs,
    length: usize,
    modules: Option<&Modules>,
    version: &str,
    add: &Addition,
) -> io::Result<Vec<u8>> {
    let folder = old.folder.clone().unwrap_or_else(|| {
        let base = if old.links.contains("lib") { "usr/lib" } else { "lib" };
        format!("{base}/modules/{version}")
    });
    let mut files: Vec<(String, Vec<u8>)> = Vec::new();
    if !add.files.is_empty() {
        let modules = modules.ok_or_else(|| io::Error::other("the modules of this kernel are not described"))?;
        let mut present = old.modules.clone();
        for (path, bytes) in &add.files {
            present.insert(crate::kmod::module_name(path), path.clone());
            files.push((format!("{folder}/{path}"), bytes.clone()));
        }
        for (name, content) in modules.description(&present) {
            files.push((format!("{folder}/{name}"), content));
        }
        files.push(load_list(old, &add.load));
    }
    files.extend(
        add.texts
            .iter()
            .map(|(path, text)| (path.clone(), text.clone().into_bytes())),
    );
    files.push((MARK.to_owned(), b"Added by esxodus fixup: what KVM needs.\n".to_vec()));

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

/// The modules to load, for the program that made the image.
fn load_list(old: &Initramfs, load: &[&str]) -> (String, Vec<u8>) {
    let list = |words: &mut dyn Iterator<Item = &str>| words.flat_map(|word| [word, "\n"]).collect::<String>();
    if old.maker != Maker::InitramfsTools {
        return (
            "etc/modules-load.d/esxodus-virtio.conf".to_owned(),
            list(&mut load.iter().copied()).into_bytes(),
        );
    }
    let mut text = String::from_utf8_lossy(old.texts.get("conf/modules").map_or(&[][..], Vec::as_slice)).into_owned();
    if !text.is_empty() && !text.ends_with('\n') {
        text.push('\n');
    }
    let there: BTreeSet<String> = text.lines().map(|line| line.trim().to_owned()).collect();
    let new = list(&mut load.iter().copied().filter(|name| !there.contains(*name)));
    ("conf/modules".to_owned(), (text + &new).into_bytes())
}
