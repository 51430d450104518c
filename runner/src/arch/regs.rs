//! Registers, descriptor tables and page tables at the first instruction.

use kvm_bindings::{kvm_fpu, kvm_lapic_state, kvm_regs, kvm_segment, kvm_sregs};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use super::layout;

/// Where and how the boot CPU starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Entry {
    /// Linux 64-bit entry: long mode, identity map, RSI = zero page.
    Linux64 {
        /// RIP.
        rip: u64,
    },
    /// PVH entry: 32-bit protected mode without paging, EBX = `hvm_start_info`.
    Pvh {
        /// EIP.
        rip: u64,
    },
    /// Flat 64-bit code for payloads: as [`Entry::Linux64`] with RSI = `argument`.
    Long64 {
        /// RIP.
        rip: u64,
        /// RSI.
        argument: u64,
    },
}

const CR0_PE: u64 = 1;
const CR0_ET: u64 = 1 << 4;
const CR0_PG: u64 = 1 << 31;
const CR4_PAE: u64 = 1 << 5;
const EFER_LME: u64 = 1 << 8;
const EFER_LMA: u64 = 1 << 10;

/// A descriptor table entry with base 0 and limit 4 GiB (in pages) or `limit` bytes.
const fn descriptor(flags: u64, limit: u64) -> u64 {
    (flags & 0xf0ff) << 40 | (limit & 0xf_0000) << 32 | limit & 0xffff
}

/// Selectors that the Linux boot protocol asks for: code 0x10, data 0x18. Slot 1 stays empty.
const fn gdt(code: u64, tss: u64) -> [u64; 5] {
    [
        0,
        0,
        descriptor(code, 0xf_ffff),
        descriptor(0xc093, 0xf_ffff),
        descriptor(tss, 0x67),
    ]
}
const GDT_LONG: [u64; 5] = gdt(0xa09b, 0x008b);
const GDT_PVH: [u64; 5] = gdt(0xc09b, 0x008b);

fn segment(gdt: &[u64; 5], index: u8) -> kvm_segment {
    let entry = gdt[usize::from(index)];
    let bit = |at: u32| u8::from(entry >> at & 1 == 1);
    let nibble = |at: u32| u8::try_from(entry >> at & 0xf).expect("four bits fit");
    let limit = u32::try_from(entry & 0xffff | entry >> 32 & 0xf_0000).expect("20 bits fit");
    let granular = bit(55);
    kvm_segment {
        base: 0,
        limit: if granular == 1 { limit << 12 | 0xfff } else { limit },
        selector: u16::from(index) * 8,
        type_: nibble(40),
        s: bit(44),
        dpl: u8::try_from(entry >> 45 & 3).expect("two bits fit"),
        present: bit(47),
        avl: bit(52),
        l: bit(53),
        db: bit(54),
        g: granular,
        unusable: 0,
        padding: 0,
    }
}

/// Writes GDT, IDT and page tables that `entry` needs.
///
/// # Errors
/// Where guest memory does not reach over the boot area.
pub fn write_tables(memory: &GuestMemoryMmap, entry: Entry) -> Result<(), vm_memory::GuestMemoryError> {
    let gdt = tables_of(entry);
    for (index, descriptor) in (0_u64..).zip(gdt) {
        memory.write_obj(descriptor.to_le(), GuestAddress(layout::GDT + index * 8))?;
    }
    memory.write_obj(0_u64, GuestAddress(layout::IDT))?;
    if !matches!(entry, Entry::Pvh { .. }) {
        const PRESENT_WRITABLE: u64 = 3;
        const HUGE: u64 = 1 << 7;
        memory.write_obj(layout::PDPT | PRESENT_WRITABLE, GuestAddress(layout::PML4))?;
        memory.write_obj(layout::PAGE_DIRECTORY | PRESENT_WRITABLE, GuestAddress(layout::PDPT))?;
        for index in 0..512_u64 {
            memory.write_obj(
                index << 21 | PRESENT_WRITABLE | HUGE,
                GuestAddress(layout::PAGE_DIRECTORY + index * 8),
            )?;
        }
    }
    Ok(())
}

fn tables_of(entry: Entry) -> &'static [u64; 5] {
    match entry {
        Entry::Pvh { .. } => &GDT_PVH,
        Entry::Linux64 { .. } | Entry::Long64 { .. } => &GDT_LONG,
    }
}

