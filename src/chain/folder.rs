//! The run folder: one folder a guest, plain files, each written whole or not at all.

use anyhow::{Context, bail};
use serde::{Serialize, de::DeserializeOwned};
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

/// What every run folder has inside.
const SUBFOLDERS: [&str; 4] = ["disks", "targets", "proof", "bench"];
/// The first record, while it is written.
const FIRST_PARTIAL: &str = "machine.json.partial";

/// A run folder (`OUT`).
#[derive(Debug, Clone)]
pub(crate) struct RunFolder {
    root: PathBuf,
}

impl RunFolder {
    pub(crate) const MACHINE: &'static str = "machine.json";
    pub(crate) const ACCOUNTING: &'static str = "accounting.json";
    pub(crate) const FINDINGS: &'static str = "findings.json";
    pub(crate) const LIMITS: &'static str = "limits.json";
    pub(crate) const MANIFEST: &'static str = "manifest.json";
    pub(crate) const PROOF: &'static str = "proof.json";
    pub(crate) const FIXUP: &'static str = "fixup.json";
    pub(crate) const DEEP: &'static str = "deep.json";
    /// Findings of the checks that a look inside the disks makes possible.
    pub(crate) const INSIDE: &'static str = "findings-inside.json";
    pub(crate) const INSPECTION: &'static str = "proof/inspection.json";
    pub(crate) const FACTS: &'static str = "facts.json";
    pub(crate) const TARGETS: &'static str = "targets.json";
    pub(crate) const STEPS: &'static str = "steps.json";

    /// Makes the folder, or takes an existing one: an empty one always, one with a run in it only with `resume`.
    ///
    /// # Errors
    /// Something else is in the folder, or it can't be made.
    pub(crate) fn create(root: &Path, resume: bool) -> anyhow::Result<Self> {
        let folder = Self { root: root.to_owned() };
        match fs::read_dir(root) {
            Ok(mut entries) => {
                let empty = entries.all(|entry| entry.is_ok_and(|entry| is_bare(&entry.path())));
                if !empty && !folder.has(Self::MACHINE) {
                    bail!(
                        "{} exists and is no run folder of esxodus: choose another folder with -o",
                        root.display()
                    );
                }
                if !empty && !resume {
                    bail!(
                        "{} holds an earlier run: add --resume to continue it, or choose another folder with -o",
                        root.display()
                    );
                }
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                fs::create_dir_all(root).with_context(|| format!("cannot make the run folder {}", root.display()))?;
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotADirectory => {
                bail!("{} is a file: -o wants a folder", root.display());
            }
            Err(error) => return Err(error).with_context(|| format!("cannot open the run folder {}", root.display())),
        }
        for sub in SUBFOLDERS {
            fs::create_dir_all(root.join(sub)).with_context(|| format!("cannot make {}", root.join(sub).display()))?;
        }
        Ok(folder)
    }

    /// Refuses to go on with another guest in the folder of `machine`'s.
    ///
    /// # Errors
    /// The folder belongs to another guest.
    pub(crate) fn keep_to(&self, machine: &convert::machine::Machine) -> anyhow::Result<()> {
        let Some(before) = self.read::<convert::machine::Machine>(Self::MACHINE)? else {
            return Ok(());
        };
        let who = |machine: &convert::machine::Machine| {
            let disks: Vec<String> = machine.disks.iter().map(|disk| disk.file.clone()).collect();
            (machine.name.clone(), machine.identity.smbios_uuid, disks)
        };
        if who(&before) != who(machine) {
            bail!(
                "{} holds the run of {} from {}: resume it with that source, or choose another folder with -o",
                self.root.display(),
                before.name,
                before.source.display()
            );
        }
        Ok(())
    }

    /// Opens a folder that an earlier command made.
    ///
    /// # Errors
    /// It isn't one.
    pub(crate) fn open(root: &Path) -> anyhow::Result<Self> {
        let folder = Self { root: root.to_owned() };
        if !folder.has(Self::MACHINE) {
            bail!(
                "{} is no run folder (no {} in it): make one with 'esxodus convert SOURCE -o {}'",
                root.display(),
                Self::MACHINE,
                root.display()
            );
        }
        Ok(folder)
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        self.path(name).is_file()
    }

    /// Reads a record; `None` where the file isn't there.
    ///
    /// # Errors
    /// It can't be read, or isn't what it should be.
    pub(crate) fn read<T: DeserializeOwned>(&self, name: &str) -> anyhow::Result<Option<T>> {
        let path = self.path(name);
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
        };
        let value = serde_json::from_slice(&text).with_context(|| {
            format!(
                "{} is not a record of this version: delete it and run that step again",
                path.display()
            )
        })?;
        Ok(Some(value))
    }

