//! The documented limits over a whole estate, one guest at a time, so that memory doesn't grow with the guests.

use super::numbers::{HostNumbers, MachineNumbers};
use super::usage::{guest_on_host, host_usage, usage};
use crate::schema::{EstateHost, EstateLimit, LimitEffect, LimitUse};
use std::collections::BTreeMap;

/// Names that a host lists of the guests which are larger than it.
const NAMES: usize = 20;

/// Collects what the guests use.
#[derive(Debug, Default)]
pub struct EstateTally {
    limits: BTreeMap<(String, String, String, String), EstateLimit>,
    hosts: Vec<(HostNumbers, EstateHost)>,
}

impl EstateTally {
    /// A tally that also sets each guest beside `hosts`.
    #[must_use]
    pub fn new(hosts: &[HostNumbers]) -> Self {
        let describe = |host: &HostNumbers| EstateHost {
            name: host.name.clone(),
            product: host.product.clone(),
            version: host.version.clone(),
            logical_cpus: host.logical_cpus,
            memory_gib: host.memory_gib,
            limits: host_usage(host),
            too_large: 0,
            too_large_names: Vec::new(),
        };
        Self {
            limits: BTreeMap::new(),
            hosts: hosts.iter().map(|host| (host.clone(), describe(host))).collect(),
        }
    }

    /// Sets a guest beside the limits and the hosts. Returns what its row keeps: the limits that it passes, and of those
    /// that it keeps the one that it fills most.
    pub fn add(&mut self, name: &str, machine: &MachineNumbers) -> Vec<LimitUse> {
        let mut kept = Vec::new();
        let mut fullest: Option<LimitUse> = None;
        for used in usage(machine) {
            let key = (
                used.product.clone(),
                used.version.clone(),
                used.scope.clone(),
                used.quantity.clone(),
            );
            let entry = self.limits.entry(key).or_insert_with(|| EstateLimit {
                limit: used.clone(),
                guest: name.to_owned(),
                beyond: 0,
            });
            if !used.fits {
                entry.beyond = entry.beyond.saturating_add(1);
            }
            if share(&used) > share(&entry.limit) {
                entry.limit = used.clone();
                name.clone_into(&mut entry.guest);
            }
            if !used.fits {
                kept.push(used);
            } else if used.effect == LimitEffect::Fits && fullest.as_ref().is_none_or(|best| share(&used) > share(best))
            {
                fullest = Some(used);
            }
        }
        for (numbers, host) in &mut self.hosts {
            if guest_on_host(machine, numbers).iter().any(|used| !used.fits) {
                host.too_large = host.too_large.saturating_add(1);
                if host.too_large_names.len() < NAMES {
                    host.too_large_names.push(name.to_owned());
                }
            }
        }
        kept.extend(fullest);
        kept
    }

    /// The limits, those that are passed and enforced first, then by how full they are; and the hosts.
    #[must_use]
    pub fn finish(self) -> (Vec<EstateLimit>, Vec<EstateHost>) {
        let mut limits: Vec<EstateLimit> = self.limits.into_values().collect();
        let rank = |limit: &EstateLimit| match limit.limit.effect {
            LimitEffect::Blocks => 0,
            LimitEffect::Warns => 1,
            LimitEffect::Fits | LimitEffect::PrintedOnly => 2,
        };
        limits.sort_by(|a, b| {
            rank(a)
                .cmp(&rank(b))
                .then_with(|| share(&b.limit).total_cmp(&share(&a.limit)))
        });
        (limits, self.hosts.into_iter().map(|(_, host)| host).collect())
    }
}

/// How full the limit is; for a lower bound how near. Above 1: passed.
fn share(used: &LimitUse) -> f64 {
    let least = used.quantity.ends_with("(at least)");
    let (part, whole) = if least {
        (used.allowed, used.used)
    } else {
        (used.used, used.allowed)
    };
    if whole > 0.0 {
        part / whole
    } else if part > 0.0 {
        f64::MAX
    } else {
        0.0
    }
}
