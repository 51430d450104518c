//! An estate judged at once: trees of VMX, OVF and OVA files, and the spreadsheets that RVTools exports.
//!
//! A broken file costs its own row. Memory holds one description at a time and the rows.

mod sheet;

use crate::source::{ImportError, ImportOptions, open};
use reports::schema::{EstateGuest, EstateReport, EstateRisk, EstateSizing, EstateVerdict, Severity, Stamp};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

/// What the user may say about an assessment.
#[derive(Debug, Clone)]
pub struct AssessOptions {
    /// Options of each import.
    pub import: ImportOptions,
    /// Most guests in a wave.
    pub wave_guests: usize,
    /// Cores of one target host.
    pub host_cores: u32,
    /// Memory of one target host in MiB.
    pub host_memory_mib: u64,
    /// vCPUs to put on a core.
    pub vcpus_per_core: u32,
    /// Rate of the copy in bytes a second.
    pub copy_bytes_per_second: u64,
}

impl Default for AssessOptions {
    fn default() -> Self {
        Self {
            import: ImportOptions::default(),
            wave_guests: 20,
            host_cores: 32,
            host_memory_mib: 512 * 1024,
            vcpus_per_core: 4,
            copy_bytes_per_second: 100 << 20,
        }
    }
}

/// A row for a source that can't be read.
fn unreadable(source: String, name: String, error: String) -> EstateGuest {
    EstateGuest {
        name,
        source,
        guest_os: String::new(),
        vcpus: 0,
        memory_mib: 0,
        disks: 0,
        capacity_bytes: 0,
        allocated_bytes: 0,
        networks: Vec::new(),
        firmware: String::new(),
        verdict: EstateVerdict::Unreadable,
        effort: 0,
        wave: 0,
        error: Some(error),
        findings: Vec::new(),
    }
}

/// Judges the guests of `sources`: files, and folders that are searched through. `tool` goes into the stamp.
///
/// Where `cancel` is set the rows found so far are returned.
#[must_use]
pub fn assess(sources: &[PathBuf], options: &AssessOptions, tool: &str, cancel: &AtomicBool) -> EstateReport {
    let mut guests = Vec::new();
    for source in sources {
        if !source.is_dir() {
            one(source, options, &mut guests);
            continue;
        }
        // Links are not followed: a loop would have no end.
        for entry in walkdir::WalkDir::new(source).sort_by_file_name() {
            if cancel.load(Ordering::Relaxed) {
                break;
            }
            match entry {
                Ok(entry) if entry.file_type().is_file() && is_description(entry.path()) => {
                    one(entry.path(), options, &mut guests);
                }
                Ok(_) => {}
                Err(error) => {
                    let path = error.path().unwrap_or(source).display().to_string();
                    guests.push(unreadable(path.clone(), path, error.to_string()));
                }
            }
        }
    }
    plan_waves(&mut guests, options.wave_guests.max(1));
    summary(guests, options, tool)
}

fn is_description(path: &Path) -> bool {
    let hidden = path
        .file_name()
        .is_some_and(|name| name.to_string_lossy().starts_with("._"));
    let extension = path
        .extension()
        .map(|extension| extension.to_string_lossy().to_ascii_lowercase());
    !hidden && matches!(extension.as_deref(), Some("vmx" | "vmtx" | "ovf" | "ova"))
}

fn one(path: &Path, options: &AssessOptions, guests: &mut Vec<EstateGuest>) {
    let extension = path
        .extension()
        .map(|extension| extension.to_string_lossy().to_ascii_lowercase());
    if matches!(extension.as_deref(), Some("xlsx" | "csv")) {
        match sheet::read(path) {
            Ok(rows) => guests.extend(rows),
            Err(error) => guests.push(unreadable(path.display().to_string(), String::new(), error)),
        }
        return;
    }
    match open(path, &options.import) {
        Ok(imported) => guests.push(row(path, &imported)),
        // A vApp: a row for each of its guests.
        Err(ImportError::Ovf {
            source: crate::ovf::OvfError::SeveralSystems { names, asked: None },
            ..
        }) => {
            for name in names {
                let import = ImportOptions {
                    system: Some(name.clone()),
                    ..options.import.clone()
                };
                guests.push(match open(path, &import) {
                    Ok(imported) => row(path, &imported),
                    Err(error) => unreadable(path.display().to_string(), name, error.to_string()),
                });
            }
        }
        Err(error) => {
            let name = path
                .file_stem()
                .map(|stem| stem.to_string_lossy().into_owned())
                .unwrap_or_default();
            guests.push(unreadable(path.display().to_string(), name, error.to_string()));
        }
    }
}

