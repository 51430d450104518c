//! A machine guessed around a bare VMDK.

use super::header::header;
use super::open::{finish, folder_of};
use super::{DiskPlace, ImportError, ImportOptions, Imported};
use crate::machine::{Notice, from_vmx};
use crate::vmx;
use reports::schema::Accounting;
use std::path::Path;

/// Imports a bare disk: one vCPU, 1 GiB, the disk on LSI Logic, nothing else. All of it is a guess.
pub(super) fn open_vmdk(path: &Path, options: &ImportOptions) -> Result<Imported, ImportError> {
    if let Err(source) = std::fs::File::open(path) {
        return Err(ImportError::Io {
            path: path.to_owned(),
            doing: "opening",
            source,
        });
    }
    let text = "memSize = \"1024\"\nnumvcpus = \"1\"\nguestOS = \"other-64\"\nscsi0.virtualDev = \"lsilogic\"\n";
    let file = vmx::parse(text.as_bytes()).expect("the text is a constant");
    let (mut machine, mut notices) = from_vmx::build(&file, path).expect("the text is a constant");
    notices.retain(|notice| notice.id != "vm.name-missing");
    notices.push(Notice::new("vm.guessed", path.display().to_string()));
    machine.source_kind = crate::machine::SourceKind::Vmdk;
    let place = DiskPlace {
        path: path.to_owned(),
        ..DiskPlace::default()
    };
    let seen = header(&place, options);
    let (bus, controller) = match seen.adapter.as_deref() {
        Some("ide") => (crate::machine::ControllerBus::Ide, "piix4"),
        _ => (crate::machine::ControllerBus::Scsi, "lsilogic"),
    };
    machine.controllers = vec![crate::machine::Controller {
        bus,
        index: 0,
        model: controller.to_owned(),
        shared_bus: None,
        pci_slot: None,
    }];
    machine.disks = vec![crate::machine::Disk {
        bus,
        controller: 0,
        unit: 0,
        file: path
            .file_name()
            .map(|name| name.to_string_lossy().into_owned())
            .unwrap_or_default(),
        capacity_bytes: seen.sectors.and_then(|sectors| sectors.checked_mul(512)),
        mode: crate::machine::DiskMode::Persistent,
        shared: false,
        serial: None,
    }];
    Ok(finish(
        machine,
        Accounting::default(),
        notices,
        folder_of(path),
        vec![place],
        options,
    ))
}
