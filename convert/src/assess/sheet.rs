//! RVTools' export: a workbook (xlsx), or the tab `vInfo` as CSV with the other tabs beside it.
//!
//! `vInfo` makes the guests; `vDisk`, `vNetwork`, `vPartition`, `vSnapshot`, `vTools` and `vUSB` add to them where they are there. Columns are
//! found by name, so their order and those that are missing don't matter.

use super::{judge, unreadable};
use crate::preflight;
use calamine::{Data, Reader as _};
use reports::schema::{EstateGuest, Finding};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::Path;

const TABS: [&str; 6] = ["vDisk", "vNetwork", "vPartition", "vSnapshot", "vTools", "vUSB"];

/// One tab: names of columns in lower case, and the rows.
#[derive(Debug, Default)]
struct Tab {
    columns: Vec<String>,
    rows: Vec<Vec<String>>,
}

impl Tab {
    fn new(mut rows: impl Iterator<Item = Vec<String>>) -> Self {
        let columns = rows
            .next()
            .unwrap_or_default()
            .iter()
            .map(|cell| cell.trim().trim_start_matches('\u{feff}').to_ascii_lowercase())
            .collect();
        Self {
            columns,
            rows: rows.collect(),
        }
    }

    fn has(&self, name: &str) -> bool {
        self.columns.iter().any(|column| column == name)
    }

    fn line<'a>(&'a self, cells: &'a [String]) -> Line<'a> {
        Line { tab: self, cells }
    }
}

/// A row of a tab.
#[derive(Debug, Clone, Copy)]
struct Line<'a> {
    tab: &'a Tab,
    cells: &'a [String],
}

impl<'a> Line<'a> {
    /// The first of the columns that isn't empty.
    fn cell(&self, names: &[&str]) -> Option<&'a str> {
        names
            .iter()
            .filter_map(|name| self.tab.columns.iter().position(|column| column == name))
            .filter_map(|column| self.cells.get(column))
            .map(|cell| cell.trim())
            .find(|cell| !cell.is_empty())
    }

    /// A whole number. They come with thousands signs of any country; all quantities of RVTools are whole.
    fn number(&self, names: &[&str]) -> Option<u64> {
        let text = self.cell(names)?;
        let whole = text.strip_suffix(".0").unwrap_or(text);
        let fits = whole
            .chars()
            .all(|c| c.is_ascii_digit() || c.is_whitespace() || ".,'\u{2019}".contains(c));
        let digits: String = whole.chars().filter(char::is_ascii_digit).collect();
        fits.then(|| digits.parse().ok()).flatten()
    }

    fn mib(&self, names: &[&str]) -> Option<u64> {
        self.number(names).and_then(|mib| mib.checked_mul(1 << 20))
    }

    fn is(&self, name: &str, value: &str) -> bool {
        self.cell(&[name]).is_some_and(|cell| cell.eq_ignore_ascii_case(value))
    }

    fn is_true(&self, name: &str) -> bool {
        self.is(name, "true") || self.is(name, "1") || self.is(name, "yes")
    }

    /// What joins the tabs: the managed object's id, or the name in exports without it.
    fn key(&self) -> Option<&'a str> {
        self.cell(&["vm id", "vm"])
    }
}

/// The export as a whole.
struct Book {
    info: Tab,
    others: BTreeMap<&'static str, Tab>,
}

/// Reads the guests of an export; a row that can't be read becomes a row that says so.
pub(super) fn read(path: &Path, suppress: &BTreeMap<String, String>) -> Result<Vec<EstateGuest>, String> {
    let is_csv = path
        .extension()
        .is_some_and(|extension| extension.eq_ignore_ascii_case("csv"));
    let book = if is_csv { from_csv(path)? } else { from_xlsx(path)? };
    for column in ["vm", "cpus"] {
        if !book.info.has(column) {
            return Err(format!(
                "no column \"{column}\": give RVTools' workbook, or its tab vInfo as CSV"
            ));
        }
    }
    // Rows of the other tabs by guest.
    let mut by_guest: HashMap<&str, Vec<(&'static str, Line<'_>)>> = HashMap::new();
    for (name, tab) in &book.others {
        for cells in &tab.rows {
            let line = tab.line(cells);
            if let Some(key) = line.key() {
                by_guest.entry(key).or_default().push((name, line));
            }
        }
    }
    Ok(book
        .info
        .rows
        .iter()
        .enumerate()
        .filter(|(_, cells)| cells.iter().any(|cell| !cell.trim().is_empty()))
        .map(|(number, cells)| {
            let line = book.info.line(cells);
            let parts = line
                .key()
                .and_then(|key| by_guest.get(key))
                .map_or(&[][..], Vec::as_slice);
            guest(&format!("{} row {}", path.display(), number + 2), line, parts, suppress)
        })
        .collect())
}

