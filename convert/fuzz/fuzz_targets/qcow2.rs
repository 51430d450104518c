#![no_main]
//! A qcow2 image: header, map and content, as verification reads it.
use convert::image::map::DiskSource as _;
use convert::image::qcow2::{DataFileRule, Qcow2Image};

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let folder = tempfile::tempdir().expect("temporary folder");
    let path = folder.path().join("fuzz.qcow2");
    let mut image = data.to_vec();
    image.resize(image.len().max(104), 0);
    image[..4].copy_from_slice(b"QFI\xfb");
    std::fs::write(&path, &image).expect("write");
    let Ok(image) = Qcow2Image::open(&path, DataFileRule::Refuse) else { return };
    let length = image.virtual_bytes().min(16 << 20);
    if image.map(0, length).is_ok() {
        let mut buffer = vec![0; usize::try_from(length.min(1 << 20)).expect("small")];
        let _ = image.read_at(0, &mut buffer);
    }
});
