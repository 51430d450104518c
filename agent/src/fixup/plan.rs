//! What is to be changed in a root, before anything is: planners read through the plan, so that each sees what the others want.
//! Then the plan is applied, or only shown.

use super::selinux;
use esxodus_agent::protocol::{Change, Undo};
use std::fs::{self, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

/// A text that is edited must fit as a whole: a cut one would be written back cut.
const MAX_TEXT: u64 = 4 << 20;

/// What happens to a path.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Edit {
    /// The whole text.
    Text(String),
    /// Bytes behind a file of this length. The words say what was there and what comes.
    Append {
        length: u64,
        bytes: Vec<u8>,
        was: String,
        gets: String,
    },
    /// A symbolic link to this.
    Link(String),
    /// A copy of this file.
    Copy { from: String, bytes: u64, crc32: u32 },
}

#[derive(Debug, Clone)]
struct Step {
    path: String,
    before: Option<String>,
    edit: Edit,
    why: Vec<String>,
    /// Folders that are made for it, innermost first.
    folders: Vec<String>,
}

/// The changes to the tree below `root`.
#[derive(Debug)]
pub(crate) struct Plan {
    root: PathBuf,
    steps: Vec<Step>,
    notes: Vec<String>,
}

/// Whole text of a regular file; `None` where it is none, too long, or no UTF-8.
fn whole_text(path: &Path) -> Option<String> {
    if !fs::metadata(path).ok()?.is_file() {
        return None;
    }
    let mut text = String::new();
    fs::File::open(path)
        .ok()?
        .take(MAX_TEXT + 1)
        .read_to_string(&mut text)
        .ok()?;
    (text.len() as u64 <= MAX_TEXT).then_some(text)
}

impl Step {
    fn removal(&self) -> Undo {
        Undo::Remove {
            folders: self.folders.clone(),
        }
    }
}

impl Plan {
    /// An empty plan for the tree below `root`, which is `/` in a guest's root.
    pub(crate) fn new(root: &Path) -> Self {
        Self {
            root: root.to_owned(),
            steps: Vec::new(),
            notes: Vec::new(),
        }
    }

    /// Where an absolute path of the guest is.
    pub(crate) fn place(&self, path: &str) -> PathBuf {
        self.root.join(path.trim_start_matches('/'))
    }

    /// Is anything at the path, or planned to be?
    pub(crate) fn exists(&self, path: &str) -> bool {
        self.steps.iter().any(|step| step.path == path) || fs::symlink_metadata(self.place(path)).is_ok()
    }

    /// Names in a folder, sorted; at most a thousand.
    pub(crate) fn names(&self, folder: &str) -> Vec<String> {
        let entries = fs::read_dir(self.place(folder)).into_iter().flatten().flatten();
        let mut names: Vec<String> = entries
            .filter_map(|entry| entry.file_name().into_string().ok())
            .take(1000)
            .collect();
        names.sort();
        names
    }

    /// Paths in a folder that something is planned for.
    pub(crate) fn planned(&self, folder: &str) -> Vec<String> {
        let inside = |path: &&str| path.strip_prefix(folder).is_some_and(|rest| rest.starts_with('/'));
        let paths = self.steps.iter().map(|step| step.path.as_str());
        paths.filter(inside).map(str::to_owned).collect()
    }

    /// The text as it will be.
    pub(crate) fn text(&self, path: &str) -> Option<String> {
        let planned = self.steps.iter().find(|step| step.path == path).map(|step| &step.edit);
        match planned {
            Some(Edit::Text(text)) => Some(text.clone()),
            _ => whole_text(&self.place(path)),
        }
    }

    /// Parents of a path that are not there, innermost first.
    fn missing_folders(&self, path: &str) -> Vec<String> {
        let parents = Path::new(path).ancestors().skip(1);
        parents
            .map(|parent| parent.to_string_lossy().into_owned())
            .take_while(|parent| parent != "/" && fs::symlink_metadata(self.place(parent)).is_err())
            .collect()
    }

    /// Is there room for so many bytes more beside the file?
    pub(crate) fn room(&self, path: &str, bytes: u64) -> io::Result<()> {
        let folder = Path::new(path).parent().unwrap_or(Path::new("/")).to_string_lossy();
        let space = rustix::fs::statvfs(self.place(&folder))?;
        let free = space.f_bavail.saturating_mul(space.f_frsize);
        if free < bytes {
            return Err(io::Error::other(format!("{bytes} bytes are needed, {free} are free")));
        }
        Ok(())
    }

    /// Says something that was looked at and left alone.
    pub(crate) fn note(&mut self, words: String) {
        self.notes.push(words);
    }

