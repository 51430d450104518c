//! Reads an initramfs without running anything of it: which kernel it is for, which modules it holds, who made it.
//!
//! An initramfs is a sequence of cpio archives, each compressed or not (Linux Documentation/driver-api/early-userspace/buffer-format.rst);
//! later ones overwrite files of earlier ones. It is a stranger's file: everything is bounded.

mod append;
mod unpack;

pub(crate) use append::{Addition, MARK, Text, append};
pub(crate) use unpack::module;

use crate::kmod;
use esxodus_agent::cpio;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use unpack::Packing;

/// An initramfs larger than this is not read. Ubuntu's largest have about 150 MiB.
pub(crate) const MAX_FILE: u64 = 320 << 20;
/// Entries above this number are refused.
const MAX_ENTRIES: usize = 400_000;
/// Small files whose text is kept.
const MAX_KEPT: u32 = 1 << 20;
/// So many of them.
const MAX_TEXTS: usize = 64;

/// Program that made it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Maker {
    InitramfsTools,
    Dracut,
    Mkinitcpio,
    /// SUSE's of SLES 11 and before: loads a fixed list.
    Mkinitrd,
    /// Red Hat's of RHEL 5 and before: a script that loads a fixed list.
    Nash,
    Unknown,
}

impl Maker {
    /// Its name for people.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::InitramfsTools => "initramfs-tools",
            Self::Dracut => "dracut",
            Self::Mkinitcpio => "mkinitcpio",
            Self::Mkinitrd => "mkinitrd",
            Self::Nash => "mkinitrd (nash)",
            Self::Unknown => "an unknown program",
        }
    }
}

/// What an initramfs holds.
#[derive(Debug)]
pub(crate) struct Initramfs {
    /// Kernel version by its modules folder.
    pub(crate) version: Option<String>,
    /// The folder of the modules with the version, as the archive names it: `usr/lib/modules/6.1.0-42-amd64`.
    pub(crate) folder: Option<String>,
    /// Modules: name to path below that folder.
    pub(crate) modules: BTreeMap<String, String>,
    pub(crate) maker: Maker,
    /// Kept small files: `conf/modules`, and those of [`is_setting`].
    pub(crate) texts: BTreeMap<String, Vec<u8>>,
    /// All folders.
    folders: BTreeSet<String>,
    /// Symbolic links at the top, which a folder of the same name would replace.
    links: BTreeSet<String>,
    /// Packing of the last part.
    last: Packing,
    /// Where the last part ends in the file.
    end: usize,
}

