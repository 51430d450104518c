//! An estate judged at once: trees of VMX, OVF and OVA files, and the spreadsheets that RVTools exports.
//!
//! A broken file costs its own row. Memory holds the rows, and a few descriptions for each processor that reads them.

mod ahead;
mod pairs;
mod plan;
mod sheet;

use crate::machine::Machine;
use crate::source::{ImportOptions, Imported};
use crate::targets::{NetworkMap, Target};
use reports::schema::{EstateGuest, EstateReport, EstateRisk, EstateVerdict, Finding, Severity, Stamp};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

/// What the user may say about an assessment.
#[derive(Debug, Clone)]
pub struct AssessOptions {
    /// Options of each import.
    pub import: ImportOptions,
    /// Most guests in a wave.
    pub wave_guests: usize,
    /// The map that the targets will be written with, and these; absent: nothing is said of places.
    pub map: Option<(NetworkMap, Vec<Target>)>,
    /// Logical CPUs of one target host.
    pub host_cores: u32,
    /// Memory that guests may use of one target host, in MiB.
    pub host_memory_mib: u64,
    /// Target hosts that exist or are planned: logical CPUs and memory in MiB of each. May be empty.
    pub fleet: Vec<(u32, u64)>,
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
            map: None,
            host_cores: 32,
            host_memory_mib: 512 * 1024,
            fleet: Vec::new(),
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
        error: Some(error),
        ..EstateGuest::default()
    }
}

/// Is told of each guest as soon as it was judged, and may add to its row. The machine is missing for rows of a sheet and
/// for what can't be read.
pub type OnGuest<'a> = dyn FnMut(&mut EstateGuest, Option<&Machine>) + 'a;

/// The rows, and who is told of each.
struct Rows<'a> {
    guests: Vec<EstateGuest>,
    pairs: pairs::Pairs,
    on_guest: &'a mut OnGuest<'a>,
}

impl Rows<'_> {
    fn add(&mut self, mut guest: EstateGuest, machine: Option<&Machine>) {
        (self.on_guest)(&mut guest, machine);
        self.guests.push(guest);
    }

    fn add_read(&mut self, guest: ahead::Guest) {
        if let Some((machine, disks)) = guest.source.as_deref() {
            self.pairs.see(self.guests.len(), &self.guests, machine, disks);
        }
        self.add(guest.row, guest.source.as_deref().map(|(machine, _)| machine));
    }
}

/// Judges the guests of `sources`: files, and folders that are searched through. `tool` goes into the stamp.
///
/// Where `cancel` is set the rows found so far are returned.
#[must_use]
pub fn assess<'a>(
    sources: &[PathBuf],
    options: &AssessOptions,
    tool: &str,
    on_guest: &'a mut OnGuest<'a>,
    cancel: &AtomicBool,
) -> EstateReport {
    let mut rows = Rows {
        guests: Vec::new(),
        pairs: pairs::Pairs::default(),
        on_guest,
    };
    let entries = sources
        .iter()
        .filter(|source| !is_sheet(source))
        .flat_map(|source| entries(source));
    ahead::read(entries, options, cancel, &mut |guest| rows.add_read(guest));
    // Sheets last: a guest whose files were read is not counted twice.
    for source in sources.iter().filter(|source| is_sheet(source)) {
        match sheet::read(source, &options.import.suppress) {
            Ok(found) => {
                let known = sheet::Known::new(&rows.guests);
                let mut uuids: HashMap<String, u32> = HashMap::new();
                for uuid in found.iter().filter_map(|guest| guest.uuid.clone()) {
                    *uuids.entry(uuid).or_default() += 1;
                }
                for guest in found {
                    let unique = guest.uuid.as_ref().is_some_and(|uuid| uuids[uuid] == 1);
                    match known.find(&guest, unique) {
                        Some(number) => rows.guests[number].source.push_str(&format!("; {}", guest.source)),
                        None => rows.add(guest, None),
                    }
                }
            }
            Err(error) => rows.add(unreadable(source.display().to_string(), stem(source), error), None),
        }
    }
    let mut guests = rows.guests;
    for (number, finding) in rows.pairs.into_findings() {
        add_finding(&mut guests[number], finding, &options.import.suppress);
    }
    plan::waves(&mut guests, options.wave_guests.max(1));
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

/// A spreadsheet by its name.
fn is_sheet(path: &Path) -> bool {
    path.extension()
        .is_some_and(|extension| extension.eq_ignore_ascii_case("xlsx") || extension.eq_ignore_ascii_case("csv"))
}

/// The descriptions below `source`, or `source` itself where it is no folder.
fn entries(source: &Path) -> Box<dyn Iterator<Item = ahead::Entry> + Send + '_> {
    if !source.is_dir() {
        return Box::new(std::iter::once(ahead::Entry::Description(source.to_owned())));
    }
    // Links are not followed: a loop would have no end.
    let found = walkdir::WalkDir::new(source).sort_by_file_name().into_iter();
    Box::new(found.filter_map(move |entry| match entry {
        Ok(entry) if entry.file_type().is_file() && is_description(entry.path()) => {
            Some(ahead::Entry::Description(entry.into_path()))
        }
        Ok(_) => None,
        Err(error) => {
            let path = error.path().unwrap_or(source).display().to_string();
            Some(ahead::Entry::Unlisted(path, error))
        }
    }))
}

fn stem(path: &Path) -> String {
    path.file_stem()
        .map(|stem| stem.to_string_lossy().into_owned())
        .unwrap_or_default()
}

