//! The committed corpus: small hostile inputs, each given to its parser. The folder names the parser.

use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use convert::copy::{Compress, CopyOptions, convert_disk};
use convert::image::map::DiskSource;
use convert::image::qcow2::{DataFileRule, Qcow2Image};
use convert::progress::Silent;

use crate::fixtures::{
    Grain, SeGrain, cowd, descriptor, hosted_of, open_file, pattern, put32, put64, sesparse, stream_saying, zlib,
};

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

const GRAIN: usize = 4096;

/// A stream of 64 sectors with grains of 4 KiB. Its first marker is at byte 4096.
fn small_stream() -> Vec<u8> {
    let grains = [
        Grain::Data(pattern(1, GRAIN)),
        Grain::Data(pattern(2, GRAIN)),
        Grain::Absent,
        Grain::Data(pattern(3, GRAIN)),
    ];
    stream_saying("RDONLY 64 SPARSE \"generated-stream.vmdk\"", 64, 8, &grains)
}

/// A hosted extent of 64 sectors with grains of 4 KiB; both grain tables begin at these sectors.
fn small_hosted(line: &str) -> Vec<u8> {
    let text = descriptor(1, None, "custom", &[line.to_owned()]);
    let grains = [
        Grain::Data(pattern(1, GRAIN)),
        Grain::Zero,
        Grain::Data(pattern(2, GRAIN)),
    ];
    hosted_of(8, 64, &grains, Some(&text))
}

const TABLES: [usize; 2] = [22 * 512, 27 * 512];

fn small_cowd() -> Vec<u8> {
    let grains = [
        (0, Grain::Data(pattern(1, 512))),
        (1, Grain::Zero),
        (4000, Grain::Data(pattern(2, 512))),
    ];
    cowd(4096, 4, &grains)
}

fn small_sesparse() -> Vec<u8> {
    let grains = [
        (0, SeGrain::Data(pattern(1, 4096))),
        (1, SeGrain::Zero),
        (2, SeGrain::Unmapped),
    ];
    sesparse(64, &grains)
}

fn changed(mut image: Vec<u8>, change: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    change(&mut image);
    image
}

/// What of the corpus is made by machine: the path below `tests/corpus`, and the bytes.
fn made() -> Vec<(String, Vec<u8>)> {
    let mut made: Vec<(String, Vec<u8>)> = Vec::new();
    let mut add = |path: &str, bytes: Vec<u8>| made.push((path.to_owned(), bytes));
    let text = |name: &str, parent: &str, line: &str| {
        format!(
            "# Disk DescriptorFile\nversion=1\nCID=00000001\nparentCID=00000001\ncreateType=\"{name}\"\n\
             parentFileNameHint=\"{parent}\"\n{line}\n"
        )
        .into_bytes()
    };
    // Streams.
    let bomb = zlib(&vec![0; 1 << 20]);
    let bombed = changed(small_stream(), |image| {
        put32(image, 4104, u32::try_from(bomb.len()).expect("small"));
        image[4108..4108 + bomb.len()].copy_from_slice(&bomb);
    });
    add("vmdk/stream-inflate-bomb.vmdk", bombed);
    let without_footer = |image: &mut Vec<u8>| image.truncate(image.len() - 1536);
    add(
        "vmdk/stream-torn-grain.vmdk",
        changed(small_stream(), |image| image.truncate(4096 + 100)),
    );
    add(
        "vmdk/stream-marker-of-2-to-60-sectors.vmdk",
        changed(small_stream(), |image| {
            without_footer(image);
            put64(image, 4096, 1 << 60);
            put32(image, 4104, 0);
            put32(image, 4108, 1);
        }),
    );
    add(
        "vmdk/stream-grain-outside.vmdk",
        changed(small_stream(), |image| {
            without_footer(image);
            put64(image, 4096, 64);
        }),
    );
    add(
        "vmdk/stream-grain-twice.vmdk",
        changed(small_stream(), |image| {
            without_footer(image);
            put64(image, 4096, 8);
        }),
    );
    // Hosted extents whose descriptor gives them to another line.
    add("vmdk/embedded-zero.vmdk", small_hosted("RW 64 ZERO"));
    add(
        "vmdk/embedded-flat.vmdk",
        small_hosted("RW 64 FLAT \"embedded-flat.vmdk\" 0"),
    );
    // Bodies beside their descriptor.
    let mut body = |name: &str, kind: &str, bytes: Vec<u8>| {
        let line = format!("RW 64 {kind} \"{name}.body\"");
        add(
            &format!("vmdk/{name}.vmdk"),
            descriptor(1, None, "custom", &[line]).into_bytes(),
        );
        add(&format!("vmdk/{name}.body"), bytes);
    };
    body(
        "cowd-entry-3",
        "VMFSSPARSE",
        changed(small_cowd(), |image| put32(image, 2560, 3)),
    );
    body(
        "cowd-table-is-the-directory",
        "VMFSSPARSE",
        changed(small_cowd(), |image| put32(image, 2048, 4)),
    );
    body(
        "sesparse-journal",
        "SESPARSE",
        changed(small_sesparse(), |image| {
            put64(image, 512 + 24, 1);
            image.truncate(1024);
        }),
    );
    body(
        "sesparse-kind-4",
        "SESPARSE",
        changed(small_sesparse(), |image| put64(image, 32 * 512, 4 << 60)),
    );
    body(
        "sesparse-index-past-the-end",
        "SESPARSE",
        changed(small_sesparse(), |image| put64(image, 32 * 512, 0x3fff_ffff_ffff_ffff)),
    );
    // Two files that are each other's parent.
    add("vmdk/loop-a.vmdk", text("custom", "loop-b.vmdk", "RW 8 ZERO"));
    add("vmdk/loop-b.vmdk", text("custom", "loop-a.vmdk", "RW 8 ZERO"));
    let line = format!("RW {} ZERO", (1_u64 << 41) + 1);
    add(
        "vmdk/one-sector-above-1-pib.vmdk",
        descriptor(1, None, "custom", &[line]).into_bytes(),
    );
    seeds(&mut add);
    made
}

