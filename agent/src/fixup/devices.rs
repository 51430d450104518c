//! Device names that follow the bus (`/dev/sda1`) become UUIDs: in fstab, crypttab, boot entries and resume settings. On virtio-blk the
//! same disk is called `/dev/vda`.

use super::plan::Plan;
use serde::{Deserialize, Serialize};

/// A volume as its content is known by.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct VolumeId {
    /// Index of the disk in the machine.
    pub(crate) disk: Option<u32>,
    pub(crate) partition: Option<u32>,
    pub(crate) content: Option<String>,
    pub(crate) uuid: Option<String>,
    /// The root that is worked in lies on it.
    pub(crate) is_root: bool,
}

/// Files with kernel command lines, beside those found in folders.
const COMMAND_LINES: [&str; 12] = [
    "/boot/grub/grub.cfg",
    "/boot/grub2/grub.cfg",
    "/boot/grub/menu.lst",
    "/boot/grub/grub.conf",
    "/boot/extlinux/extlinux.conf",
    "/boot/syslinux/syslinux.cfg",
    "/etc/default/grub",
    "/etc/kernel/cmdline",
    "/etc/initramfs-tools/conf.d/resume",
    "/etc/zipl.conf",
    "/boot/grub2/grubenv",
    "/boot/grub/grubenv",
];
const ENTRIES: [(&str, &str); 6] = [
    ("/boot/loader/entries", ".conf"),
    ("/boot/efi/loader/entries", ".conf"),
    ("/efi/loader/entries", ".conf"),
    ("/etc/default/grub.d", ".cfg"),
    ("/etc/dracut.conf.d", ".conf"),
    ("/etc/cmdline.d", ".conf"),
];
/// Settings in command lines whose value is a device.
const KEYS: [&str; 4] = ["root=", "resume=", "RESUME=", "rootfs="];

/// Disk and partition that a name of the old bus meant.
pub(crate) fn parse(name: &str) -> Option<(u32, Option<u32>)> {
    let rest = name.strip_prefix("/dev/")?;
    let number = |digits: &str| -> Option<Option<u32>> {
        if digits.is_empty() {
            Some(None)
        } else {
            digits.parse().ok().filter(|&number| number > 0).map(Some)
        }
    };
    if let Some(rest) = rest.strip_prefix("nvme") {
        let (disk, rest) = rest.split_once('n')?;
        let (space, partition) = rest.split_once('p').unwrap_or((rest, ""));
        return if space == "1" {
            Some((disk.parse().ok()?, number(partition)?))
        } else {
            None
        };
    }
    let letters = ["sd", "hd", "vd", "xvd"]
        .iter()
        .find_map(|prefix| rest.strip_prefix(prefix))?;
    let end = letters.find(|c: char| !c.is_ascii_lowercase()).unwrap_or(letters.len());
    let (letters, digits) = letters.split_at(end);
    if letters.is_empty() || letters.len() > 2 {
        return None;
    }
    // sda is 0, sdz 25, sdaa 26.
    let disk = letters
        .bytes()
        .fold(0_u32, |value, letter| value * 26 + u32::from(letter - b'a') + 1)
        - 1;
    Some((disk, number(digits)?))
}

/// Names below `/dev/disk/by-path` and `by-id` follow the bus as well. With one disk there is no doubt which one is meant.
fn parse_link(name: &str, disks: u32) -> Option<(u32, Option<u32>)> {
    let rest = name
        .strip_prefix("/dev/disk/by-path/")
        .or_else(|| name.strip_prefix("/dev/disk/by-id/"))?;
    if rest.starts_with("dm-") || rest.starts_with("lvm-") || rest.starts_with("md-") {
        return None;
    }
    let (whole, partition) = match rest.rsplit_once("-part") {
        Some((whole, digits)) => (whole, Some(digits.parse().ok()?)),
        None => (rest, None),
    };
    if disks == 1 {
        return Some((0, partition));
    }
    // `pci-0000:03:00.0-scsi-0:0:1:0`: the third number is the unit. VMware leaves out unit 7, the controller's own.
    let unit: u32 = whole.rsplit_once("-scsi-")?.1.split(':').nth(2)?.parse().ok()?;
    (unit < 7).then_some((unit, partition))
}

/// Is this a name that another bus changes?
fn follows_bus(name: &str) -> bool {
    parse(name).is_some() || name.starts_with("/dev/disk/by-path/") || name.starts_with("/dev/disk/by-id/")
}

