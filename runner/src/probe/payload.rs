//! The probe's guest code: hand-written integer assembly, position independent, no SSE but in its own one-shot.
//!
//! Ports: 0x40 = the one-shot went through; 0x41 = exception, vector in AL; 0x43 = timed exit.
#![expect(unsafe_code, reason = "the bounds of a global_asm blob are extern statics")]

use std::arch::global_asm;

global_asm!(
    ".pushsection .rodata.esxodus_probe, \"a\"",
    ".balign 64",
    ".global esxodus_probe_start",
    ".global esxodus_probe_end",
    "esxodus_probe_start:",
    // Table of entries, relative to the start; the order is that of `Entry`.
    ".long 29f - esxodus_probe_start",
    ".long 28f - esxodus_probe_start",
    ".long 33f - esxodus_probe_start",
    ".long 44f - esxodus_probe_start",
    ".long 55f - esxodus_probe_start",
    ".long 66f - esxodus_probe_start",
    ".long 77f - esxodus_probe_start",
    ".long 88f - esxodus_probe_start",
    // CPL-0 loop: RCX counts down, the host interrupts.
    ".balign 16",
    "29: dec rcx",
    "jnz 29b",
    // CPL-3 loop by iretq: RSI = user stack, the selectors are those of `machine.rs`.
    ".balign 16",
    "28: push 0x1b",
    "push rsi",
    "push 2",
    "push 0x23",
    "lea rax, [rip + 27f]",
    "push rax",
    "iretq",
    ".balign 16",
    "27: dec rcx",
    "jnz 27b",
    // One-shots. RDI = 64-byte aligned scratch of zeros.
    ".balign 16",
    "33: xor eax, eax",
    "xor edx, edx",
    "xor ebx, ebx",
    "xor ecx, ecx",
    "cmpxchg16b [rdi]",
    "jmp 99f",
    ".balign 16",
    "44: int3",
    // Only reached where int3 does nothing at all.
    "jmp 99f",
    ".balign 16",
    "55: mov eax, 1",
    "xor edx, edx",
    "xrstor [rdi]",
    "jmp 99f",
    ".balign 16",
    "66: paddd xmm0, xmm1",
    "jmp 99f",
    // Exits, timed one by one.
    ".balign 16",
    "77: out 0x43, al",
    "jmp 77b",
    // Exception stubs: 32 of 16 bytes. AL = vector.
    ".balign 16",
    "88:",
    ".set esxodus_probe_vector, 0",
    ".rept 32",
    "mov eax, esxodus_probe_vector",
    "out 0x41, al",
    "9: jmp 9b",
    ".balign 16",
    ".set esxodus_probe_vector, esxodus_probe_vector + 1",
    ".endr",
    "99: out 0x40, al",
    "98: jmp 98b",
    "esxodus_probe_end:",
    ".popsection",
);

unsafe extern "C" {
    static esxodus_probe_start: u8;
    static esxodus_probe_end: u8;
}

/// Where the guest starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Entry {
    KernelLoop = 0,
    UserLoop = 1,
    Cmpxchg16b = 2,
    Int3 = 3,
    Xrstor = 4,
    SseAdd = 5,
    Exits = 6,
    /// Not an entry: the exception stubs, [`STUB_BYTES`] apart.
    Stubs = 7,
}

/// Distance of two exception stubs.
pub(super) const STUB_BYTES: u64 = 16;
/// Number of exception stubs.
pub(super) const STUBS: u64 = 32;

/// The code.
pub(super) fn code() -> &'static [u8] {
    // SAFETY: both labels bound one contiguous read-only section that lives as long as the program.
    unsafe {
        let (start, end) = (&raw const esxodus_probe_start, &raw const esxodus_probe_end);
        std::slice::from_raw_parts(start, end.addr() - start.addr())
    }
}

/// Offset of an entry in the code.
pub(super) fn offset(entry: Entry) -> u64 {
    let at = entry as usize * 4;
    let bytes = &code()[at..at + 4];
    u64::from(u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
}

#[cfg(test)]
mod tests {
    use super::{Entry, code, offset};

    #[test]
    fn every_entry_starts_with_its_instruction() {
        let at = |entry| &code()[usize::try_from(offset(entry)).expect("small")..];
        assert!(at(Entry::KernelLoop).starts_with(&[0x48, 0xff, 0xc9]), "dec rcx");
        assert!(at(Entry::Int3).starts_with(&[0xcc]), "int3");
        assert!(
            at(Entry::SseAdd).starts_with(&[0x66, 0x0f, 0xfe, 0xc1]),
            "paddd xmm0, xmm1"
        );
        assert!(at(Entry::Exits).starts_with(&[0xe6, 0x43]), "out 0x43, al");
        let third = &at(Entry::Stubs)[3 * 16..];
        assert!(
            third.starts_with(&[0xb8, 3, 0, 0, 0, 0xe6, 0x41]),
            "mov eax, 3; out 0x41, al"
        );
    }
}
