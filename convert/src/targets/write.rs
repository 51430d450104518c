//! Writes the files of the chosen targets.

use super::plan::{Plan, Target};
use super::{NetworkMap, Resources, TargetError, kubevirt, libvirt, proxmox, qemu};
use crate::machine::Machine;
use crate::preflight;
use reports::schema::Finding;
use std::path::{Path, PathBuf};

/// A converted disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TargetDisk {
    /// Path relative to the run folder: `disks/boot.qcow2`.
    pub path: PathBuf,
    /// `qcow2` or `raw`.
    pub format: String,
    /// Guest-visible size in bytes.
    pub virtual_bytes: u64,
}

/// What a machine needs beside itself to become a target's definition.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TargetContext {
    /// The converted disks in the order of `machine.disks`.
    pub disks: Vec<TargetDisk>,
    /// The user's map; absent: defaults, with the findings of [`target_findings`].
    pub map: Option<NetworkMap>,
    /// Virtio drivers are proven in the guest.
    pub virtio_proven: bool,
}

/// What the machine becomes on each target in `which`, with the names and claims that the map gives the guest.
///
/// # Errors
/// [`TargetError::Map`]: a claim that the machine can't make.
pub fn plan_all(machine: &Machine, context: &TargetContext, which: &[Target]) -> Result<Vec<Plan>, TargetError> {
    let guest = context.map.as_ref().and_then(|map| map.guest(machine));
    which
        .iter()
        .map(|target| {
            let mut plan = Plan::new(machine, *target, context.virtio_proven);
            if let Some(guest) = guest {
                if let Some(name) = &guest.name {
                    plan.name = super::text::dns_name(name, *target == Target::Proxmox, *target != Target::Proxmox);
                }
                plan.resources = Resources::with(machine, guest)?;
            }
            Ok(plan)
        })
        .collect()
}

/// Writes `targets/…` under the run folder `out`: `proxmox.conf` and `proxmox.sh`, `libvirt.xml`, `qemu.sh`,
/// `kubevirt.yaml`, for the targets in `which`. Returns the files written. Nothing is written unless all of them can be.
///
/// # Errors
/// [`TargetError`]: networks that the map lacks, a limit of the target, I/O.
pub fn write_all(
    machine: &Machine,
    context: &TargetContext,
    out: &Path,
    which: &[Target],
) -> Result<Vec<PathBuf>, TargetError> {
    if machine.disks.len() != context.disks.len() {
        return Err(TargetError::Disks {
            machine: machine.disks.len(),
            context: context.disks.len(),
        });
    }
    if let Some(map) = &context.map {
        map.check(machine, which)?;
    }
    let folder = out.join("targets");
    let absolute = std::path::absolute(out).unwrap_or_else(|_| out.to_owned());
    let mut texts: Vec<(PathBuf, String, bool)> = Vec::new();
    for plan in plan_all(machine, context, which)? {
        plan.check(machine)?;
        match plan.target {
            Target::Proxmox => {
                texts.push((
                    folder.join("proxmox.conf"),
                    proxmox::config(machine, context, &plan),
                    false,
                ));
                texts.push((
                    folder.join("proxmox.sh"),
                    proxmox::script(machine, context, &plan),
                    true,
                ));
            }
            Target::Libvirt => {
                texts.push((
                    folder.join("libvirt.xml"),
                    libvirt::domain(machine, context, &plan, &absolute)?,
                    false,
                ));
            }
            Target::Qemu => texts.push((folder.join("qemu.sh"), qemu::script(machine, context, &plan), true)),
            Target::Kubevirt => texts.push((
                folder.join("kubevirt.yaml"),
                kubevirt::manifest(machine, context, &plan),
                false,
            )),
        }
    }
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| TargetError::Io { path, source }
    };
    std::fs::create_dir_all(&folder).map_err(failed(&folder))?;
    let mut written = Vec::new();
    for (path, text, executable) in texts {
        std::fs::write(&path, text).map_err(failed(&path))?;
        if executable {
            use std::os::unix::fs::PermissionsExt as _;
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).map_err(failed(&path))?;
        }
        written.push(path);
    }
    Ok(written)
}

/// Findings of what [`write_all`] leaves out or takes by default on the targets in `which`.
#[must_use]
pub fn target_findings(machine: &Machine, context: &TargetContext, which: &[Target]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for nic in &machine.nics {
        let network = nic.network.as_deref().unwrap_or("not named");
        let Some(map) = &context.map else {
            findings.push(preflight::finding(
                "nic.network-default",
                format!("ethernet{}: network {network}", nic.index),
            ));
            continue;
        };
        let Some(place) = map.network(machine, nic) else {
            continue;
        };
        let Some(vlan) = place.vlan.or(nic.vlan) else { continue };
        let mut untagged = Vec::new();
        if which.contains(&Target::Libvirt) && !place.openvswitch {
            untagged.push("libvirt");
        }
        if which.contains(&Target::Qemu) {
            untagged.push("QEMU");
        }
        if !untagged.is_empty() {
            findings.push(preflight::finding(
                "nic.vlan-untagged",
                format!(
                    "ethernet{}: network {network}, VLAN {vlan}, bridge {}: not tagged on {}",
                    nic.index,
                    place.bridge.as_deref().unwrap_or("not named"),
                    untagged.join(" and ")
                ),
            ));
        }
    }
    let zone = context.map.as_ref().and_then(|map| map.timezone(machine));
    if which.contains(&Target::Kubevirt) && machine.rtc_local && machine.rtc_offset_seconds.is_none() && zone.is_none()
    {
        findings.push(preflight::finding(
            "time.zone-unknown",
            format!("{}: clock in local time", machine.os.title),
        ));
    }
    let drives: Vec<&str> = machine
        .removable
        .iter()
        .filter(|drive| drive.kind == crate::machine::RemovableKind::Cdrom)
        .map(|drive| drive.name.as_str())
        .collect();
    if which.contains(&Target::Kubevirt) && !drives.is_empty() {
        findings.push(preflight::finding("cdrom.kubevirt", drives.join(", ")));
    }
    findings
}
