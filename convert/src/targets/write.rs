//! Writes the files of the chosen targets.

use super::plan::{Plan, Target};
use super::{NetworkMap, Resources, TargetError, kubevirt, libvirt, proxmox, qemu};
use crate::machine::Machine;
use reports::schema::{Finding, Severity};
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
    /// The user's map; absent: defaults, with the findings of [`default_findings`].
    pub map: Option<NetworkMap>,
    /// Virtio drivers are proven in the guest.
    pub virtio_proven: bool,
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
    for target in which {
        let mut plan = Plan::new(machine, *target, context.virtio_proven);
        if let Some(name) = context
            .map
            .as_ref()
            .and_then(|map| map.guest(machine))
            .and_then(|guest| guest.name.clone())
        {
            plan.name = super::text::dns_name(&name, *target == Target::Proxmox, *target != Target::Proxmox);
        }
        if let Some(guest) = context.map.as_ref().and_then(|map| map.guest(machine)) {
            plan.resources = Resources::with(machine, guest)?;
        }
        plan.check(machine)?;
        match target {
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

/// Findings for the defaults that [`write_all`] takes where the user gave no map.
#[must_use]
pub fn default_findings(machine: &Machine, context: &TargetContext) -> Vec<Finding> {
    if context.map.is_some() {
        return Vec::new();
    }
    machine
        .nics
        .iter()
        .map(|nic| Finding {
            id: "nic.network-default".to_owned(),
            severity: Severity::Warn,
            message: "No map was given, so the NIC goes to the default network: vmbr0 on Proxmox VE, the network \
                      `default` of libvirt, user networking of QEMU, the pod network or a NetworkAttachmentDefinition \
                      named after the source network on KubeVirt."
                .to_owned(),
            evidence: format!(
                "ethernet{}: network {}",
                nic.index,
                nic.network.as_deref().unwrap_or("not named")
            ),
            fix: "Give a map (--map FILE) that says where each source network ends.".to_owned(),
            suppressed: None,
        })
        .collect()
}
