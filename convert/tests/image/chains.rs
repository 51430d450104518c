//! Chains, and kinds that nobody else generates: COWD, seSparse, ZERO, NOACCESS, custom, damaged primary tables.

use std::path::Path;
use std::process::Command;

use convert::image::map::RunSource;
use convert::image::{DiskChunk, DiskLocation, ImageErrorKind, OpenOptions, open};

use crate::fixtures::{
    Grain, SeGrain, check_map, content, cowd, descriptor, hosted, hosted_tables, open_file, open_salvage, pattern,
    put32, sesparse, stream,
};

const GRAIN: usize = 65_536;

fn write(folder: &Path, name: &str, bytes: impl AsRef<[u8]>) -> std::path::PathBuf {
    let path = folder.join(name);
    std::fs::write(&path, bytes).expect("write");
    path
}

fn line(sectors: usize, kind: &str, file: &str) -> String {
    format!("RW {sectors} {kind} \"{file}\"")
}

#[test]
fn a_chain_of_flat_cowd_sesparse_and_hosted_links_reads_zero_states_as_zeros() {
    let folder = tempfile::tempdir().expect("folder");
    let at = folder.path();
    let sectors = 8192 + 8;
    let base = pattern(1, sectors * 512);
    let mut wanted = base.clone();
    write(at, "base-flat.vmdk", &base);
    write(
        at,
        "base.vmdk",
        descriptor(1, None, "vmfs", &[line(sectors, "VMFS", "base-flat.vmdk")]),
    );

    let one = pattern(2, 512);
    let grains = [
        (0, Grain::Data(one.clone())),
        (1, Grain::Data(one.clone())),
        (4100, Grain::Zero),
        (8199, Grain::Data(one.clone())),
    ];
    write(at, "one-delta.vmdk", cowd(8200, 7, &grains));
    write(
        at,
        "one.vmdk",
        descriptor(
            2,
            Some((1, "/vmfs/volumes/5f/guest/base.vmdk")),
            "vmfsSparse",
            &[line(sectors, "VMFSSPARSE", "one-delta.vmdk")],
        ),
    );
    wanted[..512].copy_from_slice(&one);
    wanted[512..1024].copy_from_slice(&one);
    wanted[4100 * 512..4101 * 512].fill(0);
    wanted[8199 * 512..].copy_from_slice(&one);

    let two = pattern(3, 4096);
    let grains = [
        (0, SeGrain::Unmapped),
        (3, SeGrain::Data(two.clone())),
        (4, SeGrain::Zero),
    ];
    write(at, "two-sesparse.vmdk", sesparse(8200, &grains));
    write(
        at,
        "two.vmdk",
        descriptor(
            3,
            Some((2, "[store 1] guest/one.vmdk")),
            "seSparse",
            &[line(sectors, "SESPARSE", "two-sesparse.vmdk")],
        ),
    );
    wanted[..4096].fill(0);
    wanted[3 * 4096..4 * 4096].copy_from_slice(&two);
    wanted[4 * 4096..5 * 4096].fill(0);

    let three = pattern(4, GRAIN);
    let text = descriptor(
        4,
        Some((3, r"C:\VMs\guest\two.vmdk")),
        "monolithicSparse",
        &[line(sectors, "SPARSE", "x.vmdk")],
    );
    let top = write(
        at,
        "three.vmdk",
        hosted(
            8200,
            &[Grain::Absent, Grain::Zero, Grain::Data(three.clone())],
            Some(&text),
        ),
    );
    wanted[GRAIN..2 * GRAIN].fill(0);
    wanted[2 * GRAIN..3 * GRAIN].copy_from_slice(&three);

    let disk = open_file(&top).expect("opens");
    assert_eq!(disk.facts().links.len(), 4);
    assert!(content(&*disk) == wanted, "the content differs");
    check_map(&*disk, 100, 3_000_001);
    // Four runs of consecutive 512-byte grains are one.
    let runs = open_file(&at.join("one.vmdk"))
        .expect("opens")
        .map(0, 1024)
        .expect("map");
    assert_eq!(runs.len(), 1, "{runs:?}");
}

