//! The order in which guests move, and the hosts that they need.

use super::AssessOptions;
use reports::schema::{EstateFleet, EstateGuest, EstateSizing, EstateVerdict, EstateWave};
use std::collections::{BTreeMap, BTreeSet};

/// Guests that share networks go together; easy groups first; a wave takes at most `most` guests.
pub(super) fn waves(guests: &mut [EstateGuest], most: usize) {
    let movable: Vec<usize> = (0..guests.len())
        .filter(|number| guests[*number].verdict != EstateVerdict::Unreadable)
        .collect();
    // Groups by shared network: union of everything that hangs together.
    let mut parent: Vec<usize> = (0..guests.len()).collect();
    fn root(parent: &mut [usize], mut number: usize) -> usize {
        while parent[number] != number {
            parent[number] = parent[parent[number]];
            number = parent[number];
        }
        number
    }
    let mut by_network: BTreeMap<&str, usize> = BTreeMap::new();
    for number in &movable {
        for network in &guests[*number].networks {
            let other = *by_network.entry(network).or_insert(*number);
            let (a, b) = (root(&mut parent, *number), root(&mut parent, other));
            parent[a] = b;
        }
    }
    let mut groups: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    for number in movable {
        let root = root(&mut parent, number);
        groups.entry(root).or_default().push(number);
    }
    let mut groups: Vec<Vec<usize>> = groups.into_values().collect();
    for group in &mut groups {
        group.sort_by_key(|number| {
            (
                guests[*number].verdict,
                guests[*number].effort,
                guests[*number].capacity_bytes,
            )
        });
    }
    groups.sort_by_key(|group| {
        let worst = group.iter().map(|number| guests[*number].verdict).max();
        let bytes: u64 = group
            .iter()
            .fold(0, |sum, number| sum.saturating_add(guests[*number].capacity_bytes));
        (worst, bytes)
    });
    let (mut wave, mut taken) = (1, 0);
    for group in groups {
        for part in group.chunks(most) {
            if taken > 0 && taken + part.len() > most {
                wave += 1;
                taken = 0;
            }
            taken += part.len();
            for number in part {
                guests[*number].wave = wave;
            }
        }
    }
}

/// Bytes to copy: what is allocated, or the capacity where that isn't known.
pub(super) fn copy_bytes(guest: &EstateGuest) -> u64 {
    if guest.allocated_bytes > 0 {
        guest.allocated_bytes
    } else {
        guest.capacity_bytes
    }
}

/// Sums of each wave.
pub(super) fn totals(guests: &[EstateGuest], bytes_per_second: u64) -> Vec<EstateWave> {
    let mut waves: BTreeMap<u32, (EstateWave, BTreeSet<&str>)> = BTreeMap::new();
    for guest in guests.iter().filter(|guest| guest.wave > 0) {
        let (wave, networks) = waves.entry(guest.wave).or_insert_with(|| {
            let wave = EstateWave {
                number: guest.wave,
                guests: 0,
                blocked: 0,
                vcpus: 0,
                memory_mib: 0,
                copy_bytes: 0,
                copy_seconds: 0,
                networks: Vec::new(),
            };
            (wave, BTreeSet::new())
        });
        wave.guests += 1;
        wave.blocked += u32::from(guest.verdict == EstateVerdict::Blocked);
        wave.vcpus = wave.vcpus.saturating_add(u64::from(guest.vcpus));
        wave.memory_mib = wave.memory_mib.saturating_add(guest.memory_mib);
        wave.copy_bytes = wave.copy_bytes.saturating_add(copy_bytes(guest));
        networks.extend(guest.networks.iter().map(String::as_str));
    }
    waves
        .into_values()
        .map(|(wave, networks)| EstateWave {
            copy_seconds: wave.copy_bytes.div_ceil(bytes_per_second.max(1)),
            networks: networks.into_iter().map(str::to_owned).collect(),
            ..wave
        })
        .collect()
}

/// Room on a host: vCPUs and memory in MiB.
#[derive(Debug, Clone, Copy)]
struct Room {
    vcpus: u64,
    memory_mib: u64,
}

