//! Every check of the guest's inside, with facts on which it fires and facts on which it doesn't.

use crate::support::import;
use esxodus_convert::machine::Machine;
use esxodus_convert::preflight::{Needs, checks, run_inside};
use reports::schema::{DeepFacts, DriverPlace, KernelFacts, MountFacts, SystemFacts, SystemKind, VolumeFacts};
use std::collections::BTreeSet;

const LINUX: &str = "displayName = \"a\"\nguestOS = \"debian12-64\"\nmemSize = \"512\"\nscsi0.present = \"TRUE\"\n\
    scsi0:0.present = \"TRUE\"\nscsi0:0.fileName = \"a.vmdk\"\n";

const WINDOWS: &str = "guestOS = \"windows2019srv-64\"\n";

fn machine(more: &str) -> Machine {
    // The first line of a key wins.
    import(format!("{more}{LINUX}").as_bytes()).machine
}

fn volume(device: &str, content: &str) -> VolumeFacts {
    VolumeFacts {
        device: device.to_owned(),
        bytes: 8 << 30,
        content: Some(content.to_owned()),
        free_bytes: Some(4 << 30),
        ..VolumeFacts::default()
    }
}

/// A Debian about which nothing is odd.
fn plain() -> DeepFacts {
    DeepFacts {
        volumes: vec![volume("vda1", "vfat"), volume("vda2", "ext4")],
        systems: vec![SystemFacts {
            device: "vda2".to_owned(),
            kind: SystemKind::Linux,
            name: "Debian GNU/Linux 12".to_owned(),
            id: "debian".to_owned(),
            version: "12".to_owned(),
            init: "systemd".to_owned(),
            boot_loader: Some("grub2".to_owned()),
            initramfs_tool: Some("initramfs-tools".to_owned()),
            kernels: vec![KernelFacts {
                version: "6.1.0-42-amd64".to_owned(),
                boots_virtio_blk: true,
                boots_virtio_scsi: true,
                ..KernelFacts::default()
            }],
            fstab: vec![mount("UUID=1234", "/")],
            qemu_guest_agent: Some("/usr/sbin/qemu-ga".to_owned()),
            ..SystemFacts::default()
        }],
        notes: Vec::new(),
    }
}

fn mount(spec: &str, file: &str) -> MountFacts {
    MountFacts {
        spec: spec.to_owned(),
        file: file.to_owned(),
        kind: "ext4".to_owned(),
        options: "defaults".to_owned(),
    }
}

/// [`plain`] with a change.
fn facts(change: impl Fn(&mut DeepFacts)) -> DeepFacts {
    let mut facts = plain();
    change(&mut facts);
    facts
}

fn fired(machine: &Machine, facts: &DeepFacts) -> BTreeSet<String> {
    run_inside(machine, facts)
        .into_iter()
        .map(|finding| finding.id)
        .collect()
}

#[test]
fn nothing_is_said_of_a_guest_that_is_ready() {
    assert_eq!(fired(&machine(""), &plain()), BTreeSet::new());
}

