//! Kernels found on guests' disks: synthetic file systems of all shapes, hostile ones among them, and a real Debian.
#![expect(
    clippy::tests_outside_test_module,
    reason = "an integration test program is one test module"
)]

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::atomic::AtomicBool,
    time::{Duration, Instant},
};

use esxodus_runner::{
    appliance::{self, Appliance},
    arch::Topology,
    direct::{self, Found},
    engine::{Accelerator, DiskBus, DiskCache, DiskFormat, DiskSpec, Engine as _, FirmwareSpec, MachineModel, VmSpec},
    qemu::Qemu,
};

const GRUB: &str = "set default=\"0\"
menuentry 'Debian' {
    search --no-floppy --fs-uuid --set=root 6f1c2e5a-0d0e-4c1b-9a51-e50d05000001
    linux /boot/vmlinuz-6.1 root=UUID=6f1c2e5a-0d0e-4c1b-9a51-e50d05000001 ro quiet
    initrd /boot/ucode.img /boot/initrd.img-6.1
}
";

fn tool(program: &str, arguments: &[&str]) -> bool {
    let path = std::env::var("PATH").unwrap_or_default() + ":/usr/sbin:/sbin";
    let done = Command::new(program)
        .args(arguments)
        .env("PATH", path)
        .output()
        .is_ok_and(|output| output.status.success());
    if !done {
        println!("SKIP: {program} {arguments:?} does not work here");
    }
    done
}

/// A folder with these files; a name that ends with `->` is a link.
fn tree(files: &[(&str, &[u8])]) -> tempfile::TempDir {
    let tree = tempfile::tempdir().expect("folder");
    for (name, content) in files {
        let path = tree.path().join(name);
        fs::create_dir_all(path.parent().expect("below the tree")).expect("mkdir");
        match name.strip_suffix("->") {
            None => fs::write(path, content).expect("write"),
            Some(link) => {
                let target = String::from_utf8_lossy(content).into_owned();
                std::os::unix::fs::symlink(target, tree.path().join(link)).expect("symlink");
            }
        }
    }
    tree
}

/// Makes an ext4 image of files at `offset` of a raw disk.
fn ext4(disk: &Path, offset: u64, mib: u32, files: &[(&str, &[u8])]) -> bool {
    let tree = tree(files);
    let file = fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .open(disk)
        .expect("disk");
    let size = file.metadata().expect("metadata").len();
    file.set_len(size.max(offset + (u64::from(mib) << 20) + (1 << 20)))
        .expect("size");
    let (tree, disk) = (tree.path().display().to_string(), disk.display().to_string());
    let at = format!("offset={offset}");
    let size = format!("{}k", mib * 1024);
    tool("mkfs.ext4", &["-q", "-F", "-d", &tree, "-E", &at, &disk, &size])
}

/// Writes an MBR with one Linux partition from 1 MiB on.
fn mbr(disk: &Path, sectors: u32) {
    use std::os::unix::fs::FileExt as _;
    let mut table = [0; 512];
    table[450] = 0x83;
    table[454..458].copy_from_slice(&2048_u32.to_le_bytes());
    table[458..462].copy_from_slice(&sectors.to_le_bytes());
    table[510..].copy_from_slice(&[0x55, 0xaa]);
    let file = fs::OpenOptions::new().write(true).open(disk).expect("disk");
    file.write_all_at(&table, 0).expect("write");
}

fn find(disk: &Path, format: DiskFormat) -> Result<(Found, tempfile::TempDir), String> {
    let folder = tempfile::tempdir().expect("folder");
    let found = direct::find(&[(disk.to_owned(), format)], folder.path()).map_err(|error| error.to_string())?;
    Ok((found, folder))
}

