//! How the running guest is, seen from inside. Every fact is optional: an old guest has fewer tools.

use crate::{exec, serve};
use serde_json::{Value, json};
use std::fs;
use std::path::Path;
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(20);

fn line(path: impl AsRef<Path>) -> Option<String> {
    fs::read_to_string(path).ok().map(|text| text.trim().to_owned())
}

fn driver(device: &Path) -> Option<String> {
    let link = fs::read_link(device.join("driver")).ok()?;
    Some(link.file_name()?.to_string_lossy().into_owned())
}

fn folder(path: &str) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(path)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect();
    names.sort();
    names
}

fn nics() -> Vec<Value> {
    let addresses: Vec<Value> = exec::text(&["ip", "-j", "address"], PATIENCE)
        .and_then(|text| serde_json::from_str(&text).ok())
        .unwrap_or_default();
    folder("/sys/class/net")
        .into_iter()
        .filter(|name| name != "lo")
        .map(|name| {
            let path = Path::new("/sys/class/net").join(&name);
            let found: Vec<String> = addresses
                .iter()
                .filter(|entry| entry["ifname"] == json!(name))
                .flat_map(|entry| entry["addr_info"].as_array().cloned().unwrap_or_default())
                .filter_map(|address| Some(format!("{}/{}", address["local"].as_str()?, address["prefixlen"])))
                .collect();
            json!({"name": name, "mac": line(path.join("address")), "state": line(path.join("operstate")),
                   "driver": driver(&path.join("device")), "addresses": found})
        })
        .collect()
}

fn disks(mounts: &str) -> Vec<Value> {
    folder("/sys/block")
        .into_iter()
        .filter(|name| {
            !["ram", "loop", "zram", "fd"]
                .iter()
                .any(|prefix| name.starts_with(prefix))
        })
        .map(|name| {
            let path = Path::new("/sys/block").join(&name);
            // sd disks hang below the HBA: the nearest driver above the disk that is not the SCSI disk driver itself.
            let device = fs::canonicalize(path.join("device")).ok();
            let above = device.as_deref().and_then(|device| {
                device
                    .ancestors()
                    .filter_map(driver)
                    .find(|name| !["sd", "sr"].contains(&name.as_str()))
            });
            let sectors = line(path.join("size")).and_then(|text| text.parse::<u64>().ok());
            json!({"name": name, "driver": above, "bytes": sectors.and_then(|sectors| sectors.checked_mul(512)),
                   "serial": line(path.join("serial")).or_else(|| line(path.join("device/serial"))),
                   "model": line(path.join("device/model")), "mounts": mounts_on(&name, mounts)})
        })
        .collect()
}

/// The disks below a block device: itself, that of its partition, those of a device-mapper volume's members.
fn disks_below(device: &str, depth: usize) -> Vec<String> {
    let path = Path::new("/sys/class/block").join(device);
    let members: Vec<String> = folder(&path.join("slaves").to_string_lossy());
    if !members.is_empty() && depth > 0 {
        return members
            .iter()
            .flat_map(|member| disks_below(member, depth - 1))
            .collect();
    }
    let own = fs::canonicalize(&path).ok();
    let whole = own
        .filter(|_| path.join("partition").exists())
        .and_then(|own| Some(own.parent()?.file_name()?.to_string_lossy().into_owned()));
    vec![whole.unwrap_or_else(|| device.to_owned())]
}

/// Mount points of file systems that lie, wholly or partly, on `disk`.
fn mounts_on(disk: &str, mounts: &str) -> Vec<String> {
    let mut found: Vec<String> = mounts
        .lines()
        .filter_map(|line| {
            let mut fields = line.split_whitespace();
            let (device, target) = (fields.next()?, fields.next()?);
            // /dev/mapper/vg-root and /dev/vg/root are links to dm-0.
            let node = fs::canonicalize(Path::new(device).strip_prefix("/dev").ok().map(|_| device)?).ok()?;
            let node = node.file_name()?.to_string_lossy().into_owned();
            disks_below(&node, 8)
                .iter()
                .any(|below| below == disk)
                .then(|| target.to_owned())
        })
        .collect();
    found.dedup();
    found
}

/// What a unit said last, so that a failed one needs no second boot.
fn last_lines(unit: &str) -> Vec<String> {
    exec::text(
        &["journalctl", "-b", "-u", unit, "-n", "5", "-o", "cat", "--no-pager"],
        PATIENCE,
    )
    .unwrap_or_default()
    .lines()
    .map(|line| line.chars().take(200).collect())
    .collect()
}

/// Programs of VMware Tools that run: useless here, and some keep writing errors.
fn vmware_programs() -> Vec<String> {
    let known = ["vmtoolsd", "VGAuthService", "vmware-vmblock-", "vmhgfs-fuse"];
    let mut found: Vec<String> = folder("/proc")
        .iter()
        .filter(|name| name.bytes().all(|byte| byte.is_ascii_digit()))
        .filter_map(|process| line(Path::new("/proc").join(process).join("comm")))
        .filter(|comm| known.contains(&comm.as_str()))
        .collect();
    found.sort();
    found.dedup();
    found
}

