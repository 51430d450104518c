//! Real guests under QEMU TCG. Each has a deadline; what cannot run on this machine says why and passes.

#[cfg(test)]
mod guests {
    use agent::protocol::FixupWish;
    use convert::machine::Machine;
    use esxodus_runner::appliance::{Appliance, agent_binary, appliance_kernel, kernel};
    use esxodus_runner::engine::{AccelWish, Accelerator, DirectKernel, DiskFormat, Engine, EngineWish, choose};
    use esxodus_runner::fixup::FixupOutcome;
    use esxodus_runner::probe::ProbeReport;
    use esxodus_runner::proof::{BenchWish, InTurn, MeasureGuest, ProveDisk, ProveOutcome, ProveRequest, prove};
    use esxodus_runner::qemu::{Qemu, overlay};
    use reports::schema::{BenchRecord, DeepFacts, Place, ProofVerdict, Suite};
    use std::path::{Path, PathBuf};
    use std::process::Command;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
    use std::time::Duration;

    static NEVER: AtomicBool = AtomicBool::new(false);

    /// `false` and a line that says why, where guests cannot run.
    fn can_run() -> bool {
        let reason = Qemu
            .version()
            .err()
            .or_else(|| kernel().err())
            .or_else(|| agent_binary().err());
        if let Some(reason) = &reason {
            eprintln!("SKIP: {reason}");
        }
        reason.is_none()
    }

    fn ok(command: &mut Command) -> bool {
        command.output().is_ok_and(|output| output.status.success())
    }

    fn machine() -> Machine {
        let text = b"displayName = \"tiny\"\nguestOS = \"otherlinux-64\"\nmemSize = \"256\"\n";
        let file = convert::vmx::parse(text).expect("a plain VMX");
        convert::machine::from_vmx::build(&file, Path::new("tiny.vmx"))
            .expect("a plain machine")
            .0
    }

    /// Proves a guest of `kernel` (or of the disk itself) whose only disk holds `content`.
    fn proved(folder: &Path, content: &[u8], kernel: Option<DirectKernel>, timeout: u64) -> ProveOutcome {
        proved_and(folder, content, kernel, timeout, |_| {})
    }

    fn proved_and(
        folder: &Path,
        content: &[u8],
        kernel: Option<DirectKernel>,
        timeout: u64,
        change: impl FnOnce(&mut ProveRequest),
    ) -> ProveOutcome {
        let disk = folder.join("disk.raw");
        std::fs::write(&disk, content).expect("temporary disk");
        let disks = vec![ProveDisk {
            path: disk,
            format: DiskFormat::Raw,
        }];
        let choice = choose(EngineWish::Qemu, AccelWish::Tcg, &ProbeReport::default()).expect("TCG is always there");
        let mut request = ProveRequest {
            timeout: Duration::from_secs(timeout),
            inject_agent: false,
            kernel,
            ..ProveRequest::new(machine(), disks, folder, choice)
        };
        change(&mut request);
        prove(&request, &convert::progress::Silent, &NEVER).expect("the proof can be tried")
    }

    /// An initramfs of busybox and the agent with `init` as its script.
    fn initramfs(folder: &Path, init: &str) -> Option<PathBuf> {
        let root = folder.join("root");
        std::fs::create_dir_all(root.join("bin")).expect("temporary folder");
        if std::fs::copy("/bin/busybox", root.join("bin/busybox")).is_err() {
            eprintln!("SKIP: busybox-static is not installed");
            return None;
        }
        std::fs::copy(agent_binary().expect("checked before"), root.join("bin/agent")).expect("temporary folder");
        std::fs::write(root.join("init"), init).expect("temporary folder");
        // What the agent calls where there is no systemd.
        let off = "#!/bin/busybox sh\nexec /bin/busybox poweroff -f\n";
        std::fs::write(root.join("bin/poweroff"), off).expect("temporary folder");
        let image = folder.join("initrd");
        let pack = format!(
            "chmod +x init bin/poweroff; find . | cpio -o -H newc --quiet > {}",
            image.display()
        );
        let packed = ok(Command::new("sh").args(["-c", &pack]).current_dir(&root));
        if !packed {
            eprintln!("SKIP: cpio is not installed");
        }
        packed.then_some(image)
    }

