//! PID 1 of the appliance: the basic mounts, the modules, the guest's roots, then requests until power-off.

use crate::volumes::{self, Volume};
use crate::{channel, exec, modules, serve};
use esxodus_agent::protocol::{NicName, Role, Stream};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use serde_json::{Value, json};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// A guest root that was found and mounted.
struct Root {
    device: String,
    path: PathBuf,
}

/// State between requests.
#[derive(Default)]
pub(crate) struct Appliance {
    mounted: Vec<PathBuf>,
    roots: Vec<Root>,
    notes: Vec<String>,
    looked: bool,
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
        fs::create_dir_all(target)?;
        mount(kind, target, kind, MountFlags::NOSUID, None::<&std::ffi::CStr>)
            .map_err(|error| io::Error::other(format!("mounting {target}: {error}")))?;
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
    fn mount_roots(&mut self) -> Vec<Volume> {
        let volumes = volumes::list();
        if self.looked {
            return volumes;
        }
        settle();
        self.looked = true;
        let volumes = volumes::list();
        for volume in &volumes {
            let Some(kind @ ("ext4" | "xfs" | "btrfs")) = volume.content else {
                continue;
            };
            if let Err(error) = self.mount_one(volume, kind) {
                self.notes
                    .push(format!("{}: {kind} could not be mounted: {error}", volume.device));
            }
        }
        volumes
    }

    fn mount_one(&mut self, volume: &Volume, kind: &str) -> io::Result<()> {
        modules::load(kind)?;
        let target = Path::new("/mnt").join(&volume.device);
        fs::create_dir_all(&target)?;
        let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOATIME;
        mount(volume.path(), &target, kind, flags, None::<&std::ffi::CStr>)?;
        self.mounted.push(target.clone());
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

    /// What is on the disks.
    pub(crate) fn inspect(&mut self) -> Value {
        let volumes = self.mount_roots();
        let mut notes = self.notes.clone();
        for volume in &volumes {
            if let Some(content @ ("lvm2" | "luks" | "bitlocker" | "ntfs")) = volume.content {
                notes.push(format!("{}: {content} is recognised and not opened", volume.device));
            }
        }
        let roots: Vec<Value> = self
            .roots
            .iter()
            .map(|root| match in_root(&root.path, "inspect", None) {
                Ok(mut value) => {
                    value["device"] = json!(root.device);
                    value
                }
                Err(error) => json!({"device": root.device, "error": error.to_string()}),
            })
            .collect();
        json!({"volumes": volumes, "roots": roots, "notes": notes, "uptime": serve::uptime()})
    }

    /// The root that the guest boots from, as far as can be told: the first one found.
    fn first_root(&mut self) -> io::Result<&Root> {
        self.mount_roots();
        let notes = if self.notes.is_empty() {
            String::new()
        } else {
            format!(" ({})", self.notes.join("; "))
        };
        self.roots.first().ok_or_else(|| {
            io::Error::new(
                io::ErrorKind::NotFound,
                format!("no Linux root file system was found on the disks{notes}"),
            )
        })
    }

    /// Puts the agent into the first root.
    pub(crate) fn inject(&mut self) -> io::Result<Value> {
        let root = self.first_root()?;
        let mut value = in_root(&root.path, "inject", None)?;
        value["device"] = json!(root.device);
        Ok(value)
    }

    /// Makes the first root ready for KVM.
    pub(crate) fn fixup(&mut self, nics: &[NicName], dry_run: bool) -> io::Result<Value> {
        let root = self.first_root()?;
        let wish = json!({"nics": nics, "dry_run": dry_run}).to_string();
        let mut value = in_root(&root.path, "fixup", Some(wish))?;
        value["device"] = json!(root.device);
        Ok(value)
    }

    /// Writes everything back.
    pub(crate) fn unmount(&mut self) {
        for path in self.mounted.drain(..).rev() {
            let _ = unmount(&path, UnmountFlags::empty());
        }
        self.roots.clear();
        self.looked = false;
    }
}

fn looks_like_root(path: &Path) -> bool {
    let here = |name: &str| fs::symlink_metadata(path.join(name)).is_ok();
    here("etc") && (here("etc/os-release") || here("usr/lib/os-release") || here("etc/passwd") || here("sbin/init"))
}

fn in_root(root: &Path, action: &str, wish: Option<String>) -> io::Result<Value> {
    let mut argv = ["/proc/self/exe", "in-root", &root.to_string_lossy(), action]
        .map(str::to_owned)
        .to_vec();
    argv.extend(wish);
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let ended = exec::run(&argv, Duration::from_secs(60), 3 << 20, &mut |stream, bytes| {
        if stream == Stream::Out {
            out.extend_from_slice(bytes);
        } else {
            err.extend_from_slice(bytes);
        }
        Ok(())
    })?;
    if ended.code != Some(0) {
        return Err(io::Error::other(String::from_utf8_lossy(&err).trim().to_owned()));
    }
    serde_json::from_slice(&out).map_err(io::Error::other)
}
