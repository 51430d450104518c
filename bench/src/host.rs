//! Facts about this machine from /proc, /sys, CPUID and DMI. Unknown stays unknown; nothing here fails or needs root.

use crate::workloads::usable_cpus;
use raw_cpuid::{CacheType, CpuId, Hypervisor};
use reports::schema::HostFacts;
use std::collections::BTreeSet;
use std::fs::{read_dir, read_link, read_to_string};
use std::path::Path;

/// Everything that can be seen from here.
#[must_use]
pub fn facts() -> HostFacts {
    let cpu = CpuId::new();
    let cpuinfo = read_to_string("/proc/cpuinfo").unwrap_or_default();
    let online = line("/sys/devices/system/cpu/online").map_or(0, |list| count_cpus(&list));
    let allowed = u32::try_from(usable_cpus().len()).unwrap_or(1);
    HostFacts {
        os: read_to_string("/etc/os-release").ok().and_then(|text| os_name(&text)),
        kernel: line("/proc/sys/kernel/osrelease"),
        cpu_vendor: cpu.get_vendor_info().map(|vendor| vendor.as_str().to_owned()),
        cpu_model: field(&cpuinfo, "model name"),
        cpu_flags: field(&cpuinfo, "flags")
            .map(|flags| flags.split_ascii_whitespace().map(str::to_owned).collect())
            .unwrap_or_default(),
        cpus_online: online.max(1),
        cpus_usable: cpu_quota().map_or(allowed, |quota| allowed.min(quota)).max(1),
        memory_bytes: meminfo("MemTotal").unwrap_or(0),
        memory_limit_bytes: memory_limit(),
        last_level_cache_bytes: last_level_cache(&cpu),
        hypervisor: hypervisor(&cpu),
        dmi: dmi(),
        container: container(),
        clock_source: line("/sys/devices/system/clocksource/clocksource0/current_clocksource"),
        disk_drivers: disk_drivers(),
        nic_drivers: nic_drivers(),
        governor: line("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
        load_1min: line("/proc/loadavg").and_then(|text| text.split(' ').next()?.parse().ok()),
    }
}

/// Memory in bytes that can be used without swapping: the kernel's estimate, or free and cached pages before Linux 3.14,
/// bounded by what the cgroup has left.
#[must_use]
pub fn memory_available() -> u64 {
    let parts = ["MemFree", "Buffers", "Cached"];
    let available = meminfo("MemAvailable").unwrap_or_else(|| parts.iter().filter_map(|name| meminfo(name)).sum());
    let used = [
        "/sys/fs/cgroup/memory.current",
        "/sys/fs/cgroup/memory/memory.usage_in_bytes",
    ];
    let used = used
        .iter()
        .find_map(|path| line(path)?.parse::<u64>().ok())
        .unwrap_or(0);
    memory_limit().map_or(available, |limit| available.min(limit.saturating_sub(used)))
}

fn line(path: impl AsRef<Path>) -> Option<String> {
    let text = read_to_string(path).ok()?;
    let text = text.trim();
    (!text.is_empty()).then(|| text.to_owned())
}

fn field(cpuinfo: &str, name: &str) -> Option<String> {
    let of_name = |line: &&str| line.split(':').next().is_some_and(|key| key.trim() == name);
    Some(cpuinfo.lines().find(of_name)?.split_once(':')?.1.trim().to_owned())
}

fn os_name(text: &str) -> Option<String> {
    let value = text.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="))?;
    Some(value.trim_matches(['"', '\'']).to_owned())
}

/// `0-3,8` has five.
fn count_cpus(list: &str) -> u32 {
    let range = |part: &str| {
        let (low, high) = part.split_once('-').unwrap_or((part, part));
        let (low, high) = (low.trim().parse::<u32>().ok()?, high.trim().parse::<u32>().ok()?);
        high.checked_sub(low)?.checked_add(1)
    };
    list.split(',').filter_map(range).sum()
}

fn meminfo(name: &str) -> Option<u64> {
    let text = read_to_string("/proc/meminfo").ok()?;
    let value = text
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    value
        .trim()
        .strip_suffix("kB")?
        .trim()
        .parse::<u64>()
        .ok()?
        .checked_mul(1024)
}

/// The limit of this process's cgroup as a container sees it (its own at the root of the mount); version 2, then 1.
fn memory_limit() -> Option<u64> {
    // Version 1 says "no limit" as the largest multiple of the page size.
    const NO_LIMIT: u64 = 1 << 60;
    let paths = cgroup_paths("memory.max", "memory", "memory.limit_in_bytes");
    let limits = paths.iter().filter_map(|path| line(path)?.parse::<u64>().ok());
    limits.filter(|limit| *limit < NO_LIMIT).min()
}

/// CPUs worth of the cgroup's quota, rounded up.
fn cpu_quota() -> Option<u32> {
    let ratio = |quota: &str, period: &str| {
        let (quota, period) = (quota.parse::<u32>().ok()?, period.parse::<u32>().ok()?);
        (period > 0).then(|| quota.div_ceil(period).max(1))
    };
    let second = cgroup_paths("cpu.max", "cpu", "cpu.cfs_quota_us");
    let found = second.iter().filter_map(|path| {
        let text = line(path)?;
        match text.split_once(' ') {
            Some((quota, period)) => ratio(quota, period),
            None => ratio(&text, &line(path.replace("cfs_quota_us", "cfs_period_us"))?),
        }
    });
    found.min()
}

fn cgroup_paths(second: &str, controller: &str, first: &str) -> Vec<String> {
    let mut paths = vec![
        format!("/sys/fs/cgroup/{second}"),
        format!("/sys/fs/cgroup/{controller}/{first}"),
    ];
    for entry in read_to_string("/proc/self/cgroup").unwrap_or_default().lines() {
        let mut parts = entry.splitn(3, ':');
        let (Some(_), Some(controllers), Some(path)) = (parts.next(), parts.next(), parts.next()) else {
            continue;
        };
        if controllers.is_empty() {
            paths.push(format!("/sys/fs/cgroup{path}/{second}"));
        } else if controllers.split(',').any(|name| name == controller) {
            paths.push(format!("/sys/fs/cgroup/{controller}{path}/{first}"));
        }
    }
    paths
}

/// From sysfs; from CPUID leaf 4 or 0x8000_001d where the kernel shows no caches, as in many guests.
fn last_level_cache(cpu: &CpuId<raw_cpuid::CpuIdReaderNative>) -> Option<u64> {
    let index = read_dir("/sys/devices/system/cpu/cpu0/cache")
        .ok()
        .into_iter()
        .flatten()
        .flatten();
    let shown = index.filter_map(|entry| {
        let text = line(entry.path().join("size"))?;
        let (number, unit) = text.split_at(text.len() - 1);
        let unit = match unit {
            "K" => 1 << 10,
            "M" => 1 << 20,
            _ => return text.parse().ok(),
        };
        number.parse::<u64>().ok()?.checked_mul(unit)
    });
    shown.max().or_else(|| {
        let caches = cpu
            .get_cache_parameters()?
            .filter(|cache| cache.cache_type() != CacheType::Null);
        let size = |c: raw_cpuid::CacheParameter| {
            [
                c.associativity(),
                c.physical_line_partitions(),
                c.coherency_line_size(),
                c.sets(),
            ]
            .iter()
            .try_fold(1_u64, |size, &part| size.checked_mul(part as u64))
        };
        caches.filter_map(size).max()
    })
}

fn hypervisor(cpu: &CpuId<raw_cpuid::CpuIdReaderNative>) -> Option<String> {
    let name = match cpu.get_hypervisor_info()?.identify() {
        Hypervisor::Xen => "XenVMMXenVMM".to_owned(),
        Hypervisor::VMware => "VMwareVMware".to_owned(),
        Hypervisor::HyperV => "Microsoft Hv".to_owned(),
        Hypervisor::KVM => "KVMKVMKVM".to_owned(),
        Hypervisor::QEMU => "TCGTCGTCGTCG".to_owned(),
        Hypervisor::Bhyve => "bhyve bhyve ".to_owned(),
        Hypervisor::QNX => "QNXQVMBSQG".to_owned(),
        Hypervisor::ACRN => "ACRNACRNACRN".to_owned(),
        Hypervisor::Unknown(ebx, ecx, edx) => {
            let bytes: Vec<u8> = [ebx, ecx, edx].iter().flat_map(|word| word.to_le_bytes()).collect();
            String::from_utf8_lossy(&bytes).trim_end_matches('\0').to_owned()
        }
    };
    Some(name)
}

fn dmi() -> Option<String> {
    let parts: Vec<String> = ["sys_vendor", "product_name"]
        .iter()
        .filter_map(|name| line(format!("/sys/class/dmi/id/{name}")))
        .collect();
    (!parts.is_empty()).then(|| parts.join(" "))
}

fn container() -> Option<String> {
    // systemd's file, then the variable that LXC gives to PID 1 (readable by root only), then Docker's and podman's marks.
    line("/run/systemd/container")
        .or_else(|| {
            let environment = std::fs::read("/proc/1/environ").ok()?;
            let mut variables = environment.split(|byte| *byte == 0);
            let value = variables.find_map(|variable| variable.strip_prefix(b"container="))?;
            Some(String::from_utf8_lossy(value).into_owned())
        })
        .or_else(|| Path::new("/.dockerenv").exists().then(|| "docker".to_owned()))
        .or_else(|| Path::new("/run/.containerenv").exists().then(|| "podman".to_owned()))
}

fn disk_drivers() -> Vec<String> {
    let names = read_dir("/sys/block").ok().into_iter().flatten().flatten();
    let mut found: Vec<String> = names
        .filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            // Loop, RAM, zram, device mapper: no device behind them.
            let driver = driver_above(&entry.path().join("device"))?;
            Some(format!("{name} {driver}"))
        })
        .collect();
    found.sort();
    found
}

