//! Looks at a guest's root, and works in it, from a child process that has made it its own root: a link in the guest can then
//! lead nowhere else.

use crate::{fixup, fstab};
use reports::schema::{SystemFacts, SystemKind};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read};
use std::path::Path;
use std::process::ExitCode;

/// A file of a guest is read up to so many bytes.
const MAX_TEXT: u64 = 256 << 10;

/// `in-root ROOT inspect|signs|inject|fixup|undo TASK`: one JSON document on standard output. TASK is a file of the appliance.
pub(crate) fn in_root(args: &[String]) -> ExitCode {
    let [root, action, task] = args else {
        eprintln!("usage: esxodus-agent in-root ROOT inspect|signs|inject|fixup|undo TASK");
        return ExitCode::from(2);
    };
    match enter(root, task).and_then(|(binary, task)| match action.as_str() {
        "inspect" => Ok(inspect()),
        "inject" => crate::inject::inject(&binary),
        "fixup" => fixup::fixup(&task),
        "undo" => fixup::undo(&task),
        "signs" => Ok(signs()),
        _ => Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("unknown action {action}"),
        )),
    }) {
        Ok(value) => {
            println!("{value}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("{action} in {root}: {error}");
            ExitCode::from(2)
        }
    }
}

/// Reads our own binary and the task, then makes `root` the root.
fn enter(root: &str, task: &str) -> io::Result<(Vec<u8>, String)> {
    let binary = fs::read("/proc/self/exe")?;
    let task = fs::read_to_string(task)?;
    rustix::process::chroot(root)?;
    rustix::process::chdir("/")?;
    Ok((binary, task))
}

/// Text of a regular file, cut at [`MAX_TEXT`].
pub(crate) fn text(path: impl AsRef<Path>) -> Option<String> {
    let path = path.as_ref();
    // Not a device or pipe: reading it could block for ever.
    if !fs::metadata(path).ok()?.is_file() {
        return None;
    }
    let mut bytes = Vec::new();
    fs::File::open(path).ok()?.take(MAX_TEXT).read_to_end(&mut bytes).ok()?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

fn names(folder: &str, keep: impl Fn(&str) -> bool) -> Vec<String> {
    let mut found: Vec<String> = fs::read_dir(folder)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| keep(name))
        .take(1000)
        .collect();
    found.sort();
    found
}

/// `KEY="value"` lines of os-release.
fn os_release(text: &str) -> BTreeMap<String, String> {
    text.lines()
        .filter_map(|line| line.split_once('='))
        .filter(|(key, _)| ["ID", "ID_LIKE", "VERSION_ID", "VERSION_CODENAME", "PRETTY_NAME"].contains(key))
        .map(|(key, value)| (key.to_lowercase(), value.trim_matches(['"', '\'']).to_owned()))
        .collect()
}

fn release() -> String {
    text("/etc/os-release")
        .or_else(|| text("/usr/lib/os-release"))
        .unwrap_or_default()
}

fn init() -> &'static str {
    let exists = |path: &str| fs::symlink_metadata(path).is_ok();
    if exists("/lib/systemd/systemd") || exists("/usr/lib/systemd/systemd") {
        "systemd"
    } else if exists("/sbin/openrc-run") {
        "openrc"
    } else if exists("/etc/init.d") && exists("/etc/rc2.d") {
        "sysvinit"
    } else {
        "unknown"
    }
}

/// What tells whether this root is the one that boots: the roots that its boot entries name, its own line in fstab, kernels.
fn signs() -> Value {
    let table = fstab::lines(&text("/etc/fstab").unwrap_or_default());
    json!({
        "entries": fixup::roots_in_boot_entries(Path::new("/")),
        "fstab": table.into_iter().find(|line| line.file == "/").map(|line| line.spec),
        "kernels": names("/boot", |name| name.starts_with("vmlinuz") || name.starts_with("vmlinux")).len(),
    })
}

fn inspect() -> Value {
    let networks: BTreeMap<String, String> = [
        ("/etc/network", "interfaces"),
        ("/etc/network/interfaces.d", ""),
        ("/etc/netplan", ""),
        ("/etc/systemd/network", ""),
        ("/etc/NetworkManager/system-connections", ""),
        ("/etc/sysconfig/network-scripts", "ifcfg-"),
        ("/etc/sysconfig/network", "ifcfg-"),
    ]
    .iter()
    .flat_map(|(folder, prefix)| {
        names(folder, |name| name.starts_with(prefix))
            .into_iter()
            .map(move |name| format!("{folder}/{name}"))
    })
    .filter_map(|path| {
        let text = text(&path)?;
        Some((path, text))
    })
    .collect();
    let exists = |path: &str| fs::symlink_metadata(path).is_ok();
    json!({
        "os": os_release(&release()),
        "init": init(),
        "hostname": text("/etc/hostname").map(|name| name.trim().to_owned()),
        "machine_id": text("/etc/machine-id").map(|id| id.trim().to_owned()),
        "fstab": fstab::lines(&text("/etc/fstab").unwrap_or_default()),
        "crypttab": text("/etc/crypttab"),
        "kernels": names("/boot", |name| name.starts_with("vmlinuz")),
        "initramfs": names("/boot", |name| name.starts_with("initrd") || name.starts_with("initramfs")),
        "modules": names("/lib/modules", |_| true),
        "grub": (["/boot/grub/grub.cfg", "/boot/grub2/grub.cfg"].iter().find(|path| exists(path))),
        "loader_entries": names("/boot/loader/entries", |name| name.ends_with(".conf")),
        "network": networks,
        "facts": facts(fixup::kernels(Path::new("/"))),
        "selinux": exists("/etc/selinux/config"),
        "vmware_tools": (["/usr/bin/vmtoolsd", "/usr/sbin/vmtoolsd", "/etc/vmware-tools"].iter().find(|path| exists(path))),
        "qemu_guest_agent": (["/usr/sbin/qemu-ga", "/usr/bin/qemu-ga"].iter().find(|path| exists(path))),
    })
}

