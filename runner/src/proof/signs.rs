//! What a console line means: a milestone that was reached, or why the boot failed.

use regex::Regex;
use std::sync::LazyLock;

/// Milestones in the order of a boot.
pub(crate) const ORDER: [&str; 9] = [
    "firmware",
    "boot-loader",
    "kernel",
    "root-found",
    "init",
    "login",
    "agent",
    "steady",
    "powered-off",
];

/// How certain a failure is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Certainty {
    /// Nothing comes after it.
    Final,
    /// Could still recover; decides only when nothing better is seen before the deadline.
    Likely,
}

/// What kind of failure it is: decides what the inspection can add, and what a search tries next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Cause {
    /// The firmware found nothing to boot.
    BootLoader,
    /// The boot loader did not find its own files, the kernel or the initramfs.
    Grub,
    /// The root file system was not found.
    Root,
    /// The system started and a device or mount that it needs is missing.
    Mount,
    /// Kernel panic, other than for the root.
    Panic,
    /// Windows has no driver for its boot disk.
    WindowsDisk,
}

/// A failure that was recognised.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Failure {
    pub(crate) certainty: Certainty,
    pub(crate) cause: Cause,
    pub(crate) reason: String,
    pub(crate) advice: String,
}

fn table<T>(rows: Vec<(&str, T)>) -> Vec<(Regex, T)> {
    rows.into_iter()
        .map(|(pattern, value)| (Regex::new(pattern).expect("our own pattern"), value))
        .collect()
}

static MILESTONES: LazyLock<Vec<(Regex, &'static str)>> = LazyLock::new(|| {
    table(vec![
        (
            r"SeaBIOS \(version|BdsDxe: loading Boot|UEFI Interactive Shell",
            "firmware",
        ),
        (
            r"GNU GRUB|Welcome to GRUB|Booting from 0000:7c00|BdsDxe: starting Boot|Loading Linux|SYSLINUX|ISOLINUX|^\s*Booting `|GRUB loading|systemd-boot",
            "boot-loader",
        ),
        (
            r"Linux version \d|Decompressing Linux|Command line: .*(root=|BOOT_IMAGE)",
            "kernel",
        ),
        (
            r"EXT4-fs \([^)]*\): mounted filesystem|XFS \([^)]*\): (Ending clean mount|Mounting)|BTRFS info .*(first mount|enabling|using)|VFS: Mounted root|systemd\[1\]: Switching root|Running /scripts/init-bottom",
            "root-found",
        ),
        (
            r"systemd\[1\]: (systemd .* running in system mode|Hostname set|Set hostname|Queued start job)|^INIT: version|Welcome to .*!|OpenRC .* is starting up|\] (Started|Reached target|Finished) ",
            "init",
        ),
        (r"(^|\s)\S*\s?login:\s*$", "login"),
    ])
});

type Row = (Certainty, Cause, &'static str, &'static str);

const NO_UEFI_LOADER: &str = "The boot entries of the old NVRAM are gone: the disk needs \\EFI\\BOOT\\BOOTX64.EFI, or the guest boots by BIOS (`prove --search`)";

