//! What may be compared: whole records, and single metrics.

use crate::stats;
use reports::schema::{AcceleratorClass, BenchRecord, Metric, Place};

/// Groups of accelerators whose figures mean the same: hardware at work. `Unknown` goes with these, as a reservation.
fn is_hardware(class: AcceleratorClass) -> bool {
    use AcceleratorClass::{Esxi, Metal, Native, Unknown};
    matches!(class, Native | Esxi | Metal | Unknown)
}

pub(super) fn obstacles(base: &BenchRecord, candidate: &BenchRecord) -> Vec<String> {
    let mut reasons = Vec::new();
    let (a, b) = (base.accelerator, candidate.accelerator);
    // What CPUID says outranks what the caller said.
    let tcg = |record: &BenchRecord| record.host.hypervisor.as_deref() == Some("TCGTCGTCGTCG");
    if a != b && !(is_hardware(a) && is_hardware(b)) {
        reasons.push(format!(
            "the accelerators differ in kind: {} against {}",
            words(a),
            words(b)
        ));
    } else if tcg(base) != tcg(candidate) {
        reasons.push("one ran under TCG emulation, as CPUID says, the other did not".to_owned());
    }
    if let (Some(a), Some(b)) = (&base.host.cpu_model, &candidate.host.cpu_model)
        && a != b
    {
        reasons.push(format!("the CPU models differ: {a} against {b}"));
    }
    let (a, b) = (base.host.cpus_usable, candidate.host.cpus_usable);
    if a != b {
        reasons.push(format!("the numbers of usable CPUs differ: {a} against {b}"));
    }
    reasons
}

pub(super) fn reservations(base: &BenchRecord, candidate: &BenchRecord) -> Vec<String> {
    let mut found = Vec::new();
    for (which, record) in [("base", base), ("candidate", candidate)] {
        if record.noise.noisy {
            found.push(format!(
                "the {which} was noisy: {:.1} CPU seconds stolen and {:.1} used by others in {:.0} s",
                record.noise.steal_cpu_seconds, record.noise.foreign_cpu_seconds, record.noise.wall_seconds
            ));
        }
        if record.accelerator == AcceleratorClass::Unknown
            && !(record.place == Place::Host && record.host.hypervisor.is_none())
        {
            found.push(format!("what lay under the {which} is not known"));
        }
    }
    let differs = |what: &str, a: &dyn std::fmt::Debug, b: &dyn std::fmt::Debug| {
        let (a, b) = (format!("{a:?}"), format!("{b:?}"));
        (a != b).then(|| format!("{what} differ: {a} against {b}"))
    };
    let (a, b) = (&base.host, &candidate.host);
    found.extend(differs("agent versions", &base.stamp.tool, &candidate.stamp.tool));
    found.extend(differs("kernels", &a.kernel, &b.kernel));
    found.extend(differs("clock sources", &a.clock_source, &b.clock_source));
    found.extend(differs("suites", &base.suite, &candidate.suite));
    found.extend(differs("disks and their drivers", &a.disk_drivers, &b.disk_drivers));
    let network = |record: &BenchRecord| record.metrics.iter().any(|metric| metric.id.starts_with("net."));
    if network(base) && network(candidate) {
        found.extend(differs(
            "network cards and their drivers",
            &a.nic_drivers,
            &b.nic_drivers,
        ));
    }
    found.extend(differs("frequency governors", &a.governor, &b.governor));
    found.extend(differs("containers", &a.container, &b.container));
    found.extend(storage(base, candidate));
    found.extend(memory(base, candidate));
    let missing: Vec<&str> = a
        .cpu_flags
        .iter()
        .filter(|flag| !b.cpu_flags.contains(flag))
        .map(String::as_str)
        .collect();
    if !missing.is_empty() && !b.cpu_flags.is_empty() {
        found.push(format!(
            "the candidate's CPU lacks flags that the base had: {}",
            missing.join(" ")
        ));
    }
    found
}

fn storage(base: &BenchRecord, candidate: &BenchRecord) -> Option<String> {
    let of = |record: &BenchRecord| {
        let unknown = || "storage that could not be seen from inside".to_owned();
        record.storage.clone().unwrap_or_else(unknown)
    };
    let disk = |record: &BenchRecord| record.metrics.iter().any(|metric| metric.id.starts_with("disk."));
    (base.storage != candidate.storage && disk(base) && disk(candidate)).then(|| {
        format!(
            "disk.* ran on different storage: {} against {}",
            of(base),
            of(candidate)
        )
    })
}