fn invalid(what: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

impl Initramfs {
    /// Reads a whole file.
    ///
    /// # Errors
    /// A packing that is not read (lzo, lzma, bzip2: [`io::ErrorKind::Unsupported`]), a damaged part, something out of bounds.
    pub(crate) fn read(bytes: &[u8]) -> io::Result<Self> {
        let mut found = Self {
            version: None,
            folder: None,
            modules: BTreeMap::new(),
            maker: Maker::Unknown,
            texts: BTreeMap::new(),
            folders: BTreeSet::new(),
            links: BTreeSet::new(),
            last: Packing::None,
            end: 0,
        };
        let (mut names, mut count) = (Vec::new(), 0_usize);
        let mut rest = bytes;
        loop {
            let zeros = rest.iter().take_while(|&&byte| byte == 0).count();
            rest = &rest[zeros..];
            if rest.is_empty() {
                break;
            }
            let at = bytes.len() - rest.len();
            let packing = unpack::recognise(rest).map_err(|name| {
                let kind = if name == unpack::UNKNOWN {
                    io::ErrorKind::InvalidData
                } else {
                    io::ErrorKind::Unsupported
                };
                io::Error::new(kind, format!("at byte {at} it is {name}, which is not read"))
            })?;
            let mut part = unpack::reader(packing, &mut rest)?;
            let mut reader = cpio::Reader::new(&mut part);
            loop {
                while let Some(header) = reader.next_entry()? {
                    count += 1;
                    if count > MAX_ENTRIES {
                        return Err(invalid(format!("more than {MAX_ENTRIES} entries")));
                    }
                    found.note(&header, &mut names, &mut reader)?;
                }
                // What follows an unpacked archive may be packed: the outer loop looks.
                if packing == Packing::None || !reader.next_archive()? {
                    break;
                }
            }
            drop(part);
            (found.last, found.end) = (packing, bytes.len() - rest.len());
        }
        if found.end == 0 {
            return Err(invalid("it is empty".to_owned()));
        }
        found.settle(&names);
        Ok(found)
    }

    fn note<R: io::Read>(
        &mut self,
        header: &cpio::Header,
        names: &mut Vec<String>,
        reader: &mut cpio::Reader<R>,
    ) -> io::Result<()> {
        if header.is_folder() {
            self.folders.insert(header.name.clone());
        } else if header.is_link() && !header.name.contains('/') {
            self.links.insert(header.name.clone());
        }
        let wanted = ["conf/modules", MARK].contains(&header.name.as_str())
            || (is_setting(&header.name) || is_link_file(&header.name)) && self.texts.len() < MAX_TEXTS;
        if wanted && !header.is_folder() && !header.is_link() && header.size <= MAX_KEPT {
            self.texts.insert(header.name.clone(), reader.content(MAX_KEPT)?);
        }
        if kmod::is_module(&header.name) || !header.name.contains("/modules/") {
            names.push(header.name.clone());
        }
        Ok(())
    }

    fn settle(&mut self, names: &[String]) {
        let mut versions: BTreeMap<&str, usize> = BTreeMap::new();
        for name in names.iter().filter(|name| kmod::is_module(name)) {
            if let Some((version, _)) = split(name) {
                *versions.entry(version).or_default() += 1;
            }
        }
        let empty = self
            .folders
            .iter()
            .filter_map(|name| split_folder(name))
            .map(|version| (version, 0));
        let most = versions
            .iter()
            .map(|(version, count)| (*version, *count))
            .chain(empty)
            .max_by_key(|(_, count)| *count);
        if let Some(version) = most.map(|(version, _)| version.to_owned()) {
            for name in names {
                if let Some((_, path)) = split(name).filter(|(found, _)| *found == version) {
                    self.modules.insert(kmod::module_name(path), path.to_owned());
                    self.folder
                        .get_or_insert_with(|| name[..name.len() - path.len() - 1].to_owned());
                }
            }
            let whole = self
                .folders
                .iter()
                .find(|name| split_folder(name) == Some(version.as_str()));
            self.folder = self.folder.take().or_else(|| whole.cloned());
            self.version = Some(version);
        }
        let has = |wanted: &str| names.iter().any(|name| name == wanted);
        let below = |folder: &str| names.iter().any(|name| name.starts_with(folder));
        self.maker = if has("scripts/functions") && below("conf/") {
            Maker::InitramfsTools
        } else if below("usr/lib/dracut") || below("lib/dracut") || has("usr/lib/initrd-release") || below("initqueue")
        {
            Maker::Dracut
        } else if has("init_functions") && has("config") {
            Maker::Mkinitcpio
        } else if has("run_all.sh") || has("mkinitrd.config") {
            Maker::Mkinitrd
        } else if has("bin/nash") {
            Maker::Nash
        } else {
            Maker::Unknown
        };
        // Its modules lie flat, of whatever kernel.
        if self.maker == Maker::Nash {
            let flat = names.iter().filter_map(|name| name.strip_prefix("lib/"));
            let flat = flat.filter(|name| kmod::is_module(name) && !name.contains('/'));
            self.modules
                .extend(flat.map(|name| (kmod::module_name(name), name.to_owned())));
        }
    }

    /// Parents of `path` that the archives do not have yet, outermost first. A parent below a top-level link is the link's matter.
    fn missing_folders<'p>(&self, path: &'p str) -> Vec<&'p str> {
        path.match_indices('/')
            .map(|(at, _)| &path[..at])
            .filter(|parent| !self.folders.contains(*parent) && !self.links.contains(*parent))
            .collect()
    }
}

/// A file in which an initramfs keeps names of disks: initramfs-tools' resume, dracut's command lines.
pub(crate) fn is_setting(name: &str) -> bool {
    name.starts_with("conf/conf.d/") || name.starts_with("etc/cmdline.d/") && name.ends_with(".conf")
}

/// A file by which a NIC gets its name.
fn is_link_file(name: &str) -> bool {
    name.starts_with("etc/systemd/network/") && name.ends_with(".link")
}

/// Version and path below `…lib/modules/VERSION/`.
fn split(name: &str) -> Option<(&str, &str)> {
    let rest = name.strip_prefix("usr/").unwrap_or(name).strip_prefix("lib/modules/")?;
    rest.split_once('/')
}

fn split_folder(name: &str) -> Option<&str> {
    let rest = name.strip_prefix("usr/").unwrap_or(name).strip_prefix("lib/modules/")?;
    (!rest.contains('/')).then_some(rest)
}
