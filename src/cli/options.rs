//! Options that several commands share, with their parsing.

use clap::{Args, ValueEnum};
use std::path::PathBuf;

/// What to read, and how carefully.
#[derive(Debug, Clone, Args)]
pub(crate) struct SourceOptions {
    /// A .vmx, .vmtx, .ovf, .ova or .vmdk file, or the folder of one guest. For 'convert' also - for a streamOptimized disk on standard input.
    pub(crate) source: PathBuf,
    /// Which guest of an OVF or OVA that holds several.
    #[arg(long, value_name = "NAME")]
    pub(crate) vm: Option<String>,
    /// Folder outside the source's own that a descriptor may point into (parents, extents). May be repeated.
    #[arg(long, value_name = "DIR")]
    pub(crate) allow_path: Vec<PathBuf>,
    /// Go on although a delta disk does not belong to its parent (CID mismatch). Data may be inconsistent.
    #[arg(long)]
    pub(crate) ignore_cid_mismatch: bool,
    /// Read what can be read of a damaged disk, zeros for the rest, and list what was lost.
    #[arg(long)]
    pub(crate) salvage: bool,
    /// Suppress a check: `disk.shared=copied while both are off`. May be repeated.
    #[arg(long, value_name = "ID=REASON", value_parser = parse_suppression)]
    pub(crate) suppress: Vec<(String, String)>,
}

impl SourceOptions {
    /// A source without further wishes.
    pub(crate) fn plain(source: &std::path::Path, allow_path: &[PathBuf]) -> Self {
        Self {
            source: source.to_owned(),
            vm: None,
            allow_path: allow_path.to_vec(),
            ignore_cid_mismatch: false,
            salvage: false,
            suppress: Vec::new(),
        }
    }
}

/// `ID=REASON`.
pub(crate) fn parse_suppression(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((id, reason)) if !id.trim().is_empty() && !reason.trim().is_empty() => {
            Ok((id.trim().to_owned(), reason.trim().to_owned()))
        }
        _ => Err("write ID=REASON, for example disk.shared='copied while both guests are off'".to_owned()),
    }
}

/// Format of the target disks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum FormatWish {
    /// qcow2 version 3.
    Qcow2,
    /// Raw, sparse.
    Raw,
}

/// How to compress qcow2 clusters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum CompressWish {
    /// Not at all: fastest for the guest.
    None,
    /// zstd: small and quick to read; needs QEMU 5.1.
    Zstd,
    /// Deflate with a 4 KiB window, as QEMU writes it: every reader takes it.
    Zlib,
    /// Move the source's own deflate streams: no recompression. QEMU, qcow2-rs, imago and 7-Zip read the result; readers that inflate
    /// piecewise with a 4 KiB window do not.
    Keep,
}

/// What is laid out in advance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum PreallocationWish {
    /// Nothing.
    None,
    /// The tables of qcow2, complete, so that the guest's later writes only write data.
    Metadata,
}

/// Whether to share blocks with the source.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ReflinkWish {
    /// Where the file system can.
    Auto,
    /// Never.
    Never,
    /// Always, or fail.
    Always,
}

