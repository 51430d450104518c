//! An invented estate that has every kind of row.

use crate::limits::{EstateTally, HostNumbers, MachineNumbers};
use crate::schema::{
    EstateFleet, EstateGuest, EstateReport, EstateRisk, EstateSizing, EstateVerdict, EstateWave, Finding, Severity,
    Stamp,
};

/// Text of a hostile guest: markup, a formula, a character that reorders text.
pub const HOSTILE: &str = "=cmd|'<script>alert(1)</script>' [x](y) \u{202e}evil";

fn finding(id: &str, severity: Severity, message: &str) -> Finding {
    Finding {
        id: id.to_owned(),
        severity,
        message: message.to_owned(),
        evidence: "scsi0:0".to_owned(),
        fix: "Consolidate the snapshots on ESXi.".to_owned(),
        suppressed: None,
    }
}

/// Forty guests, one of them hostile, one unreadable, two hosts.
#[must_use]
pub fn sample_estate() -> EstateReport {
    let hosts = [
        HostNumbers {
            name: "pve1".to_owned(),
            product: "Proxmox VE".to_owned(),
            version: "9.1".to_owned(),
            logical_cpus: 64,
            memory_gib: 512,
            ..HostNumbers::default()
        },
        HostNumbers {
            name: "esx-old".to_owned(),
            product: "VMware ESXi".to_owned(),
            version: "6.5".to_owned(),
            logical_cpus: 600,
            memory_gib: 1024,
            ..HostNumbers::default()
        },
    ];
    let mut tally = EstateTally::new(&hosts);
    let mut guests: Vec<EstateGuest> = (0..40_u32)
        .map(|number| {
            let vcpus = if number == 7 { 600 } else { 2 + number % 4 };
            let name = match number {
                3 => HOSTILE.to_owned(),
                _ => format!("web{number:02}.example.org"),
            };
            let mut findings = Vec::new();
            if number % 3 == 0 {
                findings.push(finding("tpm.present", Severity::Warn, "A new, empty TPM is made."));
            }
            if number % 11 == 0 {
                findings.push(finding(
                    "disk.cid-mismatch",
                    Severity::Block,
                    "The base was written to after the snapshot.",
                ));
            }
            let numbers = MachineNumbers {
                hw_version: Some(13),
                vcpus,
                memory_mib: 8192,
                scsi_disks: 2,
                nics: 1,
                largest_disk_bytes: 40 << 30,
                name_length: 16,
                ..MachineNumbers::default()
            };
            EstateGuest {
                limits: tally.add(&name, &numbers),
                name,
                source: format!("/vmfs/volumes/datastore1/web{number:02}/web{number:02}.vmx"),
                uuid: Some(format!("{number:032x}")),
                hw_version: Some(13),
                guest_os: "Debian 12 (64-bit)".to_owned(),
                vcpus,
                memory_mib: 8192,
                disks: 2,
                capacity_bytes: 60 << 30,
                largest_disk_bytes: 40 << 30,
                allocated_bytes: 21 << 30,
                networks: vec![format!("VLAN {}", 100 + number % 3)],
                firmware: "uefi".to_owned(),
                verdict: match (number % 11, number % 3) {
                    (0, _) => EstateVerdict::Blocked,
                    (_, 0) => EstateVerdict::Attention,
                    _ => EstateVerdict::Ready,
                },
                effort: 1,
                wave: 1 + number / 20,
                error: None,
                findings,
            }
        })
        .collect();
    guests.push(EstateGuest {
        name: "broken".to_owned(),
        source: "broken.vmx".to_owned(),
        error: Some("broken.vmx: line 3: not a key".to_owned()),
        ..EstateGuest::default()
    });
    let (limits, hosts) = tally.finish();
    EstateReport {
        stamp: Stamp {
            schema: crate::schema::SCHEMA_VERSION,
            tool: "esxodus 0.1.0".to_owned(),
            created: "2026-11-23T21:40:15Z".to_owned(),
        },
        vcpus: 700,
        memory_mib: 40 * 8192,
        capacity_bytes: 40 * (60 << 30),
        allocated_bytes: 40 * (21 << 30),
        risks: vec![
            EstateRisk {
                id: "disk.cid-mismatch".to_owned(),
                severity: Severity::Block,
                guests: 4,
                message: "The base was written to after the snapshot.".to_owned(),
                fix: "Consolidate the snapshots on ESXi.".to_owned(),
            },
            EstateRisk {
                id: "tpm.present".to_owned(),
                severity: Severity::Warn,
                guests: 14,
                message: "A new, empty TPM is made.".to_owned(),
                fix: "Have the recovery keys at hand.".to_owned(),
            },
        ],
        waves: (1..=2)
            .map(|number| EstateWave {
                number,
                guests: 20,
                blocked: 2,
                vcpus: 350,
                memory_mib: 20 * 8192,
                copy_bytes: 20 * (21 << 30),
                copy_seconds: 4301,
                networks: vec!["VLAN 100".to_owned(), "VLAN 101".to_owned(), "VLAN 102".to_owned()],
            })
            .collect(),
        sizing: EstateSizing {
            host_cores: 64,
            host_memory_mib: 512 * 1024,
            vcpus_per_core: 4,
            hosts: 1,
            hosts_with_spare: 2,
            too_large: 1,
            fleet: Some(EstateFleet {
                vcpus: 2656,
                memory_mib: 1536 * 1024,
                unplaced: 0,
                unplaced_with_spare: 1,
            }),
        },
        limits,
        hosts,
        copy_bytes_per_second: 100 << 20,
        copy_seconds: 8602,
        guests,
    }
}
