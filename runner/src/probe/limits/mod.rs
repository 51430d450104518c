//! What KVM on this host really takes: a VM that never runs for each quantity, with growing numbers of vCPUs, memory slots, bytes of guest
//! memory and virtio queues, until KVM says no or a bound is reached. What each costs is measured on the way.
//!
//! Bounded in time, stops before memory gets short, and leaves nothing: all of it hangs on file descriptors.

mod host;
mod reserved;
mod series;

use crate::{Result, RunnerError};
use kvm_ioctls::{Cap, Kvm};
use reports::schema::{HostFacts, KvmCapabilities, LimitsReport, ProbeSeries, Stamp};
use series::{Bounds, Step};
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

/// How far to go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LimitsOptions {
    /// Longest time for everything; each of the four series gets its part of what is left, guest memory what the others leave.
    pub deadline: Duration,
    /// Stops where available memory would fall below so many bytes.
    pub memory_floor_bytes: u64,
    /// vCPUs of one VM at most.
    pub max_vcpus: u64,
    /// Memory slots of one VM at most.
    pub max_slots: u64,
    /// Guest memory at most, in bytes: reserved, never touched.
    pub max_memory_bytes: u64,
    /// Virtio queues at most: an interrupt (irqfd) and a doorbell (ioeventfd) each.
    pub max_queues: u64,
}

impl Default for LimitsOptions {
    /// 30 s; an eighth of the memory and at least 1 GiB stays available; 4352 vCPUs (above the kernel's greatest setting,
    /// 4096), 40,000 slots (x86 has 32,764), 16 TiB, 4096 queues.
    fn default() -> Self {
        let total = host::meminfo("MemTotal").unwrap_or(0);
        Self {
            deadline: Duration::from_secs(30),
            memory_floor_bytes: (total / 8).max(1 << 30),
            max_vcpus: 4352,
            max_slots: 40_000,
            max_memory_bytes: 16 << 40,
            max_queues: 4096,
        }
    }
}

/// Measures. `say` is told what is going on.
///
/// # Errors
/// KVM cannot be opened, or not even a VM with one of each can be made.
pub fn probe_limits(options: &LimitsOptions, say: &dyn Fn(&str), cancel: &AtomicBool) -> Result<LimitsReport> {
    let begun = Instant::now();
    let failed = |what: &str, error: &dyn std::fmt::Display| RunnerError::Unusable {
        what: format!("{what}: {error}"),
        advice: "'esxodus doctor' says what this host can do".to_owned(),
    };
    let kvm = Kvm::new().map_err(|error| failed("cannot open /dev/kvm", &error))?;
    drop(kvm.create_vm().map_err(|error| failed("KVM_CREATE_VM", &error))?);
    let files = host::FileLimit::raise();
    let capabilities = capabilities(&kvm);
    let mut notes = vec![format!("open files: {} at most while probing", files.limit())];
    if let Err(error) = kvm.create_vm().and_then(|vm| vm.create_irq_chip()) {
        notes.push(format!(
            "no interrupt controller in the kernel ({error}): vCPUs are made without their APICs and cost less than a real VM's"
        ));
    }
    let plan = [
        (Step::Vcpus, options.max_vcpus),
        (Step::Slots, options.max_slots),
        (Step::Queues, options.max_queues),
        // The last, with the time that the others left: it alone may need seconds a step.
        (Step::Memory, options.max_memory_bytes),
    ];
    let mut found = Vec::new();
    for (left, (step, most)) in (1..=4_u32).rev().zip(plan) {
        say(&format!("limits: {}", step.key()));
        let share = options.deadline.saturating_sub(begun.elapsed()) / left;
        let bounds = Bounds {
            most,
            until: Instant::now() + share,
            memory_floor: options.memory_floor_bytes,
            cancel,
        };
        let measured = series::climb(&kvm, step, &bounds, &capabilities);
        found.push(ProbeSeries {
            key: step.key().to_owned(),
            unit: step.unit().to_owned(),
            documented: Vec::new(),
            capability: step.capability(&capabilities),
            accepted: measured.accepted,
            ended: measured.ended,
            reason: measured.reason,
            curve: measured.curve,
            release_ms: measured.release_ms,
        });
    }
    drop(files);
    notes.extend(
        found
            .iter()
            .find(|series| series.key == Step::Memory.key())
            .and_then(memory_note),
    );
    Ok(LimitsReport {
        stamp: Stamp::now(concat!("esxodus-runner ", env!("CARGO_PKG_VERSION"))),
        host: HostFacts::default(),
        capabilities,
        series: found,
        notes,
        seconds: begun.elapsed().as_secs_f64(),
    })
}

