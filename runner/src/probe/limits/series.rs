//! Climbs one quantity: 1, 2, 4 ... in VMs of their own, until something says no.

use super::host::Memory;
use super::reserved::Reserved;
use super::{Capabilities, Ended, Point};
use kvm_ioctls::{IoEventAddress, Kvm, NoDatamatch, VcpuFd, VmFd};
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

const GIB: u64 = 1 << 30;
const TIB: u64 = 1 << 40;
/// A slot has at most 2^31 - 1 pages (KVM_MEM_MAX_NR_PAGES, linux/kvm_host.h); 4 TiB stays clear of it and of odd sizes.
const SLOT: u64 = 4 << 40;
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
    pub(super) fn capability(self, capabilities: &Capabilities) -> Option<u64> {
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
    fn counts(self, most: u64, capabilities: &Capabilities) -> Vec<u64> {
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
        let asked = asked.into_iter().chain(self.capability(capabilities));
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
            return Err(Stop(Ended::Cancelled, "stopped".to_owned()));
        }
        if Instant::now() >= self.until {
            return Err(Stop(
                Ended::Time,
                "its part of the time was used up; give more".to_owned(),
            ));
        }
        let available = Memory::now().available;
        if available.saturating_sub(bytes) < self.memory_floor {
            let mib = |bytes: u64| bytes >> 20;
            return Err(Stop(
                Ended::Memory,
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

struct Stop(Ended, String);

/// What a series found.
pub(super) struct Climbed {
    pub(super) accepted: u64,
    pub(super) ended: Ended,
    pub(super) reason: String,
    pub(super) curve: Vec<Point>,
}

/// A VM with what was put into it; dropped in this order.
#[derive(Default)]
struct Made {
    vcpus: Vec<VcpuFd>,
    events: Vec<EventFd>,
    vm: Option<VmFd>,
    reserved: Option<Reserved>,
}

pub(super) fn climb(kvm: &Kvm, step: Step, bounds: &Bounds<'_>, capabilities: &Capabilities) -> Climbed {
    let mut climbed = Climbed {
        accepted: 0,
        ended: Ended::Bound,
        reason: "the bound given was reached and accepted".to_owned(),
        curve: Vec::new(),
    };
    for count in step.counts(bounds.most, capabilities) {
        // The costs of KVM's tables grow in proportion: what one this large will take is known from the one before.
        let expected = climbed.curve.last().map_or(0, |last: &Point| {
            u64::try_from(u128::from(last.kernel_bytes) * u128::from(count) / u128::from(last.count.max(1)))
                .unwrap_or(u64::MAX)
        });
        if let Err(Stop(ended, reason)) = bounds.check(expected) {
            (climbed.ended, climbed.reason) = (ended, format!("before {}: {reason}", step.words(count)));
            break;
        }
        let before = Memory::now();
        let begun = Instant::now();
        let mut made = Made::default();
        let (reached, mut stop) = build(kvm, step, count, &mut made, bounds);
        let create_ms = begun.elapsed().as_secs_f64() * 1e3;
        let kernel_bytes = Memory::now().taken_since(before);
        // One more than KVM promises, in the same VM: a further VM would cost as much again to say no at its end.
        if stop.is_none() && step.capability(capabilities) == Some(count) && count < bounds.most {
            stop = extend(step, count..count + 1, &mut made, bounds).1;
        }
        let begun = Instant::now();
        drop(made);
        // What was cut short before it came as far as the one before says nothing new.
        if reached > climbed.accepted {
            climbed.curve.push(Point {
                count: reached,
                create_ms,
                release_ms: begun.elapsed().as_secs_f64() * 1e3,
                kernel_bytes,
            });
        }
        climbed.accepted = climbed.accepted.max(reached);
        if let Some(Stop(ended, reason)) = stop {
            let way = if ended == Ended::Refused {
                String::new()
            } else {
                format!("on the way to {}: ", step.words(count))
            };
            (climbed.ended, climbed.reason) = (ended, format!("{way}{reason}"));
            break;
        }
    }
    climbed
}

fn build(kvm: &Kvm, step: Step, count: u64, made: &mut Made, bounds: &Bounds<'_>) -> (u64, Option<Stop>) {
    let refused = |what: String| Some(Stop(Ended::Refused, what));
    let vm = match kvm.create_vm() {
        Ok(vm) => &*made.vm.insert(vm),
        Err(error) => return (0, refused(format!("KVM_CREATE_VM: {error}"))),
    };
    // As in a real VM; where KVM has none, vCPUs go without.
    let _ = vm.create_irq_chip();
    if step == Step::Memory {
        return memory(vm, count, &mut made.reserved);
    }
    if step == Step::Slots {
        match Reserved::new(4096) {
            Ok(page) => made.reserved = Some(page),
            Err(error) => return (0, refused(format!("mmap: {error}"))),
        }
    }
    extend(step, 0..count, made, bounds)
}

/// Adds the pieces of `range` to a VM that has those before. How many it has then, and what stopped it.
fn extend(step: Step, range: Range<u64>, made: &mut Made, bounds: &Bounds<'_>) -> (u64, Option<Stop>) {
    let end = range.end;
    let Some(vm) = &made.vm else { return (0, None) };
    for index in range {
        if index % LOOK_EVERY == 0
            && let Err(stop) = bounds.check(0)
        {
            return (index, Some(stop));
        }
        let done = match step {
            Step::Vcpus => vcpu(vm, index, &mut made.vcpus),
            Step::Slots => slot(vm, index, made.reserved.as_ref()),
            Step::Memory | Step::Queues => queue(vm, index, &mut made.events),
        };
        if let Err(error) = done {
            return (
                index,
                Some(Stop(Ended::Refused, format!("number {}: {error}", index + 1))),
            );
        }
    }
    (end, None)
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

fn memory(vm: &VmFd, bytes: u64, reserved: &mut Option<Reserved>) -> (u64, Option<Stop>) {
    let refused = |at: u64, what: String| (at, Some(Stop(Ended::Refused, what)));
    let mapping = match Reserved::new(bytes) {
        Ok(mapping) => &*reserved.insert(mapping),
        Err(error) => {
            return refused(
                0,
                format!("mmap of {bytes} bytes without reserve: {error} (vm.overcommit_memory, ulimit -v)"),
            );
        }
    };
    let (mut given, mut slot) = (0, 0);
    while given < bytes {
        let now = (bytes - given).min(SLOT);
        // Low memory has no hole here: nothing runs, and KVM does not mind.
        if let Err(error) = mapping.give(vm, slot, given, given, now) {
            return refused(given, format!("at {} GiB: {error}", given / GIB));
        }
        given += now;
        slot += 1;
    }
    (bytes, None)
}

#[cfg(test)]
mod tests {
    use super::{GIB, Step};
    use crate::probe::limits::Capabilities;

    #[test]
    fn counts_double_and_hold_the_figures_that_people_ask_for() {
        let capabilities = Capabilities {
            nr_vcpus: 2,
            max_vcpus: 1024,
            max_vcpu_id: 4096,
            nr_memslots: 32_764,
        };
        let vcpus = Step::Vcpus.counts(1100, &capabilities);
        assert_eq!(vcpus, [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 768, 1024, 1100]);
        let memory = Step::Memory.counts(16 << 40, &capabilities);
        assert_eq!(memory.first(), Some(&GIB));
        assert!(memory.contains(&(12 << 40)) && memory.last() == Some(&(16 << 40)));
        assert_eq!(Step::Slots.counts(4, &capabilities), [1, 2, 4]);
    }
}
