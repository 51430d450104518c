//! VMDK files seen from outside: what their first bytes say, and a machine guessed around a bare one.
//!
//! Reading disks is `image`'s work. Here only the text descriptor is looked at, as far as checks before a copy need it.

use super::open::{finish, folder_of};
use super::{DiskPlace, ImportError, ImportOptions, Imported};
use crate::machine::{Notice, from_vmx};
use crate::vmx;
use reports::schema::Accounting;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::Path;

/// What the head of a VMDK says.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct DiskHeader {
    /// `createType`: `streamOptimized`, `vmfsRawDeviceMap`. Empty where no descriptor was found.
    pub create_type: String,
    /// The parent's file name (`parentFileNameHint`).
    pub parent: Option<String>,
    /// The parent lies beside the file.
    pub parent_found: bool,
    /// `parentCID` differs from the parent's `CID`.
    pub parent_changed: Option<String>,
    /// Links of the chain below this file.
    pub depth: usize,
    /// Kinds of the extents: `VMFS`, `SESPARSE`.
    pub extents: Vec<String>,
    /// Extent files that are missing or too short, in words.
    pub torn: Vec<String>,
    /// Size in sectors: the sum of the extents, or the capacity of the sparse header.
    pub sectors: Option<u64>,
    /// An encrypted disk.
    pub encrypted: bool,
    /// `ddb.uuid` in lower-case hex without signs between.
    pub uuid: Option<String>,
}

const MAX_DESCRIPTOR: u64 = 64 << 10;
const MAX_CHAIN: usize = 256;

/// The descriptor's text: the file itself, or embedded behind a sparse header. Windows of an OVA are read too.
fn descriptor(path: &Path, window: Option<(u64, u64)>) -> Option<(String, Option<u64>)> {
    let mut file = std::fs::File::open(path).ok()?;
    let base = window.map_or(0, |(offset, _)| offset);
    file.seek(SeekFrom::Start(base)).ok()?;
    let mut head = [0; 512];
    let mut length = 0;
    while length < head.len() {
        match file.read(&mut head[length..]).ok()? {
            0 => break,
            more => length += more,
        }
    }
    let head = &head[..length];
    if head.starts_with(b"KDMV") && head.len() == 512 {
        let word = |at: usize| Some(u64::from_le_bytes(head[at..at + 8].try_into().ok()?));
        let (capacity, offset, sectors) = (word(12)?, word(28)?, word(36)?);
        let bytes = sectors.checked_mul(512)?.min(MAX_DESCRIPTOR);
        file.seek(SeekFrom::Start(base.checked_add(offset.checked_mul(512)?)?))
            .ok()?;
        let mut text = Vec::new();
        file.take(bytes).read_to_end(&mut text).ok()?;
        let end = text.iter().position(|byte| *byte == 0).unwrap_or(text.len());
        return Some((String::from_utf8_lossy(&text[..end]).into_owned(), Some(capacity)));
    }
    if !head.starts_with(b"# Disk DescriptorFile") {
        return None;
    }
    file.seek(SeekFrom::Start(base)).ok()?;
    let mut text = Vec::new();
    file.take(MAX_DESCRIPTOR).read_to_end(&mut text).ok()?;
    Some((String::from_utf8_lossy(&text).into_owned(), None))
}

fn field<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    text.lines().find_map(|line| {
        let (name, value) = line.split_once('=')?;
        name.trim()
            .eq_ignore_ascii_case(key)
            .then(|| value.trim().trim_matches('"'))
    })
}

/// A file name that may be looked at: beside `path`, nowhere else.
fn beside(path: &Path, name: &str) -> Option<std::path::PathBuf> {
    let name = Path::new(name);
    let plain = name
        .components()
        .all(|part| matches!(part, std::path::Component::Normal(_)));
    let name = if plain { name } else { Path::new(name.file_name()?) };
    Some(folder_of(path).join(name))
}