fn nic_drivers() -> Vec<String> {
    let names = read_dir("/sys/class/net").ok().into_iter().flatten().flatten();
    let mut found: Vec<String> = names
        .filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            let driver = driver_above(&entry.path().join("device"))?;
            Some(format!("{name} {driver}"))
        })
        .collect();
    found.sort();
    found
}

/// Drivers on the way from a device up to its bus, nearest first: a SCSI disk says `sd/vmw_pvscsi`, a virtio disk
/// `virtio_blk`.
fn driver_above(device: &Path) -> Option<String> {
    let mut at = std::fs::canonicalize(device).ok()?;
    let mut seen = BTreeSet::new();
    let mut drivers = Vec::new();
    while at.starts_with("/sys/devices") {
        if let Ok(link) = read_link(at.join("driver"))
            && let Some(name) = link.file_name().and_then(|name| name.to_str())
            && !["pcieport", "virtio-pci", "virtio-mmio"].contains(&name)
            && seen.insert(name.to_owned())
        {
            drivers.push(name.to_owned());
        }
        if !at.pop() {
            break;
        }
    }
    (!drivers.is_empty()).then(|| drivers.join("/"))
}

#[cfg(test)]
mod tests {
    use super::{count_cpus, facts, field, os_name};

    #[test]
    fn cpu_lists_are_counted() {
        assert_eq!(["0-3,8", "0", "", "0-1,4-7"].map(count_cpus), [5, 1, 0, 6]);
    }

    #[test]
    fn fields_and_names_are_found() {
        assert_eq!(
            field("processor\t: 0\nmodel name\t: A: B\n", "model name").as_deref(),
            Some("A: B")
        );
        assert_eq!(
            os_name("NAME=x\nPRETTY_NAME=\"CentOS Linux 7 (Core)\"\n").as_deref(),
            Some("CentOS Linux 7 (Core)")
        );
    }

    #[test]
    fn this_machine_has_cpus_memory_and_a_kernel() {
        let facts = facts();
        assert!(facts.cpus_usable >= 1 && facts.cpus_usable <= facts.cpus_online.max(facts.cpus_usable));
        assert!(facts.memory_bytes > 64 << 20);
        assert!(facts.kernel.is_some() && facts.cpu_vendor.is_some());
    }
}