/// How to copy disks.
#[derive(Debug, Clone, Args)]
pub(crate) struct CopyArgs {
    /// Format of the target disks.
    #[arg(long, value_enum, default_value = "qcow2")]
    pub(crate) format: FormatWish,
    /// Compress qcow2 clusters.
    #[arg(long, value_enum, default_value = "none")]
    pub(crate) compress: CompressWish,
    /// Level for --compress zstd, 1 to 19 (default 3, the size that qemu-img reaches; 1 is faster).
    #[arg(long, value_name = "N")]
    pub(crate) level: Option<i32>,
    /// With --compress keep: don't inflate what is moved: no checksum, no content hash. Checking is left to 'esxodus verify --against'.
    #[arg(long)]
    pub(crate) trust: bool,
    /// Write only qcow2's tables, in milliseconds; the guest's data stays in the existing flat file, which a running guest then changes: it
    /// is your only copy. The image names that file by its whole path; keep both where they are. Flat sources of one extent only.
    #[arg(long)]
    pub(crate) data_file: bool,
    /// Cluster size of qcow2: 4K to 2M (default 64K, with --data-file 2M).
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    pub(crate) cluster_size: Option<u64>,
    /// qcow2 with extended L2 entries (32 subclusters a cluster; needs QEMU 5.2).
    #[arg(long)]
    pub(crate) extended_l2: bool,
    /// Lay out a place for every guest cluster in advance (metadata); the file stays sparse.
    #[arg(long, value_enum, default_value = "none")]
    pub(crate) preallocation: PreallocationWish,
    /// Threads for all disks together (default: as many as CPUs, at most 24).
    #[arg(short, long, value_name = "N")]
    pub(crate) jobs: Option<usize>,
    /// Read at most this much a second, all disks together, for example 50M.
    #[arg(long, value_name = "RATE", value_parser = parse_size)]
    pub(crate) bwlimit: Option<u64>,
    /// Share blocks with the source where the file system can (XFS, btrfs).
    #[arg(long, value_enum, default_value = "auto")]
    pub(crate) reflink: ReflinkWish,
    /// No content hash; only for measuring what it costs.
    #[arg(long, hide = true)]
    pub(crate) no_hash: bool,
    /// Don't bring data to the disk before saying that it is there; only for measuring beside tools that don't either.
    #[arg(long, hide = true)]
    pub(crate) no_sync: bool,
    /// Guest bytes between two entries of the journal; only for tests of resuming.
    #[arg(long, hide = true, value_name = "SIZE", value_parser = parse_size, default_value = "256M")]
    pub(crate) checkpoint: u64,
}

/// Sizes such as `64K`, `2M`, `1G`; plain bytes without a letter.
pub(crate) fn parse_size(text: &str) -> Result<u64, String> {
    let text = text.trim();
    let (digits, shift) = match text.chars().last().map(|letter| letter.to_ascii_uppercase()) {
        Some('K') => (&text[..text.len() - 1], 10),
        Some('M') => (&text[..text.len() - 1], 20),
        Some('G') => (&text[..text.len() - 1], 30),
        Some('T') => (&text[..text.len() - 1], 40),
        _ => (text, 0),
    };
    let number: u64 = digits
        .parse()
        .map_err(|_| format!("'{text}' is no size: write 65536, 64K, 2M or 1G"))?;
    number
        .checked_shl(shift)
        .filter(|value| value >> shift == number)
        .ok_or_else(|| format!("'{text}' is too large"))
}

/// Engine for guests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum EngineName {
    /// Whatever fits this host.
    Auto,
    /// The own VMM on KVM.
    Kvm,
    /// QEMU.
    Qemu,
    /// For fixing up only: virt-v2v-in-place instead of the own fix-up.
    #[value(name = "virt-v2v")]
    VirtV2v,
}

/// Accelerator for guests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum AccelName {
    /// KVM where the probe finds it complete, else TCG.
    Auto,
    /// KVM; an error where it can't run stock guests.
    Kvm,
    /// QEMU's software emulation: slow, works everywhere.
    Tcg,
}

/// Which engine runs guests.
#[derive(Debug, Clone, Args)]
pub(crate) struct EngineArgs {
    /// Engine.
    #[arg(long, value_enum, default_value = "auto")]
    pub(crate) engine: EngineName,
    /// Accelerator.
    #[arg(long, value_enum, default_value = "auto")]
    pub(crate) accel: AccelName,
}

impl EngineArgs {
    /// Whether virt-v2v is to fix the guest up, and what runs guests then.
    pub(crate) fn split(&self) -> (bool, Self) {
        let v2v = self.engine == EngineName::VirtV2v;
        let engine = if v2v { EngineName::Auto } else { self.engine };
        (v2v, Self { engine, ..self.clone() })
    }
}

#[cfg(test)]
mod tests {
    use super::{parse_size, parse_suppression};

    #[test]
    fn sizes_take_letters_and_refuse_overflow() {
        assert_eq!(parse_size("65536"), Ok(65_536));
        assert_eq!(parse_size("64k"), Ok(65_536));
        assert_eq!(parse_size("2M"), Ok(2 << 20));
        assert!(parse_size("99999999999999999G").is_err());
        assert!(parse_size("fast").is_err());
    }

    #[test]
    fn a_suppression_without_a_reason_is_refused() {
        assert!(parse_suppression("disk.shared").is_err());
        assert!(parse_suppression("disk.shared=").is_err());
        assert_eq!(parse_suppression("a.b=c d"), Ok(("a.b".to_owned(), "c d".to_owned())));
    }
}
