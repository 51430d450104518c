//! A guest's kernel modules as its own `depmod` described them, and the same description for a part of them.
//!
//! Read from the text files below `/lib/modules/VERSION`; no module is parsed and no program of the guest runs.

mod index;

use index::Index;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

/// `modules.symbols` of a full distribution kernel has about 2 MiB.
const MAX_LIST: u64 = 32 << 20;

/// The modules of one kernel.
#[derive(Debug, Default)]
pub(crate) struct Modules {
    /// In the order of `modules.dep`, which is the order in which `depmod` numbers them.
    order: Vec<Module>,
    by_name: HashMap<String, usize>,
    built_in: HashSet<String>,
    /// Alias and module, as `modules.alias` has them.
    aliases: Vec<(String, String)>,
    symbols: Vec<(String, String)>,
}

#[derive(Debug)]
struct Module {
    name: String,
    /// Relative to the folder.
    path: String,
    /// Names of the modules that it needs, as `modules.dep` lists them.
    needs: Vec<String>,
}

/// `kernel/fs/xfs/xfs.ko.xz` to `xfs`.
pub(crate) fn module_name(path: &str) -> String {
    let file = path.rsplit('/').next().unwrap_or(path);
    file.split(".ko").next().unwrap_or(file).replace('-', "_")
}

/// Is it a module's file, compressed or not?
pub(crate) fn is_module(path: &str) -> bool {
    [".ko", ".ko.xz", ".ko.zst", ".ko.gz"]
        .iter()
        .any(|end| path.ends_with(end))
}

fn list(path: &Path) -> io::Result<String> {
    let file = File::open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let mut text = String::new();
    file.take(MAX_LIST).read_to_string(&mut text)?;
    Ok(text)
}

impl Modules {
    /// Reads the description in `folder` (`/lib/modules/VERSION`).
    ///
    /// # Errors
    /// There is no `modules.dep`.
    pub(crate) fn read(folder: &Path) -> io::Result<Self> {
        let optional = |name: &str| list(&folder.join(name)).unwrap_or_default();
        let mut modules = Self::default();
        for line in list(&folder.join("modules.dep"))?.lines() {
            let Some((path, needs)) = line.split_once(':') else {
                continue;
            };
            let name = module_name(path);
            modules.by_name.insert(name.clone(), modules.order.len());
            modules.order.push(Module {
                name,
                path: path.to_owned(),
                needs: needs.split_whitespace().map(module_name).collect(),
            });
        }
        modules.built_in = optional("modules.builtin").lines().map(module_name).collect();
        let pairs = |text: String| -> Vec<(String, String)> {
            text.lines()
                .filter_map(|line| line.strip_prefix("alias ")?.rsplit_once(' '))
                .map(|(alias, module)| (alias.to_owned(), module.to_owned()))
                .collect()
        };
        modules.aliases = pairs(optional("modules.alias"));
        modules.symbols = pairs(optional("modules.symbols"));
        Ok(modules)
    }

    /// Is it part of the kernel itself?
    pub(crate) fn is_built_in(&self, name: &str) -> bool {
        self.built_in.contains(name)
    }

    /// Path of a module's file, relative to the folder.
    pub(crate) fn path(&self, name: &str) -> Option<&str> {
        self.by_name.get(name).map(|&at| self.order[at].path.as_str())
    }

    /// The module and all that it needs, as names. Empty where there is no such module.
    pub(crate) fn closure(&self, name: &str) -> Vec<&str> {
        let Some(&at) = self.by_name.get(name) else {
            return Vec::new();
        };
        let needs = self.order[at].needs.iter().map(String::as_str);
        std::iter::once(self.order[at].name.as_str()).chain(needs).collect()
    }

    /// `depmod`'s files for the modules in `present` (name to path), as file name and content.
    pub(crate) fn description(&self, present: &BTreeMap<String, String>) -> Vec<(&'static str, Vec<u8>)> {
        let (mut dep, mut dep_bin) = (String::new(), Index::default());
        let mut number: HashMap<&str, u32> = HashMap::new();
        let known = self.order.iter().filter(|module| present.contains_key(&module.name));
        let none = Vec::new();
        let strangers = present.keys().filter(|name| !self.by_name.contains_key(*name));
        let lines = known
            .map(|module| (&module.name, &module.needs))
            .chain(strangers.map(|name| (name, &none)));
        for (place, (name, needs)) in (0_u32..).zip(lines) {
            number.insert(name, place);
            let needed: String = needs
                .iter()
                .filter_map(|need| Some(format!(" {}", present.get(need)?)))
                .collect();
            let line = format!("{}:{needed}", present[name]);
            dep_bin.insert(name, &line, place);
            dep.push_str(&line);
            dep.push('\n');
        }
        let pairs = |title: &str, pairs: &[(String, String)]| {
            let (mut text, mut index) = (format!("{title}\n"), Index::default());
            for (alias, module) in pairs {
                if let Some(&place) = number.get(module.as_str()) {
                    text.push_str(&format!("alias {alias} {module}\n"));
                    index.insert(&normalised(alias), module, place);
                }
            }
            (text.into_bytes(), index.finish())
        };
        let (alias, alias_bin) = pairs("# Aliases extracted from modules themselves.", &self.aliases);
        let (symbols, symbols_bin) = pairs("# Aliases for symbols, used by symbol_request().", &self.symbols);
        vec![
            ("modules.dep", dep.into_bytes()),
            ("modules.dep.bin", dep_bin.finish()),
            ("modules.alias", alias),
            ("modules.alias.bin", alias_bin),
            ("modules.symbols", symbols),
            ("modules.symbols.bin", symbols_bin),
        ]
    }
}

