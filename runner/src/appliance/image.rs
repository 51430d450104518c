//! The appliance's kernel and initramfs: found, built once, cached by content.

use super::programs::{self, HostFile};
use crate::engine::DirectKernel;
use crate::{Result, RunnerError};
use agent::cpio::Archive;
use std::collections::HashMap;
use std::io::Read;
use std::path::{Path, PathBuf};

/// Modules of each group in the order in which they are wanted. What is built into the kernel is left out.
const GROUPS: [(&str, &[&str]); 7] = [
    (
        "base",
        &[
            "virtio_pci",
            "virtio_mmio",
            "virtio_blk",
            "virtio_console",
            "virtio_scsi",
            "sd_mod",
            "crc32c_generic",
            "crc32c_intel",
        ],
    ),
    ("ext4", &["ext4"]),
    ("xfs", &["xfs"]),
    ("btrfs", &["btrfs"]),
    ("vfat", &["vfat", "nls_cp437", "nls_ascii", "nls_utf8"]),
    ("dm", &["dm_mod", "dm_mirror", "dm_snapshot", "dm_thin_pool", "dm_raid"]),
    (
        "luks",
        &[
            "dm_crypt",
            "xts",
            "cbc",
            "ecb",
            "essiv",
            "aesni_intel",
            "algif_skcipher",
            "algif_hash",
        ],
    ),
];

/// The cache: `$ESXODUS_CACHE`, else `$XDG_CACHE_HOME/esxodus`, else `~/.cache/esxodus`.
#[must_use]
pub fn cache_dir() -> PathBuf {
    let variable = |name: &str| {
        std::env::var_os(name)
            .filter(|value| !value.is_empty())
            .map(PathBuf::from)
    };
    variable("ESXODUS_CACHE")
        .or_else(|| variable("XDG_CACHE_HOME").map(|base| base.join("esxodus")))
        .or_else(|| variable("HOME").map(|home| home.join(".cache/esxodus")))
        .unwrap_or_else(|| std::env::temp_dir().join("esxodus-cache"))
}

/// The static agent: `$ESXODUS_AGENT`, else beside the running program, else `../share/esxodus`, else where cargo builds it.
///
/// # Errors
/// It is nowhere; the error says how to build it.
pub fn agent_binary() -> Result<PathBuf> {
    let missing = |what: String| {
        RunnerError::Missing {
        what,
        advice: "Build it: RUSTFLAGS='-C target-feature=+crt-static' cargo build --release -p esxodus-agent --target x86_64-unknown-linux-gnu, \
                 or point ESXODUS_AGENT at it"
            .into(),
    }
    };
    if let Some(path) = std::env::var_os("ESXODUS_AGENT").map(PathBuf::from) {
        return if path.is_file() {
            Ok(path)
        } else {
            Err(missing(format!("the agent {} (ESXODUS_AGENT)", path.display())))
        };
    }
    let own =
        std::env::current_exe().map_err(|error| RunnerError::io("finding", Path::new("/proc/self/exe"), error))?;
    let mut candidates = Vec::new();
    for (distance, folder) in own.ancestors().skip(1).take(3).enumerate() {
        // The first places are an installation's; a dynamic agent of a plain `cargo build` would not start in a guest.
        if distance == 0 && !folder.ends_with("debug") && !folder.ends_with("deps") {
            candidates.push(folder.join("esxodus-agent"));
        }
        candidates.push(folder.join("share/esxodus/esxodus-agent"));
        candidates.push(folder.join("x86_64-unknown-linux-gnu/release/esxodus-agent"));
    }
    let is_static = |path: &PathBuf| std::fs::read(path).is_ok_and(|bytes| !has_interpreter(&bytes));
    candidates
        .into_iter()
        .find(is_static)
        .ok_or_else(|| missing("the static agent (esxodus-agent)".into()))
}

/// A program that needs a dynamic loader names it in a `PT_INTERP` segment (ELF specification, program header type 3).
fn has_interpreter(elf: &[u8]) -> bool {
    let word = |at: usize, length: usize| -> Option<usize> {
        let bytes = elf.get(at..at.checked_add(length)?)?;
        Some(
            bytes
                .iter()
                .rev()
                .fold(0_usize, |value, &byte| value << 8 | usize::from(byte)),
        )
    };
    let header = || -> Option<(usize, usize, usize)> { Some((word(0x20, 8)?, word(0x36, 2)?, word(0x38, 2)?)) };
    let Some((offset, size, count)) = header() else {
        return true;
    };
    (0..count).any(|index| {
        index
            .checked_mul(size)
            .and_then(|at| at.checked_add(offset))
            .and_then(|at| word(at, 4))
            == Some(3)
    })
}

