//! The boot proof and the fix-up on real guests with the defects of real estates (`scripts/test-guests.sh`), booted under QEMU TCG.
//!
//! Each guest is booted in few ways that share its conversion; cargo runs as many of these at once as there are CPUs. No time is
//! asserted; `--timeout` is the deadline of a boot on a busy machine.

use crate::util::{esxodus, run_expecting, s, skip, text};
use serde_json::Value;
use std::path::{Path, PathBuf};

/// A guest of the zoo.
fn guest(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("ESXODUS_TEST_GUESTS")
        .map(|folder| PathBuf::from(folder).join(name).join(format!("{name}.vmx")));
    match path {
        Some(path) if path.is_file() => Some(path),
        _ => {
            skip(&format!("ESXODUS_TEST_GUESTS holds no guest {name}: run 'make test'"));
            None
        }
    }
}

/// `esxodus prove … --json` under TCG: exit code, record and messages.
fn judged(args: &[&str]) -> (Option<i32>, Value, String) {
    let output = esxodus()
        .args(["prove", "--json", "--accel", "tcg", "--timeout", "400"])
        .args(args)
        .output()
        .unwrap();
    let record = serde_json::from_slice(&output.stdout).unwrap_or_default();
    (output.status.code(), record, text(&output.stderr))
}

/// The record of a proof, once the exit code says what is wanted.
#[track_caller]
fn prove(proven: bool, args: &[&str]) -> Value {
    let (code, record, said) = judged(args);
    assert_eq!(
        code,
        Some(i32::from(!proven)),
        "{args:?}: {} {}\n{said}\n{}",
        record["verdict"],
        record["reason"],
        console(args.last().unwrap_or(&""))
    );
    assert_eq!(
        record["disks_before"], record["disks_after"],
        "the real disks are untouched"
    );
    assert!(record["disks_before"].as_array().is_some_and(|disks| !disks.is_empty()));
    record
}

/// The end of the console log, for a failing test's message.
fn console(out: &str) -> String {
    let log = std::fs::read(Path::new(out).join("proof/console.log")).unwrap_or_default();
    let log = text(&log);
    let lines: Vec<&str> = log.lines().rev().take(40).collect();
    lines.into_iter().rev().collect::<Vec<_>>().join("\n")
}

