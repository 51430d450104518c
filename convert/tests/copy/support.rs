//! Disks to convert and tools to judge the result.

use convert::copy::{ConvertError, CopyOptions, convert_disk};
use convert::image::map::DiskSource;
use convert::progress::Silent;
use reports::schema::DiskManifest;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::AtomicBool;

/// Options for tests: no syncing, which tests of content gain nothing from.
pub(crate) fn options() -> CopyOptions {
    CopyOptions {
        sync: false,
        checkpoint_bytes: 4 << 20,
        ..CopyOptions::default()
    }
}

pub(crate) fn convert(
    source: &dyn DiskSource,
    target: &Path,
    options: &CopyOptions,
) -> Result<DiskManifest, ConvertError> {
    convert_disk(source, target, "disk", options, &Silent, &AtomicBool::new(false))
}

/// Bytes that do not compress, the same for the same seed.
pub(crate) fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    blake3::Hasher::new()
        .update(&seed.to_le_bytes())
        .finalize_xof()
        .fill(&mut bytes);
    bytes
}

/// Bytes that compress to about a third.
pub(crate) fn text(seed: u64, length: usize) -> Vec<u8> {
    let words = noise(seed, length / 3 + 8);
    let mut bytes = Vec::with_capacity(length + 16);
    for pair in words.chunks(2) {
        bytes.extend(format!("{:x} etc ", pair[0] & 0x3f).as_bytes());
    }
    bytes.resize(length, b'.');
    bytes
}

/// A sparse raw disk of text, noise, stored zeros and holes, whose size ends inside a cluster.
pub(crate) fn mixed(path: &Path, bytes: u64) {
    let file = std::fs::File::create(path).unwrap();
    file.set_len(bytes).unwrap();
    let piece = 192 << 10;
    let mut at = 0;
    let mut step = 0_u64;
    while at < bytes {
        let length = usize::try_from((bytes - at).min(piece)).unwrap();
        match step % 11 {
            0 | 3 | 7 => file.write_all_at(&text(step, length), at).unwrap(),
            1 | 8 => file.write_all_at(&noise(step, length), at).unwrap(),
            2 => file.write_all_at(&vec![0; length], at).unwrap(),
            4 => file.write_all_at(&noise(step, length.min(5000)), at).unwrap(),
            9 => at += 9 << 20,
            _ => {}
        }
        at += piece + if step.is_multiple_of(5) { 512 } else { 0 };
        step += 1;
    }
    if bytes > 4096 {
        file.write_all_at(b"the very end", bytes - 12).unwrap();
    }
}

pub(crate) fn qemu_img(arguments: &[&str]) -> (bool, String) {
    let output = Command::new("qemu-img")
        .args(arguments)
        .output()
        .expect("qemu-img runs");
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    (output.status.success(), text)
}

pub(crate) fn have_qemu_img() -> bool {
    let there = Command::new("qemu-img").arg("--version").output().is_ok();
    if !there {
        println!("SKIP: qemu-img is not installed");
    }
    there
}

/// qemu-img finds the image sound and its content equal to the raw file's.
pub(crate) fn assert_sound(image: &Path, raw: &Path, what: &str) {
    let (image, raw) = (image.to_str().unwrap(), raw.to_str().unwrap());
    let (clean, text) = qemu_img(&["check", "-f", "qcow2", image]);
    assert!(clean && text.contains("No errors were found"), "{what}: {text}");
    let (equal, text) = qemu_img(&["compare", "-f", "raw", "-F", "qcow2", raw, image]);
    assert!(equal && text.contains("Images are identical"), "{what}: {text}");
}

/// `raw` as a VMDK of `subformat`.
pub(crate) fn vmdk(raw: &Path, subformat: &str) -> PathBuf {
    let out = raw.with_extension(format!("{subformat}.vmdk"));
    let option = format!("subformat={subformat}");
    let (made, text) = qemu_img(&[
        "convert",
        "-f",
        "raw",
        "-O",
        "vmdk",
        "-o",
        &option,
        raw.to_str().unwrap(),
        out.to_str().unwrap(),
    ]);
    assert!(made, "{text}");
    out
}