    /// One appliance for all of it: starting one is what costs.
    #[test]
    fn the_appliance_fixes_a_root_up_takes_it_back_and_opens_luks_with_the_right_key_only() {
        if !can_run() {
            return;
        }
        let folder = tempfile::tempdir().expect("temporary folder");
        let tree = folder.path().join("tree");
        for name in ["etc", "boot/efi", "lib/systemd"] {
            std::fs::create_dir_all(tree.join(name)).expect("temporary folder");
        }
        let fstab =
            "/dev/sda / ext4 defaults 0 1\n/dev/sdb /srv xfs noauto 0 0\nLABEL=ESP /boot/efi vfat umask=0077 0 1\n";
        for (name, text) in [
            ("etc/os-release", "ID=debian\nPRETTY_NAME=\"Debian 12\"\n"),
            ("etc/fstab", fstab),
            ("etc/modules", "vmw_balloon\n"),
            ("lib/systemd/systemd-udevd", ""),
        ] {
            std::fs::write(tree.join(name), text).expect("temporary file");
        }
        let (root, locked) = (folder.path().join("root.raw"), folder.path().join("locked.raw"));
        let (key, wrong) = (b"correct horse".as_slice(), b"battery staple".as_slice());
        std::fs::write(folder.path().join("key"), key).expect("temporary file");
        std::fs::write(&locked, vec![0; 32 << 20]).expect("temporary file");
        let made = ok(Command::new("mkfs.ext4")
            .args(["-q", "-d"])
            .arg(&tree)
            .arg(&root)
            .arg("32M"));
        let format = [
            "luksFormat",
            "-q",
            "--type",
            "luks1",
            "--pbkdf-force-iterations",
            "1000",
            "--key-file",
        ];
        let sealed = ok(Command::new("cryptsetup")
            .args(format)
            .arg(folder.path().join("key"))
            .arg(&locked));
        // An EFI system partition as `grub-install` leaves it on Debian: nothing where firmware without boot entries looks.
        let esp = folder.path().join("esp.raw");
        std::fs::write(&esp, vec![0; 40 << 20]).expect("temporary file");
        let loader: Vec<u8> = (0..300_000_u32).map(|number| (number % 251) as u8).collect();
        std::fs::write(folder.path().join("loader"), &loader).expect("temporary file");
        let parted = ok(Command::new("mkfs.vfat").args(["-F", "32", "-n", "ESP"]).arg(&esp))
            && ok(Command::new("mmd").arg("-i").arg(&esp).args(["::EFI", "::EFI/debian"]))
            && ok(Command::new("mcopy")
                .arg("-i")
                .arg(&esp)
                .arg(folder.path().join("loader"))
                .arg("::EFI/debian/grubx64.efi"));
        if !made || !sealed || !parted {
            eprintln!(
                "SKIP: mkfs.ext4 (e2fsprogs), cryptsetup (cryptsetup-bin), mkfs.vfat (dosfstools) or mcopy (mtools) is not installed"
            );
            return;
        }
        let disks = [root.clone(), locked, esp.clone()].map(|disk| (disk, DiskFormat::Raw));
        let deadline = Duration::from_secs(120);
        let mut appliance =
            Appliance::start(&Qemu, Accelerator::Tcg, &disks, folder.path(), deadline, &NEVER).expect("it answers");
        let deep = |appliance: &mut Appliance| -> DeepFacts {
            let value = appliance.inspect(&NEVER).expect("inspection");
            serde_json::from_value(value["deep"].clone()).expect("typed facts")
        };
        let found = deep(&mut appliance);
        assert_eq!(
            (found.systems[0].id.as_str(), found.volumes.len()),
            ("debian", 3),
            "{found:?}"
        );
        assert!(
            found.volumes[0].free_bytes.is_some() && found.volumes[0].uuid.is_some(),
            "{found:?}"
        );
        assert_eq!(found.volumes[1].content.as_deref(), Some("luks"));
        let loaders: Vec<_> = found.volumes.iter().map(|volume| volume.fallback_loader).collect();
        assert_eq!(loaders, [None, None, Some(false)], "{found:?}");
        assert!(found.volumes[0].free_inodes.is_some(), "{found:?}");
        assert_eq!(
            appliance.unlock(wrong, &NEVER).expect("an answer").len(),
            1,
            "a wrong key opens nothing"
        );
        assert!(appliance.unlock(key, &NEVER).expect("an answer").is_empty());
        let found = deep(&mut appliance);
        assert!(
            found.volumes.iter().any(|volume| volume.device == "luks-vdb"),
            "{found:?}"
        );

        let wish = FixupWish::default();
        let done: FixupOutcome =
            serde_json::from_value(appliance.fixup(wish.clone(), &NEVER).expect("fix-up")).expect("typed changes");
        let paths: Vec<&str> = done.changes.iter().map(|change| change.path.as_str()).collect();
        let fallback = "/boot/efi/EFI/BOOT/BOOTX64.EFI";
        assert_eq!(paths, ["/etc/fstab", fallback, "/etc/modules"], "{done:?}");
        assert!(done.changes[0].after.starts_with("UUID="), "{done:?}");
        assert!(
            done.changes[0].after.contains("/dev/sdb /srv xfs"),
            "what lies there is no XFS: {done:?}"
        );
        let again: FixupOutcome =
            serde_json::from_value(appliance.fixup(wish, &NEVER).expect("fix-up")).expect("typed");
        assert!(again.changes.is_empty(), "{again:?}");
        let seen = deep(&mut appliance).volumes;
        let partition = seen
            .iter()
            .find(|volume| volume.device == "vdc")
            .expect("the partition");
        assert_eq!(partition.fallback_loader, Some(true), "the copy is seen");
        let undone = appliance
            .undo(done.changes, Some("vda".into()), false, &NEVER)
            .expect("undo");
        assert_eq!(undone["changes"].as_array().map(Vec::len), Some(3), "{undone}");
        let again: FixupOutcome =
            serde_json::from_value(appliance.fixup(FixupWish::default(), &NEVER).expect("fix-up")).expect("typed");
        let put: Vec<_> = again
            .changes
            .into_iter()
            .filter(|change| change.path != fallback)
            .collect();
        appliance.undo(put, Some("vda".into()), false, &NEVER).expect("undo");
        appliance.stop(&NEVER).expect("power-off");
        let copy = folder.path().join("copy");
        assert!(ok(Command::new("mcopy")
            .arg("-i")
            .arg(&esp)
            .arg("::EFI/BOOT/BOOTX64.EFI")
            .arg(&copy)));
        assert!(
            std::fs::read(&copy).expect("the copy") == loader,
            "every byte, on the disk"
        );
        assert!(
            ok(Command::new("fsck.vfat").arg("-n").arg(&esp)),
            "the partition is whole"
        );
        let text = Command::new("debugfs")
            .args(["-R", "cat /etc/fstab"])
            .arg(&root)
            .output()
            .expect("debugfs");
        assert_eq!(String::from_utf8_lossy(&text.stdout), fstab);
        assert!(
            ok(Command::new("fsck.ext4").args(["-f", "-n"]).arg(&root)),
            "the file system is whole"
        );
    }

