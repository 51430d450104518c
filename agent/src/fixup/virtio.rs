//! Virtio drivers in every initramfs. Wherever that can be, without running anything of the guest: the missing modules are taken from the
//! guest's own `/lib/modules` and put behind the image as one more archive. An image that this can't be done to is made anew by the
//! guest's own tool ([`super::regenerate`]).

use super::devices;
use super::kernels::{FOR_BLK, FOR_SCSI, Kernel, STRANGE, WANTED, for_each};
use super::names::Resolver;
use super::network;
use super::plan::Plan;
use super::regenerate::{Rebuild, Tool};
use crate::initramfs::{self, Addition, Initramfs, Maker};
use reports::schema::{DriverPlace, KernelFacts};
use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Read};

/// Largest kernel module with its debug information stripped, with room.
const MAX_MODULE: u64 = 64 << 20;
/// Stays free on the file system of an image that grows, in bytes.
pub(super) const SPARE: u64 = 1 << 20;

/// What was found and is wanted of the kernels.
pub(super) struct Found {
    /// Before anything is changed: reading an image is what takes long.
    pub(super) kernels: Vec<KernelFacts>,
    /// Program that made the images.
    pub(super) maker: Option<&'static str>,
    /// Images that the guest's own tool is to make anew.
    pub(super) rebuilds: Vec<Rebuild>,
}

/// Why an image doesn't grow.
enum Refusal {
    /// Nothing that is put behind it would be loaded.
    Deaf(String),
    Failed(io::Error),
}

impl From<io::Error> for Refusal {
    fn from(error: io::Error) -> Self {
        Self::Failed(error)
    }
}

/// Plans what every image lacks, and the configuration that keeps it there when the image is made again.
pub(super) fn plan(plan: &mut Plan, resolver: &Resolver<'_>, guest_tools: bool) -> Found {
    let mut found = Found {
        kernels: Vec::new(),
        maker: None,
        rebuilds: Vec::new(),
    };
    let mut drivers = BTreeSet::new();
    for_each(plan, &mut |plan, kernel| {
        found.maker = found
            .maker
            .or_else(|| kernel.initramfs.as_ref().map(|read| read.maker.name()));
        found.kernels.push(kernel.facts());
        drivers.extend(
            WANTED
                .into_iter()
                .filter(|name| kernel.place(name) != DriverPlace::Missing),
        );
        let Some((path, length)) = &kernel.image else {
            if !kernel.boots(&FOR_BLK) && !kernel.boots(&FOR_SCSI) {
                plan.note(format!(
                    "kernel {}: no initramfs was found, and virtio is not built in: it does not boot from virtio disks",
                    kernel.version
                ));
            }
            return;
        };
        let deaf = match (&kernel.initramfs, &kernel.unreadable) {
            // Then what is in the image does not matter.
            (_, Some(_)) if kernel.strange_packing && (kernel.boots(&FOR_BLK) || kernel.boots(&FOR_SCSI)) => return,
            (_, Some(why)) if kernel.strange_packing => why.clone(),
            (_, Some(why)) => {
                plan.note(format!(
                    "{path}: not readable ({why}); make it again with the guest's own tool and virtio drivers"
                ));
                return;
            }
            (Some(read), None) => match grow(plan, kernel, (path, *length), read, resolver) {
                Ok(()) => return,
                Err(Refusal::Deaf(why)) => why,
                Err(Refusal::Failed(error)) => {
                    plan.note(format!("{path}: virtio drivers could not be added: {error}"));
                    return;
                }
            },
            (None, None) => return,
        };
        let wanted = if guest_tools {
            Rebuild::of(plan, kernel, (path, *length), &deaf)
        } else {
            Err("the guest's own tool was not to be run".to_owned())
        };
        match wanted {
            Ok(rebuild) => found.rebuilds.push(rebuild),
            Err(why) => plan.note(format!(
                "{path}: nothing can be put behind it ({deaf}), and {why}: make it again in the guest, with virtio drivers"
            )),
        }
    });
    keep(plan, &drivers);
    found
}