    /// Reads a record that an earlier step must have written.
    ///
    /// # Errors
    /// As [`RunFolder::read`], and where it is missing.
    pub(crate) fn need<T: DeserializeOwned>(&self, name: &str, step: &str) -> anyhow::Result<T> {
        self.read(name)?
            .with_context(|| format!("{} has no {name}: run 'esxodus {step}' first", self.root.display()))
    }

    /// Writes a record whole: to a temporary name, synced, then renamed.
    ///
    /// # Errors
    /// The disk is full, or the folder can't be written.
    pub(crate) fn write<T: Serialize>(&self, name: &str, value: &T) -> anyhow::Result<PathBuf> {
        let mut text = serde_json::to_vec_pretty(value)?;
        text.push(b'\n');
        self.write_bytes(name, &text)
    }

    /// Removes a file that may be there.
    ///
    /// # Errors
    /// It can't be removed.
    pub(crate) fn remove(&self, name: &str) -> anyhow::Result<()> {
        match fs::remove_file(self.path(name)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(error).with_context(|| format!("cannot remove {}", self.path(name).display()))
            }
            _ => Ok(()),
        }
    }

    /// Writes any file whole.
    ///
    /// # Errors
    /// As [`RunFolder::write`].
    pub(crate) fn write_bytes(&self, name: &str, bytes: &[u8]) -> anyhow::Result<PathBuf> {
        let path = self.path(name);
        write_whole(&path, bytes)?;
        Ok(path)
    }
}

/// Whether `path` is what a run leaves that was stopped before it had written anything.
fn is_bare(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default();
    let empty = || fs::read_dir(path).is_ok_and(|mut entries| entries.next().is_none());
    (SUBFOLDERS.iter().any(|sub| *sub == name) && empty()) || name == FIRST_PARTIAL
}

/// Writes a file under its final name only when it is complete.
///
/// # Errors
/// The disk is full, or the folder can't be written.
pub(crate) fn write_whole(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    let mut partial = path.as_os_str().to_owned();
    partial.push(".partial");
    let partial = PathBuf::from(partial);
    let written = fs::File::create(&partial).and_then(|mut file| {
        file.write_all(bytes)?;
        file.sync_data()
    });
    // The folder is synced too: after a power cut the name is there, or nothing that came later.
    let named = || -> std::io::Result<()> {
        fs::rename(&partial, path)?;
        match path.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => fs::File::open(folder)?.sync_all(),
            _ => fs::File::open(".")?.sync_all(),
        }
    };
    written.and_then(|()| named()).with_context(|| {
        format!(
            "cannot write {}: is the disk full or the folder read-only?",
            path.display()
        )
    })
}

#[cfg(test)]
mod tests {
    use super::RunFolder;

    #[test]
    fn a_folder_with_other_files_in_it_is_refused_and_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("thesis.txt"), "years of work").unwrap();
        let error = RunFolder::create(dir.path(), true).unwrap_err().to_string();
        assert!(error.contains("no run folder"), "{error}");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_run_stopped_before_its_first_record_is_begun_anew() {
        let dir = tempfile::tempdir().unwrap();
        RunFolder::create(dir.path(), false).unwrap();
        std::fs::write(dir.path().join("machine.json.partial"), "{").unwrap();
        for resume in [false, true] {
            RunFolder::create(dir.path(), resume).unwrap();
        }
        std::fs::write(dir.path().join("disks/other.qcow2"), "x").unwrap();
        RunFolder::create(dir.path(), true).unwrap_err();
    }

    #[test]
    fn an_earlier_run_is_continued_only_when_asked() {
        let dir = tempfile::tempdir().unwrap();
        let folder = RunFolder::create(&dir.path().join("out"), false).unwrap();
        folder.write(RunFolder::MACHINE, &1).unwrap();
        let error = RunFolder::create(folder.root(), false).unwrap_err().to_string();
        assert!(error.contains("--resume"), "{error}");
        RunFolder::create(folder.root(), true).unwrap();
    }

    #[test]
    fn records_are_written_whole_and_read_back() {
        let dir = tempfile::tempdir().unwrap();
        let folder = RunFolder::create(&dir.path().join("out"), false).unwrap();
        assert_eq!(folder.read::<u32>("x.json").unwrap(), None);
        folder.write("x.json", &7_u32).unwrap();
        assert_eq!(folder.read::<u32>("x.json").unwrap(), Some(7));
        assert!(!folder.path("x.json.partial").exists());
    }
}
