//! Sockets, cores and threads, and the APIC ids that express them.

use serde::{Deserialize, Serialize};

/// How virtual CPUs are grouped. The product of the three is the number of vCPUs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Topology {
    /// Sockets (packages).
    pub sockets: u32,
    /// Cores in a socket.
    pub cores: u32,
    /// Threads in a core.
    pub threads: u32,
}

/// A topology that cannot be built.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TopologyError {
    /// One factor is zero.
    #[error("topology {0:?} has a zero in it; sockets, cores and threads start at 1")]
    Zero(Topology),
    /// More APIC ids than 8-bit local APIC entries can name.
    #[error(
        "topology {topology:?} needs APIC id {highest}; this machine has 8-bit ids up to 254: use fewer CPUs, or powers of two for cores and threads"
    )]
    TooLarge {
        /// What was asked for.
        topology: Topology,
        /// The highest APIC id that it needs.
        highest: u64,
    },
}

impl Topology {
    /// One socket with `vcpus` single-threaded cores.
    pub fn flat(vcpus: u32) -> Self {
        Self {
            sockets: 1,
            cores: vcpus,
            threads: 1,
        }
    }

    /// Checks the bounds.
    ///
    /// # Errors
    /// A zero factor, or APIC ids beyond 254 (255 is the broadcast id of xAPIC).
    pub fn validate(self) -> Result<(), TopologyError> {
        if self.sockets == 0 || self.cores == 0 || self.threads == 0 {
            return Err(TopologyError::Zero(self));
        }
        let highest = (u64::from(self.sockets - 1) << self.socket_shift().min(32))
            | (u64::from(self.cores - 1) << self.core_shift().min(32))
            | u64::from(self.threads - 1);
        if highest > 254 {
            return Err(TopologyError::TooLarge {
                topology: self,
                highest,
            });
        }
        Ok(())
    }

    /// Number of vCPUs.
    pub fn vcpus(self) -> u32 {
        self.sockets.saturating_mul(self.cores).saturating_mul(self.threads)
    }

    /// Number of threads in a socket.
    pub fn threads_per_socket(self) -> u32 {
        self.cores.saturating_mul(self.threads)
    }

    /// Bits of the APIC id below the core number.
    pub fn core_shift(self) -> u32 {
        bits(self.threads)
    }

    /// Bits of the APIC id below the socket number.
    pub fn socket_shift(self) -> u32 {
        bits(self.threads) + bits(self.cores)
    }

    /// The APIC id of vCPU `index`, counted thread by thread, core by core, socket by socket.
    pub fn apic_id(self, index: u32) -> u32 {
        let thread = index % self.threads;
        let core = index / self.threads % self.cores;
        let socket = index / self.threads_per_socket();
        socket << self.socket_shift() | core << self.core_shift() | thread
    }
}

/// Bits needed to number `count` things.
fn bits(count: u32) -> u32 {
    u32::BITS - count.saturating_sub(1).leading_zeros()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn apic_ids_of_odd_core_counts_leave_holes_and_stay_unique() {
        let topology = Topology {
            sockets: 2,
            cores: 3,
            threads: 2,
        };
        topology.validate().expect("fits");
        let ids: Vec<u32> = (0..topology.vcpus()).map(|i| topology.apic_id(i)).collect();
        assert_eq!(ids, [0, 1, 2, 3, 4, 5, 8, 9, 10, 11, 12, 13]);
    }

    #[test]
    fn zero_and_oversized_topologies_are_refused() {
        assert!(matches!(Topology::flat(0).validate(), Err(TopologyError::Zero(_))));
        assert!(Topology::flat(255).validate().is_ok());
        assert!(matches!(
            Topology::flat(256).validate(),
            Err(TopologyError::TooLarge { highest: 255, .. })
        ));
    }
}
