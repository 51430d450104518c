//! What the templates show: the report in words and formatted figures, in the order of the page.

use super::csv::word;
use super::format::{bytes, counted, duration, float, number, rate};
use super::measures::{self, Measures};
use super::svg::printable;
use super::verdict::{Arrival, verdict};
use crate::schema::{
    Finding, GuestReport, HostFacts, KeyClass, LimitEffect, LimitUse, ProofRecord, ProofVerdict, Severity, StepStatus,
};
use serde::Serialize;

/// A state with the word that carries it; the class only colours it.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Badge {
    pub(super) class: &'static str,
    pub(super) word: String,
}

#[derive(Debug, Serialize)]
struct Tile {
    label: &'static str,
    value: String,
    note: String,
}

#[derive(Debug, Serialize)]
struct Step {
    name: String,
    badge: Badge,
    time: String,
    share: String,
    detail: String,
}

#[derive(Debug, Serialize)]
struct MilestoneRow {
    name: String,
    at: String,
    share: String,
    seen: String,
}

#[derive(Debug, Serialize)]
struct Proof {
    badge: Badge,
    reason: String,
    advice: Vec<String>,
    engine: String,
    accelerator: String,
    engine_reason: String,
    firmware: String,
    devices: String,
    time: String,
    milestones: Vec<MilestoneRow>,
    evidence: Vec<(String, String)>,
    disks: Option<Badge>,
    disk_hashes: Vec<(String, String, String)>,
    guest: Option<String>,
}

#[derive(Debug, Serialize)]
struct Screenshot {
    name: String,
    data: String,
}

#[derive(Debug, Serialize)]
pub(super) struct LimitRow {
    product: String,
    version: String,
    scope: String,
    quantity: String,
    used: String,
    allowed: String,
    headroom: String,
    share: String,
    badge: Badge,
    kind: String,
    source: String,
    confidence: String,
    note: Option<String>,
}

#[derive(Debug, Serialize)]
struct LimitGroup {
    product: String,
    badge: Badge,
    tightest: String,
    rows: Vec<LimitRow>,
}

#[derive(Debug, Serialize)]
struct DiskRow {
    name: String,
    file: String,
    format: String,
    mode: String,
    virtual_size: String,
    data_size: String,
    file_size: String,
    time: String,
    rate: String,
    hash: Option<String>,
    algorithm: String,
    sources: Vec<String>,
    notes: Vec<String>,
}

#[derive(Debug, Serialize)]
struct FindingRow {
    id: String,
    badge: Badge,
    message: String,
    evidence: String,
    fix: String,
    suppressed: Option<String>,
}

#[derive(Debug, Serialize)]
struct KeyRow {
    key: String,
    value: String,
    line: Option<u32>,
    badge: Badge,
    why: String,
    targets: Vec<(String, String)>,
}

#[derive(Debug, Serialize)]
struct KeyCount {
    word: &'static str,
    class: &'static str,
    count: usize,
    share: String,
    meaning: &'static str,
}

