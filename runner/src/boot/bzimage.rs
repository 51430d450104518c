//! bzImage by its 64-bit entry point (Linux boot protocol 2.12 and newer).

use std::{fs::File, io::Read as _};

use linux_loader::{
    bootparam::{boot_e820_entry, boot_params, setup_header},
    loader::{KernelLoader as _, bzimage::BzImage},
};
use vm_memory::{ByteValued as _, Bytes as _, GuestAddress, GuestMemoryMmap};

use super::{BootError, LinuxBoot, file_error, load_cmdline, load_initrd, memory_map};
use crate::arch::{layout, regs::Entry};

const HEADER_OFFSET: usize = 0x1f1;
const MAGIC: u32 = 0x5372_6448;
/// Since this version the header has `xloadflags`.
const PROTOCOL_XLOADFLAGS: u16 = 0x20c;
const XLF_KERNEL_64: u16 = 1;
/// The 64-bit entry lies here behind the load address.
const ENTRY_64: u64 = 0x200;
/// "Undefined boot loader"; no id is assigned to us.
const LOADER_UNDEFINED: u8 = 0xff;

/// Loads kernel, initrd, command line and zero page.
pub(super) fn load(
    memory: &GuestMemoryMmap,
    memory_bytes: u64,
    boot: &LinuxBoot,
    kernel: &mut File,
) -> Result<Entry, BootError> {
    let header = read_header(kernel, boot)?;
    let low_ram = memory_map::low_ram_end(memory_bytes);
    let load = header.pref_address;
    let reach = load.saturating_add(u64::from(header.init_size));
    let bound = low_ram.min(layout::IDENTITY_MAP_SIZE);
    if load < layout::HIGH_MEMORY || reach > bound {
        return Err(BootError::TooSmall {
            what: "the kernel (load address + init_size)",
            needed: reach,
            bound,
        });
    }
    load_cmdline(memory, &boot.cmdline, u64::from(header.cmdline_size))?;
    let loaded = BzImage::load(memory, Some(GuestAddress(load)), kernel, None).map_err(|error| BootError::Loader {
        path: boot.kernel.clone(),
        message: error.to_string(),
    })?;
    if loaded.kernel_end > bound {
        return Err(BootError::TooSmall {
            what: "the kernel image",
            needed: loaded.kernel_end,
            bound,
        });
    }
    let mut params = boot_params {
        hdr: header,
        ..boot_params::default()
    };
    params.hdr.type_of_loader = LOADER_UNDEFINED;
    params.hdr.cmd_line_ptr = u32::try_from(layout::CMDLINE).expect("below 4 GiB");
    params.acpi_rsdp_addr = layout::RSDP;
    if let Some(path) = &boot.initrd {
        let limit = u64::from(header.initrd_addr_max).saturating_add(1);
        let initrd = load_initrd(memory, path, low_ram, reach, limit)?;
        params.hdr.ramdisk_image = u32::try_from(initrd.address).expect("below 4 GiB");
        params.hdr.ramdisk_size = u32::try_from(initrd.size).expect("below 4 GiB");
    }
    let map = memory_map::kernel_map(memory_bytes);
    params.e820_entries = u8::try_from(map.len()).expect("five entries at most");
    let mut table = params.e820_table;
    for (slot, range) in table.iter_mut().zip(&map) {
        *slot = boot_e820_entry {
            addr: range.start,
            size: range.size,
            r#type: range.kind.code(),
        };
    }
    params.e820_table = table;
    memory.write_obj(params, GuestAddress(layout::ZERO_PAGE))?;
    Ok(Entry::Linux64 { rip: load + ENTRY_64 })
}

