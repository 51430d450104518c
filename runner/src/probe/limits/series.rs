//! Climbs one quantity: 1, 2, 4 ... in one VM that grows, until something says no. A VM for each count would cost the sum of all
//! of them, and the largest memory that fits beside its own tables is what is looked for.

use super::host::Memory;
use super::reserved::Reserved;
use kvm_ioctls::{IoEventAddress, Kvm, NoDatamatch, VcpuFd, VmFd};
use reports::schema::{KvmCapabilities, ProbeEnd, ProbePoint};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

const GIB: u64 = 1 << 30;
const TIB: u64 = 1 << 40;
/// A slot has at most 2^31 - 1 pages, 8 TiB (KVM_MEM_MAX_NR_PAGES, linux/kvm_host.h). Far smaller here, so that a look at the host's
/// memory comes before every piece: one of these may cost 1 GiB of kernel memory.
const SLOT: u64 = 512 << 30;
/// So many steps between two looks at clock and memory.
const LOOK_EVERY: u64 = 16;

/// What is climbed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    Vcpus,
    Slots,
    Memory,
    Queues,
}

impl Step {
    pub(super) fn key(self) -> &'static str {
        match self {
            Self::Vcpus => "vcpus",
            Self::Slots => "memory-slots",
            Self::Memory => "memory",
            Self::Queues => "virtio-queues",
        }
    }

    pub(super) fn unit(self) -> &'static str {
        match self {
            Self::Vcpus => "vCPUs",
            Self::Slots => "slots",
            Self::Memory => "bytes",
            Self::Queues => "queues",
        }
    }

    /// KVM's own figure, where it has one.
    pub(super) fn capability(self, capabilities: &KvmCapabilities) -> Option<u64> {
        match self {
            Self::Vcpus => Some(capabilities.max_vcpus),
            Self::Slots => Some(capabilities.nr_memslots),
            Self::Memory | Self::Queues => None,
        }
    }

    /// A count for people.
    fn words(self, count: u64) -> String {
        match self {
            Self::Memory if count.is_multiple_of(TIB) => format!("{} TiB", count / TIB),
            Self::Memory => format!("{} GiB", count / GIB),
            _ => format!("{count} {}", self.unit()),
        }
    }

    /// 1, 2, 4 … and the figures that people ask for, up to `most`.
    fn counts(self, most: u64, capabilities: &KvmCapabilities) -> Vec<u64> {
        let first = if self == Self::Memory { GIB } else { 1 };
        let mut counts: Vec<u64> = (0..44)
            .map(|bit| first << bit)
            .take_while(|&count| count <= most)
            .collect();
        let asked = match self {
            Self::Vcpus => Some(768),
            Self::Memory => Some(12 * TIB),
            Self::Slots | Self::Queues => None,
        };
        // One more than KVM promises shows whether it keeps to it.
        let own = self.capability(capabilities);
        let asked = asked.into_iter().chain(own).chain(own.map(|own| own.saturating_add(1)));
        counts.extend(asked.filter(|count| (first..=most).contains(count)));
        counts.push(most);
        counts.sort_unstable();
        counts.dedup();
        counts
    }
}

/// Where to stop.
pub(super) struct Bounds<'a> {
    pub(super) most: u64,
    pub(super) until: Instant,
    pub(super) memory_floor: u64,
    pub(super) cancel: &'a AtomicBool,
}

impl Bounds<'_> {
    /// May it go on, if the next piece takes `bytes` of kernel memory?
    fn check(&self, bytes: u64) -> Result<(), Stop> {
        if self.cancel.load(Ordering::Relaxed) {
            return Err(Stop(ProbeEnd::Cancelled, "stopped".to_owned()));
        }
        if Instant::now() >= self.until {
            return Err(Stop(
                ProbeEnd::Time,
                "its part of the time was used up; give more".to_owned(),
            ));
        }
        let available = Memory::now().available;
        if available.saturating_sub(bytes) < self.memory_floor {
            let mib = |bytes: u64| bytes >> 20;
            return Err(Stop(
                ProbeEnd::Memory,
                format!(
                    "it would take about {} MiB of kernel memory, {} MiB are available and {} MiB are left to others",
                    mib(bytes),
                    mib(available),
                    mib(self.memory_floor)
                ),
            ));
        }
        Ok(())
    }
}

