//! Machines and hosts beside the documented limits.

use esxodus_reports::limits::{self, HostNumbers, MachineNumbers};
use esxodus_reports::schema::{LimitEffect, LimitUse};

fn small() -> MachineNumbers {
    MachineNumbers {
        hw_version: Some(13),
        vcpus: 2,
        sockets: Some(1),
        cores_per_socket: Some(2),
        memory_mib: 4096,
        scsi_disks: 2,
        scsi_controllers: Some(1),
        largest_disk_bytes: 40 << 30,
        nics: 1,
        name_length: 5,
        ..MachineNumbers::default()
    }
}

fn monster() -> MachineNumbers {
    MachineNumbers {
        hw_version: Some(21),
        vcpus: 512,
        sockets: Some(8),
        memory_mib: 24_560 * 1024,
        scsi_disks: 60,
        nvme_disks: 4,
        largest_disk_bytes: 62 << 40,
        nics: 10,
        name_length: 80,
        ..MachineNumbers::default()
    }
}

fn one<'a>(uses: &'a [LimitUse], product: &str, version: &str, quantity: &str) -> &'a LimitUse {
    let found: Vec<&LimitUse> = uses
        .iter()
        .filter(|limit| {
            limit.product.starts_with(product) && limit.version.contains(version) && limit.quantity == quantity
        })
        .collect();
    assert_eq!(found.len(), 1, "{product} {version} {quantity}: {found:?}");
    found[0]
}

#[test]
fn a_small_guest_fits_everywhere_and_esxi_is_read_at_its_own_hardware_version() {
    let uses = limits::usage(&small());
    for limit in &uses {
        assert!(limit.fits, "{limit:?}");
        assert!(
            matches!(limit.effect, LimitEffect::Fits | LimitEffect::PrintedOnly),
            "{limit:?}"
        );
        assert!(!limit.source.is_empty() && !limit.unit.is_empty() && !limit.scope.is_empty());
    }
    let versions: std::collections::BTreeSet<&str> = uses
        .iter()
        .filter(|limit| limit.product == "VMware ESXi" && limit.version.starts_with("hardware"))
        .map(|limit| limit.version.as_str())
        .collect();
    assert_eq!(
        versions.into_iter().collect::<Vec<_>>(),
        ["hardware version 13 (ESXi 6.5)"]
    );
    for product in [
        "VMware ESXi",
        "Proxmox VE",
        "QEMU",
        "KVM",
        "KubeVirt",
        "SUSE",
        "Red Hat",
    ] {
        assert!(
            uses.iter().any(|limit| limit.product.starts_with(product)),
            "{product} is missing"
        );
    }
}

#[test]
fn a_monster_is_blocked_by_hard_primary_limits_and_only_warned_by_the_others() {
    let uses = limits::usage(&monster());
    let scsi = one(&uses, "Proxmox VE", "qemu-server", "scsi disks");
    assert_eq!((scsi.used, scsi.allowed), (64.0, 31.0), "NVMe disks end on SCSI there");
    assert_eq!(scsi.effect, LimitEffect::Blocks);
    assert_eq!(scsi.headroom(), -33.0);
    assert_eq!(
        one(&uses, "KubeVirt (", "4.x", "vcpus").effect,
        LimitEffect::Warns,
        "tested limits warn"
    );
    assert_eq!(one(&uses, "KubeVirt", "-", "name length").effect, LimitEffect::Blocks);
    assert_eq!(
        one(&uses, "Red Hat", "RHEL 9", "memory").effect,
        LimitEffect::Warns,
        "secondary sources warn"
    );
    assert_eq!(one(&uses, "SUSE", "SLES 15", "memory").effect, LimitEffect::Warns);
    assert_eq!(
        one(&uses, "Proxmox VE", "qemu-server", "memory").effect,
        LimitEffect::Warns,
        "a default can be raised"
    );
    let q35 = one(&uses, "QEMU", "q35", "vcpus");
    assert!(q35.fits && q35.allowed == 4096.0);
    assert!(
        !uses.iter().any(|limit| limit.version.contains("i440fx")),
        "512 vCPUs go to q35"
    );
    assert!(
        uses.iter().all(|limit| limit.confidence != "none"),
        "what circulates without a source is no limit"
    );
}

