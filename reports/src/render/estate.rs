//! An estate as one page that stands alone, and as JSON.

use super::estate_text::{compared, estate_summary, ids, verdict_word, with_verdict};
use super::format::{bytes, counted, duration, float, number};
use super::html::{STYLE, environment};
use super::view::{Badge, LimitRow, badge, clean, limit_row};
use crate::limits::{ComparisonRow, comparison};
use crate::schema::{EstateGuest, EstateReport, EstateVerdict, LimitEffect, LimitUse, Severity};
use minijinja::value::Serde;
use minijinja::{Value, context};
use serde::Serialize;

/// The assessment with the comparison of products that the page opens with.
#[derive(Debug, Serialize)]
pub struct EstateJson<'a> {
    #[serde(flatten)]
    report: &'a EstateReport,
    comparison: &'static [ComparisonRow],
}

impl<'a> EstateJson<'a> {
    /// Around a report.
    #[must_use]
    pub fn new(report: &'a EstateReport) -> Self {
        Self {
            report,
            comparison: comparison(),
        }
    }
}

/// The assessment as JSON, indented, with a final newline.
///
/// # Panics
/// Never: the record has string keys only and serialises into memory.
#[must_use]
pub fn estate_json(report: &EstateReport) -> String {
    let mut text = serde_json::to_string_pretty(&EstateJson::new(report)).expect("records have string keys only");
    text.push('\n');
    text
}

#[derive(Debug, Serialize)]
struct Stated {
    stated: Option<String>,
    found: String,
    source: String,
    confidence: String,
}

#[derive(Debug, Serialize)]
struct Aspect {
    name: String,
    cells: Vec<Option<Stated>>,
}

#[derive(Debug, Serialize)]
struct Tile {
    label: &'static str,
    value: String,
    note: String,
}

#[derive(Debug, Serialize)]
struct Risk {
    badge: Badge,
    id: String,
    guests: u32,
    share: String,
    message: String,
    fix: String,
}

#[derive(Debug, Serialize)]
struct Wave {
    number: u32,
    guests: u32,
    blocked: u32,
    load: String,
    bytes: String,
    time: String,
    networks: String,
}

#[derive(Debug, Serialize)]
struct Limit {
    row: LimitRow,
    guest: String,
    beyond: u32,
}

#[derive(Debug, Serialize)]
struct Host {
    name: String,
    about: String,
    too_large: String,
    limits: Vec<LimitRow>,
}

#[derive(Debug, Serialize)]
struct Guest {
    name: String,
    source: String,
    os: String,
    load: String,
    disks: String,
    badge: Badge,
    effort: u32,
    wave: u32,
    blocks: Vec<String>,
    warnings: Vec<String>,
    limits: Vec<String>,
    error: Option<String>,
}

#[derive(Debug, Serialize)]
struct View {
    tool: String,
    schema: u32,
    created: String,
    class: &'static str,
    words: String,
    summary: Vec<String>,
    products: Vec<&'static str>,
    aspects: Vec<Aspect>,
    tiles: Vec<Tile>,
    risks: Vec<Risk>,
    waves: Vec<Wave>,
    passed: Vec<Limit>,
    kept: Vec<Limit>,
    users: Vec<Limit>,
    hosts: Vec<Host>,
    guests: Vec<Guest>,
}

/// One self-contained HTML page: no script, no font, nothing fetched. It opens with the comparison of products; then come
/// sums, risks, waves, limits, hosts, and a row for each guest. Text of guests is escaped.
///
/// # Panics
/// Never: the template is compiled in and rendered with its full context by the tests.
#[must_use]
pub fn estate_html(report: &EstateReport) -> String {
    let view = Value::from(Serde(view(report)));
    environment()
        .get_template("estate.html")
        .expect("the template is compiled in")
        .render(context! { style => Value::from_safe_string(STYLE.to_owned()), ..view })
        .expect("the template is rendered by the tests")
}