/// Does fstab name swap, and is none in use?
fn swap_missing(fstab: &str, swaps: &str) -> bool {
    let wanted = fstab
        .lines()
        .map(str::trim)
        .filter(|line| !line.starts_with('#'))
        .any(|line| {
            let fields: Vec<&str> = line.split_whitespace().collect();
            fields.get(2) == Some(&"swap")
                && !fields
                    .get(3)
                    .is_some_and(|options| options.split(',').any(|option| option == "noauto"))
        });
    wanted && swaps.lines().count() < 2
}

/// Mount points of fstab that should be mounted and are not.
fn missing_mounts(fstab: &str, mounts: &str) -> Vec<String> {
    let mounted: Vec<&str> = mounts
        .lines()
        .filter_map(|line| line.split_whitespace().nth(1))
        .collect();
    fstab
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .filter_map(|line| {
            let fields: Vec<&str> = line.split_whitespace().collect();
            let (target, kind, options) = (*fields.get(1)?, *fields.get(2)?, fields.get(3).copied().unwrap_or(""));
            let wanted =
                target.starts_with('/') && kind != "swap" && !options.split(',').any(|option| option == "noauto");
            let trimmed = if target == "/" {
                target
            } else {
                target.trim_end_matches('/')
            };
            (wanted && !mounted.contains(&trimmed)).then(|| target.to_owned())
        })
        .collect()
}

/// The facts.
pub(crate) fn gather() -> Value {
    let mounts = fs::read_to_string("/proc/mounts").unwrap_or_default();
    let fstab = fs::read_to_string("/etc/fstab").unwrap_or_default();
    let failed: Vec<String> = exec::text(
        &["systemctl", "list-units", "--failed", "--plain", "--no-legend"],
        PATIENCE,
    )
    .unwrap_or_default()
    .lines()
    .filter_map(|line| line.split_whitespace().next().map(str::to_owned))
    .collect();
    let logs: serde_json::Map<String, Value> = failed
        .iter()
        .take(10)
        .map(|unit| (unit.clone(), json!(last_lines(unit))))
        .collect();
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let routes: Vec<Value> = exec::text(&["ip", "-j", "route", "show", "default"], PATIENCE)
        .and_then(|text| serde_json::from_str(&text).ok())
        .unwrap_or_default();
    let release = fs::read_to_string("/etc/os-release").unwrap_or_default();
    let pretty = release
        .lines()
        .find_map(|line| line.strip_prefix("PRETTY_NAME="))
        .map(|name| name.trim_matches('"').to_owned());
    json!({
        "system_state": exec::text(&["systemctl", "is-system-running"], PATIENCE),
        "failed_units": failed,
        "failed_unit_logs": logs,
        "os": pretty,
        "kernel": line("/proc/sys/kernel/osrelease"),
        "command_line": line("/proc/cmdline"),
        "hostname": line("/proc/sys/kernel/hostname"),
        "unix_seconds": now.ok().map(|now| now.as_secs_f64()),
        "clock_source": line("/sys/devices/system/clocksource/clocksource0/current_clocksource"),
        "root": mounts.lines().find(|line| line.split_whitespace().nth(1) == Some("/")).map(str::to_owned),
        "missing_mounts": missing_mounts(&fstab, &mounts),
        "swap_missing": swap_missing(&fstab, &fs::read_to_string("/proc/swaps").unwrap_or_default()),
        "default_routes": routes,
        "vmware_programs": vmware_programs(),
        "selinux_enforcing": line("/sys/fs/selinux/enforce").map(|state| state == "1"),
        "nics": nics(),
        "disks": disks(&mounts),
        "uptime": serve::uptime(),
    })
}

#[cfg(test)]
mod tests {
    use super::{missing_mounts, mounts_on, swap_missing};

    #[test]
    fn a_mount_of_fstab_that_is_not_there_is_named() {
        let fstab = "UUID=1 / ext4 defaults 0 1\nUUID=2 /data/ xfs defaults 0 2\nUUID=3 none swap sw 0 0\nUUID=4 /mnt/cd iso9660 ro,noauto 0 0\n";
        assert_eq!(missing_mounts(fstab, "/dev/vda1 / ext4 rw 0 0\n"), ["/data/"]);
        assert!(missing_mounts(fstab, "/dev/vda1 / ext4 rw 0 0\n/dev/vdb /data xfs rw 0 0\n").is_empty());
    }

    #[test]
    fn swap_of_fstab_that_is_not_in_use_is_told() {
        let fstab = "UUID=3 none swap sw 0 0\n";
        let none = "Filename\tType\tSize\tUsed\tPriority\n";
        assert!(swap_missing(fstab, none));
        assert!(!swap_missing(fstab, &format!("{none}/dev/vda2 partition 1 0 -2\n")));
        assert!(!swap_missing(
            "# UUID=3 none swap sw 0 0\nUUID=4 none swap noauto 0 0\n",
            none
        ));
    }

    #[test]
    fn mounts_without_a_device_lie_on_no_disk() {
        assert!(mounts_on("vda", "proc /proc proc rw 0 0\ntmpfs /run tmpfs rw 0 0\n").is_empty());
    }
}
