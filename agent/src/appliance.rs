//! PID 1 of the appliance: the basic mounts, the modules, the guest's roots, then requests until power-off.

use crate::fixup::{Task, VolumeId};
use crate::volumes::{self, Volume};
use crate::{channel, exec, fstab, luks, lvm, modules, roots, serve, windows};
use esxodus_agent::protocol::{Change, FixupWish, GUEST_TOOLS_TIME, NO_ROOT, Role, Stream};
use reports::schema::{DeepFacts, SystemFacts, SystemKind, VolumeFacts};
use rustix::mount::{MountFlags, UnmountFlags, mount, mount_remount, unmount};
use serde_json::{Value, json};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

const TASK: &str = "/run/task.json";
/// Below the longest head of a frame.
const MAX_ANSWER: u64 = 3 << 20;

/// A guest root that was found and mounted.
struct Root {
    device: String,
    path: PathBuf,
}

/// What is mounted where.
struct Mounted {
    node: String,
    path: PathBuf,
    /// Where the guest's fstab mounts it, for what lies below a root.
    at: Option<String>,
}

/// State between requests.
#[derive(Default)]
pub(crate) struct Appliance {
    mounted: Vec<Mounted>,
    roots: Vec<Root>,
    notes: Vec<String>,
    looked: bool,
    /// Which root was chosen of several, and in which words.
    chosen: Option<(usize, String)>,
}

/// Runs as PID 1; never returns on a healthy line.
pub(crate) fn main() -> ExitCode {
    match start() {
        Ok(()) => {}
        Err(error) => eprintln!("esxodus-appliance: {error}"),
    }
    rustix::fs::sync();
    let _ = rustix::system::reboot(rustix::system::RebootCommand::PowerOff);
    ExitCode::from(2)
}

fn start() -> io::Result<()> {
    for (kind, target) in [
        ("proc", "/proc"),
        ("sysfs", "/sys"),
        ("devtmpfs", "/dev"),
        ("tmpfs", "/run"),
    ] {
        fstab::mount_new(kind, target)?;
    }
    eprintln!(
        "esxodus-appliance: agent {} up after {:.2} s",
        env!("CARGO_PKG_VERSION"),
        serve::uptime()
    );
    modules::load("base")?;
    eprintln!("esxodus-appliance: modules loaded after {:.2} s", serve::uptime());
    let line = channel::open(Duration::from_secs(3))?;
    serve::serve(&line, Role::Appliance, &mut Some(Appliance::default()))
}

/// Disks are probed asynchronously: wait until as many are there as the host attached.
fn settle() {
    let expected = fs::read_to_string("/proc/cmdline")
        .ok()
        .and_then(|line| {
            line.split_whitespace()
                .find_map(|word| word.strip_prefix("esxodus.disks=")?.parse::<usize>().ok())
        })
        .unwrap_or(0);
    let until = Instant::now() + Duration::from_secs(5);
    while volumes::list()
        .iter()
        .filter(|volume| volume.partition.is_none())
        .count()
        < expected
        && Instant::now() < until
    {
        std::thread::sleep(Duration::from_millis(20));
    }
}

impl Appliance {
    /// Opens logical volumes, mounts what can be mounted, finds roots and mounts what their fstab puts below `/boot` and `/usr`.
    fn mount_roots(&mut self) -> Vec<Volume> {
        if self.looked {
            return volumes::list();
        }
        settle();
        (self.looked, self.chosen) = (true, None);
        if volumes::list().iter().any(|volume| volume.content == Some("lvm2"))
            && let Err(error) = lvm::activate()
        {
            self.notes.push(format!("logical volumes could not be opened: {error}"));
        }
        let volumes = volumes::list();
        for volume in &volumes {
            let Some(kind @ ("ext4" | "xfs" | "btrfs" | "vfat")) = volume.content else {
                continue;
            };
            if self.mounted.iter().any(|mounted| mounted.node == volume.node) {
                continue;
            }
            if let Err(error) = self.mount_one(volume, kind) {
                self.notes
                    .push(format!("{}: {kind} could not be mounted: {error}", volume.device));
            }
        }
        for index in 0..self.roots.len() {
            let root = self.roots[index].path.clone();
            self.mount_below(&root, &volumes);
        }
        volumes
    }

