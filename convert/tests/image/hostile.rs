//! The VMDK rows of the hostile-input catalogue: one case, one verdict.

use std::path::Path;

use convert::image::map::DiskSource;
use convert::image::vmdk::stream::GrainStream;
use convert::image::{DiskChunk, DiskLocation, ImageError, ImageErrorKind, OpenOptions, open};

use crate::fixtures::{
    Grain, SeGrain, content, cowd, descriptor, hosted, open_file, open_salvage, pattern, put16, put32, put64, sesparse,
    stream,
};

const GRAIN: usize = 65_536;

fn write(folder: &Path, name: &str, bytes: impl AsRef<[u8]>) -> std::path::PathBuf {
    let path = folder.join(name);
    std::fs::write(&path, bytes).expect("write");
    path
}

/// Opens and reads everything.
fn read_all(path: &Path) -> Result<Vec<u8>, ImageError> {
    read_disk(&*open_file(path)?)
}

fn read_disk(disk: &dyn DiskSource) -> Result<Vec<u8>, ImageError> {
    let mut all = vec![0; usize::try_from(disk.virtual_bytes().min(64 << 20)).expect("small")];
    disk.read_at(0, &mut all)?;
    Ok(all)
}

fn small_hosted() -> Vec<u8> {
    let text = descriptor(1, None, "monolithicSparse", &["RW 1024 SPARSE \"d.vmdk\"".to_owned()]);
    let grains: Vec<Grain> = (0..8).map(|seed| Grain::Data(pattern(seed, GRAIN))).collect();
    let mut image = hosted(1024, &grains, Some(&text));
    image[8] = 5;
    image
}

/// Byte offsets in [`small_hosted`]: directory, table, first grain.
const GD: usize = 26 * 512;
const GT: usize = 27 * 512;

fn small_stream() -> Vec<u8> {
    stream(
        1024,
        &(0..8).map(|seed| Grain::Data(pattern(seed, GRAIN))).collect::<Vec<_>>(),
    )
}

type Case = (&'static str, fn(&mut Vec<u8>), ImageErrorKind, &'static str);

fn check(base: &[u8], cases: &[Case]) {
    let folder = tempfile::tempdir().expect("folder");
    for (what, damage, kind, words) in cases {
        let mut image = base.to_vec();
        damage(&mut image);
        let path = write(folder.path(), "d.vmdk", &image);
        let error = read_all(&path).map(|_| ()).expect_err(what);
        assert_eq!(error.kind, *kind, "{what}: {error}");
        assert!(error.to_string().contains(words), "{what}: {error}");
        assert!(error.offset.is_some(), "{what} says where: {error}");
    }
}