#[test]
fn zero_noaccess_and_flat_offsets_of_a_custom_disk_keep_their_places() {
    let folder = tempfile::tempdir().expect("folder");
    let at = folder.path();
    let data = pattern(5, 64 * 512);
    write(at, "data.img", &data);
    write(at, "part.vmdk", hosted(128, &[Grain::Data(pattern(6, GRAIN))], None));
    let lines = [
        "rw 16 flat \"data.img\" 8".to_owned(),
        "RW 3 ZERO".to_owned(),
        "RDONLY\t16  FLAT \"data.img\" 0".to_owned(),
        "NOACCESS 5 FLAT \"data.img\" 0".to_owned(),
        "RW 130 SPARSE \"part.vmdk\"".to_owned(),
        "RW 1 VMFS \"data.img\"".to_owned(),
    ];
    let top = write(at, "disk.vmdk", descriptor(1, None, "custom", &lines));
    let disk = open_file(&top).expect("opens");
    let mut wanted = data[8 * 512..24 * 512].to_vec();
    wanted.extend_from_slice(&[0; 3 * 512]);
    wanted.extend_from_slice(&data[..16 * 512]);
    wanted.extend_from_slice(&[0; 5 * 512]);
    wanted.extend_from_slice(&pattern(6, GRAIN));
    wanted.extend_from_slice(&[0; 2 * 512]);
    wanted.extend_from_slice(&data[..512]);
    assert!(content(&*disk) == wanted, "the content differs");
    let notes = disk.notes().join("\n");
    assert!(notes.contains("NOACCESS") && notes.contains("header"), "{notes}");
    assert_eq!(
        disk.files().len(),
        3,
        "descriptor, sparse part, and the flat file once though it is named three times"
    );
}

#[test]
fn a_damaged_primary_directory_or_table_is_replaced_by_the_redundant_one_and_reported() {
    let folder = tempfile::tempdir().expect("folder");
    let sectors = 65_536 * 2;
    let text = descriptor(1, None, "monolithicSparse", &[line(sectors, "SPARSE", "d.vmdk")]);
    let grains: Vec<Grain> = (0..8).map(|seed| Grain::Data(pattern(seed, GRAIN))).collect();
    let good = hosted(131_072, &grains, Some(&text));
    let wanted = content(&*open_file(&write(folder.path(), "good.vmdk", &good)).expect("opens"));
    assert!(wanted[..GRAIN] == pattern(0, GRAIN)[..], "the generator is right");
    let (gd, gt) = hosted_tables(131_072);
    let damages: [(&str, usize, u32); 5] = [
        ("directory entry zero", gd, 0),
        ("directory entry past the end", gd, 0xffff_fff0),
        ("table entry zero", gt + 4, 0),
        ("table entry past the end", gt + 8, 0x7fff_ffff),
        ("table entry in the header", gt + 12, 1 << 3),
    ];
    for (what, at, value) in damages {
        let mut bad = good.clone();
        put32(&mut bad, at, value);
        let disk = open_file(&write(folder.path(), "bad.vmdk", &bad)).expect(what);
        assert!(content(&*disk) == wanted, "{what}: the content differs");
        assert!(
            disk.notes().iter().any(|note| note.contains("redundant")),
            "{what}: {:?}",
            disk.notes()
        );
    }
    let mut bad = good.clone();
    put32(
        &mut bad,
        gt,
        u32::from_le_bytes(good[gt + 4..gt + 8].try_into().expect("four")),
    );
    let disk = open_file(&write(folder.path(), "bad.vmdk", &bad)).expect("opens");
    assert!(
        content(&*disk)[..GRAIN] == pattern(1, GRAIN)[..],
        "both plausible: the primary wins"
    );
    assert!(
        disk.notes().iter().any(|note| note.contains("differ")),
        "{:?}",
        disk.notes()
    );
}