#[test]
fn a_debian_disk_gives_kernel_both_archives_and_the_command_line() {
    let folder = tempfile::tempdir().expect("folder");
    let raw = folder.path().join("disk.raw");
    let kernel = vec![0x4b; 3 << 20];
    let files: [(&str, &[u8]); 4] = [
        ("boot/grub/grub.cfg", GRUB.as_bytes()),
        ("boot/vmlinuz-6.1", &kernel),
        ("boot/ucode.img", b"microcode"),
        ("boot/initrd.img-6.1", b"archive"),
    ];
    if !ext4(&raw, 1 << 20, 16, &files) {
        return;
    }
    mbr(&raw, 16 * 2048);
    let qcow2 = folder.path().join("disk.qcow2");
    let (from, to) = (raw.display().to_string(), qcow2.display().to_string());
    if !tool("qemu-img", &["convert", "-O", "qcow2", &from, &to]) {
        return;
    }
    let (found, _copied) = find(&qcow2, DiskFormat::Qcow2).expect("found");
    assert_eq!(fs::read(&found.kernel.kernel).expect("copied"), kernel);
    // The second archive begins at a multiple of four.
    let initrd = fs::read(found.kernel.initrd.expect("an initrd")).expect("copied");
    assert_eq!(initrd, b"microcode\0\0\0archive");
    assert_eq!(
        found.kernel.cmdline,
        "root=UUID=6f1c2e5a-0d0e-4c1b-9a51-e50d05000001 ro quiet"
    );
    for word in [
        "/boot/vmlinuz-6.1",
        "partition 1 disk.qcow2",
        "/boot/grub/grub.cfg",
        "\"Debian\"",
    ] {
        assert!(found.chosen.contains(word), "{}", found.chosen);
    }
}

#[test]
fn a_separate_boot_partition_with_loader_entries_follows_the_saved_entry() {
    let folder = tempfile::tempdir().expect("folder");
    let raw = folder.path().join("disk.raw");
    let entry = |version: &str| {
        format!(
            "title Rocky {version}\nlinux /vmlinuz-{version}\ninitrd /initramfs-{version}.img $tuned_initrd\noptions $kernelopts $tuned_params\n"
        )
    };
    let (old, new) = (entry("5.14.0-70"), entry("5.14.0-162"));
    let environment =
        "# GRUB Environment Block\nsaved_entry=m-5.14.0-70\nkernelopts=root=/dev/mapper/rl-root ro\n#####";
    let files: [(&str, &[u8]); 6] = [
        ("grub2/grub.cfg", b"blscfg\n"),
        ("grub2/grubenv", environment.as_bytes()),
        ("loader/entries/m-5.14.0-70.conf", old.as_bytes()),
        ("loader/entries/m-5.14.0-162.conf", new.as_bytes()),
        ("vmlinuz-5.14.0-70", b"old kernel"),
        ("initramfs-5.14.0-70.img", b"old archive"),
    ];
    // No partition table: the file system starts at the first sector.
    if !ext4(&raw, 0, 8, &files) {
        return;
    }
    let (found, _copied) = find(&raw, DiskFormat::Raw).expect("found");
    assert_eq!(fs::read(&found.kernel.kernel).expect("copied"), b"old kernel");
    assert_eq!(found.kernel.cmdline, "root=/dev/mapper/rl-root ro");
    assert!(found.chosen.contains("left out: $tuned_params"), "{}", found.chosen);
}

#[test]
fn without_a_configuration_the_newest_kernel_is_taken_with_this_file_system_as_root() {
    let folder = tempfile::tempdir().expect("folder");
    let raw = folder.path().join("disk.raw");
    let files: [(&str, &[u8]); 4] = [
        ("etc/fstab", b""),
        ("boot/vmlinuz-6.1.0-9-amd64", b"nine"),
        ("boot/vmlinuz-6.1.0-10-amd64", b"ten"),
        ("boot/initrd.img-6.1.0-10-amd64", b"archive"),
    ];
    if !ext4(&raw, 0, 8, &files) {
        return;
    }
    let (found, _copied) = find(&raw, DiskFormat::Raw).expect("found");
    assert_eq!(fs::read(&found.kernel.kernel).expect("copied"), b"ten");
    assert!(
        found.kernel.cmdline.starts_with("root=UUID="),
        "{}",
        found.kernel.cmdline
    );
}