/// The cached guest kernel's folder.
fn kernel_dir() -> Result<PathBuf> {
    let folder = cache_dir().join("kernel/current");
    if folder.join("vmlinuz").is_file() && folder.join("modules/modules.dep").is_file() {
        return Ok(folder);
    }
    Err(RunnerError::Missing {
        what: format!("the appliance's kernel ({})", folder.display()),
        advice: "Run scripts/setup.sh: it unpacks a Debian cloud kernel into the cache and installs none".into(),
    })
}

/// The cached guest kernel (bzImage).
///
/// # Errors
/// `scripts/setup.sh` has not been run.
pub fn kernel() -> Result<PathBuf> {
    Ok(kernel_dir()?.join("vmlinuz"))
}

fn read(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).map_err(|error| RunnerError::io("reading", path, error))
}

/// `kernel/fs/xfs/xfs.ko.xz` to `xfs`.
fn module_name(path: &str) -> String {
    let file = path.rsplit('/').next().unwrap_or(path);
    file.split(".ko").next().unwrap_or(file).replace('-', "_")
}

fn unpacked(path: &Path) -> Result<Vec<u8>> {
    let bytes = read(path)?;
    let told = |error: std::io::Error| RunnerError::io("unpacking", path, error);
    let mut out = Vec::new();
    match path.extension().and_then(|extension| extension.to_str()) {
        Some("xz") => xz2::read::XzDecoder::new(bytes.as_slice())
            .read_to_end(&mut out)
            .map_err(told)?,
        Some("zst") => zstd::stream::read::Decoder::new(bytes.as_slice())
            .and_then(|mut reader| reader.read_to_end(&mut out))
            .map_err(told)?,
        _ => return Ok(bytes),
    };
    Ok(out)
}

/// Paths from modules.dep that have to be loaded for `wanted`, dependencies first.
fn order(dependencies: &HashMap<String, Vec<String>>, wanted: &str, loaded: &mut Vec<String>) {
    let Some(line) = dependencies.get(wanted) else { return };
    // modules.dep lists them so that the last one is loaded first.
    for path in line.iter().rev() {
        if !loaded.contains(path) {
            loaded.push(path.clone());
        }
    }
}

fn parse_dependencies(text: &str) -> HashMap<String, Vec<String>> {
    text.lines()
        .filter_map(|line| line.split_once(':'))
        .map(|(path, rest)| {
            let paths = std::iter::once(path)
                .chain(rest.split_whitespace())
                .map(str::to_owned)
                .collect();
            (module_name(path), paths)
        })
        .collect()
}

/// Where the initramfs of this agent, kernel and set of programs is in the cache.
fn initrd_path(agent: &[u8], folder: &Path, programs: &[HostFile]) -> Result<PathBuf> {
    let dependencies = read(&folder.join("modules/modules.dep"))?;
    let version = read(&folder.join("version"))?;
    let mut hasher = blake3::Hasher::new();
    for part in [agent, &dependencies, &version] {
        hasher.update(&(part.len() as u64).to_le_bytes());
        hasher.update(part);
    }
    hasher.update(format!("{GROUPS:?}").as_bytes());
    for file in programs {
        hasher.update(file.mark().as_bytes());
    }
    let name = format!("appliance-{}.cpio", &hasher.finalize().to_hex()[..16]);
    Ok(cache_dir().join("appliance").join(name))
}

/// What the cache holds of the appliance, in words: kernel, image, and how long it last took to start.
///
/// # Errors
/// Its kernel or the agent is missing.
pub fn appliance_status() -> Result<String> {
    let folder = kernel_dir()?;
    let initrd = initrd_path(&read(&agent_binary()?)?, &folder, &programs::found())?;
    let version = read(&folder.join("version"))?;
    let image = match initrd.metadata() {
        Ok(facts) => format!("image of {} MiB in {}", facts.len() >> 20, initrd.display()),
        Err(_) => "image not built yet".to_owned(),
    };
    let mut words = format!("kernel {}, {image}", String::from_utf8_lossy(&version).trim());
    if let Ok(start) = std::fs::read_to_string(start_note()) {
        words.push_str(&format!(", last start {}", start.trim()));
    }
    for (program, package) in programs::missing() {
        words.push_str(&format!("; without {program} (apt install {package})"));
    }
    Ok(words)
}