#[test]
fn cid_mismatch_missing_parents_hints_and_loops_are_refused() {
    let folder = tempfile::tempdir().expect("folder");
    let at = folder.path();
    let disk = |name: &str, cid: u32, parent: Option<(u32, &str)>| {
        write(at, name, descriptor(cid, parent, "custom", &["RW 8 ZERO".to_owned()]))
    };
    disk("base.vmdk", 1, None);
    let child = disk("mismatch.vmdk", 2, Some((7, "base.vmdk")));
    let error = open_file(&child).map(|_| ()).expect_err("mismatch");
    assert_eq!(error.kind, ImageErrorKind::Chain, "{error}");
    assert!(
        error.to_string().contains("00000007") && error.to_string().contains("00000001"),
        "{error}"
    );
    let options = OpenOptions {
        ignore_cid_mismatch: true,
        ..OpenOptions::default()
    };
    let opened = open(&DiskLocation::file(&child), &options).expect("overridden");
    assert!(opened.notes().iter().any(|note| note.contains("00000007")));

    let missing = open_file(&disk("orphan.vmdk", 2, Some((1, "gone.vmdk"))))
        .map(|_| ())
        .expect_err("missing");
    assert_eq!(missing.kind, ImageErrorKind::Missing, "{missing}");
    let text = descriptor(2, Some((1, "")), "custom", &["RW 8 ZERO".to_owned()]);
    let hintless = open_file(&write(at, "hintless.vmdk", text))
        .map(|_| ())
        .expect_err("no hint");
    assert_eq!(hintless.kind, ImageErrorKind::Chain, "{hintless}");
    let own = open_file(&disk("self.vmdk", 2, Some((2, "self.vmdk"))))
        .map(|_| ())
        .expect_err("self");
    assert_eq!(own.kind, ImageErrorKind::Chain, "{own}");
    disk("a.vmdk", 5, Some((5, "b.vmdk")));
    let round = open_file(&disk("b.vmdk", 5, Some((5, "a.vmdk"))))
        .map(|_| ())
        .expect_err("loop");
    assert_eq!(round.kind, ImageErrorKind::Chain, "{round}");

    for number in 0..1000 {
        let hint = format!("n{}.vmdk", number + 1);
        disk(
            &format!("n{number}.vmdk"),
            1,
            (number < 999).then_some((1, hint.as_str())),
        );
    }
    assert_eq!(
        open_file(&at.join("n0.vmdk")).map(|_| ()).expect_err("long").kind,
        ImageErrorKind::Limit
    );
    assert_eq!(
        open_file(&at.join("n936.vmdk")).expect("64 links").facts().links.len(),
        64
    );
}

#[test]
fn a_parent_in_another_folder_needs_permission_and_a_shorter_one_reads_as_zeros_behind_its_end() {
    let folder = tempfile::tempdir().expect("folder");
    let (guest, master) = (folder.path().join("guest"), folder.path().join("master"));
    std::fs::create_dir(&guest).expect("folder");
    std::fs::create_dir(&master).expect("folder");
    let base = pattern(9, 16 * 512);
    write(&master, "base-flat.vmdk", &base);
    write(
        &master,
        "disk.vmdk",
        descriptor(1, None, "vmfs", &[line(16, "VMFS", "base-flat.vmdk")]),
    );
    let text = descriptor(
        2,
        Some((1, "/vmfs/volumes/x/master/disk.vmdk")),
        "monolithicSparse",
        &[line(256, "SPARSE", "disk.vmdk")],
    );
    let child = write(&guest, "disk.vmdk", hosted(256, &[], Some(&text)));
    let error = open_file(&child).map(|_| ()).expect_err("not allowed");
    assert_eq!(error.kind, ImageErrorKind::Refused, "{error}");
    assert!(error.to_string().contains("--allow-path"), "{error}");
    let options = OpenOptions {
        allow: vec![master],
        ..OpenOptions::default()
    };
    let disk = open(&DiskLocation::file(&child), &options).expect("allowed");
    let mut wanted = base;
    wanted.resize(256 * 512, 0);
    assert!(content(&*disk) == wanted, "the content differs");
}

