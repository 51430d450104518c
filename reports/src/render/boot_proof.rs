//! The boot proof: milestones, evidence, screenshots.

use super::csv::word;
use super::format::{duration, float};
use super::view::{Badge, badge, clean, percent};
use crate::schema::{GuestReport, ProofRecord, ProofVerdict};
use serde::Serialize;

#[derive(Debug, Serialize)]
struct MilestoneRow {
    name: String,
    at: String,
    share: String,
    seen: String,
}

#[derive(Debug, Serialize)]
pub(super) struct Proof {
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
pub(super) struct Screenshot {
    name: String,
    data: String,
}

pub(super) fn proof(proof: &ProofRecord) -> Proof {
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

fn is_base64(data: &str) -> bool {
    !data.is_empty()
        && data
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/' | b'='))
}

/// Those that are base64 and nothing else: other text could end the attribute that it stands in.
pub(super) fn screenshots(report: &GuestReport) -> Vec<Screenshot> {
    report
        .screenshots
        .iter()
        .filter(|(_, data)| is_base64(data))
        .map(|(name, data)| Screenshot {
            name: clean(name),
            data: data.clone(),
        })
        .collect()
}
