//! What of a machine or a host is set beside the limits.

use super::load::{LimitsError, all, comparison};
use super::model::Scope;
use super::usage::is_of_host;
use crate::schema::MachineFacts;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use toml::Spanned;

/// Countable facts of one machine. A zero means none; `None` means unknown and is not compared.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct MachineNumbers {
    /// Virtual hardware version at the source.
    pub hw_version: Option<u32>,
    /// QEMU machine type on the target, `pc` or `q35`; `None`: `pc` up to 255 vCPUs, else `q35`.
    pub machine: Option<String>,
    /// Virtual CPUs.
    pub vcpus: u32,
    /// Sockets.
    pub sockets: Option<u32>,
    /// Cores on each socket.
    pub cores_per_socket: Option<u32>,
    /// Memory in MiB.
    pub memory_mib: u64,
    /// Disks on SCSI controllers.
    pub scsi_disks: u32,
    /// Disks and CD drives on IDE.
    pub ide_disks: u32,
    /// Disks and CD drives on SATA.
    pub sata_disks: u32,
    /// Disks on NVMe.
    pub nvme_disks: u32,
    /// SCSI controllers.
    pub scsi_controllers: Option<u32>,
    /// Size of the largest disk in bytes.
    pub largest_disk_bytes: u64,
    /// NICs.
    pub nics: u32,
    /// Serial ports.
    pub serial_ports: u32,
    /// Parallel ports.
    pub parallel_ports: u32,
    /// USB devices.
    pub usb_devices: u32,
    /// PCI devices handed through.
    pub pci_passthrough: u32,
    /// Virtual NUMA nodes.
    pub numa_nodes: Option<u32>,
    /// Bytes of the name.
    pub name_length: u32,
}

impl From<&MachineFacts> for MachineNumbers {
    /// From the facts in a report. The bus is read from the disk's name (`scsi0:0`); ports, USB and pass-through are not
    /// in the facts and stay 0.
    fn from(facts: &MachineFacts) -> Self {
        let on = |bus: &str| count(facts.disks.iter().filter(|disk| disk.name.starts_with(bus)).count());
        let mut controllers: Vec<&str> = facts
            .disks
            .iter()
            .filter_map(|disk| disk.name.strip_prefix("scsi")?.split(':').next())
            .collect();
        controllers.sort_unstable();
        controllers.dedup();
        Self {
            hw_version: facts.hw_version,
            vcpus: facts.vcpus,
            memory_mib: facts.memory_mib,
            scsi_disks: on("scsi"),
            ide_disks: on("ide"),
            sata_disks: on("sata"),
            nvme_disks: on("nvme"),
            scsi_controllers: Some(count(controllers.len())),
            largest_disk_bytes: facts.disks.iter().map(|disk| disk.capacity_bytes).max().unwrap_or(0),
            nics: count(facts.nics.len()),
            name_length: count(facts.name.len()),
            ..Self::default()
        }
    }
}

fn count(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

/// A target host as its operator describes it, for `--target-host FILE`.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HostNumbers {
    /// Name for tables.
    pub name: String,
    /// `Proxmox VE`, `VMware ESXi`: as the limits spell it.
    pub product: String,
    /// Version of the product, `9.2`, `7.0`.
    pub version: String,
    /// Logical CPUs.
    pub logical_cpus: u32,
    /// Memory in GiB.
    pub memory_gib: u64,
    /// Guests on it.
    #[serde(default)]
    pub vms: u32,
    /// Sum of its guests' vCPUs.
    #[serde(default)]
    pub vcpus_total: u32,
}

/// Reads a host file: `[[host]]` tables with the fields of [`HostNumbers`].
///
/// # Errors
/// [`LimitsError::Syntax`] with file and line; [`LimitsError::UnknownProduct`]: no limits of such a host are known, so nothing would be
/// compared.
pub fn hosts_from_toml(file: &str, text: &str) -> Result<Vec<HostNumbers>, LimitsError> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct HostFile {
        host: Vec<Spanned<HostNumbers>>,
    }
    let line = |offset: usize| text.bytes().take(offset).filter(|byte| *byte == b'\n').count() + 1;
    let hosts = toml::from_str::<HostFile>(text).map_err(|error| LimitsError::Syntax {
        file: file.to_owned(),
        line: error.span().map_or(1, |span| line(span.start)),
        message: error.message().to_owned(),
    })?;
    let products = host_products();
    for host in &hosts.host {
        let product = &host.get_ref().product;
        if !products.contains_key(product.as_str()) {
            return Err(LimitsError::UnknownProduct {
                file: file.to_owned(),
                line: line(host.span().start),
                found: product.clone(),
                known: products
                    .iter()
                    .map(|(product, versions)| {
                        let versions: Vec<&str> = versions.iter().copied().collect();
                        format!("\"{product}\" (version {})", versions.join(", "))
                    })
                    .collect::<Vec<_>>()
                    .join("; "),
            });
        }
    }
    Ok(hosts.host.into_iter().map(Spanned::into_inner).collect())
}

/// Products with limits for a host, with the versions that these are for.
fn host_products() -> BTreeMap<&'static str, BTreeSet<&'static str>> {
    let mut products: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for limit in all() {
        if limit.compare && limit.scope == Scope::Host && is_of_host(limit) {
            products
                .entry(limit.product.as_str())
                .or_default()
                .insert(limit.version.as_str());
        }
    }
    // The user's own figures name no version.
    for row in comparison().iter().filter(|row| row.value.is_some()) {
        products.entry(row.product.as_str()).or_default();
    }
    products
        .into_iter()
        .map(|(product, versions)| {
            let any = versions.is_empty();
            (product, if any { BTreeSet::from(["all"]) } else { versions })
        })
        .collect()
}

/// Whether a host of `version` is one that the limits for `known` are for: `7.0` covers `7.0` and `7.0.3`, not `7.01`.
pub(super) fn covers(known: &str, version: &str) -> bool {
    known == "all"
        || version
            .strip_prefix(known)
            .is_some_and(|rest| !rest.starts_with(|c: char| c.is_ascii_digit()))
}
