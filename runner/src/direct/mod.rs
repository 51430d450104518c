//! Finds what a guest's own boot loader would start, so that its kernel can be entered without firmware: the kernel, the
//! initial RAM file system and the command line, read from the converted disks.
//!
//! The host never mounts a guest's file system; it reads ext4 with the `ext4-view` crate, through images opened read-only, as
//! a *hint* for a boot. Everything on these disks is a stranger's: sizes are bounded, paths stay inside the file system that
//! they were found on, and what is written to the host goes under names of our own. Boot loader scripts are not evaluated:
//! what depends on a variable that is not in the environment block is left out, and the result says so.

mod entries;
mod files;
mod grub;
mod remote;
mod volumes;

use crate::appliance::Appliance;
use crate::engine::{DirectKernel, DiskFormat};
use crate::{Result, RunnerError};
use files::Files;
use remote::GuestRoot;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

/// Largest kernel that is read.
const MAX_KERNEL: u64 = 256 << 20;
/// Largest initial RAM file systems together.
const MAX_INITRD: u64 = 1 << 30;
/// Largest configuration file.
const MAX_CONFIG: u64 = 1 << 20;
/// Most entries that are looked at.
const MAX_ENTRIES: usize = 256;

/// What was found, with its files copied out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// For [`crate::engine::VmSpec::kernel`]; the files lie in the folder that was given.
    pub kernel: DirectKernel,
    /// What was chosen and from where, a sentence for people.
    pub chosen: String,
}

/// A boot entry, by the names of its files in the guest.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Entry {
    title: String,
    id: String,
    kernel: String,
    initrds: Vec<String>,
    options: Vec<String>,
}

/// The environment block of GRUB: `saved_entry`, `kernelopts` …
type Environment = BTreeMap<String, String>;

fn parse_environment(text: &str) -> Environment {
    text.lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| line.split_once('='))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect()
}

/// Words with `$name` and `${name}` replaced from the environment block; words with other variables are left out. Says which
/// were.
fn expand(words: &[String], environment: &Environment) -> (Vec<String>, Vec<String>) {
    let (mut kept, mut dropped) = (Vec::new(), Vec::new());
    for word in words {
        let Some(name) = word.strip_prefix('$') else {
            // A variable inside a word cannot be known either.
            if word.contains('$') {
                dropped.push(word.clone());
            } else {
                kept.push(word.clone());
            }
            continue;
        };
        let name = name
            .strip_prefix('{')
            .and_then(|name| name.strip_suffix('}'))
            .unwrap_or(name);
        match environment.get(name) {
            Some(value) => kept.extend(value.split_whitespace().map(str::to_owned)),
            None => dropped.push(word.clone()),
        }
    }
    (kept, dropped)
}

/// Looks at all disks, in their order, and copies kernel and initial RAM file system into `folder`.
///
/// # Errors
/// No file system that can be read here has a kernel (the error lists what was seen), files that are missing or too large.
pub fn find(disks: &[(PathBuf, DiskFormat)], folder: &Path) -> Result<Found> {
    let seen = volumes::file_systems(disks)?;
    by_host(&seen, folder).unwrap_or_else(|| Err(nothing(&seen.words)))
}

/// As [`find`]; where nothing is found and there is a file system that only Linux reads (XFS, btrfs, a logical volume), `start` is
/// asked for an appliance with the disks.
///
/// # Errors
/// As [`find`]; the appliance's.
pub fn find_anywhere(
    disks: &[(PathBuf, DiskFormat)],
    folder: &Path,
    start: &mut dyn FnMut() -> Result<Appliance>,
    cancel: &AtomicBool,
) -> Result<Found> {
    let seen = volumes::file_systems(disks)?;
    if let Some(found) = by_host(&seen, folder) {
        return found;
    }
    if !seen.for_linux {
        return Err(nothing(&seen.words));
    }
    let mut appliance = start()?;
    let found = match GuestRoot::open(&mut appliance, cancel) {
        Ok(Some(root)) => choose(&root).map_or_else(
            || Err(nothing(&[format!("{}: no kernel", root.place())])),
            |choice| copy_out(&[&root], 0, choice, folder),
        ),
        Ok(None) => Err(nothing(&seen.words)),
        Err(error) => Err(error),
    };
    appliance.stop(cancel)?;
    found
}