#[test]
fn impossible_hosted_headers_tables_and_grains_are_refused() {
    use ImageErrorKind::{Damaged, Limit, Truncated, Unsupported};
    let cases: [Case; 26] = [
        ("version 4", |image| put32(image, 4, 4), Damaged, "version 4"),
        (
            "unknown flag",
            |image| put32(image, 8, 1 << 20),
            Damaged,
            "incompatible",
        ),
        (
            "markers without compression",
            |image| put32(image, 8, 1 << 17),
            Damaged,
            "markers",
        ),
        ("text-mode transfer", |image| image[73] = 13, Damaged, "newline"),
        (
            "capacity near 2^64",
            |image| put64(image, 12, u64::MAX - 1),
            Limit,
            "capacity",
        ),
        (
            "capacity above 1 PiB",
            |image| put64(image, 12, (1 << 41) + 1),
            Limit,
            "1 PiB",
        ),
        (
            "capacity with a directory of GiB",
            |image| {
                put64(image, 12, 1 << 40);
                put32(image, 44, 16);
            },
            Limit,
            "directory",
        ),
        ("grain size 0", |image| put64(image, 20, 0), Damaged, "grain size 0"),
        ("grain size 3", |image| put64(image, 20, 3), Damaged, "grain size 3"),
        (
            "grain size ffff",
            |image| put64(image, 20, u64::MAX),
            Damaged,
            "grain size",
        ),
        ("0 entries", |image| put32(image, 44, 0), Damaged, "0 entries"),
        ("506 entries", |image| put32(image, 44, 506), Damaged, "506"),
        ("8192 entries", |image| put32(image, 44, 8192), Damaged, "8192"),
        (
            "algorithm 2",
            |image| {
                put32(image, 8, 0x10001);
                put16(image, 77, 2);
            },
            Damaged,
            "algorithm 2",
        ),
        (
            "descriptor past the end",
            |image| put64(image, 28, 1 << 30),
            Truncated,
            "descriptor",
        ),
        (
            "descriptor in the grains",
            |image| put64(image, 28, 128),
            Damaged,
            "no extent line",
        ),
        ("descriptor of GiB", |image| put64(image, 36, 1 << 22), Limit, "1048576"),
        ("no descriptor", |image| put64(image, 28, 0), Unsupported, "one part"),
        (
            "directory past the end",
            |image| put64(image, 56, 1 << 40),
            Truncated,
            "directory",
        ),
        (
            "directory at 2^63",
            |image| put64(image, 56, 0x2800_0000_0000_0000),
            Limit,
            "directory",
        ),
        (
            "table past the end",
            |image| put32(image, GD, 0x00ff_ffff),
            Damaged,
            "past the end",
        ),
        (
            "table in the directory",
            |image| put32(image, GD, 26),
            Damaged,
            "inside",
        ),
        (
            "grain past the end",
            |image| put32(image, GT, 0x00ff_ffff),
            Truncated,
            "past the end",
        ),
        ("grain in the header", |image| put32(image, GT, 0x2), Damaged, "inside"),
        (
            "file cut in a grain",
            |image| image.truncate(image.len() - 512),
            Truncated,
            "past the end",
        ),
        (
            "unfinished write",
            |image| put32(image, 0, 0x564d_444b ^ 0x2020_2020),
            Damaged,
            "unfinished",
        ),
    ];
    check(&small_hosted(), &cases);
}

#[test]
fn damaged_streams_are_refused() {
    use ImageErrorKind::{Damaged, Truncated};
    // The first grain's marker is at 65,536; its data 12 bytes on.
    let cases: [Case; 7] = [
        (
            "marker size 0",
            |image| put32(image, 65_536 + 8, 0),
            Damaged,
            "0 compressed bytes",
        ),
        (
            "marker size above grain + 64 KiB",
            |image| put32(image, 65_536 + 8, 131_073),
            Damaged,
            "131073",
        ),
        (
            "wrong Adler-32",
            |image| {
                let size = usize::try_from(u32::from_le_bytes(image[65_544..65_548].try_into().expect("four")))
                    .expect("small");
                image[65_548 + size - 1] ^= 1;
            },
            Damaged,
            "Adler",
        ),
        (
            "method not 8",
            |image| {
                image[65_548] = 0x77;
                image[65_549] = 0x85;
            },
            Damaged,
            "zlib",
        ),
        (
            "preset dictionary",
            |image| {
                image[65_548] = 0x78;
                image[65_549] = 0xbb;
            },
            Damaged,
            "zlib",
        ),
        (
            "inflate bomb",
            |image| replace(image, &vec![0; 1 << 20]),
            Damaged,
            "more than one grain",
        ),
        (
            "a middle grain is short",
            |image| replace(image, &[7; 1000]),
            Damaged,
            "1000 bytes",
        ),
    ];
    check(&small_stream(), &cases);
    let no_footer: [Case; 5] = [
        (
            "torn last grain",
            |image| image.truncate(65_536 + 600),
            Truncated,
            "announces",
        ),
        (
            "metadata marker with a huge count",
            |image| {
                image.truncate(image.len() - 1536);
                put64(image, 65_536, 1 << 60);
                put32(image, 65_544, 0);
                put32(image, 65_548, 1);
            },
            Truncated,
            "sectors",
        ),
        (
            "unknown marker",
            |image| {
                image.truncate(image.len() - 1536);
                put32(image, 65_544, 0);
                put32(image, 65_548, 9);
            },
            Damaged,
            "unknown type 9",
        ),
        (
            "LBA outside",
            |image| {
                image.truncate(image.len() - 1536);
                put64(image, 65_536, 1024);
            },
            Damaged,
            "the disk has 1024",
        ),
        (
            "repeated LBA",
            |image| {
                image.truncate(image.len() - 1536);
                put64(image, 65_536, 128);
            },
            Damaged,
            "second grain",
        ),
    ];
    check(&small_stream(), &no_footer);
    for (what, damage, _, _) in &no_footer {
        let mut image = small_stream();
        damage(&mut image);
        let mut stream = GrainStream::new(image.as_slice(), Path::new("pipe")).expect(what);
        let failed = std::iter::from_fn(|| stream.next_grain().transpose()).any(|grain| grain.is_err());
        assert!(failed, "{what} is noticed front to back");
    }
}