    /// A hive with nothing but a root key (`regf` 1.3); everything else is hivex's work.
    fn empty_hive() -> Vec<u8> {
        let mut hive = vec![0_u8; 0x2000];
        let mut put = |at: usize, bytes: &[u8]| hive[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, b"regf");
        for (at, word) in [
            (4, 1_u32),
            (8, 1),
            (0x14, 1),
            (0x18, 3),
            (0x20, 1),
            (0x24, 0x20),
            (0x28, 0x1000),
            (0x2c, 1),
        ] {
            put(at, &word.to_le_bytes());
        }
        put(0x1000, b"hbin");
        put(0x1008, &0x1000_u32.to_le_bytes());
        put(0x1020, &(-0x58_i32).to_le_bytes());
        put(0x1024, b"nk");
        put(0x1026, &0x2c_u16.to_le_bytes());
        for at in [0x1034, 0x1040, 0x1044, 0x104c, 0x1054] {
            put(at, &u32::MAX.to_le_bytes());
        }
        put(0x1050, &0x78_u32.to_le_bytes());
        put(0x106c, &4_u16.to_le_bytes());
        put(0x1070, b"ROOT");
        put(0x1078, &(-0x30_i32).to_le_bytes());
        put(0x107c, b"sk");
        for (at, word) in [(0x1080, 0x78_u32), (0x1084, 0x78), (0x1088, 1), (0x108c, 0x14)] {
            put(at, &word.to_le_bytes());
        }
        put(0x1090, &[1, 0, 0, 0x80]);
        put(0x10a8, &(0x1000_i32 - 0xa8).to_le_bytes());
        let sum = hive[..0x1fc].chunks(4).fold(0_u32, |sum, word| {
            sum ^ u32::from_le_bytes(word.try_into().expect("four bytes"))
        });
        hive[0x1fc..0x200].copy_from_slice(&sum.to_le_bytes());
        hive
    }