struct Resolver<'v> {
    volumes: &'v [VolumeId],
    disks: u32,
}

impl<'v> Resolver<'v> {
    fn find(&self, name: &str) -> Result<&'v VolumeId, String> {
        let (disk, partition) = parse(name)
            .or_else(|| parse_link(name, self.disks))
            .ok_or_else(|| "which disk it means cannot be told".to_owned())?;
        let found = self
            .volumes
            .iter()
            .find(|volume| volume.disk == Some(disk) && volume.partition == partition);
        found.ok_or_else(|| "there is no such partition".to_owned())
    }

    /// `UUID=…` for the name, where content and expectation agree.
    fn uuid(&self, name: &str, expected: &str, must_be_root: bool) -> Result<String, String> {
        let volume = self.find(name)?;
        let content = volume.content.as_deref().unwrap_or("nothing known");
        let same = match expected {
            "auto" | "" => true,
            "ext2" | "ext3" | "ext4" => content == "ext4",
            "msdos" | "vfat" => content == "vfat",
            "ntfs" | "ntfs-3g" | "ntfs3" => content == "ntfs",
            other => content == other,
        };
        if !same {
            return Err(format!(
                "the partition in its place holds {content}, not {expected}: the disks are in another order"
            ));
        }
        if must_be_root && !volume.is_root {
            return Err("the root lies elsewhere: the disks are in another order".to_owned());
        }
        let uuid = volume
            .uuid
            .as_ref()
            .ok_or_else(|| "its content has no UUID".to_owned())?;
        Ok(format!("UUID={uuid}"))
    }
}

/// Plans all of them.
pub(crate) fn plan(plan: &mut Plan, volumes: &[VolumeId], serial_console: bool) {
    let disks = volumes
        .iter()
        .filter_map(|volume| volume.disk)
        .max()
        .map_or(0, |last| last + 1);
    let resolver = Resolver { volumes, disks };
    table(plan, &resolver, "/etc/fstab", 0);
    table(plan, &resolver, "/etc/crypttab", 1);
    let mut files: Vec<String> = COMMAND_LINES.iter().map(|path| (*path).to_owned()).collect();
    for (folder, ending) in ENTRIES {
        files.extend(
            plan.names(folder)
                .into_iter()
                .filter(|name| name.ends_with(ending))
                .map(|name| format!("{folder}/{name}")),
        );
    }
    for vendor in plan.names("/boot/efi/EFI") {
        files.extend(["grub.cfg", "grubenv"].map(|name| format!("/boot/efi/EFI/{vendor}/{name}")));
    }
    let mut seen: Vec<std::path::PathBuf> = Vec::new();
    for path in files {
        // /boot/grub2/grubenv of UEFI systems is a link to the other one.
        let Ok(place) = std::fs::canonicalize(plan.place(&path)) else {
            continue;
        };
        if !seen.contains(&place) {
            command_lines(plan, &resolver, &path, serial_console);
            seen.push(place);
        }
    }
}

/// A table whose `column` names a device. Blanks and comments stay as they are.
fn table(plan: &mut Plan, resolver: &Resolver<'_>, path: &str, column: usize) {
    let Some(text) = plan.text(path) else { return };
    let (mut out, mut changed) = (String::with_capacity(text.len()), Vec::new());
    for line in text.split_inclusive('\n') {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let name = fields.get(column).copied().unwrap_or("");
        if line.trim_start().starts_with('#') || !follows_bus(name) {
            out.push_str(line);
            continue;
        }
        let is_fstab = column == 0;
        let kind = if is_fstab {
            fields.get(2).copied().unwrap_or("")
        } else {
            ""
        };
        let expected = if is_fstab {
            kind
        } else if line.contains("swap") || line.contains("plain") {
            ""
        } else {
            "luks"
        };
        let root = is_fstab && fields.get(1) == Some(&"/");
        if ["iso9660", "udf"].contains(&kind) || name.starts_with("/dev/sr") {
            out.push_str(line);
            continue;
        }
        // Random-key swap is formatted anew at each boot: it has no UUID, and its place is its only name.
        match resolver.uuid(name, expected, root) {
            Ok(uuid) => {
                out.push_str(&line.replacen(name, &uuid, 1));
                changed.push(format!("{name} is {uuid}"));
            }
            Err(why) => {
                plan.note(format!("{path}: {name} stays: {why}"));
                out.push_str(line);
            }
        }
    }
    if !changed.is_empty() {
        plan.set(path, out, format!("names of the old bus: {}", changed.join(", ")));
    }
}