struct Stop(ProbeEnd, String);

/// What a series found.
pub(super) struct Climbed {
    pub(super) accepted: u64,
    pub(super) ended: ProbeEnd,
    pub(super) reason: String,
    pub(super) curve: Vec<ProbePoint>,
    pub(super) release_ms: f64,
}

/// A VM with what was put into it; dropped in this order.
#[derive(Default)]
struct Made {
    vcpus: Vec<VcpuFd>,
    events: Vec<EventFd>,
    vm: Option<VmFd>,
    reserved: Option<Reserved>,
    slots: u32,
    /// How many it has.
    count: u64,
}

pub(super) fn climb(kvm: &Kvm, step: Step, bounds: &Bounds<'_>, capabilities: &KvmCapabilities) -> Climbed {
    let mut climbed = Climbed {
        accepted: 0,
        ended: ProbeEnd::Bound,
        reason: "the bound given was reached and accepted".to_owned(),
        curve: Vec::new(),
        release_ms: 0.0,
    };
    let before = Memory::now();
    let mut made = Made::default();
    let mut took = Duration::ZERO;
    for count in step.counts(bounds.most, capabilities) {
        let begun = Instant::now();
        let last = climbed.curve.last().copied();
        // The costs of KVM's tables grow in proportion: what so many more will take is known from those before.
        let more = move |count: u64| {
            last.map_or(0, |last: ProbePoint| {
                let part = u128::from(last.kernel_bytes) * u128::from(count) / u128::from(last.count.max(1));
                u64::try_from(part).unwrap_or(u64::MAX)
            })
        };
        let expected = more(count.saturating_sub(made.count));
        let mut stop = bounds.check(expected).err().map(|Stop(ended, reason)| {
            let words = format!("before {}: {reason}", step.words(count));
            Stop(ended, words)
        });
        if stop.is_none() {
            stop = grow(kvm, step, count, &mut made, bounds, &more).err();
            if let Some(Stop(ended, reason)) = &mut stop
                && *ended != ProbeEnd::Refused
            {
                *reason = format!("on the way to {}: {reason}", step.words(count));
            }
        }
        took += begun.elapsed();
        if made.count > climbed.accepted {
            climbed.accepted = made.count;
            climbed.curve.push(ProbePoint {
                count: made.count,
                create_ms: took.as_secs_f64() * 1e3,
                kernel_bytes: Memory::now().taken_since(before),
            });
        }
        if let Some(Stop(ended, reason)) = stop {
            (climbed.ended, climbed.reason) = (ended, reason);
            break;
        }
    }
    let begun = Instant::now();
    drop(made);
    climbed.release_ms = begun.elapsed().as_secs_f64() * 1e3;
    climbed
}

/// Makes the VM where there is none, and adds what it lacks of `count`.
fn grow(
    kvm: &Kvm,
    step: Step,
    count: u64,
    made: &mut Made,
    bounds: &Bounds<'_>,
    more: &dyn Fn(u64) -> u64,
) -> Result<(), Stop> {
    let refused = |what: String| Stop(ProbeEnd::Refused, what);
    if made.vm.is_none() {
        let vm = kvm
            .create_vm()
            .map_err(|error| refused(format!("KVM_CREATE_VM: {error}")))?;
        // As in a real VM; where KVM has none, vCPUs go without.
        let _ = vm.create_irq_chip();
        made.vm = Some(vm);
        let bytes = match step {
            Step::Memory => Some(bounds.most),
            Step::Slots => Some(4096),
            Step::Vcpus | Step::Queues => None,
        };
        if let Some(bytes) = bytes {
            let reserved = Reserved::new(bytes).map_err(|error| {
                refused(format!(
                    "mmap of {bytes} bytes without reserve: {error} (vm.overcommit_memory, ulimit -v)"
                ))
            })?;
            made.reserved = Some(reserved);
        }
    }
    while made.count < count {
        let piece = if step == Step::Memory {
            (count - made.count).min(SLOT)
        } else {
            1
        };
        if step == Step::Memory {
            bounds.check(more(piece))?;
        } else if made.count.is_multiple_of(LOOK_EVERY) {
            bounds.check(0)?;
        }
        add(step, piece, made).map_err(refused)?;
        made.count += piece;
    }
    Ok(())
}