#[test]
fn the_users_figures_are_printed_with_what_others_say_and_never_enforced() {
    let uses = limits::usage(&monster());
    let users: Vec<&LimitUse> = uses.iter().filter(|limit| limit.confidence == "U").collect();
    assert_eq!(users.len(), 4);
    for limit in users {
        assert_eq!(
            (limit.scope.as_str(), limit.effect),
            ("unstated", LimitEffect::PrintedOnly)
        );
        assert!(limit.note.as_deref().is_some_and(|note| note.len() > 40));
    }
    let memory = uses
        .iter()
        .find(|limit| limit.confidence == "U" && limit.unit == "TB")
        .expect("12 TB");
    assert_eq!((memory.allowed, memory.fits), (12.0, false));
}

#[test]
fn hosts_come_from_a_file_and_are_compared_within_their_scope_and_version() {
    let file = "[[host]]\nname = \"pve1\"\nproduct = \"Proxmox VE\"\nversion = \"9.2\"\nlogical_cpus = 64\nmemory_gib = 512\n\
                [[host]]\nname = \"esx1\"\nproduct = \"VMware ESXi\"\nversion = \"6.5\"\nlogical_cpus = 600\nmemory_gib = 1024\n";
    let hosts: Vec<HostNumbers> = limits::hosts_from_toml("hosts.toml", file).expect("a host file");
    let esx = limits::host_usage(&hosts[1]);
    let cpus = one(&esx, "VMware ESXi", "6.5", "logical cpus");
    assert_eq!(
        (cpus.allowed, cpus.fits, cpus.effect),
        (576.0, false, LimitEffect::Warns)
    );
    assert!(
        esx.iter().all(|limit| limit.scope != "VM"),
        "a host is never set beside a guest's limit"
    );
    assert!(!esx.iter().any(|limit| limit.version == "7.0"));
    let pve = limits::host_usage(&hosts[0]);
    assert!(
        pve.iter().all(|limit| limit.effect == LimitEffect::PrintedOnly),
        "{pve:?}"
    );

    let guest = MachineNumbers { vcpus: 65, ..small() };
    let beside = limits::guest_on_host(&guest, &hosts[0]);
    assert_eq!(
        beside[0].effect,
        LimitEffect::Blocks,
        "Proxmox VE refuses more vCPUs than the node has CPUs"
    );
    assert_eq!(beside[1].effect, LimitEffect::Fits);
    let wrong = limits::hosts_from_toml("hosts.toml", &file.replace("memory_gib = 1024", "memory = 1"));
    assert!(wrong.expect_err("refused").to_string().starts_with("hosts.toml:12: "));
    // A product that the limits spell otherwise would be compared with nothing.
    let wrong = limits::hosts_from_toml("hosts.toml", &file.replace("VMware ESXi", "ESXi"));
    let message = wrong.expect_err("refused").to_string();
    assert!(
        message.starts_with("hosts.toml:7: ")
            && message.contains("\"VMware ESXi\" (version ")
            && message.contains("Proxmox VE"),
        "{message}"
    );
}

#[test]
fn a_guest_below_a_minimum_is_told_so() {
    let tiny = MachineNumbers {
        memory_mib: 8,
        ..small()
    };
    let uses = limits::usage(&tiny);
    assert_eq!(
        one(&uses, "Proxmox VE", "qemu-server", "memory (at least)").effect,
        LimitEffect::Blocks
    );
    assert_eq!(
        one(&uses, "KubeVirt", "4.x", "memory (at least)").effect,
        LimitEffect::Warns
    );
}