    fn mount_one(&mut self, volume: &Volume, kind: &str) -> io::Result<()> {
        modules::load(kind)?;
        let target = Path::new("/mnt").join(&volume.node);
        fs::create_dir_all(&target)?;
        mount(
            volume.path(),
            &target,
            kind,
            fstab::FLAGS | MountFlags::RDONLY,
            None::<&std::ffi::CStr>,
        )?;
        self.mounted.push(Mounted {
            node: volume.node.clone(),
            path: target.clone(),
            at: None,
        });
        // btrfs distributions keep the root in a subvolume; seen from the top it is a folder.
        let candidates = ["", "@", "@rootfs", "root", "@/.snapshots/1/snapshot"];
        let found = candidates
            .iter()
            .map(|name| target.join(name))
            .find(|path| looks_like_root(path));
        if let Some(path) = found {
            self.roots.push(Root {
                device: volume.device.clone(),
                path,
            });
        }
        Ok(())
    }

    /// Separate `/boot`, `/boot/efi` and `/usr` by the guest's own fstab.
    fn mount_below(&mut self, root: &Path, volumes: &[Volume]) {
        let Some(table) = fstab::of_root(root) else { return };
        let mut wanted: Vec<_> = table
            .into_iter()
            .filter(|line| ["/boot", "/boot/efi", "/efi", "/usr"].contains(&line.file.as_str()))
            .collect();
        wanted.sort_by_key(|line| line.file.len());
        for line in wanted {
            let Some(volume) = fstab::volume_of(&line.spec, volumes) else {
                self.notes.push(format!(
                    "{}: fstab mounts {} there, which was not found",
                    line.file, line.spec
                ));
                continue;
            };
            let Some(kind @ ("ext4" | "xfs" | "btrfs" | "vfat")) = volume.content else {
                continue;
            };
            match modules::load(kind).and_then(|()| fstab::mount_inside(root, &line, volume, kind)) {
                Ok(path) => self.mounted.push(Mounted {
                    node: volume.node.clone(),
                    path,
                    at: Some(line.file),
                }),
                Err(error) => self.notes.push(format!(
                    "{} could not be mounted at {}: {error}",
                    volume.device, line.file
                )),
            }
        }
    }

    /// Makes the file systems of one root writable. Those of other systems and of data are only looked at.
    fn open_for_writing(&self, index: usize) -> io::Result<()> {
        let root = &self.roots[index];
        let own = |mounted: &&Mounted| {
            mounted.path.starts_with(&root.path) || mounted.at.is_none() && root.path.starts_with(&mounted.path)
        };
        for mounted in self.mounted.iter().filter(own) {
            mount_remount(&mounted.path, fstab::FLAGS, "").map_err(|error| {
                io::Error::new(
                    error.kind(),
                    format!("the file system on {} can only be read: {error}", mounted.node),
                )
            })?;
        }
        Ok(())
    }

    /// What is on the disks.
    pub(crate) fn inspect(&mut self) -> Value {
        let volumes = self.mount_roots();
        let (roots, deep) = self.look(&volumes, None);
        json!({"volumes": volumes, "roots": roots, "notes": deep.notes, "uptime": serve::uptime(), "deep": deep})
    }

    /// The roots as each tells of itself, and the same and more as typed facts. `known`: a root that was looked at already, by index.
    fn look(&self, volumes: &[Volume], known: Option<(usize, SystemFacts)>) -> (Vec<Value>, DeepFacts) {
        let mut notes = self.notes.clone();
        for volume in volumes {
            if let Some(content @ ("luks" | "bitlocker")) = volume.content
                && !volumes
                    .iter()
                    .any(|other| other.device == format!("luks-{}", volume.device))
            {
                notes.push(format!("{}: {content} is recognised and not opened", volume.device));
            }
        }
        let mut systems = Vec::new();
        let mut roots = Vec::new();
        for (index, root) in self.roots.iter().enumerate() {
            let own = |facts: SystemFacts| SystemFacts {
                device: root.device.clone(),
                ..facts
            };
            if let Some((_, facts)) = known.as_ref().filter(|(known, _)| *known == index) {
                systems.push(own(facts.clone()));
                continue;
            }
            match in_root(&root.path, "inspect", &Value::Null) {
                Ok(mut value) => {
                    value["device"] = json!(root.device);
                    if let Ok(facts) = serde_json::from_value::<SystemFacts>(value["facts"].take()) {
                        systems.push(own(facts));
                    }
                    roots.push(value);
                }
                Err(error) => roots.push(json!({"device": root.device, "error": error.to_string()})),
            }
        }
        let mut facts: Vec<VolumeFacts> = volumes.iter().map(|volume| self.facts(volume)).collect();
        for (volume, facts) in volumes
            .iter()
            .zip(&mut facts)
            .filter(|(volume, _)| volume.content == Some("ntfs"))
        {
            match windows::look(&volume.path()) {
                Ok(found) => {
                    facts.state = found.state.map(str::to_owned);
                    systems.extend(found.system.map(|system| SystemFacts {
                        device: volume.device.clone(),
                        ..system
                    }));
                }
                Err(error) => notes.push(format!("{}: NTFS could not be read: {error}", volume.device)),
            }
        }
        if let Some(swap) = hibernated(volumes) {
            for system in systems.iter_mut().filter(|system| system.kind == SystemKind::Linux) {
                system.hibernation = Some(format!("a memory image waits in the swap on {swap}"));
            }
        }
        let deep = DeepFacts {
            volumes: facts,
            systems,
            notes,
        };
        (roots, deep)
    }