fn from_csv(path: &Path) -> Result<Book, String> {
    let info = csv_tab(path)?;
    let name = path
        .file_name()
        .map(|name| name.to_string_lossy().into_owned())
        .unwrap_or_default();
    let mut others = BTreeMap::new();
    // `RVTools_tabvInfo.csv` has `RVTools_tabvDisk.csv` beside it.
    for tab in TABS {
        let beside = path.with_file_name(name.replace("vInfo", tab));
        if name.contains("vInfo") && beside.is_file() {
            others.insert(tab, csv_tab(&beside)?);
        }
    }
    Ok(Book { info, others })
}

fn csv_tab(path: &Path) -> Result<Tab, String> {
    let bytes = std::fs::read(path).map_err(|error| format!("{}: {error}", path.display()))?;
    let text = String::from_utf8_lossy(&bytes);
    let text = text.trim_start_matches('\u{feff}');
    // Excel writes semicolons where the comma is the decimal sign.
    let first = text.lines().next().unwrap_or_default();
    let count = |sign: char| first.matches(sign).count();
    let delimiter = if count(';') > count(',') { b';' } else { b',' };
    let rows: Result<Vec<Vec<String>>, String> = csv::ReaderBuilder::new()
        .delimiter(delimiter)
        .has_headers(false)
        .flexible(true)
        .from_reader(text.as_bytes())
        .records()
        .map(|record| {
            let record = record.map_err(|error| format!("{}: {error}", path.display()))?;
            Ok(record.iter().map(str::to_owned).collect())
        })
        .collect();
    Ok(Tab::new(rows?.into_iter()))
}

fn from_xlsx(path: &Path) -> Result<Book, String> {
    let mut book: calamine::Xlsx<_> =
        calamine::open_workbook(path).map_err(|error: calamine::XlsxError| error.to_string())?;
    let names = book.sheet_names();
    let named = |tab: &str| {
        names
            .iter()
            .find(|name| name.to_ascii_lowercase().ends_with(&tab.to_ascii_lowercase()))
            .cloned()
    };
    let first = named("vInfo")
        .or_else(|| names.first().cloned())
        .ok_or("the workbook has no sheet")?;
    let info = xlsx_tab(&mut book, &first)?;
    let mut others = BTreeMap::new();
    for tab in TABS {
        if let Some(name) = named(tab) {
            others.insert(tab, xlsx_tab(&mut book, &name)?);
        }
    }
    Ok(Book { info, others })
}

fn xlsx_tab<R: std::io::Read + std::io::Seek>(book: &mut calamine::Xlsx<R>, name: &str) -> Result<Tab, String> {
    let range = book
        .worksheet_range(name)
        .map_err(|error| format!("sheet {name}: {error}"))?;
    let rows = range.rows().map(|row| {
        row.iter()
            .map(|cell| match cell {
                Data::Empty => String::new(),
                other => other.to_string(),
            })
            .collect()
    });
    Ok(Tab::new(rows))
}