fn by_host(seen: &volumes::Seen, folder: &Path) -> Option<Result<Found>> {
    let systems: Vec<&dyn Files> = seen.systems.iter().map(|system| system as &dyn Files).collect();
    let mut choices = systems.iter().enumerate().filter_map(|(index, system)| {
        let choice = choose(*system)?;
        Some((index, choice))
    });
    let (index, choice) = choices.next()?;
    Some(copy_out(&systems, index, choice, folder))
}

fn nothing(seen: &[String]) -> RunnerError {
    let seen = if seen.is_empty() {
        "no partition".to_owned()
    } else {
        seen.join("; ")
    };
    RunnerError::Unusable {
        what: format!("no kernel was found on these disks ({seen})"),
        advice: "Boot through the guest's own boot loader (--engine qemu), or give --kernel and --initrd".into(),
    }
}

/// An entry with where it comes from and what was left out of it.
struct Choice {
    entry: Entry,
    source: String,
    dropped: Vec<String>,
}

fn copy_out(systems: &[&dyn Files], own: usize, choice: Choice, folder: &Path) -> Result<Found> {
    let Choice {
        mut entry,
        source,
        dropped,
    } = choice;
    // The file system with the configuration first: paths of a boot loader start at the partition that it was told.
    let order: Vec<&dyn Files> = systems[own..].iter().chain(&systems[..own]).copied().collect();
    let find = |path: &str| {
        let candidates = spellings(path);
        order
            .iter()
            .find_map(|system| {
                candidates
                    .iter()
                    .find(|path| system.is_file(path))
                    .map(|path| (*system, path.clone()))
            })
            .ok_or_else(|| RunnerError::Unusable {
                what: format!("{source} names {path}, and no file system on these disks has it"),
                advice: "Boot through the guest's own boot loader (--engine qemu)".into(),
            })
    };
    let (system, path) = find(&entry.kernel)?;
    let kernel = folder.join("guest-kernel");
    let size = system.copy(&path, &kernel, MAX_KERNEL)?;
    let mut chosen = format!("{path} ({size} bytes) of {}", system.place());
    let initrd = folder.join("guest-initrd");
    let mut total = 0;
    for name in &entry.initrds {
        let (system, path) = find(name)?;
        // The kernel takes several archives one behind the other, each at a multiple of four bytes.
        let part = folder.join("guest-initrd.part");
        let size = system.copy(&path, &part, MAX_INITRD.saturating_sub(total))?;
        files::append(&part, &initrd, total)?;
        total += size.next_multiple_of(4);
        chosen.push_str(&format!(", {path} ({size} bytes)"));
    }
    entry.options.retain(|option| !option.is_empty());
    let title = if entry.title.is_empty() {
        "an entry"
    } else {
        &entry.title
    };
    chosen.push_str(&format!(", as {source} says for {title:?}"));
    if !dropped.is_empty() {
        chosen.push_str(&format!("; left out: {}", dropped.join(" ")));
    }
    Ok(Found {
        kernel: DirectKernel {
            kernel,
            initrd: (!entry.initrds.is_empty()).then_some(initrd),
            cmdline: entry.options.join(" "),
        },
        chosen,
    })
}

/// The ways in which one file system may name a path of the boot loader: as it is, below `/boot`, or without it.
fn spellings(path: &str) -> Vec<String> {
    // `($root)/boot/vmlinuz`
    let path = match path.strip_prefix('(').and_then(|rest| rest.split_once(')')) {
        Some((_, rest)) => rest,
        None => path,
    };
    let path = format!("/{}", path.trim_start_matches('/'));
    let mut all = vec![path.clone()];
    match path.strip_prefix("/boot/") {
        Some(rest) => all.push(format!("/{rest}")),
        None => all.push(format!("/boot{path}")),
    }
    all
}

