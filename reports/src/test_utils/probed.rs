//! What a probe of KVM finds on a usual server.

use super::{host, stamp};
use crate::schema::{DocumentedLimit, KvmCapabilities, LimitsReport, ProbeEnd, ProbePoint, ProbeSeries};

const GIB: u64 = 1 << 30;

fn curve(counts: &[u64], ms_each: f64, bytes_each: u64) -> Vec<ProbePoint> {
    let point = |&count: &u64| ProbePoint {
        count,
        create_ms: 0.4 + f64::from(u32::try_from(count).unwrap_or(u32::MAX)) * ms_each,
        kernel_bytes: count.saturating_mul(bytes_each),
    };
    counts.iter().map(point).collect()
}

pub(super) fn probed() -> LimitsReport {
    let documented = |product: &str, version: &str, value: &str| DocumentedLimit {
        product: product.to_owned(),
        version: version.to_owned(),
        value: value.to_owned(),
        source: format!("manual of {product}"),
    };
    let series = |key: &str, unit: &str, capability, ended, reason: &str, curve: Vec<ProbePoint>| ProbeSeries {
        key: key.to_owned(),
        unit: unit.to_owned(),
        documented: Vec::new(),
        capability,
        accepted: curve.last().map_or(0, |last| last.count),
        ended,
        reason: reason.to_owned(),
        curve,
        release_ms: 41.5,
    };
    let doubled = |first: u64, most: u32| -> Vec<u64> { (0..most).map(|bit| first << bit).collect() };
    let mut vcpus = doubled(1, 10);
    vcpus.extend([768, 1024]);
    vcpus.sort_unstable();
    let gibs: Vec<u64> = doubled(1, 14).into_iter().chain([12 << 10]).collect();
    let mut memory = curve(&gibs, 0.002, 5 << 10);
    memory.sort_by_key(|point| point.count);
    for point in &mut memory {
        point.count *= GIB;
    }
    LimitsReport {
        stamp: stamp(),
        host: host(None),
        capabilities: KvmCapabilities {
            nr_vcpus: 64,
            max_vcpus: 1024,
            max_vcpu_id: 4096,
            nr_memslots: 32_764,
        },
        series: vec![
            ProbeSeries {
                documented: vec![
                    documented("VMware vSphere", "8.0", "768 vCPUs"),
                    documented("Proxmox VE", "9.0", "768 vCPUs"),
                ],
                ..series(
                    "vcpus",
                    "vCPUs",
                    Some(1024),
                    ProbeEnd::Refused,
                    "number 1025: KVM_CREATE_VCPU: Invalid argument (os error 22)",
                    curve(&vcpus, 0.11, 140 << 10),
                )
            },
            series(
                "memory-slots",
                "slots",
                Some(32_764),
                ProbeEnd::Refused,
                "number 32765: KVM_SET_USER_MEMORY_REGION: Invalid argument (os error 22)",
                curve(&doubled(1, 15), 0.02, 320),
            ),
            series(
                "virtio-queues",
                "queues",
                None,
                ProbeEnd::Time,
                "on the way to 1024 queues: its part of the time was used up; give more",
                curve(&doubled(1, 10), 0.9, 900),
            ),
            ProbeSeries {
                documented: vec![documented("VMware vSphere", "8.0", "24 TiB")],
                ..series(
                    "memory",
                    "bytes",
                    None,
                    ProbeEnd::Bound,
                    "the bound given was reached and accepted",
                    memory,
                )
            },
        ],
        notes: vec!["open files: 1048576 at most while probing".to_owned()],
        seconds: 12.3,
    }
}
