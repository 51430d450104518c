//! What a look into the disks finds of Windows: drivers, policies, how it treats new disks.

use super::super::{Check, Inside, inside};
use super::inside::{joined, systems, volumes};
use reports::schema::Severity::{Block, Warn};
use reports::schema::{SCANNER_SERVICES, SystemFacts, SystemKind};

/// Drivers of disks on virtio, in virtio-win.
const STORAGE: [&str; 2] = ["viostor", "vioscsi"];

fn windows(s: &Inside<'_>, wanted: impl Fn(&SystemFacts) -> Option<String>) -> Vec<String> {
    systems(s, |system| {
        (system.kind == SystemKind::Windows).then(|| wanted(system)).flatten()
    })
}

/// Services, in lower case, with their start. Empty where the registry was not read.
fn services(system: &SystemFacts) -> impl Iterator<Item = (String, &str)> {
    let services = system.services.iter();
    services.map(|(name, start)| (name.to_ascii_lowercase(), start.as_str()))
}

pub(super) const CHECKS: &[Check] = &[
    inside(
        "windows.dynamic-disk",
        Block,
        "Windows, and a partition of its Logical Disk Manager",
        "Volumes of dynamic disks are put together by Windows itself: nothing can be put into them from outside, and mirrors \
         and spans need every disk.",
        "Convert with the disks on SATA, install virtio drivers in the guest, then change the bus; or make the disks basic ones.",
        |s| {
            let named = volumes(s, |volume| volume.dynamic_disk.then(|| "dynamic".to_owned()));
            let any = s.facts.systems.iter().any(|system| system.kind == SystemKind::Windows);
            if any || s.machine.os.family == crate::machine::OsFamily::Windows {
                named
            } else {
                Vec::new()
            }
        },
    ),
    inside(
        "windows.no-virtio-driver",
        Warn,
        "neither viostor nor vioscsi is installed",
        "On a virtio disk Windows stops with 0x7B. Its disks stay on SATA, its NICs are e1000e.",
        "Install virtio-win in the guest, before the copy or after it; then change the buses.",
        |s| {
            windows(s, |system| {
                let known = services(system).any(|(name, _)| STORAGE.contains(&name.as_str()));
                (!system.services.is_empty() && !known).then(|| "no service viostor or vioscsi".to_owned())
            })
        },
    ),
    inside(
        "windows.storage-driver-not-boot-critical",
        Warn,
        "a virtio storage driver that is not started at boot",
        "It is installed, and Windows does not use it for the disk that it starts from: 0x7B on virtio.",
        "Start the guest once with a second, small virtio disk, so that Windows makes the driver boot-critical.",
        |s| {
            windows(s, |system| {
                let late: Vec<String> = services(system)
                    .filter(|(name, start)| STORAGE.contains(&name.as_str()) && *start != "boot")
                    .map(|(name, start)| format!("{name} starts {start}"))
                    .collect();
                let good = services(system).any(|(name, start)| STORAGE.contains(&name.as_str()) && start == "boot");
                if good { None } else { joined(late) }
            })
        },
    ),
    inside(
        "windows.group-policy",
        Warn,
        "a group policy that forbids installing drivers",
        "New devices get no driver: no network, or 0x7B once the bus is changed.",
        "Exempt the guest from the policy until it runs on KVM.",
        |s| {
            windows(s, |system| {
                (!system.driver_policies.is_empty()).then(|| system.driver_policies.join(", "))
            })
        },
    ),
    inside(
        "windows.antivirus",
        Warn,
        "a virus scanner's service",
        "Some take new drivers and a changed loader for an attack.",
        "Have it paused, or the change allowed, for the first start on KVM.",
        |s| {
            windows(s, |system| {
                joined(
                    services(system)
                        .filter(|(name, start)| {
                            *start != "disabled"
                                && SCANNER_SERVICES
                                    .iter()
                                    .any(|known| name.starts_with(known.trim_end_matches('*')))
                        })
                        .map(|(name, _)| name)
                        .collect(),
                )
            })
        },
    ),
    inside(
        "windows.san-policy",
        Warn,
        "more than one disk, and a SAN policy that leaves new disks offline",
        "On another bus the data disks are new to Windows, and stay offline until somebody brings them online.",
        "In diskpart: `san policy=OnlineAll` before the copy, or bring the disks online after the first start.",
        |s| {
            windows(s, |system| {
                let policy = match system.san_policy {
                    Some(2) => "shared disks stay offline",
                    Some(3) => "all new disks stay offline",
                    Some(4) => "internal disks stay offline",
                    _ => return None,
                };
                (s.machine.disks.len() > 1).then(|| format!("SanPolicy: {policy}; {} disks", s.machine.disks.len()))
            })
        },
    ),
    inside(
        "workload.windows-warm-services",
        Warn,
        "Volume Shadow Copy, or VMware's snapshot provider, is disabled",
        "Snapshots of the running guest, here and on the target, hold what a power failure would have left.",
        "Set both to manual, or shut the guest down for the copy.",
        |s| {
            windows(s, |system| {
                joined(
                    services(system)
                        .filter(|(name, start)| ["vss", "vmvss"].contains(&name.as_str()) && *start == "disabled")
                        .map(|(name, _)| format!("{name} is disabled"))
                        .collect(),
                )
            })
        },
    ),
];