/// Settings in an image that name disks of the old bus, by UUID; and the names of NICs, where one comes up in the image.
fn settings(
    plan: &Plan,
    kernel: &Kernel,
    read: &Initramfs,
    resolver: &Resolver<'_>,
) -> (Vec<initramfs::Text>, Vec<String>) {
    let (mut texts, mut words) = (Vec::new(), Vec::new());
    for (path, bytes) in read.texts.iter().filter(|(path, _)| initramfs::is_setting(path)) {
        let Ok(text) = std::str::from_utf8(bytes) else { continue };
        let edited = devices::by_uuid(resolver, text);
        if !edited.why.is_empty() {
            texts.push((path.clone(), edited.text));
            words.extend(edited.why);
        }
    }
    if matches!(
        kernel.place("virtio_net"),
        DriverPlace::BuiltIn | DriverPlace::Initramfs
    ) {
        for (path, text) in network::links(plan) {
            let inside = path.trim_start_matches('/').to_owned();
            if read.texts.get(&inside).map(Vec::as_slice) != Some(text.as_bytes()) {
                words.push(format!("{inside} keeps a NIC's name"));
                texts.push((inside, text));
            }
        }
    }
    (texts, words)
}

fn grow(
    plan: &mut Plan,
    kernel: &Kernel,
    image: (&str, u64),
    read: &Initramfs,
    resolver: &Resolver<'_>,
) -> Result<(), Refusal> {
    let (path, length) = image;
    let bootable = WANTED.iter().all(|name| kernel.boots(&[*name]));
    if read.maker == Maker::Unknown {
        let built_in = |name: &&str| kernel.place(name) == DriverPlace::BuiltIn;
        return if WANTED.iter().all(built_in) {
            Ok(())
        } else {
            Err(Refusal::Deaf(format!("it is {STRANGE}")))
        };
    }
    if let Maker::Mkinitrd | Maker::Nash = read.maker {
        // One way to a virtio disk is enough: kernels of that age have no virtio_scsi.
        return if kernel.boots(&FOR_BLK) || kernel.boots(&FOR_SCSI) {
            Ok(())
        } else {
            Err(Refusal::Deaf(format!("{} loads a fixed list", read.maker.name())))
        };
    }
    let (texts, mut words) = settings(plan, kernel, read, resolver);
    if bootable && texts.is_empty() {
        return Ok(());
    }
    let mut add = Addition {
        files: Vec::new(),
        load: Vec::new(),
        texts,
    };
    let mut missing = BTreeSet::new();
    if !bootable {
        missing = drivers(plan, kernel, read, &mut add)?;
    }
    if missing.is_empty() && add.texts.is_empty() {
        return Ok(());
    }
    let file_length = usize::try_from(length).map_err(io::Error::other)?;
    let bytes = initramfs::append(read, file_length, kernel.modules.as_ref(), &kernel.version, &add)?;
    plan.room(path, bytes.len() as u64 + SPARE)?;
    let mut was = format!("{length} bytes, made by {}", read.maker.name());
    let mut parts: Vec<String> = Vec::new();
    if !missing.is_empty() {
        let names: Vec<&str> = missing.iter().map(String::as_str).collect();
        let names = names.join(", ");
        was.push_str(&format!(", without {names}"));
        parts.push(format!("{names} and their index files"));
        words.insert(
            0,
            format!("kernel {} finds no virtio disk without them", kernel.version),
        );
    }
    parts.extend(add.texts.iter().map(|(path, _)| path.clone()));
    let gets = format!(
        "{} bytes: an archive with {}",
        length + bytes.len() as u64,
        parts.join(", ")
    );
    plan.append(path, length, bytes, (was, gets), words.join("; "));
    Ok(())
}

