//! VMware's services and modules are switched off where they would fail, not deleted; the QEMU guest agent is switched on where it is
//! installed.

use super::plan::Plan;

const UNIT_FOLDERS: [&str; 3] = ["/etc/systemd/system", "/lib/systemd/system", "/usr/lib/systemd/system"];
/// Services of open-vm-tools and of VMware's own package.
const VMWARE_UNITS: [&str; 9] = [
    "open-vm-tools.service",
    "vmtoolsd.service",
    "vgauth.service",
    "vgauthd.service",
    "vmware-tools.service",
    "vmware-tools-thinprint.service",
    "run-vmblock\\x2dfuse.mount",
    "run-vmblock-fuse.mount",
    "vmware-vmblock-fuse.service",
];
/// Modules that do nothing but fail away from VMware's hypervisor.
const VMWARE_MODULES: [&str; 8] = [
    "vmw_balloon",
    "vmw_vmci",
    "vmw_vsock_vmci_transport",
    "vmhgfs",
    "vmblock",
    "vmci",
    "vsock",
    "vmmemctl",
];

/// Names that VMware's package and open-vm-tools gave their services before systemd.
const VMWARE_JOBS: [&str; 6] = [
    "vmware-tools",
    "vmware-tools-thinprint",
    "open-vm-tools",
    "vmtoolsd",
    "vmware-tools-services",
    "vgauthd",
];
/// DMI names the hypervisor's maker to every user, without a program.
const GUARD: &str =
    "grep -qi vmware /sys/class/dmi/id/sys_vendor 2>/dev/null || exit 0 # esxodus: not wanted away from VMware";

/// Plans all of them.
pub(crate) fn plan(plan: &mut Plan) {
    for unit in VMWARE_UNITS {
        condition(plan, unit);
    }
    let mut lists = vec!["/etc/modules".to_owned()];
    for name in plan.names("/etc/modules-load.d") {
        lists.push(format!("/etc/modules-load.d/{name}"));
    }
    for list in lists {
        comment_out(plan, &list);
    }
    old_services(plan);
    guest_agent(plan);
}

/// Services of init systems before systemd, which know no conditions: Upstart's job gets an override, a start script of System V a line
/// that leaves it away from VMware.
fn old_services(plan: &mut Plan) {
    let why = |name: &str| format!("{name} belongs to VMware's hypervisor");
    for job in VMWARE_JOBS {
        let file = format!("/etc/init/{job}.conf");
        let path = format!("/etc/init/{job}.override");
        if plan.exists(&file) && !plan.exists(&path) {
            plan.set(
                &path,
                "# Written by esxodus: not wanted away from VMware.\nmanual\n".to_owned(),
                why(&file),
            );
        }
    }
    let systemd = ["/lib/systemd/systemd", "/usr/lib/systemd/systemd"]
        .iter()
        .any(|path| plan.exists(path));
    for script in VMWARE_JOBS.iter().filter(|_| !systemd) {
        let path = format!("/etc/init.d/{script}");
        let Some(text) = plan.text(&path) else { continue };
        let Some((first, rest)) = text
            .split_once('\n')
            .filter(|(first, _)| first.starts_with("#!") && first.ends_with("sh"))
        else {
            continue;
        };
        if !text.contains(GUARD) {
            plan.set(&path, format!("{first}\n{GUARD}\n{rest}"), why(script));
        }
    }
}

/// A condition instead of a mask: the service starts again where the guest is moved back.
fn condition(plan: &mut Plan, unit: &str) {
    let Some(text) = UNIT_FOLDERS
        .iter()
        .find_map(|folder| plan.text(&format!("{folder}/{unit}")))
    else {
        return;
    };
    if text.lines().any(|line| line.trim() == "ConditionVirtualization=vmware") {
        return;
    }
    let path = format!("/etc/systemd/system/{unit}.d/esxodus.conf");
    let text = "# Written by esxodus: not wanted away from VMware, and back again there.\n[Unit]\nConditionVirtualization=vmware\n";
    plan.set(&path, text.to_owned(), format!("{unit} belongs to VMware's hypervisor"));
}

fn comment_out(plan: &mut Plan, path: &str) {
    let Some(text) = plan.text(path) else { return };
    let mut gone = Vec::new();
    let new: String = text
        .split_inclusive('\n')
        .map(|line| {
            let word = line.split_whitespace().next().unwrap_or("").replace('-', "_");
            if VMWARE_MODULES.contains(&word.as_str()) {
                gone.push(word);
                format!("# esxodus: not on KVM: {line}")
            } else {
                line.to_owned()
            }
        })
        .collect();
    if !gone.is_empty() {
        plan.set(
            path,
            new,
            format!("{} cannot be loaded away from VMware's hypervisor", gone.join(", ")),
        );
    }
}

