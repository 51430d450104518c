//! What the templates show: the report in words and formatted figures, in the order of the page.

use super::boot_proof::{Proof, Screenshot, proof, screenshots};
use super::format::{bytes, counted, duration, float, number, rate};
use super::inside::{self, ChangeRow, Inside};
use super::limit_rows::{LimitGroup, limits};
use super::measures::{self, Measures};
use super::probed::{Probed, probed};
use super::settings::{KeyCount, KeyRow, key_counts, keys};
use super::svg::printable;
use super::verdict::{Arrival, verdict};
use crate::schema::{Finding, GuestReport, HostFacts, KeyClass, ProofVerdict, Severity, StepStatus};
use serde::Serialize;

pub(super) use super::limit_rows::{LimitRow, limit_row};

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
    words: String,
    sentence: String,
    reasons: Vec<String>,
    tiles: Vec<Tile>,
    steps: Vec<Step>,
    steps_total: String,
    proof: Option<Proof>,
    screenshots: Vec<Screenshot>,
    inside: Option<Inside>,
    changes: Vec<ChangeRow>,
    measures: Measures,
    limits: Vec<LimitGroup>,
    users_limits: Vec<LimitRow>,
    probed: Option<Probed>,
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
                Arrival::Yes | Arrival::WithTasks => "good",
                Arrival::WithReservations | Arrival::Unproven => "warn",
                Arrival::No => "bad",
            },
            words: clean(&verdict.words),
            sentence: clean(&verdict.sentence),
            // The first reason stands in the sentence already.
            reasons: verdict.reasons.iter().skip(1).map(|reason| clean(reason)).collect(),
            tiles: tiles(report),
            steps: steps(report, total),
            steps_total: duration(total),
            proof: report.proof.as_ref().map(proof),
            screenshots: screenshots(report),
            inside: report.deep.as_ref().map(inside::inside),
            changes: inside::changes(report),
            measures: measures::new(report),
            limits,
            users_limits,
            probed: probed(report),
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