#[test]
fn a_stream_reads_alike_whole_padded_without_footer_in_an_archive_and_in_chunks() {
    let folder = tempfile::tempdir().expect("folder");
    let sectors = 128 * 700 + 56;
    let grains: Vec<Grain> = (0..701)
        .map(|number| match number {
            0..20 | 600..610 => Grain::Data(pattern(number, GRAIN)),
            700 => Grain::Data(pattern(number, 56 * 512)),
            _ => Grain::Absent,
        })
        .collect();
    let whole = stream(sectors, &grains);
    let disk = open_file(&write(folder.path(), "whole.vmdk", &whole)).expect("opens");
    let wanted = content(&*disk);
    assert_eq!(disk.notes(), Vec::<String>::new());
    assert!(
        wanted[605 * GRAIN..606 * GRAIN] == pattern(605, GRAIN)[..],
        "the generator is right"
    );
    assert!(
        wanted[700 * GRAIN..] == pattern(700, 56 * 512)[..],
        "the short last grain is read"
    );
    assert_eq!(disk.compressed_grain_bytes(), Some(65_536));

    let mut variants = vec![("one byte more", [whole.as_slice(), b"x"].concat())];
    variants.push(("tar padding", [whole.as_slice(), &[0; 1024]].concat()));
    variants.push(("no last sector", whole[..whole.len() - 512].to_vec()));
    variants.push(("no footer", whole[..whole.len() - 1536].to_vec()));
    for (what, bytes) in variants {
        let disk = open_file(&write(folder.path(), "variant.vmdk", &bytes)).expect(what);
        assert!(content(&*disk) == wanted, "{what}: the content differs");
        assert!(!disk.notes().is_empty(), "{what}: reported");
    }

    let archive = write(
        folder.path(),
        "disk.ova",
        [&[1; 1536], whole.as_slice(), &[2; 700]].concat(),
    );
    let length = u64::try_from(whole.len()).expect("small");
    let disk = open(&DiskLocation::window(&archive, 1536, length), &OpenOptions::default()).expect("in place");
    assert!(content(&*disk) == wanted, "in place: the content differs");
    let beyond = open(
        &DiskLocation::window(&archive, 1536, length + 701),
        &OpenOptions::default(),
    )
    .map(|_| ())
    .expect_err("cut");
    assert_eq!(beyond.kind, ImageErrorKind::Truncated);

    // Chunks so small that nearly every grain crosses a seam, and one that holds several seams.
    for size in [1_000_000, 50_000, 7_777] {
        let chunks = (0..length.div_ceil(size))
            .map(|number| DiskChunk {
                path: archive.clone(),
                offset: 1536 + number * size,
                length: Some(size.min(length - number * size)),
            })
            .collect();
        let disk = open(&DiskLocation::chunks("joined.vmdk", chunks), &OpenOptions::default()).expect("joined");
        assert!(content(&*disk) == wanted, "chunks of {size}: the content differs");
        for handle in disk.files() {
            handle.check_unchanged().expect("nothing changed");
        }
    }
}

#[test]
fn a_stream_cut_at_a_grain_boundary_is_refused_not_shortened() {
    let folder = tempfile::tempdir().expect("folder");
    let grains: Vec<Grain> = (0..4).map(|seed| Grain::Data(pattern(seed, GRAIN))).collect();
    let whole = stream(512, &grains);
    let mut at = 65_536;
    for _ in 0..2 {
        let size =
            usize::try_from(u32::from_le_bytes(whole[at + 8..at + 12].try_into().expect("four"))).expect("small");
        at += if size == 0 {
            512
        } else {
            (12 + size).div_ceil(512) * 512
        };
    }
    let path = write(folder.path(), "cut.vmdk", &whole[..at]);
    assert_eq!(
        open_file(&path).map(|_| ()).expect_err("cut").kind,
        ImageErrorKind::Truncated
    );
    let disk = open_salvage(&path).expect("salvage");
    assert!(
        content(&*disk)[..GRAIN] == pattern(0, GRAIN)[..],
        "the first grain is there"
    );
}

#[test]
fn a_62_tb_sparse_disk_and_offsets_above_4_gib_open_and_map_in_windows() {
    let folder = tempfile::tempdir().expect("folder");
    let at = folder.path();
    let sectors: u64 = 62 * 1000 * 1000 * 1000 * 1000 / 512 / 128 * 128;
    let text = descriptor(
        1,
        None,
        "monolithicSparse",
        &[format!("RW {sectors} SPARSE \"big.vmdk\"")],
    );
    // The directory of 62 TB has 7.4 MB, at sector 64; one table and one grain lie above 4 GiB in the file.
    let mut head = hosted(512, &[], Some(&text));
    head[8] = 5;
    for (offset, value) in [(12, sectors), (56, 64)] {
        head[offset..offset + 8].copy_from_slice(&value.to_le_bytes());
    }
    let path = write(at, "big.vmdk", &head[..21 * 512]);
    let file = std::fs::OpenOptions::new().write(true).open(&path).expect("open");
    let place: u64 = 5 << 30;
    file.set_len(place + 131_072).expect("sparse");
    let table = u32::try_from(place / 512).expect("fits").to_le_bytes();
    let grain = u32::try_from(place / 512 + 128).expect("fits").to_le_bytes();
    let number = 1_000_000_u64;
    let put =
        |bytes: &[u8], offset: u64| std::os::unix::fs::FileExt::write_all_at(&file, bytes, offset).expect("write");
    put(&table, 64 * 512 + number * 4);
    put(&grain, place + 4 * 7);
    put(&pattern(8, GRAIN), place + 65_536);
    let disk = open_file(&path).expect("opens");
    assert_eq!(disk.virtual_bytes(), sectors * 512);
    let guest = number * (32 << 20) + 7 * 65_536;
    let mut found = vec![0; GRAIN];
    disk.read_at(guest, &mut found).expect("read");
    assert!(found == pattern(8, GRAIN), "the grain above 4 GiB");
    let summary = convert::image::describe(&*disk, &std::sync::atomic::AtomicBool::new(false)).expect("describe");
    assert_eq!((summary.data_bytes, summary.runs), (65_536, 3));
}

