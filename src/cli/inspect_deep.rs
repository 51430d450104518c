//! `esxodus inspect --deep`: what is inside the disks of a guest, converted or not.

use super::options::{EngineArgs, SourceOptions};
use super::{Context, Outcome};
use crate::chain::RunFolder;
use crate::chain::fixup::{self, FixupOptions};
use crate::terminal::{bytes, table};
use convert::preflight;
use reports::schema::{DeepFacts, DriverPlace, KernelFacts, SystemFacts, VolumeFacts};
use std::path::Path;

pub(crate) fn run(
    context: &Context,
    source: &SourceOptions,
    engine: &EngineArgs,
    key: Option<&Path>,
) -> anyhow::Result<Outcome> {
    let (machine, facts) = if source.source.join(RunFolder::MANIFEST).is_file() {
        let options = FixupOptions {
            dry_run: true,
            key: key.map(Path::to_owned),
            suppress: source.suppress.clone(),
            ..FixupOptions::default()
        };
        let folder = RunFolder::open(&source.source)?;
        let facts = fixup::look_into_converted(context, &folder, engine, &options, None)?;
        (folder.need(RunFolder::MACHINE, "convert")?, facts)
    } else {
        fixup::look_into_source(context, source, engine, key)?
    };
    let mut findings = preflight::run_inside(&machine, &facts);
    preflight::suppress(&mut findings, &source.suppress.iter().cloned().collect());
    let mut result = serde_json::to_value(&facts)?;
    result["findings"] = serde_json::to_value(&findings)?;
    context.print(&result, || text(&facts) + &super::inspect::findings_text(&findings))?;
    Ok(if preflight::blocks(&findings) {
        Outcome::No
    } else {
        Outcome::Good
    })
}

fn text(facts: &DeepFacts) -> String {
    let dash = || "-".to_owned();
    let rows = facts.volumes.iter().map(|volume| {
        let content = volume.content.clone().unwrap_or_else(dash);
        vec![
            volume.device.clone(),
            bytes(volume.bytes),
            [
                Some(content),
                volume.state.clone(),
                volume.errors.clone(),
                oddity(volume),
            ]
            .into_iter()
            .flatten()
            .collect::<Vec<_>>()
            .join(", "),
            volume.uuid.clone().unwrap_or_else(dash),
            volume.mounted_at.clone().unwrap_or_else(dash),
            volume.free_bytes.map_or_else(dash, bytes),
        ]
    });
    let mut text = format!(
        "{}\n",
        table(&["volume", "size", "content", "UUID", "mounted at", "free"], rows)
    );
    for system in &facts.systems {
        text.push_str(&system_text(system));
    }
    if facts.systems.is_empty() {
        text.push_str("no operating system was found\n");
    }
    for note in &facts.notes {
        text.push_str(&format!("note: {note}\n"));
    }
    text
}

/// What else is odd about a volume.
fn oddity(volume: &VolumeFacts) -> Option<String> {
    if volume.dynamic_disk {
        return Some("of a dynamic disk".to_owned());
    }
    (volume.fallback_loader == Some(false)).then(|| "no EFI/BOOT/BOOTX64.EFI".to_owned())
}

fn system_text(system: &SystemFacts) -> String {
    let known = |value: &str| {
        if value.is_empty() {
            "unknown".to_owned()
        } else {
            value.to_owned()
        }
    };
    let mut text = format!(
        "\n{} on {}\n  init {}, boot loader {}, initramfs by {}{}\n",
        known(&system.name),
        system.device,
        known(&system.init),
        known(system.boot_loader.as_deref().unwrap_or_default()),
        known(system.initramfs_tool.as_deref().unwrap_or_default()),
        if system.selinux { ", SELinux" } else { "" }
    );
    for kernel in &system.kernels {
        text.push_str(&kernel_text(kernel));
    }
    for line in &system.fstab {
        text.push_str(&format!("  fstab    {} at {} ({})\n", line.spec, line.file, line.kind));
    }
    for line in &system.crypttab {
        text.push_str(&format!("  crypttab {line}\n"));
    }
    for name in &system.boot_device_names {
        text.push_str(&format!("  boot entry by the bus's name: {name}\n"));
    }
    for (name, file) in &system.interfaces {
        text.push_str(&format!("  NIC      {name} in {file}\n"));
    }
    for (name, start) in &system.services {
        text.push_str(&format!("  service  {name}: {start}\n"));
    }
    for policy in &system.driver_policies {
        text.push_str(&format!("  group policy against drivers: {policy}\n"));
    }
    for (what, found) in [
        ("X server with VMware's driver", &system.x11_vmware),
        ("VMware Tools", &system.vmware_tools),
        ("QEMU guest agent", &system.qemu_guest_agent),
        ("not shut down", &system.hibernation),
    ] {
        if let Some(found) = found {
            text.push_str(&format!("  {what}: {found}\n"));
        }
    }
    text
}

fn kernel_text(kernel: &KernelFacts) -> String {
    let verdict = match (&kernel.unreadable, kernel.boots_virtio_blk, kernel.boots_virtio_scsi) {
        (Some(why), ..) => format!("not readable: {why}"),
        (None, true, true) => "finds virtio-blk and virtio-scsi disks".to_owned(),
        (None, true, false) => "finds virtio-blk disks, not virtio-scsi".to_owned(),
        (None, false, true) => "finds virtio-scsi disks, not virtio-blk".to_owned(),
        (None, false, false) => "FINDS NO VIRTIO DISK; 'esxodus fixup' adds the drivers".to_owned(),
    };
    let places = kernel.drivers.iter().map(|(name, place)| {
        let place = match place {
            DriverPlace::BuiltIn => "built in",
            DriverPlace::Initramfs => "initramfs",
            DriverPlace::Modules => "only on the root",
            DriverPlace::Missing => "missing",
        };
        format!("{name} {place}")
    });
    let places: Vec<String> = places.collect();
    format!(
        "  kernel   {} ({}): {verdict}\n           {}\n",
        kernel.version,
        kernel.initramfs.as_deref().unwrap_or("no initramfs"),
        places.join(", ")
    )
}