static FAILURES: LazyLock<Vec<(Regex, Row)>> = LazyLock::new(|| {
    use Cause::{BootLoader, Grub, Mount, Panic, Root, WindowsDisk};
    use Certainty::{Final, Likely};
    table(vec![
        (
            r"Kernel panic - not syncing: (VFS: Unable to mount root fs.*)",
            (
                Final,
                Root,
                "kernel panic: $1",
                "The kernel has no driver for the disk's bus or no initramfs: run `esxodus fixup` (virtio in the initramfs), or try another bus (`prove --search`)",
            ),
        ),
        (
            r"Kernel panic - not syncing: (.*)",
            (
                Final,
                Panic,
                "kernel panic: $1",
                "Read the lines before the panic in the console log; try another CPU count, firmware or disk bus (`prove --search`)",
            ),
        ),
        (
            r"ALERT!\s+(\S+) does not exist",
            (
                Final,
                Root,
                "no root device: $1 does not exist in the initramfs",
                "The initramfs lacks the driver of the disk's bus, or the root is named by a device path that changed: run `esxodus fixup`, or try another bus (`prove --search`)",
            ),
        ),
        (
            r"^\(initramfs\)",
            (
                Final,
                Root,
                "dropped to the initramfs shell: the root file system was not mounted",
                "Run `esxodus fixup` (virtio in the initramfs), or try another bus (`prove --search`)",
            ),
        ),
        (
            r"dracut-initqueue.*(timeout|starting timeout scripts)",
            (
                Likely,
                Root,
                "no root device: dracut is waiting for it",
                "The initramfs lacks virtio drivers (host-only dracut): run `esxodus fixup`, or try SATA (`prove --search`)",
            ),
        ),
        (
            r"(dracut:/#|Entering emergency mode\. Exit the shell)",
            (
                Final,
                Root,
                "dropped to the dracut emergency shell",
                "The initramfs did not find the root: run `esxodus fixup`, or try another bus (`prove --search`)",
            ),
        ),
        (
            r"(You are in emergency mode|Give root password for maintenance|Press Enter for maintenance|Cannot open access to console, the root account is locked)",
            (
                Final,
                Mount,
                "dropped to emergency mode: $1",
                "A mount of fstab or a unit that the system needs failed: look for `Dependency failed` in the console log, and for /dev/sdX names in fstab (`esxodus fixup`)",
            ),
        ),
        (
            r"Timed out waiting for device (\S+)",
            (
                Likely,
                Mount,
                "a device that fstab names never appeared: $1",
                "Name it by UUID in fstab (`esxodus fixup`), or check that every disk was converted",
            ),
        ),
        (
            r"(No bootable device|Boot failed: not a bootable disk|Operating System not found|NO BOOTABLE|Missing operating system)",
            (
                Final,
                BootLoader,
                "boot loader not found: $1",
                "Check that the boot disk comes first, and try the other firmware (`prove --search`)",
            ),
        ),
        (
            r"BdsDxe: (failed to (?:load|start) Boot.*)",
            (Likely, BootLoader, "boot loader not found by UEFI: $1", NO_UEFI_LOADER),
        ),
        (
            r"(BdsDxe: No bootable option or device was found|UEFI Interactive Shell|^Shell>)",
            (Final, BootLoader, "boot loader not found by UEFI: $1", NO_UEFI_LOADER),
        ),
        (
            r"(grub rescue>)",
            (
                Final,
                Grub,
                "GRUB's rescue prompt: it did not find its own files",
                "The boot partition moved or is missing: check that every disk was converted and their order is kept",
            ),
        ),
        (
            r"error: (no such (?:device|partition)[^.]*|disk `[^`']*' not found|unknown filesystem|file `[^`']*' not found)",
            (
                Likely,
                Grub,
                "GRUB: $1",
                "GRUB names a disk that is not there: check the disks' order, run `esxodus fixup`",
            ),
        ),
        (
            r"STOP: 0x0000007B|INACCESSIBLE_BOOT_DEVICE",
            (
                Final,
                WindowsDisk,
                "Windows stopped with 0x7B: it has no driver for the boot disk's bus",
                "Boot it from SATA first and install the virtio drivers",
            ),
        ),
    ])
});

/// The initramfs waits for the root to appear (initramfs-tools, dracut, systemd).
static WAITING: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(r"Waiting for root file system|dracut-initqueue|Waiting for root device|A start job is running for (/dev/|dev-)")
        .expect("our own pattern")
});

/// Does the system wait for a disk?
pub(crate) fn waits_for_root(line: &str) -> bool {
    WAITING.is_match(line)
}

/// The firmware's own word that it enters the first sector (SeaBIOS).
pub(crate) fn jumps_to_loader(line: &str) -> bool {
    line.contains("Booting from 0000:7c00")
}