/// Replaces the first grain's stream; the marker's length follows.
fn replace(image: &mut [u8], data: &[u8]) {
    let packed = crate::fixtures::zlib(data);
    put32(image, 65_544, u32::try_from(packed.len()).expect("small"));
    image[65_548..65_548 + packed.len()].copy_from_slice(&packed);
}

#[test]
fn a_front_to_back_reader_notices_tables_that_contradict_the_grains() {
    let good = small_stream();
    let markers: Vec<usize> = (0..good.len() / 512)
        .map(|sector| sector * 512)
        .filter(|at| {
            *at >= 65_536
                && good[*at + 8..*at + 12] == [0; 4]
                && [1, 2].contains(&good[*at + 12])
                && good[*at + 13..*at + 512].iter().all(|byte| *byte == 0)
        })
        .collect();
    assert_eq!(markers.len(), 2, "one table, one directory");
    for (at, what) in markers.iter().zip(["table", "directory"]) {
        let mut image = good.clone();
        image[at + 512] ^= 1;
        let mut stream = GrainStream::new(image.as_slice(), Path::new("pipe")).expect("header");
        let error = std::iter::from_fn(|| stream.next_grain().transpose())
            .find_map(Result::err)
            .expect(what);
        assert!(error.to_string().contains(what), "{error}");
    }
}

#[test]
fn a_grain_larger_compressed_than_plain_is_read() {
    let folder = tempfile::tempdir().expect("folder");
    let mut noise = vec![0; GRAIN];
    let mut random = crate::fixtures::Random(5);
    for byte in &mut noise {
        *byte = random.next().to_le_bytes()[3];
    }
    assert!(crate::fixtures::zlib(&noise).len() > GRAIN);
    let path = write(folder.path(), "d.vmdk", stream(128, &[Grain::Data(noise.clone())]));
    assert!(read_all(&path).expect("reads") == noise);
}

#[test]
fn two_entries_naming_one_grain_and_shared_tables_are_read() {
    let folder = tempfile::tempdir().expect("folder");
    let mut image = small_hosted();
    let first = image[GT..GT + 4].to_vec();
    image[GT + 4..GT + 8].copy_from_slice(&first);
    let all = read_all(&write(folder.path(), "d.vmdk", &image)).expect("reads");
    assert!(all[GRAIN..2 * GRAIN] == pattern(0, GRAIN)[..]);
}

/// What such files would cost is time: each of their entries is worth a table that has to be walked through.
#[test]
fn a_directory_whose_entries_share_one_table_is_refused_in_every_sparse_kind() {
    let folder = tempfile::tempdir().expect("folder");
    let refused = |path: &Path| {
        let error = open_file(path).err().expect("refused");
        assert_eq!(error.kind, ImageErrorKind::Damaged, "{error}");
        assert!(error.to_string().contains("tables share their place"), "{error}");
    };
    let sectors = 65_536 * 100;
    let lines = [format!("RW {sectors} SPARSE \"d.vmdk\"")];
    let text = descriptor(1, None, "monolithicSparse", &lines);
    // What is kept is the header, the first directory (sector 21) and the first of its tables, which all entries name.
    let mut image = hosted(sectors, &[], Some(&text));
    put64(&mut image, 48, 0);
    put64(&mut image, 56, 21);
    image.truncate(26 * 512);
    for entry in 0..100 {
        put32(&mut image, 21 * 512 + entry * 4, 22);
    }
    refused(&write(folder.path(), "d.vmdk", &image));
    image[21 * 512 + 2 * 4..22 * 512].fill(0);
    open_file(&write(folder.path(), "d.vmdk", &image)).expect("two that share one do no harm");

    let mut image = cowd(4096 * 64, 4, &[(0, Grain::Data(pattern(1, 512)))]);
    let first = image[2048..2052].to_vec();
    for entry in 0..64 {
        image[2048 + entry * 4..2052 + entry * 4].copy_from_slice(&first);
    }
    let lines = [format!("RW {} VMFSSPARSE \"body.vmdk\"", 4096 * 64)];
    let top = write(folder.path(), "cowd.vmdk", descriptor(1, None, "vmfsSparse", &lines));
    write(folder.path(), "body.vmdk", &image);
    refused(&top);

    let mut image = sesparse(32_768 * 64, &[(0, SeGrain::Data(pattern(1, 4096)))]);
    for entry in 0..64 {
        put64(&mut image, 16 * 512 + entry * 8, 0x1000_0000_0000_0000);
    }
    let lines = [format!("RW {} SESPARSE \"body.vmdk\"", 32_768 * 64)];
    let top = write(folder.path(), "se.vmdk", descriptor(1, None, "seSparse", &lines));
    write(folder.path(), "body.vmdk", &image);
    refused(&top);
}