#[test]
fn each_check_of_the_inside_fires_where_it_should_and_nowhere_else() {
    let lacks = |facts: &mut DeepFacts| {
        let kernel = &mut facts.systems[0].kernels[0];
        (kernel.boots_virtio_blk, kernel.boots_virtio_scsi) = (false, false);
        kernel.drivers.insert("virtio_scsi".to_owned(), DriverPlace::Modules);
    };
    let windows = |facts: &mut DeepFacts| {
        facts.systems[0].kind = SystemKind::Windows;
        facts.systems[0].kernels.clear();
        facts.systems[0].initramfs_tool = None;
    };
    let services = |found: &[(&str, &str)]| {
        facts(|f| {
            windows(f);
            let found = found
                .iter()
                .map(|(name, start)| ((*name).to_owned(), (*start).to_owned()));
            f.systems[0].services.extend(found);
        })
    };
    let cases: Vec<(&str, &str, DeepFacts, &[&str])> = vec![
        (
            "inside.not-looked-at",
            "",
            facts(|f| f.notes.push("vda3: no key".to_owned())),
            &[],
        ),
        ("guest.no-os", "", facts(|f| f.systems.clear()), &[]),
        (
            "guest.multi-boot",
            "",
            facts(|f| {
                let other = f.systems[0].clone();
                f.systems.push(other);
            }),
            &[],
        ),
        (
            "guest.luks",
            "",
            facts(|f| {
                f.systems.clear();
                f.volumes.push(volume("vda3", "luks"));
            }),
            &["guest.no-os"],
        ),
        (
            "guest.bitlocker",
            "",
            facts(|f| f.volumes.push(volume("vda3", "bitlocker"))),
            &[],
        ),
        (
            "guest.space",
            "",
            facts(|f| f.volumes[1].free_bytes = Some(99 << 20)),
            &[],
        ),
        (
            "fs.read-only",
            "",
            facts(|f| f.volumes[1].state = Some("dirty".to_owned())),
            &[],
        ),
        (
            "windows.ntfs-hibernated",
            "",
            facts(|f| {
                let mut ntfs = volume("vda3", "ntfs");
                ntfs.state = Some("fast-startup".to_owned());
                f.volumes.push(ntfs);
            }),
            &[],
        ),
        (
            "linux.hibernated",
            "",
            facts(|f| f.systems[0].hibernation = Some("an image in vda3".to_owned())),
            &[],
        ),
        (
            "linux.only-xen-kernels",
            "",
            facts(|f| f.systems[0].kernels[0].version = "2.6.18-8.el5xen".to_owned()),
            &[],
        ),
        ("linux.initrd-lacks-virtio", "", facts(lacks), &[]),
        (
            "linux.initrd-unreadable",
            "",
            facts(|f| f.systems[0].kernels[0].unreadable = Some("lzo".to_owned())),
            &[],
        ),
        (
            "linux.no-initrd-tool",
            "",
            facts(|f| {
                lacks(f);
                f.systems[0].initramfs_tool = None;
            }),
            &["linux.initrd-lacks-virtio"],
        ),
        (
            "linux.fstab-by-path",
            "",
            facts(|f| {
                f.systems[0]
                    .fstab
                    .push(mount("/dev/disk/by-path/pci-0000:03:00.0-scsi-0:0:1:0", "/srv"));
            }),
            &[],
        ),
        (
            "linux.fstab-device-names",
            "",
            facts(|f| f.systems[0].fstab.push(mount("/dev/sdb1", "/srv"))),
            &[],
        ),
        (
            "linux.crypttab-unresolved",
            "",
            facts(|f| f.systems[0].crypttab.push("data /dev/sdb2 none luks".to_owned())),
            &[],
        ),
        (
            "ip.static-inside",
            "",
            facts(|f| {
                f.systems[0]
                    .interfaces
                    .insert("ens192".to_owned(), "/etc/network/interfaces".to_owned());
            }),
            &[],
        ),
        ("os.id-differs", "", facts(windows), &[]),
        (
            "firmware.mismatch",
            "firmware = \"efi\"\n",
            facts(|f| {
                f.volumes.remove(0);
            }),
            &[],
        ),
        (
            "tools.installed",
            "",
            facts(|f| f.systems[0].vmware_tools = Some("/usr/bin/vmtoolsd".to_owned())),
            &[],
        ),
        ("guest.inodes", "", facts(|f| f.volumes[1].free_inodes = Some(99)), &[]),
        (
            "fs.ext-errors",
            "",
            facts(|f| f.volumes[1].errors = Some("errors".to_owned())),
            &[],
        ),
        (
            "fs.xfs-errors",
            "",
            facts(|f| {
                f.volumes.push(volume("vda3", "xfs"));
                f.volumes[2].errors = Some("repair".to_owned());
            }),
            &[],
        ),
        (
            "firmware.no-fallback-loader",
            "firmware = \"efi\"\n",
            facts(|f| f.volumes[0].fallback_loader = Some(false)),
            &[],
        ),
        (
            "linux.x11-driver",
            "",
            facts(|f| f.systems[0].x11_vmware = Some("/etc/X11/xorg.conf".to_owned())),
            &[],
        ),
        (
            "windows.dynamic-disk",
            WINDOWS,
            facts(|f| {
                windows(f);
                f.volumes[1].dynamic_disk = true;
            }),
            &[],
        ),
        ("windows.no-virtio-driver", WINDOWS, services(&[("VSS", "manual")]), &[]),
        (
            "windows.storage-driver-not-boot-critical",
            WINDOWS,
            services(&[("viostor", "manual")]),
            &[],
        ),
        (
            "windows.group-policy",
            WINDOWS,
            facts(|f| {
                windows(f);
                f.systems[0].driver_policies.push("DenyUnspecified".to_owned());
            }),
            &[],
        ),
        (
            "windows.antivirus",
            WINDOWS,
            services(&[("vioscsi", "boot"), ("Sophos AutoUpdate Service", "auto")]),
            &[],
        ),
        (
            "windows.san-policy",
            "guestOS = \"windows2019srv-64\"\nscsi0:1.present = \"TRUE\"\nscsi0:1.fileName = \"b.vmdk\"\n",
            facts(|f| {
                windows(f);
                f.systems[0].san_policy = Some(3);
            }),
            &[],
        ),
        (
            "workload.windows-warm-services",
            WINDOWS,
            services(&[("viostor", "boot"), ("VSS", "disabled")]),
            &[],
        ),
        (
            "workload.wsfc",
            WINDOWS,
            services(&[("viostor", "boot"), ("ClusSvc", "auto")]),
            &[],
        ),
        (
            "workload.ad-dc",
            WINDOWS,
            services(&[("viostor", "boot"), ("NTDS", "auto")]),
            &[],
        ),
        (
            "workload.database",
            "",
            facts(|f| {
                let unit = ("postgresql.service".to_owned(), "enabled".to_owned());
                f.systems[0].services.extend([unit]);
            }),
            &[],
        ),
        (
            "workload.license-bound",
            WINDOWS,
            services(&[("viostor", "boot"), ("CodeMeter.exe", "auto")]),
            &[],
        ),
        (
            "guest.no-agent",
            "",
            facts(|f| f.systems[0].qemu_guest_agent = None),
            &[],
        ),
    ];
    for (id, more, facts, beside) in &cases {
        let mut expected: BTreeSet<String> = beside.iter().map(|id| (*id).to_owned()).collect();
        expected.insert((*id).to_owned());
        assert_eq!(fired(&machine(more), facts), expected, "{id}");
    }
    let tested: BTreeSet<&str> = cases.iter().map(|case| case.0).collect();
    let known: BTreeSet<&str> = checks()
        .filter(|check| check.needs == Needs::Inside)
        .map(|check| check.id)
        .collect();
    assert_eq!(tested, known);
}
