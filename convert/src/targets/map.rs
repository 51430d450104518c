//! The map from source networks and datastores to the target's, a TOML file.
//!
//! ```toml
//! [networks."Prod VLAN 100"]
//! bridge = "vmbr0"            # Proxmox VE, libvirt, QEMU
//! vlan = 100
//! nad = "prod/vlan100"        # KubeVirt NetworkAttachmentDefinition
//!
//! [datastores.ds1]
//! storage = "local-lvm"       # Proxmox VE
//! storage_class = "fast"      # KubeVirt
//!
//! [guests.web01]              # overrides for one guest, by its source name
//! name = "web-01"
//! storage = "ceph"
//! max_vcpus = 8               # room to grow; libvirt, Proxmox VE, QEMU, KubeVirt
//! max_memory_mib = 16384
//! cpu_affinity = "0-3"        # CPUs of the new host; libvirt, Proxmox VE, QEMU
//! numa_nodes = "0"            # NUMA nodes of the new host; libvirt, Proxmox VE
//! cpu_limit = 2.5             # CPUs at most; libvirt, Proxmox VE, KubeVirt
//! [guests.web01.nics."00:50:56:aa:bb:cc"]
//! bridge = "vmbr7"
//! ```

use super::{Target, TargetError};
use crate::machine::{Machine, Nic};
use serde::Deserialize;
use std::collections::BTreeMap;

/// Where a NIC ends.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Network {
    /// Bridge of the host.
    pub bridge: Option<String>,
    /// VLAN tag, 1 to 4094.
    pub vlan: Option<u16>,
    /// KubeVirt: `NAMESPACE/NAME` of the NetworkAttachmentDefinition.
    pub nad: Option<String>,
    /// KubeVirt: the pod network (at most one NIC of a guest).
    #[serde(default)]
    pub pod: bool,
}

/// Where disks end.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Datastore {
    /// Proxmox VE storage.
    pub storage: Option<String>,
    /// KubeVirt storage class.
    pub storage_class: Option<String>,
}

/// Overrides for one guest.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Guest {
    /// Name on the target.
    pub name: Option<String>,
    /// Proxmox VE storage.
    pub storage: Option<String>,
    /// KubeVirt storage class.
    pub storage_class: Option<String>,
    /// vCPUs that may be added up to, a multiple of one socket's.
    pub max_vcpus: Option<u32>,
    /// Memory that may be added up to, in MiB.
    pub max_memory_mib: Option<u64>,
    /// CPUs of the target host: `0-3,8`.
    pub cpu_affinity: Option<String>,
    /// NUMA nodes of the target host: `0-1`.
    pub numa_nodes: Option<String>,
    /// CPUs of the host that the guest may use at most, 0.01 to 128.
    pub cpu_limit: Option<Hundredths>,
    /// By source network.
    #[serde(default)]
    pub networks: BTreeMap<String, Network>,
    /// By MAC, lower case with colons; goes before `networks`.
    #[serde(default)]
    pub nics: BTreeMap<String, Network>,
}

/// A number with at most two places behind the point, 0.01 to 128.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
#[serde(try_from = "f64")]
pub struct Hundredths(u32);

impl Hundredths {
    /// How many hundredths.
    #[must_use]
    pub fn get(self) -> u32 {
        self.0
    }
}

impl TryFrom<f64> for Hundredths {
    type Error = String;

    fn try_from(number: f64) -> Result<Self, String> {
        let hundredths = (number * 100.0).round();
        if !(1.0..=12_800.0).contains(&hundredths) {
            return Err(format!("{number}, allowed is 0.01 to 128"));
        }
        // Whole and below 12 801: its text is that of a u32.
        format!("{hundredths:.0}")
            .parse()
            .map(Self)
            .map_err(|_| format!("{number}"))
    }
}

impl std::fmt::Display for Hundredths {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 % 100 {
            0 => write!(f, "{}", self.0 / 100),
            rest => write!(f, "{}.{rest:02}", self.0 / 100),
        }
    }
}

