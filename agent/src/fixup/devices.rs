//! Device names that follow the bus (`/dev/sda1`) become UUIDs: in fstab, crypttab, boot entries and resume settings. On virtio-blk the
//! same disk is called `/dev/vda`.

use super::names::{Resolver, follows_bus};
use super::plan::Plan;

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

/// Plans all of them.
pub(crate) fn plan(plan: &mut Plan, resolver: &Resolver<'_>, serial_console: bool) {
    table(plan, resolver, "/etc/fstab", 0);
    table(plan, resolver, "/etc/crypttab", 1);
    let mut seen: Vec<std::path::PathBuf> = Vec::new();
    for path in command_line_files(plan) {
        // /boot/grub2/grubenv of UEFI systems is a link to the other one.
        let Ok(place) = std::fs::canonicalize(plan.place(&path)) else {
            continue;
        };
        if !seen.contains(&place) {
            command_lines(plan, resolver, &path, serial_console);
            seen.push(place);
        }
    }
}

/// Files that may hold command lines, whether they are there or not.
fn command_line_files(plan: &Plan) -> Vec<String> {
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
    files
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
        } else if line.contains("plain") {
            ""
        } else {
            "luks"
        };
        let root = is_fstab && fields.get(1) == Some(&"/");
        if ["iso9660", "udf"].contains(&kind) || name.starts_with("/dev/sr") {
            out.push_str(line);
            continue;
        }
        if !is_fstab && is_made_anew(&fields) {
            plan.note(format!(
                "{path}: {name} stays: it is encrypted with a new key at each boot, so a UUID on it is an old one"
            ));
            out.push_str(line);
            continue;
        }
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

/// A crypttab line whose volume is formatted at each boot. Its place is its only name; a signature on it is left from before.
fn is_made_anew(fields: &[&str]) -> bool {
    let key = fields.get(2).copied().unwrap_or("");
    let options = fields.get(3).copied().unwrap_or("");
    ["/dev/urandom", "/dev/random", "/dev/hwrng"].contains(&key)
        || options
            .split(',')
            .any(|option| option == "swap" || option == "tmp" || option.starts_with("tmp="))
}

/// Kernel command lines: `root=` and `resume=` by UUID; a serial console where it is wished.
fn command_lines(plan: &mut Plan, resolver: &Resolver<'_>, path: &str, serial_console: bool) {
    let Some(text) = plan.text(path) else { return };
    let Edited {
        text: mut out,
        mut why,
        notes,
    } = by_uuid(resolver, &text);
    for note in notes {
        plan.note(format!("{path}: {note}"));
    }
    if serial_console {
        let mut with = String::with_capacity(out.len());
        let mut added = false;
        for line in out.split_inclusive('\n') {
            let console = (!is_comment(line)).then(|| with_serial_console(line, path)).flatten();
            added |= console.is_some();
            with.push_str(console.as_deref().unwrap_or(line));
        }
        out = with;
        why.extend(added.then(|| "serial console, as wished".to_owned()));
    }
    if why.is_empty() {
        return;
    }
    if path.ends_with("/grubenv") {
        match environment_block(&out, text.len()) {
            Some(block) => out = block,
            None => return plan.note(format!("{path}: no room for it in its {} bytes", text.len())),
        }
    }
    let why = why.join(", ");
    plan.set(path, out, why);
}

/// A text whose devices are named by UUID as far as they can be.
#[derive(Debug, Default)]
pub(crate) struct Edited {
    pub(crate) text: String,
    /// What became of which name. Empty: nothing is to be changed.
    pub(crate) why: Vec<String>,
    /// Names that stay, and why.
    notes: Vec<String>,
}

/// Debian's GRUB legacy keeps its settings in comments.
fn is_comment(line: &str) -> bool {
    line.trim_start().starts_with('#') && !line.starts_with("# kopt=")
}

/// The values of [`KEYS`] in a text by UUID.
pub(crate) fn by_uuid(resolver: &Resolver<'_>, text: &str) -> Edited {
    let mut edited = Edited {
        text: String::with_capacity(text.len()),
        ..Edited::default()
    };
    for line in text.split_inclusive('\n') {
        let mut new = line.to_owned();
        for (key, name) in settings(line) {
            if is_comment(line) || !follows_bus(&name) {
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
                    let words = format!("{key}{name} is {key}{uuid}");
                    if !edited.why.contains(&words) {
                        edited.why.push(words);
                    }
                }
                Err(reason) => edited.notes.push(format!("{key}{name} stays: {reason}")),
            }
        }
        edited.text.push_str(&new);
    }
    edited
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

fn with_serial_console(line: &str, path: &str) -> Option<String> {
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
    // An entry of the Boot Loader Specification may take all else from grubenv's `kernelopts`, which then gets the words.
    let entry = path.contains("/loader/entries/") && !line.contains("$kernelopts");
    let wanted = boots && (line.contains("root=") || entry)
        || trimmed.starts_with("kernelopts=")
        || path == "/etc/kernel/cmdline" && !trimmed.is_empty();
    wanted.then(|| format!("{} {WORDS}{end}", ended.trim_end()))
}