/// Why large memory costs what it costs here. KVM keeps 8 bytes of reverse map for each page of 4 KiB, 2 MiB for each GiB, from
/// the moment that a slot is made, unless its TDP MMU is on (kvm_memslots_have_rmaps, arch/x86/kvm/mmu/mmu.c).
fn memory_note(series: &ProbeSeries) -> Option<String> {
    const GIB: u64 = 1 << 30;
    const ASKED: u64 = 12 << 40;
    let last = series.curve.last().filter(|last| last.count >= 16 * GIB)?;
    let each = last.kernel_bytes / (last.count / GIB);
    let (each, all) = (each >> 10, (each * (ASKED / GIB)) >> 20);
    Some(if each > 1024 {
        format!(
            "a GiB of guest memory costs {each} KiB of kernel memory at once: this KVM pages without EPT or NPT (or without \
             the TDP MMU) and makes its reverse maps beforehand. 12 TiB would take about {all} MiB here; where the TDP MMU \
             works they are not made, and a GiB costs some KiB"
        )
    } else {
        format!(
            "a GiB of guest memory costs {each} KiB of kernel memory as long as no guest touches it; 12 TiB about {all} MiB"
        )
    })
}

fn capabilities(kvm: &Kvm) -> KvmCapabilities {
    let ask = |cap| u64::try_from(kvm.check_extension_int(cap)).unwrap_or(0);
    KvmCapabilities {
        nr_vcpus: ask(Cap::NrVcpus),
        max_vcpus: ask(Cap::MaxVcpus),
        max_vcpu_id: ask(Cap::MaxVcpuId),
        nr_memslots: ask(Cap::NrMemslots),
    }
}

#[cfg(test)]
mod tests {
    use super::{LimitsOptions, memory_note, probe_limits};
    use reports::schema::{ProbeEnd as Ended, ProbePoint, ProbeSeries};
    use std::sync::atomic::AtomicBool;
    use std::time::Duration;

    fn small() -> LimitsOptions {
        LimitsOptions {
            deadline: Duration::from_secs(60),
            memory_floor_bytes: 64 << 20,
            max_vcpus: 4,
            max_slots: 16,
            max_memory_bytes: 4 << 30,
            max_queues: 8,
        }
    }

    /// Probes of this process one at a time: the files of one are counted by the other's test.
    fn alone() -> std::sync::MutexGuard<'static, ()> {
        static PROBES: std::sync::Mutex<()> = std::sync::Mutex::new(());
        PROBES.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn no_kvm() -> bool {
        let missing = kvm_ioctls::Kvm::new().and_then(|kvm| kvm.create_vm()).is_err();
        if missing {
            println!("SKIP: /dev/kvm cannot be used");
        }
        missing
    }

    #[test]
    fn small_bounds_are_accepted_and_the_curve_doubles_up_to_them() {
        if no_kvm() {
            return;
        }
        let found = probe_limits(&small(), &|_| (), &AtomicBool::new(false)).expect("KVM works");
        let series = |key: &str| found.series.iter().find(|series| series.key == key).expect("all four");
        let counts = |key: &str| series(key).curve.iter().map(|point| point.count).collect::<Vec<u64>>();
        assert_eq!(
            (series("vcpus").accepted, series("vcpus").ended),
            (4, Ended::Bound),
            "{found:?}"
        );
        assert_eq!(counts("vcpus"), [1, 2, 4]);
        assert_eq!(counts("memory-slots"), [1, 2, 4, 8, 16]);
        assert_eq!(series("memory").accepted, 4 << 30);
        // One VM that grows: what the larger one cost contains what the smaller one did.
        for series in &found.series {
            let times: Vec<f64> = series.curve.iter().map(|point| point.create_ms).collect();
            assert!(times.is_sorted(), "{}: {times:?}", series.key);
        }
        assert!(found.capabilities.max_vcpus >= 4 && found.capabilities.nr_memslots >= 16);
    }