/// The system, with its kernels as they were read.
pub(crate) fn facts(kernels: fixup::Kernels) -> SystemFacts {
    let root = Path::new("/");
    let (os, init) = (os_release(&release()), init());
    let told = |key: &str| os.get(key).cloned().unwrap_or_default();
    let here = |paths: &[&str]| {
        paths
            .iter()
            .find(|path| fs::symlink_metadata(path).is_ok())
            .map(|path| (*path).to_owned())
    };
    let (kernels, initramfs_tool) = kernels;
    let loaders = [
        ("grub2", &["/boot/grub/grub.cfg", "/boot/grub2/grub.cfg"][..]),
        ("grub-legacy", &["/boot/grub/menu.lst", "/boot/grub/grub.conf"]),
        (
            "systemd-boot",
            &[
                "/boot/loader/loader.conf",
                "/boot/efi/loader/loader.conf",
                "/efi/loader/loader.conf",
            ],
        ),
        (
            "extlinux",
            &["/boot/extlinux/extlinux.conf", "/boot/syslinux/syslinux.cfg"],
        ),
    ];
    SystemFacts {
        kind: SystemKind::Linux,
        name: told("pretty_name"),
        id: told("id"),
        version: told("version_id"),
        init: if init == "unknown" {
            String::new()
        } else {
            init.to_owned()
        },
        boot_loader: loaders
            .iter()
            .find(|(_, paths)| here(paths).is_some())
            .map(|(name, _)| (*name).to_owned()),
        initramfs_tool: initramfs_tool.map(str::to_owned),
        kernels,
        fstab: fstab::lines(&text("/etc/fstab").unwrap_or_default()),
        crypttab: text("/etc/crypttab")
            .unwrap_or_default()
            .lines()
            .map(str::trim)
            .filter(|line| !line.is_empty() && !line.starts_with('#'))
            .map(str::to_owned)
            .collect(),
        boot_device_names: fixup::names_in_boot_entries(root),
        interfaces: fixup::interfaces(root),
        vmware_tools: here(&["/usr/bin/vmtoolsd", "/usr/sbin/vmtoolsd", "/etc/vmware-tools"]),
        qemu_guest_agent: here(&["/usr/sbin/qemu-ga", "/usr/bin/qemu-ga"]),
        selinux: here(&["/etc/selinux/config"]).is_some(),
        services: enabled_services(),
        x11_vmware: x11_vmware(),
        ..SystemFacts::default()
    }
}

/// Units that a move has to know of, where systemd starts them: databases and licence servers.
fn enabled_services() -> BTreeMap<String, String> {
    let known = [
        "mysql",
        "mysqld",
        "mariadb",
        "postgresql",
        "mongod",
        "oracle",
        "db2",
        "mssql-server",
        "lmgrd",
        "flexlm",
        "aksusbd",
        "codemeter",
    ];
    let units = ["multi-user.target.wants", "graphical.target.wants"]
        .iter()
        .flat_map(|folder| {
            names(&format!("/etc/systemd/system/{folder}"), |name| {
                name.ends_with(".service")
            })
        });
    units
        .filter(|unit| {
            // `postgresql@15-main.service`, `oracle-database.service`.
            let name = unit.trim_end_matches(".service");
            let word = name.split(['@', '-']).next().unwrap_or(name);
            known.contains(&word) || known.contains(&name)
        })
        .map(|unit| (unit, "enabled".to_owned()))
        .collect()
}

/// A file of the X server's configuration that names VMware's driver.
fn x11_vmware() -> Option<String> {
    let more = names("/etc/X11/xorg.conf.d", |name| name.ends_with(".conf"))
        .into_iter()
        .map(|name| format!("/etc/X11/xorg.conf.d/{name}"));
    std::iter::once("/etc/X11/xorg.conf".to_owned())
        .chain(more)
        .find(|path| text(path).is_some_and(|text| names_vmware_driver(&text)))
}

/// `Driver "vmware"` outside of comments.
fn names_vmware_driver(text: &str) -> bool {
    text.lines().any(|line| {
        let mut words = line.split_whitespace();
        words.next().is_some_and(|word| word.eq_ignore_ascii_case("Driver"))
            && words.next().is_some_and(|word| word.trim_matches('"') == "vmware")
    })
}

#[cfg(test)]
mod tests {
    use super::{names_vmware_driver, os_release};

    #[test]
    fn a_driver_of_vmwares_display_is_seen_and_a_comment_is_not() {
        assert!(names_vmware_driver("Section \"Device\"\n  Driver  \"vmware\"\n"));
        assert!(!names_vmware_driver("# Driver \"vmware\"\nDriver \"modesetting\"\n"));
    }

    #[test]
    fn os_release_values_lose_their_quotes() {
        let found = os_release("PRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\nID=debian\nHOME_URL=x\n");
        assert_eq!(found["pretty_name"], "Debian GNU/Linux 12 (bookworm)");
        assert_eq!(found.len(), 2);
    }
}
