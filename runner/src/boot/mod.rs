//! Puts a Linux kernel, its initrd and command line into guest memory and says where to enter.
//!
//! Two protocols: bzImage by its 64-bit entry (Linux `Documentation/arch/x86/boot.rst`) and an ELF `vmlinux` by its PVH
//! note. Nothing is written before the kernel's own demands (load address, `init_size`, limits) are known to fit.

pub mod bzimage;
pub mod memory_map;
pub mod pvh;

use std::{
    fs::File,
    io::{self, Read as _, Seek as _},
    path::{Path, PathBuf},
};

use vm_memory::{Bytes as _, GuestAddress, GuestMemoryError, GuestMemoryMmap};

use crate::arch::{layout, regs::Entry};

/// What shall run.
#[derive(Debug, Clone)]
pub struct LinuxBoot {
    /// bzImage (`/boot/vmlinuz-*`) or ELF `vmlinux` with a PVH note.
    pub kernel: PathBuf,
    /// Initial RAM file system.
    pub initrd: Option<PathBuf>,
    /// Kernel command line.
    pub cmdline: String,
}

/// Why a kernel cannot be started.
#[derive(Debug, thiserror::Error)]
pub enum BootError {
    /// A file cannot be read.
    #[error("{path}: {source}")]
    File {
        /// Which one.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Neither bzImage nor ELF.
    #[error("{path}: neither a bzImage (no \"HdrS\" at 0x202) nor an ELF file; give a /boot/vmlinuz-* or a vmlinux")]
    UnknownFormat {
        /// The kernel.
        path: PathBuf,
    },
    /// The kernel lacks what the entry needs.
    #[error("{path}: {lacks}")]
    Unsupported {
        /// The kernel.
        path: PathBuf,
        /// What it lacks and what to use instead.
        lacks: String,
    },
    /// A part does not fit into guest memory.
    #[error("{what} needs guest memory up to {needed:#x}, the bound is {bound:#x}: give the guest more memory")]
    TooSmall {
        /// Which part.
        what: &'static str,
        /// End address.
        needed: u64,
        /// What there is.
        bound: u64,
    },
    /// The command line is too long.
    #[error("command line of {length} bytes, the kernel takes {limit}")]
    CommandLine {
        /// Its length.
        length: usize,
        /// The kernel's limit.
        limit: u64,
    },
    /// The command line has a byte that ends it.
    #[error("command line has a zero byte at {offset}")]
    CommandLineZero {
        /// Where.
        offset: usize,
    },
    /// linux-loader refused the file.
    #[error("{path}: {message}")]
    Loader {
        /// The kernel.
        path: PathBuf,
        /// Its words.
        message: String,
    },
    /// Guest memory access failed.
    #[error("writing boot data: {0}")]
    Memory(#[from] GuestMemoryError),
}

/// An initrd in guest memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Initrd {
    address: u64,
    size: u64,
}

/// Loads everything; `memory_bytes` is the guest's RAM as configured.
///
/// # Errors
/// See [`BootError`].
pub fn load(memory: &GuestMemoryMmap, memory_bytes: u64, boot: &LinuxBoot) -> Result<Entry, BootError> {
    let mut kernel = open(&boot.kernel)?;
    let mut magic = [0; 4];
    let elf = kernel.read_exact(&mut magic).is_ok() && magic == *b"\x7fELF";
    kernel.rewind().map_err(|source| file_error(&boot.kernel, source))?;
    if elf {
        pvh::load(memory, memory_bytes, boot, &mut kernel)
    } else {
        bzimage::load(memory, memory_bytes, boot, &mut kernel)
    }
}

fn open(path: &Path) -> Result<File, BootError> {
    File::open(path).map_err(|source| file_error(path, source))
}

fn file_error(path: &Path, source: io::Error) -> BootError {
    BootError::File {
        path: path.to_owned(),
        source,
    }
}

/// Places the initrd page-aligned as high as `limit` (exclusive) and low RAM allow, above `floor`.
fn load_initrd(
    memory: &GuestMemoryMmap,
    path: &Path,
    low_ram: u64,
    floor: u64,
    limit: u64,
) -> Result<Initrd, BootError> {
    let mut file = open(path)?;
    let size = file.metadata().map_err(|source| file_error(path, source))?.len();
    let top = low_ram.min(limit);
    let address = top
        .checked_sub(size)
        .map(|address| address & !0xfff)
        .filter(|&address| address >= floor)
        .ok_or(BootError::TooSmall {
            what: "the initrd",
            needed: floor.saturating_add(size),
            bound: top,
        })?;
    let length = usize::try_from(size).expect("checked against guest memory, which is mapped");
    memory.read_exact_volatile_from(GuestAddress(address), &mut file, length)?;
    Ok(Initrd { address, size })
}

/// Writes the command line with its terminating zero. `limit` does not count the zero.
fn load_cmdline(memory: &GuestMemoryMmap, cmdline: &str, limit: u64) -> Result<(), BootError> {
    let limit = limit.min(layout::CMDLINE_SIZE - 1);
    if let Some(offset) = cmdline.bytes().position(|byte| byte == 0) {
        return Err(BootError::CommandLineZero { offset });
    }
    if u64::try_from(cmdline.len()).map_or(true, |length| length > limit) {
        return Err(BootError::CommandLine {
            length: cmdline.len(),
            limit,
        });
    }
    memory.write_slice(cmdline.as_bytes(), GuestAddress(layout::CMDLINE))?;
    let end = layout::CMDLINE + u64::try_from(cmdline.len()).expect("checked above");
    memory.write_obj(0_u8, GuestAddress(end))?;
    Ok(())
}