fn guest_agent(plan: &mut Plan) {
    for unit in ["qemu-guest-agent.service", "qemu-ga.service"] {
        let found = UNIT_FOLDERS[1..]
            .iter()
            .map(|folder| format!("{folder}/{unit}"))
            .find(|path| plan.exists(path));
        let Some(file) = found else { continue };
        let text = plan.text(&file).unwrap_or_default();
        let wanted_by: Vec<&str> = text
            .lines()
            .filter_map(|line| line.trim().strip_prefix("WantedBy="))
            .flat_map(str::split_whitespace)
            .filter(|name| !name.contains('/'))
            .collect();
        // A static unit is started by a udev rule of its package.
        for target in wanted_by {
            let link = format!("/etc/systemd/system/{target}.wants/{unit}");
            plan.link(&link, &file, "the QEMU guest agent is installed");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::plan;
    use crate::fixup::plan::Plan;
    use std::fs;

    #[test]
    fn vmware_services_get_a_condition_and_the_guest_agent_is_enabled_once() {
        let dir = tempfile::tempdir().unwrap();
        for (path, text) in [
            (
                "lib/systemd/system/open-vm-tools.service",
                "[Unit]\nConditionVirtualization=vmware\n",
            ),
            (
                "usr/lib/systemd/system/vmware-tools.service",
                "[Service]\nExecStart=/etc/vmware-tools/x\n",
            ),
            (
                "lib/systemd/system/qemu-guest-agent.service",
                "[Install]\nWantedBy=dev-virtio\\x2dports-org.qemu.guest_agent.0.device\n",
            ),
            ("etc/modules", "loop\nvmw_balloon\n"),
        ] {
            let path = dir.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        let mut made = Plan::new(dir.path());
        plan(&mut made);
        let paths: Vec<String> = made.changes().into_iter().map(|change| change.path).collect();
        assert_eq!(
            paths,
            [
                "/etc/systemd/system/vmware-tools.service.d/esxodus.conf",
                "/etc/modules",
                "/etc/systemd/system/dev-virtio\\x2dports-org.qemu.guest_agent.0.device.wants/qemu-guest-agent.service"
            ]
        );
        assert_eq!(
            made.text("/etc/modules").unwrap(),
            "loop\n# esxodus: not on KVM: vmw_balloon\n"
        );
        made.apply().unwrap();
        let mut again = Plan::new(dir.path());
        plan(&mut again);
        assert!(again.changes().is_empty());
    }

    #[test]
    fn services_of_older_init_systems_stay_away_from_kvm_too() {
        let dir = tempfile::tempdir().unwrap();
        let script = "#!/bin/sh\n### BEGIN INIT INFO\nstart() { :; }\n";
        for (path, text) in [
            ("etc/init/vmware-tools.conf", "start on runlevel [2345]\n"),
            ("etc/init.d/vmware-tools", script),
            ("etc/init.d/open-vm-tools", "#!/usr/bin/perl\n"),
        ] {
            let path = dir.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        let mut made = Plan::new(dir.path());
        plan(&mut made);
        let paths: Vec<String> = made.changes().into_iter().map(|change| change.path).collect();
        assert_eq!(paths, ["/etc/init/vmware-tools.override", "/etc/init.d/vmware-tools"]);
        made.apply().unwrap();
        let path = dir.path().join("etc/init.d/vmware-tools");
        let text = fs::read_to_string(&path).unwrap();
        assert!(
            text.starts_with("#!/bin/sh\ngrep -qi vmware") && text.ends_with("start() { :; }\n"),
            "{text}"
        );
        let mut again = Plan::new(dir.path());
        plan(&mut again);
        assert!(again.changes().is_empty());
        // The line itself: a shell goes on behind it only at VMware.
        let vendor = fs::read_to_string("/sys/class/dmi/id/sys_vendor").unwrap_or_default();
        let shell = std::process::Command::new("sh")
            .args(["-c", &format!("{}\necho went on", super::GUARD)])
            .output()
            .unwrap();
        assert_eq!(shell.stdout.is_empty(), !vendor.to_lowercase().contains("vmware"));
    }
}
