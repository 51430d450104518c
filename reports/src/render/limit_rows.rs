//! Limits beside what the guest uses of them.

use super::format::number;
use super::view::{Badge, badge, clean, percent};
use crate::schema::{LimitEffect, LimitUse};
use serde::Serialize;

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
pub(super) struct LimitGroup {
    product: String,
    badge: Badge,
    tightest: String,
    rows: Vec<LimitRow>,
}

pub(super) fn limits(uses: &[LimitUse]) -> (Vec<LimitGroup>, Vec<LimitRow>) {
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
