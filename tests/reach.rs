//! How far an image reaches: what it names elsewhere is opened only on the user's word, and then the checks agree.

use crate::util::{disk_bytes, esxodus, files, run_expecting, s, text, tool, vmdk, vmx};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

/// A flat extent of 1 MiB in `folder` and the text of a descriptor over it, with `more` header lines.
fn flat(folder: &Path, extent: &[u8], more: &str) -> Vec<u8> {
    use std::os::unix::ffi::OsStrExt as _;
    std::fs::write(folder.join(std::ffi::OsStr::from_bytes(extent)), disk_bytes(1)).unwrap();
    let mut bytes =
        format!("# Disk DescriptorFile\nversion=1\nCID=12345678\ncreateType=\"vmfs\"\n{more}\nRW 2048 VMFS \"")
            .into_bytes();
    bytes.extend_from_slice(extent);
    bytes.extend_from_slice(b"\"\nddb.adapterType = \"lsilogic\"\n");
    bytes
}

/// A child over `parent`, which lies in another folder, with the CID that it expects there.
fn delta(folder: &Path, parent: &Path, cid: &str) -> PathBuf {
    let base = folder.join("delta-flat");
    tool(
        "qemu-img",
        &[
            "create",
            "-q",
            "-f",
            "vmdk",
            "-o",
            "subformat=monolithicSparse",
            s(&base),
            "1M",
        ],
    );
    // An embedded descriptor of the same length, padded with NUL.
    let mut bytes = std::fs::read(&base).unwrap();
    std::fs::remove_file(&base).unwrap();
    let descriptor = format!(
        "# Disk DescriptorFile\nversion=1\nCID=aaaaaaaa\nparentCID={cid}\nparentFileNameHint=\"{}\"\ncreateType=\"monolithicSparse\"\nRW 2048 SPARSE \"delta.vmdk\"\n",
        parent.display()
    );
    bytes[512..512 + 20 * 512].fill(0);
    bytes[512..512 + descriptor.len()].copy_from_slice(descriptor.as_bytes());
    let path = folder.join("delta.vmdk");
    std::fs::write(&path, bytes).unwrap();
    vmx(folder, "guest", &["delta.vmdk"])
}

#[test]
fn a_parent_elsewhere_is_refused_until_its_folder_is_allowed() {
    let root = tempfile::tempdir().unwrap();
    let (guest, other) = (root.path().join("guest"), root.path().join("other"));
    std::fs::create_dir(&guest).unwrap();
    std::fs::create_dir(&other).unwrap();
    std::fs::write(other.join("base.vmdk"), flat(&other, b"base-flat.vmdk", "")).unwrap();
    let vmx = delta(&guest, &other.join("base.vmdk"), "12345678");
    let out = root.path().join("out");
    let (_, said) = run_expecting(2, &["convert", s(&vmx), "-o", s(&out)]);
    assert!(
        said.contains("leaves its own folder") && said.contains("--allow-path"),
        "{said}"
    );
    let (found, _) = run_expecting(1, &["inspect", s(&vmx)]);
    assert!(
        found.contains("disk.path-outside") && !found.contains("disk.parent-missing"),
        "{found}"
    );
    run_expecting(0, &["convert", s(&vmx), "-o", s(&out), "--allow-path", s(&other)]);
    tool(
        "qemu-img",
        &[
            "compare",
            s(&other.join("base-flat.vmdk")),
            s(&out.join("disks/delta.qcow2")),
        ],
    );
}

#[test]
fn a_disk_in_an_allowed_folder_beside_is_converted_and_elsewhere_not() {
    let root = tempfile::tempdir().unwrap();
    let (guest, other) = (root.path().join("guest"), root.path().join("other"));
    std::fs::create_dir(&guest).unwrap();
    std::fs::create_dir(&other).unwrap();
    vmdk(&other, "data", "monolithicSparse", 1);
    let vmx = vmx(&guest, "guest", &["../other/data.vmdk"]);
    let out = root.path().join("out");
    run_expecting(2, &["convert", s(&vmx), "-o", s(&out)]);
    run_expecting(2, &["convert", s(&vmx), "-o", s(&out), "--allow-path", s(&guest)]);
    run_expecting(0, &["convert", s(&vmx), "-o", s(&out), "--allow-path", s(&other)]);
}

#[test]
fn a_changed_parent_stops_the_conversion_unless_that_is_to_be_ignored() {
    let root = tempfile::tempdir().unwrap();
    let guest = root.path();
    std::fs::write(guest.join("base.vmdk"), flat(guest, b"base-flat.vmdk", "")).unwrap();
    let vmx = delta(guest, Path::new("base.vmdk"), "87654321");
    let out = guest.join("out");
    let (_, said) = run_expecting(2, &["convert", s(&vmx), "-o", s(&out)]);
    assert!(said.contains("parentCID is 87654321"), "{said}");
    let (found, _) = run_expecting(1, &["inspect", s(&vmx)]);
    assert!(found.contains("disk.cid-mismatch"), "{found}");
    let (stdout, _) = run_expecting(0, &["convert", s(&vmx), "-o", s(&out), "--ignore-cid-mismatch"]);
    assert!(stdout.contains("ignored: "), "{stdout}");
}