/// GRUB's environment block has a fixed length, filled with `#`.
fn environment_block(text: &str, length: usize) -> Option<String> {
    let body = text.trim_end_matches('#');
    (body.len() <= length).then(|| format!("{body}{}", "#".repeat(length - body.len())))
}

/// Values of `root=` and the other settings in the boot entries below `root`, as key and value.
fn settings_of_entries(root: &std::path::Path) -> Vec<(&'static str, String)> {
    let plan = Plan::new(root);
    command_line_files(&plan)
        .iter()
        .filter_map(|path| plan.text(path))
        .flat_map(|text| {
            text.lines()
                .filter(|line| !line.trim_start().starts_with('#'))
                .flat_map(settings)
                .collect::<Vec<_>>()
        })
        .collect()
}

/// Names in boot entries that follow the bus, for facts.
pub(crate) fn names_in_boot_entries(root: &std::path::Path) -> Vec<String> {
    let mut found: Vec<String> = settings_of_entries(root)
        .into_iter()
        .filter(|(_, name)| follows_bus(name))
        .map(|(key, name)| format!("{key}{name}"))
        .collect();
    found.sort();
    found.dedup();
    found
}

/// The roots that boot entries name, as they write them: `UUID=…`, `/dev/mapper/vg-root`.
pub(crate) fn roots_in_boot_entries(root: &std::path::Path) -> Vec<String> {
    let mut found: Vec<String> = settings_of_entries(root)
        .into_iter()
        .filter(|(key, name)| *key == "root=" && !name.is_empty() && !name.starts_with('$'))
        .map(|(_, name)| name)
        .collect();
    found.sort();
    found.dedup();
    found
}

#[cfg(test)]
mod tests {
    use super::{Resolver, names_in_boot_entries, plan};
    use crate::fixup::names::VolumeId;
    use crate::fixup::plan::Plan;
    use esxodus_agent::protocol::DiskSlot;
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
        let slots = [0, 1, 8].map(|unit| DiskSlot {
            bus: "scsi".into(),
            controller: 0,
            unit,
        });
        let mut made = Plan::new(root);
        plan(&mut made, &Resolver::new(volumes, &slots), serial);
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
    fn a_swap_with_a_new_key_at_each_boot_keeps_its_place() {
        let dir = tree(&[(
            "etc/crypttab",
            "swap /dev/sda5 /dev/urandom swap,cipher=aes-xts-plain64\nscratch /dev/sdb /key tmp=xfs\n",
        )]);
        let made = planned(dir.path(), &disks(), false);
        assert!(made.changes().is_empty(), "{:?}", made.changes());
        assert_eq!(made.notes().len(), 2);
    }

    #[test]
    fn entries_on_the_efi_partition_count_for_facts_too() {
        let dir = tree(&[("boot/efi/EFI/debian/grub.cfg", "linux /vmlinuz root=/dev/sda1\n")]);
        assert_eq!(names_in_boot_entries(dir.path()), ["root=/dev/sda1"]);
    }

    #[test]
    fn fstab_and_crypttab_get_uuids_and_keep_everything_else() {
        let fstab = "# /dev/sda1 was here\n/dev/sda1\t/  ext4 defaults 0 1\n/dev/sda5 none swap sw 0 0\n/dev/sdb /srv xfs defaults 0 2\n/dev/mapper/vg-x /x ext4 defaults 0 0\n/dev/sr0 /media iso9660 ro 0 0\n";
        let dir = tree(&[("etc/fstab", fstab), ("etc/crypttab", "data /dev/sdc1 none luks\n")]);
        let mut made = planned(dir.path(), &disks(), false);
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
        let mut made = planned(dir.path(), &disks(), false);
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
        let mut made = planned(dir.path(), &disks(), true);
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

    #[test]
    fn a_serial_console_reaches_entries_that_name_no_root() {
        let block = format!("{:#<1024}", "# GRUB Environment Block\nkernelopts=ro quiet\n");
        let dir = tree(&[
            (
                "boot/loader/entries/a.conf",
                "title Rocky 8\noptions $kernelopts $tuned_params\n",
            ),
            ("boot/loader/entries/b.conf", "title Fedora\noptions ro quiet\n"),
            ("boot/grub2/grubenv", &block),
            ("etc/kernel/cmdline", "ro quiet\n"),
        ]);
        let mut made = planned(dir.path(), &disks(), true);
        assert_eq!(
            after(&made, "/boot/loader/entries/a.conf"),
            "",
            "grubenv gives it the words"
        );
        for (path, line) in [
            ("/boot/loader/entries/b.conf", "options ro quiet"),
            ("/boot/grub2/grubenv", "kernelopts=ro quiet"),
            ("/etc/kernel/cmdline", "ro quiet"),
        ] {
            let text = after(&made, path);
            assert!(
                text.contains(&format!("{line} console=tty0 console=ttyS0,115200\n")),
                "{path}: {text}"
            );
        }
        made.apply().unwrap();
        assert!(planned(dir.path(), &disks(), true).changes().is_empty());
    }
}
