//! Controllers, disks and removable drives of an OVF.

use super::{first, quantity};
use crate::machine::{Controller, ControllerBus, Disk, DiskMode, Notice, Removable, RemovableKind};
use crate::ovf::{DiskEntry, Envelope, FileEntry, Item, OvfError, VirtualSystem, scale};
use std::collections::BTreeMap;

/// Controllers and drives.
pub(super) struct Storage {
    pub(super) controllers: Vec<Controller>,
    pub(super) disks: Vec<Disk>,
    /// For each disk its file in the package.
    pub(super) files: Vec<Option<FileEntry>>,
    pub(super) removable: Vec<Removable>,
    /// Names of controllers and disks (`scsi0`, `scsi0:1`) by the InstanceID of their item.
    pub(super) names: BTreeMap<String, String>,
}

/// Bus and model of a controller item.
fn controller_model(item: &Item) -> Option<(ControllerBus, String)> {
    let kinds = first(&item.resource_sub_type).unwrap_or_default().to_ascii_lowercase();
    let kinds: Vec<&str> = kinds.split([' ', ',']).filter(|kind| !kind.is_empty()).collect();
    match first(&item.resource_type)? {
        "5" => Some((ControllerBus::Ide, "piix4".to_owned())),
        "6" => {
            let known = kinds.iter().find_map(|kind| match *kind {
                "lsilogic" | "buslogic" => Some(*kind),
                "lsilogicsas" | "lsilogicas" => Some("lsisas1068"),
                "virtualscsi" | "pvscsi" => Some("pvscsi"),
                _ => None,
            });
            Some((ControllerBus::Scsi, known.unwrap_or_default().to_owned()))
        }
        "20" if kinds.iter().any(|kind| kind.contains("nvme")) => Some((ControllerBus::Nvme, "nvme".to_owned())),
        "20" => Some((ControllerBus::Sata, "ahci".to_owned())),
        _ => None,
    }
}