#[test]
fn a_short_flat_extent_stops_the_conversion_unless_it_is_salvaged() {
    let root = tempfile::tempdir().unwrap();
    let guest = root.path();
    std::fs::write(guest.join("disk.vmdk"), flat(guest, b"disk-flat.vmdk", "")).unwrap();
    let extent = std::fs::File::options()
        .write(true)
        .open(guest.join("disk-flat.vmdk"))
        .unwrap();
    extent.set_len(700_000).unwrap();
    let vmx = vmx(guest, "guest", &["disk.vmdk"]);
    let out = guest.join("out");
    run_expecting(2, &["convert", s(&vmx), "-o", s(&out)]);
    let (found, _) = run_expecting(1, &["inspect", s(&vmx)]);
    assert!(found.contains("disk.extent-size-mismatch"), "{found}");
    let (stdout, _) = run_expecting(0, &["convert", s(&vmx), "-o", s(&out), "--salvage"]);
    assert!(stdout.contains("salvage: "), "{stdout}");
}

/// The names of an estate in Japan: the bytes on the disk are those of the descriptor.
#[test]
fn extents_with_names_in_the_descriptors_encoding_are_found() {
    let root = tempfile::tempdir().unwrap();
    let guest = root.path();
    let text = flat(guest, b"\x83\x66\x83\x42-flat.vmdk", "encoding=\"Shift_JIS\"");
    std::fs::write(guest.join("disk.vmdk"), text).unwrap();
    let vmx = vmx(guest, "guest", &["disk.vmdk"]);
    run_expecting(0, &["convert", s(&vmx), "-o", s(&guest.join("out"))]);
}

fn ends_within(mut child: Child, limit: Duration) -> Option<i32> {
    let deadline = Instant::now() + limit;
    while Instant::now() < deadline {
        if let Some(status) = child.try_wait().unwrap() {
            return status.code();
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    child.kill().unwrap();
    None
}

/// Opening a FIFO waits for a writer that never comes; a link may lead anywhere.
#[test]
fn a_fifo_or_a_link_in_the_parents_place_is_refused_and_nobody_waits() {
    for kind in ["fifo", "link"] {
        let root = tempfile::tempdir().unwrap();
        let guest = root.path().join("guest");
        std::fs::create_dir(&guest).unwrap();
        if kind == "fifo" {
            tool("mkfifo", &[s(&guest.join("base.vmdk"))]);
        } else {
            std::fs::write(
                root.path().join("secret.vmdk"),
                flat(root.path(), b"secret-flat.vmdk", ""),
            )
            .unwrap();
            std::os::unix::fs::symlink(root.path().join("secret.vmdk"), guest.join("base.vmdk")).unwrap();
        }
        let vmx = delta(&guest, Path::new("base.vmdk"), "12345678");
        let child = esxodus()
            .args(["inspect", s(&vmx)])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        assert_eq!(ends_within(child, Duration::from_secs(30)), Some(1), "{kind}");
    }
}

#[test]
fn a_run_folder_is_not_continued_with_another_guest_or_other_options() {
    let root = tempfile::tempdir().unwrap();
    let folder = root.path();
    vmdk(folder, "a", "monolithicSparse", 1);
    vmdk(folder, "b", "monolithicSparse", 1);
    let (a, b) = (vmx(folder, "a", &["a.vmdk"]), vmx(folder, "b", &["b.vmdk"]));
    let out = folder.join("out");
    run_expecting(0, &["convert", s(&a), "-o", s(&out)]);
    let before = std::fs::read(out.join("machine.json")).unwrap();
    let (_, said) = run_expecting(2, &["convert", s(&b), "-o", s(&out), "--resume"]);
    assert!(said.contains("another folder"), "{said}");
    assert_eq!(std::fs::read(out.join("machine.json")).unwrap(), before);
    let (_, said) = run_expecting(2, &["convert", s(&a), "-o", s(&out), "--resume", "--compress", "zstd"]);
    assert!(said.contains("finished before as copy"), "{said}");
    run_expecting(0, &["convert", s(&a), "-o", s(&out), "--resume"]);
}

/// Nobody knows how much of a stream is to come, and it can't be resumed.
#[test]
fn a_full_disk_under_a_pipe_says_to_begin_again() {
    let root = tempfile::tempdir().unwrap();
    let small = root.path().join("small");
    std::fs::create_dir(&small).unwrap();
    let mounted = std::process::Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=2m", "small", s(&small)])
        .output()
        .is_ok_and(|output| output.status.success());
    if !mounted {
        return crate::util::skip("mounting a small tmpfs needs root");
    }
    let (_, disk) = vmdk(root.path(), "disk", "streamOptimized", 24);
    let out = small.join("out");
    let output = esxodus()
        .args(["convert", "-", "-o", s(&out)])
        .stdin(std::fs::File::open(&disk).unwrap())
        .output()
        .unwrap();
    let left = files(&out.join("disks"));
    let said = text(&output.stderr);
    tool("umount", &[s(&small)]);
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(
        said.contains("no space left") && said.contains("begin the stream again"),
        "{said}"
    );
    assert!(left.is_empty(), "{left:?}");
}