    fn facts(&self, volume: &Volume) -> VolumeFacts {
        let mounts: Vec<&Mounted> = self
            .mounted
            .iter()
            .filter(|mounted| mounted.node == volume.node)
            .collect();
        let space = mounts
            .first()
            .and_then(|mounted| rustix::fs::statvfs(&mounted.path).ok());
        VolumeFacts {
            device: volume.device.clone(),
            disk: volume.disk,
            partition: volume.partition,
            bytes: volume.bytes,
            content: volume.content.map(str::to_owned),
            uuid: volume.uuid.clone(),
            free_bytes: space
                .as_ref()
                .map(|space| space.f_bavail.saturating_mul(space.f_frsize)),
            mounted_at: mounts.iter().find_map(|mounted| mounted.at.clone()).or_else(|| {
                let root = self.roots.iter().find(|root| root.device == volume.device);
                root.map(|_| "/".to_owned())
            }),
            state: volume.state.map(str::to_owned),
            free_inodes: space.filter(|space| space.f_files > 0).map(|space| space.f_favail),
            errors: volume.errors.map(str::to_owned),
            dynamic_disk: volume.dynamic_disk,
            fallback_loader: mounts
                .first()
                .filter(|_| volume.content == Some("vfat"))
                .and_then(|mounted| fallback_loader(&mounted.path)),
        }
    }

    /// Index of the root that the guest boots from, as far as can be told, and which others there are.
    fn chosen_root(&mut self) -> io::Result<(usize, Option<String>, Vec<Volume>)> {
        let volumes = self.mount_roots();
        if self.roots.is_empty() {
            let notes = if self.notes.is_empty() {
                String::new()
            } else {
                format!(" ({})", self.notes.join("; "))
            };
            return Err(io::Error::new(io::ErrorKind::NotFound, format!("{NO_ROOT}{notes}")));
        }
        if self.roots.len() == 1 {
            return Ok((0, None, volumes));
        }
        if let Some((index, words)) = self.chosen.clone() {
            return Ok((index, Some(words), volumes));
        }
        let signs: Vec<roots::Signs> = self
            .roots
            .iter()
            .map(|root| {
                let told = in_root(&root.path, "signs", &Value::Null);
                let told = told.and_then(|value| serde_json::from_value(value).map_err(io::Error::other));
                told.unwrap_or_default()
            })
            .collect();
        let devices: Vec<&str> = self.roots.iter().map(|root| root.device.as_str()).collect();
        let (index, words) = roots::choose(&devices, &signs, &volumes);
        self.chosen = Some((index, words.clone()));
        Ok((index, Some(words), volumes))
    }

    /// Where the root that boots is mounted.
    pub(crate) fn root_path(&mut self) -> io::Result<PathBuf> {
        let (index, ..) = self.chosen_root()?;
        Ok(self.roots[index].path.clone())
    }

    /// Does `action` in a root; what was not opened or mounted is said beside what the action says.
    fn in_chosen_root(&self, (index, words): (usize, Option<String>), action: &str, task: &Value) -> io::Result<Value> {
        let root = &self.roots[index];
        let mut value = in_root(&root.path, action, task)?;
        value["device"] = json!(root.device);
        if let Some(notes) = value["notes"].as_array_mut() {
            notes.extend(self.notes.iter().chain(&words).map(|note| json!(note)));
        }
        Ok(value)
    }

    /// Puts the agent into the root that boots.
    pub(crate) fn inject(&mut self) -> io::Result<Value> {
        let (index, words, _) = self.chosen_root()?;
        self.open_for_writing(index)?;
        self.in_chosen_root((index, words), "inject", &Value::Null)
    }

