//! `esxodus run`: hands on a guest.

use super::options::{EngineArgs, parse_size};
use super::{Context, Outcome};
use crate::chain::RunFolder;
use crate::chain::hands_on::{self, What, Wish};
use anyhow::bail;
use clap::ValueEnum;
use runner::engine::{DirectKernel, DiskFormat, FirmwareSpec, Network, images};
use runner::kvm::Transport;
use std::path::{Path, PathBuf};

/// Boots a guest with its console on this terminal; Ctrl-] leaves. Writes go to a throw-away overlay unless --persist.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  esxodus run out/web01                          a converted guest
  esxodus run out/web01 --persist                writes go to the converted disks
  esxodus run out/web01 --direct                 enters its kernel without its boot loader
  esxodus run disk.qcow2                         any disk image
  esxodus run --kernel vmlinuz --initrd initrd.img --cmdline 'console=ttyS0'
  esxodus run out/web01 --net user               with the host's network behind its card
  esxodus run --engine kvm disk.raw              on the own VMM, which has no firmware

The console is the guest's first serial port. Where the kernel is entered directly, console=ttyS0 is put on its command line for this
boot; where the guest's own boot loader runs, a guest that shows nothing needs it there.")]
pub(crate) struct Args {
    /// Run folder with converted disks, or a disk image.
    #[arg(required_unless_present = "kernel")]
    guest: Option<PathBuf>,
    /// Further disk image. May be repeated.
    #[arg(long, value_name = "DISK")]
    disk: Vec<PathBuf>,
    /// Format of disk images whose name doesn't end in .qcow2, .raw or .img.
    #[arg(long, value_enum)]
    format: Option<ImageFormat>,
    /// Kernel to enter directly: a bzImage (/boot/vmlinuz-*) or a vmlinux with a PVH note.
    #[arg(long, value_name = "FILE")]
    kernel: Option<PathBuf>,
    /// Its initial RAM file system.
    #[arg(long, value_name = "FILE", requires = "kernel")]
    initrd: Option<PathBuf>,
    /// Its command line.
    #[arg(long, value_name = "TEXT", requires = "kernel", default_value = "console=ttyS0")]
    cmdline: String,
    /// Enter the guest's own kernel without firmware and boot loader, whatever the engine.
    #[arg(long, conflicts_with = "kernel")]
    direct: bool,
    #[command(flatten)]
    engine: EngineArgs,
    /// Write to the disks themselves.
    #[arg(long)]
    persist: bool,
    /// Write to a throw-away overlay (the default).
    #[arg(long, conflicts_with = "persist")]
    snapshot: bool,
    /// Memory, for example 2G (default: the machine's own; 1G for a disk image).
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    memory: Option<u64>,
    /// Virtual CPUs (default: the machine's own; 1 for a disk image).
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=254))]
    cpus: Option<u32>,
    /// Firmware for a disk image.
    #[arg(long, value_enum, default_value = "bios")]
    firmware: Firmware,
    /// What carries the own VMM's devices: pci for kernels without virtio-mmio, such as RHEL's.
    #[arg(long, value_enum, default_value = "pci")]
    bus: Bus,
    /// The own VMM takes guest memory from the host's huge pages (vm.nr_hugepages).
    #[arg(long)]
    hugepages: bool,
    /// The guest's network: none, or what an ordinary process of this host reaches (QEMU's user network; passt for the own VMM). A copy
    /// that meets its original, or the servers that it talked to, may do harm.
    #[arg(long, value_enum, default_value = "none", value_name = "WHICH")]
    net: Net,
    /// Folder outside the image's own that its backing files may lie in. May be repeated.
    #[arg(long, value_name = "DIR")]
    allow_path: Vec<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum ImageFormat {
    Qcow2,
    Raw,
    Vmdk,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Firmware {
    Bios,
    Uefi,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Net {
    None,
    User,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Bus {
    Pci,
    Mmio,
}

pub(crate) fn run(context: &Context, args: &Args) -> anyhow::Result<Outcome> {
    let what = match &args.guest {
        Some(folder) if folder.is_dir() => {
            if !args.disk.is_empty() {
                bail!("--disk goes with a disk image; a run folder has its own disks");
            }
            What::Folder(RunFolder::open(folder)?)
        }
        _ => What::Disks(images_of(args)?),
    };
    let kernel = args.kernel.as_ref().map(|kernel| DirectKernel {
        kernel: kernel.clone(),
        initrd: args.initrd.clone(),
        cmdline: args.cmdline.clone(),
    });
    let wish = Wish {
        engine: &args.engine,
        kernel,
        direct: args.direct,
        persist: args.persist,
        memory_mib: args.memory.map(|bytes| bytes >> 20),
        vcpus: args.cpus,
        firmware: match args.firmware {
            Firmware::Bios => FirmwareSpec::Bios,
            Firmware::Uefi => FirmwareSpec::Uefi { secure_boot: false },
        },
        transport: match args.bus {
            Bus::Pci => Transport::Pci,
            Bus::Mmio => Transport::Mmio,
        },
        hugepages: args.hugepages,
        network: match args.net {
            Net::None => Network::Nothing,
            Net::User => Network::User,
        },
    };
    let report = hands_on::run(context, &what, &wish)?;
    context.print(&report, || report.text())?;
    Ok(Outcome::Good)
}

/// The disk images with their formats; none of them may reach out of its folder.
fn images_of(args: &Args) -> anyhow::Result<Vec<(PathBuf, DiskFormat)>> {
    let mut images = Vec::new();
    for path in args.guest.iter().chain(&args.disk) {
        let format = format_of(path, args.format)?;
        images::check_named_files(path, format, &args.allow_path)?;
        images.push((path.clone(), format));
    }
    Ok(images)
}

/// By option or by name; never by content, which a guest may have written.
fn format_of(path: &Path, told: Option<ImageFormat>) -> anyhow::Result<DiskFormat> {
    let ending = path.extension().and_then(|ending| ending.to_str()).unwrap_or_default();
    Ok(match (ending.to_ascii_lowercase().as_str(), told) {
        (_, Some(ImageFormat::Qcow2)) | ("qcow2", None) => DiskFormat::Qcow2,
        (_, Some(ImageFormat::Raw)) | ("raw" | "img", None) => DiskFormat::Raw,
        (_, Some(ImageFormat::Vmdk)) | ("vmdk", None) => DiskFormat::Vmdk,
        _ => bail!(
            "the format of {} cannot be told from its name: say --format qcow2 or --format raw",
            path.display()
        ),
    })
}

#[cfg(test)]
mod tests {
    use super::{ImageFormat, format_of};
    use runner::engine::DiskFormat;
    use std::path::Path;

    #[test]
    fn formats_come_from_names_or_options_and_are_never_guessed() {
        let of = |name: &str, told| format_of(Path::new(name), told).ok();
        assert_eq!(of("a.QCOW2", None), Some(DiskFormat::Qcow2));
        assert_eq!(of("a.img", None), Some(DiskFormat::Raw));
        assert_eq!(of("a.img", Some(ImageFormat::Qcow2)), Some(DiskFormat::Qcow2));
        assert_eq!(of("a", None), None);
    }
}