/// What the boot loader of this file system would start.
fn choose(system: &dyn Files) -> Option<Choice> {
    let prefixes = ["/boot", ""];
    let read = |path: &str| system.text(path, MAX_CONFIG);
    let environment = prefixes
        .iter()
        .flat_map(|prefix| ["grub2", "grub"].map(|name| format!("{prefix}/{name}/grubenv")))
        .find_map(|path| read(&path))
        .map(|text| parse_environment(&text))
        .unwrap_or_default();
    let config = prefixes
        .iter()
        .flat_map(|prefix| ["grub", "grub2"].map(|name| format!("{prefix}/{name}/grub.cfg")))
        .find_map(|path| Some((read(&path)?, path)));
    let loader = prefixes.iter().find_map(|prefix| {
        let folder = format!("{prefix}/loader/entries");
        let entry = entries::choose(system, &folder, &environment)?;
        Some((entry, folder))
    });
    let menu = config.as_ref().and_then(|(text, path)| {
        let entry = grub::choose(text, &environment)?;
        Some((entry, path.clone()))
    });
    // Fedora's and RHEL's grub.cfg has entries for other systems only, and `blscfg` for its own.
    let by_entries = menu.is_none() || config.as_ref().is_some_and(|(text, _)| grub::uses_loader_entries(text));
    let (mut entry, source) = match (loader, menu) {
        (Some(loader), _) if by_entries => loader,
        (_, Some(menu)) => menu,
        (Some(loader), None) => loader,
        (None, None) => newest_kernel(system)?,
    };
    let (options, dropped) = expand(&entry.options, &environment);
    entry.options = options;
    Some(Choice {
        entry,
        source: format!("{source} of {}", system.place()),
        dropped,
    })
}

/// Without a configuration: the newest kernel of a root file system, with that as its root.
fn newest_kernel(system: &dyn Files) -> Option<(Entry, String)> {
    if !system.is_file("/etc/fstab") {
        return None;
    }
    let mut names = system.names("/boot", MAX_ENTRIES);
    names.retain(|name| name.starts_with("vmlinuz-"));
    names.sort_by(|a, b| entries::version_order(a, b));
    let kernel = names.pop()?;
    let version = kernel.trim_start_matches("vmlinuz-");
    let initrds = [format!("initrd.img-{version}"), format!("initramfs-{version}.img")]
        .map(|name| format!("/boot/{name}"))
        .into_iter()
        .find(|path| system.is_file(path));
    let entry = Entry {
        title: version.to_owned(),
        kernel: format!("/boot/{kernel}"),
        initrds: initrds.into_iter().collect(),
        options: vec![format!("root=UUID={}", system.uuid()), "ro".to_owned()],
        ..Entry::default()
    };
    Some((
        entry,
        "the newest kernel in /boot (there is no boot loader configuration)".to_owned(),
    ))
}

/// The command line with the first serial port as the console, as a throw-away boot needs it to be seen.
#[must_use]
pub fn with_console(cmdline: &str) -> String {
    if cmdline.split_whitespace().any(|word| word.starts_with("console=ttyS0")) {
        return cmdline.to_owned();
    }
    format!("{cmdline} console=ttyS0,115200").trim_start().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_come_from_the_environment_block_or_are_left_out() {
        let environment =
            parse_environment("# GRUB Environment Block\nkernelopts=root=/dev/vda2 ro\nsaved_entry=x\n####");
        let words = ["$kernelopts", "${tuned}", "quiet", "a$b"].map(str::to_owned);
        let (kept, dropped) = expand(&words, &environment);
        assert_eq!(kept, ["root=/dev/vda2", "ro", "quiet"]);
        assert_eq!(dropped, ["${tuned}", "a$b"]);
    }

    #[test]
    fn a_serial_console_is_added_once() {
        assert_eq!(with_console("ro quiet"), "ro quiet console=ttyS0,115200");
        assert_eq!(with_console("ro console=ttyS0"), "ro console=ttyS0");
        assert_eq!(with_console(""), "console=ttyS0,115200");
    }

    #[test]
    fn paths_are_tried_with_and_without_boot() {
        assert_eq!(spellings("($root)/boot/vmlinuz"), ["/boot/vmlinuz", "/vmlinuz"]);
        assert_eq!(spellings("/vmlinuz-6"), ["/vmlinuz-6", "/boot/vmlinuz-6"]);
    }
}