/// Dashes become underscores, except within brackets: `alias_normalize` of kmod.
fn normalised(alias: &str) -> String {
    let mut inside = false;
    alias
        .chars()
        .map(|character| {
            match character {
                '[' => inside = true,
                ']' => inside = false,
                '-' if !inside => return '_',
                _ => {}
            }
            character
        })
        .collect()
}

/// The appliance's own kernel as [`Modules::read`] wants it: real modules that need no guest.
#[cfg(test)]
pub(crate) fn test_kernel() -> Option<std::path::PathBuf> {
    use std::path::PathBuf;
    let home = || std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache/esxodus"));
    let cache = std::env::var_os("ESXODUS_CACHE").map(PathBuf::from).or_else(home)?;
    let folder = std::fs::canonicalize(cache.join("kernel/current/modules")).ok();
    let folder = folder.filter(|folder| folder.join("modules.dep").is_file());
    if folder.is_none() {
        eprintln!("SKIP: no unpacked kernel in the cache: run scripts/setup.sh");
    }
    folder
}

#[cfg(test)]
mod tests {
    use super::{Index, Modules, is_module, module_name, test_kernel};
    use std::collections::BTreeMap;
    use std::path::Path;
    use std::process::Command;

    fn copy(modules: &Path, into: &Path, paths: &[&str]) {
        for path in paths {
            let target = into.join(path);
            std::fs::create_dir_all(target.parent().unwrap()).unwrap();
            std::fs::copy(modules.join(path), target).unwrap();
        }
        for name in ["modules.order", "modules.builtin"] {
            std::fs::copy(modules.join(name), into.join(name)).unwrap();
        }
    }

    #[test]
    fn names_lose_their_folder_ending_and_dashes() {
        assert_eq!(module_name("kernel/drivers/md/dm-mod.ko.xz"), "dm_mod");
        assert!(is_module("a/b.ko.zst") && !is_module("modules.dep"));
    }

    #[test]
    fn the_description_of_a_part_is_what_depmod_writes_and_the_indexes_are_byte_for_byte() {
        let Some(folder) = test_kernel() else { return };
        if Command::new("depmod").arg("--version").output().is_err() {
            eprintln!("SKIP: depmod (kmod) is not installed");
            return;
        }
        let modules = Modules::read(&folder).unwrap();
        let mut present = BTreeMap::new();
        for wanted in [
            "virtio_blk",
            "virtio_scsi",
            "ext4",
            "btrfs",
            "nvme",
            "xfs",
            "virtio_net",
            "virtio_pci",
            "dm_crypt",
        ] {
            for name in modules.closure(wanted) {
                present.insert(name.to_owned(), modules.path(name).unwrap().to_owned());
            }
        }
        assert!(present.len() > 15, "{present:?}");
        let work = tempfile::tempdir().unwrap();
        let into = work.path().join("lib/modules/6.1.0-test");
        std::fs::create_dir_all(&into).unwrap();
        let paths: Vec<&str> = present.values().map(String::as_str).collect();
        copy(&folder, &into, &paths);
        let done = Command::new("depmod")
            .arg("-b")
            .arg(work.path())
            .arg("6.1.0-test")
            .output()
            .unwrap();
        assert!(done.status.success(), "{done:?}");
        let theirs = |name: &str| std::fs::read(into.join(name)).unwrap();
        for (name, ours) in modules.description(&present) {
            match name {
                // Modules that do not need each other may come in either order: depmod's own depends on what else is there.
                "modules.dep" => assert_eq!(sorted(&ours), sorted(&theirs(name))),
                "modules.dep.bin" => {}
                _ => assert!(ours == theirs(name), "{name}: {} bytes", ours.len()),
            }
        }
        let mut index = Index::default();
        for (place, line) in (0..).zip(String::from_utf8(theirs("modules.dep")).unwrap().lines()) {
            index.insert(&module_name(line.split_once(':').unwrap().0), line, place);
        }
        assert!(index.finish() == theirs("modules.dep.bin"));
    }

    /// Lines as module and the set of what it needs.
    fn sorted(text: &[u8]) -> Vec<(String, Vec<String>)> {
        let text = String::from_utf8(text.to_vec()).unwrap();
        let line = |line: &str| {
            let (path, needs) = line.split_once(':').unwrap();
            let mut needs: Vec<String> = needs.split_whitespace().map(str::to_owned).collect();
            needs.sort();
            (path.to_owned(), needs)
        };
        text.lines().map(line).collect()
    }
}