    fn hive(path: &Path, script: &str) -> bool {
        std::fs::write(path, empty_hive()).expect("temporary file");
        let commands = path.with_extension("hivexsh");
        std::fs::write(&commands, script).expect("temporary file");
        let done = ok(Command::new("hivexsh").arg("-w").arg("-f").arg(&commands).arg(path));
        std::fs::remove_file(commands).expect("temporary file");
        done
    }

    #[test]
    fn the_appliance_reads_windows_from_ntfs_by_its_registry_and_says_why_it_is_not_shut_down() {
        if !can_run() {
            return;
        }
        let folder = tempfile::tempdir().expect("temporary folder");
        let tree = folder.path().join("tree");
        let config = tree.join("Windows/System32/config");
        std::fs::create_dir_all(&config).expect("temporary folder");
        std::fs::create_dir_all(tree.join("Program Files/VMware/VMware Tools")).expect("temporary folder");
        std::fs::write(tree.join("bootmgr"), "").expect("temporary file");
        let software = "add Microsoft\ncd Microsoft\nadd Windows NT\ncd Windows NT\nadd CurrentVersion\ncd CurrentVersion\nsetval 4\nProductName\nstring:Windows Server 2022 Standard\nCurrentMajorVersionNumber\ndword:10\nCurrentMinorVersionNumber\ndword:0\nCurrentBuild\nstring:20348\ncd \\\nadd Policies\ncd Policies\nadd Microsoft\ncd Microsoft\nadd Windows\ncd Windows\nadd DeviceInstall\ncd DeviceInstall\nadd Restrictions\ncd Restrictions\nsetval 2\nDenyUnspecified\ndword:1\nDenyDeviceIDs\ndword:0\ncommit\n";
        let system = "add Select\nadd ControlSet001\ncd Select\nsetval 1\nCurrent\ndword:1\ncd \\ControlSet001\nadd Services\ncd Services\nadd VSS\ncd VSS\nsetval 1\nStart\ndword:4\ncd ..\nadd Spooler\ncd Spooler\nsetval 1\nStart\ndword:2\ncd ..\nadd vioscsi\ncd vioscsi\nsetval 1\nStart\ndword:0\ncd ..\nadd partmgr\ncd partmgr\nadd Parameters\ncd Parameters\nsetval 1\nSanPolicy\ndword:3\ncd \\ControlSet001\nadd Control\ncd Control\nadd Session Manager\ncd Session Manager\nadd Power\ncd Power\nsetval 1\nHiberbootEnabled\ndword:1\ncommit\n";
        if !hive(&config.join("SOFTWARE"), software) || !hive(&config.join("SYSTEM"), system) {
            eprintln!("SKIP: hivexsh (libhivex-bin) is not installed");
            return;
        }
        let wim = folder.path().join("tree.wim");
        let memory_image = folder.path().join("hiberfil.sys");
        std::fs::write(&memory_image, b"hibr and then memory").expect("temporary file");
        let clean = folder.path().join("clean.raw");
        let (asleep, dirty) = (folder.path().join("asleep.raw"), folder.path().join("dirty.raw"));
        let file = std::fs::File::create(&clean).expect("temporary file");
        file.set_len(64 << 20).expect("sparse");
        let made = ok(Command::new("mkntfs").args(["-q", "-F", "-f"]).arg(&clean))
            && ok(Command::new("wimlib-imagex")
                .arg("capture")
                .arg(&tree)
                .arg(&wim)
                .args(["--compress=none", "--no-acls"]))
            && ok(Command::new("wimlib-imagex")
                .arg("apply")
                .arg(&wim)
                .arg("1")
                .arg(&clean));
        if !made {
            eprintln!("SKIP: mkntfs (ntfs-3g) or wimlib-imagex (wimtools) is not installed");
            return;
        }
        std::fs::copy(&clean, &asleep).expect("temporary file");
        std::fs::copy(&clean, &dirty).expect("temporary file");
        assert!(ok(Command::new("ntfscp")
            .arg("-f")
            .arg(&asleep)
            .arg(&memory_image)
            .arg("hiberfil.sys")));
        // Without -d it leaves the mark by which Windows checks the volume at its next start.
        assert!(ok(Command::new("ntfsfix").arg(&dirty)));
        let disks = [clean, asleep, dirty].map(|path| (path, DiskFormat::Raw));
        let deadline = Duration::from_secs(120);
        let mut appliance =
            Appliance::start(&Qemu, Accelerator::Tcg, &disks, folder.path(), deadline, &NEVER).expect("it answers");
        let value = appliance.inspect(&NEVER).expect("inspection");
        let found: DeepFacts = serde_json::from_value(value["deep"].clone()).expect("typed facts");
        let states: Vec<_> = found.volumes.iter().map(|volume| volume.state.as_deref()).collect();
        assert_eq!(states, [None, Some("fast-startup"), Some("dirty")], "{found:?}");
        assert_eq!(found.systems.len(), 3, "{found:?}");
        for (system, device) in found.systems.iter().zip(["vda", "vdb", "vdc"]) {
            assert_eq!(
                (system.name.as_str(), system.version.as_str(), system.device.as_str()),
                ("Windows Server 2022 Standard", "10.0.20348", device)
            );
            assert!(system.vmware_tools.is_some() && system.boot_loader.as_deref() == Some("bootmgr"));
            let services: Vec<_> = system
                .services
                .iter()
                .map(|(name, start)| (name.as_str(), start.as_str()))
                .collect();
            assert_eq!(services, [("VSS", "disabled"), ("vioscsi", "boot")]);
            assert_eq!(system.san_policy, Some(3));
            assert_eq!(system.driver_policies, ["DenyUnspecified"]);
        }
        let why = found.systems[1].hibernation.clone().unwrap_or_default();
        assert!(
            why.contains("Fast Startup") && found.systems[0].hibernation.is_none(),
            "{found:?}"
        );
        appliance.stop(&NEVER).expect("power-off");
    }

