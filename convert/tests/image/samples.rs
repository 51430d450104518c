//! Every file of the sample folder: the content sum, or the refusal, that its README promises.

use std::path::Path;
use std::sync::atomic::AtomicBool;

use convert::image::vmdk::stream::GrainStream;
use convert::image::{DiskChunk, DiskLocation, ImageErrorKind, OpenOptions, describe, open};

use crate::fixtures::{content_sha, open_file, open_salvage, read_gz, read_xz, samples};

#[test]
fn disks_of_other_tools_read_as_their_sums_say() {
    let Some(root) = samples() else { return };
    let cases = [
        (
            "qemu/iotest-version3.vmdk",
            17_179_869_184,
            "0859bb3397bc1d30fa979c80a289ce98bfd6c1141a64594d6f3cc8cd68218faf",
        ),
        (
            "cot/blank.vmdk",
            536_870_912,
            "9acca8e8c22201155389f65abbf6bc9723edc7384ead80503839f49dcc56d767",
        ),
        (
            "cot/input.vmdk",
            1_073_741_824,
            "49bc20df15e412a64472421e13fe86ff1c5165e18b2afccf160d4dc19fe68a14",
        ),
        (
            "cot/ubuntu.2.0-disk1.vmdk",
            8_589_934_592,
            "ebfb4ef19ae410f190327b5ebd312711263bc7579970e87d9c1e2d84e06b3c25",
        ),
    ];
    for (name, bytes, sum) in cases {
        let disk = open_file(&root.join(name)).expect(name);
        assert_eq!(disk.virtual_bytes(), bytes, "{name}");
        let summary = describe(&*disk, &AtomicBool::new(false)).expect(name);
        let grains = if name.starts_with("qemu") { 151 } else { 0 };
        assert_eq!(summary.compressed_grains, grains, "{name}");
        assert_eq!(
            summary.data_bytes == 0,
            grains == 0,
            "{name}: nothing is allocated for zeros"
        );
        // A map without data is zeros of the stated size, which is what the sums of the large empty disks stand for.
        if grains > 0 || bytes < 2 << 30 {
            assert_eq!(content_sha(&*disk), sum, "{name}");
        }
        let mut stream =
            GrainStream::new(std::fs::File::open(root.join(name)).expect(name), Path::new(name)).expect(name);
        let mut count = 0;
        while stream.next_grain().expect(name).is_some() {
            count += 1;
        }
        let account = stream.finish();
        assert_eq!(
            (count, account.ascending, account.cross_checked),
            (grains, true, true),
            "{name}: {:?}",
            account.notes
        );
    }
}

#[test]
fn a_genuine_sesparse_reads_through_its_descriptor_and_is_named_when_missing() {
    let Some(root) = samples() else { return };
    let folder = tempfile::tempdir().expect("folder");
    let path = folder.path().join("sesparse-desc.vmdk");
    std::fs::copy(root.join("dissect/sesparse-desc.vmdk"), &path).expect("copy");
    let error = open_file(&path).map(|_| ()).expect_err("the body is missing");
    assert_eq!(error.kind, ImageErrorKind::Missing);
    assert!(error.to_string().contains("sesparse.vmdk"), "{error}");
    std::fs::write(
        folder.path().join("sesparse.vmdk"),
        read_gz(&root.join("dissect/sesparse.vmdk.gz")),
    )
    .expect("write");
    let disk = open_file(&path).expect("opens");
    assert_eq!(
        content_sha(&*disk),
        "3afa48010241335528fe402f083fc9f3a1013a49485221443a78d9a8604e2f90"
    );
    let body = open_file(&folder.path().join("sesparse.vmdk"))
        .map(|_| ())
        .expect_err("a body alone");
    assert_eq!(body.kind, ImageErrorKind::Unsupported);
}

#[test]
fn a_renamed_monolithic_sparse_ignores_the_stale_name_in_its_extent_line() {
    let Some(root) = samples() else { return };
    let folder = tempfile::tempdir().expect("folder");
    let path = folder.path().join("other-name.vmdk");
    std::fs::write(
        &path,
        read_xz(&root.join("osv-scalibr/valid-ext-exfat-fat32-ntfs.vmdk.xz")),
    )
    .expect("write");
    let disk = open_file(&path).expect("opens");
    assert_eq!(
        content_sha(&*disk),
        "10808edfbc61762fc1bfa7e4fb6d18cb9fcafa7faad6692e4304ed8bff40006a"
    );
    assert_eq!(disk.notes(), Vec::<String>::new());
}

#[test]
fn the_fuzzers_image_is_refused_at_its_first_impossible_field() {
    let Some(root) = samples() else { return };
    let error = open_file(&root.join("qemu/afl9.vmdk"))
        .map(|_| ())
        .expect_err("refused");
    assert_eq!(error.kind, ImageErrorKind::Limit);
    assert!(error.to_string().contains("2233785398448881665"), "{error}");
}

