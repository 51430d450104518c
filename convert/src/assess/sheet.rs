//! RVTools' export: the sheet `vInfo` of an xlsx file, or `RVTools_tabvInfo.csv`.

use super::unreadable;
use calamine::{Data, Reader as _};
use reports::schema::{EstateGuest, EstateVerdict, Finding, Severity};
use std::path::Path;

/// Reads the guests of a spreadsheet; a row that can't be read becomes a row that says so.
pub(super) fn read(path: &Path) -> Result<Vec<EstateGuest>, String> {
    let is_csv = path
        .extension()
        .is_some_and(|extension| extension.eq_ignore_ascii_case("csv"));
    let rows: Vec<Vec<String>> = if is_csv { csv_rows(path)? } else { xlsx_rows(path)? };
    let mut rows = rows.into_iter();
    let head: Vec<String> = rows
        .next()
        .ok_or("the sheet is empty")?
        .iter()
        .map(|cell| cell.trim().to_ascii_lowercase())
        .collect();
    if !head.iter().any(|cell| cell == "vm") {
        return Err("no column \"VM\": export the tab vInfo of RVTools".to_owned());
    }
    Ok(rows
        .enumerate()
        .filter(|(_, cells)| cells.iter().any(|cell| !cell.trim().is_empty()))
        .map(|(number, cells)| guest(&format!("{} row {}", path.display(), number + 2), &head, &cells))
        .collect())
}

fn csv_rows(path: &Path) -> Result<Vec<Vec<String>>, String> {
    let text = std::fs::read(path).map_err(|error| error.to_string())?;
    let text = String::from_utf8_lossy(&text);
    let text = text.trim_start_matches('\u{feff}');
    // Excel writes semicolons where the comma is the decimal sign.
    let line = text.lines().next().unwrap_or_default();
    let delimiter = if line.matches(';').count() > line.matches(',').count() {
        b';'
    } else {
        b','
    };
    csv::ReaderBuilder::new()
        .delimiter(delimiter)
        .has_headers(false)
        .flexible(true)
        .from_reader(text.as_bytes())
        .records()
        .map(|record| {
            let record = record.map_err(|error| error.to_string())?;
            Ok(record.iter().map(str::to_owned).collect())
        })
        .collect()
}

fn xlsx_rows(path: &Path) -> Result<Vec<Vec<String>>, String> {
    let mut book: calamine::Xlsx<_> =
        calamine::open_workbook(path).map_err(|error: calamine::XlsxError| error.to_string())?;
    let names = book.sheet_names();
    let name = names
        .iter()
        .find(|name| name.to_ascii_lowercase().ends_with("vinfo"))
        .or(names.first())
        .cloned()
        .ok_or("the workbook has no sheet")?;
    let range = book.worksheet_range(&name).map_err(|error| error.to_string())?;
    Ok(range
        .rows()
        .map(|row| {
            row.iter()
                .map(|cell| match cell {
                    Data::Empty => String::new(),
                    other => other.to_string(),
                })
                .collect()
        })
        .collect())
}

fn guest(source: &str, head: &[String], cells: &[String]) -> EstateGuest {
    let cell = |names: &[&str]| {
        names
            .iter()
            .find_map(|name| head.iter().position(|cell| cell == name))
            .and_then(|column| cells.get(column))
            .map(|cell| cell.trim())
            .filter(|cell| !cell.is_empty())
    };
    // Numbers come with thousands signs of any country; all quantities of RVTools are whole.
    let number = |names: &[&str]| -> Option<u64> {
        let text = cell(names)?;
        let whole = text.strip_suffix(".0").unwrap_or(text);
        let digits: String = whole.chars().filter(char::is_ascii_digit).collect();
        let fits = whole
            .chars()
            .all(|c| c.is_ascii_digit() || c.is_whitespace() || ".,'\u{2019}".contains(c));
        fits.then(|| digits.parse().ok()).flatten()
    };
    let name = cell(&["vm"]).unwrap_or_default().to_owned();
    let (Some(vcpus), Some(memory_mib)) = (number(&["cpus"]), number(&["memory", "size mib", "memory mib"])) else {
        return unreadable(source.to_owned(), name, "no readable CPUs or Memory".to_owned());
    };
    let bytes = |names: &[&str]| number(names).and_then(|mib| mib.checked_mul(1 << 20)).unwrap_or(0);
    let mut findings = Vec::new();
    if cell(&["powerstate"]).is_some_and(|state| state.eq_ignore_ascii_case("suspended")) {
        findings.push(Finding {
            id: "vm.suspended".to_owned(),
            severity: Severity::Block,
            message: "The guest is suspended: its memory isn't moved, and its file systems are open.".to_owned(),
            evidence: "Powerstate suspended".to_owned(),
            fix: "Resume it and shut it down cleanly.".to_owned(),
            suppressed: None,
        });
    }
    let blocked = !findings.is_empty();
    EstateGuest {
        name,
        source: source.to_owned(),
        guest_os: cell(&[
            "os according to the configuration file",
            "os according to the vmware tools",
            "os",
        ])
        .unwrap_or("not declared")
        .to_owned(),
        vcpus: u32::try_from(vcpus).unwrap_or(u32::MAX),
        memory_mib,
        disks: number(&["disks"])
            .and_then(|count| u32::try_from(count).ok())
            .unwrap_or(0),
        capacity_bytes: bytes(&["provisioned mib", "provisioned mb", "total disk capacity mib"]),
        allocated_bytes: bytes(&["in use mib", "in use mb"]),
        networks: (1..=8)
            .filter_map(|number| cell(&[&format!("network #{number}")]).map(str::to_owned))
            .collect(),
        firmware: match cell(&["firmware"]).map(str::to_ascii_lowercase).as_deref() {
            Some("efi") => "uefi".to_owned(),
            Some(other) => other.to_owned(),
            None => String::new(),
        },
        // The sheet knows little: without the files a guest is never called ready.
        verdict: if blocked {
            EstateVerdict::Blocked
        } else {
            EstateVerdict::Attention
        },
        effort: if blocked { 6 } else { 1 },
        wave: 0,
        error: None,
        findings,
    }
}