#[test]
fn hostile_cowd_and_sesparse_are_refused_by_name() {
    use ImageErrorKind::{Damaged, Limit, Truncated, Unsupported};
    let folder = tempfile::tempdir().expect("folder");
    let cow = cowd(
        8192 + 100,
        4,
        &[(0, Grain::Data(pattern(1, 512))), (8291, Grain::Data(pattern(2, 512)))],
    );
    let lines = ["RW 8292 VMFSSPARSE \"body.vmdk\"".to_owned()];
    let top = write(folder.path(), "d.vmdk", descriptor(1, None, "vmfsSparse", &lines));
    write(folder.path(), "body.vmdk", &cow);
    let all = read_all(&top).expect("a disk that is no multiple of 2 MiB is read");
    assert!(all[8291 * 512..] == pattern(2, 512)[..]);
    let cases: [Case; 6] = [
        ("too few entries", |image| put32(image, 24, 2), Damaged, "3 are needed"),
        ("grain size 0", |image| put32(image, 16, 0), Damaged, "grain size 0"),
        ("version 2", |image| put32(image, 4, 2), Damaged, "version 2"),
        ("grain entry 3", |image| put32(image, 2560, 3), Damaged, "sector 3"),
        (
            "grain past the end",
            |image| put32(image, 2560, 1 << 30),
            Damaged,
            "past the end",
        ),
        (
            "table in the directory",
            |image| put32(image, 2048, 4),
            Damaged,
            "table at sector 4",
        ),
    ];
    check_body(folder.path(), &top, &cow, &cases);

    let se = sesparse(1024, &[(0, SeGrain::Data(pattern(1, 4096)))]);
    let top = write(
        folder.path(),
        "d.vmdk",
        descriptor(1, None, "seSparse", &["RW 1024 SESPARSE \"body.vmdk\"".to_owned()]),
    );
    let cases: [Case; 11] = [
        ("version", |image| put64(image, 8, 1), Damaged, "version"),
        ("grain size", |image| put64(image, 24, 16), Damaged, "grain size"),
        ("flags", |image| put64(image, 40, 1), Damaged, "flags"),
        ("capacity", |image| put64(image, 16, u64::MAX), Limit, "capacity"),
        (
            "capacity above 1 PiB",
            |image| put64(image, 16, 1 << 42),
            Limit,
            "1 PiB",
        ),
        (
            "directory too small",
            |image| put64(image, 16, 1 << 40),
            Limit,
            "directory",
        ),
        ("journal", |image| put64(image, 512 + 24, 1), Unsupported, "journal"),
        ("volatile magic", |image| put64(image, 512, 1), Damaged, "volatile"),
        (
            "directory entry's upper half",
            |image| put64(image, 16 * 512, 0x2000_0000_0000_0000),
            Damaged,
            "upper half",
        ),
        (
            "table index past the region",
            |image| put64(image, 16 * 512, 0x1000_0000_0000_0001),
            Damaged,
            "table 1",
        ),
        (
            "kind 4",
            |image| put64(image, 32 * 512, 0x4000_0000_0000_0000),
            Damaged,
            "kind 4",
        ),
    ];
    check_body(folder.path(), &top, &se, &cases);
    let past: [Case; 1] = [(
        "grain past the end",
        |image| put64(image, 32 * 512, 0x3fff_ffff_ffff_ffff),
        Truncated,
        "past the end",
    )];
    check_body(folder.path(), &top, &se, &past);
}