/// One more, or `piece` bytes more.
fn add(step: Step, piece: u64, made: &mut Made) -> Result<(), String> {
    let Some(vm) = &made.vm else {
        return Err("there is no VM".to_owned());
    };
    let at = made.count;
    let done = match step {
        Step::Vcpus => vcpu(vm, at, &mut made.vcpus),
        Step::Slots => slot(vm, at, made.reserved.as_ref()),
        Step::Queues => queue(vm, at, &mut made.events),
        // Low memory has no hole here: nothing runs, and KVM does not mind.
        Step::Memory => {
            let mapping = made.reserved.as_ref().ok_or("no memory is reserved")?;
            mapping
                .give(vm, made.slots, at, at, piece)
                .map_err(|error| format!("at {} GiB: {error}", at / GIB))?;
            made.slots += 1;
            return Ok(());
        }
    };
    done.map_err(|error| format!("number {}: {error}", at + 1))
}

fn vcpu(vm: &VmFd, index: u64, made: &mut Vec<VcpuFd>) -> Result<(), String> {
    let vcpu = vm
        .create_vcpu(index)
        .map_err(|error| format!("KVM_CREATE_VCPU: {error}"))?;
    made.push(vcpu);
    Ok(())
}

/// A page each, with a hole between: neighbours could be merged by nobody, but so it is plain.
fn slot(vm: &VmFd, index: u64, page: Option<&Reserved>) -> Result<(), String> {
    let slot = u32::try_from(index).map_err(|error| error.to_string())?;
    page.ok_or("no page is reserved")?.give(vm, slot, index * 8192, 0, 4096)
}

/// An interrupt line and a doorbell, as a virtio queue has them. Lines are shared: the kernel takes any number on one.
fn queue(vm: &VmFd, index: u64, made: &mut Vec<EventFd>) -> Result<(), String> {
    const FIRST_LINE: u64 = 5;
    const LINES: u64 = 16;
    const DOORBELLS: u64 = 0xd000_0000;
    let event = || EventFd::new(EFD_NONBLOCK).map_err(|error| format!("eventfd: {error}"));
    let (interrupt, doorbell) = (event()?, event()?);
    let line = u32::try_from(FIRST_LINE + index % LINES).map_err(|error| error.to_string())?;
    vm.register_irqfd(&interrupt, line)
        .map_err(|error| format!("KVM_IRQFD: {error}"))?;
    vm.register_ioevent(&doorbell, &IoEventAddress::Mmio(DOORBELLS + index * 8), NoDatamatch)
        .map_err(|error| format!("KVM_IOEVENTFD: {error}"))?;
    made.extend([interrupt, doorbell]);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{GIB, Step};
    use reports::schema::KvmCapabilities;

    #[test]
    fn counts_double_and_hold_the_figures_that_people_ask_for() {
        let capabilities = KvmCapabilities {
            nr_vcpus: 2,
            max_vcpus: 1024,
            max_vcpu_id: 4096,
            nr_memslots: 32_764,
        };
        let vcpus = Step::Vcpus.counts(1100, &capabilities);
        assert_eq!(vcpus, [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 768, 1024, 1025, 1100]);
        let memory = Step::Memory.counts(16 << 40, &capabilities);
        assert_eq!(memory.first(), Some(&GIB));
        assert!(memory.contains(&(12 << 40)) && memory.last() == Some(&(16 << 40)));
        assert_eq!(Step::Slots.counts(4, &capabilities), [1, 2, 4]);
    }
}