#[test]
fn holes_of_a_flat_file_are_holes_of_the_map() {
    let folder = tempfile::tempdir().expect("folder");
    let path = folder.path().join("disk-flat.vmdk");
    let file = std::fs::File::create(&path).expect("create");
    file.set_len(64 << 20).expect("sparse");
    std::os::unix::fs::FileExt::write_all_at(&file, &pattern(1, 1 << 20), 8 << 20).expect("write");
    let top = write(
        folder.path(),
        "disk.vmdk",
        descriptor(1, None, "vmfsThin", &[line(131_072, "VMFS", "disk-flat.vmdk")]),
    );
    for path in [top, path] {
        let disk = open_file(&path).expect("opens");
        let runs = disk.map(0, 64 << 20).expect("map");
        assert_eq!(runs.len(), 3, "{runs:?}");
        assert!(
            matches!(runs[1].source, RunSource::Raw { offset, .. } if offset == 8 << 20),
            "{runs:?}"
        );
        check_map(&*disk, 1, 20 << 20);
    }
}

#[test]
fn generated_cowd_and_sesparse_read_as_qemu_reads_them() {
    if Command::new("qemu-img").arg("--version").output().is_err() {
        println!("SKIP: qemu-img is not installed");
        return;
    }
    let folder = tempfile::tempdir().expect("folder");
    let at = folder.path();
    let grains: Vec<(u32, Grain)> = (0..600)
        .map(|number| (number * 13, Grain::Data(pattern(u64::from(number), 512))))
        .collect();
    write(at, "c-delta.vmdk", cowd(8192, 4, &grains));
    write(
        at,
        "cowd.vmdk",
        descriptor(1, None, "vmfsSparse", &[line(8192, "VMFSSPARSE", "c-delta.vmdk")]),
    );
    let grains: Vec<(usize, SeGrain)> = (0..300)
        .map(|number| {
            (
                number * 11,
                if number % 7 == 0 {
                    SeGrain::Zero
                } else {
                    SeGrain::Data(pattern(u64::try_from(number).expect("small"), 4096))
                },
            )
        })
        .collect();
    write(at, "s-sesparse.vmdk", sesparse(32_768, &grains));
    write(
        at,
        "sesparse.vmdk",
        descriptor(1, None, "seSparse", &[line(32_768, "SESPARSE", "s-sesparse.vmdk")]),
    );
    for name in ["cowd", "sesparse"] {
        let out = at.join(format!("{name}.raw"));
        let made = Command::new("qemu-img")
            .args(["convert", "-f", "vmdk", "-O", "raw"])
            .arg(at.join(format!("{name}.vmdk")))
            .arg(&out)
            .output()
            .expect("starts");
        assert!(
            made.status.success(),
            "{name}: {}",
            String::from_utf8_lossy(&made.stderr)
        );
        let disk = open_file(&at.join(format!("{name}.vmdk"))).expect(name);
        assert!(
            content(&*disk) == std::fs::read(&out).expect("raw"),
            "{name}: the content differs"
        );
    }
}

#[test]
fn vmdk_core_agrees_where_it_is_not_blind() {
    let folder = tempfile::tempdir().expect("folder");
    let grains: Vec<Grain> = (0..8).map(|seed| Grain::Data(pattern(seed, GRAIN))).collect();
    let text = descriptor(1, None, "monolithicSparse", &[line(65_536, "SPARSE", "d.vmdk")]);
    for (name, bytes) in [
        ("d.vmdk", hosted(65_536, &grains, Some(&text))),
        ("s.vmdk", stream(65_536, &grains)),
    ] {
        let path = write(folder.path(), name, bytes);
        let ours = content(&*open_file(&path).expect(name));
        let mut reader = vmdk::VmdkFileReader::open_path(&path).expect(name);
        let mut theirs = vec![0; ours.len()];
        std::io::Read::read_exact(&mut reader, &mut theirs).expect(name);
        assert!(ours == theirs, "{name}: vmdk-core reads something else");
    }
}