/// Kernel command lines: `root=` and `resume=` by UUID; a serial console where it is wished.
fn command_lines(plan: &mut Plan, resolver: &Resolver<'_>, path: &str, serial_console: bool) {
    let Some(text) = plan.text(path) else { return };
    let mut why: Vec<String> = Vec::new();
    let mut say = |words: String| {
        if !why.contains(&words) {
            why.push(words);
        }
    };
    let mut out = String::with_capacity(text.len());
    for line in text.split_inclusive('\n') {
        let comment = line.trim_start().starts_with('#');
        // Debian's GRUB legacy keeps its settings in comments.
        if comment && !line.starts_with("# kopt=") {
            out.push_str(line);
            continue;
        }
        let mut new = line.to_owned();
        for (key, name) in settings(line) {
            if !follows_bus(&name) {
                continue;
            }
            let expected = if key.eq_ignore_ascii_case("resume=") {
                "swap"
            } else {
                ""
            };
            match resolver.uuid(&name, expected, key == "root=") {
                Ok(uuid) => {
                    new = replace_setting(&new, key, &name, &uuid);
                    say(format!("{key}{name} is {key}{uuid}"));
                }
                Err(reason) => plan.note(format!("{path}: {key}{name} stays: {reason}")),
            }
        }
        if serial_console && let Some(with) = with_serial_console(&new) {
            new = with;
            say("serial console, as wished".to_owned());
        }
        out.push_str(&new);
    }
    if why.is_empty() {
        return;
    }
    if path.ends_with("/grubenv") {
        match environment_block(&out, text.len()) {
            Some(block) => out = block,
            None => return plan.note(format!("{path}: no room for a UUID in its {} bytes", text.len())),
        }
    }
    let why = why.join(", ");
    plan.set(path, out, why);
}

/// Settings of [`KEYS`] in a line, as key and value.
fn settings(line: &str) -> Vec<(&'static str, String)> {
    let stops = |c: char| c.is_whitespace() || "\"'`;,".contains(c);
    line.split(stops)
        .filter_map(|word| {
            // `kernelopts=root=/dev/sda1` of grubenv, `GRUB_CMDLINE_LINUX=root=…` without quotes.
            let key = KEYS
                .iter()
                .find(|key| word.starts_with(**key) || word.contains(&format!("={key}")))?;
            let value = &word[word.find(key)? + key.len()..];
            Some((*key, value.to_owned()))
        })
        .collect()
}

/// Replaces whole values only: `root=/dev/sda1` leaves `root=/dev/sda10` alone.
fn replace_setting(line: &str, key: &str, name: &str, uuid: &str) -> String {
    let wanted = format!("{key}{name}");
    let (mut out, mut rest) = (String::new(), line);
    while let Some(at) = rest.find(&wanted) {
        let (before, after) = (&rest[..at], &rest[at + wanted.len()..]);
        out.push_str(before);
        let ends = after
            .chars()
            .next()
            .is_none_or(|c| c.is_whitespace() || "\"'`;,".contains(c));
        if ends {
            out.push_str(key);
            out.push_str(uuid);
        } else {
            out.push_str(&wanted);
        }
        rest = after;
    }
    out + rest
}

fn with_serial_console(line: &str) -> Option<String> {
    const WORDS: &str = "console=tty0 console=ttyS0,115200";
    if line.contains("console=ttyS") {
        return None;
    }
    let trimmed = line.trim_start();
    let ended = line.trim_end_matches(['\n', '\r']);
    let end = &line[ended.len()..];
    if trimmed.starts_with("GRUB_CMDLINE_LINUX=") {
        let quote = ended.chars().last().filter(|last| "\"'".contains(*last))?;
        let inner = &ended[..ended.len() - 1];
        let blank = if inner.ends_with(['"', '\'']) { "" } else { " " };
        return Some(format!("{inner}{blank}{WORDS}{quote}{end}"));
    }
    let boots = ["linux", "linux16", "linuxefi", "kernel", "options", "append", "APPEND"]
        .iter()
        .any(|word| {
            trimmed
                .strip_prefix(word)
                .is_some_and(|rest| rest.starts_with([' ', '\t']))
        });
    (boots && line.contains("root=")).then(|| format!("{} {WORDS}{end}", ended.trim_end()))
}

