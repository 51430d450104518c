//! An initramfs that nothing can be put behind (its packing is not read here, its maker loads a fixed list) is made anew by the guest's own
//! tool: the one place where a program of the guest runs. It runs in the appliance, a virtual machine without a network whose disks are
//! overlays, in the guest's root, with a deadline and without the capabilities that it has no use for. What it makes counts only where it
//! has the drivers; the image of before is kept beside it.

use super::kernels::{FOR_BLK, FOR_SCSI, Kernel, WANTED};
use super::plan::{Plan, checksum};
use super::selinux;
use super::virtio::SPARE;
use crate::{exec, fstab};
use esxodus_agent::protocol::{Change, GUEST_TOOLS_TIME, Undo};
use reports::schema::DriverPlace;
use rustix::mount::{UnmountFlags, unmount};
use rustix::thread::CapabilitySet;
use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, chown};
use std::path::Path;
use std::process::Command;
use std::time::Instant;

/// A program that makes initramfs images.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tool {
    InitramfsTools,
    Dracut,
    Mkinitcpio,
    /// SUSE's of SLES 11 and before.
    Mkinitrd,
    /// Red Hat's of RHEL 5 and before.
    Nash,
}

impl Tool {
    /// The tool that the guest has, and where. SUSE and Red Hat kept the name `mkinitrd` for a wrapper of dracut: dracut comes first.
    pub(super) fn find(plan: &Plan) -> Option<(Self, String)> {
        let place = |name: &str| {
            let folders = ["/usr/sbin", "/usr/bin", "/sbin", "/bin"];
            let mut places = folders.into_iter().map(|folder| format!("{folder}/{name}"));
            places.find(|path| plan.place(path).is_file())
        };
        let list = plan.text("/etc/sysconfig/kernel").unwrap_or_default();
        let old = if list.contains("INITRD_MODULES=") {
            Self::Mkinitrd
        } else {
            Self::Nash
        };
        let known = [
            (Self::InitramfsTools, "mkinitramfs"),
            (Self::Dracut, "dracut"),
            (Self::Mkinitcpio, "mkinitcpio"),
            (old, "mkinitrd"),
        ];
        known.into_iter().find_map(|(tool, name)| Some((tool, place(name)?)))
    }

    /// Arguments for an image at `new`. gzip is what every kernel since 2.6 unpacks and what can be looked into afterwards.
    fn arguments(self, plan: &Plan, kernel: &Kernel, new: &str) -> Result<Vec<String>, String> {
        let version = kernel.version.as_str();
        let drivers: Vec<&str> = WANTED
            .into_iter()
            .filter(|name| matches!(kernel.place(name), DriverPlace::Modules | DriverPlace::Initramfs))
            .collect();
        let words: Vec<String> = match self {
            Self::InitramfsTools => ["-c", "gzip", "-o", new, version].map(str::to_owned).to_vec(),
            Self::Dracut => [
                "--force",
                "--gzip",
                "--no-hostonly",
                "--add-drivers",
                &drivers.join(" "),
                new,
                version,
            ]
            .map(str::to_owned)
            .to_vec(),
            Self::Mkinitcpio => ["-k", version, "-g", new, "-z", "gzip", "-S", "autodetect"]
                .map(str::to_owned)
                .to_vec(),
            Self::Mkinitrd => {
                let names = ["vmlinuz", "vmlinux", "image"].map(|name| format!("/boot/{name}-{version}"));
                let image = names.into_iter().find(|path| plan.exists(path));
                let image = image.ok_or_else(|| format!("/boot has no kernel {version} to make it for"))?;
                vec!["-k".to_owned(), image, "-i".to_owned(), new.to_owned()]
            }
            Self::Nash => {
                let with = drivers.iter().map(|name| format!("--with={name}"));
                ["-f".to_owned()]
                    .into_iter()
                    .chain(with)
                    .chain([new.to_owned(), version.to_owned()])
                    .collect()
            }
        };
        Ok(words)
    }
}

/// An image that is to be made anew.
#[derive(Debug)]
pub(super) struct Rebuild {
    path: String,
    length: u64,
    version: String,
    argv: Vec<String>,
    /// Where the tool puts it.
    new: String,
    why: String,
}

