//! ELF `vmlinux` by its PVH note (`XEN_ELFNOTE_PHYS32_ENTRY`): no decompression, no KASLR.

use std::fs::File;

use linux_loader::{
    configurator::pvh::PvhBootConfigurator,
    configurator::{BootConfigurator as _, BootParams},
    loader::{
        KernelLoader as _,
        elf::{
            Elf, PvhBootCapability,
            start_info::{hvm_memmap_table_entry, hvm_modlist_entry, hvm_start_info},
        },
    },
};
use vm_memory::{GuestAddress, GuestMemoryMmap};

use super::{BootError, LinuxBoot, load_cmdline, load_initrd, memory_map};
use crate::arch::{layout, regs::Entry};

const START_INFO_MAGIC: u32 = 0x336e_c578;
/// `COMMAND_LINE_SIZE` of x86 Linux.
const CMDLINE_LIMIT: u64 = 2047;

/// Loads kernel, initrd, command line and `hvm_start_info`.
pub(super) fn load(
    memory: &GuestMemoryMmap,
    memory_bytes: u64,
    boot: &LinuxBoot,
    kernel: &mut File,
) -> Result<Entry, BootError> {
    let loader_error = |message: String| BootError::Loader {
        path: boot.kernel.clone(),
        message,
    };
    let loaded = Elf::load(memory, None, kernel, Some(GuestAddress(layout::HIGH_MEMORY)))
        .map_err(|error| loader_error(error.to_string()))?;
    let PvhBootCapability::PvhEntryPresent(entry) = loaded.pvh_boot_cap else {
        return Err(BootError::Unsupported {
            path: boot.kernel.clone(),
            lacks: "no PVH entry note (CONFIG_PVH is off); use the bzImage".into(),
        });
    };
    let low_ram = memory_map::low_ram_end(memory_bytes);
    if loaded.kernel_end > low_ram {
        return Err(BootError::TooSmall {
            what: "the kernel",
            needed: loaded.kernel_end,
            bound: low_ram,
        });
    }
    load_cmdline(memory, &boot.cmdline, CMDLINE_LIMIT)?;
    let map: Vec<_> = memory_map::kernel_map(memory_bytes)
        .iter()
        .map(|range| hvm_memmap_table_entry {
            addr: range.start,
            size: range.size,
            type_: range.kind.code(),
            reserved: 0,
        })
        .collect();
    let mut info = hvm_start_info {
        magic: START_INFO_MAGIC,
        version: 1,
        cmdline_paddr: layout::CMDLINE,
        rsdp_paddr: layout::RSDP,
        memmap_paddr: layout::PVH_MEMORY_MAP,
        memmap_entries: u32::try_from(map.len()).expect("five entries at most"),
        ..hvm_start_info::default()
    };
    let mut modules = Vec::new();
    if let Some(path) = &boot.initrd {
        let initrd = load_initrd(memory, path, low_ram, loaded.kernel_end, low_ram)?;
        modules.push(hvm_modlist_entry {
            paddr: initrd.address,
            size: initrd.size,
            ..hvm_modlist_entry::default()
        });
        info.nr_modules = 1;
        info.modlist_paddr = layout::PVH_MODULES;
    }
    let mut params = BootParams::new(&info, GuestAddress(layout::PVH_START_INFO));
    params.set_sections(&map, GuestAddress(layout::PVH_MEMORY_MAP));
    params.set_modules(&modules, GuestAddress(layout::PVH_MODULES));
    PvhBootConfigurator::write_bootparams(&params, memory).map_err(|error| loader_error(error.to_string()))?;
    Ok(Entry::Pvh { rip: entry.0 })
}