/// Whole images, from which the fuzz targets start.
fn seeds(add: &mut impl FnMut(&str, Vec<u8>)) {
    let sparse = "RW 64 SPARSE \"body.vmdk\"";
    add("seeds/vmdk_hosted/grains", small_hosted(sparse));
    // Odd, and legal to read.
    let overlap = changed(small_hosted(sparse), |image| {
        for table in TABLES {
            let first = u32::from_le_bytes(image[table..table + 4].try_into().expect("four"));
            put32(image, table + 8, first + 4);
        }
    });
    add("seeds/vmdk_hosted/grains-overlap", overlap);
    let own_table = changed(small_hosted(sparse), |image| {
        for table in TABLES {
            put32(image, table, 27);
        }
    });
    add("seeds/vmdk_hosted/a-grain-is-its-table", own_table);
    add("seeds/vmdk_cowd/grains", small_cowd());
    add("seeds/vmdk_sesparse/grains", small_sesparse());
    add("seeds/vmdk_stream/grains", small_stream());
    let lines = [
        "RW 8 ZERO".to_owned(),
        "NOACCESS 8 FLAT \"a b.img\" 7".to_owned(),
        "RDONLY 8 SPARSE \"c.vmdk\"".to_owned(),
    ];
    let all = descriptor(1, Some((2, "[store 1] guest/base.vmdk")), "custom", &lines);
    add("seeds/vmdk_descriptor/custom", all.into_bytes());
    let link = |cid, parent| descriptor(cid, parent, "custom", &["RW 8 ZERO".to_owned()]);
    let chain = [
        link(3, Some((2, "b.vmdk"))),
        link(2, Some((1, "/vmfs/volumes/5f/x/c.vmdk"))),
        link(1, None),
    ];
    add("seeds/vmdk_chain/three-links", chain.join("\0").into_bytes());
    add("seeds/qcow2/zlib-clusters", small_qcow2());
}

/// What our writer makes of 64 KiB.
fn small_qcow2() -> Vec<u8> {
    let folder = tempfile::tempdir().expect("folder");
    let (raw, out) = (folder.path().join("disk.raw"), folder.path().join("disk.qcow2"));
    std::fs::write(
        &raw,
        [pattern(1, 3 * GRAIN), vec![0; 10 * GRAIN], pattern(2, 3 * GRAIN)].concat(),
    )
    .expect("write");
    let options = CopyOptions {
        compress: Compress::Zlib,
        cluster_bytes: Some(4096),
        sync: false,
        ..CopyOptions::default()
    };
    let disk = open_file(&raw).expect("raw");
    convert_disk(&*disk, &out, "disk", &options, &Silent, &AtomicBool::new(false)).expect("converts");
    std::fs::read(&out).expect("qcow2")
}

#[test]
fn the_binary_part_of_the_corpus_is_what_its_generator_makes() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus");
    for (name, bytes) in made() {
        let path = corpus.join(&name);
        if std::env::var_os("ESXODUS_UPDATE_CORPUS").is_some() {
            std::fs::create_dir_all(path.parent().expect("a folder")).expect("folder");
            std::fs::write(&path, &bytes).expect("write");
        }
        let found = std::fs::read(&path).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert!(found == bytes, "{name}: ESXODUS_UPDATE_CORPUS=1 writes it anew");
    }
}
