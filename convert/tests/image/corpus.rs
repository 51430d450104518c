//! The committed corpus: small hostile inputs, each given to its parser. The folder names the parser.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use convert::image::map::DiskSource;
use convert::image::qcow2::{DataFileRule, Qcow2Image};

use crate::fixtures::open_file;

fn inputs(kind: &str) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus").join(kind);
    let mut paths: Vec<PathBuf> = std::fs::read_dir(&folder)
        .expect("the corpus is part of the repository")
        .map(|entry| entry.expect("a name").path())
        .collect();
    paths.sort();
    assert!(paths.len() >= 6, "{kind}: only {} inputs", paths.len());
    paths
}

/// Runs `parse` on every input of `kind`; true means that it was accepted. A limit for hangs, not a measurement.
fn each(kind: &str, mut parse: impl FnMut(&Path) -> bool) -> Vec<String> {
    let mut accepted = Vec::new();
    for path in inputs(kind) {
        let started = Instant::now();
        if parse(&path) {
            accepted.push(path.file_name().expect("a file").to_string_lossy().into_owned());
        }
        assert!(started.elapsed() < Duration::from_secs(60), "{}", path.display());
    }
    accepted
}

/// Maps and reads the first MiB.
fn readable(disk: &dyn DiskSource) -> bool {
    let length = disk.virtual_bytes().min(1 << 20);
    let mut buffer = vec![0; usize::try_from(length).expect("small")];
    disk.map(0, length).is_ok() && disk.read_at(0, &mut buffer).is_ok()
}

#[test]
fn hostile_vmdks_are_refused_with_a_reason() {
    let accepted = each("vmdk", |path| match open_file(path) {
        Ok(disk) => {
            for handle in disk.files() {
                assert!(handle.path.starts_with(path.parent().expect("a folder")));
            }
            readable(&*disk)
        }
        Err(error) => {
            assert!(!error.to_string().is_empty(), "{}", path.display());
            false
        }
    });
    assert!(accepted.is_empty(), "{accepted:?}");
}

#[test]
fn hostile_qcow2_images_are_refused() {
    let accepted = each("qcow2", |path| {
        Qcow2Image::open(path, DataFileRule::Refuse).is_ok_and(|image| readable(&image))
    });
    assert!(accepted.is_empty(), "{accepted:?}");
}

#[test]
fn hostile_descriptions_end_in_a_result() {
    // Some of these are tolerable; what counts is that the parsers come back.
    let ovf = each("ovf", |path| {
        convert::ovf::parse(&std::fs::read(path).expect("input")).is_ok()
    });
    assert!(
        !ovf.iter().any(|name| name.contains("entity") || name.contains("deep")),
        "{ovf:?}"
    );
    each("vmx", |path| {
        convert::vmx::parse(&std::fs::read(path).expect("input")).is_ok()
    });
}

#[test]
fn a_descriptor_of_100000_extents_is_refused_at_its_limit() {
    let folder = tempfile::tempdir().expect("folder");
    let path = folder.path().join("many.vmdk");
    let text = format!(
        "# Disk DescriptorFile\nversion=1\nCID=00000001\nparentCID=ffffffff\ncreateType=\"custom\"\n{}",
        "RW 8 ZERO\n".repeat(100_000)
    );
    std::fs::write(&path, text).expect("write");
    let error = open_file(&path).map(|_| ()).expect_err("refused");
    assert_eq!(error.kind, convert::image::ImageErrorKind::Limit, "{error}");
}