/// The drivers that an image lacks, into `add`; their names.
fn drivers(plan: &mut Plan, kernel: &Kernel, read: &Initramfs, add: &mut Addition) -> io::Result<BTreeSet<String>> {
    let modules = kernel
        .modules
        .as_ref()
        .ok_or_else(|| io::Error::other(format!("kernel {} has no modules.dep", kernel.version)))?;
    let folder = ["/lib/modules", "/usr/lib/modules"]
        .iter()
        .map(|base| plan.place(&format!("{base}/{}", kernel.version)))
        .find(|folder| folder.join("modules.dep").is_file())
        .ok_or_else(|| io::Error::other("its modules are gone"))?;
    let (mut missing, mut nowhere) = (BTreeSet::new(), Vec::new());
    for name in WANTED {
        match kernel.place(name) {
            DriverPlace::BuiltIn => continue,
            DriverPlace::Missing => nowhere.push(name),
            DriverPlace::Initramfs => add.load.push(name),
            DriverPlace::Modules => {
                add.load.push(name);
                let absent = |need: &&str| !read.modules.contains_key(*need) && !modules.is_built_in(need);
                let needs = modules.closure(name).into_iter().filter(absent);
                missing.extend(needs.map(str::to_owned));
            }
        }
    }
    if !nowhere.is_empty() {
        plan.note(format!(
            "kernel {}: has no {} at all, neither built in nor as a module",
            kernel.version,
            nowhere.join(", ")
        ));
    }
    for name in &missing {
        let relative = modules
            .path(name)
            .ok_or_else(|| io::Error::other(format!("{name} is not in modules.dep")))?;
        let mut packed = Vec::new();
        let told = |error: io::Error| io::Error::other(format!("{relative}: {error}"));
        File::open(folder.join(relative))
            .map_err(told)?
            .take(MAX_MODULE)
            .read_to_end(&mut packed)
            .map_err(told)?;
        let bytes = initramfs::module(relative, &packed, MAX_MODULE).map_err(told)?;
        if !bytes.starts_with(b"\x7fELF") {
            return Err(told(io::Error::other("not a kernel module")));
        }
        let plain = relative.find(".ko").map_or(relative, |at| &relative[..at + 3]);
        add.files.push((plain.to_owned(), bytes));
    }
    Ok(missing)
}

/// Configuration for the next time that an image is made. `drivers`: those that a kernel of the guest has.
fn keep(plan: &mut Plan, drivers: &BTreeSet<&str>) {
    let why = "the next initramfs keeps the virtio drivers";
    let list = "/etc/initramfs-tools/modules";
    if let Some(text) = plan.text(list) {
        let there = |name: &str| text.lines().any(|line| line.split_whitespace().next() == Some(name));
        let new: Vec<&str> = WANTED.into_iter().filter(|name| !there(name)).collect();
        if !new.is_empty() {
            let end = if text.is_empty() || text.ends_with('\n') {
                ""
            } else {
                "\n"
            };
            let added = format!("{text}{end}# esxodus: drivers of KVM's disks\n{}\n", new.join("\n"));
            plan.set(list, added, why);
        }
    }
    if plan.exists("/etc/dracut.conf.d") || plan.exists("/etc/dracut.conf") {
        let text = format!(
            "# Written by esxodus: drivers of KVM's disks.\nadd_drivers+=\" {} \"\n",
            WANTED.join(" ")
        );
        plan.set("/etc/dracut.conf.d/90-esxodus-virtio.conf", text, why);
    }
    if plan.exists("/etc/mkinitcpio.conf") {
        let text = format!(
            "# Written by esxodus: drivers of KVM's disks.\nMODULES+=({})\n",
            WANTED.join(" ")
        );
        plan.set("/etc/mkinitcpio.conf.d/esxodus-virtio.conf", text, why);
    }
    keep_mkinitrd(plan, drivers, why);
}

