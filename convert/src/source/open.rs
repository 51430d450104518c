//! Finds out what a path is and imports it.

use super::gate::{Passed, resolve};
use super::{DiskPlace, ImportError, ImportOptions, Imported, bare, header, package};
use crate::machine::{Machine, Notice, from_vmx};
use crate::preflight::{self, Subject};
use crate::{accounting, vmx};
use reports::schema::Accounting;
use std::io::Read as _;
use std::path::{Path, PathBuf};

/// Imports the guest at `path`: `.vmx`, `.vmtx`, `.ovf`, `.ova`, a bare `.vmdk` (the machine around it is a guess, and a
/// finding says so), or a folder that holds exactly one of them.
///
/// A disk that is missing or refused is a finding that blocks, not an error.
///
/// # Errors
/// [`ImportError`].
pub fn open(path: &Path, options: &ImportOptions) -> Result<Imported, ImportError> {
    if path.is_dir() {
        let found = one_of(path)?;
        return open(&found, options);
    }
    let extension = path
        .extension()
        .map(|extension| extension.to_string_lossy().to_ascii_lowercase())
        .unwrap_or_default();
    match extension.as_str() {
        "vmx" | "vmtx" => open_vmx(path, options),
        "ovf" => package::open_ovf(path, options),
        "ova" | "tgz" | "gz" | "xz" | "txz" | "zip" | "tar" => package::open_ova(path, options),
        "vmdk" => bare::open_vmdk(path, options),
        "nvram" => Err(refuse(path, "this is the firmware's memory of a guest")),
        "vmsd" => Err(refuse(path, "this is the snapshot list of a guest")),
        "vswp" | "vmem" | "vmss" | "vmsn" | "log" => Err(refuse(path, "this is a run-time file of VMware")),
        _ => Err(refuse(path, "not a kind of file that describes a guest")),
    }
}

fn refuse(path: &Path, what: &'static str) -> ImportError {
    ImportError::NotADescription {
        path: path.to_owned(),
        what,
    }
}

/// The one description in a folder. VMX goes before OVF before OVA before VMDK.
fn one_of(folder: &Path) -> Result<PathBuf, ImportError> {
    let io = |source| ImportError::Io {
        path: folder.to_owned(),
        doing: "listing",
        source,
    };
    let mut files: Vec<PathBuf> = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(io)? {
        files.push(entry.map_err(io)?.path());
    }
    files.sort();
    for wanted in [&["vmx", "vmtx"][..], &["ovf"], &["ova"], &["vmdk"]] {
        let found: Vec<&PathBuf> = files
            .iter()
            .filter(|path| path.is_file())
            // macOS leaves `._name.ovf` files beside the real ones.
            .filter(|path| {
                path.file_name()
                    .is_some_and(|name| !name.to_string_lossy().starts_with("._"))
            })
            .filter(|path| {
                path.extension()
                    .is_some_and(|extension| wanted.iter().any(|wanted| extension.eq_ignore_ascii_case(wanted)))
            })
            .filter(|path| wanted != ["vmdk"] || header::is_top(path))
            .collect();
        match found.as_slice() {
            [] => {}
            [one] => return Ok((*one).clone()),
            _ => {
                return Err(ImportError::Several {
                    folder: folder.to_owned(),
                    found: found
                        .iter()
                        .filter_map(|path| path.file_name())
                        .map(|name| name.to_string_lossy().into_owned())
                        .collect(),
                });
            }
        }
    }
    Err(ImportError::NothingFound(folder.to_owned()))
}

/// Reads at most `limit` bytes and one more, so that a reader with a limit sees that it was passed.
pub(super) fn read_limited(path: &Path, limit: usize) -> Result<Vec<u8>, ImportError> {
    let io = |doing| {
        move |source| ImportError::Io {
            path: path.to_owned(),
            doing,
            source,
        }
    };
    let file = std::fs::File::open(path).map_err(io("opening"))?;
    let mut bytes = Vec::new();
    let most = u64::try_from(limit).unwrap_or(u64::MAX).saturating_add(1);
    file.take(most).read_to_end(&mut bytes).map_err(io("reading"))?;
    Ok(bytes)
}

/// The folder that a description lies in.
pub(super) fn folder_of(path: &Path) -> PathBuf {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    }
}

fn open_vmx(path: &Path, options: &ImportOptions) -> Result<Imported, ImportError> {
    let bytes = read_limited(path, vmx::MAX_FILE_BYTES)?;
    let refused = |source| ImportError::Vmx {
        path: path.to_owned(),
        source,
    };
    let file = vmx::parse(&bytes).map_err(refused)?;
    let (mut machine, mut notices) = from_vmx::build(&file, path).map_err(refused)?;
    let folder = folder_of(path);
    let vmsd = path.with_extension("vmsd");
    if vmsd.is_file()
        && let Ok(tree) = vmx::parse(&read_limited(&vmsd, vmx::MAX_FILE_BYTES)?)
    {
        machine.snapshots = vmx::snapshots::tree(&tree);
    }
    let disks = machine
        .disks
        .iter()
        .map(|disk| place(&folder, &disk.name(), &disk.file, options, &mut notices))
        .collect();
    let accounting = accounting::of_vmx(&file, &machine);
    Ok(finish(machine, accounting, notices, folder, disks, options))
}

/// Takes a disk's name through the gate.
pub(super) fn place(
    folder: &Path,
    disk: &str,
    file: &str,
    options: &ImportOptions,
    notices: &mut Vec<Notice>,
) -> DiskPlace {
    match resolve(folder, file, options) {
        Passed::File(place) => place,
        Passed::Missing(path) => {
            notices.push(Notice::new("disk.file-missing", format!("{disk}: {}", path.display())));
            DiskPlace {
                path,
                ..DiskPlace::default()
            }
        }
        Passed::Refused(why) => {
            notices.push(Notice::new("disk.path-outside", format!("{disk}: {file}: {why}")));
            DiskPlace::default()
        }
    }
}

/// Runs the checks and puts everything together.
pub(super) fn finish(
    mut machine: Machine,
    mut accounting: Accounting,
    notices: Vec<Notice>,
    folder: PathBuf,
    disks: Vec<DiskPlace>,
    options: &ImportOptions,
) -> Imported {
    let headers = header::headers(&disks, options);
    // With `disk.EnableUUID` the guest saw the identity that its VMDK holds.
    for (disk, header) in machine.disks.iter_mut().zip(&headers) {
        if let (Some(serial), Some(uuid)) = (&mut disk.serial, &header.uuid)
            && uuid.len() == 32
        {
            serial.clone_from(uuid);
        }
    }
    if !options.skip_target_values {
        accounting::fill_defaults(&mut accounting, &machine);
    }
    let mut findings = preflight::run(&Subject::new(&machine, &accounting, &notices, &headers));
    preflight::suppress(&mut findings, &options.suppress);
    Imported {
        machine,
        accounting,
        findings,
        folder,
        disks,
        headers,
        temporary: Vec::new(),
    }
}
