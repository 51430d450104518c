//! Looks at a guest's root, and works in it, from a child process that has made it its own root: a link in the guest can then
//! lead nowhere else.

use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read};
use std::path::Path;
use std::process::ExitCode;

/// A file of a guest is read up to so many bytes.
const MAX_TEXT: u64 = 256 << 10;

/// `in-root ROOT inspect|inject|fixup [WISH]`: one JSON document on standard output.
pub(crate) fn in_root(args: &[String]) -> ExitCode {
    let [root, action, wish @ ..] = args else {
        eprintln!("usage: esxodus-agent in-root ROOT inspect|inject|fixup [WISH]");
        return ExitCode::from(2);
    };
    match enter(root).and_then(|binary| match action.as_str() {
        "inspect" => Ok(inspect()),
        "inject" => crate::inject::inject(&binary),
        "fixup" => crate::fixup::fixup(wish.first().map_or("{}", String::as_str)),
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

/// Reads our own binary, then makes `root` the root.
fn enter(root: &str) -> io::Result<Vec<u8>> {
    let binary = fs::read("/proc/self/exe")?;
    rustix::process::chroot(root)?;
    rustix::process::chdir("/")?;
    Ok(binary)
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

fn fstab(text: &str) -> Vec<Value> {
    text.lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .map(|line| {
            let fields: Vec<&str> = line.split_whitespace().collect();
            let field = |index: usize| fields.get(index).copied().unwrap_or("");
            json!({"spec": field(0), "file": field(1), "type": field(2), "options": field(3)})
        })
        .collect()
}

fn inspect() -> Value {
    let release = text("/etc/os-release")
        .or_else(|| text("/usr/lib/os-release"))
        .unwrap_or_default();
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
    let init = if exists("/lib/systemd/systemd") || exists("/usr/lib/systemd/systemd") {
        "systemd"
    } else if exists("/sbin/openrc-run") {
        "openrc"
    } else if exists("/etc/init.d") && exists("/etc/rc2.d") {
        "sysvinit"
    } else {
        "unknown"
    };
    json!({
        "os": os_release(&release),
        "init": init,
        "hostname": text("/etc/hostname").map(|name| name.trim().to_owned()),
        "machine_id": text("/etc/machine-id").map(|id| id.trim().to_owned()),
        "fstab": fstab(&text("/etc/fstab").unwrap_or_default()),
        "crypttab": text("/etc/crypttab"),
        "kernels": names("/boot", |name| name.starts_with("vmlinuz")),
        "initramfs": names("/boot", |name| name.starts_with("initrd") || name.starts_with("initramfs")),
        "modules": names("/lib/modules", |_| true),
        "grub": (["/boot/grub/grub.cfg", "/boot/grub2/grub.cfg"].iter().find(|path| exists(path))),
        "loader_entries": names("/boot/loader/entries", |name| name.ends_with(".conf")),
        "network": networks,
        "selinux": exists("/etc/selinux/config"),
        "vmware_tools": (["/usr/bin/vmtoolsd", "/usr/sbin/vmtoolsd", "/etc/vmware-tools"].iter().find(|path| exists(path))),
        "qemu_guest_agent": (["/usr/sbin/qemu-ga", "/usr/bin/qemu-ga"].iter().find(|path| exists(path))),
    })
}

#[cfg(test)]
mod tests {
    use super::{fstab, os_release};

    #[test]
    fn os_release_values_lose_their_quotes() {
        let found = os_release("PRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\nID=debian\nHOME_URL=x\n");
        assert_eq!(found["pretty_name"], "Debian GNU/Linux 12 (bookworm)");
        assert_eq!(found.len(), 2);
    }

    #[test]
    fn fstab_comments_are_left_out() {
        let found = fstab("# comment\nUUID=1 / ext4 defaults 0 1\n\n");
        assert_eq!((found.len(), found[0]["file"].as_str()), (1, Some("/")));
    }
}
