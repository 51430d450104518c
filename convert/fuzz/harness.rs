//! What the fuzz targets do with an input, a function each. The ordinary tests compile this file too and run the corpus through
//! it (`convert/tests/image/fuzz.rs`), so that it stays whole without a fuzzer.

use std::path::{Path, PathBuf};

use convert::image::map::DiskSource;
use convert::image::qcow2::{DataFileRule, Qcow2Image};
use convert::image::vmdk::descriptor::Descriptor;
use convert::image::vmdk::stream::GrainStream;
use convert::image::{DiskLocation, OpenOptions, open};

/// A descriptor with one extent line of type `kind` that names `body.vmdk`.
fn descriptor(kind: &str, sectors: u64) -> String {
    format!(
        "# Disk DescriptorFile\nversion=1\nCID=00000001\nparentCID=ffffffff\ncreateType=\"custom\"\nRW {sectors} {kind} \"body.vmdk\"\n"
    )
}

/// Writes `files` into a fresh folder and reads the first of them, strictly and with salvage. Whether it is strictly a disk.
fn exercise(files: &[(&str, &[u8])]) -> bool {
    let folder = tempfile::tempdir().expect("temporary folder");
    for (name, bytes) in files {
        std::fs::write(folder.path().join(name), bytes).expect("write");
    }
    let top: PathBuf = folder.path().join(files[0].0);
    read(&top, folder.path(), true);
    read(&top, folder.path(), false)
}

fn read(top: &Path, folder: &Path, salvage: bool) -> bool {
    let options = OpenOptions {
        salvage,
        ..OpenOptions::default()
    };
    let Ok(disk) = open(&DiskLocation::file(top), &options) else {
        return false;
    };
    for handle in disk.files() {
        assert!(handle.path.starts_with(folder), "opened {}", handle.path.display());
    }
    let bytes = disk.virtual_bytes();
    [0, bytes / 2, bytes.saturating_sub(16 << 20)]
        .into_iter()
        .all(|start| part(&*disk, start))
}

/// Maps up to 16 MiB from `start` on and reads their beginning.
fn part(disk: &dyn DiskSource, start: u64) -> bool {
    let length = (16 << 20).min(disk.virtual_bytes() - start);
    let Ok(runs) = disk.map(start, length) else {
        return false;
    };
    assert_eq!(runs.iter().map(|run| run.length).sum::<u64>(), length);
    let mut buffer = vec![0; usize::try_from(length.min(1 << 16)).expect("small")];
    disk.read_at(start, &mut buffer).is_ok()
}

/// A body beside a descriptor of 64 MiB, at least `least` long, with these bytes at these places.
fn body(kind: &str, data: &[u8], least: usize, fixed: &[(usize, &[u8])]) -> bool {
    let text = descriptor(kind, 131_072);
    let mut body = data.to_vec();
    body.resize(body.len().max(least), 0);
    for (at, bytes) in fixed {
        body[*at..*at + bytes.len()].copy_from_slice(bytes);
    }
    exercise(&[("top.vmdk", text.as_bytes()), ("body.vmdk", &body)])
}

/// The descriptor's text.
pub fn vmdk_descriptor(data: &[u8]) -> bool {
    Descriptor::parse(Path::new("fuzz.vmdk"), 0, data).is_ok()
}

/// A hosted sparse extent beside its descriptor; compressed where the input says so.
pub fn vmdk_hosted(data: &[u8]) -> bool {
    body("SPARSE", data, 512, &[(0, b"KDMV")])
}

/// A COWD extent beside its descriptor.
pub fn vmdk_cowd(data: &[u8]) -> bool {
    body("VMFSSPARSE", data, 2048, &[(0, b"COWD\x01\0\0\0")])
}

/// An seSparse extent beside its descriptor.
pub fn vmdk_sesparse(data: &[u8]) -> bool {
    let (constant, volatile) = (0xcafe_babe_u64.to_le_bytes(), 0xcafe_cafe_u64.to_le_bytes());
    body("SESPARSE", data, 1024, &[(0, &constant), (512, &volatile)])
}

/// A stream, front to back and with seeking.
pub fn vmdk_stream(data: &[u8]) -> bool {
    let piped =
        GrainStream::new(data, Path::new("fuzz.vmdk")).is_ok_and(|mut stream| stream.all(|grain| grain.is_ok()));
    exercise(&[("top.vmdk", data)]) && piped
}

/// A chain: the input is cut at NUL bytes into up to four descriptors that may name each other.
pub fn vmdk_chain(data: &[u8]) -> bool {
    let names = ["a.vmdk", "b.vmdk", "c.vmdk", "d.vmdk"];
    let files: Vec<(&str, &[u8])> = names.into_iter().zip(data.split(|byte| *byte == 0)).collect();
    exercise(&files)
}

/// A qcow2 image: header, map and content, as verification reads it.
pub fn qcow2(data: &[u8]) -> bool {
    let folder = tempfile::tempdir().expect("temporary folder");
    let path = folder.path().join("fuzz.qcow2");
    let mut image = data.to_vec();
    image.resize(image.len().max(104), 0);
    image[..4].copy_from_slice(b"QFI\xfb");
    std::fs::write(&path, &image).expect("write");
    let Ok(image) = Qcow2Image::open(&path, DataFileRule::Refuse) else {
        return false;
    };
    let length = (16 << 20).min(image.virtual_bytes());
    // Compressed clusters cannot be mapped, only read.
    let _ = image.map(0, length);
    let mut buffer = vec![0; usize::try_from(length.min(1 << 20)).expect("small")];
    image.read_at(0, &mut buffer).is_ok()
}

/// An OVF document.
pub fn ovf(data: &[u8]) -> bool {
    convert::ovf::parse(data).is_ok()
}

/// A VMX file.
pub fn vmx(data: &[u8]) -> bool {
    convert::vmx::parse(data).is_ok()
}