fn words(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn converted(source: &Path, dir: &Path) -> PathBuf {
    let out = dir.join("out");
    run_expecting(0, &["convert", s(source), "-o", s(&out), "--target", "none"]);
    out
}

/// All evidence that the record names is there.
fn evidence_is_there(record: &Value, out: &Path) {
    for item in record["evidence"].as_array().expect("evidence") {
        assert!(out.join(words(&item["file"])).is_file(), "{item}");
    }
}

fn names(list: &Value) -> Vec<&str> {
    list.as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect()
}

/// What must be true inside a guest that was fixed up.
fn is_well(record: &Value) {
    let guest = &record["guest"];
    assert_eq!(names(&guest["missing_mounts"]), [""; 0], "{guest}");
    assert_eq!(names(&guest["vmware_programs"]), [""; 0], "{guest}");
    let disks = guest["disks"].as_array().expect("disks");
    assert!(
        disks.iter().any(|disk| words(&disk["driver"]).starts_with("virtio")),
        "{guest}"
    );
    let nic = &guest["nics"][0];
    assert_eq!(
        (words(&nic["name"]), words(&nic["mac"])),
        ("ens192", "00:50:56:11:22:33"),
        "{guest}"
    );
}

#[test]
fn a_guest_without_virtio_is_found_on_sata_and_proven_on_virtio_after_the_fixup() {
    let Some(source) = guest("old-initramfs") else { return };
    let dir = tempfile::tempdir().unwrap();
    let out = converted(&source, dir.path());

    // Two SATA disks are probed in parallel, and now and then the kernel swaps their names: a guest that names its root /dev/sda1
    // does not boot then, there as on any machine, and the search goes on to IDE.
    let found = (0..4)
        .map(|_| judged(&["--search", s(&out)]))
        .find(|(code, record, _)| *code == Some(0) && words(&record["devices"]).starts_with("sata"))
        .expect("proven on SATA at the latest at the fourth time")
        .1;
    let tries = found["tries"].as_array().expect("several tries");
    let buses: Vec<&str> = tries.iter().map(|attempt| words(&attempt["bus"])).collect();
    assert_eq!(buses, ["virtio-blk", "virtio-scsi", "sata"]);
    for (attempt, driver) in tries.iter().zip(["virtio_blk", "virtio_scsi"]) {
        let reason = words(&attempt["reason"]);
        assert_eq!(attempt["verdict"], "failed");
        assert!(
            reason.contains("no root device") && reason.contains("initrd.img-") && reason.contains(driver),
            "{reason}"
        );
        assert!(out.join(words(&attempt["evidence"])).join("console.log").is_file());
    }
    assert_eq!(
        (words(&found["devices"]), words(&found["firmware"])),
        ("sata, e1000e", "bios")
    );
    assert!(names(&found["advice"])[0].contains("sata"), "{}", found["advice"]);
    evidence_is_there(&found, &out);

    let done = run_expecting(0, &["fixup", s(&out), "--accel", "tcg"]).0;
    assert!(done.contains("initrd.img-"), "{done}");
    run_expecting(0, &["report", s(&out)]);
    let report: Value = serde_json::from_slice(&std::fs::read(out.join("report.json")).unwrap()).unwrap();
    let changed: Vec<&str> = report["fixup"]
        .as_array()
        .unwrap()
        .iter()
        .map(|change| words(&change["path"]))
        .collect();
    assert!(
        changed.contains(&"/etc/fstab") && changed.iter().any(|path| path.starts_with("/boot/initrd.img-")),
        "{changed:?}"
    );
    let kernel = &report["deep"]["systems"][0]["kernels"][0];
    assert_eq!(kernel["boots_virtio_blk"], false, "what was inside before: {kernel}");
    let findings = report["findings"].as_array().unwrap();
    let lacks = findings
        .iter()
        .find(|finding| finding["id"] == "linux.initrd-lacks-virtio")
        .expect("the finding");
    assert_eq!(lacks["severity"], "info", "the fix-up put it right: {lacks}");
    let page = std::fs::read_to_string(out.join("report.html"))
        .unwrap()
        .replace("&#x2f;", "/");
    assert!(
        page.contains("/dev/sda1 / ext4") && page.contains("Changes"),
        "before and after of each change"
    );
    let proven = prove(true, &[s(&out)]);
    assert_eq!(words(&proven["devices"]), "virtio-blk, virtio-net");
    is_well(&proven);
    let nic = &proven["guest"]["nics"][0];
    assert_eq!(
        names(&nic["addresses"]).first(),
        Some(&"192.0.2.10/24"),
        "the static address is there: {nic}"
    );
}

#[test]
fn fstab_by_device_name_ends_in_emergency_mode_and_the_names_are_told_before_converting() {
    let Some(source) = guest("device-names") else { return };
    let dir = tempfile::tempdir().unwrap();
    let record = prove(false, &["-o", s(dir.path()), s(&source)]);
    let reason = words(&record["reason"]);
    assert!(
        reason.contains("emergency mode") && reason.contains("/dev/sdb1 (/srv/data)"),
        "{reason}"
    );
    assert!(names(&record["advice"]).join(" ").contains("esxodus fixup"));
    let real: Vec<&str> = record["disks_before"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|disk| words(&disk[0]))
        .collect();
    assert!(
        real.iter().all(|name| name.ends_with(".vmdk")) && real.len() == 2,
        "the source itself was watched: {real:?}"
    );
    evidence_is_there(&record, dir.path());
}

#[test]
fn a_uefi_guest_described_as_bios_is_found_on_uefi_with_its_lvm_root_and_luks_disk() {
    let Some(source) = guest("uefi-lvm") else { return };
    let dir = tempfile::tempdir().unwrap();
    let folder = source.parent().unwrap();
    let description = std::fs::read_to_string(&source).unwrap();
    let wrong = description
        .replace("firmware = \"efi\"", "firmware = \"bios\"")
        .replace("\"uefi-lvm", &format!("\"{}/uefi-lvm", folder.display()));
    let wrong = wrong.replace(&format!("displayName = \"{}/", folder.display()), "displayName = \"");
    let vmx = dir.path().join("wrong.vmx");
    std::fs::write(&vmx, wrong).unwrap();
    let out = dir.path().join("evidence");
    let record = prove(true, &["--search", "--allow-path", s(folder), "-o", s(&out), s(&vmx)]);
    let tries = record["tries"].as_array().expect("several tries");
    assert!(
        words(&tries[0]["reason"]).contains("boot loader not found"),
        "{}",
        tries[0]
    );
    assert_eq!((tries.len(), words(&record["firmware"])), (2, "uefi"));
    let guest = &record["guest"];
    assert!(words(&guest["root"]).contains("/dev/mapper/vg0-root / xfs"), "{guest}");
    assert_eq!(
        names(&guest["missing_mounts"]),
        [""; 0],
        "boot, ESP and the LUKS disk are mounted: {guest}"
    );
}

/// A layout that is not Debian's: fails for virtio, is fixed up, boots.
fn emulated_layout(name: &str, initramfs: &str) {
    let Some(source) = guest(name) else { return };
    let dir = tempfile::tempdir().unwrap();
    let out = converted(&source, dir.path());
    let failed = prove(false, &[s(&out)]);
    let reason = words(&failed["reason"]);
    assert!(reason.contains(initramfs) && reason.contains("virtio_blk"), "{reason}");
    run_expecting(0, &["fixup", s(&out), "--accel", "tcg"]);
    let proven = prove(true, &[s(&out)]);
    is_well(&proven);
}

#[test]
fn a_dracut_guest_in_the_rpm_familys_layout_is_proven_after_the_fixup() {
    emulated_layout("rpm-layout", "initramfs-");
}

#[test]
fn a_dracut_guest_in_suses_layout_is_proven_after_the_fixup() {
    emulated_layout("suse-layout", "initrd-");
}

/// `debugfs` on the first partition of a raw disk.
fn debugfs(disk: &Path, commands: &[&str]) {
    let at = format!("{}?offset=1048576", s(disk));
    for command in commands {
        let output = std::process::Command::new("debugfs")
            .args(["-w", "-R", command, &at])
            .output()
            .expect("debugfs (e2fsprogs)");
        assert!(output.status.success(), "{command}: {}", text(&output.stderr));
    }
}

#[test]
fn an_initramfs_that_is_not_read_is_made_anew_by_the_guests_own_tool_and_put_back_by_undo() {
    let Some(source) = guest("old-initramfs") else { return };
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    run_expecting(
        0,
        &[
            "convert",
            s(&source),
            "-o",
            s(&out),
            "--target",
            "none",
            "--format",
            "raw",
        ],
    );
    let disks = out.join("disks");
    let disk = disks.join(&crate::util::files(&disks)[0]);
    // The guest's own initramfs, packed as older Ubuntus could be told to.
    let version =
        std::fs::read_to_string(source.parent().unwrap().parent().unwrap().join("base/kernel-version")).unwrap();
    let image = format!("/boot/initrd.img-{}", version.trim());
    let (plain, packed) = (dir.path().join("initrd"), dir.path().join("initrd.lzma"));
    debugfs(&disk, &[&format!("dump {image} {}", s(&plain))]);
    let script = format!("zstd -dcq {} | xz --format=lzma -1 > {}", s(&plain), s(&packed));
    assert!(
        std::process::Command::new("sh")
            .args(["-c", &script])
            .status()
            .unwrap()
            .success()
    );
    let before = std::fs::read(&packed).unwrap();
    debugfs(
        &disk,
        &[&format!("rm {image}"), &format!("write {} {image}", s(&packed))],
    );
    let image_now = || {
        let now = dir.path().join("now");
        debugfs(&disk, &[&format!("dump {image} {}", s(&now))]);
        std::fs::read(now).unwrap()
    };
    assert!(image_now() == before, "the disk has it");

    let fixup = |more: &[&str]| -> Value {
        let args = [&["fixup", s(&out), "--accel", "tcg", "--json"], more].concat();
        serde_json::from_str(&run_expecting(0, &args).0).unwrap()
    };
    let done = fixup(&[]);
    let after = done["changes"]
        .as_array()
        .unwrap()
        .iter()
        .find(|change| words(&change["path"]) == image)
        .map(|change| words(&change["after"]))
        .expect("the image is changed");
    assert!(after.contains("/usr/sbin/mkinitramfs -c gzip"), "{done}");
    assert!(image_now().starts_with(&[0x1f, 0x8b]), "gzip now");
    let proven = prove(true, &[s(&out)]);
    assert_eq!(words(&proven["devices"]), "virtio-blk, virtio-net");
    is_well(&proven);

    fixup(&["--undo"]);
    assert!(image_now() == before, "every byte is back");
    let fsck = std::process::Command::new("e2fsck")
        .args(["-fn", &format!("{}?offset=1048576", s(&disk))])
        .output()
        .unwrap();
    assert!(fsck.status.success(), "{}", text(&fsck.stdout));
}

/// Starts a fix-up and kills it without warning once `moment` has come.
fn killed_fixup(out: &Path, moment: impl Fn() -> bool) {
    let mut child = esxodus()
        .args(["fixup", s(out), "--accel", "tcg"])
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    while !moment() {
        assert!(child.try_wait().unwrap().is_none(), "it ended before the moment came");
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    child.kill().unwrap();
    child.wait().unwrap();
}

fn fstab_of(out: &Path) -> Vec<String> {
    let facts = run_expecting(0, &["inspect", s(out), "--deep", "--json", "--accel", "tcg"]).0;
    let facts: Value = serde_json::from_str(&facts).unwrap();
    let lines = facts["systems"][0]["fstab"]
        .as_array()
        .expect("a system with fstab")
        .clone();
    lines.iter().map(|line| words(&line["spec"]).to_owned()).collect()
}

#[test]
fn a_fixup_killed_at_work_changes_nothing_and_one_killed_as_it_writes_is_finished_by_the_next() {
    let Some(source) = guest("device-names") else { return };
    let dir = tempfile::tempdir().unwrap();
    let out = converted(&source, dir.path());
    let disks = |out: &Path| {
        let names = crate::util::files(&out.join("disks"));
        names
            .iter()
            .map(|name| std::fs::read(out.join("disks").join(name)).unwrap())
            .collect::<Vec<_>>()
    };
    let before = disks(&out);
    let overlay_grows = || {
        let folders = std::fs::read_dir(&out).unwrap().flatten();
        folders
            .filter(|entry| entry.file_name().to_string_lossy().starts_with(".fixup-"))
            .any(|entry| std::fs::metadata(entry.path().join("disk-0.qcow2")).is_ok_and(|data| data.len() > 256 << 10))
    };
    killed_fixup(&out, overlay_grows);
    assert!(
        disks(&out) == before && !out.join("fixup.json").exists(),
        "the disks are as they were"
    );

    killed_fixup(&out, || out.join("fixup.pending").exists());
    let (stdout, stderr) = run_expecting(0, &["fixup", s(&out), "--accel", "tcg"]);
    assert!(
        stderr.contains("it is finished first") && stdout.contains("nothing to change"),
        "{stdout}\n{stderr}"
    );
    let left = crate::util::files(&out);
    assert!(
        left.iter()
            .all(|name| !name.starts_with(".fixup-") && !["fixup.pending", "fixup.overlays"].contains(&name.as_str())),
        "{left:?}"
    );
    run_expecting(0, &["verify", s(&out)]);
    let proven = prove(true, &[s(&out)]);
    is_well(&proven);
    run_expecting(0, &["fixup", s(&out), "--undo", "--accel", "tcg"]);
    run_expecting(0, &["verify", s(&out)]);
    assert_eq!(fstab_of(&out), ["/dev/sda1", "/dev/sdb1"]);
}

#[test]
fn virt_v2v_works_on_overlays_and_only_its_success_gets_into_the_disks() {
    if std::env::var_os("ESXODUS_AGENT").is_none() {
        return skip("ESXODUS_AGENT names no agent for the appliance: run 'make test'");
    }
    let dir = tempfile::tempdir().unwrap();
    let tree = dir.path().join("tree");
    for folder in ["etc", "boot"] {
        std::fs::create_dir_all(tree.join(folder)).unwrap();
    }
    std::fs::write(tree.join("etc/os-release"), "ID=debian\nPRETTY_NAME=\"Debian 12\"\n").unwrap();
    std::fs::write(tree.join("etc/fstab"), "UUID=1 / ext4 defaults 0 1\n").unwrap();
    let raw = dir.path().join("v2v.raw");
    crate::util::tool("mkfs.ext4", &["-q", "-d", s(&tree), s(&raw), "32M"]);
    // The stand-in writes behind the file system, where this can be seen without knowing it.
    std::fs::File::options()
        .write(true)
        .open(&raw)
        .unwrap()
        .set_len(40 << 20)
        .unwrap();
    let vmdk = dir.path().join("v2v.vmdk");
    crate::util::tool("qemu-img", &["convert", "-O", "vmdk", s(&raw), s(&vmdk)]);
    let source = crate::util::vmx(dir.path(), "v2v", &["v2v.vmdk"]);
    let out = converted(&source, dir.path());
    let disk = out.join("disks").join(&crate::util::files(&out.join("disks"))[0]);
    let bin = dir.path().join("bin");
    std::fs::create_dir(&bin).unwrap();
    let program = |end: &str| {
        let script = format!(
            "#!/bin/sh\nset -e\n[ \"$1 $2\" = '-i libvirtxml' ]\nfile=$(sed -n \"s/.*source file='\\([^']*\\)'.*/\\1/p\" \"$3\")\nqemu-io -f qcow2 -c 'write -P 7 36M 64k' \"$file\"\necho \"Converting the guest\"\n{end}\n"
        );
        let path = bin.join("virt-v2v-in-place");
        std::fs::write(&path, script).unwrap();
        std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    };
    let path = format!("{}:{}", s(&bin), std::env::var("PATH").unwrap());
    let fixup = || {
        let mut command = esxodus();
        command.args(["fixup", s(&out), "--engine", "virt-v2v", "--accel", "tcg"]);
        command.env("PATH", &path).output().unwrap()
    };
    let written = || {
        std::process::Command::new("qemu-io")
            .args(["-f", "qcow2", "-c", "read -P 7 36M 64k", s(&disk)])
            .output()
            .unwrap()
            .status
            .success()
    };
    program("echo 'no operating system' >&2; exit 1");
    let failed = fixup();
    let stderr = text(&failed.stderr);
    assert!(
        failed.status.code() == Some(2) && stderr.contains("no operating system"),
        "{stderr}"
    );
    assert!(!written() && !out.join("fixup.json").exists(), "the disk is as it was");
    program("exit 0");
    let done = fixup();
    assert!(done.status.success(), "{}", text(&done.stderr));
    assert!(
        text(&done.stdout).contains("Converting the guest"),
        "{}",
        text(&done.stdout)
    );
    assert!(written());
    run_expecting(0, &["verify", s(&out)]);
    run_expecting(2, &["prove", s(&out), "--engine", "virt-v2v"]);
}

#[test]
fn a_panic_that_only_the_vga_screen_shows_is_read_from_there() {
    let Some(source) = guest("panic") else { return };
    let dir = tempfile::tempdir().unwrap();
    let record = prove(false, &["--no-agent", "-o", s(dir.path()), s(&source)]);
    let reason = words(&record["reason"]);
    assert!(reason.starts_with("kernel panic: Attempted to kill init!"), "{reason}");
    let console = std::fs::read(dir.path().join("proof/console.log")).unwrap();
    assert!(
        !text(&console).contains("Kernel panic"),
        "the serial console did not tell it"
    );
    let screen = std::fs::read_to_string(dir.path().join("proof/screen.txt")).unwrap();
    assert!(screen.contains("Kernel panic - not syncing"), "{screen}");
    evidence_is_there(&record, dir.path());
}

#[test]
fn a_root_that_is_on_no_disk_is_named() {
    let Some(source) = guest("no-root") else { return };
    let dir = tempfile::tempdir().unwrap();
    let record = prove(false, &["--no-agent", "-o", s(dir.path()), s(&source)]);
    let reason = words(&record["reason"]);
    assert!(
        reason.contains("no root device") && reason.contains("00000000-dead-4bad-8bad-000000000000"),
        "{reason}"
    );
}

#[test]
fn a_hung_guest_is_told_by_its_silence_with_its_last_words() {
    let Some(source) = guest("hung") else { return };
    let dir = tempfile::tempdir().unwrap();
    let record = prove(
        false,
        &["--no-agent", "--silence", "20", "-o", s(dir.path()), s(&source)],
    );
    let reason = words(&record["reason"]);
    assert!(
        reason.contains("hangs") && reason.contains("nothing more came for 2") && reason.contains("last words: \""),
        "{reason}"
    );
    let advice = names(&record["advice"]);
    assert!(
        advice.iter().any(|line| line.contains("a second boot ended alike")),
        "an emulated processor that stops says nothing, two do: {advice:?}"
    );
}

#[test]
fn a_folder_that_is_neither_a_run_nor_a_guest_is_refused_and_evidence_goes_into_no_strangers_folder() {
    let dir = tempfile::tempdir().unwrap();
    let (_, stderr) = run_expecting(2, &["prove", s(dir.path())]);
    assert!(stderr.contains("no run folder"), "{stderr}");
    std::fs::write(dir.path().join("thesis.txt"), "years of work").unwrap();
    let disk = dir.path().join("disk.qcow2");
    crate::util::tool("qemu-img", &["create", "-q", "-f", "qcow2", s(&disk), "1M"]);
    let (_, stderr) = run_expecting(2, &["prove", s(&disk), "-o", s(dir.path())]);
    assert!(stderr.contains("holds other files"), "{stderr}");
}
