//! Which line of an embedded descriptor means the file that holds it: seekable and front to back alike.

use std::path::Path;

use convert::image::ImageErrorKind;
use convert::image::inflate::GrainInflater;
use convert::image::vmdk::stream::{GrainStream, StreamSummary};

use crate::fixtures::{Grain, content, descriptor, hosted, open_file, pattern, put64, stream, stream_saying};

const GRAIN: usize = 65_536;

fn grains() -> Vec<Grain> {
    (0..8).map(|seed| Grain::Data(pattern(seed, GRAIN))).collect()
}

fn plain() -> Vec<u8> {
    (0..8).flat_map(|seed| pattern(seed, GRAIN)).collect()
}

/// A hosted sparse file of 1024 sectors under the name `d.vmdk`, whose descriptor has these lines.
fn disk_with(folder: &Path, lines: &[&str]) -> std::path::PathBuf {
    let lines: Vec<String> = lines.iter().map(|line| (*line).to_owned()).collect();
    let text = descriptor(1, None, "custom", &lines);
    let path = folder.join("d.vmdk");
    std::fs::write(&path, hosted(1024, &grains(), Some(&text))).expect("write");
    path
}

/// Everything that comes through a pipe, inflated, and the account.
fn piped(image: &[u8]) -> (Vec<u8>, StreamSummary) {
    let mut stream = GrainStream::new(image, Path::new("pipe")).expect("header");
    let mut found = vec![0; usize::try_from(stream.virtual_bytes()).expect("small")];
    let mut inflater = GrainInflater::new();
    let full = stream.header().grain;
    while let Some(grain) = stream.next_grain().expect("grain") {
        let bytes = inflater
            .inflate(&grain.data, full, grain.grain_bytes)
            .expect("inflates");
        let at = usize::try_from(grain.guest_offset).expect("small");
        found[at..at + bytes.len()].copy_from_slice(bytes);
    }
    (found, stream.finish())
}

#[test]
fn grains_belong_to_the_line_that_names_the_file_not_to_whatever_comes_first() {
    let folder = tempfile::tempdir().expect("folder");
    std::fs::write(folder.path().join("boot.img"), [7; 4096]).expect("write");
    let path = disk_with(
        folder.path(),
        &[
            "RW 8 ZERO",
            "RW 8 FLAT \"boot.img\" 0",
            "RW 1024 SPARSE \"d.vmdk\"",
            "RW 0 FLAT \"boot.img\" 0",
        ],
    );
    let found = content(&*open_file(&path).expect("opens"));
    assert!(found == [vec![0; 4096], vec![7; 4096], plain()].concat());
}

#[test]
fn a_single_sparse_line_means_the_file_whatever_name_is_left_in_it() {
    let folder = tempfile::tempdir().expect("folder");
    for line in [
        "RW 1024 SPARSE \"before-it-was-renamed.vmdk\"",
        "RDONLY 1024 sparse \"\"",
    ] {
        // A sparse extent without a name is refused by the grammar.
        let path = disk_with(folder.path(), &[line]);
        match open_file(&path) {
            Ok(disk) => assert!(content(&*disk) == plain(), "{line}"),
            Err(error) => assert!(
                line.contains("\"\"") && error.to_string().contains("names no file"),
                "{error}"
            ),
        }
    }
}

#[test]
fn a_first_line_that_is_no_sparse_extent_gives_the_grains_to_nobody() {
    let folder = tempfile::tempdir().expect("folder");
    let cases: [(&[&str], &str); 6] = [
        (&["RW 1024 ZERO"], "Zero"),
        (&["RW 8 ZERO", "RW 1024 SPARSE \"stale.vmdk\""], "Zero"),
        (&["RW 1024 FLAT \"d.vmdk\" 0"], "Flat"),
        (&["RW 1024 VMFS \"d.vmdk\""], "Vmfs"),
        (&["RW 1024 VMFSRDM \"d.vmdk\""], "LUN"),
        (&["NOACCESS 1024 VMFSRDM \"d.vmdk\""], "LUN"),
    ];
    for (lines, words) in cases {
        let error = open_file(&disk_with(folder.path(), lines))
            .map(|_| ())
            .expect_err(lines[0]);
        assert_eq!(error.kind, ImageErrorKind::Unsupported, "{lines:?}: {error}");
        assert!(
            error.to_string().contains(words) && error.advice.is_some(),
            "{lines:?}: {error}"
        );
        if let [line] = lines {
            let image = stream_saying(line, 1024, 128, &grains());
            let error = GrainStream::new(image.as_slice(), Path::new("pipe"))
                .map(|_| ())
                .expect_err(line);
            assert_eq!(error.kind, ImageErrorKind::Unsupported, "{line}: {error}");
            assert!(error.to_string().contains(words), "{line}: {error}");
        }
    }
}

