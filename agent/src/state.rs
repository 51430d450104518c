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

fn disks() -> Vec<Value> {
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
            json!({"name": name, "driver": above, "bytes": sectors.and_then(|sectors| sectors.checked_mul(512))})
        })
        .collect()
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
    let release = fs::read_to_string("/etc/os-release").unwrap_or_default();
    let pretty = release
        .lines()
        .find_map(|line| line.strip_prefix("PRETTY_NAME="))
        .map(|name| name.trim_matches('"').to_owned());
    json!({
        "system_state": exec::text(&["systemctl", "is-system-running"], PATIENCE),
        "failed_units": failed,
        "os": pretty,
        "kernel": line("/proc/sys/kernel/osrelease"),
        "command_line": line("/proc/cmdline"),
        "hostname": line("/proc/sys/kernel/hostname"),
        "clock_source": line("/sys/devices/system/clocksource/clocksource0/current_clocksource"),
        "root": mounts.lines().find(|line| line.split_whitespace().nth(1) == Some("/")).map(str::to_owned),
        "missing_mounts": missing_mounts(&fstab, &mounts),
        "nics": nics(),
        "disks": disks(),
        "uptime": serve::uptime(),
    })
}

#[cfg(test)]
mod tests {
    use super::missing_mounts;

    #[test]
    fn a_mount_of_fstab_that_is_not_there_is_named() {
        let fstab = "UUID=1 / ext4 defaults 0 1\nUUID=2 /data/ xfs defaults 0 2\nUUID=3 none swap sw 0 0\nUUID=4 /mnt/cd iso9660 ro,noauto 0 0\n";
        assert_eq!(missing_mounts(fstab, "/dev/vda1 / ext4 rw 0 0\n"), ["/data/"]);
        assert!(missing_mounts(fstab, "/dev/vda1 / ext4 rw 0 0\n/dev/vdb /data xfs rw 0 0\n").is_empty());
    }
}
