//! Making a converted guest ready for KVM, by the appliance: the host's kernel never mounts the guest's file systems.
//!
//! Everything is done on overlays, in one visit of the appliance. Only what is whole gets into the real disks ([`commit`]), and that can be
//! repeated: a stop at any moment leaves the disks as they were, or with an overlay that makes them so.

use crate::appliance::Appliance;
use crate::engine::{self, Choice, DiskFormat};
use crate::qemu::{self, overlay};
use crate::{Result, RunnerError};
use agent::protocol::{DiskSlot, FixupWish, NicName};
use convert::machine::Machine;
use reports::schema::DeepFacts;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::time::Duration;

pub use agent::protocol::{Change, NO_ROOT, Undo};

/// The appliance must answer within this, on a slow host under emulation too.
const DEADLINE: Duration = Duration::from_secs(120);

/// What to fix up.
#[derive(Debug, Clone)]
pub struct FixupRequest {
    /// The machine as it was at the source.
    pub machine: Machine,
    /// Its converted disks.
    pub disks: Vec<(PathBuf, DiskFormat)>,
    /// Names of these disks in the machine (`scsi0:1`), in the same order.
    pub names: Vec<String>,
    /// Run folder, for overlays.
    pub out: PathBuf,
    /// Engine and accelerator.
    pub choice: Choice,
    /// Adds a serial console to the kernels' command lines.
    pub serial_console: bool,
    /// An initramfs that nothing can be put behind may be made anew by the guest's own tool, in the appliance.
    pub guest_tools: bool,
    /// Opens LUKS volumes: a passphrase, or the bytes of a key file.
    pub key: Option<Vec<u8>>,
    /// Only say what would be changed.
    pub dry_run: bool,
}

/// What was changed, or would be.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct FixupOutcome {
    /// The changes. None: the guest is ready already.
    pub changes: Vec<Change>,
    /// What was looked at and left alone, in words.
    pub notes: Vec<String>,
    /// Nothing was written.
    pub dry_run: bool,
    /// Changes were taken back, not made.
    #[serde(default)]
    pub undone: bool,
    /// Volume of the root that was worked in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<String>,
}

/// A fix-up that is done on overlays. Dropped, it leaves no trace.
#[derive(Debug)]
pub struct Staged {
    /// What was done.
    pub outcome: FixupOutcome,
    /// What was inside the disks before; absent where only changes were taken back.
    pub deep: Option<DeepFacts>,
    overlays: Vec<PathBuf>,
    scratch: Scratch,
}

impl Staged {
    pub(crate) fn new(
        outcome: FixupOutcome,
        deep: Option<DeepFacts>,
        overlays: Vec<PathBuf>,
        scratch: Scratch,
    ) -> Self {
        Self {
            outcome,
            deep,
            overlays,
            scratch,
        }
    }

    /// Moves the overlays to `folder`, which is made anew, and makes sure that they survive a power cut. Returns them in the order of the
    /// disks, for [`commit`].
    ///
    /// # Errors
    /// The folder can't be written.
    pub fn keep(self, folder: &Path) -> Result<Vec<PathBuf>> {
        let told = |error| RunnerError::io("writing", folder, error);
        if folder.exists() {
            std::fs::remove_dir_all(folder).map_err(told)?;
        }
        std::fs::create_dir(folder).map_err(told)?;
        let mut kept = Vec::new();
        for (index, overlay) in self.overlays.iter().enumerate() {
            let path = folder.join(format!("disk-{index}.qcow2"));
            std::fs::rename(overlay, &path).map_err(told)?;
            sync(&path)?;
            kept.push(path);
        }
        sync(folder)?;
        drop(self.scratch);
        Ok(kept)
    }
}

fn sync(path: &Path) -> Result<()> {
    std::fs::File::open(path)
        .and_then(|file| file.sync_all())
        .map_err(|error| RunnerError::io("syncing", path, error))
}

/// Writes kept overlays into the disks. It may be repeated, as often as it was interrupted: the same bytes go to the same places.
///
/// # Errors
/// `qemu-img` is missing or refuses; a file is not there; stopped.
pub fn commit(disks: &[(PathBuf, DiskFormat)], overlays: &[PathBuf]) -> Result<()> {
    for ((disk, format), overlay) in disks.iter().zip(overlays) {
        qemu::commit(overlay, disk, *format)?;
        sync(disk)?;
    }
    Ok(())
}

/// Fixes the guest up on overlays. The disks themselves are only read.
///
/// # Errors
/// The appliance can't be had or doesn't answer; no Linux root is on the disks; stopped.
pub fn fixup(request: &FixupRequest, cancel: &AtomicBool) -> Result<Staged> {
    let wish = FixupWish {
        nics: source_names(&request.machine),
        disks: slots(request),
        serial_console: request.serial_console,
        guest_tools: request.guest_tools,
        dry_run: request.dry_run,
    };
    let (mut staged, value) = visit(request, cancel, &mut |appliance| appliance.fixup(wish.clone(), cancel))?;
    staged.deep = Some(typed(&value["deep"], "its facts about the guest")?);
    Ok(staged)
}