fn view(report: &EstateReport) -> View {
    let count = |verdict| with_verdict(report, verdict);
    let blocked = count(EstateVerdict::Blocked) + count(EstateVerdict::Unreadable);
    let attention = count(EstateVerdict::Attention);
    let (class, words) = match (blocked, attention) {
        (0, 0) => ("good", "Every guest can be moved".to_owned()),
        (0, some) => (
            "warn",
            format!("Every guest can be moved, {some} with something to look at"),
        ),
        (some, _) => (
            "bad",
            format!(
                "{} of {} can't be moved as they are",
                some,
                counted(report.guests.len(), "guest", "guests")
            ),
        ),
    };
    let (products, table) = compared();
    let limit = |limit: &crate::schema::EstateLimit| Limit {
        row: limit_row(&limit.limit),
        guest: clean(&limit.guest),
        beyond: limit.beyond,
    };
    let (users, own): (Vec<_>, Vec<_>) = report.limits.iter().partition(|limit| limit.limit.confidence == "U");
    let (kept, passed): (Vec<_>, Vec<_>) = own.into_iter().partition(|limit| limit.limit.fits);
    View {
        tool: clean(&report.stamp.tool),
        schema: report.stamp.schema,
        created: clean(&report.stamp.created),
        class,
        words,
        summary: estate_summary(report),
        products,
        aspects: table
            .into_iter()
            .map(|(name, cells)| Aspect {
                name: name.to_owned(),
                cells: cells.into_iter().map(|cell| cell.map(stated)).collect(),
            })
            .collect(),
        tiles: tiles(report),
        risks: report
            .risks
            .iter()
            .map(|risk| Risk {
                badge: severity(risk.severity),
                id: clean(&risk.id),
                guests: risk.guests,
                share: super::view::percent(
                    f64::from(risk.guests) / float(u64::try_from(report.guests.len().max(1)).unwrap_or(1)),
                ),
                message: clean(&risk.message),
                fix: clean(&risk.fix),
            })
            .collect(),
        waves: report
            .waves
            .iter()
            .map(|wave| Wave {
                number: wave.number,
                guests: wave.guests,
                blocked: wave.blocked,
                load: format!(
                    "{} vCPUs, {}",
                    wave.vcpus,
                    bytes(wave.memory_mib.saturating_mul(1 << 20))
                ),
                bytes: bytes(wave.copy_bytes),
                time: duration(float(wave.copy_seconds)),
                networks: clean(&wave.networks.join(", ")),
            })
            .collect(),
        passed: passed.into_iter().map(limit).collect(),
        kept: kept.into_iter().map(limit).collect(),
        users: users.into_iter().map(limit).collect(),
        hosts: report
            .hosts
            .iter()
            .map(|host| Host {
                name: clean(&host.name),
                about: clean(&format!(
                    "{} {}, {} logical CPUs, {} GiB",
                    host.product, host.version, host.logical_cpus, host.memory_gib
                )),
                too_large: match host.too_large {
                    0 => "No guest is larger than it.".to_owned(),
                    many => clean(&format!(
                        "{} larger than it: {}{}",
                        counted(usize::try_from(many).unwrap_or(usize::MAX), "guest is", "guests are"),
                        host.too_large_names.join(", "),
                        if host.too_large_names.len() < usize::try_from(many).unwrap_or(usize::MAX) {
                            " and more"
                        } else {
                            ""
                        }
                    )),
                },
                limits: host.limits.iter().map(limit_row).collect(),
            })
            .collect(),
        guests: report.guests.iter().map(guest).collect(),
    }
}

fn stated(row: &ComparisonRow) -> Stated {
    Stated {
        stated: row.stated.as_deref().map(clean),
        found: clean(&row.found),
        source: clean(&row.source),
        confidence: match row.confidence.as_str() {
            "U" => "stated by the user, never enforced".to_owned(),
            "A" => "primary source".to_owned(),
            "B" => "secondary source".to_owned(),
            other => clean(other),
        },
    }
}

fn tiles(report: &EstateReport) -> Vec<Tile> {
    let sizing = &report.sizing;
    vec![
        Tile {
            label: "Guests",
            value: number(float(u64::try_from(report.guests.len()).unwrap_or(u64::MAX))),
            note: format!(
                "{} ready, {} to look at, {} blocked, {} unreadable",
                with_verdict(report, EstateVerdict::Ready),
                with_verdict(report, EstateVerdict::Attention),
                with_verdict(report, EstateVerdict::Blocked),
                with_verdict(report, EstateVerdict::Unreadable)
            ),
        },
        Tile {
            label: "Load",
            value: format!("{} vCPUs", number(float(report.vcpus))),
            note: format!("{} of memory", bytes(report.memory_mib.saturating_mul(1 << 20))),
        },
        Tile {
            label: "Disks",
            value: bytes(report.capacity_bytes),
            note: format!("{} of them stored", bytes(report.allocated_bytes)),
        },
        Tile {
            label: "Copy",
            value: duration(float(report.copy_seconds)),
            note: format!("at {} a second", bytes(report.copy_bytes_per_second)),
        },
        Tile {
            label: "Hosts, N+1",
            value: sizing.hosts_with_spare.to_string(),
            note: format!(
                "of {} logical CPUs and {}, {} a CPU",
                sizing.host_cores,
                bytes(sizing.host_memory_mib.saturating_mul(1 << 20)),
                counted(usize::try_from(sizing.vcpus_per_core).unwrap_or(0), "vCPU", "vCPUs")
            ),
        },
    ]
}

fn severity(severity: Severity) -> Badge {
    match severity {
        Severity::Block => badge("bad", "block"),
        Severity::Warn => badge("warn", "warn"),
        Severity::Info | Severity::Skipped => badge("quiet", "info"),
    }
}

fn guest(guest: &EstateGuest) -> Guest {
    let class = match guest.verdict {
        EstateVerdict::Ready => "good",
        EstateVerdict::Attention => "warn",
        EstateVerdict::Blocked | EstateVerdict::Unreadable => "bad",
    };
    let names = |severity| ids(guest, severity).into_iter().map(clean).collect();
    let beyond = |limit: &&LimitUse| matches!(limit.effect, LimitEffect::Blocks | LimitEffect::Warns);
    Guest {
        name: clean(&guest.name),
        source: clean(&guest.source),
        os: clean(&guest.guest_os),
        load: format!(
            "{} vCPUs, {}",
            guest.vcpus,
            bytes(guest.memory_mib.saturating_mul(1 << 20))
        ),
        disks: format!(
            "{}, {}",
            counted(usize::try_from(guest.disks).unwrap_or(0), "disk", "disks"),
            bytes(guest.capacity_bytes)
        ),
        badge: badge(class, verdict_word(guest.verdict)),
        effort: guest.effort,
        wave: guest.wave,
        blocks: names(Severity::Block),
        warnings: names(Severity::Warn),
        limits: guest
            .limits
            .iter()
            .filter(beyond)
            .map(|limit| {
                clean(&format!(
                    "{} {}: {} {} of {}",
                    limit.product,
                    limit.version,
                    limit.quantity,
                    number(limit.used),
                    number(limit.allowed)
                ))
            })
            .collect(),
        error: guest.error.as_deref().map(clean),
    }
}