/// Facts as label and value, the unknown left out.
pub(super) type Facts = Vec<(&'static str, String)>;

#[derive(Debug, Serialize)]
pub(super) struct View {
    guest: String,
    tool: String,
    created: String,
    schema: u32,
    machine: Facts,
    source_disks: Vec<(String, String, String, String, String, String)>,
    nics: Vec<(String, String, String, String)>,
    arrival: &'static str,
    words: &'static str,
    sentence: String,
    reasons: Vec<String>,
    tiles: Vec<Tile>,
    steps: Vec<Step>,
    steps_total: String,
    proof: Option<Proof>,
    screenshots: Vec<Screenshot>,
    measures: Measures,
    limits: Vec<LimitGroup>,
    users_limits: Vec<LimitRow>,
    disks: Vec<DiskRow>,
    conversion_total: Option<String>,
    finding_counts: String,
    findings: Vec<FindingRow>,
    key_counts: Vec<KeyCount>,
    key_total: usize,
    keys: Vec<KeyRow>,
    host: Facts,
}

impl View {
    pub(super) fn new(report: &GuestReport) -> Self {
        let verdict = verdict(report);
        let total: f64 = report.steps.iter().map(|step| step.seconds).sum();
        let (limits, users_limits) = limits(&report.limits);
        Self {
            guest: clean(&report.machine.name),
            tool: clean(&report.stamp.tool),
            created: clean(&report.stamp.created.replace('T', " ").replace('Z', " UTC")),
            schema: report.stamp.schema,
            machine: machine(report),
            source_disks: report
                .machine
                .disks
                .iter()
                .map(|disk| {
                    (
                        clean(&disk.name),
                        clean(&disk.controller),
                        clean(&disk.source),
                        clean(&disk.kind),
                        known_bytes(disk.capacity_bytes),
                        known_bytes(disk.allocated_bytes),
                    )
                })
                .collect(),
            nics: report
                .machine
                .nics
                .iter()
                .map(|nic| {
                    let or_unknown = |text: &Option<String>| clean(text.as_deref().unwrap_or("unknown"));
                    (
                        clean(&nic.name),
                        clean(&nic.model),
                        or_unknown(&nic.mac),
                        or_unknown(&nic.network),
                    )
                })
                .collect(),
            arrival: match verdict.arrival {
                Arrival::Yes => "good",
                Arrival::WithReservations => "warn",
                Arrival::No => "bad",
            },
            words: verdict.arrival.words(),
            sentence: clean(&verdict.sentence),
            // The first reason stands in the sentence already.
            reasons: verdict.reasons.iter().skip(1).map(|reason| clean(reason)).collect(),
            tiles: tiles(report),
            steps: steps(report, total),
            steps_total: duration(total),
            proof: report.proof.as_ref().map(proof),
            screenshots: report
                .screenshots
                .iter()
                .filter(|(_, data)| is_base64(data))
                .map(|(name, data)| Screenshot {
                    name: clean(name),
                    data: data.clone(),
                })
                .collect(),
            measures: measures::new(report),
            limits,
            users_limits,
            disks: disks(report),
            conversion_total: conversion_total(report),
            finding_counts: finding_counts(&report.findings),
            findings: findings(&report.findings),
            key_counts: key_counts(report),
            key_total: report.accounting.keys.len(),
            keys: keys(report),
            host: host_facts(&report.host),
        }
    }
}

/// Text of others without characters that break XML or reorder the text around them. Escaping is the template's.
pub(super) fn clean(text: &str) -> String {
    text.chars().map(printable).collect()
}

fn is_base64(data: &str) -> bool {
    !data.is_empty()
        && data
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/' | b'='))
}

fn known_bytes(number: u64) -> String {
    if number == 0 {
        "unknown".to_owned()
    } else {
        bytes(number)
    }
}

pub(super) fn percent(share: f64) -> String {
    format!(
        "{:.2}",
        if share.is_finite() {
            share.clamp(0.0, 1.0) * 100.0
        } else {
            0.0
        }
    )
}

fn machine(report: &GuestReport) -> Facts {
    let machine = &report.machine;
    vec![
        ("Source", clean(&machine.source)),
        ("Guest OS as declared", clean(&machine.guest_os)),
        (
            "Virtual hardware",
            machine
                .hw_version
                .map_or_else(|| "unknown".to_owned(), |version| format!("version {version}")),
        ),
        ("vCPUs", machine.vcpus.to_string()),
        ("Memory", bytes(machine.memory_mib.saturating_mul(1 << 20))),
        ("Firmware", clean(&machine.firmware)),
    ]
}

pub(super) fn host_facts(host: &HostFacts) -> Facts {
    let mut facts: Facts = Vec::new();
    let mut add = |label, value: Option<String>| {
        if let Some(value) = value.filter(|value| !value.is_empty()) {
            facts.push((label, clean(&value)));
        }
    };
    add("Operating system", host.os.clone());
    add("Kernel", host.kernel.clone());
    add("CPU", host.cpu_model.clone().or_else(|| host.cpu_vendor.clone()));
    add(
        "CPUs",
        Some(format!("{} online, {} usable", host.cpus_online, host.cpus_usable)),
    );
    add("Memory", (host.memory_bytes > 0).then(|| bytes(host.memory_bytes)));
    add("Memory limit (cgroup)", host.memory_limit_bytes.map(bytes));
    add("Last-level cache", host.last_level_cache_bytes.map(bytes));
    add("Hypervisor (CPUID)", host.hypervisor.clone());
    add("Machine (DMI)", host.dmi.clone());
    add("Container", host.container.clone());
    add("Clock source", host.clock_source.clone());
    add("Disk drivers", Some(host.disk_drivers.join(", ")));
    add("NIC drivers", Some(host.nic_drivers.join(", ")));
    add("Governor", host.governor.clone());
    add("Load at start", host.load_1min.map(number));
    add("CPU flags", Some(host.cpu_flags.join(" ")));
    facts
}

fn tiles(report: &GuestReport) -> Vec<Tile> {
    let mut tiles = Vec::new();
    if let Some(manifest) = &report.manifest {
        let data: u64 = manifest
            .disks
            .iter()
            .map(|disk| disk.data_bytes)
            .fold(0, u64::saturating_add);
        let seconds: f64 = manifest.disks.iter().map(|disk| disk.seconds).sum();
        tiles.push(Tile {
            label: "Data moved",
            value: bytes(data),
            note: match rate(data, seconds) {
                Some(rate) => format!(
                    "{} at {} MB/s",
                    counted(manifest.disks.len(), "disk", "disks"),
                    number(rate)
                ),
                None => counted(manifest.disks.len(), "disk", "disks"),
            },
        });
    }
    if let Some(proof) = &report.proof {
        let login = proof
            .milestones
            .iter()
            .find(|milestone| matches!(milestone.name.as_str(), "login" | "agent"));
        tiles.push(Tile {
            label: "Boot",
            value: match (proof.verdict, login) {
                (ProofVerdict::Proven, Some(milestone)) => duration(float(milestone.at_ms) / 1000.0),
                (ProofVerdict::Proven, None) => "proven".to_owned(),
                (ProofVerdict::BootedUnconfirmed, _) => "unconfirmed".to_owned(),
                (ProofVerdict::Failed, _) => "failed".to_owned(),
            },
            note: match login {
                Some(milestone) => format!("to {}, {}", clean(&milestone.name), clean(&proof.engine)),
                None => clean(&proof.engine),
            },
        });
    }
    if let Some((value, note)) = measures::headline(report) {
        tiles.push(Tile {
            label: "Performance",
            value,
            note,
        });
    }
    let count = |severity| {
        report
            .findings
            .iter()
            .filter(|finding| finding.severity == severity && finding.suppressed.is_none())
            .count()
    };
    tiles.push(Tile {
        label: "Checks",
        value: match (count(Severity::Block), count(Severity::Warn)) {
            (0, 0) => "clean".to_owned(),
            (0, warnings) => counted(warnings, "warning", "warnings"),
            (blocks, _) => format!("{blocks} blocking"),
        },
        note: format!("{} fired", counted(report.findings.len(), "check", "checks")),
    });
    let total = report.accounting.keys.len();
    if total > 0 {
        tiles.push(Tile {
            label: "Settings",
            value: format!("{} of {total}", report.accounting.count(KeyClass::Mapped)),
            note: format!(
                "kept as they were; {} dropped with a warning",
                report.accounting.count(KeyClass::DroppedWarning)
            ),
        });
    }
    tiles
}

fn steps(report: &GuestReport, total: f64) -> Vec<Step> {
    report
        .steps
        .iter()
        .map(|step| Step {
            name: clean(&step.name),
            badge: match step.status {
                StepStatus::Good => badge("good", "done"),
                StepStatus::Reused => badge("good", "reused"),
                StepStatus::Bad => badge("bad", "answer: no"),
                StepStatus::Failed => badge("bad", "failed"),
                StepStatus::Skipped => badge("quiet", "left out"),
            },
            time: duration(step.seconds),
            share: percent(step.seconds / total),
            detail: clean(&step.detail),
        })
        .collect()
}

pub(super) fn badge(class: &'static str, word: &str) -> Badge {
    Badge {
        class,
        word: word.to_owned(),
    }
}

fn proof(proof: &ProofRecord) -> Proof {
    let end = proof
        .milestones
        .iter()
        .map(|milestone| milestone.at_ms)
        .max()
        .unwrap_or(0);
    let same = proof.disks_before == proof.disks_after;
    Proof {
        badge: match proof.verdict {
            ProofVerdict::Proven => badge("good", "boot proven"),
            ProofVerdict::BootedUnconfirmed => badge("warn", "booted, not confirmed"),
            ProofVerdict::Failed => badge("bad", "did not boot"),
        },
        reason: clean(&proof.reason),
        advice: proof.advice.iter().map(|advice| clean(advice)).collect(),
        engine: clean(&proof.engine),
        accelerator: word(&proof.accelerator),
        engine_reason: clean(&proof.engine_reason),
        firmware: clean(&proof.firmware),
        devices: clean(&proof.devices),
        time: duration(proof.seconds),
        milestones: proof
            .milestones
            .iter()
            .map(|milestone| MilestoneRow {
                name: clean(&milestone.name),
                at: duration(float(milestone.at_ms) / 1000.0),
                share: percent(float(milestone.at_ms) / float(end.max(1))),
                seen: clean(&milestone.seen),
            })
            .collect(),
        evidence: proof
            .evidence
            .iter()
            .map(|item| (clean(&item.kind), clean(&item.file)))
            .collect(),
        disks: (!proof.disks_before.is_empty() && !proof.disks_after.is_empty()).then(|| {
            if same {
                badge("good", "disks unchanged by the proof")
            } else {
                badge("bad", "the proof changed a disk")
            }
        }),
        disk_hashes: proof
            .disks_before
            .iter()
            .map(|(file, before)| {
                let after = proof.disks_after.iter().find(|(name, _)| name == file);
                (
                    clean(file),
                    clean(before),
                    clean(after.map_or("not taken", |(_, hash)| hash)),
                )
            })
            .collect(),
        guest: proof
            .guest
            .as_ref()
            .map(|guest| clean(&serde_json::to_string_pretty(guest).unwrap_or_else(|error| error.to_string()))),
    }
}

fn limits(uses: &[LimitUse]) -> (Vec<LimitGroup>, Vec<LimitRow>) {
    let mut groups: Vec<LimitGroup> = Vec::new();
    let mut users = Vec::new();
    for limit in uses {
        let row = limit_row(limit);
        if limit.confidence == "U" {
            users.push(row);
            continue;
        }
        match groups.iter_mut().find(|group| group.product == row.product) {
            Some(group) => group.rows.push(row),
            None => groups.push(LimitGroup {
                product: row.product.clone(),
                badge: badge("good", "fits"),
                tightest: String::new(),
                rows: vec![row],
            }),
        }
    }
    for group in &mut groups {
        let own: Vec<&LimitUse> = uses
            .iter()
            .filter(|limit| limit.confidence != "U" && clean(&limit.product) == group.product)
            .collect();
        group.badge = if own.iter().any(|limit| limit.effect == LimitEffect::Blocks) {
            badge("bad", "does not fit")
        } else if own.iter().any(|limit| limit.effect == LimitEffect::Warns) {
            badge("warn", "beyond what is tested")
        } else {
            badge("good", "fits")
        };
        let tightest = own
            .iter()
            .filter(|limit| limit.allowed > 0.0 && !limit.quantity.ends_with("(at least)"))
            .max_by(|a, b| (a.used / a.allowed).total_cmp(&(b.used / b.allowed)));
        group.tightest = tightest.map_or_else(String::new, |limit| {
            format!(
                "tightest: {} {} of {} {}",
                quantity(&limit.quantity),
                number(limit.used),
                number(limit.allowed),
                clean(&limit.unit)
            )
        });
    }
    (groups, users)
}

/// A quantity with its abbreviations in capitals: `scsi disks` is `SCSI disks`.
fn quantity(text: &str) -> String {
    let words: Vec<String> = clean(text)
        .split(' ')
        .map(|word| match word {
            "vcpus" => "vCPUs".to_owned(),
            "cpus" => "CPUs".to_owned(),
            "nics" => "NICs".to_owned(),
            "vms" => "VMs".to_owned(),
            "scsi" | "sata" | "ide" | "nvme" | "virtio" | "pci" | "usb" | "numa" => word.to_ascii_uppercase(),
            _ => word.to_owned(),
        })
        .collect();
    words.join(" ")
}

/// A limit for people.
pub(super) fn limit_row(limit: &LimitUse) -> LimitRow {
    let least = limit.quantity.ends_with("(at least)");
    LimitRow {
        product: clean(&limit.product),
        version: clean(&limit.version),
        scope: clean(&limit.scope),
        quantity: quantity(&limit.quantity),
        used: number(limit.used),
        allowed: format!("{} {}", number(limit.allowed), clean(&limit.unit)),
        headroom: number(if least { -limit.headroom() } else { limit.headroom() }),
        share: percent(if least || limit.allowed <= 0.0 {
            0.0
        } else {
            limit.used / limit.allowed
        }),
        badge: match (limit.effect, limit.fits) {
            (LimitEffect::Fits, true) => badge("good", "fits"),
            (LimitEffect::Fits, false) => badge("warn", "exceeds"),
            (LimitEffect::Warns, _) => badge("warn", "exceeds (warning)"),
            (LimitEffect::Blocks, _) => badge("bad", "does not fit"),
            (LimitEffect::PrintedOnly, true) => badge("quiet", "within, not enforced"),
            (LimitEffect::PrintedOnly, false) => badge("quiet", "beyond, not enforced"),
        },
        kind: clean(&limit.kind),
        source: clean(&limit.source),
        confidence: match limit.confidence.as_str() {
            "A" => "A: primary source or measured".to_owned(),
            "B" => "B: secondary source".to_owned(),
            "U" => "U: stated by the user".to_owned(),
            other => format!("{}: no source", clean(other)),
        },
        note: limit.note.as_deref().map(clean),
    }
}

fn disks(report: &GuestReport) -> Vec<DiskRow> {
    report
        .manifest
        .iter()
        .flat_map(|manifest| &manifest.disks)
        .map(|disk| DiskRow {
            name: clean(&disk.name),
            file: clean(&disk.file),
            format: clean(&disk.format),
            mode: clean(&disk.mode),
            virtual_size: bytes(disk.virtual_bytes),
            data_size: bytes(disk.data_bytes),
            file_size: bytes(disk.file_bytes),
            time: duration(disk.seconds),
            rate: rate(disk.data_bytes, disk.seconds)
                .map_or_else(|| "unknown".to_owned(), |rate| format!("{} MB/s", number(rate))),
            hash: disk.content.as_ref().map(|tree| clean(&tree.root)),
            algorithm: disk.content.as_ref().map_or_else(String::new, |tree| {
                format!(
                    "{}, {} of {}",
                    clean(&tree.algorithm),
                    counted(tree.leaves.len(), "non-zero leaf", "non-zero leaves"),
                    bytes(tree.leaf_bytes)
                )
            }),
            sources: disk
                .sources
                .iter()
                .map(|source| format!("{} ({})", clean(&source.path), bytes(source.bytes)))
                .collect(),
            notes: disk.notes.iter().map(|note| clean(note)).collect(),
        })
        .collect()
}

fn conversion_total(report: &GuestReport) -> Option<String> {
    let manifest = report.manifest.as_ref()?;
    let sum =
        |value: fn(&crate::schema::DiskManifest) -> u64| manifest.disks.iter().map(value).fold(0, u64::saturating_add);
    let seconds: f64 = manifest.disks.iter().map(|disk| disk.seconds).sum();
    Some(format!(
        "{} visible to the guest, of which {} hold data; {} on the target; {}.",
        bytes(sum(|disk| disk.virtual_bytes)),
        bytes(sum(|disk| disk.data_bytes)),
        bytes(sum(|disk| disk.file_bytes)),
        duration(seconds)
    ))
}

fn finding_counts(findings: &[Finding]) -> String {
    let count = |severity| findings.iter().filter(|finding| finding.severity == severity).count();
    format!(
        "{} blocking, {} warning, {} for information, {} not made",
        count(Severity::Block),
        count(Severity::Warn),
        count(Severity::Info),
        count(Severity::Skipped)
    )
}

fn findings(findings: &[Finding]) -> Vec<FindingRow> {
    let mut sorted: Vec<&Finding> = findings.iter().collect();
    sorted.sort_by_key(|finding| finding.severity);
    sorted
        .into_iter()
        .map(|finding| FindingRow {
            id: clean(&finding.id),
            badge: match finding.severity {
                Severity::Block => badge("bad", "blocks"),
                Severity::Warn => badge("warn", "warning"),
                Severity::Info => badge("quiet", "info"),
                Severity::Skipped => badge("quiet", "not checked"),
            },
            message: clean(&finding.message),
            evidence: clean(&finding.evidence),
            fix: clean(&finding.fix),
            suppressed: finding.suppressed.as_deref().map(clean),
        })
        .collect()
}

const CLASSES: [(KeyClass, &str, &str, &str); 5] = [
    (KeyClass::Mapped, "mapped", "good", "same effect on the target"),
    (
        KeyClass::Approximated,
        "approximated",
        "warn",
        "nearest effect; the difference is stated",
    ),
    (
        KeyClass::DroppedWarning,
        "dropped, may be missed",
        "bad",
        "something that somebody may miss",
    ),
    (KeyClass::Unknown, "unknown", "warn", "not in our table"),
    (
        KeyClass::DroppedHarmless,
        "dropped, harmless",
        "quiet",
        "no effect on the guest away from VMware",
    ),
];

fn key_counts(report: &GuestReport) -> Vec<KeyCount> {
    let total = report.accounting.keys.len();
    CLASSES
        .iter()
        .map(|(key_class, word, class, meaning)| {
            let count = report.accounting.count(*key_class);
            let float = |count: usize| float(u64::try_from(count).unwrap_or(u64::MAX));
            KeyCount {
                word,
                class,
                count,
                share: percent(float(count) / float(total.max(1))),
                meaning,
            }
        })
        .collect()
}

/// The keys that somebody should read: approximated, dropped with a warning, unknown.
fn keys(report: &GuestReport) -> Vec<KeyRow> {
    let mut rows = Vec::new();
    for (key_class, word, class, _) in CLASSES {
        if matches!(key_class, KeyClass::Mapped | KeyClass::DroppedHarmless) {
            continue;
        }
        rows.extend(
            report
                .accounting
                .keys
                .iter()
                .filter(|key| key.class == key_class)
                .map(|key| KeyRow {
                    key: clean(&key.key),
                    value: clean(&key.value),
                    line: key.line,
                    badge: badge(class, word),
                    why: clean(&key.why),
                    targets: key
                        .targets
                        .iter()
                        .map(|(target, value)| (clean(target), clean(value)))
                        .collect(),
                }),
        );
    }
    rows
}