/// Reads what the head of a VMDK says, following parents that lie beside it.
#[must_use]
pub fn header(path: &Path, window: Option<(u64, u64)>) -> DiskHeader {
    let Some((text, capacity)) = descriptor(path, window) else {
        return DiskHeader::default();
    };
    let mut header = DiskHeader {
        create_type: field(&text, "createType").unwrap_or_default().to_owned(),
        parent: field(&text, "parentFileNameHint").map(str::to_owned),
        encrypted: text.to_ascii_lowercase().contains("encryption.keysafe") || field(&text, "encryptionKeys").is_some(),
        uuid: field(&text, "ddb.uuid").map(|uuid| {
            uuid.chars()
                .filter(char::is_ascii_hexdigit)
                .map(|c| c.to_ascii_lowercase())
                .collect()
        }),
        ..DiskHeader::default()
    };
    let mut sectors: u64 = 0;
    for line in text.lines() {
        let mut words = line.split_whitespace();
        let (Some("RW" | "RDONLY" | "NOACCESS"), Some(size), Some(kind)) = (words.next(), words.next(), words.next())
        else {
            continue;
        };
        let size: u64 = size.parse().unwrap_or(0);
        sectors = sectors.saturating_add(size);
        header.extents.push(kind.to_owned());
        // An embedded descriptor names its own file, by whatever name it had once.
        if capacity.is_some() || window.is_some() {
            continue;
        }
        let Some(name) = line.split('"').nth(1) else { continue };
        let offset: u64 = line
            .rsplit('"')
            .next()
            .and_then(|rest| rest.trim().parse().ok())
            .unwrap_or(0);
        match beside(path, name).map(|path| std::fs::metadata(path).map(|meta| meta.len())) {
            Some(Ok(bytes)) if matches!(kind, "FLAT" | "VMFS") => {
                let needed = size.saturating_add(offset).saturating_mul(512);
                if bytes < needed {
                    header.torn.push(format!("{name}: {bytes} bytes, {needed} needed"));
                }
            }
            Some(Err(_)) if !kind.eq_ignore_ascii_case("ZERO") => header.torn.push(format!("{name}: not there")),
            _ => {}
        }
    }
    header.sectors = capacity.or((sectors > 0).then_some(sectors));
    // Down the chain.
    let mut child_text = text;
    let mut child = path.to_owned();
    while let Some(hint) = field(&child_text, "parentFileNameHint").map(str::to_owned) {
        let Some((parent, (parent_text, _))) =
            beside(&child, &hint).and_then(|parent| descriptor(&parent, None).map(|found| (parent, found)))
        else {
            header.parent = Some(hint);
            return header;
        };
        let (wanted, found) = (field(&child_text, "parentCID"), field(&parent_text, "CID"));
        if wanted.map(str::to_ascii_lowercase) != found.map(str::to_ascii_lowercase) && header.parent_changed.is_none()
        {
            header.parent_changed = Some(format!(
                "{}: parentCID {}, {hint} has CID {}",
                child.display(),
                wanted.unwrap_or("absent"),
                found.unwrap_or("absent")
            ));
        }
        header.depth += 1;
        if header.depth == MAX_CHAIN {
            break;
        }
        child = parent;
        child_text = parent_text;
    }
    header.parent_found = true;
    header
}

/// Headers of all disks.
pub(super) fn headers(disks: &[DiskPlace]) -> Vec<DiskHeader> {
    disks
        .iter()
        .map(|disk| match disk.chunks.first() {
            Some((path, offset, length)) => header(path, Some((*offset, *length))),
            None if disk.path.as_os_str().is_empty() => DiskHeader::default(),
            None => header(&disk.path, disk.window),
        })
        .collect()
}

/// Is this VMDK one that a guest would name (not an extent, not a parent of another beside it)?
pub(super) fn is_top(path: &Path) -> bool {
    descriptor(path, None).is_some_and(|(text, _)| text.contains("# Disk DescriptorFile"))
}

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
    let seen = header(path, None);
    let model =
        descriptor(path, None).and_then(|(text, _)| field(&text, "ddb.adapterType").map(str::to_ascii_lowercase));
    let (bus, controller) = match model.as_deref() {
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
    let place = DiskPlace {
        path: path.to_owned(),
        ..DiskPlace::default()
    };
    Ok(finish(
        machine,
        Accounting::default(),
        notices,
        folder_of(path),
        vec![place],
        options,
    ))
}
