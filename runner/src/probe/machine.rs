//! The probe's machine: one vCPU in long mode, 2 MiB of memory, no interrupt controller.
#![expect(unsafe_code, reason = "KVM_SET_USER_MEMORY_REGION takes a raw address")]

use super::payload::{self, Entry, STUB_BYTES, STUBS};
use kvm_bindings::{KVM_MAX_CPUID_ENTRIES, kvm_regs, kvm_segment, kvm_userspace_memory_region};
use kvm_ioctls::{Kvm, VcpuExit, VcpuFd, VmFd};
use std::time::{Duration, Instant};
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryMmap};

const SIZE: usize = 2 << 20;
const PML4: u64 = 0x1000;
const PDPT: u64 = 0x2000;
const PAGES: u64 = 0x3000;
const GDT: u64 = 0x4000;
const IDT: u64 = 0x5000;
const TSS: u64 = 0x6000;
const SCRATCH: u64 = 0x7000;
const CODE: u64 = 0x8000;
const STACK: u64 = 0x1_8000;
const USER_STACK: u64 = 0x1_c000;

/// How a one-shot ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Shot {
    /// It went through.
    Done,
    /// The guest took exception `n`.
    Exception(u8),
    /// KVM gave up: internal error, shutdown, entry failure.
    Refused,
    /// The watchdog ended it.
    Stuck,
}

/// A loop that was interrupted.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Loop {
    /// Instructions run.
    pub(super) instructions: u64,
    /// Time in the guest.
    pub(super) time: Duration,
    /// Privilege level at the end.
    pub(super) level: u8,
}

/// Machine with its file descriptors.
pub(super) struct ProbeMachine {
    vcpu: VcpuFd,
    _vm: VmFd,
    // Mapped as long as the VM may run.
    _memory: GuestMemoryMmap,
    has_xsave: bool,
}

fn segment(selector: u16, kind: u8, level: u8, long: bool) -> kvm_segment {
    kvm_segment {
        base: 0,
        limit: u32::MAX,
        selector,
        type_: kind,
        present: 1,
        dpl: level,
        db: u8::from(!long),
        s: 1,
        l: u8::from(long),
        g: 1,
        ..kvm_segment::default()
    }
}