#[test]
fn a_truncated_export_is_refused_with_its_numbers_and_salvaged_on_request() {
    let Some(root) = samples() else { return };
    let path = root.join("govmomi/ttylinux-pc_i486-16.1-disk1.vmdk");
    let inside = DiskLocation::window(root.join("govmomi/ttylinux-pc_i486-16.1.ova"), 7_168, 1_048_576);
    let seekable = open_file(&path).map(|_| ()).expect_err("truncated");
    let in_place = open(&inside, &OpenOptions::default())
        .map(|_| ())
        .expect_err("truncated");
    let mut stream = GrainStream::new(std::fs::File::open(&path).expect("sample"), &path).expect("header");
    let mut complete = 0;
    let piped = loop {
        match stream.next_grain() {
            Ok(Some(_)) => complete += 1,
            Ok(None) => panic!("the truncation was not noticed"),
            Err(error) => break error,
        }
    };
    assert_eq!(complete, 35);
    for error in [seekable, in_place, piped] {
        assert_eq!(
            (error.kind, error.offset),
            (ImageErrorKind::Truncated, Some(1_029_120)),
            "{error}"
        );
        for number in [
            "marker 36",
            "7012352",
            "LBA 13696",
            "34761",
            "19444",
            "1063893",
            "35 complete",
        ] {
            assert!(error.to_string().contains(number), "{number} in {error}");
        }
    }
    let disk = open_salvage(&path).expect("salvage");
    assert_eq!(
        content_sha(&*disk),
        "2c63e7cf6fe32afda311f280e353539418d8747eaf54fe26fbbece6655765cba"
    );
    assert!(
        disk.notes().iter().any(|note| note.contains("salvage")),
        "{:?}",
        disk.notes()
    );
}

#[test]
fn disks_inside_appliances_are_read_in_place() {
    let Some(root) = samples() else { return };
    let forty = "80a3721188e40218b08b26776bc53bdae81e4784fff71d71450a197319cba113";
    let cases = [
        ("vcd/test_vapp_template.ova", 11_776, 68_096, 41_943_040, forty),
        ("vcd/template_without_vmdk_size.ova", 11_776, 68_096, 41_943_040, forty),
        ("vcd/tf_test_vapp_template.ova", 17_920, 68_096, 41_943_040, forty),
        (
            "vcd/vapp_with_3_vms.ova",
            40_448,
            68_096,
            11_534_336,
            "d4d2639ad94b0211839461226eb57a5e185829e5c4a9783c2da9f0a3da032bf5",
        ),
        (
            "vcd/vapp_with_3_vms.ova",
            109_056,
            68_096,
            10_485_760,
            "e5b844cc57f57094ea4585e235f36c78c1cd222262bb89d53c94dcb4d6b3e55d",
        ),
        (
            "vcd/vapp_with_3_vms.ova",
            177_664,
            68_096,
            12_582_912,
            "cfadd44a103cbd6d5726fa07b27d7aad2f67ed3930ff96901c486a5beaf7e723",
        ),
        (
            "harvester/test.ova",
            512,
            68_608,
            8_589_934_592,
            "ebfb4ef19ae410f190327b5ebd312711263bc7579970e87d9c1e2d84e06b3c25",
        ),
    ];
    for (name, offset, length, bytes, sum) in cases {
        let disk = open(
            &DiskLocation::window(root.join(name), offset, length),
            &OpenOptions::default(),
        )
        .expect(name);
        assert_eq!(
            (disk.virtual_bytes(), content_sha(&*disk).as_str()),
            (bytes, sum),
            "{name}"
        );
    }
}

#[test]
fn chunks_are_joined_and_the_last_one_alone_is_no_disk() {
    let Some(root) = samples() else { return };
    let path = root.join("vcd/template_with_custom_chunk_size.ova");
    let chunk = |offset, length| DiskChunk {
        path: path.clone(),
        offset,
        length: Some(length),
    };
    let both = DiskLocation::chunks("disk.vmdk", vec![chunk(13_312, 40_960), chunk(54_784, 27_136)]);
    let disk = open(&both, &OpenOptions::default()).expect("joined");
    assert_eq!(
        content_sha(&*disk),
        "80a3721188e40218b08b26776bc53bdae81e4784fff71d71450a197319cba113"
    );
    let last = DiskLocation::chunks("disk.vmdk", vec![chunk(54_784, 27_136)]);
    assert_eq!(
        open(&last, &OpenOptions::default())
            .map(|_| ())
            .expect_err("no disk")
            .kind,
        ImageErrorKind::Damaged
    );
}