#[test]
fn paths_and_links_of_a_guest_never_leave_its_file_system() {
    let folder = tempfile::tempdir().expect("folder");
    let raw = folder.path().join("disk.raw");
    let config = "menuentry x {\n linux /../../../../etc/passwd\n}\n";
    let files: [(&str, &[u8]); 2] = [("boot/grub/grub.cfg", config.as_bytes()), ("boot/other", b"")];
    if !ext4(&raw, 0, 8, &files) {
        return;
    }
    let error = find(&raw, DiskFormat::Raw).expect_err("no such file in the guest");
    assert!(error.contains("/etc/passwd"), "{error}");

    let linked = folder.path().join("linked.raw");
    let config = "menuentry x {\n linux /boot/vmlinuz\n}\n";
    let files: [(&str, &[u8]); 2] = [
        ("boot/grub/grub.cfg", config.as_bytes()),
        ("boot/vmlinuz->", b"../../../../../etc/passwd"),
    ];
    if !ext4(&linked, 0, 8, &files) {
        return;
    }
    let error = find(&linked, DiskFormat::Raw).expect_err("the link leads nowhere in the guest");
    assert!(error.contains("/boot/vmlinuz"), "{error}");
}

#[test]
fn a_kernel_larger_than_any_kernel_is_refused_without_filling_the_host() {
    let folder = tempfile::tempdir().expect("folder");
    let raw = folder.path().join("disk.raw");
    let config = "menuentry x {\n linux /boot/vmlinuz\n}\n";
    let files: [(&str, &[u8]); 2] = [("boot/grub/grub.cfg", config.as_bytes()), ("boot/vmlinuz", b"x")];
    if !ext4(&raw, 0, 16, &files) {
        return;
    }
    // A sparse file of 900 GiB in a file system of 16 MiB.
    let disk = raw.display().to_string();
    if !tool("debugfs", &["-w", "-R", "sif /boot/vmlinuz size 966367641600", &disk]) {
        return;
    }
    let copied = tempfile::tempdir().expect("folder");
    let error = direct::find(&[(raw, DiskFormat::Raw)], copied.path()).expect_err("too large");
    assert!(error.to_string().contains("larger than"), "{error}");
    let kernel = fs::metadata(copied.path().join("guest-kernel")).map_or(0, |metadata| metadata.len());
    assert!(kernel <= 256 << 20, "{kernel} bytes were written");
}

#[test]
fn disks_without_a_readable_kernel_say_what_is_on_them() {
    let folder = tempfile::tempdir().expect("folder");
    let raw = folder.path().join("disk.raw");
    let mut bytes = vec![0; 4 << 20];
    bytes[1 << 20..(1 << 20) + 4].copy_from_slice(b"XFSB");
    fs::write(&raw, bytes).expect("write");
    mbr(&raw, 4096);
    let error = find(&raw, DiskFormat::Raw).expect_err("nothing to boot");
    assert!(error.contains("XFS") && error.contains("--engine qemu"), "{error}");
}

/// The sample guest's disks as qcow2, made by a tool that is not ours: without its data disk it ends in an emergency shell.
fn debian(folder: &Path) -> Option<Vec<PathBuf>> {
    let Some(guest) = std::env::var_os("ESXODUS_DEMO_GUEST").map(PathBuf::from) else {
        println!("SKIP: ESXODUS_DEMO_GUEST does not name a folder with the sample guest (scripts/demo-guest.sh)");
        return None;
    };
    let converted = ["demo", "demo_1"].map(|name| {
        let disk = folder.join(format!("{name}.qcow2"));
        let source = guest.join(format!("{name}.vmdk")).display().to_string();
        tool(
            "qemu-img",
            &["convert", "-O", "qcow2", &source, &disk.display().to_string()],
        )
        .then_some(disk)
    });
    converted.into_iter().collect()
}