    /// Wants `text` in the file; nothing is planned where it is there already.
    pub(crate) fn set(&mut self, path: &str, text: String, why: impl Into<String>) {
        if let Some(step) = self.steps.iter_mut().find(|step| step.path == path) {
            step.edit = Edit::Text(text);
            step.why.push(why.into());
            return;
        }
        let before = whole_text(&self.place(path));
        if before.is_none() && self.exists(path) {
            self.note(format!("{path}: not a text that can be edited, left alone"));
        } else if before.as_ref() != Some(&text) {
            self.steps.push(Step {
                path: path.to_owned(),
                before,
                edit: Edit::Text(text),
                why: vec![why.into()],
                folders: self.missing_folders(path),
            });
        }
    }

    /// Wants a link at a path where nothing is.
    pub(crate) fn link(&mut self, path: &str, target: &str, why: impl Into<String>) {
        if !self.exists(path) {
            self.steps.push(Step {
                path: path.to_owned(),
                before: None,
                edit: Edit::Link(target.to_owned()),
                why: vec![why.into()],
                folders: self.missing_folders(path),
            });
        }
    }

    /// Wants a copy of the file `from` at a path where nothing is.
    pub(crate) fn copy(&mut self, from: &str, path: &str, why: impl Into<String>) {
        match checksum(&self.place(from)) {
            Ok(_) if self.exists(path) => {}
            Ok((bytes, crc32)) => self.steps.push(Step {
                path: path.to_owned(),
                before: None,
                edit: Edit::Copy {
                    from: from.to_owned(),
                    bytes,
                    crc32,
                },
                why: vec![why.into()],
                folders: self.missing_folders(path),
            }),
            Err(error) => self.note(format!("{path} could not be added: {from}: {error}")),
        }
    }

    /// Wants `bytes` behind the file, which has `length` bytes.
    pub(crate) fn append(
        &mut self,
        path: &str,
        length: u64,
        bytes: Vec<u8>,
        words: (String, String),
        why: impl Into<String>,
    ) {
        self.steps.push(Step {
            path: path.to_owned(),
            before: None,
            edit: Edit::Append {
                length,
                bytes,
                was: words.0,
                gets: words.1,
            },
            why: vec![why.into()],
            folders: Vec::new(),
        });
    }

    /// The notes.
    pub(crate) fn notes(&self) -> &[String] {
        &self.notes
    }

    /// The changes as they are shown and kept.
    pub(crate) fn changes(&self) -> Vec<Change> {
        self.steps
            .iter()
            .map(|step| {
                let (before, after, undo) = match &step.edit {
                    Edit::Text(text) if step.before.is_some() => (step.before.clone(), text.clone(), Undo::Restore),
                    Edit::Text(text) => (None, text.clone(), step.removal()),
                    Edit::Link(target) => (None, format!("-> {target}"), step.removal()),
                    Edit::Copy { from, bytes, crc32 } => {
                        let undo = Undo::RemoveCopy {
                            bytes: *bytes,
                            crc32: *crc32,
                            folders: step.folders.clone(),
                        };
                        (None, format!("a copy of {from}, {bytes} bytes"), undo)
                    }
                    Edit::Append {
                        length,
                        bytes,
                        was,
                        gets,
                    } => {
                        let undo = Undo::Truncate {
                            bytes: *length,
                            from: length + bytes.len() as u64,
                        };
                        (Some(was.clone()), gets.clone(), undo)
                    }
                };
                Change {
                    path: step.path.clone(),
                    before,
                    after,
                    why: step.why.join("; "),
                    undo,
                }
            })
            .collect()
    }

    /// Writes everything. Texts are written into the existing file, so that owner, mode and labels stay. What is written goes into an
    /// overlay of the host's: an error or a kill half-way leaves the guest's disks as they were.
    pub(crate) fn apply(&mut self) -> io::Result<()> {
        let mut unlabelled = self.write()?;
        if !unlabelled.is_empty() && selinux::enabled(&self.root) {
            unlabelled.truncate(8);
            let first = self.steps.len();
            self.set(
                "/.autorelabel",
                String::new(),
                format!("SELinux: {} could not be given a label", unlabelled.join(", ")),
            );
            for step in &self.steps[first..] {
                fs::write(self.place(&step.path), "")?;
            }
        }
        rustix::fs::sync();
        Ok(())
    }