/// What the two old tools called mkinitrd read: SUSE's a list, Red Hat's the aliases of host adapters.
fn keep_mkinitrd(plan: &mut Plan, drivers: &BTreeSet<&str>, why: &str) {
    let (list, name) = ("/etc/sysconfig/kernel", "INITRD_MODULES=\"");
    if let Some(text) = plan.text(list)
        && let Some(at) = text
            .match_indices(name)
            .map(|(at, _)| at)
            .find(|&at| at == 0 || text.as_bytes()[at - 1] == b'\n')
    {
        let start = at + name.len();
        let end = text[start..]
            .find(['"', '\n'])
            .map_or(text.len(), |length| start + length);
        let there: Vec<&str> = text[start..end].split_whitespace().collect();
        let new: Vec<&str> = WANTED
            .into_iter()
            .filter(|name| drivers.contains(name) && !there.contains(name))
            .collect();
        if !new.is_empty() {
            let words = [there, new].concat().join(" ");
            plan.set(list, format!("{}{words}{}", &text[..start], &text[end..]), why);
        }
    }
    let aliases = "/etc/modprobe.conf";
    if let Some(text) = plan
        .text(aliases)
        .filter(|_| Tool::find(plan).is_some_and(|(tool, _)| tool == Tool::Nash))
    {
        let aliased: Vec<(&str, &str)> = text
            .lines()
            .filter_map(|line| {
                line.trim()
                    .strip_prefix("alias ")?
                    .trim()
                    .split_once(char::is_whitespace)
            })
            .collect();
        if drivers.contains("virtio_blk") && !aliased.iter().any(|(_, module)| module.trim() == "virtio_blk") {
            // The first adapter has no number.
            let names = (0..).map(|number| match number {
                0 => "scsi_hostadapter".to_owned(),
                _ => format!("scsi_hostadapter{number}"),
            });
            let is_free = |name: &String| !aliased.iter().any(|(taken, _)| taken == name);
            let name = names.into_iter().find(is_free).unwrap_or_default();
            let end = if text.is_empty() || text.ends_with('\n') {
                ""
            } else {
                "\n"
            };
            plan.set(aliases, format!("{text}{end}alias {name} virtio_blk\n"), why);
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::{Resolver, plan};
    use crate::fixup::VolumeId;
    use crate::fixup::kernels::kernels;
    use crate::fixup::plan::{Plan, undo};
    use crate::kmod::test_kernel;
    use esxodus_agent::cpio::Archive;
    use reports::schema::DriverPlace;
    use std::fs;
    use std::io::Write;
    use std::path::{Path, PathBuf};
    use std::process::{Command, Stdio};

    pub(in crate::fixup) const VERSION: &str = "6.1.0-9-test";

    /// An initramfs as VMware's hardware needs it: the SCSI core, no virtio.
    pub(in crate::fixup) fn image(maker: &str) -> Vec<u8> {
        let mut archive = Archive::default();
        for folder in ["usr", "usr/lib", "usr/lib/modules", "etc"] {
            archive.folder(folder);
        }
        archive.link("lib", "usr/lib");
        archive.folder(&format!("usr/lib/modules/{VERSION}"));
        archive.file(
            &format!("usr/lib/modules/{VERSION}/kernel/drivers/scsi/scsi_common.ko"),
            0o644,
            b"old",
        );
        match maker {
            "initramfs-tools" => {
                archive.file("scripts/functions", 0o644, b"");
                archive.file("conf/modules", 0o644, b"mptspi\nvirtio_pci");
            }
            _ => archive.file("usr/lib/initrd-release", 0o644, b""),
        }
        archive.finish()
    }

    fn packed(program: &[&str], bytes: &[u8]) -> Option<Vec<u8>> {
        let Some((name, arguments)) = program.split_first() else {
            return Some(bytes.to_vec());
        };
        let started = Command::new(name)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn();
        let Ok(mut child) = started else {
            eprintln!("SKIP: {name} is not installed");
            return None;
        };
        child.stdin.take()?.write_all(bytes).ok()?;
        Some(child.wait_with_output().ok()?.stdout)
    }

    /// A guest's root with one kernel, whose modules are those of the appliance.
    pub(in crate::fixup) fn tree(kernel: &Path, image: &[u8], name: &str) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for folder in ["boot", "lib/modules", "etc/initramfs-tools", "etc/dracut.conf.d"] {
            fs::create_dir_all(dir.path().join(folder)).unwrap();
        }
        std::os::unix::fs::symlink(kernel, dir.path().join("lib/modules").join(VERSION)).unwrap();
        fs::write(dir.path().join("etc/initramfs-tools/modules"), "# list\nmptspi").unwrap();
        fs::write(dir.path().join("boot").join(name), image).unwrap();
        dir
    }

    fn fixed(root: &Path) -> Plan {
        let volumes = [VolumeId {
            disk: Some(0),
            partition: Some(5),
            content: Some("swap".into()),
            uuid: Some("5555".into()),
            is_root: false,
        }];
        let mut made = Plan::new(root);
        plan(&mut made, &Resolver::new(&volumes, &[]), false);
        made
    }

    /// What the kernel would see in the end, unpacked by the independent program.
    fn unpacked(image: &[u8], from: usize) -> PathBuf {
        let dir = tempfile::tempdir().unwrap().keep();
        let mut child = Command::new("cpio")
            .args(["-id", "--quiet"])
            .current_dir(&dir)
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(&image[from..]).unwrap();
        assert!(child.wait().unwrap().success());
        dir
    }

    #[test]
    fn an_initramfs_of_every_packing_gets_virtio_once_and_loses_it_by_undo() {
        let Some(kernel) = test_kernel() else { return };
        let packings: [&[&str]; 5] = [
            &[],
            &["gzip"],
            &["xz", "--check=crc32"],
            &["zstd", "-q"],
            &["lz4", "-lq"],
        ];
        for (packing, maker, name) in packings.into_iter().flat_map(|packing| {
            [
                (packing, "initramfs-tools", format!("initrd.img-{VERSION}")),
                (packing, "dracut", format!("initramfs-{VERSION}.img")),
            ]
        }) {
            // Microcode comes first, unpacked, as distributions put it there.
            let mut microcode = Archive::default();
            microcode.folder("kernel");
            let Some(body) = packed(packing, &image(maker)) else {
                continue;
            };
            let before = [microcode.finish(), body].concat();
            let dir = tree(&kernel, &before, &name);
            let path = dir.path().join("boot").join(&name);
            let (found, tool) = kernels(dir.path());
            assert_eq!(tool, Some(maker), "{packing:?}");
            assert_eq!((found.len(), found[0].version.as_str()), (1, VERSION));
            assert_eq!(found[0].drivers["virtio_blk"], DriverPlace::Modules);
            assert!(!found[0].boots_virtio_blk && !found[0].boots_virtio_scsi);

            let mut made = fixed(dir.path());
            assert!(made.notes().is_empty(), "{packing:?}: {:?}", made.notes());
            assert!(fs::read(&path).unwrap() == before, "a plan writes nothing");
            made.apply().unwrap();
            let after = fs::read(&path).unwrap();
            assert!(after.starts_with(&before), "{packing:?}: only something behind it");
            let (found, _) = kernels(dir.path());
            assert!(
                found[0].boots_virtio_blk && found[0].boots_virtio_scsi,
                "{packing:?}: {found:?}"
            );
            assert!(
                fixed(dir.path()).changes().is_empty(),
                "{packing:?}: a second run changes nothing"
            );

            if !packing.contains(&"lz4") {
                let end = unpacked(&after, before.len().next_multiple_of(4));
                let folder = end.join("usr/lib/modules").join(VERSION);
                let dep = fs::read_to_string(folder.join("modules.dep")).unwrap();
                assert!(
                    dep.contains("kernel/drivers/block/virtio_blk.ko: kernel/drivers/virtio/virtio"),
                    "{dep}"
                );
                assert!(dep.contains("scsi_common.ko:"), "what was there stays known: {dep}");
                assert!(folder.join("kernel/drivers/block/virtio_blk.ko").is_file());
                assert!(
                    fs::symlink_metadata(end.join("lib")).is_err(),
                    "a link of the image must not become a folder"
                );
                let list = if maker == "dracut" {
                    "etc/modules-load.d/esxodus-virtio.conf"
                } else {
                    "conf/modules"
                };
                let list = fs::read_to_string(end.join(list)).unwrap();
                let expected = if maker == "dracut" {
                    "virtio_pci\n"
                } else {
                    "mptspi\nvirtio_pci\n"
                };
                assert_eq!(list, format!("{expected}virtio_blk\nvirtio_scsi\nsd_mod\n"));
                fs::remove_dir_all(end).unwrap();
            }
            let kept = fs::read_to_string(dir.path().join("etc/initramfs-tools/modules")).unwrap();
            assert!(
                kept.starts_with("# list\nmptspi\n") && kept.contains("\nvirtio_blk\n"),
                "{kept}"
            );
            assert!(dir.path().join("etc/dracut.conf.d/90-esxodus-virtio.conf").is_file());
            undo(dir.path(), &made.changes(), false).unwrap();
            assert!(
                fs::read(&path).unwrap() == before,
                "{packing:?}: undo cuts it off again"
            );
        }
    }

    #[test]
    fn settings_inside_an_image_lose_the_names_of_the_old_bus_and_get_those_of_nics() {
        let Some(kernel) = test_kernel() else { return };
        for (maker, setting, before, after) in [
            (
                "initramfs-tools",
                "conf/conf.d/resume",
                "RESUME=/dev/sda5\n",
                "RESUME=UUID=5555\n",
            ),
            (
                "dracut",
                "etc/cmdline.d/95resume.conf",
                "resume=/dev/sda5\n",
                "resume=UUID=5555\n",
            ),
        ] {
            let mut more = Archive::default();
            more.file(setting, 0o644, before.as_bytes());
            let name = format!("initrd.img-{VERSION}");
            let before = [image(maker), more.finish()].concat();
            let dir = tree(&kernel, &before, &name);
            let link = "etc/systemd/network/10-esxodus-ens192.link";
            fs::create_dir_all(dir.path().join("etc/systemd/network")).unwrap();
            fs::write(dir.path().join(link), "[Match]\n").unwrap();
            // Only an image that can bring a NIC up needs its name.
            fixed(dir.path()).apply().unwrap();
            let path = dir.path().join("boot").join(&name);
            let grown = fs::read(&path).unwrap();
            let end = unpacked(&grown, before.len().next_multiple_of(4));
            assert_eq!(fs::read_to_string(end.join(setting)).unwrap(), after, "{maker}");
            assert!(!end.join(link).exists());
            fs::remove_dir_all(end).unwrap();
            assert!(
                fixed(dir.path()).changes().is_empty(),
                "{maker}: a second run changes nothing"
            );

            let with_net = {
                let mut net = Archive::default();
                let modules = crate::kmod::Modules::read(&kernel).unwrap();
                for module in modules.closure("virtio_net") {
                    let inside = modules.path(module).unwrap();
                    net.file(&format!("usr/lib/modules/{VERSION}/{inside}"), 0o644, b"");
                }
                [grown.clone(), net.finish()].concat()
            };
            fs::write(&path, &with_net).unwrap();
            fixed(dir.path()).apply().unwrap();
            let end = unpacked(&fs::read(&path).unwrap(), with_net.len().next_multiple_of(4));
            assert_eq!(fs::read_to_string(end.join(link)).unwrap(), "[Match]\n");
            assert!(!end.join(setting).exists(), "what is right already is not put in again");
            fs::remove_dir_all(end).unwrap();
            assert!(
                fixed(dir.path()).changes().is_empty(),
                "{maker}: a second run changes nothing"
            );
        }
    }

    #[test]
    fn an_image_of_an_unknown_maker_is_neither_grown_nor_said_to_boot() {
        let Some(kernel) = test_kernel() else { return };
        let mut archive = Archive::default();
        archive.file(
            &format!("lib/modules/{VERSION}/kernel/drivers/scsi/scsi_common.ko"),
            0o644,
            b"",
        );
        archive.file("init", 0o755, b"#!/bin/sh\n");
        let dir = tree(&kernel, &archive.finish(), &format!("initrd-{VERSION}"));
        let made = fixed(dir.path());
        assert!(made.changes().iter().all(|change| !change.path.starts_with("/boot")));
        assert!(
            made.notes().iter().any(|note| note.contains("not known")),
            "{:?}",
            made.notes()
        );
        let (found, _) = kernels(dir.path());
        assert!(!found[0].boots_virtio_blk && found[0].unreadable.is_some(), "{found:?}");
    }

    #[test]
    fn the_lists_of_both_old_mkinitrds_get_the_drivers_that_their_kernel_has_once() {
        let Some(kernel) = test_kernel() else { return };
        for (file, before, after) in [
            (
                "etc/sysconfig/kernel",
                "# list\nINITRD_MODULES=\"mptspi ext3\"\nX=\"\"\n",
                "# list\nINITRD_MODULES=\"mptspi ext3 virtio_pci virtio_blk virtio_scsi sd_mod\"\nX=\"\"\n",
            ),
            (
                "etc/modprobe.conf",
                "alias eth0 vmxnet3\nalias scsi_hostadapter mptbase\nalias scsi_hostadapter1  mptspi",
                "alias eth0 vmxnet3\nalias scsi_hostadapter mptbase\nalias scsi_hostadapter1  mptspi\nalias scsi_hostadapter2 virtio_blk\n",
            ),
        ] {
            let dir = tree(&kernel, &image("dracut"), &format!("initrd-{VERSION}"));
            fs::remove_dir_all(dir.path().join("etc")).unwrap();
            for folder in ["etc/sysconfig", "sbin"] {
                fs::create_dir_all(dir.path().join(folder)).unwrap();
            }
            fs::write(dir.path().join("sbin/mkinitrd"), "").unwrap();
            fs::write(dir.path().join(file), before).unwrap();
            let mut made = fixed(dir.path());
            made.apply().unwrap();
            assert_eq!(fs::read_to_string(dir.path().join(file)).unwrap(), after);
            assert!(
                fixed(dir.path()).changes().is_empty(),
                "{file}: a second run changes nothing"
            );
            undo(dir.path(), &made.changes(), false).unwrap();
            assert_eq!(fs::read_to_string(dir.path().join(file)).unwrap(), before);
        }
    }

    #[test]
    fn modules_that_a_removed_kernel_left_behind_are_no_kernel() {
        let Some(kernel) = test_kernel() else { return };
        let dir = tree(&kernel, &image("dracut"), &format!("initramfs-{VERSION}.img"));
        fs::create_dir_all(dir.path().join("lib/modules/5.10.0-1-removed/kernel")).unwrap();
        assert!(fixed(dir.path()).notes().is_empty());
        assert_eq!(kernels(dir.path()).0.len(), 1);
        fs::write(dir.path().join("boot/vmlinuz-5.10.0-1-removed"), "").unwrap();
        assert_eq!(kernels(dir.path()).0.len(), 2);
        assert!(
            fixed(dir.path())
                .notes()
                .iter()
                .any(|note| note.contains("5.10.0-1-removed"))
        );
    }

    #[test]
    fn damaged_and_unknown_images_are_said_and_left_alone() {
        let Some(kernel) = test_kernel() else { return };
        let whole = image("dracut");
        for (bytes, word) in [
            (&whole[..whole.len() / 2], "cut"),
            (b"\x89LZO rest", "lzo"),
            (b"not an initramfs", "unknown"),
            (b"", "empty"),
        ] {
            let dir = tree(&kernel, bytes, &format!("initrd.img-{VERSION}"));
            let made = fixed(dir.path());
            assert!(
                made.notes().iter().any(|note| note.contains(word)),
                "{word}: {:?}",
                made.notes()
            );
            assert!(made.changes().iter().all(|change| !change.path.starts_with("/boot")));
        }
    }

    #[test]
    fn kdump_images_and_backups_are_not_touched() {
        let Some(kernel) = test_kernel() else { return };
        for name in [
            format!("initramfs-{VERSION}kdump.img"),
            format!("initrd.img-{VERSION}.old"),
            // What virt-v2v keeps beside the image that it makes.
            format!("initrd.img-{VERSION}.pre-v2v"),
        ] {
            let dir = tree(&kernel, &image("dracut"), &name);
            assert!(
                fixed(dir.path())
                    .changes()
                    .iter()
                    .all(|change| !change.path.starts_with("/boot")),
                "{name}"
            );
        }
    }
}
