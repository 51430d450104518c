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
//! [guests.web01.nics."00:50:56:aa:bb:cc"]
//! bridge = "vmbr7"
//! ```

use super::TargetError;
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
    /// By source network.
    #[serde(default)]
    pub networks: BTreeMap<String, Network>,
    /// By MAC, lower case with colons; goes before `networks`.
    #[serde(default)]
    pub nics: BTreeMap<String, Network>,
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
        let datastore = file
            .strip_prefix("/vmfs/volumes/")
            .and_then(|rest| rest.split('/').next())
            .or_else(|| {
                file.strip_prefix('[')
                    .and_then(|rest| rest.split_once(']'))
                    .map(|(name, _)| name)
            });
        let mut found = datastore
            .and_then(|name| self.datastores.get(name))
            .cloned()
            .unwrap_or_default();
        if let Some(guest) = self.guest(machine) {
            found.storage = guest.storage.clone().or(found.storage);
            found.storage_class = guest.storage_class.clone().or(found.storage_class);
        }
        found
    }

    /// Fails where a NIC has no place for one of the targets, with the TOML that is missing.
    ///
    /// # Errors
    /// [`TargetError::Unmapped`].
    pub fn check(&self, machine: &Machine, bridge: bool, kubevirt: bool) -> Result<(), TargetError> {
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
        if names.is_empty() {
            Ok(())
        } else {
            Err(TargetError::Unmapped { names, add })
        }
    }
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