/// GRUB's environment block has a fixed length, filled with `#`.
fn environment_block(text: &str, length: usize) -> Option<String> {
    let body = text.trim_end_matches('#');
    (body.len() <= length).then(|| format!("{body}{}", "#".repeat(length - body.len())))
}

/// Names in boot entries that follow the bus, for facts.
pub(crate) fn names_in_boot_entries(root: &std::path::Path) -> Vec<String> {
    let plan = Plan::new(root);
    let mut files: Vec<String> = COMMAND_LINES.iter().map(|path| (*path).to_owned()).collect();
    for (folder, ending) in ENTRIES {
        files.extend(
            plan.names(folder)
                .into_iter()
                .filter(|name| name.ends_with(ending))
                .map(|name| format!("{folder}/{name}")),
        );
    }
    let mut found: Vec<String> = files
        .iter()
        .filter_map(|path| plan.text(path))
        .flat_map(|text| {
            text.lines()
                .filter(|line| !line.trim_start().starts_with('#'))
                .flat_map(settings)
                .collect::<Vec<_>>()
        })
        .filter(|(_, name)| follows_bus(name))
        .map(|(key, name)| format!("{key}{name}"))
        .collect();
    found.sort();
    found.dedup();
    found
}

#[cfg(test)]
mod tests {
    use super::{VolumeId, parse, parse_link, plan};
    use crate::fixup::plan::Plan;
    use std::fs;
    use std::path::Path;

    fn volume(disk: u32, partition: Option<u32>, content: &str, uuid: &str, is_root: bool) -> VolumeId {
        VolumeId {
            disk: Some(disk),
            partition,
            content: Some(content.into()),
            uuid: Some(uuid.into()),
            is_root,
        }
    }

    fn disks() -> Vec<VolumeId> {
        vec![
            volume(0, Some(1), "ext4", "11111111-1111-1111-1111-111111111111", true),
            volume(0, Some(5), "swap", "55555555-5555-5555-5555-555555555555", false),
            volume(1, None, "xfs", "22222222-2222-2222-2222-222222222222", false),
            volume(2, Some(1), "luks", "33333333-3333-3333-3333-333333333333", false),
        ]
    }