    /// Makes the root that boots ready for KVM. The answer has the facts of before beside the changes: looking twice takes twice as long.
    pub(crate) fn fixup(&mut self, wish: &FixupWish) -> io::Result<Value> {
        let (index, words, volumes) = self.chosen_root()?;
        if let Some(swap) = hibernated(&volumes) {
            // Its memory has file systems open: what is written now is lost or worse when it wakes up.
            return Err(io::Error::other(format!(
                "the guest is hibernated (a memory image waits in the swap on {swap}): start it at the source, shut it down, and convert it again"
            )));
        }
        let device = self.roots[index].device.clone();
        let ids = volumes.iter().map(|volume| VolumeId {
            disk: volume.disk,
            partition: volume.partition,
            content: volume.content.map(str::to_owned),
            uuid: volume.uuid.clone(),
            is_root: volume.device == device,
        });
        let task = json!(Task {
            wish: wish.clone(),
            volumes: ids.collect(),
        });
        if !wish.dry_run {
            self.open_for_writing(index)?;
        }
        let mut value = self.in_chosen_root((index, words), "fixup", &task)?;
        let facts = serde_json::from_value(value["facts"].take()).map_err(io::Error::other)?;
        value["deep"] = json!(self.look(&volumes, Some((index, facts))).1);
        Ok(value)
    }

    /// Takes changes back, in the root on `device` where it is known.
    pub(crate) fn undo(&mut self, changes: &[Change], device: Option<&str>, dry_run: bool) -> io::Result<Value> {
        let (mut index, words, _) = self.chosen_root()?;
        if let Some(device) = device {
            index = self
                .roots
                .iter()
                .position(|root| root.device == device)
                .ok_or_else(|| {
                    io::Error::new(
                        io::ErrorKind::NotFound,
                        format!(
                            "the changes were made on {device}, where no root is found now: is a key (--key) missing?"
                        ),
                    )
                })?;
        }
        let words = words.filter(|_| device.is_none());
        if !dry_run {
            self.open_for_writing(index)?;
        }
        self.in_chosen_root((index, words), "undo", &json!((changes, dry_run)))
    }

    /// Opens encrypted volumes, and looks at everything again.
    pub(crate) fn unlock(&mut self, key: &[u8]) -> io::Result<Value> {
        settle();
        let (opened, refused) = luks::unlock(&volumes::list(), key)?;
        self.looked = false;
        Ok(json!({"opened": opened, "notes": refused}))
    }

    /// Writes everything back.
    pub(crate) fn unmount(&mut self) {
        for mounted in self.mounted.drain(..).rev() {
            let _ = unmount(&mounted.path, UnmountFlags::empty());
        }
        self.roots.clear();
        self.looked = false;
    }
}

/// Does the EFI system partition mounted at `path` have the loader that firmware starts where it has no boot entries (UEFI specification
/// 2.10, 3.5.1.1)? `None` where this is none. FAT has no links that could lead elsewhere, and no case.
fn fallback_loader(path: &Path) -> Option<bool> {
    path.join("EFI")
        .is_dir()
        .then(|| path.join("EFI/BOOT/BOOTX64.EFI").is_file())
}

/// The swap with a memory image that waits to be resumed.
fn hibernated(volumes: &[Volume]) -> Option<&str> {
    let swap = volumes.iter().find(|volume| volume.state == Some("hibernated"));
    swap.map(|volume| volume.device.as_str())
}

fn looks_like_root(path: &Path) -> bool {
    let here = |name: &str| fs::symlink_metadata(path.join(name)).is_ok();
    here("etc") && (here("etc/os-release") || here("usr/lib/os-release") || here("etc/passwd") || here("sbin/init"))
}

/// Runs `action` in a process that makes `root` its own root. The task goes through a file: it may hold whole files' texts.
fn in_root(root: &Path, action: &str, task: &Value) -> io::Result<Value> {
    fs::write(TASK, task.to_string())?;
    let argv = ["/proc/self/exe", "in-root", &root.to_string_lossy(), action, TASK].map(str::to_owned);
    let (mut out, mut err) = (Vec::new(), Vec::new());
    // A fix-up may wait for the guest's own tool.
    let more = if action == "fixup" {
        GUEST_TOOLS_TIME
    } else {
        Duration::ZERO
    };
    let ended = exec::run(
        &argv,
        Duration::from_secs(240) + more,
        MAX_ANSWER,
        &mut |stream, bytes| {
            if stream == Stream::Out {
                out.extend_from_slice(bytes);
            } else {
                err.extend_from_slice(bytes);
            }
            Ok(())
        },
    )?;
    if ended.timed_out {
        return Err(io::Error::new(
            io::ErrorKind::TimedOut,
            format!("{action} took too long"),
        ));
    }
    if ended.dropped > 0 {
        return Err(io::Error::other(format!(
            "{action} has more to say than {MAX_ANSWER} bytes"
        )));
    }
    if ended.code != Some(0) {
        return Err(io::Error::other(String::from_utf8_lossy(&err).trim().to_owned()));
    }
    serde_json::from_slice(&out).map_err(io::Error::other)
}
