//! The guest's physical address map. All values are guest-physical addresses or sizes in bytes.

/// GDT for the first instruction.
pub const GDT: u64 = 0x500;
/// IDT for the first instruction (empty).
pub const IDT: u64 = 0x520;
/// PVH `hvm_start_info`.
pub const PVH_START_INFO: u64 = 0x6000;
/// PVH module list (one entry: the initrd).
pub const PVH_MODULES: u64 = 0x6040;
/// PVH memory map.
pub const PVH_MEMORY_MAP: u64 = 0x7000;
/// `boot_params` of the Linux boot protocol. Shares its page with the PVH map: a boot uses one of the two.
pub const ZERO_PAGE: u64 = 0x7000;
/// Stack pointer at the 64-bit entry.
pub const BOOT_STACK: u64 = 0x8ff0;
/// Page tables at the 64-bit entry: PML4, PDPT, one page directory of 512 × 2 MiB.
pub const PML4: u64 = 0x9000;
/// See [`PML4`].
pub const PDPT: u64 = 0xa000;
/// See [`PML4`].
pub const PAGE_DIRECTORY: u64 = 0xb000;
/// What the boot page tables map one to one.
pub const IDENTITY_MAP_SIZE: u64 = 1 << 30;
/// Kernel command line.
pub const CMDLINE: u64 = 0x2_0000;
/// Room for the command line with its terminating zero. The kernel's own bound is in its header (Debian: 2047 + 1).
pub const CMDLINE_SIZE: u64 = 0x1_0000;
/// ACPI tables other than the RSDP, up to [`RSDP`].
pub const ACPI_TABLES: u64 = 0x9_fc00;
/// RSDP; ACPI searches from here to 1 MiB in 16-byte steps, and the boot protocols hand over the address too.
pub const RSDP: u64 = 0xe_0000;
/// First byte above the BIOS area.
pub const HIGH_MEMORY: u64 = 0x10_0000;
/// The hole for devices below 4 GiB.
pub const MMIO_HOLE_START: u64 = 0xc000_0000;
/// End of the hole; RAM goes on here.
pub const MMIO_HOLE_END: u64 = 1 << 32;
/// First virtio-mmio window.
pub const VIRTIO_MMIO_BASE: u64 = MMIO_HOLE_START;
/// Distance of two virtio-mmio windows, which is also their size.
pub const VIRTIO_MMIO_STRIDE: u64 = 0x1000;
/// Memory for PCI BARs.
pub const PCI_WINDOW: u32 = 0xd000_0000;
/// Its size.
pub const PCI_WINDOW_SIZE: u32 = 0x1000_0000;
/// I/O APIC registers.
pub const IOAPIC: u32 = 0xfec0_0000;
/// Local APIC registers.
pub const LAPIC: u32 = 0xfee0_0000;
/// Three pages for KVM on Intel (`KVM_SET_TSS_ADDR`).
pub const KVM_TSS: usize = 0xfffb_d000;
/// One page for KVM on Intel (`KVM_SET_IDENTITY_MAP_ADDR`).
pub const KVM_IDENTITY_MAP: u64 = 0xfffb_c000;

/// First UART, the console: port and interrupt.
pub const COM1: (u16, u32) = (0x3f8, 4);
/// Second UART, the agent's channel: port and interrupt.
pub const COM2: (u16, u32) = (0x2f8, 3);
/// i8042 command port; only "pulse reset" is served.
pub const I8042_COMMAND: u16 = 0x64;
/// Port for boot marks: one byte a mark (POST codes).
pub const POST_PORT: u16 = 0x80;
/// PCI configuration mechanism #1: address and data.
pub const PCI_CONFIG_PORTS: u16 = 0xcf8;
/// pvpanic event port (QEMU `docs/specs/pvpanic.rst`).
pub const PVPANIC_PORT: u16 = 0x505;
/// ACPI sleep control (write), sleep status (read) and reset register, in one byte-wide port.
pub const POWER_PORT: u16 = 0x600;

/// First interrupt line (GSI) for virtio devices; 0 to 4 belong to PIT, UARTs and the like.
pub const GSI_DEVICES: u32 = 5;
/// Line of the ACPI generic event device (power button).
pub const GSI_POWER_BUTTON: u32 = 23;
/// How many virtio devices fit onto the I/O APIC's free lines.
pub const MAX_VIRTIO_DEVICES: u32 = GSI_POWER_BUTTON - GSI_DEVICES;
/// First number for messages (MSI-X), above the I/O APIC's lines.
pub const GSI_MESSAGES: u32 = 24;