#[test]
fn an_embedded_extent_without_access_reads_as_zeros_and_says_so() {
    let folder = tempfile::tempdir().expect("folder");
    let line = "NOACCESS 1024 SPARSE \"d.vmdk\"";
    let disk = open_file(&disk_with(folder.path(), &[line])).expect("opens");
    assert!(content(&*disk) == vec![0; 8 * GRAIN]);
    assert!(disk.notes().join("\n").contains("NOACCESS"), "{:?}", disk.notes());
    let (found, account) = piped(&stream_saying(line, 1024, 128, &grains()));
    assert!(found == vec![0; 8 * GRAIN]);
    assert!(account.cross_checked && account.grains == 8, "{account:?}");
    let notes = account.notes.join("\n");
    assert!(notes.contains("NOACCESS") && notes.contains("8 grains"), "{notes}");
}

#[test]
fn a_line_shorter_or_longer_than_the_extent_clips_alike_from_a_file_and_from_a_pipe() {
    let folder = tempfile::tempdir().expect("folder");
    // In the middle of a grain, at the edge of one, and behind the end.
    for sectors in [3 * 128 + 56, 256, 1024 + 64] {
        let line = format!("RDONLY {sectors} SPARSE \"generated-stream.vmdk\"");
        let image = stream_saying(&line, 1024, 128, &grains());
        let path = folder.path().join("s.vmdk");
        std::fs::write(&path, &image).expect("write");
        let mut wanted = plain();
        wanted.resize(sectors * 512, 0);
        let disk = open_file(&path).expect("opens");
        assert!(content(&*disk) == wanted, "{sectors}: the file differs");
        let (found, account) = piped(&image);
        assert!(found == wanted, "{sectors}: the pipe differs");
        assert!(account.cross_checked, "{sectors}: {account:?}");
        for notes in [disk.notes(), account.notes] {
            assert!(
                notes.iter().any(|note| note.contains("the descriptor counts")),
                "{sectors}: {notes:?}"
            );
        }
    }
}

#[test]
fn oddities_of_the_descriptor_are_told_from_a_pipe_too() {
    let mut image = stream(1024, &grains());
    let text = String::from_utf8_lossy(&image[512..1024]).into_owned();
    let text = text.replacen("version=1", "version=9", 1);
    image[512..1024].copy_from_slice(text.as_bytes());
    let (_, account) = piped(&image);
    assert!(account.notes.join("\n").contains("version 9"), "{account:?}");
}

#[test]
fn empty_tables_in_front_of_a_stream_cost_nothing_to_compare() {
    // A directory of nearly 16 MiB stands for four million tables of 4,096 entries each. All are empty, and half of
    // them name one and the same table. To walk every entry would take longer than anybody waits.
    let mut image = stream_saying("RDONLY 8 SPARSE \"s\"", 8, 8, &[Grain::Absent]);
    image.resize(16 << 20, 0);
    let tables: u64 = (16 << 20) / 4 - 16_384;
    let sectors = tables * 4096;
    let text = descriptor(1, None, "streamOptimized", &[format!("RDONLY {sectors} SPARSE \"s\"")]);
    image[512..].fill(0);
    image[512..512 + text.len()].copy_from_slice(text.as_bytes());
    put64(&mut image, 12, sectors);
    put64(&mut image, 20, 1);
    crate::fixtures::put32(&mut image, 44, 4096);
    put64(&mut image, 56, 2);
    put64(&mut image, 64, (16 << 20) / 512);
    let last = u32::try_from((16 << 20) / 512 - 32).expect("small");
    for table in (0..usize::try_from(tables).expect("small")).step_by(2) {
        crate::fixtures::put32(&mut image, 1024 + table * 4, last);
    }
    image.resize((16 << 20) + 512, 0);
    let started = std::time::Instant::now();
    let mut stream = GrainStream::new(image.as_slice(), Path::new("pipe")).expect("header");
    assert!(stream.next_grain().expect("no grain is stated").is_none());
    assert!(stream.finish().cross_checked);
    // A limit for hangs, not a measurement.
    assert!(started.elapsed() < std::time::Duration::from_secs(60));
}