impl Rebuild {
    /// How the image at a path, of some length, is made anew. `deaf`: why nothing can be put behind it.
    ///
    /// # Errors
    /// In words, to follow "and": there is no tool, no kernel, no driver, no room.
    pub(super) fn of(plan: &Plan, kernel: &Kernel, image: (&str, u64), deaf: &str) -> Result<Self, String> {
        let (path, length) = image;
        let has = |names: &[&str]| names.iter().all(|name| kernel.place(name) != DriverPlace::Missing);
        if !has(&FOR_BLK) && !has(&FOR_SCSI) {
            return Err(format!("kernel {} has no virtio drivers at all", kernel.version));
        }
        let (tool, program) = Tool::find(plan).ok_or("no tool that makes such images was found")?;
        if kernel.config.contains("# CONFIG_RD_GZIP is not set") {
            return Err("its kernel does not unpack gzip".to_owned());
        }
        let folder = path.rsplit_once('/').map_or("", |(folder, _)| folder);
        let new = format!("{folder}/esxodus-new.img");
        // What was there stays, and what comes may be packed less well.
        plan.room(path, length.saturating_mul(2) + SPARE)
            .map_err(|error| format!("there is no room for another ({error})"))?;
        let mut argv = vec![program];
        argv.extend(tool.arguments(plan, kernel, &new)?);
        Ok(Self {
            path: path.to_owned(),
            length,
            version: kernel.version.clone(),
            argv,
            new,
            why: format!(
                "kernel {} finds no virtio disk with it, and nothing can be put behind it: {deaf}",
                kernel.version
            ),
        })
    }

    fn change(&self, after: String, undo: Undo) -> Change {
        Change {
            path: self.path.clone(),
            before: Some(format!("{} bytes, without virtio drivers", self.length)),
            after,
            why: self.why.clone(),
            undo,
        }
    }

    /// The change as it is shown where nothing is done.
    pub(super) fn planned(&self) -> Change {
        let after = format!(
            "made anew in the appliance by the guest's own tool: {}",
            self.argv.join(" ")
        );
        self.change(after, Undo::Never)
    }

    /// Runs the tool by `run`, looks at what it made, and puts it in the image's place.
    fn make(&self, plan: &Plan, run: &mut dyn FnMut(&[String]) -> io::Result<()>) -> io::Result<Change> {
        let (image, new) = (plan.place(&self.path), plan.place(&self.new));
        let ended = run(&self.argv).and_then(|()| self.swap(plan, &image, &new));
        if ended.is_err() {
            let _ = fs::remove_file(&new);
        }
        ended
    }

    fn swap(&self, plan: &Plan, image: &Path, new: &Path) -> io::Result<Change> {
        let made = Kernel::of(plan, self.version.clone(), Some(self.new.clone()));
        if let Some(why) = &made.unreadable {
            return Err(io::Error::other(format!("what it made can't be read: {why}")));
        }
        if made.version != self.version {
            return Err(io::Error::other(format!("what it made is for kernel {}", made.version)));
        }
        if !made.boots(&FOR_BLK) && !made.boots(&FOR_SCSI) {
            return Err(io::Error::other("what it made has no virtio drivers either"));
        }
        let before = fs::metadata(image)?;
        fs::set_permissions(new, before.permissions())?;
        // FAT has no owners.
        let _ = chown(new, Some(before.uid()), Some(before.gid()));
        selinux::label_like_parent(new);
        let (bytes, crc32) = checksum(new)?;
        let kept = self.free_name(plan)?;
        fs::rename(image, plan.place(&kept))?;
        if let Err(error) = fs::rename(new, image) {
            fs::rename(plan.place(&kept), image)?;
            return Err(error);
        }
        let after = format!(
            "{bytes} bytes, made anew in the appliance by the guest's own tool ({}); the one of before is {kept}",
            self.argv.join(" ")
        );
        Ok(self.change(after, Undo::PutBack { kept, bytes, crc32 }))
    }

    /// A name for the image of before that no boot loader's generator takes for an image.
    fn free_name(&self, plan: &Plan) -> io::Result<String> {
        let (folder, name) = self.path.rsplit_once('/').unwrap_or(("", &self.path));
        let names = (1..10).map(|number| format!("{folder}/esxodus-before.{number}.{name}"));
        names
            .into_iter()
            .find(|path| !plan.exists(path))
            .ok_or_else(|| io::Error::other(format!("{folder} has nine images kept by earlier fix-ups")))
    }
}

