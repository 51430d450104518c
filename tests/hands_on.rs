//! `esxodus run`: kernels and disks at hand, and what it refuses.

use crate::util::{esxodus, run_expecting, s, skip, text, tool};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The guest kernel of the cache and a small initramfs that says hello, shows what is on the first disk, and powers off.
fn guest(folder: &Path) -> Option<(PathBuf, PathBuf)> {
    guest_that(folder, "/bin/busybox echo HELLO-FROM-THE-GUEST", &[])
}

/// The same, with what it does before it powers off, and modules of that kernel that lie in its root.
fn guest_that(folder: &Path, does: &str, modules: &[&str]) -> Option<(PathBuf, PathBuf)> {
    let cache = std::env::var_os("ESXODUS_CACHE").map_or_else(
        || PathBuf::from(std::env::var_os("HOME").unwrap_or_default()).join(".cache/esxodus"),
        PathBuf::from,
    );
    let kernel = cache.join("kernel/current/vmlinuz");
    if !kernel.exists() || !Path::new("/bin/busybox").exists() {
        skip("no guest kernel in the cache or no busybox; run scripts/setup.sh");
        return None;
    }
    if Command::new("qemu-system-x86_64").arg("--version").output().is_err() {
        skip("QEMU is not installed");
        return None;
    }
    let root = folder.join("root");
    std::fs::create_dir_all(root.join("bin")).unwrap();
    std::fs::copy("/bin/busybox", root.join("bin/busybox")).unwrap();
    for module in modules {
        let name = Path::new(module).file_name().unwrap();
        std::fs::copy(
            cache.join("kernel/current/modules/kernel").join(module),
            root.join(name),
        )
        .unwrap();
    }
    std::fs::write(
        root.join("init"),
        format!("#!/bin/busybox sh\n{does}\n/bin/busybox poweroff -f\n"),
    )
    .unwrap();
    let initrd = folder.join("initrd");
    let pack = format!("chmod +x init; find . | cpio -o -H newc --quiet >{}", s(&initrd));
    let packed = Command::new("sh").args(["-c", &pack]).current_dir(&root).status();
    if !packed.is_ok_and(|status| status.success()) {
        skip("cpio is not installed");
        return None;
    }
    Some((kernel, initrd))
}

/// What `esxodus run` of that kernel under QEMU's TCG prints, on both streams; it ends with 0.
#[track_caller]
fn boot(kernel: &Path, initrd: &Path, more: &[&str]) -> (String, String) {
    let output = esxodus()
        .args(["run", "--accel", "tcg", "--kernel", s(kernel), "--initrd", s(initrd)])
        .args(["--cmdline", "console=ttyS0 quiet panic=-1"])
        .args(more)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let (stdout, stderr) = (text(&output.stdout), text(&output.stderr));
    assert_eq!(output.status.code(), Some(0), "{stdout}{stderr}");
    (stdout, stderr)
}

#[test]
fn a_kernel_alone_boots_on_the_console_and_the_end_is_reported() {
    let folder = tempfile::tempdir().unwrap();
    let Some((kernel, initrd)) = guest(folder.path()) else {
        return;
    };
    let (stdout, stderr) = boot(&kernel, &initrd, &[]);
    assert!(stdout.contains("HELLO-FROM-THE-GUEST"), "{stdout}");
    assert!(stdout.contains("the guest ended"), "{stdout}");
    assert!(stderr.contains("QEMU; TCG was asked for"), "{stderr}");
}

#[test]
fn a_guest_has_the_hosts_network_only_where_that_was_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let modules = [
        "drivers/virtio/virtio_ring.ko",
        "drivers/virtio/virtio.ko",
        "drivers/virtio/virtio_pci_legacy_dev.ko",
        "drivers/virtio/virtio_pci_modern_dev.ko",
        "drivers/virtio/virtio_pci.ko",
        "net/core/failover.ko",
        "drivers/net/net_failover.ko",
        "drivers/net/virtio_net.ko",
    ];
    let does = "B=/bin/busybox\nfor m in virtio_ring virtio virtio_pci_legacy_dev virtio_pci_modern_dev virtio_pci failover net_failover virtio_net; do $B insmod /$m.ko || $B echo NO-MODULE $m; done\n\
                $B ip link set lo up; $B ip link set eth0 up\n\
                $B udhcpc -i eth0 -n -q -t 3 -T 2 -s /bin/true && $B echo LEASE-OBTAINED || $B echo NO-LEASE";
    let Some((kernel, initrd)) = guest_that(folder.path(), does, &modules) else {
        return;
    };
    for (net, word) in [("user", "LEASE-OBTAINED"), ("none", "NO-LEASE")] {
        let (stdout, stderr) = boot(&kernel, &initrd, &["--net", net]);
        assert!(
            stdout.contains(word) && !stdout.contains("NO-MODULE"),
            "{net}: {stdout}{stderr}"
        );
    }
}

#[test]
fn an_image_that_names_a_file_of_the_host_is_refused_before_anything_runs() {
    let folder = tempfile::tempdir().unwrap();
    let disk = folder.path().join("evil.qcow2");
    if Command::new("qemu-img").arg("--version").output().is_err() {
        skip("qemu-img is not installed");
        return;
    }
    tool(
        "qemu-img",
        &[
            "create",
            "-q",
            "-f",
            "qcow2",
            "-u",
            "-b",
            "/etc/passwd",
            "-F",
            "raw",
            s(&disk),
            "1M",
        ],
    );
    let (_, stderr) = run_expecting(2, &["run", s(&disk)]);
    assert!(
        stderr.contains("/etc/passwd") && stderr.contains("--allow-path"),
        "{stderr}"
    );
}

#[test]
fn formats_and_kernels_that_cannot_be_told_are_errors_with_the_way_out() {
    let folder = tempfile::tempdir().unwrap();
    let disk = folder.path().join("disk");
    std::fs::write(&disk, vec![0; 1 << 20]).unwrap();
    let (_, stderr) = run_expecting(2, &["run", s(&disk)]);
    assert!(stderr.contains("--format"), "{stderr}");
    let (_, stderr) = run_expecting(2, &["run", s(&disk), "--format", "raw", "--direct", "--accel", "tcg"]);
    assert!(stderr.contains("no kernel was found"), "{stderr}");
    let (_, stderr) = run_expecting(2, &["run", "--initrd", "x"]);
    assert!(stderr.contains("--kernel"), "{stderr}");
}

#[test]
fn the_own_vmm_on_a_host_without_a_complete_kvm_says_what_to_use_instead() {
    let output = esxodus().args(["doctor", "--json"]).output().unwrap();
    let doctor: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    if matches!(doctor["kvm"]["class"].as_str(), Some("native" | "nested")) {
        skip("this host's KVM is complete");
        return;
    }
    let (_, stderr) = run_expecting(2, &["run", "--engine", "kvm", "--kernel", "/boot/vmlinuz"]);
    assert!(stderr.contains("--engine qemu"), "{stderr}");
}

#[test]
fn a_monitor_without_an_order_ends_with_an_error() {
    let output = esxodus().arg("vmm-monitor").stdin(Stdio::null()).output().unwrap();
    assert_eq!(output.status.code(), Some(2), "{}", text(&output.stderr));
}
