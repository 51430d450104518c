//! The own VMM against stock guests, in the nested lab.
#![expect(
    clippy::tests_outside_test_module,
    reason = "an integration test program is one test module"
)]

mod bench;
mod lab;

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use esxodus_runner::{direct, engine::DiskFormat, probe::probe_now};
use lab::{Case, CaseResult, Lab};
use reports::schema::AcceleratorClass;

/// What `/sbin/init` of the disk does: shows that it runs from the disk, writes, syncs, powers off.
const DISK_INIT: &str = r#"#!/bin/sh
B=/bin/busybox
$B mount -t proc proc /proc
$B mount -t devtmpfs dev /dev
echo "DISK-INIT $($B cat /data/original) $($B awk '$2 == "/" {print $1, $3}' /proc/mounts | $B tail -n1)"
$B mount -o remount,rw / 2>/dev/null
$B dd if=/dev/zero bs=64k count=20 2>/dev/null | $B tr '\0' 'e' >/data/big
$B md5sum /data/big
echo "from the guest" >/data/written
$B rm /data/original
$B sync
$B fstrim / 2>/dev/null
$B mount -o remount,ro /
$B poweroff -f
"#;

/// passt for level 1, which has no network of its own: an interface that leads nowhere, for passt to take its addresses from.
const PASST: &str = "$B insmod $ROOT/dummy.ko
     $B mkdir -p /etc $ROOT/tmp/www; $B chmod 1777 /tmp
     printf 'root:x:0:0::/:/bin/sh\\nnobody:x:65534:65534::/:/bin/sh\\n' >/etc/passwd
     $B ip link set lo up
     $B ip addr add 10.8.0.2/24 dev dummy0; $B ip link set dummy0 up; $B ip route add default via 10.8.0.1
     echo 'by way of passt' >$ROOT/tmp/www/page
     $B dd if=/dev/urandom of=$ROOT/tmp/www/big bs=64k count=16 2>/dev/null; $B md5sum <$ROOT/tmp/www/big
     $B httpd -p 127.0.0.1:8080 -h $ROOT/tmp/www
     PATH=/usr/bin:/bin l2 passt --by-engine --user-net";

/// A root disk for the guests: a base with busybox, and an overlay on it.
fn add_disks(lab: &mut Lab) {
    let base = lab.ext4_base(DISK_INIT);
    let overlay = lab.path("overlay.qcow2");
    let made = Command::new("qemu-img")
        .args(["create", "-q", "-f", "qcow2", "-b", "base.qcow2", "-F", "qcow2"])
        .arg(&overlay)
        .status()
        .expect("qemu-img");
    assert!(made.success());
    lab.add(&base, "disk/base.qcow2");
    lab.add(&overlay, "disk/overlay.qcow2");
}