/// `0-3,8`: numbers and ranges of numbers.
fn is_list(text: &str) -> bool {
    text.split(',').all(|part| {
        let mut ends = part.split('-').map(str::parse::<u16>);
        match (ends.next(), ends.next(), ends.next()) {
            (Some(Ok(_)), None, None) => true,
            (Some(Ok(first)), Some(Ok(last)), None) => first <= last,
            _ => false,
        }
    })
}

/// The map.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NetworkMap {
    /// By source network (port group).
    #[serde(default)]
    pub networks: BTreeMap<String, Network>,
    /// By source datastore.
    #[serde(default)]
    pub datastores: BTreeMap<String, Datastore>,
    /// By guest name at the source.
    #[serde(default)]
    pub guests: BTreeMap<String, Guest>,
}

impl NetworkMap {
    /// Reads the TOML text of a map.
    ///
    /// # Errors
    /// [`TargetError::Map`] with line and column: not TOML, an unknown key, a VLAN outside 1 to 4094.
    pub fn parse(text: &str) -> Result<Self, TargetError> {
        let map: Self = toml::from_str(text).map_err(|error| TargetError::Map(error.to_string()))?;
        let guests = map.guests.values();
        let all = map
            .networks
            .iter()
            .chain(guests.flat_map(|guest| guest.networks.iter().chain(&guest.nics)));
        for (name, network) in all {
            if let Some(vlan) = network.vlan.filter(|vlan| !(1..=4094).contains(vlan)) {
                return Err(TargetError::Map(format!(
                    "\"{name}\": vlan = {vlan}, allowed is 1 to 4094"
                )));
            }
        }
        for (name, guest) in &map.guests {
            for (key, list) in [("cpu_affinity", &guest.cpu_affinity), ("numa_nodes", &guest.numa_nodes)] {
                if let Some(list) = list.as_ref().filter(|list| !is_list(list)) {
                    return Err(TargetError::Map(format!(
                        "guest \"{name}\": {key} = \"{list}\" is no list such as 0-3,8"
                    )));
                }
            }
        }
        Ok(map)
    }

    /// The guest's overrides.
    #[must_use]
    pub fn guest(&self, machine: &Machine) -> Option<&Guest> {
        self.guests.get(&machine.name)
    }

    /// Where a NIC ends; `None`: the map doesn't say.
    #[must_use]
    pub fn network(&self, machine: &Machine, nic: &Nic) -> Option<&Network> {
        let guest = self.guest(machine);
        let by_mac = guest.zip(nic.mac.as_ref()).and_then(|(guest, mac)| guest.nics.get(mac));
        let name = nic.network.as_deref().unwrap_or_default();
        by_mac
            .or_else(|| guest.and_then(|guest| guest.networks.get(name)))
            .or_else(|| self.networks.get(name))
    }

    /// Proxmox VE storage and KubeVirt storage class for a disk whose file is named `file` at the source.
    #[must_use]
    pub fn storage(&self, machine: &Machine, file: &str) -> Datastore {
        let mut found = datastore(file)
            .and_then(|name| self.datastores.get(name))
            .cloned()
            .unwrap_or_default();
        if let Some(guest) = self.guest(machine) {
            found.storage = guest.storage.clone().or(found.storage);
            found.storage_class = guest.storage_class.clone().or(found.storage_class);
        }
        found
    }

    /// KubeVirt's pod network takes one NIC of a guest.
    fn check_pod(&self, machine: &Machine) -> Result<(), TargetError> {
        let on_pod: Vec<String> = machine
            .nics
            .iter()
            .filter(|nic| {
                self.network(machine, nic)
                    .is_some_and(|network| network.pod && network.nad.is_none())
            })
            .map(|nic| format!("ethernet{}", nic.index))
            .collect();
        if on_pod.len() > 1 {
            return Err(TargetError::Map(format!(
                "guest \"{}\": {} are on the pod network, which takes one NIC of a guest; give the others a nad",
                machine.name,
                on_pod.join(", ")
            )));
        }
        Ok(())
    }

