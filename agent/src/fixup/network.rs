//! NIC names that the guest's network configuration uses are kept.
//!
//! Linux names NICs after their place on the bus (`ens192` on VMware). A `.link` file of systemd-udevd binds the name to the MAC address
//! instead, so that a static address survives on platforms that cannot reproduce the slot; before systemd a udev rule does the same.

use super::plan::Plan;
use esxodus_agent::protocol::NicName;

/// Folders whose files may name interfaces: ifupdown, netplan, ifcfg, wicked, NetworkManager, systemd-networkd.
const FOLDERS: [&str; 6] = [
    "/etc/network/interfaces.d",
    "/etc/netplan",
    "/etc/sysconfig/network-scripts",
    "/etc/sysconfig/network",
    "/etc/NetworkManager/system-connections",
    "/etc/systemd/network",
];
const LINKS: &str = "/etc/systemd/network";
/// How the names of our own files begin.
const OURS: &str = "10-esxodus-";
const OLD_RULES: &str = "/etc/udev/rules.d/70-persistent-net.rules";

/// Plans a rule for each NIC whose name is used.
pub(crate) fn plan(plan: &mut Plan, nics: &[NicName]) {
    let systemd = ["/lib/systemd/systemd-udevd", "/usr/lib/systemd/systemd-udevd"]
        .iter()
        .any(|path| plan.exists(path));
    let old_udev = ["/sbin/udevd", "/usr/lib/udev/udevd", "/lib/udev/udevd"]
        .iter()
        .any(|path| plan.exists(path));
    let configuration = configuration(plan);
    for nic in nics {
        if !is_plain(nic) {
            plan.note(format!(
                "{}: not a name or MAC that can be written into a rule",
                nic.name
            ));
            continue;
        }
        let user = |name: &str| {
            let found = configuration.iter().find(|(_, text)| mentions(text, name));
            found.map(|(user, _)| user.clone())
        };
        let Some((name, user)) = user(&nic.name).map(|user| (nic.name.clone(), user)).or_else(|| {
            nic.kernel_name
                .clone()
                .and_then(|name| Some((name.clone(), user(&name)?)))
        }) else {
            plan.note(format!(
                "{}: no network configuration names it, nothing to keep",
                nic.name
            ));
            continue;
        };
        let why = format!("{user} names {name}, which is bound to its MAC so that the name stays");
        if systemd && name == nic.name {
            plan.set(&format!("{LINKS}/{OURS}{name}.link"), link_file(nic), why);
        } else if systemd {
            // The kernel itself gives out these names: udevd cannot swap two of them.
            if nics.len() > 1 {
                plan.note(format!(
                    "{name}: named in {user}; such names follow the order of the NICs, which the machine definition keeps"
                ));
            }
        } else if old_udev {
            let old = plan.text(OLD_RULES).unwrap_or_default();
            // Its own rule binds the MAC already, to whatever name.
            if !old.to_ascii_lowercase().contains(&nic.mac) {
                plan.set(OLD_RULES, old + &udev_rule(&name, &nic.mac), why);
            }
        } else {
            plan.note(format!(
                "{name}: named in {user}, but there is no udev to bind it by MAC"
            ));
        }
    }
}

/// Our own files that bind a name to a MAC, written or planned, with their text.
pub(super) fn links(plan: &Plan) -> Vec<(String, String)> {
    let mut paths: Vec<String> = plan
        .names(LINKS)
        .into_iter()
        .map(|name| format!("{LINKS}/{name}"))
        .collect();
    paths.extend(plan.planned(LINKS));
    paths.sort();
    paths.dedup();
    paths
        .into_iter()
        .filter(|path| path.starts_with(&format!("{LINKS}/{OURS}")) && path.ends_with(".link"))
        .filter_map(|path| Some((path.clone(), plan.text(&path)?)))
        .collect()
}

fn udev_rule(name: &str, mac: &str) -> String {
    format!(
        "# Written by esxodus: keeps the name that the network configuration uses.\nSUBSYSTEM==\"net\", ACTION==\"add\", DRIVERS==\"?*\", ATTR{{address}}==\"{mac}\", NAME=\"{name}\"\n"
    )
}

fn link_file(nic: &NicName) -> String {
    format!(
        "# Written by esxodus: keeps the name that the network configuration uses.\n[Match]\nMACAddress={}\n\n[Link]\nName={}\n",
        nic.mac, nic.name
    )
}

/// Interface names and MACs come from a VMX, which is a stranger's text.
fn is_plain(nic: &NicName) -> bool {
    let plain = |name: &str| (1..=15).contains(&name.len()) && name.bytes().all(|byte| byte.is_ascii_alphanumeric());
    let name = plain(&nic.name) && nic.kernel_name.as_deref().is_none_or(plain);
    let mac = nic.mac.len() == 17 && nic.mac.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b':');
    name && mac
}

/// Files that may name interfaces, with their text.
pub(crate) fn configuration(plan: &Plan) -> Vec<(String, String)> {
    let mut files = vec!["/etc/network/interfaces".to_owned()];
    for folder in FOLDERS {
        files.extend(
            plan.names(folder)
                .into_iter()
                .filter(|name| !name.ends_with(".link"))
                .map(|name| format!("{folder}/{name}")),
        );
    }
    files
        .into_iter()
        .filter_map(|path| {
            // `ifcfg-ens192` says the name in its own name only.
            let named = format!("{}\n{}", path.rsplit('/').next()?, plan.text(&path)?);
            Some((path, named))
        })
        .collect()
}