fn cases() -> Vec<Case> {
    let case = |name, seconds, script: &str| Case {
        name,
        seconds,
        script: script.into(),
    };
    vec![
        case("boot", 50, "l2 boot"),
        // 4 GiB of RAM: the last one lies above the device hole.
        case("smp", 60, "l2 boot --topology 1,2,1 --memory 4096"),
        case(
            "root",
            70,
            "$B cp $ROOT/disk/overlay.qcow2 $ROOT/disk/second.qcow2
             L2_SECONDS=60 l2 root --disk qcow2:$ROOT/disk/overlay.qcow2,backing=$ROOT/disk/base.qcow2; code=$?
             $B cp $ROOT/disk/overlay.qcow2 $ROOT/out/; exit $code",
        ),
        case(
            "reset",
            70,
            "$B dd if=/dev/urandom of=$ROOT/tmp/a bs=64k count=128 2>/dev/null
             $B dd if=/dev/zero of=$ROOT/tmp/b bs=64k count=1 2>/dev/null
             L2_SECONDS=60 l2 reset --disk raw:$ROOT/tmp/a,ro --disk raw:$ROOT/tmp/b,queues=2; code=$?
             $B head -c 512 $ROOT/tmp/b | $B head -n1; exit $code",
        ),
        // RHEL's kernels have no virtio-mmio.
        case(
            "pci-root",
            70,
            "L2_SECONDS=60 l2 root --pci --topology 1,2,1 --disk qcow2:$ROOT/disk/second.qcow2,backing=$ROOT/disk/base.qcow2,queues=2",
        ),
        case(
            "pci-reset",
            70,
            "L2_SECONDS=60 l2 reset --pci --disk raw:$ROOT/tmp/a,ro --disk raw:$ROOT/tmp/b",
        ),
        case(
            "pci-net",
            60,
            "$B insmod $ROOT/tun.ko 2>/dev/null
             (for i in 1 2 3 4 5 6 7 8; do $B sleep 1; $B ip addr add 10.9.0.1/24 dev tap1 2>/dev/null && break; done
              $B ip link set tap1 up) &
             l2 net --pci --tap tap1",
        ),
        case(
            "pvh",
            50,
            "echo 130 >/proc/sys/vm/nr_hugepages
             L2_KERNEL=$ROOT/vmlinux l2 boot --hugepages; code=$?
             echo 0 >/proc/sys/vm/nr_hugepages; exit $code",
        ),
        case(
            "engine",
            100,
            "l2 serial --by-engine --agent-echo --disk raw:$ROOT/tmp/a; code=$?
             echo '* second guest'; l2 button --by-engine --pci --topology 2,1,1 --power-button-after 5 || code=9
             exit $code",
        ),
        case("engine-hang", 60, "L2_SECONDS=12 l2 hang --by-engine"),
        case("serial", 50, "l2 serial --agent-echo"),
        case(
            "net",
            60,
            "$B insmod $ROOT/tun.ko
             (for i in 1 2 3 4 5 6 7 8; do $B sleep 1; $B ip addr add 10.9.0.1/24 dev tap0 2>/dev/null && break; done
              $B ip link set tap0 up) &
             l2 net --tap tap0",
        ),
        case("passt", 70, PASST),
        case("button", 50, "l2 button --power-button-after 5"),
        case("reboot", 50, "l2 reboot"),
        case("panic", 50, "L2_CMDLINE=panic=0 l2 panic"),
        case("triple-fault", 50, "L2_CMDLINE='panic=-1 reboot=t' l2 reboot"),
        case("hang", 50, "L2_SECONDS=12 l2 hang"),
    ]
}