impl ProbeMachine {
    pub(super) fn new(kvm: &Kvm) -> Result<Self, String> {
        let told = |what: &'static str| move |error: kvm_ioctls::Error| format!("{what}: {error}");
        let memory = GuestMemoryMmap::<()>::from_ranges(&[(GuestAddress(0), SIZE)])
            .map_err(|error| format!("guest memory: {error}"))?;
        let vm = kvm.create_vm().map_err(told("KVM_CREATE_VM"))?;
        let host = memory
            .get_host_address(GuestAddress(0))
            .map_err(|error| format!("guest memory: {error}"))?;
        let region = kvm_userspace_memory_region {
            slot: 0,
            flags: 0,
            guest_phys_addr: 0,
            memory_size: SIZE as u64,
            userspace_addr: host as u64,
        };
        // SAFETY: the mapping is SIZE bytes long and outlives the VM: both live in the returned value, the VM's descriptors drop first.
        unsafe { vm.set_user_memory_region(region) }.map_err(told("KVM_SET_USER_MEMORY_REGION"))?;
        let vcpu = vm.create_vcpu(0).map_err(told("KVM_CREATE_VCPU"))?;
        let cpuid = kvm
            .get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)
            .map_err(told("KVM_GET_SUPPORTED_CPUID"))?;
        let has_xsave = cpuid
            .as_slice()
            .iter()
            .any(|leaf| leaf.function == 1 && leaf.ecx & (1 << 26) != 0);
        vcpu.set_cpuid2(&cpuid).map_err(told("KVM_SET_CPUID2"))?;
        write_tables(&memory)?;
        let mut machine = Self {
            vcpu,
            _vm: vm,
            _memory: memory,
            has_xsave,
        };
        machine.set_long_mode()?;
        Ok(machine)
    }

    /// CPUID offers XSAVE.
    pub(super) fn has_xsave(&self) -> bool {
        self.has_xsave
    }

    fn set_long_mode(&mut self) -> Result<(), String> {
        let mut sregs = self
            .vcpu
            .get_sregs()
            .map_err(|error| format!("KVM_GET_SREGS: {error}"))?;
        sregs.cs = segment(0x08, 0xb, 0, true);
        let data = segment(0x10, 0x3, 0, false);
        (sregs.ds, sregs.es, sregs.fs, sregs.gs, sregs.ss) = (data, data, data, data, data);
        sregs.tr = kvm_segment {
            base: TSS,
            limit: 0x67,
            selector: 0x28,
            type_: 0xb,
            present: 1,
            ..kvm_segment::default()
        };
        (sregs.gdt.base, sregs.gdt.limit) = (GDT, 0x37);
        (sregs.idt.base, sregs.idt.limit) = (IDT, 0xfff);
        sregs.cr0 = 0x8000_0033; // PG NE ET MP PE
        sregs.cr3 = PML4;
        sregs.cr4 = 0x620 | if self.has_xsave { 1 << 18 } else { 0 }; // OSXMMEXCPT OSFXSR PAE, OSXSAVE
        sregs.efer = 0x500; // LMA LME
        self.vcpu
            .set_sregs(&sregs)
            .map_err(|error| format!("KVM_SET_SREGS: {error}"))
    }

    fn enter(&mut self, entry: Entry) -> Result<(), String> {
        self.set_long_mode()?;
        let regs = kvm_regs {
            rip: CODE + payload::offset(entry),
            rsp: STACK,
            rsi: USER_STACK,
            rdi: SCRATCH,
            rcx: u64::MAX / 2,
            rflags: 2,
            ..kvm_regs::default()
        };
        self.vcpu
            .set_regs(&regs)
            .map_err(|error| format!("KVM_SET_REGS: {error}"))
    }

    /// Runs a loop until the watchdog's signal; `arm` tells the watchdog to send it after the time wanted.
    pub(super) fn measure(&mut self, entry: Entry, arm: &dyn Fn()) -> Result<Loop, String> {
        self.enter(entry)?;
        arm();
        let begun = Instant::now();
        let end = self.vcpu.run();
        let time = begun.elapsed();
        match end {
            Err(error) if error.errno() == libc::EINTR || error.errno() == libc::EAGAIN => {}
            Err(error) => return Err(format!("KVM_RUN: {error}")),
            Ok(VcpuExit::Intr) => {}
            Ok(exit) => return Err(format!("the loop ended with {exit:?}")),
        }
        let regs = self.vcpu.get_regs().map_err(|error| format!("KVM_GET_REGS: {error}"))?;
        let sregs = self
            .vcpu
            .get_sregs()
            .map_err(|error| format!("KVM_GET_SREGS: {error}"))?;
        // Two instructions a round.
        let instructions = (u64::MAX / 2).saturating_sub(regs.rcx).saturating_mul(2);
        Ok(Loop {
            instructions,
            time,
            level: u8::try_from(sregs.cs.selector & 3).unwrap_or(0),
        })
    }

    /// Runs a one-shot; the watchdog is armed by `arm`.
    pub(super) fn shoot(&mut self, entry: Entry, arm: &dyn Fn()) -> Result<Shot, String> {
        self.enter(entry)?;
        arm();
        Ok(match self.vcpu.run() {
            Ok(VcpuExit::IoOut(0x40, _)) => Shot::Done,
            Ok(VcpuExit::IoOut(0x41, data)) => Shot::Exception(data.first().copied().unwrap_or(0xff)),
            Err(error) if error.errno() == libc::EINTR => Shot::Stuck,
            Ok(_) | Err(_) => Shot::Refused,
        })
    }

    /// Nanoseconds of each of `count` exits, sorted; ends early at `until`.
    pub(super) fn exits(&mut self, count: usize, until: Instant, arm: &dyn Fn()) -> Result<Vec<u64>, String> {
        self.enter(Entry::Exits)?;
        arm();
        let mut times = Vec::with_capacity(count);
        while times.len() < count && Instant::now() < until {
            let begun = Instant::now();
            match self.vcpu.run() {
                Ok(VcpuExit::IoOut(0x43, _)) => {}
                Err(error) if error.errno() == libc::EINTR => break,
                Ok(exit) => return Err(format!("a port write ended with {exit:?}")),
                Err(error) => return Err(format!("KVM_RUN: {error}")),
            }
            times.push(u64::try_from(begun.elapsed().as_nanos()).unwrap_or(u64::MAX));
        }
        times.sort_unstable();
        Ok(times)
    }
}

fn write_tables(memory: &GuestMemoryMmap) -> Result<(), String> {
    let put = |at: u64, bytes: &[u8]| {
        memory
            .write_slice(bytes, GuestAddress(at))
            .map_err(|error| format!("guest memory: {error}"))
    };
    let word = |at: u64, value: u64| put(at, &value.to_le_bytes());
    // Present, writable, user; the leaf is a 2 MiB page, accessed and dirty.
    word(PML4, PDPT | 7)?;
    word(PDPT, PAGES | 7)?;
    word(PAGES, 0xe7)?;
    // Null, kernel code, kernel data, user data, user code, TSS (16 bytes). AMD APM volume 2, section 4.8.
    let descriptors = [
        0,
        0x00af_9b00_0000_ffff,
        0x00cf_9300_0000_ffff,
        0x00cf_f300_0000_ffff,
        0x00af_fb00_0000_ffff,
        0x0000_8b00_6000_0067,
        0,
    ];
    for (at, descriptor) in (GDT..).step_by(8).zip(descriptors) {
        word(at, descriptor)?;
    }
    // RSP0, for exceptions out of CPL 3.
    word(TSS + 4, STACK)?;
    let stubs = CODE + payload::offset(Entry::Stubs);
    for vector in 0..STUBS {
        let target = stubs + vector * STUB_BYTES;
        // 64-bit interrupt gate, DPL 3.
        let low = (target & 0xffff) | 0x08 << 16 | 0xee00 << 32 | (target & 0xffff_0000) << 32;
        word(IDT + vector * 16, low)?;
        word(IDT + vector * 16 + 8, target >> 32)?;
    }
    put(CODE, payload::code())
}
