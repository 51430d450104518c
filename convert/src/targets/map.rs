//! The map from source networks and datastores to the target's, a TOML file.
//!
//! ```toml
//! timezone = "Europe/Berlin"  # KubeVirt: of guests whose clock is in local time
//!
//! [networks."Prod VLAN 100"]
//! bridge = "vmbr0"            # Proxmox VE, libvirt, QEMU
//! vlan = 100                  # Proxmox VE; libvirt with openvswitch = true
//! openvswitch = true          # libvirt: the bridge is one of Open vSwitch, which knows tags
//! nad = "prod/vlan100"        # KubeVirt NetworkAttachmentDefinition
//!
//! [datastores.ds1]
//! storage = "local-lvm"       # Proxmox VE
//! storage_class = "fast"      # KubeVirt
//! access_mode = "ReadWriteOnce"  # KubeVirt: of the volumes; absent: what the storage class prefers
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
    /// The bridge is one of Open vSwitch. libvirt tags the traffic of such bridges only.
    #[serde(default)]
    pub openvswitch: bool,
    /// KubeVirt: `NAMESPACE/NAME` of the NetworkAttachmentDefinition.
    pub nad: Option<String>,
    /// KubeVirt: the pod network (at most one NIC of a guest).
    #[serde(default)]
    pub pod: bool,
}

/// Who may write to a volume of KubeVirt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub enum AccessMode {
    /// One node: what local storage has.
    ReadWriteOnce,
    /// Several nodes: what live migration needs.
    ReadWriteMany,
    /// One pod.
    ReadWriteOncePod,
}

impl AccessMode {
    /// As Kubernetes spells it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::ReadWriteOnce => "ReadWriteOnce",
            Self::ReadWriteMany => "ReadWriteMany",
            Self::ReadWriteOncePod => "ReadWriteOncePod",
        }
    }
}

/// Where disks end.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Datastore {
    /// Proxmox VE storage.
    pub storage: Option<String>,
    /// KubeVirt storage class.
    pub storage_class: Option<String>,
    /// KubeVirt access mode.
    pub access_mode: Option<AccessMode>,
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
    /// KubeVirt access mode.
    pub access_mode: Option<AccessMode>,
    /// KubeVirt: name of the time zone that the guest's clock runs in.
    pub timezone: Option<String>,
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

/// Something of a guest that the map has no place for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Missing {
    /// A network; else a datastore.
    pub is_network: bool,
    /// Its name, for people.
    pub name: String,
    /// TOML to add.
    pub add: String,
}

/// The map.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NetworkMap {
    /// KubeVirt: name of the time zone of guests whose clock runs in local time.
    pub timezone: Option<String>,
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
        let zones = map.guests.values().filter_map(|guest| guest.timezone.as_ref());
        for zone in zones.chain(&map.timezone) {
            // `Area/City` or `UTC`, as the time zone database names them.
            let plain = |c: char| c.is_ascii_alphanumeric() || "/_+-".contains(c);
            if zone.is_empty() || !zone.chars().all(plain) {
                return Err(TargetError::Map(format!(
                    "timezone = \"{zone}\" is no name such as Europe/Berlin"
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
            found.access_mode = guest.access_mode.or(found.access_mode);
        }
        found
    }

    /// Name of the guest's time zone.
    #[must_use]
    pub fn timezone(&self, machine: &Machine) -> Option<&str> {
        self.guest(machine)
            .and_then(|guest| guest.timezone.as_deref())
            .or(self.timezone.as_deref())
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
        if targets.contains(&Target::Kubevirt) {
            self.check_pod(machine)?;
        }
        let missing = self.missing(machine, targets);
        if missing.is_empty() {
            return Ok(());
        }
        Err(TargetError::Unmapped {
            names: missing.iter().map(|place| place.name.clone()).collect(),
            add: missing.iter().map(|place| format!("{}\n", place.add)).collect(),
        })
    }

    /// Networks and datastores of the machine without a place on one of the targets, each once.
    #[must_use]
    pub fn missing(&self, machine: &Machine, targets: &[Target]) -> Vec<Missing> {
        let mut missing: Vec<Missing> = Vec::new();
        let mut add = |place: Missing| {
            if missing.iter().all(|known| known.name != place.name) {
                missing.push(place);
            }
        };
        for nic in &machine.nics {
            if let Some(place) = self.missing_network(machine, nic, targets) {
                add(place);
            }
        }
        for datastore in machine.disks.iter().filter_map(|disk| datastore(&disk.file)) {
            if let Some(place) = self.missing_storage(machine, datastore, targets) {
                add(place);
            }
        }
        missing
    }

    fn missing_network(&self, machine: &Machine, nic: &Nic, targets: &[Target]) -> Option<Missing> {
        let kubevirt = targets.contains(&Target::Kubevirt);
        let bridge = targets.iter().any(|target| *target != Target::Kubevirt);
        let found = self.network(machine, nic);
        let lacks_bridge = bridge && found.is_none_or(|network| network.bridge.is_none());
        let lacks_nad = kubevirt && found.is_none_or(|network| network.nad.is_none() && !network.pod);
        if !lacks_bridge && !lacks_nad {
            return None;
        }
        let table = match (&nic.network, &nic.mac) {
            (Some(network), _) => format!("[networks.{}]", quoted(network)),
            (None, Some(mac)) => format!("[guests.{}.nics.{}]", quoted(&machine.name), quoted(mac)),
            (None, None) => format!("[guests.{}.networks.\"\"]", quoted(&machine.name)),
        };
        let mut add = format!("{table}\n");
        if lacks_bridge {
            add.push_str("bridge = \"vmbr0\"\n");
        }
        if lacks_nad {
            add.push_str("nad = \"default/net\"\n");
        }
        Some(Missing {
            is_network: true,
            name: nic.network.as_ref().map_or_else(
                || format!("ethernet{} (no network named)", nic.index),
                |name| format!("\"{name}\""),
            ),
            add,
        })
    }

    fn missing_storage(&self, machine: &Machine, datastore: &str, targets: &[Target]) -> Option<Missing> {
        let guest = self.guest(machine);
        let known = self.datastores.get(datastore);
        let place =
            |of: fn(&Datastore) -> bool, own: fn(&Guest) -> bool| known.is_some_and(of) || guest.is_some_and(own);
        let lacks_storage = targets.contains(&Target::Proxmox)
            && !place(|known| known.storage.is_some(), |guest| guest.storage.is_some());
        let lacks_class = targets.contains(&Target::Kubevirt)
            && !place(
                |known| known.storage_class.is_some(),
                |guest| guest.storage_class.is_some(),
            );
        if !lacks_storage && !lacks_class {
            return None;
        }
        let mut add = format!("[datastores.{}]\n", quoted(datastore));
        if lacks_storage {
            add.push_str("storage = \"local-lvm\"\n");
        }
        if lacks_class {
            add.push_str("storage_class = \"standard\"\n");
        }
        Some(Missing {
            is_network: false,
            name: format!("datastore \"{datastore}\""),
            add,
        })
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