#[test]
fn stock_kernels_boot_use_their_devices_and_end_as_they_should() {
    let mut lab = match Lab::new() {
        Ok(lab) => lab,
        Err(reason) => {
            println!("SKIP: {reason}");
            return;
        }
    };
    add_disks(&mut lab);
    let mut cases = cases();
    let passt = Path::new("/usr/bin/passt");
    if passt.exists() {
        lab.add_program(passt);
    } else {
        println!("SKIP: passt is not installed, the case of its name is left out");
        cases.retain(|case| case.name != "passt");
    }
    if let Ok(only) = std::env::var("ESXODUS_LAB_CASES") {
        cases.retain(|case| only.split(',').any(|name| name == case.name));
    }
    let results = lab.run(&cases, 2);
    let mut failures = told(&cases, &results);
    if cases.iter().any(|case| case.name == "root") {
        failures.extend(check_overlay(&lab));
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

/// The same cases without a level 1, where the host's own KVM runs stock kernels.
#[test]
fn the_same_cases_pass_on_the_hosts_own_kvm_where_it_is_native() {
    let probe = probe_now(Duration::from_secs(10));
    if probe.class != AcceleratorClass::Native {
        println!("SKIP: KVM is not native here: {}", probe.sentence);
        return;
    }
    let mut lab = match Lab::new() {
        Ok(lab) => lab,
        Err(reason) => {
            println!("SKIP: {reason}");
            return;
        }
    };
    add_disks(&mut lab);
    let mut cases = cases();
    cases.retain(|case| {
        // Network devices and huge pages of the host are not a test's to change.
        let changes_host =
            case.script.contains("--tap") || case.script.contains("--user-net") || case.script.contains("nr_hugepages");
        if changes_host {
            println!("SKIP: case {} changes the host", case.name);
        }
        !changes_host
    });
    let results = lab.run_here(&cases);
    let mut failures = told(&cases, &results);
    failures.extend(check_overlay(&lab));
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

/// Prints how each case went; gives the output of those that did not go as they should.
fn told(cases: &[Case], results: &BTreeMap<&'static str, CaseResult>) -> Vec<String> {
    let mut failures = Vec::new();
    for case in cases {
        let result = &results[case.name];
        let good = judge(case.name, result);
        println!(
            "lab {:<14} {} {} {}",
            case.name,
            if good { "ok  " } else { "FAIL" },
            result.reason(),
            result.exit()["stages"]["marker"]
        );
        if !good {
            failures.push(format!("--- {}\n{}", case.name, result.output));
        }
    }
    failures
}

/// Whether the case went as it should.
fn judge(case: &str, result: &CaseResult) -> bool {
    let exit = result.exit();
    let has = |text: &str| result.output.contains(text);
    let reason = result.reason();
    let off = reason == "powered_off" && result.code == Some(0);
    match case {
        "boot" => off && has("L2-CPUS 1\n") && has("L2-CLOCK kvm-clock"),
        "smp" => {
            let kib: u64 = result
                .output
                .lines()
                .find_map(|line| line.strip_prefix("L2-MEMORY "))
                .and_then(|kib| kib.trim().parse().ok())
                .unwrap_or(0);
            off && has("L2-CPUS 2\n") && has("L2-TOPOLOGY 0 0 0 \n") && has("L2-TOPOLOGY 0 1 1 \n") && kib > 3800 << 10
        }
        "root" => off && has("DISK-INIT from the host /dev/vda ext4"),
        "reset" => {
            off && !has("L2-STILL-THERE")
                && has("L2-SAME-AFTER-RESET 1")
                && has("L2-SAME-AFTER-RESET 2")
                && has("L2-WROTE 2")
                && has("\nround 2\n")
        }
        "pci-root" => off && has("DISK-INIT from the host /dev/vda ext4") && has("L2-MESSAGES 5\n"),
        "pci-reset" => {
            off && !has("L2-STILL-THERE")
                && has("L2-SAME-AFTER-RESET 1")
                && has("L2-SAME-AFTER-RESET 2")
                && has("L2-WROTE 2")
        }
        "pci-net" => {
            off && has("L2-PING-OK") && has("L2-PING-BIG-OK") && has("L2-RNG virtio_rng.0 256") && !has("L2-MESSAGES 0")
        }
        "pvh" => off && has("L2-CLOCK kvm-clock"),
        "engine" => {
            result.code == Some(0)
                && has("AGENT-ECHO same")
                && has("L2-BUTTON 0 1")
                && has("L2-TOPOLOGY 0 0 0 \n")
                && has("L2-TOPOLOGY 1 0 1 \n")
                && result.output.matches("ENGINE-STAGES in order true").count() == 2
                && result.output.matches("ENGINE-ENDED true powered off").count() == 2
                && result.output.matches("ENGINE-EVENTS [Shutdown] running true").count() == 2
        }
        "engine-hang" => has("ENGINE-KILLED") && has("in time true") && has("stopped by the host"),
        "serial" => off && has("AGENT-ECHO same"),
        "net" => off && has("L2-PING-OK") && has("L2-PING-BIG-OK"),
        "passt" => {
            let sums: Vec<&str> = result.output.lines().filter(|line| line.ends_with("  -")).collect();
            result.code == Some(0)
                && has("L2-LEASE 10.8.0.2 10.8.0.1")
                && has("L2-FETCHED by way of passt")
                && has("ENGINE-ENDED true powered off")
                && sums.len() == 2
                && sums[0] == sums[1]
        }
        "button" => off && has("L2-RNG virtio_rng.0 256") && has("L2-BUTTON 0 1"),
        "reboot" => reason == "reset" && exit["source"] == "acpi",
        "panic" => reason == "panicked",
        "triple-fault" => reason == "triple_fault",
        "hang" => reason == "deadline",
        other => panic!("no expectation for case {other}"),
    }
}

/// A real Debian with systemd, entered by the kernel that is found on its disk: no firmware, no boot loader.
#[test]
fn a_debian_disk_boots_to_its_login_by_the_kernel_found_on_it() {
    let mut lab = match Lab::new() {
        Ok(lab) => lab,
        Err(reason) => {
            println!("SKIP: {reason}");
            return;
        }
    };
    let Some(guest) = std::env::var_os("ESXODUS_DEMO_GUEST").map(PathBuf::from) else {
        println!("SKIP: ESXODUS_DEMO_GUEST does not name a folder with the sample guest (scripts/demo-guest.sh)");
        return;
    };
    let folder = tempfile::Builder::new().tempdir_in("/var/tmp").expect("folder");
    // Without its data disk it ends in an emergency shell.
    let images = ["demo", "demo_1"].map(|name| {
        let disk = folder.path().join(format!("{name}.qcow2"));
        let converted = Command::new("qemu-img")
            .args(["convert", "-O", "qcow2"])
            .args([&guest.join(format!("{name}.vmdk")), &disk])
            .status()
            .expect("qemu-img");
        assert!(converted.success());
        (disk, DiskFormat::Qcow2)
    });
    let found = direct::find(&images, folder.path()).expect("a kernel");
    lab.add(&found.kernel.kernel, "guest/kernel");
    lab.add(found.kernel.initrd.as_ref().expect("an initrd"), "guest/initrd");
    lab.disks = images.into_iter().map(|(disk, _)| disk).collect();
    // Quiet, since each character on the console costs two exits of the lab.
    let cmdline = format!(
        "{} quiet systemd.show_status=no",
        direct::with_console(&found.kernel.cmdline)
    );
    let case = Case {
        name: "debian",
        seconds: 320,
        script: format!(
            "/bin/vmm --pci --kernel /guest/kernel --initrd /guest/initrd --memory 512 --disk raw:/dev/vdb --disk raw:/dev/vdc \
             --marker 'demo login:' --until-marker --deadline 300 --cmdline '{cmdline}'"
        ),
    };
    let result = &lab.run(&[case], 2)["debian"];
    println!("{}; login after {}", found.chosen, result.exit()["stages"]["marker"]);
    assert_eq!(result.reason(), "stopped", "{}", result.output);
    assert!(result.output.contains("demo login:"), "{}", result.output);
}

/// The host's view of what the guest wrote, by tools that are not ours.
fn check_overlay(lab: &Lab) -> Vec<String> {
    let mut failures = Vec::new();
    let folder = lab.path("out");
    let overlay = folder.join("overlay.qcow2");
    if !overlay.exists() {
        return vec!["level 1 handed back no overlay".into()];
    }
    fs::copy(lab.path("base.qcow2"), folder.join("base.qcow2")).expect("copy");
    let check = Command::new("qemu-img")
        .arg("check")
        .arg(&overlay)
        .output()
        .expect("qemu-img");
    if !check.status.success() {
        failures.push(format!(
            "qemu-img check: {}{}",
            String::from_utf8_lossy(&check.stdout),
            String::from_utf8_lossy(&check.stderr)
        ));
    }
    let raw = folder.join("after.raw");
    let converted = Command::new("qemu-img")
        .args(["convert", "-O", "raw"])
        .args([&overlay, &raw])
        .status()
        .expect("qemu-img");
    assert!(converted.success());
    let fsck = Command::new("e2fsck")
        .args(["-f", "-n"])
        .arg(&raw)
        .output()
        .expect("e2fsck");
    if !fsck.status.success() {
        failures.push(String::from_utf8_lossy(&fsck.stdout).into_owned());
    }
    let cat = |path: &str| {
        let output = Command::new("debugfs")
            .args(["-R", &format!("cat {path}")])
            .arg(&raw)
            .output()
            .expect("debugfs");
        output.stdout
    };
    if cat("/data/written") != b"from the guest\n" {
        failures.push("the overlay lacks /data/written".into());
    }
    if cat("/data/big") != vec![b'e'; 20 << 16] {
        failures.push("/data/big differs".into());
    }
    if !cat("/data/original").is_empty() {
        failures.push("/data/original was not removed".into());
    }
    failures
}