/// Reads and checks the setup header.
fn read_header(kernel: &mut File, boot: &LinuxBoot) -> Result<setup_header, BootError> {
    let unknown = || BootError::UnknownFormat {
        path: boot.kernel.clone(),
    };
    let mut start = Vec::with_capacity(1024);
    kernel
        .take(1024)
        .read_to_end(&mut start)
        .map_err(|source| file_error(&boot.kernel, source))?;
    let mut header = setup_header::default();
    let size = header.as_slice().len();
    let bytes = start.get(HEADER_OFFSET..HEADER_OFFSET + size).ok_or_else(unknown)?;
    header.as_mut_slice().copy_from_slice(bytes);
    if header.header != MAGIC {
        return Err(unknown());
    }
    let (version, flags) = (header.version, header.xloadflags);
    let unsupported = |lacks: String| BootError::Unsupported {
        path: boot.kernel.clone(),
        lacks,
    };
    if version < PROTOCOL_XLOADFLAGS {
        return Err(unsupported(format!(
            "boot protocol {version:#x} is older than {PROTOCOL_XLOADFLAGS:#x}; boot it by firmware"
        )));
    }
    if flags & XLF_KERNEL_64 == 0 {
        return Err(unsupported(
            "no 64-bit entry (xloadflags bit 0 is clear): a 32-bit kernel; boot it by firmware".into(),
        ));
    }
    Ok(header)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;

    fn image(change: impl Fn(&mut setup_header)) -> tempfile::NamedTempFile {
        let mut header = setup_header {
            setup_sects: 1,
            header: MAGIC,
            version: 0x20f,
            loadflags: 1,
            xloadflags: XLF_KERNEL_64,
            pref_address: 16 << 20,
            init_size: 32 << 20,
            cmdline_size: 2047,
            initrd_addr_max: 0x7fff_ffff,
            ..setup_header::default()
        };
        change(&mut header);
        let mut bytes = vec![0; 2048];
        bytes[HEADER_OFFSET..HEADER_OFFSET + header.as_slice().len()].copy_from_slice(header.as_slice());
        bytes[1024..].fill(0xcc);
        let mut file = tempfile::NamedTempFile::new().expect("temp file");
        file.write_all(&bytes).expect("write");
        file
    }

    fn try_load(
        memory_bytes: u64,
        file: &tempfile::NamedTempFile,
        cmdline: &str,
    ) -> Result<(Entry, GuestMemoryMmap), BootError> {
        let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), usize::try_from(memory_bytes).expect("small"))])
            .expect("mmap");
        let boot = LinuxBoot {
            kernel: file.path().to_owned(),
            initrd: Some(file.path().to_owned()),
            cmdline: cmdline.into(),
        };
        super::super::load(&memory, memory_bytes, &boot).map(|entry| (entry, memory))
    }

    #[test]
    fn kernel_initrd_and_command_line_land_where_the_zero_page_says() {
        let file = image(|_| {});
        let (entry, memory) = try_load(128 << 20, &file, "console=ttyS0").expect("loads");
        assert_eq!(
            entry,
            Entry::Linux64 {
                rip: (16 << 20) + 0x200
            }
        );
        let params: boot_params = memory.read_obj(GuestAddress(layout::ZERO_PAGE)).expect("inside");
        let initrd = u64::from(params.hdr.ramdisk_image);
        assert_eq!(initrd % 4096, 0);
        assert_eq!(initrd, (128 << 20) - 4096);
        let code: u8 = memory.read_obj(GuestAddress(16 << 20)).expect("inside");
        assert_eq!(code, 0xcc);
        let mut text = [0; 14];
        memory
            .read_slice(&mut text, GuestAddress(u64::from(params.hdr.cmd_line_ptr)))
            .expect("inside");
        assert_eq!(&text, b"console=ttyS0\0");
        let rsdp = params.acpi_rsdp_addr;
        assert_eq!(rsdp, layout::RSDP);
    }

    #[test]
    fn init_size_beyond_memory_is_refused_before_anything_is_written() {
        let file = image(|_| {});
        assert!(matches!(
            try_load(40 << 20, &file, ""),
            Err(BootError::TooSmall { needed, .. }) if needed == 48 << 20
        ));
    }

    #[test]
    fn kernels_without_a_64_bit_entry_and_foreign_files_are_told_apart() {
        let old = image(|header| header.xloadflags = 0);
        assert!(matches!(
            try_load(128 << 20, &old, ""),
            Err(BootError::Unsupported { .. })
        ));
        let other = image(|header| header.header = 0);
        assert!(matches!(
            try_load(128 << 20, &other, ""),
            Err(BootError::UnknownFormat { .. })
        ));
    }

    #[test]
    fn command_lines_longer_than_the_kernel_takes_are_refused() {
        let file = image(|header| header.cmdline_size = 10);
        assert!(matches!(
            try_load(128 << 20, &file, "0123456789a"),
            Err(BootError::CommandLine { length: 11, limit: 10 })
        ));
    }
}