    fn tree(files: &[(&str, &str)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = dir.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        dir
    }

    fn planned(root: &Path, volumes: &[VolumeId], serial: bool) -> Plan {
        let mut made = Plan::new(root);
        plan(&mut made, volumes, serial);
        made
    }

    fn after(plan: &Plan, path: &str) -> String {
        plan.changes()
            .into_iter()
            .find(|change| change.path == path)
            .map(|change| change.after)
            .unwrap_or_default()
    }

    #[test]
    fn names_of_all_buses_are_understood_and_others_are_not() {
        assert_eq!(parse("/dev/sda1"), Some((0, Some(1))));
        assert_eq!(parse("/dev/hdc"), Some((2, None)));
        assert_eq!(parse("/dev/sdaa12"), Some((26, Some(12))));
        assert_eq!(parse("/dev/nvme1n1p2"), Some((1, Some(2))));
        for name in [
            "/dev/mapper/vg-root",
            "/dev/sda0",
            "/dev/sd",
            "/dev/sr0",
            "UUID=1",
            "/dev/md0",
            "/dev/sda1x",
        ] {
            assert_eq!(parse(name), None, "{name}");
        }
        assert_eq!(
            parse_link("/dev/disk/by-path/pci-0000:03:00.0-scsi-0:0:1:0-part2", 3),
            Some((1, Some(2)))
        );
        assert_eq!(
            parse_link("/dev/disk/by-id/wwn-0x6000c29f-part1", 1),
            Some((0, Some(1)))
        );
        assert_eq!(parse_link("/dev/disk/by-id/wwn-0x6000c29f-part1", 2), None);
        assert_eq!(parse_link("/dev/disk/by-id/dm-name-vg-root", 1), None);
    }

    #[test]
    fn fstab_and_crypttab_get_uuids_and_keep_everything_else() {
        let fstab = "# /dev/sda1 was here\n/dev/sda1\t/  ext4 defaults 0 1\n/dev/sda5 none swap sw 0 0\n/dev/sdb /srv xfs defaults 0 2\n/dev/mapper/vg-x /x ext4 defaults 0 0\n/dev/sr0 /media iso9660 ro 0 0\n";
        let dir = tree(&[("etc/fstab", fstab), ("etc/crypttab", "data /dev/sdc1 none luks\n")]);
        let made = planned(dir.path(), &disks(), false);
        assert_eq!(
            after(&made, "/etc/fstab"),
            "# /dev/sda1 was here\nUUID=11111111-1111-1111-1111-111111111111\t/  ext4 defaults 0 1\nUUID=55555555-5555-5555-5555-555555555555 none swap sw 0 0\nUUID=22222222-2222-2222-2222-222222222222 /srv xfs defaults 0 2\n/dev/mapper/vg-x /x ext4 defaults 0 0\n/dev/sr0 /media iso9660 ro 0 0\n"
        );
        assert_eq!(
            after(&made, "/etc/crypttab"),
            "data UUID=33333333-3333-3333-3333-333333333333 none luks\n"
        );
        made.apply().unwrap();
        assert!(
            planned(dir.path(), &disks(), false).changes().is_empty(),
            "a second run changes nothing"
        );
    }

    #[test]
    fn a_name_that_does_not_fit_what_lies_there_stays_and_is_said() {
        let dir = tree(&[(
            "etc/fstab",
            "/dev/sdb / ext4 defaults 0 1\n/dev/sdb1 /x auto defaults 0 0\n/dev/sda5 / swap x 0 0\n",
        )]);
        let made = planned(dir.path(), &disks(), false);
        assert!(made.changes().is_empty());
        assert_eq!(made.notes().len(), 3, "{:?}", made.notes());
        assert!(made.notes()[0].contains("another order"));
    }

    #[test]
    fn boot_entries_of_debian_red_hat_and_suse_name_the_root_by_uuid() {
        let dir = tree(&[
            (
                "boot/grub/grub.cfg",
                "menuentry 'x' {\n\tlinux /vmlinuz root=/dev/sda1 ro quiet\n\tlinux /vmlinuz root=/dev/sda10 ro\n}\n",
            ),
            (
                "etc/default/grub",
                "GRUB_CMDLINE_LINUX_DEFAULT=\"quiet resume=/dev/sda5\"\n",
            ),
            (
                "boot/loader/entries/a.conf",
                "title Rocky\noptions root=/dev/disk/by-path/pci-0000:03:00.0-scsi-0:0:0:0-part1 ro\n",
            ),
            ("etc/initramfs-tools/conf.d/resume", "RESUME=/dev/sda5\n"),
            (
                "boot/grub2/grubenv",
                &format!("{:#<1024}", "# GRUB Environment Block\nkernelopts=root=/dev/sda1 ro \n"),
            ),
        ]);
        let made = planned(dir.path(), &disks(), false);
        let root = "root=UUID=11111111-1111-1111-1111-111111111111";
        assert!(
            after(&made, "/boot/grub/grub.cfg")
                .contains(&format!("{root} ro quiet\n\tlinux /vmlinuz root=/dev/sda10 ro"))
        );
        assert!(after(&made, "/etc/default/grub").contains("resume=UUID=55555555-5555-5555-5555-555555555555\""));
        assert!(after(&made, "/boot/loader/entries/a.conf").contains(root));
        assert_eq!(
            after(&made, "/etc/initramfs-tools/conf.d/resume"),
            "RESUME=UUID=55555555-5555-5555-5555-555555555555\n"
        );
        let block = after(&made, "/boot/grub2/grubenv");
        assert!(block.len() == 1024 && block.contains(root), "{block}");
        made.apply().unwrap();
        assert!(planned(dir.path(), &disks(), false).changes().is_empty());
    }

    #[test]
    fn a_serial_console_is_added_once_and_only_where_it_is_wished() {
        let files = [
            (
                "boot/grub/grub.cfg",
                "  linux /vmlinuz root=UUID=1 ro\n  initrd /initrd\n",
            ),
            (
                "etc/default/grub",
                "GRUB_CMDLINE_LINUX=\"\"\nGRUB_CMDLINE_LINUX_DEFAULT=\"quiet\"\n",
            ),
        ];
        let dir = tree(&files);
        assert!(planned(dir.path(), &disks(), false).changes().is_empty());
        let made = planned(dir.path(), &disks(), true);
        assert_eq!(
            after(&made, "/boot/grub/grub.cfg"),
            "  linux /vmlinuz root=UUID=1 ro console=tty0 console=ttyS0,115200\n  initrd /initrd\n"
        );
        assert!(
            after(&made, "/etc/default/grub").starts_with("GRUB_CMDLINE_LINUX=\"console=tty0 console=ttyS0,115200\"\n")
        );
        made.apply().unwrap();
        assert!(planned(dir.path(), &disks(), true).changes().is_empty());
    }
}