/// Memory that the kernel sees differs by what firmware and hypervisor keep; more than a tenth is another size.
fn memory(base: &BenchRecord, candidate: &BenchRecord) -> Option<String> {
    let usable = |record: &BenchRecord| {
        let host = &record.host;
        host.memory_limit_bytes
            .map_or(host.memory_bytes, |limit| limit.min(host.memory_bytes))
    };
    let (a, b) = (usable(base), usable(candidate));
    let known = a > 0 && b > 0;
    (known && a.abs_diff(b) > a.max(b) / 10).then(|| format!("memory differs: {} MiB against {} MiB", a >> 20, b >> 20))
}

fn words(class: AcceleratorClass) -> &'static str {
    match class {
        AcceleratorClass::Native => "KVM on hardware",
        AcceleratorClass::Nested => "nested KVM",
        AcceleratorClass::Emulated => "page-table KVM",
        AcceleratorClass::Unfit => "unfit KVM",
        AcceleratorClass::Absent => "no KVM",
        AcceleratorClass::Tcg => "TCG emulation",
        AcceleratorClass::Esxi => "ESXi",
        AcceleratorClass::Metal => "no hypervisor",
        AcceleratorClass::Unknown => "unknown",
    }
}

pub(super) type Pairs<'r> = Vec<(&'r Metric, &'r Metric)>;

pub(super) fn pair_up<'r>(
    base: &'r BenchRecord,
    candidate: &'r BenchRecord,
    force: bool,
) -> (Pairs<'r>, Vec<(String, String)>) {
    let (mut pairs, mut left_out) = (Vec::new(), Vec::new());
    let skipped = |record: &BenchRecord, id: &str| {
        let found = record.skipped.iter().find(|skipped| skipped.id == id);
        found.map_or_else(
            || "was not measured".to_owned(),
            |skipped| format!("was skipped: {}", skipped.reason),
        )
    };
    for metric in &base.metrics {
        match candidate.metrics.iter().find(|other| other.id == metric.id) {
            None => left_out.push((
                metric.id.clone(),
                format!("in the candidate it {}", skipped(candidate, &metric.id)),
            )),
            Some(other) => match unusable(metric, other, force) {
                Some(reason) => left_out.push((metric.id.clone(), reason)),
                None => pairs.push((metric, other)),
            },
        }
    }
    for metric in candidate
        .metrics
        .iter()
        .filter(|metric| base.metrics.iter().all(|other| other.id != metric.id))
    {
        left_out.push((
            metric.id.clone(),
            format!("in the base it {}", skipped(base, &metric.id)),
        ));
    }
    (pairs, left_out)
}

pub(super) fn unusable(base: &Metric, candidate: &Metric, force: bool) -> Option<String> {
    if base.unit != candidate.unit || base.better != candidate.better {
        return Some(format!("units differ: {} against {}", base.unit, candidate.unit));
    }
    let positive = |metric: &Metric| {
        !metric.samples.is_empty()
            && metric.samples.iter().all(|v| v.is_finite())
            && stats::median(&metric.samples) > 0.0
    };
    if !positive(base) || !positive(candidate) {
        return Some(format!(
            "no ratio can be formed: medians {} and {} {}",
            base.summary.median, candidate.summary.median, base.unit
        ));
    }
    if force {
        return None;
    }
    if base.method != candidate.method {
        // The same words around other figures.
        let plain = |metric: &Metric| metric.method.replace(|c: char| c.is_ascii_digit(), "");
        let other_sizes = plain(base) == plain(candidate);
        return Some(format!(
            "measured differently: \"{}\" against \"{}\"{}",
            base.method,
            candidate.method,
            if other_sizes {
                "; esxodus bench --like BASE.json takes the base's sizes"
            } else {
                ""
            }
        ));
    }
    let unfit = |which: &str, metric: &Metric| {
        metric
            .unfit
            .as_ref()
            .map(|why| format!("the {which}'s samples are unfit: {why}"))
    };
    unfit("base", base).or_else(|| unfit("candidate", candidate))
}
