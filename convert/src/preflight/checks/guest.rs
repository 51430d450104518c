//! The guest system as declared, its time and identity.

use super::super::evidence::{is_true, keys, noticed, when};
use super::super::{Check, Needs, check, raised};
use crate::targets::plan::cpu_level;
use reports::schema::Severity::{Block, Info, Warn};

/// The checks, in the order of the documentation.
pub(super) const CHECKS: &[Check] = &[
    check(
        "os.id-unknown",
        Warn,
        "a guest OS id that is in no table",
        "Drivers, clock and buses are guesses.",
        "Say which OS it is, or look inside with --deep.",
        noticed,
    ),
    check(
        "os.id-stale",
        Warn,
        "an id that stands for several releases",
        "The declared id doesn't name the release; what is really installed decides.",
        "Look inside with --deep.",
        |s| {
            let id = s.machine.os.declared.to_ascii_lowercase();
            when(
                id.contains("hyperv") || id.starts_with("windows8srv") || id.starts_with("windows8server"),
                || format!("guestOS = \"{}\"", s.machine.os.declared),
            )
        },
    ),
    check(
        "windows.sha1-drivers",
        Warn,
        "Windows XP to Server 2008 R2",
        "Only drivers signed with SHA-1 load.",
        "Use the old set of virtio drivers.",
        |s| {
            when(
                matches!(
                    s.machine.os.pve_ostype.as_str(),
                    "wxp" | "w2k" | "w2k3" | "w2k8" | "wvista" | "win7"
                ),
                || s.machine.os.title.clone(),
            )
        },
    ),
    check(
        "time.tools-sync",
        Warn,
        "VMware Tools kept the time",
        "Nothing keeps the clock after the move.",
        "Configure NTP in the guest.",
        |s| {
            keys(s, |key, value| {
                (key == "tools.synctime"
                    || key.starts_with("time.synchronize.")
                    || key.ends_with("tools.synctimewithhost"))
                    && is_true(value)
            })
        },
    ),
    check(
        "guest.cloud-init-data",
        Warn,
        "cloud-init or vApp data in the VMX",
        "The data source of VMware is gone on the target.",
        "Give the data another way, or turn cloud-init off.",
        |s| {
            keys(s, |key, value| {
                (key.starts_with("guestinfo.metadata")
                    || key.starts_with("guestinfo.userdata")
                    || key == "guestinfo.ovfenv")
                    && !value.is_empty()
            })
        },
    ),
    check(
        "genid.kubevirt",
        Info,
        "a VM generation id",
        "KubeVirt has no field for it; the other targets keep it.",
        "Mind domain controllers: a changed id starts safety measures.",
        |s| when(s.machine.identity.generation_id.is_some(), || "vm.genid".to_owned()),
    ),
    check(
        "identity.uuid-missing",
        Info,
        "no SMBIOS UUID",
        "The target makes a new one; licences bound to it ask anew.",
        "Nothing to do.",
        |s| {
            when(s.machine.identity.smbios_uuid.is_none(), || {
                "uuid.bios is absent".to_owned()
            })
        },
    ),
    check(
        "notes.dropped",
        Info,
        "notes",
        "They are carried to Proxmox VE, libvirt and KubeVirt; a QEMU script has no place for them.",
        "Nothing to do.",
        |s| {
            when(!s.machine.notes.is_empty(), || {
                format!("{} characters", s.machine.notes.chars().count())
            })
        },
    ),
    check(
        "os.architecture-unknown",
        Block,
        "a guest OS id for ARM",
        "The guest is not for x86-64: none of the targets written here starts it.",
        "Nothing to do here: ARM guests are out of scope.",
        |s| {
            let id = s.machine.os.declared.to_ascii_lowercase();
            when(
                id.starts_with("arm-") || id.contains("arm64") || id.contains("aarch64"),
                || format!("guestOS = \"{}\"", s.machine.os.declared),
            )
        },
    ),
    check(
        "cpu.level-too-low",
        Warn,
        "RHEL 10, its rebuilds, or CentOS Stream 10",
        "The guest needs a CPU of level x86-64-v3 (AVX2): on an older host its kernel panics. The targets ask for that level.",
        "Move it to a host with a CPU from Haswell or Zen on.",
        |s| when(cpu_level(s.machine) == 3, || s.machine.os.title.clone()),
    ),
    raised(
        "time.zone-unknown",
        Warn,
        Needs::Targets,
        "a guest whose clock runs in local time, KubeVirt, and no time zone in the map",
        "KubeVirt wants the zone's name, which no file of the source holds: the clock starts in UTC, hours off.",
        "Set `timezone` in the map, for all guests or for this one.",
    ),
    raised(
        "vm.name-exists",
        Block,
        Needs::Estate,
        "two guests get the same name on the target",
        "The second one can't be made beside the first.",
        "Give one of them another name in the map.",
    ),
    raised(
        "host.name-default",
        Warn,
        Needs::Sheet,
        "the guest calls itself localhost.localdomain",
        "A new DHCP server may name it anew at its first start.",
        "Set a host name in the guest.",
    ),
];