#[test]
fn a_debian_disk_boots_to_its_login_in_qemu_by_the_kernel_found_on_it() {
    if let Err(error) = Qemu.version() {
        println!("SKIP: {error}");
        return;
    }
    let folder = tempfile::Builder::new().tempdir_in("/var/tmp").expect("folder");
    let Some(disks) = debian(folder.path()) else { return };
    let images: Vec<_> = disks.iter().map(|disk| (disk.clone(), DiskFormat::Qcow2)).collect();
    let mut found = direct::find(&images, folder.path()).expect("a kernel");
    println!("{}", found.chosen);
    assert!(found.chosen.contains("/boot/grub/grub.cfg"), "{}", found.chosen);
    found.kernel.cmdline = direct::with_console(&found.kernel.cmdline);
    let spec = VmSpec {
        name: "debian".into(),
        topology: Topology::flat(2),
        memory_mib: 512,
        machine: MachineModel::Q35,
        firmware: FirmwareSpec::Bios,
        kernel: Some(found.kernel),
        disks: disks
            .into_iter()
            .map(|path| DiskSpec {
                path,
                format: DiskFormat::Qcow2,
                bus: DiskBus::VirtioBlk,
                serial: None,
                snapshot: true,
                cache: DiskCache::Unsafe,
            })
            .collect(),
        nics: Vec::new(),
        uuid: None,
        display: false,
        agent: false,
        rtc_local: false,
        accelerator: Accelerator::Tcg,
        scratch: folder.path().to_owned(),
    };
    let mut vm = Qemu.start(&spec).expect("starts");
    let end = Instant::now() + Duration::from_secs(400);
    loop {
        if vm.console().partial().text.contains("demo login:") {
            break;
        }
        let lines = || {
            vm.console()
                .lines(0)
                .iter()
                .map(|line| line.text.clone())
                .collect::<Vec<_>>()
        };
        assert!(Instant::now() < end, "no login: {:?}", lines());
        if let Some(ended) = vm.ended() {
            panic!("ended: {} {:?}", ended.detail, vm.console().lines(0));
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    vm.kill();
}

#[test]
fn a_kernel_that_only_linux_can_read_comes_through_the_appliance_and_no_link_leads_out_of_the_guest() {
    let missing = Qemu
        .version()
        .err()
        .or_else(|| appliance::kernel().err())
        .or_else(|| appliance::agent_binary().err());
    if let Some(reason) = missing {
        println!("SKIP: {reason}");
        return;
    }
    static NEVER: AtomicBool = AtomicBool::new(false);
    let folder = tempfile::tempdir().expect("folder");
    let kernel: Vec<u8> = (0..3_u32 << 18).flat_map(u32::to_le_bytes).collect();
    let tree = tree(&[
        ("etc/os-release", b"ID=suse\nPRETTY_NAME=layout\n"),
        ("etc/fstab", b"/dev/sda / btrfs defaults 0 0\n"),
        ("boot/grub2/grub.cfg", GRUB.as_bytes()),
        ("boot/vmlinuz-6.1.real", &kernel),
        ("boot/vmlinuz-6.1->", b"/boot/vmlinuz-6.1.real"),
        ("boot/ucode.img", b"microcode"),
        ("boot/initrd.img-6.1", b"archive"),
        // There is such a file in the appliance.
        ("boot/outside->", b"../../../../../init"),
    ]);
    let disk = folder.path().join("disk.raw");
    fs::File::create(&disk)
        .and_then(|file| file.set_len(160 << 20))
        .expect("disk");
    let arguments = [
        "-q",
        "--rootdir",
        &tree.path().display().to_string(),
        &disk.display().to_string(),
    ];
    if !tool("mkfs.btrfs", &arguments) {
        return;
    }
    let disks = [(disk, DiskFormat::Raw)];
    let mut started = 0;
    let mut start = || {
        started += 1;
        let deadline = Duration::from_secs(180);
        let mut appliance = Appliance::start(&Qemu, Accelerator::Tcg, &disks, folder.path(), deadline, &NEVER)?;
        appliance.inspect(&NEVER)?;
        let outside = appliance.guest_file("/boot/outside", 0, 1, &NEVER);
        assert!(outside.is_err(), "a file of the appliance: {outside:?}");
        Ok(appliance)
    };
    let found = direct::find_anywhere(&disks, folder.path(), &mut start, &NEVER).expect("found");
    assert_eq!(started, 1);
    assert_eq!(fs::read(&found.kernel.kernel).expect("copied"), kernel);
    let initrd = fs::read(found.kernel.initrd.expect("an initrd")).expect("copied");
    assert_eq!(initrd, b"microcode\0\0\0archive");
    assert!(found.chosen.contains("btrfs"), "{}", found.chosen);
    assert!(
        found.kernel.cmdline.starts_with("root=UUID="),
        "{}",
        found.kernel.cmdline
    );
}