fn row(path: &Path, imported: &Imported, options: &AssessOptions) -> EstateGuest {
    let machine = &imported.machine;
    let (verdict, effort) = judge(&imported.findings);
    let mut capacity: u64 = 0;
    let mut allocated: u64 = 0;
    let mut largest: u64 = 0;
    for ((disk, place), header) in machine.disks.iter().zip(&imported.disks).zip(&imported.headers) {
        let said = || header.sectors.and_then(|sectors| sectors.checked_mul(512));
        let bytes = disk.capacity_bytes.or_else(said).unwrap_or(0);
        capacity = capacity.saturating_add(bytes);
        largest = largest.max(bytes);
        allocated = allocated.saturating_add(held(place));
    }
    let networks: BTreeSet<String> = machine.nics.iter().filter_map(|nic| nic.network.clone()).collect();
    let mut row = EstateGuest {
        name: machine.name.clone(),
        source: path.display().to_string(),
        uuid: machine
            .identity
            .smbios_uuid
            .map(|uuid| uuid.iter().map(|byte| format!("{byte:02x}")).collect()),
        hw_version: machine.hw_version,
        guest_os: machine.os.title.clone(),
        vcpus: machine.cpu.vcpus,
        memory_mib: machine.memory.mib,
        disks: u32::try_from(machine.disks.len()).unwrap_or(u32::MAX),
        capacity_bytes: capacity,
        largest_disk_bytes: largest,
        allocated_bytes: allocated,
        networks: networks.into_iter().collect(),
        firmware: match machine.firmware.kind {
            crate::machine::FirmwareKind::Bios => "bios".to_owned(),
            crate::machine::FirmwareKind::Uefi => "uefi".to_owned(),
        },
        verdict,
        effort,
        wave: 0,
        error: None,
        findings: imported.findings.clone(),
        limits: Vec::new(),
    };
    if let Some((map, targets)) = &options.map {
        for place in map.missing(machine, targets) {
            let id = if place.is_network {
                "nic.network-unmapped"
            } else {
                "target.storage-not-mapped"
            };
            let evidence = format!("{}; to add: {}", place.name, place.add.trim().replace('\n', " "));
            add_finding(
                &mut row,
                crate::preflight::finding(id, evidence),
                &options.import.suppress,
            );
        }
    }
    row
}

/// Adds what was found after a guest was judged, and judges it anew.
fn add_finding(guest: &mut EstateGuest, finding: Finding, reasons: &BTreeMap<String, String>) {
    let mut finding = [finding];
    crate::preflight::suppress(&mut finding, reasons);
    guest.findings.extend(finding);
    guest.findings.sort_by_key(|finding| finding.severity);
    (guest.verdict, guest.effort) = judge(&guest.findings);
}

/// What the findings come to.
fn judge(findings: &[Finding]) -> (EstateVerdict, u32) {
    let count = |severity: Severity| {
        findings
            .iter()
            .filter(|finding| finding.severity == severity && finding.suppressed.is_none())
            .count()
    };
    let (blocks, warnings) = (count(Severity::Block), count(Severity::Warn));
    let verdict = if blocks > 0 {
        EstateVerdict::Blocked
    } else if warnings > 0 {
        EstateVerdict::Attention
    } else {
        EstateVerdict::Ready
    };
    (verdict, u32::try_from(1 + warnings + 5 * blocks).unwrap_or(u32::MAX))
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

fn summary(guests: Vec<EstateGuest>, options: &AssessOptions, tool: &str) -> EstateReport {
    let mut risks: BTreeMap<(Severity, String), EstateRisk> = BTreeMap::new();
    let (mut vcpus, mut memory_mib, mut capacity, mut allocated, mut copy) = (0_u64, 0_u64, 0_u64, 0_u64, 0_u64);
    for guest in &guests {
        vcpus = vcpus.saturating_add(u64::from(guest.vcpus));
        memory_mib = memory_mib.saturating_add(guest.memory_mib);
        capacity = capacity.saturating_add(guest.capacity_bytes);
        allocated = allocated.saturating_add(guest.allocated_bytes);
        copy = copy.saturating_add(plan::copy_bytes(guest));
        let mut seen = BTreeSet::new();
        for finding in &guest.findings {
            if matches!(finding.severity, Severity::Block | Severity::Warn)
                && finding.suppressed.is_none()
                && seen.insert(&finding.id)
            {
                risks
                    .entry((finding.severity, finding.id.clone()))
                    .or_insert_with(|| EstateRisk {
                        id: finding.id.clone(),
                        severity: finding.severity,
                        guests: 0,
                        message: finding.message.clone(),
                        fix: finding.fix.clone(),
                    })
                    .guests += 1;
            }
        }
    }
    let mut risks: Vec<EstateRisk> = risks.into_values().collect();
    risks.sort_by_key(|risk| (risk.severity, std::cmp::Reverse(risk.guests)));
    EstateReport {
        stamp: Stamp::now(tool),
        vcpus,
        memory_mib,
        capacity_bytes: capacity,
        allocated_bytes: allocated,
        risks,
        waves: plan::totals(&guests, options.copy_bytes_per_second),
        sizing: plan::sizing(&guests, options),
        limits: Vec::new(),
        hosts: Vec::new(),
        copy_bytes_per_second: options.copy_bytes_per_second,
        copy_seconds: copy.div_ceil(options.copy_bytes_per_second.max(1)),
        guests,
    }
}