/// The BIOS entered a first sector and nothing came of it, as with the protective MBR of a disk that boots by UEFI.
pub(crate) fn dead_sector(after: std::time::Duration) -> Failure {
    Failure {
        certainty: Certainty::Final,
        cause: Cause::BootLoader,
        reason: format!(
            "boot loader not found: the BIOS entered the disk's first sector, and for {} s nothing came of it",
            after.as_secs()
        ),
        advice: "The disk may boot by UEFI (`prove --search`), or another disk should come first".to_owned(),
    }
}

/// The kernel's version, where `line` is the one that tells it.
pub(crate) fn kernel_version(line: &str) -> Option<&str> {
    line.split_once("Linux version ")?.1.split_whitespace().next()
}

/// The milestone that `line` shows.
pub(crate) fn milestone(line: &str) -> Option<&'static str> {
    MILESTONES
        .iter()
        .find(|(pattern, _)| pattern.is_match(line))
        .map(|(_, name)| *name)
}

/// The failure that `line` shows.
pub(crate) fn failure(line: &str) -> Option<Failure> {
    FAILURES
        .iter()
        .find_map(|(pattern, (certainty, cause, reason, advice))| {
            let found = pattern.captures(line)?;
            let mut words = String::new();
            found.expand(reason, &mut words);
            Some(Failure {
                certainty: *certainty,
                cause: *cause,
                reason: words.trim().to_owned(),
                advice: (*advice).to_owned(),
            })
        })
}

#[cfg(test)]
mod tests {
    use super::{Cause, Certainty, failure, kernel_version, milestone, waits_for_root};

    #[test]
    fn lines_of_real_boots_are_recognised() {
        let cases = [
            ("SeaBIOS (version 1.16.3-debian-1.16.3-2)", "firmware"),
            ("Booting from 0000:7c00", "boot-loader"),
            ("  Booting `Debian'", "boot-loader"),
            (
                "[    0.000000] Linux version 6.1.0-56-cloud-amd64 (debian-kernel@lists.debian.org)",
                "kernel",
            ),
            (
                "[    3.1] EXT4-fs (vda1): mounted filesystem with ordered data mode. Quota mode: none.",
                "root-found",
            ),
            (
                "[    4.1] systemd[1]: systemd 252.39-1~deb12u1 running in system mode (+PAM)",
                "init",
            ),
            ("Welcome to Debian GNU/Linux 12 (bookworm)!", "init"),
            ("web01 login: ", "login"),
        ];
        for (line, expected) in cases {
            assert_eq!(milestone(line), Some(expected), "{line}");
        }
        assert_eq!(
            milestone("[    1.0] pci 0000:00:01.0: vgaarb: setting as boot VGA device"),
            None
        );
        assert_eq!(milestone("Mar 1 sshd: Failed login: root from 10.0.0.1"), None);
    }

    #[test]
    fn failures_carry_the_reason_in_words() {
        let panic = failure("[    2.0] Kernel panic - not syncing: VFS: Unable to mount root fs on unknown-block(0,0)")
            .expect("a panic");
        assert_eq!(
            panic.reason,
            "kernel panic: VFS: Unable to mount root fs on unknown-block(0,0)"
        );
        assert_eq!((panic.certainty, panic.cause), (Certainty::Final, Cause::Root));
        let root = failure("ALERT!  UUID=1234-5678 does not exist.  Dropping to a shell!").expect("no root");
        assert!(root.reason.contains("UUID=1234-5678"), "{}", root.reason);
        assert!(failure("You are in emergency mode. After logging in, type").is_some());
        assert!(failure("[    1.0] random: crng init done").is_none());
        let windows = failure("*** STOP: 0x0000007B (0xF78D2524,0xC0000034,0x00000000,0x00000000)").expect("a stop");
        assert_eq!(windows.cause, Cause::WindowsDisk);
        assert!(waits_for_root("Begin: Waiting for root file system ... "));
        assert_eq!(
            kernel_version("[    0.000000] Linux version 6.1.0-56-amd64 (debian-kernel@lists.debian.org)"),
            Some("6.1.0-56-amd64")
        );
    }
}