    /// Returns the new paths that have no SELinux label.
    fn write(&self) -> io::Result<Vec<String>> {
        let mut unlabelled = Vec::new();
        for step in &self.steps {
            let place = self.place(&step.path);
            let told = |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", step.path));
            let new = fs::symlink_metadata(&place).is_err();
            if new && let Some(parent) = place.parent() {
                fs::create_dir_all(parent).map_err(told)?;
            }
            match &step.edit {
                Edit::Text(text) => fs::write(&place, text).map_err(told)?,
                Edit::Link(target) => symlink(target, &place).map_err(told)?,
                Edit::Copy { from, bytes, crc32 } => {
                    fs::copy(self.place(from), &place).map_err(told)?;
                    if checksum(&place).map_err(told)? != (*bytes, *crc32) {
                        return Err(told(io::Error::other("the copy differs from what was looked at")));
                    }
                }
                Edit::Append { length, bytes, .. } => {
                    let mut file = OpenOptions::new().append(true).open(&place).map_err(told)?;
                    if file.metadata().map_err(told)?.len() != *length {
                        return Err(told(io::Error::other("its length changed since it was looked at")));
                    }
                    if let Err(error) = file.write_all(bytes) {
                        // A full /boot must not leave half an archive behind a good one.
                        file.set_len(*length).map_err(told)?;
                        return Err(told(error));
                    }
                }
            }
            if new {
                let made = step.folders.iter().rev().chain([&step.path]);
                let bare = made.filter(|path| !selinux::label_like_parent(&self.place(path)));
                unlabelled.extend(bare.cloned());
            }
        }
        Ok(unlabelled)
    }
}

/// Removes folders that were made for a file; one that something else lies in by now stays.
fn remove_empty(root: &Path, folders: &[String]) {
    for folder in folders {
        let _ = fs::remove_dir(root.join(folder.trim_start_matches('/')));
    }
}

/// Length and CRC-32 of a regular file.
pub(super) fn checksum(path: &Path) -> io::Result<(u64, u32)> {
    if !fs::symlink_metadata(path)?.is_file() {
        return Err(io::Error::other("not a regular file"));
    }
    let mut hasher = crc32fast::Hasher::new();
    let mut file = fs::File::open(path)?;
    let (mut bytes, mut piece) = (0, vec![0; 64 << 10]);
    loop {
        match file.read(&mut piece)? {
            0 => return Ok((bytes, hasher.finalize())),
            count => {
                hasher.update(&piece[..count]);
                bytes += count as u64;
            }
        }
    }
}

/// Takes changes back, the last one first; what was changed by somebody else since is left alone and said.
pub(crate) fn undo(root: &Path, changes: &[Change], dry_run: bool) -> io::Result<(Vec<Change>, Vec<String>)> {
    let (mut done, mut notes) = (Vec::new(), Vec::new());
    for change in changes.iter().rev() {
        let place = root.join(change.path.trim_start_matches('/'));
        let told = |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", change.path));
        let link = fs::read_link(&place)
            .ok()
            .map(|target| format!("-> {}", target.display()));
        match &change.undo {
            Undo::Never => {
                notes.push(format!(
                    "{}: made by a program that keeps nothing of before, left as it is: convert the guest again",
                    change.path
                ));
                continue;
            }
            Undo::RemoveCopy { bytes, crc32, folders } => {
                if checksum(&place).ok() != Some((*bytes, *crc32)) {
                    notes.push(format!("{}: not as the fix-up left it, left alone", change.path));
                    continue;
                }
                if !dry_run {
                    fs::remove_file(&place).map_err(told)?;
                    remove_empty(root, folders);
                }
            }
            Undo::PutBack { kept, bytes, crc32 } => {
                let there =
                    fs::symlink_metadata(root.join(kept.trim_start_matches('/'))).is_ok_and(|data| data.is_file());
                if !there || checksum(&place).ok() != Some((*bytes, *crc32)) {
                    notes.push(format!("{}: not as the fix-up left it, left alone", change.path));
                    continue;
                }
                if !dry_run {
                    fs::rename(root.join(kept.trim_start_matches('/')), &place).map_err(told)?;
                }
            }
            Undo::Truncate { bytes, from } => {
                let length = fs::metadata(&place).map(|data| data.len()).ok();
                if length != Some(*from) {
                    notes.push(format!("{}: not as the fix-up left it, left alone", change.path));
                    continue;
                }
                if !dry_run {
                    let file = OpenOptions::new().write(true).open(&place).map_err(told)?;
                    file.set_len(*bytes).map_err(told)?;
                }
            }
            Undo::Restore | Undo::Remove { .. } => {
                let now = link.or_else(|| whole_text(&place));
                if now.as_ref() != Some(&change.after) {
                    notes.push(format!("{}: not as the fix-up left it, left alone", change.path));
                    continue;
                }
                match &change.before {
                    _ if dry_run => {}
                    Some(text) => fs::write(&place, text).map_err(told)?,
                    None => fs::remove_file(&place).map_err(told)?,
                }
                if let (Undo::Remove { folders }, false) = (&change.undo, dry_run) {
                    remove_empty(root, folders);
                }
            }
        }
        done.push(Change {
            path: change.path.clone(),
            before: Some(change.after.clone()),
            after: change.before.clone().unwrap_or_default(),
            why: format!("taken back: {}", change.why),
            undo: Undo::Restore,
        });
    }
    rustix::fs::sync();
    Ok((done, notes))
}

