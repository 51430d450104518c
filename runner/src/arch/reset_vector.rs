//! Code at the BIOS reset vector.
//!
//! Linux on a hardware-reduced ACPI machine prefers an EFI reset (`reboot_init` in `arch/x86/kernel/reboot.c`); without EFI
//! it falls through to `BOOT_BIOS`, which jumps to FFFF:0000 in real mode. A BIOS resets the machine there; so do we.

use vm_memory::{Bytes as _, GuestAddress, GuestMemoryError, GuestMemoryMmap};

use super::layout;
use crate::acpi::tables::RESET_VALUE;

/// Physical address of FFFF:0000.
const RESET_VECTOR: u64 = 0xf_fff0;

/// `mov dx, POWER_PORT; mov al, RESET_VALUE; out dx, al; hlt; jmp $-1`.
fn code() -> [u8; 9] {
    let [low, high] = layout::POWER_PORT.to_le_bytes();
    [0xba, low, high, 0xb0, RESET_VALUE, 0xee, 0xf4, 0xeb, 0xfd]
}

/// Writes the code.
///
/// # Errors
/// Where guest memory ends below 1 MiB.
pub fn write(memory: &GuestMemoryMmap) -> Result<(), GuestMemoryError> {
    memory.write_slice(&code(), GuestAddress(RESET_VECTOR))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_code_fits_between_the_vector_and_one_mebibyte() {
        let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 1 << 20)]).expect("mmap");
        write(&memory).expect("fits");
        assert_eq!(code()[..6], [0xba, 0x00, 0x06, 0xb0, 1, 0xee]);
    }
}