    /// Fails where a NIC or a datastore has no place for one of the targets, with the TOML that is missing.
    ///
    /// # Errors
    /// [`TargetError::Unmapped`]; [`TargetError::Map`] where two NICs are put on KubeVirt's pod network.
    pub fn check(&self, machine: &Machine, targets: &[Target]) -> Result<(), TargetError> {
        let kubevirt = targets.contains(&Target::Kubevirt);
        let bridge = targets.iter().any(|target| *target != Target::Kubevirt);
        if kubevirt {
            self.check_pod(machine)?;
        }
        let mut names = Vec::new();
        let mut add = String::new();
        for nic in &machine.nics {
            let found = self.network(machine, nic);
            let lacks_bridge = bridge && found.is_none_or(|network| network.bridge.is_none());
            let lacks_nad = kubevirt && found.is_none_or(|network| network.nad.is_none() && !network.pod);
            if !lacks_bridge && !lacks_nad {
                continue;
            }
            let table = match (&nic.network, &nic.mac) {
                (Some(network), _) => format!("[networks.{}]", quoted(network)),
                (None, Some(mac)) => format!("[guests.{}.nics.{}]", quoted(&machine.name), quoted(mac)),
                (None, None) => format!("[guests.{}.networks.\"\"]", quoted(&machine.name)),
            };
            let name = nic.network.as_ref().map_or_else(
                || format!("ethernet{} (no network named)", nic.index),
                |name| format!("\"{name}\""),
            );
            if names.contains(&name) {
                continue;
            }
            names.push(name);
            add.push_str(&table);
            add.push('\n');
            if lacks_bridge {
                add.push_str("bridge = \"vmbr0\"\n");
            }
            if lacks_nad {
                add.push_str("nad = \"default/net\"\n");
            }
            add.push('\n');
        }
        for datastore in machine.disks.iter().filter_map(|disk| datastore(&disk.file)) {
            let guest = self.guest(machine);
            let known = self.datastores.get(datastore);
            let place =
                |of: fn(&Datastore) -> bool, own: fn(&Guest) -> bool| known.is_some_and(of) || guest.is_some_and(own);
            let lacks_storage = targets.contains(&Target::Proxmox)
                && !place(|known| known.storage.is_some(), |guest| guest.storage.is_some());
            let lacks_class = kubevirt
                && !place(
                    |known| known.storage_class.is_some(),
                    |guest| guest.storage_class.is_some(),
                );
            let name = format!("datastore \"{datastore}\"");
            if !lacks_storage && !lacks_class || names.contains(&name) {
                continue;
            }
            names.push(name);
            add.push_str(&format!("[datastores.{}]\n", quoted(datastore)));
            if lacks_storage {
                add.push_str("storage = \"local-lvm\"\n");
            }
            if lacks_class {
                add.push_str("storage_class = \"standard\"\n");
            }
            add.push('\n');
        }
        if names.is_empty() {
            Ok(())
        } else {
            Err(TargetError::Unmapped { names, add })
        }
    }
}

/// The datastore that a file's name at the source begins with: `/vmfs/volumes/NAME/…` or `[NAME] …`.
fn datastore(file: &str) -> Option<&str> {
    file.strip_prefix("/vmfs/volumes/")
        .and_then(|rest| rest.split('/').next())
        .or_else(|| {
            file.strip_prefix('[')
                .and_then(|rest| rest.split_once(']'))
                .map(|(name, _)| name)
        })
}

/// A TOML basic string, which is what JSON writes too.
fn quoted(text: &str) -> String {
    serde_json::to_string(text).expect("a string always serializes")
}

#[cfg(test)]
mod tests {
    use super::NetworkMap;

    #[test]
    fn a_typo_in_the_map_is_an_error_with_its_line() {
        let error = NetworkMap::parse("[networks.a]\nbrigde = \"x\"")
            .expect_err("typo")
            .to_string();
        assert!(error.contains("brigde") && error.contains("line 2"), "{error}");
        assert!(NetworkMap::parse("[networks.a]\nvlan = 4095").is_err());
    }
}