/// Special registers for `entry`; everything that it does not name stays as KVM gave it.
pub fn set_sregs(sregs: &mut kvm_sregs, entry: Entry) {
    let gdt = tables_of(entry);
    let code = segment(gdt, 2);
    let data = segment(gdt, 3);
    sregs.gdt.base = layout::GDT;
    sregs.gdt.limit = 5 * 8 - 1;
    sregs.idt.base = layout::IDT;
    sregs.idt.limit = 7;
    sregs.cs = code;
    (sregs.ds, sregs.es, sregs.fs, sregs.gs, sregs.ss) = (data, data, data, data, data);
    sregs.tr = segment(gdt, 4);
    match entry {
        Entry::Pvh { .. } => {
            sregs.cr0 = CR0_PE | CR0_ET;
            sregs.cr4 = 0;
            sregs.efer = 0;
        }
        Entry::Linux64 { .. } | Entry::Long64 { .. } => {
            sregs.cr3 = layout::PML4;
            sregs.cr4 |= CR4_PAE;
            sregs.cr0 |= CR0_PE | CR0_PG;
            sregs.efer |= EFER_LME | EFER_LMA;
        }
    }
}

/// General registers for `entry`.
pub fn regs(entry: Entry) -> kvm_regs {
    let base = kvm_regs {
        rflags: 2,
        ..kvm_regs::default()
    };
    match entry {
        Entry::Linux64 { rip } => kvm_regs {
            rip,
            rsp: layout::BOOT_STACK,
            rbp: layout::BOOT_STACK,
            rsi: layout::ZERO_PAGE,
            ..base
        },
        Entry::Long64 { rip, argument } => kvm_regs {
            rip,
            rsp: layout::BOOT_STACK,
            rbp: layout::BOOT_STACK,
            rsi: argument,
            ..base
        },
        Entry::Pvh { rip } => kvm_regs {
            rip,
            rbx: layout::PVH_START_INFO,
            ..base
        },
    }
}

/// FPU state after reset, as the SysV ABI wants it.
pub fn fpu() -> kvm_fpu {
    kvm_fpu {
        fcw: 0x37f,
        mxcsr: 0x1f80,
        ..kvm_fpu::default()
    }
}

/// Routes LINT0 to ExtINT and LINT1 to NMI, as a PC's firmware does.
pub fn set_lint(lapic: &mut kvm_lapic_state) {
    const LVT_LINT0: usize = 0x350;
    const LVT_LINT1: usize = 0x360;
    const MODE_EXTINT: u32 = 7;
    const MODE_NMI: u32 = 4;
    for (register, mode) in [(LVT_LINT0, MODE_EXTINT), (LVT_LINT1, MODE_NMI)] {
        let mut bytes = [0_u8; 4];
        for (byte, source) in bytes.iter_mut().zip(&lapic.regs[register..register + 4]) {
            *byte = source.to_ne_bytes()[0];
        }
        let value = u32::from_le_bytes(bytes) & !0x700 | mode << 8;
        for (target, byte) in lapic.regs[register..register + 4].iter_mut().zip(value.to_le_bytes()) {
            *target = std::ffi::c_char::from_ne_bytes([byte]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_mode_entry_uses_the_selectors_of_the_boot_protocol() {
        let mut sregs = kvm_sregs::default();
        set_sregs(&mut sregs, Entry::Linux64 { rip: 0x100_0200 });
        assert_eq!((sregs.cs.selector, sregs.ds.selector), (0x10, 0x18));
        assert_eq!((sregs.cs.l, sregs.cs.db, sregs.cs.g), (1, 0, 1));
        assert_eq!(sregs.cs.limit, 0xffff_ffff);
        assert_eq!((sregs.tr.type_, sregs.tr.s, sregs.tr.limit), (0xb, 0, 0x67));
        assert_eq!(regs(Entry::Linux64 { rip: 1 }).rsi, layout::ZERO_PAGE);
    }

    #[test]
    fn pvh_entry_is_32_bit_without_paging() {
        let mut sregs = kvm_sregs::default();
        set_sregs(&mut sregs, Entry::Pvh { rip: 0x100_0000 });
        assert_eq!((sregs.cs.l, sregs.cs.db), (0, 1));
        assert_eq!(sregs.cr0 & CR0_PG, 0);
        assert_eq!(regs(Entry::Pvh { rip: 1 }).rbx, layout::PVH_START_INFO);
    }

    #[test]
    fn identity_map_covers_its_last_page() {
        let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 1 << 20)]).expect("mmap");
        write_tables(&memory, Entry::Linux64 { rip: 0 }).expect("fits");
        let last: u64 = memory
            .read_obj(GuestAddress(layout::PAGE_DIRECTORY + 511 * 8))
            .expect("inside");
        assert_eq!(last, (layout::IDENTITY_MAP_SIZE - (2 << 20)) | 0x83);
    }
}
