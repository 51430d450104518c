//! An estate in words: the summary, Markdown, CSV.

use super::csv::{safe, word};
use super::format::{bytes, counted, duration, float, number};
use super::markdown::{heading, row, text};
use crate::limits::{ComparisonRow, comparison};
use crate::schema::{EstateGuest, EstateLimit, EstateReport, EstateVerdict, LimitUse, Severity};
use std::fmt::Write as _;

/// Order of the user's comparison.
const ASPECTS: [&str; 8] = [
    "base-os",
    "licence",
    "hypervisor",
    "containers",
    "architecture",
    "installation",
    "memory",
    "cpus",
];

/// An aspect with a row for each product, where there is one.
type Aspect = (&'static str, Vec<Option<&'static ComparisonRow>>);

/// The user's comparison: the products, and for each aspect the rows of the products in that order.
pub(super) fn compared() -> (Vec<&'static str>, Vec<Aspect>) {
    let rows = comparison();
    let mut products: Vec<&str> = Vec::new();
    for row in rows {
        if !products.contains(&row.product.as_str()) {
            products.push(&row.product);
        }
    }
    let mut keys: Vec<&str> = ASPECTS.to_vec();
    for row in rows {
        if !keys.contains(&row.key.as_str()) {
            keys.push(&row.key);
        }
    }
    let table = keys
        .into_iter()
        .filter_map(|key| {
            let aspect = rows.iter().find(|row| row.key == key)?.aspect.as_str();
            let cells = products
                .iter()
                .map(|product| rows.iter().find(|row| row.key == key && row.product == **product))
                .collect();
            Some((aspect, cells))
        })
        .collect();
    (products, table)
}

/// Guests of a verdict.
pub(super) fn with_verdict(report: &EstateReport, verdict: EstateVerdict) -> usize {
    report.guests.iter().filter(|guest| guest.verdict == verdict).count()
}

/// Text with every count: verdicts, sums, copy, hosts. One sentence or two an entry.
#[must_use]
pub fn estate_summary(report: &EstateReport) -> Vec<String> {
    let count = |verdict| with_verdict(report, verdict);
    let sizing = &report.sizing;
    let mut lines = vec![
        format!(
            "{}: {} ready, {} with something to look at, {} blocked, {} unreadable.",
            counted(report.guests.len(), "guest", "guests"),
            count(EstateVerdict::Ready),
            count(EstateVerdict::Attention),
            count(EstateVerdict::Blocked),
            count(EstateVerdict::Unreadable)
        ),
        format!(
            "Together {} vCPUs, {} of memory, {} of disks as the guests see them, {} of them stored.",
            number(float(report.vcpus)),
            bytes(report.memory_mib.saturating_mul(1 << 20)),
            bytes(report.capacity_bytes),
            bytes(report.allocated_bytes)
        ),
        format!(
            "The copy takes {} at {} a second.",
            duration(float(report.copy_seconds)),
            bytes(report.copy_bytes_per_second)
        ),
        format!(
            "{} with {} logical CPUs and {} carry the load at {} a CPU; {} with one to spare (N+1).",
            counted(usize_of(sizing.hosts), "host", "hosts"),
            sizing.host_cores,
            bytes(sizing.host_memory_mib.saturating_mul(1 << 20)),
            counted(usize_of(sizing.vcpus_per_core), "vCPU", "vCPUs"),
            sizing.hosts_with_spare
        ),
    ];
    if sizing.too_large > 0 {
        lines.push(format!(
            "{} larger than one such host and in no count of hosts.",
            counted(usize_of(sizing.too_large), "guest is", "guests are")
        ));
    }
    if let Some(fleet) = &sizing.fleet {
        let found = |left: u32| match left {
            0 => "every guest finds a place".to_owned(),
            1 => "1 guest finds no place".to_owned(),
            more => format!("{more} guests find no place"),
        };
        lines.push(format!(
            "The hosts described take {} vCPUs and {}: with all of them up {}, with the largest one down {}.",
            number(float(fleet.vcpus)),
            bytes(fleet.memory_mib.saturating_mul(1 << 20)),
            found(fleet.unplaced),
            found(fleet.unplaced_with_spare)
        ));
    }
    lines
}