fn guest(
    source: &str,
    line: Line<'_>,
    parts: &[(&'static str, Line<'_>)],
    suppress: &BTreeMap<String, String>,
) -> EstateGuest {
    let name = line.cell(&["vm"]).unwrap_or_default().to_owned();
    let (Some(vcpus), Some(memory_mib)) = (
        line.number(&["cpus"]),
        line.number(&["memory", "size mib", "memory mib"]),
    ) else {
        return unreadable(source.to_owned(), name, "no readable CPUs or Memory".to_owned());
    };
    let of = |tab: &'static str| {
        parts
            .iter()
            .filter(move |(name, _)| *name == tab)
            .map(|(_, line)| *line)
    };
    let disks: Vec<u64> = of("vDisk")
        .filter_map(|disk| disk.mib(&["capacity mib", "capacity mb"]))
        .collect();
    let summed = disks.iter().fold(0, |sum: u64, bytes| sum.saturating_add(*bytes));
    let capacity = if summed > 0 {
        summed
    } else {
        line.mib(&["total disk capacity mib", "provisioned mib", "provisioned mb"])
            .unwrap_or(0)
    };
    let mut networks: BTreeSet<String> = (1..=8)
        .filter_map(|number| line.cell(&[&format!("network #{number}")]).map(str::to_owned))
        .collect();
    networks.extend(of("vNetwork").filter_map(|nic| nic.cell(&["network"]).map(str::to_owned)));
    let mut findings = findings(line, parts, source);
    preflight::suppress(&mut findings, suppress);
    let (verdict, effort) = judge(&findings);
    let count = match of("vDisk").count() {
        0 => line.number(&["disks"]).unwrap_or(0),
        known => u64::try_from(known).unwrap_or(u64::MAX),
    };
    EstateGuest {
        name,
        source: source.to_owned(),
        uuid: line.cell(&["smbios uuid"]).and_then(hex),
        hw_version: line
            .cell(&["hw version"])
            .and_then(|version| version.trim_start_matches("vmx-").parse().ok()),
        guest_os: line
            .cell(&[
                "os according to the vmware tools",
                "os according to the configuration file",
                "os",
            ])
            .unwrap_or("not declared")
            .to_owned(),
        vcpus: u32::try_from(vcpus).unwrap_or(u32::MAX),
        memory_mib,
        disks: u32::try_from(count).unwrap_or(u32::MAX),
        capacity_bytes: capacity,
        largest_disk_bytes: disks.iter().copied().max().unwrap_or(0),
        allocated_bytes: line.mib(&["in use mib", "in use mb"]).unwrap_or(0),
        networks: networks.into_iter().collect(),
        firmware: match line.cell(&["firmware"]).map(str::to_ascii_lowercase).as_deref() {
            Some("efi") => "uefi".to_owned(),
            Some(other) => other.to_owned(),
            None => String::new(),
        },
        verdict,
        effort,
        wave: 0,
        error: None,
        findings,
        limits: Vec::new(),
    }
}

/// 32 hexadecimal digits in lower case.
fn hex(text: &str) -> Option<String> {
    let digits: String = text
        .chars()
        .filter(char::is_ascii_hexdigit)
        .map(|c| c.to_ascii_lowercase())
        .collect();
    (digits.len() == 32).then_some(digits)
}