/// Takes `changes` back on overlays, the last one first. What was changed by somebody else since stays, and is said in the notes.
/// `device`: the volume that they were made on, where it is known.
///
/// # Errors
/// As [`fixup`].
pub fn undo(request: &FixupRequest, changes: &[Change], device: Option<&str>, cancel: &AtomicBool) -> Result<Staged> {
    // The overlays make it a rehearsal: changes to one file build on one another, so only what is really taken back shows what can be.
    let (mut staged, _) = visit(request, cancel, &mut |appliance| {
        appliance.undo(changes.to_vec(), device.map(str::to_owned), false, cancel)
    })?;
    staged.outcome.undone = true;
    staged.outcome.dry_run = request.dry_run;
    Ok(staged)
}

/// Looks into the guest; nothing is written.
///
/// # Errors
/// The appliance can't be had or doesn't answer; stopped.
pub fn inspect(request: &FixupRequest, cancel: &AtomicBool) -> Result<DeepFacts> {
    let (overlays, scratch) = stage(request)?;
    look(request, &overlays, scratch.path(), cancel)
}

/// Looks into overlays.
pub(crate) fn look(
    request: &FixupRequest,
    overlays: &[PathBuf],
    scratch: &Path,
    cancel: &AtomicBool,
) -> Result<DeepFacts> {
    let (value, refused) = in_appliance(request, overlays, scratch, cancel, &mut |appliance| {
        appliance.inspect(cancel)
    })?;
    let mut facts: DeepFacts = typed(&value["deep"], "its facts about the guest")?;
    facts.notes.extend(refused);
    Ok(facts)
}

fn typed<T: serde::de::DeserializeOwned>(value: &serde_json::Value, what: &str) -> Result<T> {
    T::deserialize(value).map_err(|error| RunnerError::Agent(format!("{what}: {error}")))
}

/// Folder of overlays in a run folder. A process that is killed can't remove it: the next one does, which knows by the lock on it that
/// nobody works there any more.
#[derive(Debug)]
pub(crate) struct Scratch {
    folder: tempfile::TempDir,
    /// Locked as long as it is open.
    _lock: std::fs::File,
}

/// How such a folder's name begins.
const SCRATCH: &str = ".fixup-";

impl Scratch {
    fn new(out: &Path) -> std::io::Result<Self> {
        remove_abandoned(out)?;
        let folder = tempfile::Builder::new().prefix(SCRATCH).tempdir_in(out)?;
        let lock = std::fs::File::open(folder.path())?;
        lock.lock()?;
        Ok(Self { folder, _lock: lock })
    }

    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }
}

/// Removes what killed processes left. An empty folder may be one that is about to be locked.
fn remove_abandoned(out: &Path) -> std::io::Result<()> {
    for entry in std::fs::read_dir(out)?.flatten() {
        let path = entry.path();
        let ours = entry.file_name().to_string_lossy().starts_with(SCRATCH) && entry.file_type()?.is_dir();
        if ours
            && std::fs::read_dir(&path).is_ok_and(|mut inside| inside.next().is_some())
            && std::fs::File::open(&path).is_ok_and(|folder| folder.try_lock().is_ok())
        {
            std::fs::remove_dir_all(&path)?;
        }
    }
    Ok(())
}

/// Overlays on the disks, and the folder that they are in.
pub(crate) fn stage(request: &FixupRequest) -> Result<(Vec<PathBuf>, Scratch)> {
    let scratch =
        Scratch::new(&request.out).map_err(|error| RunnerError::io("preparing overlays in", &request.out, error))?;
    let disks = request.disks.iter().enumerate();
    let overlays: Result<_> = disks
        .map(|(index, (disk, format))| overlay(disk, *format, scratch.path(), &format!("disk-{index}")))
        .collect();
    Ok((overlays?, scratch))
}

fn visit(
    request: &FixupRequest,
    cancel: &AtomicBool,
    ask: &mut dyn FnMut(&mut Appliance) -> Result<serde_json::Value>,
) -> Result<(Staged, serde_json::Value)> {
    let (overlays, scratch) = stage(request)?;
    let (value, refused) = in_appliance(request, &overlays, scratch.path(), cancel, ask)?;
    let mut outcome: FixupOutcome = typed(&value, "its list of changes")?;
    outcome.notes.extend(refused);
    Ok((Staged::new(outcome, None, overlays, scratch), value))
}

/// Starts the appliance on overlays, opens what the key fits, asks, and stops it in order, so that everything is in the overlays. After an
/// error it is only ended: its overlays are thrown away.
fn in_appliance(
    request: &FixupRequest,
    overlays: &[PathBuf],
    scratch: &Path,
    cancel: &AtomicBool,
    ask: &mut dyn FnMut(&mut Appliance) -> Result<serde_json::Value>,
) -> Result<(serde_json::Value, Vec<String>)> {
    let disks: Vec<_> = overlays.iter().map(|path| (path.clone(), DiskFormat::Qcow2)).collect();
    let choice = engine::fitting(&request.choice, &disks);
    let engine = engine::engine(choice.engine);
    let mut appliance = Appliance::start(&*engine, choice.accelerator, &disks, scratch, DEADLINE, cancel)?;
    let refused = match request.key.as_deref() {
        Some(key) => appliance.unlock(key, cancel)?,
        None => Vec::new(),
    };
    let value = ask(&mut appliance)?;
    // An overlay whose appliance was stopped while it wrote back is not whole: from here on the user's wish to stop waits.
    appliance.stop(&AtomicBool::new(false))?;
    Ok((value, refused))
}

