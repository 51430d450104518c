//! Changes that make a guest root ready for KVM. Runs inside that root; each change is listed with before and after.
//!
//! One so far: NIC names. Linux names NICs after their place on the bus (`ens192` on VMware), and the guest's network
//! configuration uses that name. A `.link` file of systemd-udevd binds the name to the MAC address instead, so that a static
//! address survives on platforms that cannot reproduce the slot.

use crate::inspect::text;
use esxodus_agent::protocol::NicName;
use serde::Deserialize;
use serde_json::{Value, json};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Wish {
    nics: Vec<NicName>,
    dry_run: bool,
}

/// Makes the changes asked for, or lists them.
pub(crate) fn fixup(wish: &str) -> io::Result<Value> {
    let wish: Wish = serde_json::from_str(wish).map_err(io::Error::other)?;
    let (mut changes, mut notes) = (Vec::new(), Vec::new());
    let udevd = ["/lib/systemd/systemd-udevd", "/usr/lib/systemd/systemd-udevd"];
    let can_name = udevd.iter().any(|path| fs::symlink_metadata(path).is_ok());
    let configuration = configuration(Path::new("/"));
    for nic in &wish.nics {
        let Some(user) = configuration.iter().find(|(_, text)| mentions(text, &nic.name)) else {
            notes.push(format!(
                "{}: no network configuration names it, nothing to keep",
                nic.name
            ));
            continue;
        };
        if !can_name {
            notes.push(format!(
                "{}: named in {}, but there is no systemd-udevd to bind it by MAC",
                nic.name, user.0
            ));
            continue;
        }
        if !is_plain(nic) {
            notes.push(format!(
                "{}: not a name or MAC that can be written into a link file",
                nic.name
            ));
            continue;
        }
        let path = format!("/etc/systemd/network/10-esxodus-{}.link", nic.name);
        let before = text(&path);
        let after = link_file(nic);
        if before.as_deref() == Some(after.as_str()) {
            continue;
        }
        if !wish.dry_run {
            fs::create_dir_all("/etc/systemd/network")?;
            fs::write(&path, &after).map_err(|error| io::Error::new(error.kind(), format!("{path}: {error}")))?;
        }
        let why = format!(
            "{} names {}, which is bound to its MAC so that the name stays",
            user.0, nic.name
        );
        changes.push(json!({"path": path, "before": before, "after": after, "why": why}));
    }
    rustix::fs::sync();
    Ok(json!({"changes": changes, "notes": notes, "dry_run": wish.dry_run}))
}

fn link_file(nic: &NicName) -> String {
    format!(
        "# Written by esxodus: keeps the name that the network configuration uses.\n[Match]\nMACAddress={}\n\n[Link]\nName={}\n",
        nic.mac, nic.name
    )
}

/// Interface names and MACs come from a VMX, which is a stranger's text.
fn is_plain(nic: &NicName) -> bool {
    let name =
        !nic.name.is_empty() && nic.name.len() <= 15 && nic.name.bytes().all(|byte| byte.is_ascii_alphanumeric());
    let mac = nic.mac.len() == 17 && nic.mac.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b':');
    name && mac
}

/// Files that may name interfaces, with their text: ifupdown, netplan, ifcfg, NetworkManager, systemd-networkd, wicked.
fn configuration(root: &Path) -> Vec<(String, String)> {
    let mut files: Vec<PathBuf> = vec![root.join("etc/network/interfaces")];
    for folder in [
        "etc/network/interfaces.d",
        "etc/netplan",
        "etc/sysconfig/network-scripts",
        "etc/sysconfig/network",
        "etc/NetworkManager/system-connections",
        "etc/systemd/network",
    ] {
        let Ok(entries) = fs::read_dir(root.join(folder)) else {
            continue;
        };
        files.extend(entries.flatten().map(|entry| entry.path()));
    }
    files.sort();
    files
        .into_iter()
        .filter(|path| path.extension().is_none_or(|extension| extension != "link"))
        .filter_map(|path| {
            // `ifcfg-ens192` says the name in its own name only.
            let named = format!("{}\n{}", path.file_name()?.to_string_lossy(), text(&path)?);
            Some((format!("/{}", path.strip_prefix(root).ok()?.display()), named))
        })
        .collect()
}

/// Does `text` hold `name` as a word of its own? `ens19` is not in `ens192`.
fn mentions(text: &str, name: &str) -> bool {
    text.lines()
        .filter(|line| !line.trim_start().starts_with('#'))
        .any(|line| {
            line.split(|c: char| !c.is_ascii_alphanumeric())
                .any(|word| word == name)
        })
}

#[cfg(test)]
mod tests {
    use super::{configuration, is_plain, link_file, mentions};
    use esxodus_agent::protocol::NicName;

    fn nic(name: &str, mac: &str) -> NicName {
        NicName {
            name: name.into(),
            mac: mac.into(),
        }
    }

    #[test]
    fn a_name_counts_only_as_a_word_outside_comments() {
        assert!(mentions("auto ens192\n", "ens192"));
        assert!(mentions("ifcfg-ens192\nBOOTPROTO=static", "ens192"));
        assert!(mentions("ethernets:\n  ens192:\n", "ens192"));
        assert!(!mentions("iface ens1920 inet dhcp", "ens192"));
        assert!(!mentions("# ens192 was here", "ens192"));
    }

    #[test]
    fn a_link_file_holds_nothing_but_a_plain_name_and_mac() {
        assert!(is_plain(&nic("ens192", "00:50:56:11:22:33")));
        assert!(!is_plain(&nic("ens192\nName=x", "00:50:56:11:22:33")));
        assert!(!is_plain(&nic("../../x", "00:50:56:11:22:33")));
        assert!(!is_plain(&nic("ens192", "00:50:56:11:22:33\n[Link]")));
        assert!(link_file(&nic("ens192", "00:50:56:11:22:33")).contains("MACAddress=00:50:56:11:22:33\n"));
    }

    #[test]
    fn all_places_of_network_configuration_are_read_and_link_files_are_not() {
        let root = std::env::temp_dir().join(format!("esxodus-fixup-{}", std::process::id()));
        for (path, text) in [
            ("etc/network/interfaces", "iface ens192 inet static"),
            ("etc/sysconfig/network-scripts/ifcfg-ens224", "IPADDR=192.0.2.1"),
            ("etc/systemd/network/10-esxodus-ens256.link", "Name=ens256"),
        ] {
            let path = root.join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        let found = configuration(&root);
        std::fs::remove_dir_all(&root).unwrap();
        let uses = |name: &str| found.iter().any(|(_, text)| mentions(text, name));
        assert!(uses("ens192") && uses("ens224") && !uses("ens256"));
        assert!(found.iter().any(|(path, _)| path == "/etc/network/interfaces"));
    }
}