fn usize_of(number: u32) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

/// Ids of the guest's open findings of a severity, each once.
pub(super) fn ids(guest: &EstateGuest, severity: Severity) -> Vec<&str> {
    let mut ids: Vec<&str> = Vec::new();
    for finding in &guest.findings {
        if finding.severity == severity && finding.suppressed.is_none() && !ids.contains(&finding.id.as_str()) {
            ids.push(&finding.id);
        }
    }
    ids
}

pub(super) const fn verdict_word(verdict: EstateVerdict) -> &'static str {
    match verdict {
        EstateVerdict::Ready => "ready",
        EstateVerdict::Attention => "look at it",
        EstateVerdict::Blocked => "blocked",
        EstateVerdict::Unreadable => "unreadable",
    }
}

/// A line a guest, for a spreadsheet. Fields that it would take for a formula get an apostrophe in front.
///
/// # Panics
/// Never: it writes into memory.
#[must_use]
pub fn estate_csv(report: &EstateReport) -> String {
    let mut writer = csv::Writer::from_writer(Vec::new());
    let header = [
        "guest",
        "source",
        "uuid",
        "hardware_version",
        "guest_os",
        "vcpus",
        "memory_mib",
        "disks",
        "capacity_bytes",
        "allocated_bytes",
        "networks",
        "firmware",
        "verdict",
        "effort",
        "wave",
        "blocks",
        "warnings",
        "limits_passed",
        "error",
    ];
    writer.write_record(header).expect("memory can be written");
    for guest in &report.guests {
        let passed: Vec<String> = guest
            .limits
            .iter()
            .filter(|limit| !limit.fits)
            .map(|limit| {
                format!(
                    "{} {} {}: {} of {} {}",
                    limit.product, limit.version, limit.quantity, limit.used, limit.allowed, limit.unit
                )
            })
            .collect();
        let fields = [
            safe(&guest.name),
            safe(&guest.source),
            guest.uuid.clone().unwrap_or_default(),
            guest.hw_version.map(|version| version.to_string()).unwrap_or_default(),
            safe(&guest.guest_os),
            guest.vcpus.to_string(),
            guest.memory_mib.to_string(),
            guest.disks.to_string(),
            guest.capacity_bytes.to_string(),
            guest.allocated_bytes.to_string(),
            safe(&guest.networks.join("; ")),
            safe(&guest.firmware),
            word(&guest.verdict),
            guest.effort.to_string(),
            guest.wave.to_string(),
            ids(guest, Severity::Block).join("; "),
            ids(guest, Severity::Warn).join("; "),
            safe(&passed.join("; ")),
            safe(guest.error.as_deref().unwrap_or_default()),
        ];
        writer.write_record(&fields).expect("memory can be written");
    }
    let bytes = writer.into_inner().expect("memory can be flushed");
    String::from_utf8(bytes).expect("only strings were written")
}

