//! What KVM on this host really takes: VMs that never run, with growing numbers of vCPUs, memory slots, bytes of guest
//! memory and virtio queues, until KVM says no or a bound is reached. What each costs is measured on the way.
//!
//! Bounded in time, stops before memory gets short, and leaves nothing: all of it hangs on file descriptors.

mod host;
mod reserved;
mod series;

use crate::{Result, RunnerError};
use kvm_ioctls::{Cap, Kvm};
use serde::Serialize;
use series::{Bounds, Step};
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

/// How far to go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LimitsOptions {
    /// Longest time for everything; each of the four series gets its part of what is left.
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

/// What KVM says about itself. 0 where it does not say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Capabilities {
    /// KVM_CAP_NR_VCPUS: recommended vCPUs of one VM.
    pub nr_vcpus: u64,
    /// KVM_CAP_MAX_VCPUS: vCPUs of one VM at most.
    pub max_vcpus: u64,
    /// KVM_CAP_MAX_VCPU_ID: vCPU ids lie below this.
    pub max_vcpu_id: u64,
    /// KVM_CAP_NR_MEMSLOTS: memory slots of one VM.
    pub nr_memslots: u64,
}

/// A limit from the table, beside the measured one.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Documented {
    /// Product.
    pub product: String,
    /// Its version.
    pub version: String,
    /// Value with its unit.
    pub value: String,
    /// Where it is stated.
    pub source: String,
}

/// How a series ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Ended {
    /// KVM or the kernel said no: the value before is the limit here.
    Refused,
    /// The bound given was reached and accepted: the limit lies above.
    Bound,
    /// Time was up.
    Time,
    /// Memory would have become short.
    Memory,
    /// The cancel flag was set.
    Cancelled,
}

/// One VM of a series.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Point {
    /// How many, in the series' unit.
    pub count: u64,
    /// Milliseconds to create the VM with so many.
    pub create_ms: f64,
    /// Milliseconds to take it down.
    pub release_ms: f64,
    /// Growth of the kernel's memory meanwhile, in bytes: SUnreclaim, KernelStack, PageTables, SecPageTables, VmallocUsed
    /// and Percpu of /proc/meminfo, or the fall of MemAvailable where that is more. The whole host's: others' work is in it.
    pub kernel_bytes: u64,
}

/// A quantity: documented, KVM's own figure, accepted here, and what it costs.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Series {
    /// `vcpus`, `memory-slots`, `memory`, `virtio-queues`.
    pub key: &'static str,
    /// Unit of the counts.
    pub unit: &'static str,
    /// What documents say for one VM. The probe leaves it empty: its caller knows the table.
    pub documented: Vec<Documented>,
    /// KVM's own figure, where it has one.
    pub capability: Option<u64>,
    /// The most that was accepted here.
    pub accepted: u64,
    /// Why it ended there.
    pub ended: Ended,
    /// The same in words, with the system's error.
    pub reason: String,
    /// What it costs.
    pub curve: Vec<Point>,
}

/// All of it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct LimitsReport {
    /// KVM's own figures.
    pub capabilities: Capabilities,
    /// The four series.
    pub series: Vec<Series>,
    /// What a reader should know.
    pub notes: Vec<String>,
    /// Wall seconds.
    pub seconds: f64,
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
        (Step::Memory, options.max_memory_bytes),
        (Step::Queues, options.max_queues),
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
        found.push(Series {
            key: step.key(),
            unit: step.unit(),
            documented: Vec::new(),
            capability: step.capability(&capabilities),
            accepted: measured.accepted,
            ended: measured.ended,
            reason: measured.reason,
            curve: measured.curve,
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
        capabilities,
        series: found,
        notes,
        seconds: begun.elapsed().as_secs_f64(),
    })
}

/// Why large memory costs what it costs here. KVM keeps 8 bytes of reverse map for each page of 4 KiB, 2 MiB for each GiB, from
/// the moment that a slot is made, unless its TDP MMU is on (kvm_memslots_have_rmaps, arch/x86/kvm/mmu/mmu.c).
fn memory_note(series: &Series) -> Option<String> {
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

fn capabilities(kvm: &Kvm) -> Capabilities {
    let ask = |cap| u64::try_from(kvm.check_extension_int(cap)).unwrap_or(0);
    Capabilities {
        nr_vcpus: ask(Cap::NrVcpus),
        max_vcpus: ask(Cap::MaxVcpus),
        max_vcpu_id: ask(Cap::MaxVcpuId),
        nr_memslots: ask(Cap::NrMemslots),
    }
}

#[cfg(test)]
mod tests {
    use super::{Ended, LimitsOptions, Point, Series, memory_note, probe_limits};
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
        let series = |kernel_bytes| Series {
            key: "memory",
            unit: "bytes",
            documented: Vec::new(),
            capability: None,
            accepted: 64 << 30,
            ended: Ended::Bound,
            reason: String::new(),
            curve: vec![Point {
                count: 64 << 30,
                create_ms: 1.0,
                release_ms: 1.0,
                kernel_bytes,
            }],
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