/// Reads the controllers and drives of `items`.
pub(super) fn storage(
    envelope: &Envelope,
    system: &VirtualSystem,
    items: &[&Item],
    notices: &mut Vec<Notice>,
) -> Result<Storage, OvfError> {
    let mut by_instance: BTreeMap<&str, (ControllerBus, u32)> = BTreeMap::new();
    let mut controllers: Vec<Controller> = Vec::new();
    for item in items {
        let Some((bus, model)) = controller_model(item) else {
            continue;
        };
        let taken = |index: u32| controllers.iter().any(|other| other.bus == bus && other.index == index);
        // `Address` is the controller's number, but two may carry the same: then the next free one.
        let index = first(&item.address)
            .and_then(|text| text.parse().ok())
            .filter(|index| !taken(*index))
            .unwrap_or_else(|| (0..).find(|index| !taken(*index)).unwrap_or(0));
        if let Some(instance) = first(&item.instance_id) {
            by_instance.insert(instance, (bus, index));
        }
        controllers.push(Controller {
            bus,
            index,
            model,
            shared_bus: None,
            pci_slot: None,
        });
    }
    let (mut found, mut removable) = (Vec::new(), Vec::new());
    for item in items {
        let kind = first(&item.resource_type).unwrap_or_default();
        let label = first(&item.element_name).or(first(&item.caption)).unwrap_or("disk");
        let parent = first(&item.parent).and_then(|parent| by_instance.get(parent).copied());
        let unit: Option<u32> = first(&item.address_on_parent).and_then(|text| text.parse().ok());
        match kind {
            "14" | "15" | "16" => {
                let floppy = kind == "14";
                removable.push(Removable {
                    kind: if floppy {
                        RemovableKind::Floppy
                    } else {
                        RemovableKind::Cdrom
                    },
                    name: match parent {
                        Some((bus, index)) if !floppy => format!("{}{index}:{}", bus.prefix(), unit.unwrap_or(0)),
                        _ if floppy => format!("floppy{}", unit.unwrap_or(0)),
                        _ => format!("cdrom{}", removable.len()),
                    },
                    image: first(&item.host_resource)
                        .filter(|resource| resource.contains("/file/"))
                        .map(str::to_owned),
                    connected: first(&item.automatic_allocation)
                        .is_some_and(|value| value.eq_ignore_ascii_case("true")),
                });
            }
            "17" => {
                let resource = first(&item.host_resource);
                let entry = resource.and_then(|resource| {
                    let id = resource.rsplit_once("disk/").map_or(resource, |(_, id)| id);
                    envelope.disks.iter().find(|disk| disk.disk_id == id)
                });
                let Some(entry) = entry else {
                    notices.push(Notice::new(
                        "ovf.disk-reference",
                        format!("{label}: HostResource \"{}\"", resource.unwrap_or_default()),
                    ));
                    continue;
                };
                let (bus, controller) = parent.unwrap_or_else(|| {
                    notices.push(Notice::new(
                        "ovf.controller-unknown",
                        format!("{label}: Parent \"{}\"", first(&item.parent).unwrap_or_default()),
                    ));
                    (ControllerBus::Scsi, 0)
                });
                found.push((
                    first(&item.instance_id),
                    bus,
                    controller,
                    unit,
                    disk_file(envelope, system, entry, label, notices)?,
                ));
            }
            _ => {}
        }
    }
    let mut disks: Vec<(Disk, Option<FileEntry>)> = Vec::new();
    let mut names: BTreeMap<String, String> = by_instance
        .iter()
        .map(|(instance, (bus, index))| ((*instance).to_owned(), format!("{}{index}", bus.prefix())))
        .collect();
    for (instance, bus, controller, unit, (capacity_bytes, file)) in found {
        let taken = |unit: u32| {
            disks
                .iter()
                .any(|(disk, _)| disk.bus == bus && disk.controller == controller && disk.unit == unit)
        };
        let unit = unit
            .filter(|unit| !taken(*unit))
            .unwrap_or_else(|| (0..).find(|unit| !taken(*unit)).unwrap_or(0));
        if let Some(instance) = instance {
            names.insert(instance.to_owned(), format!("{}{controller}:{unit}", bus.prefix()));
        }
        disks.push((
            Disk {
                bus,
                controller,
                unit,
                file: file.as_ref().map(|file| file.href.clone()).unwrap_or_default(),
                capacity_bytes,
                mode: DiskMode::Persistent,
                shared: false,
                serial: None,
            },
            file,
        ));
    }
    disks.sort_by_key(|(disk, _)| (disk.bus, disk.controller, disk.unit));
    for (disk, _) in &disks {
        if !controllers
            .iter()
            .any(|other| other.bus == disk.bus && other.index == disk.controller)
        {
            controllers.push(Controller {
                bus: disk.bus,
                index: disk.controller,
                model: String::new(),
                shared_bus: None,
                pci_slot: None,
            });
        }
    }
    controllers.sort_by_key(|controller| (controller.bus, controller.index));
    let (disks, files) = disks.into_iter().unzip();
    Ok(Storage {
        controllers,
        disks,
        files,
        removable,
        names,
    })
}

/// Capacity and file of a disk entry.
fn disk_file(
    envelope: &Envelope,
    system: &VirtualSystem,
    entry: &DiskEntry,
    label: &str,
    notices: &mut Vec<Notice>,
) -> Result<(Option<u64>, Option<FileEntry>), OvfError> {
    let text = entry.capacity.trim();
    let property = text.strip_prefix("${").and_then(|rest| rest.strip_suffix('}'));
    let text = match property {
        Some(key) => system
            .product
            .iter()
            .flat_map(|product| &product.properties)
            .find(|property| property.key == key)
            .map_or(text, |property| property.value.trim()),
        None => text,
    };
    let capacity = if text.is_empty() {
        None
    } else {
        let factor = scale(entry.units.as_deref().unwrap_or_default(), 1)?;
        Some(
            quantity(&format!("capacity of {label}"), text)?
                .checked_mul(factor)
                .ok_or_else(|| OvfError::Quantity {
                    what: format!("capacity of {label}"),
                    value: text.to_owned(),
                    why: "too large".to_owned(),
                })?,
        )
    };
    let file = match entry.file_ref.as_deref().filter(|id| !id.is_empty()) {
        None => {
            notices.push(Notice::new("ovf.empty-disk", format!("{label}: {text} bytes")));
            None
        }
        Some(id) => {
            let file = envelope.files.iter().find(|file| file.id == id).cloned();
            if file.is_none() {
                notices.push(Notice::new(
                    "disk.file-missing",
                    format!("{label}: fileRef \"{id}\" is in no File"),
                ));
            }
            file
        }
    };
    Ok((capacity, file))
}