/// Markdown with the same order as the page. Text of guests is escaped, so that it cannot become markup.
#[must_use]
pub fn estate_markdown(report: &EstateReport) -> String {
    let mut out = String::from("# Assessment of the estate\n\n");
    for line in estate_summary(report) {
        let _ = writeln!(out, "- {}", text(&line));
    }
    let _ = writeln!(
        out,
        "\nWritten {} by {}.",
        text(&report.stamp.created),
        text(&report.stamp.tool)
    );
    products(&mut out);
    heading(
        &mut out,
        "Biggest risks",
        &["Severity", "Guests", "Check", "What it means", "What to do"],
    );
    for risk in &report.risks {
        let cells = [
            word(&risk.severity),
            risk.guests.to_string(),
            text(&risk.id),
            text(&risk.message),
            text(&risk.fix),
        ];
        row(&mut out, &cells);
    }
    heading(
        &mut out,
        "Waves",
        &[
            "Wave",
            "Guests",
            "Blocked",
            "vCPUs",
            "Memory",
            "To copy",
            "Copy takes",
            "Networks",
        ],
    );
    for wave in &report.waves {
        let cells = [
            wave.number.to_string(),
            wave.guests.to_string(),
            wave.blocked.to_string(),
            wave.vcpus.to_string(),
            bytes(wave.memory_mib.saturating_mul(1 << 20)),
            bytes(wave.copy_bytes),
            duration(float(wave.copy_seconds)),
            text(&wave.networks.join(", ")),
        ];
        row(&mut out, &cells);
    }
    limits(&mut out, "Documented limits", &report.limits);
    for host in &report.hosts {
        let title = format!(
            "Host {}: {} {}, {} logical CPUs, {} GiB; {} larger than it",
            text(&host.name),
            text(&host.product),
            text(&host.version),
            host.logical_cpus,
            host.memory_gib,
            counted(usize_of(host.too_large), "guest", "guests")
        );
        heading(&mut out, &title, &LIMIT_COLUMNS);
        for limit in &host.limits {
            row(&mut out, &limit_cells(limit, &host.name, u32::from(!limit.fits)));
        }
    }
    heading(
        &mut out,
        "Guests",
        &[
            "Guest",
            "OS",
            "vCPUs",
            "Memory",
            "Disks",
            "Size",
            "Verdict",
            "Effort",
            "Wave",
            "What stands against it",
        ],
    );
    for guest in &report.guests {
        let mut against: Vec<String> = Vec::new();
        against.extend(guest.error.clone());
        for (severity, name) in [(Severity::Block, "block"), (Severity::Warn, "warn")] {
            let ids = ids(guest, severity);
            if !ids.is_empty() {
                against.push(format!("{name}: {}", ids.join(", ")));
            }
        }
        let cells = [
            text(&guest.name),
            text(&guest.guest_os),
            guest.vcpus.to_string(),
            bytes(guest.memory_mib.saturating_mul(1 << 20)),
            guest.disks.to_string(),
            bytes(guest.capacity_bytes),
            verdict_word(guest.verdict).to_owned(),
            guest.effort.to_string(),
            guest.wave.to_string(),
            text(&against.join("; ")),
        ];
        row(&mut out, &cells);
    }
    out
}

fn products(out: &mut String) {
    let (products, table) = compared();
    let mut columns = vec!["Aspect"];
    columns.extend(&products);
    heading(out, "Products compared", &columns);
    for (aspect, cells) in table {
        let mut line = vec![text(aspect)];
        line.extend(cells.into_iter().map(|cell| {
            cell.map_or_else(String::new, |cell| {
                let stated = cell
                    .stated
                    .as_ref()
                    .map(|stated| format!("**{}** (as stated by the user). Other sources: ", text(stated)))
                    .unwrap_or_default();
                format!(
                    "{stated}{} ({}: {})",
                    text(&cell.found),
                    cell.confidence.as_str(),
                    text(&cell.source)
                )
            })
        }));
        row(out, &line);
    }
    out.push_str(
        "\nA: primary source or measured; B: secondary source; U: stated by the user of this project, printed and never enforced.\n",
    );
}

const LIMIT_COLUMNS: [&str; 8] = [
    "Limit", "Used by", "Used", "Allowed", "Headroom", "Result", "Beyond", "Source",
];

fn limits(out: &mut String, title: &str, limits: &[EstateLimit]) {
    heading(out, title, &LIMIT_COLUMNS);
    for limit in limits {
        row(out, &limit_cells(&limit.limit, &limit.guest, limit.beyond));
    }
}

fn limit_cells(limit: &LimitUse, who: &str, beyond: u32) -> [String; 8] {
    [
        text(&format!(
            "{} {}: {} ({})",
            limit.product, limit.version, limit.quantity, limit.scope
        )),
        text(who),
        number(limit.used),
        format!("{} {}", number(limit.allowed), text(&limit.unit)),
        number(headroom(limit)),
        word(&limit.effect),
        beyond.to_string(),
        text(&format!("{} ({})", limit.source, limit.confidence)),
    ]
}

/// Positive where there is room, for lower bounds too.
fn headroom(limit: &LimitUse) -> f64 {
    if limit.quantity.ends_with("(at least)") {
        -limit.headroom()
    } else {
        limit.headroom()
    }
}