#[cfg(test)]
mod tests {
    use super::{Plan, undo};
    use std::fs;

    #[test]
    fn a_plan_changes_nothing_until_it_is_applied_and_undo_restores_every_byte() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("etc")).unwrap();
        fs::write(dir.path().join("etc/fstab"), "old\n").unwrap();
        fs::write(dir.path().join("initrd"), "1234567").unwrap();
        let mut plan = Plan::new(dir.path());
        plan.set("/etc/fstab", "new\n".into(), "because");
        plan.set(
            "/etc/fstab",
            plan.text("/etc/fstab").unwrap() + "newer\n",
            "and because",
        );
        plan.set("/etc/a/new.conf", "x\n".into(), "new");
        plan.link("/etc/b/unit", "/dev/null", "masked");
        plan.append("/initrd", 7, b"89".to_vec(), ("seven".into(), "nine".into()), "grown");
        assert_eq!(fs::read_to_string(dir.path().join("etc/fstab")).unwrap(), "old\n");
        plan.apply().unwrap();
        assert_eq!(
            fs::read_to_string(dir.path().join("etc/fstab")).unwrap(),
            "new\nnewer\n"
        );
        assert_eq!(fs::read_to_string(dir.path().join("initrd")).unwrap(), "123456789");
        let changes = plan.changes();
        assert_eq!((changes.len(), changes[0].why.as_str()), (4, "because; and because"));
        let (done, notes) = undo(dir.path(), &changes, false).unwrap();
        assert_eq!((done.len(), notes.len()), (4, 0));
        assert_eq!(fs::read_to_string(dir.path().join("etc/fstab")).unwrap(), "old\n");
        assert_eq!(fs::read_to_string(dir.path().join("initrd")).unwrap(), "1234567");
        assert!(!dir.path().join("etc/a").exists(), "the folder was made for the file");
        assert!(!dir.path().join("etc/b").exists());
    }

    #[test]
    fn undo_keeps_a_folder_in_which_something_else_lies_by_now() {
        let dir = tempfile::tempdir().unwrap();
        let mut plan = Plan::new(dir.path());
        plan.set("/etc/a/b/new.conf", "x\n".into(), "new");
        plan.apply().unwrap();
        fs::write(dir.path().join("etc/a/owners.conf"), "").unwrap();
        undo(dir.path(), &plan.changes(), false).unwrap();
        assert!(dir.path().join("etc/a/owners.conf").exists() && !dir.path().join("etc/a/b").exists());
    }

    #[test]
    fn where_selinux_is_on_and_no_label_could_be_given_the_next_boot_relabels() {
        let dir = tempfile::tempdir().unwrap();
        let config = dir.path().join("etc/selinux/config");
        fs::create_dir_all(config.parent().unwrap()).unwrap();
        for (mode, flagged) in [("enforcing", true), ("permissive", true), ("disabled", false)] {
            fs::write(&config, format!("# SELINUX=x\nSELINUX={mode}\n")).unwrap();
            let mut plan = Plan::new(dir.path());
            plan.set("/etc/a/new.conf", "x\n".into(), "new");
            plan.apply().unwrap();
            let told = plan.changes().iter().any(|change| change.path == "/.autorelabel");
            assert_eq!(
                (told, dir.path().join(".autorelabel").exists()),
                (flagged, flagged),
                "{mode}"
            );
            undo(dir.path(), &plan.changes(), false).unwrap();
            assert!(!dir.path().join(".autorelabel").exists() && !dir.path().join("etc/a").exists());
        }
    }

    #[test]
    fn undo_leaves_alone_what_somebody_changed_since() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("fstab"), "old\n").unwrap();
        let mut plan = Plan::new(dir.path());
        plan.set("/fstab", "new\n".into(), "because");
        plan.apply().unwrap();
        fs::write(dir.path().join("fstab"), "edited by the owner\n").unwrap();
        let (done, notes) = undo(dir.path(), &plan.changes(), false).unwrap();
        assert_eq!((done.len(), notes.len()), (0, 1));
        assert_eq!(
            fs::read_to_string(dir.path().join("fstab")).unwrap(),
            "edited by the owner\n"
        );
    }

    #[test]
    fn a_text_that_is_no_utf8_is_never_rewritten() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("conf"), b"\xff\xfe").unwrap();
        let mut plan = Plan::new(dir.path());
        plan.set("/conf", "x".into(), "because");
        assert!(plan.changes().is_empty() && plan.notes().len() == 1);
    }
}