/// What a tool needs beside the guest's files, in the guest's root as long as this lives.
struct Rooms(Vec<&'static str>);

impl Rooms {
    fn open() -> io::Result<Self> {
        let mut rooms = Self(Vec::new());
        for (kind, target) in [
            ("proc", "/proc"),
            ("sysfs", "/sys"),
            ("devtmpfs", "/dev"),
            ("tmpfs", "/run"),
            ("tmpfs", "/tmp"),
        ] {
            fstab::mount_new(kind, target)?;
            rooms.0.push(target);
        }
        Ok(rooms)
    }
}

impl Drop for Rooms {
    fn drop(&mut self) {
        for target in self.0.iter().rev() {
            let _ = unmount(*target, UnmountFlags::DETACH);
        }
    }
}

/// This process and all that it starts lose what a tool that writes an image has no use for: loading modules into the appliance's kernel,
/// stopping it, setting its clock, reading other processes and hardware.
fn give_up_capabilities() -> io::Result<()> {
    for capability in [
        CapabilitySet::SYS_MODULE,
        CapabilitySet::SYS_BOOT,
        CapabilitySet::SYS_TIME,
        CapabilitySet::SYS_PTRACE,
        CapabilitySet::SYS_RAWIO,
        CapabilitySet::NET_ADMIN,
        CapabilitySet::KILL,
    ] {
        rustix::thread::remove_capability_from_bounding_set(capability)?;
    }
    Ok(())
}

/// Runs a tool of the guest, which is the root of this process.
fn run(argv: &[String], until: Instant) -> io::Result<()> {
    let (program, arguments) = argv.split_first().ok_or(io::ErrorKind::InvalidInput)?;
    let mut command = Command::new(program);
    command
        .args(arguments)
        .env_clear()
        .envs([
            ("PATH", "/usr/sbin:/usr/bin:/sbin:/bin"),
            ("LC_ALL", "C"),
            ("HOME", "/root"),
            ("TMPDIR", "/var/tmp"),
        ])
        .current_dir("/");
    exec::must(&mut command, until.saturating_duration_since(Instant::now()), 3)
}

/// Makes all images anew, one after the other. What fails is noted, and leaves that image as it was.
pub(super) fn all(plan: &mut Plan, rebuilds: &[Rebuild]) -> Vec<Change> {
    if rebuilds.is_empty() {
        return Vec::new();
    }
    let until = Instant::now() + GUEST_TOOLS_TIME;
    let rooms = Rooms::open().and_then(|rooms| give_up_capabilities().map(|()| rooms));
    let mut changes = Vec::new();
    for rebuild in rebuilds {
        let made = match &rooms {
            Ok(_) => rebuild.make(plan, &mut |argv| run(argv, until)),
            Err(error) => Err(io::Error::new(error.kind(), error.to_string())),
        };
        match made {
            Ok(change) => changes.push(change),
            Err(error) => plan.note(format!(
                "{}: it could not be made anew by the guest's own tool ({error}): make it again in the guest, with virtio drivers",
                rebuild.path
            )),
        }
    }
    drop(rooms);
    rustix::fs::sync();
    changes
}

#[cfg(test)]
mod tests {
    use super::Rebuild;
    use crate::fixup::kernels::kernels;
    use crate::fixup::names::Resolver;
    use crate::fixup::plan::{Plan, undo};
    use crate::fixup::virtio;
    use crate::fixup::virtio::tests::{VERSION, tree};
    use crate::kmod::{Modules, test_kernel};
    use esxodus_agent::cpio::Archive;
    use std::fs;
    use std::io;
    use std::path::Path;

    /// An image with drivers, as a tool would have made it: below the folder of the version, or flat.
    fn made(kernel: &Path, mark: &str, folder: &str, drivers: &[&str]) -> Vec<u8> {
        let modules = Modules::read(kernel).unwrap();
        let mut archive = Archive::default();
        archive.file(mark, 0o755, b"");
        if mark == "scripts/functions" {
            archive.file("conf/modules", 0o644, drivers.join("\n").as_bytes());
        }
        let mut names: Vec<&str> = drivers.iter().flat_map(|driver| modules.closure(driver)).collect();
        names.sort_unstable();
        names.dedup();
        for name in names {
            let path = modules.path(name).unwrap();
            let place = if folder == "lib" {
                path.rsplit('/').next().unwrap()
            } else {
                path
            };
            archive.file(&format!("{folder}/{place}"), 0o644, b"");
        }
        archive.finish()
    }

    fn planned(root: &Path, guest_tools: bool) -> (Plan, Vec<Rebuild>) {
        let mut plan = Plan::new(root);
        let found = virtio::plan(&mut plan, &Resolver::new(&[], &[]), guest_tools);
        (plan, found.rebuilds)
    }

    /// A guest with a tool, and an image in `/boot`.
    fn guest(kernel: &Path, tool: &str, bytes: &[u8]) -> (tempfile::TempDir, String) {
        let name = format!("initrd-{VERSION}.img");
        let dir = tree(kernel, bytes, &name);
        for folder in ["usr/sbin", "sbin", "etc/sysconfig"] {
            fs::create_dir_all(dir.path().join(folder)).unwrap();
        }
        if !tool.is_empty() {
            fs::write(dir.path().join(tool), "").unwrap();
        }
        fs::write(dir.path().join(format!("boot/vmlinuz-{VERSION}")), "").unwrap();
        (dir, format!("boot/{name}"))
    }

    #[test]
    fn what_nothing_can_be_put_behind_is_made_anew_by_the_guests_own_tool_and_undo_puts_the_old_one_back() {
        let Some(kernel) = test_kernel() else { return };
        let lzma = b"\x5d\0\0\x80\0 packed".to_vec();
        let marked = |mark: &str| {
            let mut archive = Archive::default();
            archive.file(mark, 0o755, b"");
            archive.finish()
        };
        let below = format!("lib/modules/{VERSION}");
        let new = "/boot/esxodus-new.img";
        let vmlinuz = format!("/boot/vmlinuz-{VERSION}");
        for (tool, before, mark, folder, argv) in [
            (
                "usr/sbin/mkinitramfs",
                lzma.clone(),
                "scripts/functions",
                below.as_str(),
                vec!["/usr/sbin/mkinitramfs", "-c", "gzip", "-o", new, VERSION],
            ),
            (
                "sbin/dracut",
                lzma,
                "usr/lib/initrd-release",
                below.as_str(),
                vec![
                    "/sbin/dracut",
                    "--force",
                    "--gzip",
                    "--no-hostonly",
                    "--add-drivers",
                    "virtio_pci virtio_blk virtio_scsi sd_mod",
                    new,
                    VERSION,
                ],
            ),
            (
                "sbin/mkinitrd",
                marked("run_all.sh"),
                "run_all.sh",
                below.as_str(),
                vec!["/sbin/mkinitrd", "-k", &vmlinuz, "-i", new],
            ),
            (
                "sbin/mkinitrd",
                marked("bin/nash"),
                "bin/nash",
                "lib",
                vec![
                    "/sbin/mkinitrd",
                    "-f",
                    "--with=virtio_pci",
                    "--with=virtio_blk",
                    "--with=virtio_scsi",
                    "--with=sd_mod",
                    new,
                    VERSION,
                ],
            ),
        ] {
            let (dir, path) = guest(&kernel, tool, &before);
            if mark == "run_all.sh" {
                fs::write(dir.path().join("etc/sysconfig/kernel"), "INITRD_MODULES=\"mptspi\"\n").unwrap();
            }
            let (mut plan, rebuilds) = planned(dir.path(), true);
            assert_eq!(
                (rebuilds.len(), plan.notes().len()),
                (1, 0),
                "{mark}: {:?}",
                plan.notes()
            );
            let shown = rebuilds[0].planned();
            assert!(shown.after.contains(&argv.join(" ")), "{shown:?}");
            plan.apply().unwrap();
            let mut run = |given: &[String]| {
                assert_eq!(given, argv);
                let drivers = ["virtio_pci", "virtio_blk"];
                fs::write(
                    dir.path().join(new.trim_start_matches('/')),
                    made(&kernel, mark, folder, &drivers),
                )
            };
            let change = rebuilds[0].make(&plan, &mut run).unwrap();
            assert!(
                kernels(dir.path()).0[0].boots_virtio_blk,
                "{mark}: {:?}",
                kernels(dir.path())
            );
            assert!(fs::read(dir.path().join(&path)).unwrap() != before);
            let (again, rebuilds) = planned(dir.path(), true);
            assert!(rebuilds.is_empty(), "{mark}: a second run makes nothing");
            let grown = again.changes().iter().any(|change| change.path.starts_with("/boot"));
            assert_eq!(
                grown,
                !mark.contains("nash") && mark != "run_all.sh",
                "the rest is put behind what is read now"
            );

            let (done, notes) = undo(dir.path(), &[change], false).unwrap();
            assert_eq!((done.len(), notes.len()), (1, 0), "{notes:?}");
            assert!(fs::read(dir.path().join(&path)).unwrap() == before, "{mark}");
            let left: Vec<String> = Plan::new(dir.path()).names("/boot");
            assert!(left.iter().all(|name| !name.contains("esxodus")), "{left:?}");
        }
    }

    #[test]
    fn a_tool_that_fails_or_makes_something_else_leaves_the_image_as_it_was() {
        let Some(kernel) = test_kernel() else { return };
        let before = b"\x5d\0\0\x80\0 packed";
        let below = format!("lib/modules/{VERSION}");
        let right = made(&kernel, "scripts/functions", &below, &["virtio_blk", "virtio_pci"]);
        let without = made(&kernel, "scripts/functions", &below, &["sd_mod"]);
        let other = made(
            &kernel,
            "scripts/functions",
            "lib/modules/5.4.0-other",
            &["virtio_blk", "virtio_pci"],
        );
        for (bytes, fails, word) in [
            (Some(right), true, "broken"),
            (Some(without), false, "no virtio"),
            (Some(other), false, "5.4.0-other"),
            (Some(before.to_vec()), false, "can't be read"),
            (None, false, "can't be read"),
        ] {
            let (dir, path) = guest(&kernel, "usr/sbin/mkinitramfs", before);
            let (plan, rebuilds) = planned(dir.path(), true);
            let mut run = |_: &[String]| {
                if let Some(bytes) = &bytes {
                    fs::write(dir.path().join("boot/esxodus-new.img"), bytes)?;
                }
                if fails { Err(io::Error::other("broken")) } else { Ok(()) }
            };
            let error = rebuilds[0].make(&plan, &mut run).unwrap_err().to_string();
            assert!(error.contains(word), "{error}");
            assert!(fs::read(dir.path().join(&path)).unwrap() == before);
            let left = plan.names("/boot");
            assert!(left.iter().all(|name| !name.contains("esxodus")), "{left:?}");
        }
    }

    #[test]
    fn undo_leaves_an_image_alone_that_the_guest_made_again_since() {
        let Some(kernel) = test_kernel() else { return };
        let (dir, path) = guest(&kernel, "usr/sbin/mkinitramfs", b"\x5d\0\0 packed");
        let (plan, rebuilds) = planned(dir.path(), true);
        let right = made(
            &kernel,
            "scripts/functions",
            &format!("lib/modules/{VERSION}"),
            &["virtio_blk", "virtio_pci"],
        );
        let new = dir.path().join("boot/esxodus-new.img");
        let change = rebuilds[0].make(&plan, &mut |_| fs::write(&new, &right)).unwrap();
        fs::write(dir.path().join(&path), "made by the guest").unwrap();
        let (done, notes) = undo(dir.path(), &[change], false).unwrap();
        assert_eq!((done.len(), notes.len()), (0, 1));
        assert_eq!(fs::read(dir.path().join(&path)).unwrap(), b"made by the guest");
    }

    #[test]
    fn a_kernel_with_the_drivers_built_in_needs_no_other_image() {
        let (dir, _) = guest(Path::new("/nonexistent"), "usr/sbin/mkinitramfs", b"\x5d\0\0 packed");
        let config = "CONFIG_VIRTIO_PCI=y\nCONFIG_VIRTIO_BLK=y\nCONFIG_SCSI_VIRTIO=m\n";
        fs::write(dir.path().join(format!("boot/config-{VERSION}")), config).unwrap();
        let (plan, rebuilds) = planned(dir.path(), true);
        assert!(rebuilds.is_empty() && plan.notes().is_empty(), "{:?}", plan.notes());
    }

    #[test]
    fn without_a_tool_or_leave_to_run_it_the_image_is_noted_with_what_to_do() {
        let Some(kernel) = test_kernel() else { return };
        for (tool, allowed, word) in [("", true, "no tool"), ("usr/sbin/mkinitramfs", false, "not to be run")] {
            let (dir, _) = guest(&kernel, tool, b"\x5d\0\0 packed");
            let (plan, rebuilds) = planned(dir.path(), allowed);
            assert!(rebuilds.is_empty());
            let notes = plan.notes();
            assert!(
                notes.iter().any(|note| note.contains(word) && note.contains("lzma")),
                "{notes:?}"
            );
        }
    }
}