    #[test]
    fn the_appliance_finds_a_root_and_puts_the_agent_into_the_overlay_only() {
        if !can_run() {
            return;
        }
        let folder = tempfile::tempdir().expect("temporary folder");
        let tree = folder.path().join("tree");
        for name in ["etc/systemd/system", "lib/systemd", "boot"] {
            std::fs::create_dir_all(tree.join(name)).expect("temporary folder");
        }
        std::fs::write(tree.join("etc/os-release"), "ID=debian\nVERSION_ID=\"12\"\n").expect("temporary file");
        std::fs::write(tree.join("lib/systemd/systemd"), "").expect("temporary file");
        std::fs::write(tree.join("boot/vmlinuz-6.1.0"), "").expect("temporary file");
        // A link that would lead out of the guest if it were followed from outside.
        std::os::unix::fs::symlink("/proc/self/environ", tree.join("etc/hostname")).expect("temporary link");
        let disk = folder.path().join("disk.raw");
        if !ok(Command::new("mkfs.ext4")
            .args(["-q", "-d"])
            .arg(&tree)
            .arg(&disk)
            .arg("32M"))
        {
            eprintln!("SKIP: mkfs.ext4 (e2fsprogs) is not installed");
            return;
        }
        let before = std::fs::read(&disk).expect("the disk");
        let over = overlay(&disk, DiskFormat::Raw, folder.path(), "over").expect("an overlay");
        let disks = [(over.clone(), DiskFormat::Qcow2)];
        let mut appliance = Appliance::start(
            &Qemu,
            Accelerator::Tcg,
            &disks,
            folder.path(),
            Duration::from_secs(120),
            &NEVER,
        )
        .expect("the appliance answers");
        eprintln!("appliance up after {:?}", appliance.started_in);
        let found = appliance.inspect(&NEVER).expect("inspection");
        assert_eq!(found["roots"][0]["os"]["id"], "debian", "{found}");
        assert_eq!(found["roots"][0]["kernels"][0], "vmlinuz-6.1.0", "{found}");
        assert!(
            found["roots"][0]["hostname"].is_null(),
            "nothing of the appliance leaks through a link: {found}"
        );
        let injected = appliance.inject(&NEVER).expect("injection");
        assert_eq!(injected["service"], "/etc/systemd/system/esxodus-agent.service");
        appliance.stop(&NEVER).expect("power-off");
        assert!(
            std::fs::read(&disk).expect("the disk") == before,
            "the real disk is untouched"
        );
        let merged = folder.path().join("merged.raw");
        assert!(ok(Command::new("qemu-img")
            .args(["convert", "-O", "raw"])
            .arg(&over)
            .arg(&merged)));
        let listing = Command::new("debugfs")
            .args(["-R", "stat /.esxodus/esxodus-agent"])
            .arg(&merged)
            .output()
            .expect("debugfs");
        let size = std::fs::metadata(agent_binary().expect("checked before"))
            .expect("the agent")
            .len();
        let listing = String::from_utf8_lossy(&listing.stdout).into_owned();
        assert!(
            listing.contains(&format!("Size: {size}")) && listing.contains("Mode:  0755"),
            "{listing}"
        );
    }