fn start_note() -> PathBuf {
    cache_dir().join("appliance/last-start")
}

/// Notes how long a start took, for [`appliance_status`]. A cache that cannot be written is no reason to fail.
pub(super) fn note_start(seconds: f64, accelerator: &str) {
    let _ = std::fs::write(start_note(), format!("{seconds:.1} s ({accelerator})\n"));
}

/// Kernel and initramfs of the appliance, built when the cache does not have them.
///
/// # Errors
/// Agent or kernel missing, an unreadable module, an unwritable cache.
pub fn appliance_kernel() -> Result<DirectKernel> {
    let folder = kernel_dir()?;
    let agent = read(&agent_binary()?)?;
    let programs = programs::found();
    let initrd = initrd_path(&agent, &folder, &programs)?;
    let cache = cache_dir().join("appliance");
    if !initrd.is_file() {
        std::fs::create_dir_all(&cache).map_err(|error| RunnerError::io("creating", &cache, error))?;
        let dependencies = read(&folder.join("modules/modules.dep"))?;
        let content = build(
            &folder,
            &agent,
            &parse_dependencies(&String::from_utf8_lossy(&dependencies)),
            &programs,
        )?;
        let mut file =
            tempfile::NamedTempFile::new_in(&cache).map_err(|error| RunnerError::io("writing", &cache, error))?;
        std::io::Write::write_all(&mut file, &content).map_err(|error| RunnerError::io("writing", &initrd, error))?;
        file.persist(&initrd)
            .map_err(|error| RunnerError::io("writing", &initrd, error.error))?;
    }
    Ok(DirectKernel {
        kernel: folder.join("vmlinuz"),
        initrd: Some(initrd),
        cmdline: "console=ttyS0 quiet panic=-1".into(),
    })
}

fn build(
    folder: &Path,
    agent: &[u8],
    dependencies: &HashMap<String, Vec<String>>,
    programs: &[HostFile],
) -> Result<Vec<u8>> {
    let mut archive = Archive::default();
    for name in ["dev", "proc", "sys", "run", "mnt", "tmp", "modules"] {
        archive.folder(name);
    }
    archive.character("dev/console", 5, 1);
    archive.file("init", 0o755, agent);
    let mut folders: Vec<&str> = Vec::new();
    for file in programs {
        let name = file.inside.trim_start_matches('/');
        for parent in name.match_indices('/').map(|(at, _)| &name[..at]) {
            if !folders.contains(&parent) {
                archive.folder(parent);
                folders.push(parent);
            }
        }
        archive.file(name, 0o755, &read(&file.path)?);
    }
    let mut written: Vec<String> = Vec::new();
    for (group, wanted) in GROUPS {
        let mut paths = Vec::new();
        for name in wanted {
            order(dependencies, name, &mut paths);
        }
        let mut list = String::new();
        for path in paths {
            let name = format!("{}.ko", module_name(&path));
            list.push_str(&name);
            list.push('\n');
            if !written.contains(&name) {
                archive.file(
                    &format!("modules/{name}"),
                    0o644,
                    &unpacked(&folder.join("modules").join(&path))?,
                );
                written.push(name);
            }
        }
        archive.file(&format!("modules/{group}.list"), 0o644, list.as_bytes());
    }
    Ok(archive.finish())
}

#[cfg(test)]
mod tests {
    use super::{has_interpreter, order, parse_dependencies};

    #[test]
    fn dependencies_come_before_what_needs_them() {
        let text = "kernel/fs/btrfs/btrfs.ko: kernel/crypto/xor.ko kernel/lib/libcrc32c.ko\nkernel/crypto/xor.ko:\nkernel/lib/libcrc32c.ko:\n";
        let mut paths = Vec::new();
        order(&parse_dependencies(text), "btrfs", &mut paths);
        assert_eq!(
            paths,
            [
                "kernel/lib/libcrc32c.ko",
                "kernel/crypto/xor.ko",
                "kernel/fs/btrfs/btrfs.ko"
            ]
        );
    }

    #[test]
    fn a_dynamic_program_is_told_from_a_static_one() {
        let own = std::fs::read("/proc/self/exe").expect("own program");
        // `make test` builds everything statically, a plain `cargo test` does not.
        assert_eq!(has_interpreter(&own), !cfg!(target_feature = "crt-static"));
        let shell = std::fs::read("/bin/sh").expect("a shell");
        assert!(has_interpreter(&shell), "Debian's shell is dynamic");
        assert!(has_interpreter(b"no ELF file at all"));
    }
}
