//! The step that writes machine definitions, and writes them anew when more is known of the guest's drivers.

use super::drivers::{self, Drivers};
use super::folder::RunFolder;
use anyhow::Context as _;
use convert::machine::Machine;
use convert::targets::{NetworkMap, Target, TargetContext, TargetDisk};
use reports::schema::{Accounting, Finding, Manifest};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// What definitions were asked for, and what they are for: enough to write them again. `targets.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Record {
    /// `proxmox`, `libvirt`, `qemu`, `kubevirt`.
    targets: Vec<String>,
    /// The map's text.
    map: Option<String>,
    /// The hardware.
    #[serde(flatten)]
    drivers: Drivers,
}

/// What was written.
#[derive(Debug, Clone, Default)]
pub(crate) struct Written {
    /// The files.
    pub(crate) files: Vec<PathBuf>,
    /// What the targets leave out, or take by default.
    pub(crate) findings: Vec<Finding>,
    /// What hardware they are for; absent where none was asked for.
    pub(crate) drivers: Option<Drivers>,
}

/// Writes the machine definitions named in `which` (`all`, `none`, or names), and into the accounting what each key became there.
///
/// # Errors
/// A network that the map lacks, a limit of the target, I/O.
pub(crate) fn write(
    machine: &Machine,
    manifest: &Manifest,
    folder: &RunFolder,
    which: &[String],
    map: Option<&Path>,
) -> anyhow::Result<Written> {
    let which = parse(which)?;
    let map = map.map(read_map).transpose()?.map(|(text, _)| text);
    if which.is_empty() {
        return Ok(Written::default());
    }
    let record = Record {
        targets: which.iter().map(|target| target.name().to_owned()).collect(),
        map,
        drivers: drivers::known(folder, manifest)?,
    };
    carry_out(machine, manifest, folder, record)
}

/// Writes the definitions anew where they were written for other hardware than is now known to work. `None`: they stand as they are.
///
/// # Errors
/// As [`write()`].
pub(crate) fn renew(folder: &RunFolder) -> anyhow::Result<Option<Written>> {
    let Some(record) = folder.read::<Record>(RunFolder::TARGETS)? else {
        return Ok(None);
    };
    let manifest: Manifest = folder.need(RunFolder::MANIFEST, "convert")?;
    let drivers = drivers::known(folder, &manifest)?;
    if drivers == record.drivers {
        return Ok(None);
    }
    let machine: Machine = folder.need(RunFolder::MACHINE, "convert")?;
    carry_out(&machine, &manifest, folder, Record { drivers, ..record }).map(Some)
}

fn carry_out(machine: &Machine, manifest: &Manifest, folder: &RunFolder, record: Record) -> anyhow::Result<Written> {
    let which = parse(&record.targets)?;
    let context = TargetContext {
        disks: manifest
            .disks
            .iter()
            .map(|disk| TargetDisk {
                path: PathBuf::from(&disk.file),
                format: disk.format.clone(),
                virtual_bytes: disk.virtual_bytes,
            })
            .collect(),
        map: record.map.as_deref().map(NetworkMap::parse).transpose()?,
        virtio_proven: record.drivers.virtio,
    };
    let files = convert::targets::write_all(machine, &context, folder.root(), &which)?;
    if let Some(mut accounting) = folder.read::<Accounting>(RunFolder::ACCOUNTING)? {
        let plans = convert::targets::plan_all(machine, &context, &which)?;
        convert::accounting::fill_targets(&mut accounting, machine, &context, &plans);
        folder.write(RunFolder::ACCOUNTING, &accounting)?;
    }
    folder.write(RunFolder::TARGETS, &record)?;
    Ok(Written {
        files,
        findings: convert::targets::target_findings(machine, &context, &which),
        drivers: Some(record.drivers),
    })
}

/// A map with its text.
///
/// # Errors
/// It can't be read, or is wrong.
pub(crate) fn read_map(path: &Path) -> anyhow::Result<(String, NetworkMap)> {
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read the map {}", path.display()))?;
    let map = NetworkMap::parse(&text).with_context(|| format!("the map {} is wrong", path.display()))?;
    Ok((text, map))
}

/// Targets by name.
///
/// # Errors
/// An unknown name.
pub(crate) fn parse(names: &[String]) -> anyhow::Result<Vec<Target>> {
    let mut which = Vec::new();
    for name in names {
        match name.as_str() {
            "all" => which.extend(Target::ALL),
            "none" => {}
            "proxmox" => which.push(Target::Proxmox),
            "libvirt" => which.push(Target::Libvirt),
            "qemu" => which.push(Target::Qemu),
            "kubevirt" => which.push(Target::Kubevirt),
            other => anyhow::bail!("--target {other}: write all, none, proxmox, libvirt, qemu or kubevirt"),
        }
    }
    which.sort_unstable();
    which.dedup();
    Ok(which)
}