    #[test]
    fn a_tiny_guest_is_proven_by_its_agent_on_the_second_uart_and_measured_in_turn_with_the_host() {
        if !can_run() {
            return;
        }
        let folder = tempfile::tempdir().expect("temporary folder");
        let init = "#!/bin/busybox sh\nB=/bin/busybox; $B mkdir -p /proc /sys /dev\n$B mount -t proc p /proc; $B mount -t sysfs s /sys; \
                    $B mount -t devtmpfs d /dev\n$B mkdir -p /var/tmp\necho 'INIT: version tiny'\n/bin/agent guest\n$B poweroff -f\n";
        let Some(initrd) = initramfs(folder.path(), init) else {
            return;
        };
        let direct = DirectKernel {
            kernel: kernel().expect("checked before"),
            initrd: Some(initrd),
            cmdline: "console=ttyS0".into(),
        };
        let only = "cpu.integer.single";
        let turns = Arc::new(AtomicUsize::new(0));
        let seen = Arc::clone(&turns);
        let host = move || -> BenchRecord {
            seen.fetch_add(1, Ordering::Relaxed);
            let output = Command::new(agent_binary().expect("checked before"))
                .args(["bench", "--only", only, "--budget", "2"])
                .output()
                .expect("the agent starts");
            serde_json::from_slice(&output.stdout).expect("a record")
        };
        let in_turn = move |guest: MeasureGuest<'_>| {
            let first = (host(), guest()?);
            let inside = guest()?;
            Ok(vec![first, (host(), inside)])
        };
        let outcome = proved_and(folder.path(), &[0; 4096], Some(direct), 120, |request| {
            request.bench = Some(BenchWish {
                budget_seconds: Some(2),
                only: vec![only.to_owned()],
                ..BenchWish::new(Suite::Quick)
            });
            request.in_turn = Some(InTurn(Arc::new(in_turn)));
        });
        let record = outcome.record;
        assert_eq!(record.verdict, ProofVerdict::Proven, "{record:?}");
        assert_eq!(turns.load(Ordering::Relaxed), 2, "{:?}", outcome.bench_missing);
        let engines: Vec<_> = outcome
            .turns
            .iter()
            .map(|(host, guest)| (host.engine.is_some(), guest.engine.is_some(), guest.place))
            .collect();
        assert_eq!(engines, [(false, true, Place::Guest); 2], "{:?}", outcome.bench_missing);
        let speed = |record: &BenchRecord| {
            record
                .metrics
                .iter()
                .find(|metric| metric.id == only)
                .map(|metric| metric.summary.median)
        };
        assert!(
            outcome
                .turns
                .iter()
                .all(|(host, guest)| speed(host) > speed(guest) && speed(guest) > Some(0.0)),
            "an emulated CPU is slower"
        );
        let names: Vec<&str> = record
            .milestones
            .iter()
            .map(|milestone| milestone.name.as_str())
            .collect();
        assert!(
            ["kernel", "init", "agent"].iter().all(|name| names.contains(name)),
            "{names:?}"
        );
        assert_eq!(record.disks_before, record.disks_after);
        assert!(record.guest.is_some_and(|guest| guest["kernel"].is_string()));
        assert!(
            record
                .evidence
                .iter()
                .all(|evidence| folder.path().join(&evidence.file).is_file())
        );
    }

    #[test]
    fn a_guest_without_its_root_is_told_as_a_panic_with_the_kernels_words() {
        if !can_run() {
            return;
        }
        let folder = tempfile::tempdir().expect("temporary folder");
        let cmdline = "console=ttyS0 root=/dev/vda9".to_owned();
        let direct = DirectKernel {
            kernel: kernel().expect("checked before"),
            initrd: None,
            cmdline,
        };
        let record = proved(folder.path(), &[0; 4096], Some(direct), 120).record;
        assert_eq!(record.verdict, ProofVerdict::Failed, "{record:?}");
        assert!(record.reason.contains("Unable to mount root fs"), "{}", record.reason);
        assert!(!record.advice.is_empty());
    }

    #[test]
    fn a_hung_guest_ends_at_its_deadline_and_is_not_called_a_panic() {
        if !can_run() {
            return;
        }
        let folder = tempfile::tempdir().expect("temporary folder");
        // A boot sector that loops for ever: jmp $.
        let mut disk = vec![0_u8; 1 << 20];
        disk[..2].copy_from_slice(&[0xeb, 0xfe]);
        disk[510..512].copy_from_slice(&[0x55, 0xaa]);
        let record = proved(folder.path(), &disk, None, 8).record;
        assert_eq!(record.verdict, ProofVerdict::Failed, "{record:?}");
        assert!(
            record.reason.contains("hangs") && record.reason.contains("boot-loader"),
            "{}",
            record.reason
        );
        assert!(
            record
                .evidence
                .iter()
                .any(|evidence| evidence.file.ends_with("last.png"))
        );
    }

    #[test]
    fn an_empty_disk_is_told_as_no_boot_loader() {
        if !can_run() {
            return;
        }
        let folder = tempfile::tempdir().expect("temporary folder");
        let record = proved(folder.path(), &[0; 1 << 20], None, 60).record;
        assert_eq!(record.verdict, ProofVerdict::Failed, "{record:?}");
        assert!(record.reason.contains("boot loader not found"), "{}", record.reason);
    }

    #[test]
    fn the_appliances_image_is_built_once() {
        if !can_run() {
            return;
        }
        let (first, second) = (appliance_kernel().expect("built"), appliance_kernel().expect("cached"));
        assert_eq!(first, second);
    }
}