/// The names that Linux gave the NICs on VMware: `ens<slot>`, for slots that belong to one NIC; `eth<n>` before there were such names.
fn source_names(machine: &Machine) -> Vec<NicName> {
    let mut by_slot: Vec<_> = machine.nics.iter().filter(|nic| nic.pci_slot.is_some()).collect();
    // A slot number holds the bridge, and above 1024 its function; the kernel counts bridge by bridge.
    by_slot.sort_by_key(|nic| nic.pci_slot.map(|slot| (slot % 1024, slot / 1024)));
    let all_known = by_slot.len() == machine.nics.len();
    by_slot
        .into_iter()
        .enumerate()
        .filter_map(|(place, nic)| {
            let slot = nic.pci_slot?;
            Some(NicName {
                name: format!("ens{slot}"),
                mac: nic.mac.as_ref()?.to_ascii_lowercase(),
                kernel_name: all_known.then(|| format!("eth{place}")),
            })
        })
        .collect()
}

/// Where the converted disks were at the source; empty where one of them is not told.
fn slots(request: &FixupRequest) -> Vec<DiskSlot> {
    let found = request.names.iter().map(|name| {
        let disk = request.machine.disks.iter().find(|disk| disk.name() == *name)?;
        Some(DiskSlot {
            bus: disk.bus.prefix().to_owned(),
            controller: disk.controller,
            unit: disk.unit,
        })
    });
    found.collect::<Option<_>>().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::{SCRATCH, Scratch, Staged, commit};
    use crate::engine::DiskFormat;
    use crate::qemu::overlay;
    use std::path::Path;
    use std::process::Command;

    fn qemu_io(image: &Path, format: &str, command: &str) -> bool {
        let output = Command::new("qemu-io")
            .args(["-f", format, "-c", command])
            .arg(image)
            .output();
        output
            .is_ok_and(|output| output.status.success() && !String::from_utf8_lossy(&output.stdout).contains("failed"))
    }

    #[test]
    fn what_a_killed_process_left_is_removed_and_what_another_works_in_is_not() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let at_work = Scratch::new(dir.path()).expect("a folder");
        std::fs::write(at_work.path().join("disk-0.qcow2"), "").expect("a file");
        let abandoned = dir.path().join(format!("{SCRATCH}old"));
        std::fs::create_dir(&abandoned).expect("a folder");
        std::fs::write(abandoned.join("disk-0.qcow2"), "").expect("a file");
        drop(Scratch::new(dir.path()).expect("a folder"));
        assert!(at_work.path().join("disk-0.qcow2").exists() && !abandoned.exists());
        drop(at_work);
        assert_eq!(std::fs::read_dir(dir.path()).expect("the folder").count(), 0);
    }

    #[test]
    fn what_is_staged_gets_into_the_disks_when_it_is_committed_and_again_when_that_is_repeated() {
        let dir = tempfile::tempdir().expect("temporary folder");
        for (format, name) in [(DiskFormat::Qcow2, "qcow2"), (DiskFormat::Raw, "raw")] {
            let disk = dir.path().join(format!("disk.{name}"));
            let made = Command::new("qemu-img")
                .args(["create", "-q", "-f", name])
                .arg(&disk)
                .arg("16M")
                .status();
            if !made.is_ok_and(|status| status.success()) || !qemu_io(&disk, name, "write -P 1 0 128k") {
                println!("SKIP: qemu-img or qemu-io (qemu-utils) is not installed");
                return;
            }
            let scratch = Scratch::new(dir.path()).expect("temporary folder");
            let over = overlay(&disk, format, scratch.path(), "disk-0").expect("an overlay");
            assert!(qemu_io(&over, "qcow2", "write -P 7 64k 4k"));
            let before = std::fs::read(&disk).expect("the disk");
            let staged = Staged::new(super::FixupOutcome::default(), None, vec![over], scratch);
            let kept = staged.keep(&dir.path().join("kept")).expect("kept");
            assert!(
                std::fs::read(&disk).expect("the disk") == before,
                "nothing is written before the commit"
            );
            let disks = [(disk.clone(), format)];
            for _ in 0..2 {
                commit(&disks, &kept).expect("committed");
                assert!(qemu_io(&disk, name, "read -P 7 64k 4k") && qemu_io(&disk, name, "read -P 1 68k 60k"));
            }
            // An overlay names its disk by the path of that time: the disk that is meant is the one that is given.
            let moved = dir.path().join(format!("moved.{name}"));
            std::fs::rename(&disk, &moved).expect("renamed");
            commit(&[(moved, format)], &kept).expect("committed");
            assert!(!disk.exists());
        }
    }
}