    #[test]
    fn one_more_vcpu_than_kvm_promises_is_refused_in_the_same_vm_and_the_reason_names_it() {
        if no_kvm() {
            return;
        }
        let _alone = alone();
        let most = 1100;
        let options = LimitsOptions {
            max_vcpus: most,
            ..small()
        };
        let found = probe_limits(&options, &|_| (), &AtomicBool::new(false)).expect("KVM works");
        let (vcpus, promised) = (&found.series[0], found.capabilities.max_vcpus);
        match vcpus.ended {
            Ended::Refused => {
                assert_eq!(vcpus.accepted, promised, "{vcpus:?}");
                assert!(
                    vcpus.reason.contains(&format!("number {}", promised + 1)),
                    "{}",
                    vcpus.reason
                );
            }
            Ended::Bound => assert!(promised >= most, "{vcpus:?}"),
            ended => println!("SKIP: {ended:?}: {}", vcpus.reason),
        }
        let counts: Vec<u64> = vcpus.curve.iter().map(|point| point.count).collect();
        assert!(
            counts.is_sorted() && counts.last() == Some(&vcpus.accepted),
            "{counts:?}"
        );
    }

    #[test]
    fn large_memory_is_explained_by_what_a_gib_costs() {
        let series = |kernel_bytes| ProbeSeries {
            key: "memory".to_owned(),
            unit: "bytes".to_owned(),
            documented: Vec::new(),
            capability: None,
            accepted: 64 << 30,
            ended: Ended::Bound,
            reason: String::new(),
            curve: vec![ProbePoint {
                count: 64 << 30,
                create_ms: 1.0,
                kernel_bytes,
            }],
            release_ms: 1.0,
        };
        let note = |kernel_bytes| memory_note(&series(kernel_bytes)).unwrap_or_default();
        assert!(note(160 << 20).contains("about 30720 MiB") && note(160 << 20).contains("reverse maps"));
        assert!(note(64 << 12).contains("costs 4 KiB") && note(64 << 12).contains("about 48 MiB"));
    }

    #[test]
    fn descriptors_are_given_back_and_the_limit_of_open_files_is_as_before() {
        if no_kvm() {
            return;
        }
        let _alone = alone();
        let kvm_files = || {
            let open = std::fs::read_dir("/proc/self/fd").expect("readable").flatten();
            open.filter_map(|entry| std::fs::read_link(entry.path()).ok())
                .filter(|target| target.to_string_lossy().contains("kvm-vcpu:"))
                .count()
        };
        probe_limits(&small(), &|_| (), &AtomicBool::new(false)).expect("KVM works");
        // Other tests of this process may hold a vCPU or two of their own, not hundreds.
        assert!(kvm_files() < 32);
    }

    #[test]
    fn memory_pressure_and_cancel_end_every_series_before_it_begins() {
        if no_kvm() {
            return;
        }
        let starved = LimitsOptions {
            memory_floor_bytes: u64::MAX / 2,
            ..small()
        };
        let found = probe_limits(&starved, &|_| (), &AtomicBool::new(false)).expect("KVM opens");
        assert!(
            found
                .series
                .iter()
                .all(|series| series.ended == Ended::Memory && series.accepted == 0)
        );
        let found = probe_limits(&small(), &|_| (), &AtomicBool::new(true)).expect("KVM opens");
        assert!(found.series.iter().all(|series| series.ended == Ended::Cancelled));
    }
}