/// Interface names that the configuration uses, each with the first file that does: `ens192`, `eth0`, `enp11s0`.
pub(crate) fn interfaces(root: &std::path::Path) -> std::collections::BTreeMap<String, String> {
    let is_name = |word: &str| {
        let digits = word.find(|c: char| c.is_ascii_digit());
        ["ens", "enp", "eno", "eth"].iter().any(|start| word.starts_with(start))
            && digits == Some(3)
            && word.len() <= 15
    };
    let mut found = std::collections::BTreeMap::new();
    for (path, text) in configuration(&Plan::new(root)) {
        for line in text.lines().filter(|line| !line.trim_start().starts_with('#')) {
            for word in line
                .split(|c: char| !c.is_ascii_alphanumeric())
                .filter(|word| is_name(word))
            {
                found.entry(word.to_owned()).or_insert_with(|| path.clone());
            }
        }
    }
    found
}

/// Does `text` hold `name` as a word of its own? `ens19` is not in `ens192`.
pub(crate) fn mentions(text: &str, name: &str) -> bool {
    text.lines()
        .filter(|line| !line.trim_start().starts_with('#'))
        .any(|line| {
            line.split(|c: char| !c.is_ascii_alphanumeric())
                .any(|word| word == name)
        })
}

#[cfg(test)]
mod tests {
    use super::{is_plain, link_file, mentions, plan};
    use crate::fixup::plan::Plan;
    use esxodus_agent::protocol::NicName;

    fn nic(name: &str, mac: &str) -> NicName {
        NicName {
            name: name.into(),
            mac: mac.into(),
            kernel_name: None,
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

    fn tree(files: &[(&str, &str)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = dir.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        dir
    }

    #[test]
    fn every_family_of_network_configuration_keeps_its_name() {
        for (path, text) in [
            ("etc/network/interfaces", "iface ens192 inet static"),
            (
                "etc/netplan/01.yaml",
                "network:\n  ethernets:\n    ens192:\n      addresses: [192.0.2.10/24]\n",
            ),
            (
                "etc/sysconfig/network-scripts/ifcfg-ens192",
                "IPADDR=192.0.2.1\nHWADDR=00:50:56:11:22:33",
            ),
            ("etc/sysconfig/network/ifcfg-ens192", "IPADDR=192.0.2.1"),
            (
                "etc/NetworkManager/system-connections/lan.nmconnection",
                "[connection]\ninterface-name=ens192\n",
            ),
            ("etc/systemd/network/10-lan.network", "[Match]\nName=ens192\n"),
        ] {
            let dir = tree(&[(path, text), ("lib/systemd/systemd-udevd", "")]);
            let mut made = Plan::new(dir.path());
            plan(
                &mut made,
                &[nic("ens192", "00:50:56:11:22:33"), nic("ens224", "00:50:56:11:22:34")],
            );
            let paths: Vec<String> = made.changes().into_iter().map(|change| change.path).collect();
            assert_eq!(paths, ["/etc/systemd/network/10-esxodus-ens192.link"], "{path}");
            assert_eq!(made.notes().len(), 1, "{path}: ens224 is not used");
            made.apply().unwrap();
            let mut again = Plan::new(dir.path());
            plan(&mut again, &[nic("ens192", "00:50:56:11:22:33")]);
            assert!(again.changes().is_empty(), "{path}");
        }
    }

    #[test]
    fn before_systemd_a_udev_rule_keeps_the_name_unless_one_is_there() {
        let dir = tree(&[
            ("etc/sysconfig/network-scripts/ifcfg-eth0", "DEVICE=eth0"),
            ("sbin/udevd", ""),
        ]);
        let nics = [NicName {
            kernel_name: Some("eth0".into()),
            ..nic("ens192", "00:50:56:11:22:33")
        }];
        let mut made = Plan::new(dir.path());
        plan(&mut made, &nics);
        assert_eq!(made.changes()[0].path, super::OLD_RULES);
        assert!(made.changes()[0].after.contains("00:50:56:11:22:33\", NAME=\"eth0\""));
        made.apply().unwrap();
        let mut again = Plan::new(dir.path());
        plan(&mut again, &nics);
        assert!(again.changes().is_empty());
    }

    #[test]
    fn systemd_is_not_asked_to_give_out_a_name_of_the_kernels_own() {
        let dir = tree(&[
            (
                "etc/network/interfaces",
                "iface eth0 inet static\niface eth1 inet static\n",
            ),
            ("lib/systemd/systemd-udevd", ""),
        ]);
        let named = |kernel: &str, name: &str, mac: &str| NicName {
            kernel_name: Some(kernel.into()),
            ..nic(name, mac)
        };
        let nics = [
            named("eth0", "ens192", "00:50:56:11:22:33"),
            named("eth1", "ens224", "00:50:56:11:22:34"),
        ];
        let mut made = Plan::new(dir.path());
        plan(&mut made, &nics);
        assert!(made.changes().is_empty());
        assert_eq!(made.notes().len(), 2, "{:?}", made.notes());
    }
}