fn row(path: &Path, imported: &crate::source::Imported) -> EstateGuest {
    let machine = &imported.machine;
    let open: Vec<Severity> = imported
        .findings
        .iter()
        .filter(|finding| finding.suppressed.is_none())
        .map(|finding| finding.severity)
        .collect();
    let count = |severity: Severity| open.iter().filter(|found| **found == severity).count();
    let (blocks, warnings) = (count(Severity::Block), count(Severity::Warn));
    let mut capacity: u64 = 0;
    let mut allocated: u64 = 0;
    for (disk, place) in machine.disks.iter().zip(&imported.disks) {
        let header = || {
            crate::source::bare::header(&place.path, place.window)
                .sectors
                .and_then(|sectors| sectors.checked_mul(512))
        };
        capacity = capacity.saturating_add(disk.capacity_bytes.or_else(header).unwrap_or(0));
        allocated = allocated.saturating_add(held(place));
    }
    let networks: BTreeSet<String> = machine.nics.iter().filter_map(|nic| nic.network.clone()).collect();
    EstateGuest {
        name: machine.name.clone(),
        source: path.display().to_string(),
        guest_os: machine.os.title.clone(),
        vcpus: machine.cpu.vcpus,
        memory_mib: machine.memory.mib,
        disks: u32::try_from(machine.disks.len()).unwrap_or(u32::MAX),
        capacity_bytes: capacity,
        allocated_bytes: allocated,
        networks: networks.into_iter().collect(),
        firmware: match machine.firmware.kind {
            crate::machine::FirmwareKind::Bios => "bios".to_owned(),
            crate::machine::FirmwareKind::Uefi => "uefi".to_owned(),
        },
        verdict: if blocks > 0 {
            EstateVerdict::Blocked
        } else if warnings > 0 {
            EstateVerdict::Attention
        } else {
            EstateVerdict::Ready
        },
        effort: u32::try_from(1 + warnings + 5 * blocks).unwrap_or(u32::MAX),
        wave: 0,
        error: None,
        findings: imported.findings.clone(),
    }
}

/// Bytes that the files of a disk hold: the window, the pieces, or the file with its `-flat` extent.
fn held(place: &crate::source::DiskPlace) -> u64 {
    use std::os::unix::fs::MetadataExt as _;
    if !place.chunks.is_empty() {
        return place
            .chunks
            .iter()
            .fold(0, |sum: u64, (_, _, bytes)| sum.saturating_add(*bytes));
    }
    if let Some((_, bytes)) = place.window {
        return bytes;
    }
    let of = |path: &Path| std::fs::metadata(path).map_or(0, |meta| meta.blocks().saturating_mul(512).min(meta.len()));
    let stem = place
        .path
        .file_stem()
        .map(|stem| stem.to_string_lossy().into_owned())
        .unwrap_or_default();
    of(&place.path).saturating_add(of(&place.path.with_file_name(format!("{stem}-flat.vmdk"))))
}