/// The checks that a sheet can answer, with the register's words.
fn findings(line: Line<'_>, parts: &[(&'static str, Line<'_>)], source: &str) -> Vec<Finding> {
    let mut found = Vec::new();
    let mut add = |fires: bool, id: &str, evidence: String| {
        if fires {
            found.push(preflight::finding(id, evidence));
        }
    };
    let column = |name: &str| {
        format!(
            "{name} = {}",
            line.cell(&[&name.to_ascii_lowercase()]).unwrap_or_default()
        )
    };
    add(line.is("powerstate", "suspended"), "vm.suspended", column("Powerstate"));
    let is_on = line.is("powerstate", "poweredOn");
    add(is_on, "vm.running", column("Powerstate"));
    add(
        line.is_true("consolidation needed"),
        "snapshot.consolidation-needed",
        column("Consolidation Needed"),
    );
    add(
        line.is("dns name", "localhost.localdomain"),
        "host.name-default",
        column("DNS Name"),
    );
    add(true, "vm.sheet-only", source.to_owned());
    add(line.is_true("template"), "vm.template", column("Template"));
    add(line.is("firmware", "efi"), "firmware.nvram-lost", column("Firmware"));
    add(
        line.is_true("efi secure boot"),
        "secureboot.enabled",
        column("EFI Secure boot"),
    );
    add(line.is_true("enableuuid"), "disk.enable-uuid", column("EnableUUID"));
    let tolerant = line
        .cell(&["ft state"])
        .is_some_and(|state| !state.eq_ignore_ascii_case("notConfigured"));
    add(tolerant, "vm.fault-tolerance", column("FT State"));
    let sensitive = line
        .cell(&["latency sensitivity"])
        .is_some_and(|level| level.eq_ignore_ascii_case("high") || level.eq_ignore_ascii_case("medium"));
    add(sensitive, "cpu.latency-sensitivity", column("Latency Sensitivity"));
    let nics = line.number(&["nics"]).unwrap_or(0);
    add(nics > 32, "target.limit-nic", format!("{nics} NICs"));
    let mut snapshots = 0_usize;
    for (tab, part) in parts {
        let label = part.cell(&["disk", "nic label", "device node", "name"]).unwrap_or(tab);
        let says = |name: &str| {
            let value = part.cell(&[&name.to_ascii_lowercase()]).unwrap_or_default();
            format!("{label}: {name} = {value}")
        };
        match *tab {
            "vDisk" => {
                let physical = part.is("raw comp. mode", "physicalMode");
                add(
                    part.is_true("raw") && physical,
                    "disk.rdm-physical",
                    says("Raw Comp. Mode"),
                );
                add(
                    part.is_true("raw") && !physical,
                    "disk.rdm-virtual",
                    says("Raw Comp. Mode"),
                );
                let writers = part.is("sharing mode", "sharingMultiWriter");
                add(writers, "disk.shared", says("Sharing mode"));
                let bus = part.is("shared bus", "physicalSharing") || part.is("shared bus", "virtualSharing");
                add(bus && !writers, "disk.shared", says("Shared Bus"));
                let mode = |mode: &str| part.is("disk mode", mode);
                add(
                    mode("independent_persistent"),
                    "disk.independent-persistent",
                    says("Disk Mode"),
                );
                add(
                    mode("independent_nonpersistent"),
                    "disk.independent-nonpersistent",
                    says("Disk Mode"),
                );
                let controller = part.cell(&["controller"]).unwrap_or_default().to_ascii_lowercase();
                add(controller.contains("nvme"), "nvme.not-native", says("Controller"));
                add(controller.contains("buslogic"), "scsi.buslogic", says("Controller"));
            }
            "vNetwork" => {
                let adapter = part.cell(&["adapter"]).unwrap_or_default().to_ascii_lowercase();
                let old = matches!(
                    adapter.as_str(),
                    "vmxnet" | "vmxnet2" | "pcnet32" | "vlance" | "flexible"
                );
                add(old, "nic.model-obsolete", says("Adapter"));
                add(
                    part.is("starts connected", "false"),
                    "nic.start-disconnected",
                    says("Starts Connected"),
                );
            }
            "vPartition" => {
                // The least that a conversion needs, as `guest.space` has it from the disks themselves.
                let disk = part.cell(&["disk"]).unwrap_or_default();
                let least = match disk.trim_end_matches('\\') {
                    "/" | "C:" | "c:" => 100,
                    "/boot" => 50,
                    _ => 10,
                };
                let free = part.number(&["free mib", "free mb"]);
                add(
                    free.is_some_and(|free| free < least),
                    "guest.space",
                    format!("{disk}: {} MiB free, {least} MiB are needed", free.unwrap_or(0)),
                );
            }
            "vTools" => add(
                is_on && (part.is("tools", "toolsNotRunning") || part.is("tools", "toolsNotInstalled")),
                "tools.not-running",
                says("Tools"),
            ),
            "vSnapshot" => snapshots += 1,
            "vUSB" => add(part.is_true("connected"), "device.usb", says("Device Type")),
            _ => {}
        }
    }
    add(snapshots > 0, "snapshot.present", format!("{snapshots} snapshots"));
    add(snapshots > 3, "snapshot.many", format!("{snapshots} snapshots"));
    found.sort_by_key(|finding| finding.severity);
    found
}

/// Guests that are known from their files: by UUID and by name.
#[derive(Debug)]
pub(super) struct Known {
    by_name: HashMap<String, Vec<usize>>,
    by_uuid: HashMap<String, Vec<usize>>,
    uuids: Vec<Option<String>>,
}

impl Known {
    pub(super) fn new(guests: &[EstateGuest]) -> Self {
        let mut known = Self {
            by_name: HashMap::new(),
            by_uuid: HashMap::new(),
            uuids: guests.iter().map(|guest| guest.uuid.clone()).collect(),
        };
        for (number, guest) in guests.iter().enumerate().filter(|(_, guest)| guest.error.is_none()) {
            known.by_name.entry(guest.name.to_lowercase()).or_default().push(number);
            if let Some(uuid) = &guest.uuid {
                known.by_uuid.entry(uuid.clone()).or_default().push(number);
            }
        }
        known
    }

    /// The guest that a row of a sheet speaks of. Clones share a UUID, and folders may hold guests of one name: where
    /// either leaves a choice, the other decides; where both do, the row stays.
    ///
    /// `unique`: no other row of the sheet has this UUID.
    pub(super) fn find(&self, row: &EstateGuest, unique: bool) -> Option<usize> {
        let named = self
            .by_name
            .get(&row.name.to_lowercase())
            .map_or(&[][..], Vec::as_slice);
        let same = row
            .uuid
            .as_ref()
            .and_then(|uuid| self.by_uuid.get(uuid))
            .map_or(&[][..], Vec::as_slice);
        let both: Vec<usize> = named.iter().copied().filter(|number| same.contains(number)).collect();
        match (both.as_slice(), same, named) {
            ([one], _, _) => Some(*one),
            ([], [one], []) if unique => Some(*one),
            ([], [], [one]) if row.uuid.is_none() || self.uuids[*one].is_none() => Some(*one),
            _ => None,
        }
    }
}