fn check_body(folder: &Path, top: &Path, base: &[u8], cases: &[Case]) {
    for (what, damage, kind, words) in cases {
        let mut image = base.to_vec();
        damage(&mut image);
        write(folder, "body.vmdk", &image);
        let error = read_all(top).map(|_| ()).expect_err(what);
        assert_eq!(error.kind, *kind, "{what}: {error}");
        assert!(error.to_string().contains(words), "{what}: {error}");
    }
}

#[test]
fn kinds_that_hold_no_data_here_are_refused_with_what_to_do() {
    let folder = tempfile::tempdir().expect("folder");
    write(folder.path(), "x-rdm.vmdk", [0; 4096]);
    let lines = [
        ("RW 8 VMFSRDM \"x-rdm.vmdk\"", "LUN"),
        ("RW 8 VMFSRAW \"x\"", "device"),
        ("RW 8 VSANSPARSE \"vsan://5f\"", "vSAN"),
        ("RW 8 FLAT \"/dev/sda\" 63", "device"),
        ("RW 8 FLAT \"/vmfs/devices/disks/naa.6000\" 63", "device"),
        ("RW 8 VMFS \"/vmfs/devices/disks/naa.6000\"", "device"),
        (r#"RW 8 FLAT "\\.\PhysicalDrive0" 0"#, "device"),
    ];
    for (line, words) in lines {
        let path = write(
            folder.path(),
            "d.vmdk",
            descriptor(1, None, "custom", &[line.to_owned()]),
        );
        let error = open_file(&path).map(|_| ()).expect_err(line);
        assert_eq!(error.kind, ImageErrorKind::Unsupported, "{line}: {error}");
        assert!(
            error.to_string().contains(words) && error.advice.is_some(),
            "{line}: {error}"
        );
    }
    for (name, bytes, kind) in [
        (
            "x-ctk.vmdk",
            [0xa2, 0x72, 0x19, 0xf6, 1, 0, 0, 0].repeat(64),
            ImageErrorKind::Unsupported,
        ),
        ("zeros.vmdk", vec![0; 4096], ImageErrorKind::Damaged),
        (
            "disk.qcow2",
            b"QFI\xfb\0\0\0\x03".repeat(64),
            ImageErrorKind::Unsupported,
        ),
        ("empty.raw", Vec::new(), ImageErrorKind::Truncated),
    ] {
        let error = open_file(&write(folder.path(), name, bytes))
            .map(|_| ())
            .expect_err(name);
        assert_eq!(error.kind, kind, "{name}: {error}");
    }
}

#[test]
fn extents_that_leave_the_folder_are_refused() {
    let folder = tempfile::tempdir().expect("folder");
    let guest = folder.path().join("guest");
    std::fs::create_dir(&guest).expect("folder");
    write(folder.path(), "secret", [1; 4096]);
    std::os::unix::fs::symlink("../secret", guest.join("link")).expect("link");
    for name in ["../secret", "/etc/passwd", "nbd://host/disk", "json:{}", "link", "."] {
        let path = write(
            &guest,
            "d.vmdk",
            descriptor(1, None, "vmfs", &[format!("RW 1 FLAT \"{name}\" 0")]),
        );
        let error = open_file(&path).map(|_| ()).expect_err(name);
        assert_eq!(error.kind, ImageErrorKind::Refused, "{name}: {error}");
        let text = descriptor(2, Some((1, name)), "custom", &["RW 1 ZERO".to_owned()]);
        let error = open_file(&write(&guest, "child.vmdk", text))
            .map(|_| ())
            .expect_err(name);
        assert!(
            matches!(error.kind, ImageErrorKind::Refused | ImageErrorKind::Missing),
            "{name}: {error}"
        );
    }
}

#[test]
fn a_flat_file_shorter_than_its_line_is_refused_and_salvaged_with_zeros() {
    let folder = tempfile::tempdir().expect("folder");
    write(folder.path(), "f", [3; 1024]);
    let path = write(
        folder.path(),
        "d.vmdk",
        descriptor(1, None, "monolithicFlat", &["RW 4 FLAT \"f\" 0".to_owned()]),
    );
    assert_eq!(
        open_file(&path).map(|_| ()).expect_err("short").kind,
        ImageErrorKind::Truncated
    );
    let disk = open_salvage(&path).expect("salvage");
    assert_eq!(content(&*disk), [vec![3; 1024], vec![0; 1024]].concat());
}

#[test]
fn a_flat_extent_that_looks_like_a_sparse_one_stays_flat() {
    // A guest can write anything to its first sector; it must not choose what the host opens.
    let folder = tempfile::tempdir().expect("folder");
    let image = small_hosted();
    let sectors = image.len() / 512;
    write(folder.path(), "f", &image);
    let path = write(
        folder.path(),
        "d.vmdk",
        descriptor(1, None, "vmfs", &[format!("RW {sectors} VMFS \"f\"")]),
    );
    assert!(read_all(&path).expect("reads") == image);
    let raw = open(
        &DiskLocation::file(folder.path().join("f")),
        &OpenOptions {
            raw: true,
            ..OpenOptions::default()
        },
    )
    .expect("raw");
    assert!(content(&*raw) == image);
}

#[test]
fn a_source_that_shrinks_or_changes_while_read_is_an_error() {
    let folder = tempfile::tempdir().expect("folder");
    let path = write(folder.path(), "disk.raw", vec![9; 1 << 20]);
    let disk = open_file(&path).expect("opens");
    disk.files()[0].check_unchanged().expect("not yet");
    std::fs::OpenOptions::new()
        .write(true)
        .open(&path)
        .expect("open")
        .set_len(4096)
        .expect("shrink");
    assert_eq!(read_disk(&*disk).expect_err("shorter").kind, ImageErrorKind::Changed);
    assert_eq!(
        disk.files()[0].check_unchanged().expect_err("changed").kind,
        ImageErrorKind::Changed
    );
}

#[test]
fn disks_above_1_pib_are_refused_whatever_they_are_made_of() {
    let folder = tempfile::tempdir().expect("folder");
    let huge = folder.path().join("huge.raw");
    let made = std::fs::File::create(&huge).and_then(|file| file.set_len((1 << 50) + 512));
    match made {
        Ok(()) => {
            let error = open_file(&huge).map(|_| ()).expect_err("too large");
            assert_eq!(error.kind, ImageErrorKind::Limit, "{error}");
        }
        Err(error) => println!("SKIP: the file system has no files above 1 PiB: {error}"),
    }
    let lines = ["RW 18014398509481983 ZERO".to_owned()];
    let path = write(folder.path(), "d.vmdk", descriptor(1, None, "custom", &lines));
    let error = open_file(&path).map(|_| ()).expect_err("too large");
    assert_eq!(error.kind, ImageErrorKind::Limit, "{error}");
    assert!(error.to_string().contains("62 TB"), "{error}");
}

#[test]
fn chunks_whose_seams_could_fill_the_memory_are_refused() {
    let folder = tempfile::tempdir().expect("folder");
    let mut image = small_stream();
    let chunks = |image: &[u8], size: usize| {
        let path = write(folder.path(), "d.vmdk", image);
        let chunk = |at: usize| DiskChunk {
            path: path.clone(),
            offset: u64::try_from(at).expect("small"),
            length: Some(u64::try_from(size.min(image.len() - at)).expect("small")),
        };
        let chunks = (0..image.len()).step_by(size).map(chunk).collect();
        open(&DiskLocation::chunks("joined.vmdk", chunks), &OpenOptions::default())
    };
    chunks(&image, image.len().div_ceil(1025)).expect("1,024 seams of 64 KiB grains");
    // The same number of seams with grains of 1 MiB could take 2 GiB.
    put64(&mut image, 20, 2048);
    let error = chunks(&image, image.len().div_ceil(66))
        .map(|_| ())
        .expect_err("65 seams of 1 MiB grains");
    assert_eq!(error.kind, ImageErrorKind::Limit, "{error}");
    assert!(error.to_string().contains("at most 64"), "{error}");
}