/// Guests that share networks go together; easy groups first; a wave takes at most `most` guests.
fn plan_waves(guests: &mut [EstateGuest], most: usize) {
    let movable: Vec<usize> = (0..guests.len())
        .filter(|number| guests[*number].verdict != EstateVerdict::Unreadable)
        .collect();
    // Groups by shared network: union of everything that hangs together.
    let mut parent: Vec<usize> = (0..guests.len()).collect();
    fn root(parent: &mut [usize], mut number: usize) -> usize {
        while parent[number] != number {
            parent[number] = parent[parent[number]];
            number = parent[number];
        }
        number
    }
    let mut by_network: BTreeMap<&str, usize> = BTreeMap::new();
    for number in &movable {
        for network in &guests[*number].networks {
            let other = *by_network.entry(network).or_insert(*number);
            let (a, b) = (root(&mut parent, *number), root(&mut parent, other));
            parent[a] = b;
        }
    }
    let mut groups: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    for number in movable {
        let root = root(&mut parent, number);
        groups.entry(root).or_default().push(number);
    }
    let mut groups: Vec<Vec<usize>> = groups.into_values().collect();
    for group in &mut groups {
        group.sort_by_key(|number| {
            (
                guests[*number].verdict,
                guests[*number].effort,
                guests[*number].capacity_bytes,
            )
        });
    }
    groups.sort_by_key(|group| {
        let worst = group.iter().map(|number| guests[*number].verdict).max();
        let bytes: u64 = group
            .iter()
            .fold(0, |sum, number| sum.saturating_add(guests[*number].capacity_bytes));
        (worst, bytes)
    });
    let (mut wave, mut taken) = (1, 0);
    for group in groups {
        for part in group.chunks(most) {
            if taken > 0 && taken + part.len() > most {
                wave += 1;
                taken = 0;
            }
            taken += part.len();
            for number in part {
                guests[*number].wave = wave;
            }
        }
    }
}

fn summary(guests: Vec<EstateGuest>, options: &AssessOptions, tool: &str) -> EstateReport {
    let mut risks: BTreeMap<(Severity, String), (u32, String)> = BTreeMap::new();
    let (mut vcpus, mut memory_mib, mut capacity, mut allocated, mut copy) = (0_u64, 0_u64, 0_u64, 0_u64, 0_u64);
    for guest in &guests {
        vcpus = vcpus.saturating_add(u64::from(guest.vcpus));
        memory_mib = memory_mib.saturating_add(guest.memory_mib);
        capacity = capacity.saturating_add(guest.capacity_bytes);
        allocated = allocated.saturating_add(guest.allocated_bytes);
        copy = copy.saturating_add(if guest.allocated_bytes > 0 {
            guest.allocated_bytes
        } else {
            guest.capacity_bytes
        });
        let mut seen = BTreeSet::new();
        for finding in &guest.findings {
            if matches!(finding.severity, Severity::Block | Severity::Warn) && seen.insert(&finding.id) {
                let entry = risks
                    .entry((finding.severity, finding.id.clone()))
                    .or_insert_with(|| (0, finding.message.clone()));
                entry.0 += 1;
            }
        }
    }
    let mut risks: Vec<((Severity, String), (u32, String))> = risks.into_iter().collect();
    risks.sort_by_key(|((severity, _), (count, _))| (*severity, std::cmp::Reverse(*count)));
    let per_host = u64::from(options.host_cores.max(1)).saturating_mul(u64::from(options.vcpus_per_core.max(1)));
    let hosts = vcpus
        .div_ceil(per_host)
        .max(memory_mib.div_ceil(options.host_memory_mib.max(1)));
    let hosts = u32::try_from(hosts).unwrap_or(u32::MAX);
    EstateReport {
        stamp: Stamp::now(tool),
        vcpus,
        memory_mib,
        capacity_bytes: capacity,
        allocated_bytes: allocated,
        risks: risks
            .into_iter()
            .map(|((_, id), (guests, message))| EstateRisk { id, guests, message })
            .collect(),
        sizing: EstateSizing {
            host_cores: options.host_cores,
            host_memory_mib: options.host_memory_mib,
            vcpus_per_core: options.vcpus_per_core,
            hosts,
            hosts_with_spare: hosts.saturating_add(1),
        },
        copy_bytes_per_second: options.copy_bytes_per_second,
        copy_seconds: copy.div_ceil(options.copy_bytes_per_second.max(1)),
        guests,
    }
}