impl Room {
    fn new(cpus: u32, memory_mib: u64, vcpus_per_core: u32) -> Self {
        Self {
            vcpus: u64::from(cpus).saturating_mul(u64::from(vcpus_per_core.max(1))),
            memory_mib,
        }
    }

    fn take(&mut self, guest: &EstateGuest) -> bool {
        let vcpus = u64::from(guest.vcpus);
        let fits = vcpus <= self.vcpus && guest.memory_mib <= self.memory_mib;
        if fits {
            self.vcpus -= vcpus;
            self.memory_mib -= guest.memory_mib;
        }
        fits
    }
}

/// A guest runs nowhere with more vCPUs than the host has CPUs, whatever the ratio.
fn larger_than(guest: &EstateGuest, cpus: u32, memory_mib: u64) -> bool {
    guest.vcpus > cpus || guest.memory_mib > memory_mib
}

/// Guests that are moved, the largest first.
fn by_size(guests: &[EstateGuest]) -> Vec<&EstateGuest> {
    let mut sorted: Vec<&EstateGuest> = guests.iter().filter(|guest| guest.wave > 0).collect();
    sorted.sort_by_key(|guest| std::cmp::Reverse((guest.memory_mib, guest.vcpus)));
    sorted
}

/// First fit, the largest guest first: no more than about 22 % above the least number of hosts, and a plan that really
/// works, since no guest is cut in two.
pub(super) fn sizing(guests: &[EstateGuest], options: &AssessOptions) -> EstateSizing {
    let empty = Room::new(options.host_cores, options.host_memory_mib, options.vcpus_per_core);
    let mut hosts: Vec<Room> = Vec::new();
    let mut too_large = 0_u32;
    // Hosts that are full to the smallest guest are not looked at again, or thousands of hosts would take seconds.
    let mut open = 0;
    let least = guests
        .iter()
        .filter(|guest| guest.wave > 0)
        .map(|guest| guest.memory_mib)
        .min()
        .unwrap_or(0);
    for guest in by_size(guests) {
        if larger_than(guest, options.host_cores, options.host_memory_mib) {
            too_large = too_large.saturating_add(1);
            continue;
        }
        while hosts
            .get(open)
            .is_some_and(|room| room.vcpus == 0 || room.memory_mib < least)
        {
            open += 1;
        }
        if !hosts.iter_mut().skip(open).any(|room| room.take(guest)) {
            let mut room = empty;
            room.take(guest);
            hosts.push(room);
        }
    }
    let hosts = u32::try_from(hosts.len()).unwrap_or(u32::MAX);
    EstateSizing {
        host_cores: options.host_cores,
        host_memory_mib: options.host_memory_mib,
        vcpus_per_core: options.vcpus_per_core,
        hosts,
        hosts_with_spare: hosts.saturating_add(1),
        too_large,
        fleet: (!options.fleet.is_empty()).then(|| fleet(guests, options)),
    }
}

fn fleet(guests: &[EstateGuest], options: &AssessOptions) -> EstateFleet {
    let mut hosts = options.fleet.clone();
    hosts.sort_by_key(|(cpus, memory)| std::cmp::Reverse((*memory, *cpus)));
    let unplaced = |hosts: &[(u32, u64)]| {
        let mut rooms: Vec<Room> = hosts
            .iter()
            .map(|(cpus, memory)| Room::new(*cpus, *memory, options.vcpus_per_core))
            .collect();
        let left = by_size(guests)
            .into_iter()
            .filter(|guest| {
                !rooms
                    .iter_mut()
                    .zip(hosts)
                    .any(|(room, (cpus, memory))| !larger_than(guest, *cpus, *memory) && room.take(guest))
            })
            .count();
        u32::try_from(left).unwrap_or(u32::MAX)
    };
    EstateFleet {
        vcpus: hosts
            .iter()
            .map(|(cpus, _)| Room::new(*cpus, 0, options.vcpus_per_core).vcpus)
            .fold(0, u64::saturating_add),
        memory_mib: hosts.iter().map(|(_, memory)| *memory).fold(0, u64::saturating_add),
        unplaced: unplaced(&hosts),
        unplaced_with_spare: unplaced(&hosts[1..]),
    }
}
