//! Room to grow, NUMA nodes, pinning, limits and weights: what of a guest's claim on its host each target is told.
//!
//! A VMX says that a guest may grow, but not up to what, and names CPUs and nodes of the old host. So a maximum, pinning and
//! a limit come from the map ([`super::map::Guest`]); virtual NUMA nodes and weights come from the machine.

use super::TargetError;
use super::map::{Guest, Hundredths};
use crate::machine::Machine;

/// Proxmox VE has `numa0` to `numa7`.
const MOST_NODES: u32 = 8;

/// A virtual NUMA node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// First vCPU.
    pub first: u32,
    /// Last vCPU.
    pub last: u32,
    /// Memory in MiB.
    pub mib: u64,
}

/// What a guest may claim of its host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resources {
    /// vCPUs at most; as many as the machine has where it does not grow.
    pub max_vcpus: u32,
    /// Sockets for [`Self::max_vcpus`].
    pub sockets: u32,
    /// Memory at most in MiB, where it grows.
    pub max_memory_mib: Option<u64>,
    /// Virtual NUMA nodes; empty: the target's default of one.
    pub nodes: Vec<Node>,
    /// CPUs of the target host that the guest runs on: `0-3,8`.
    pub cpu_affinity: Option<String>,
    /// NUMA nodes of the target host that the memory comes from: `0-1`.
    pub numa_nodes: Option<String>,
    /// CPUs of the host that the guest may use at most.
    pub cpu_limit: Option<Hundredths>,
    /// Weight in percent of the normal one, see [`super::plan::cpu_weight`].
    pub cpu_weight: Option<u64>,
    /// Memory that the source reserved, in MiB.
    pub reserved_mib: Option<u64>,
}

impl Resources {
    /// From the machine alone: nothing grows, nothing is pinned.
    #[must_use]
    pub fn of(machine: &Machine) -> Self {
        Self {
            max_vcpus: machine.cpu.vcpus,
            sockets: machine.cpu.sockets,
            max_memory_mib: None,
            nodes: nodes(machine),
            cpu_affinity: None,
            numa_nodes: None,
            cpu_limit: None,
            cpu_weight: super::plan::cpu_weight(machine),
            reserved_mib: machine.memory.reservation_mib.map(|mib| mib.min(machine.memory.mib)),
        }
    }

    /// The same with what the map says of the guest.
    ///
    /// # Errors
    /// [`TargetError::Map`]: a maximum below what the guest has, or one that is no multiple of its sockets.
    pub fn with(machine: &Machine, guest: &Guest) -> Result<Self, TargetError> {
        let wrong = |text: String| TargetError::Map(format!("guest \"{}\": {text}", machine.name));
        let mut found = Self::of(machine);
        if let Some(most) = guest.max_vcpus.filter(|most| *most != machine.cpu.vcpus) {
            let per_socket = machine.cpu.cores_per_socket.saturating_mul(machine.cpu.threads).max(1);
            if most < machine.cpu.vcpus || !most.is_multiple_of(per_socket) || most > 4096 {
                return Err(wrong(format!(
                    "max_vcpus = {most}, allowed are multiples of {per_socket} (one socket) from {} to 4096",
                    machine.cpu.vcpus
                )));
            }
            found.max_vcpus = most;
            found.sockets = most / per_socket;
            // VMware, too, has no virtual nodes where CPUs are added.
            found.nodes.clear();
        }
        if let Some(most) = guest.max_memory_mib.filter(|most| *most != machine.memory.mib) {
            if most < machine.memory.mib {
                return Err(wrong(format!(
                    "max_memory_mib = {most}, but the guest has {} MiB",
                    machine.memory.mib
                )));
            }
            found.max_memory_mib = Some(most);
            found.nodes.clear();
        }
        if found.nodes.is_empty() && (found.max_memory_mib.is_some() || guest.numa_nodes.is_some()) {
            found.nodes.push(Node {
                first: 0,
                last: found.max_vcpus.saturating_sub(1),
                mib: machine.memory.mib,
            });
        }
        found.cpu_affinity.clone_from(&guest.cpu_affinity);
        found.numa_nodes.clone_from(&guest.numa_nodes);
        found.cpu_limit = guest.cpu_limit;
        Ok(found)
    }

    /// vCPUs may be added.
    #[must_use]
    pub fn vcpus_grow(&self, machine: &Machine) -> bool {
        self.max_vcpus > machine.cpu.vcpus
    }
}

/// Equal nodes of the size that the source asks for; none where they would not be equal, or are too many for a target.
fn nodes(machine: &Machine) -> Vec<Node> {
    let vcpus = machine.cpu.vcpus;
    let Some(per_node) = machine.cpu.numa_vcpus_per_node.filter(|per_node| *per_node > 0) else {
        return Vec::new();
    };
    let count = vcpus / per_node;
    if !vcpus.is_multiple_of(per_node) || !(2..=MOST_NODES).contains(&count) {
        return Vec::new();
    }
    // Whole MiB; the first node takes what is left over.
    let share = machine.memory.mib / u64::from(count);
    let rest = machine.memory.mib % u64::from(count);
    (0..count)
        .map(|node| Node {
            first: node * per_node,
            last: (node + 1) * per_node - 1,
            mib: share + if node == 0 { rest } else { 0 },
        })
        .collect()
}
