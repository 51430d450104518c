//! The register, a file a noun.

mod cpu;
mod description;
mod device;
mod disk;
mod drive;
mod firmware;
mod guest;
mod inside;
mod memory;
mod network;
mod package;
mod state;
mod target;
mod windows;
mod workload;

use super::Check;

/// All parts, in the order of the documentation.
const PARTS: [&[Check]; 15] = [
    description::CHECKS,
    package::CHECKS,
    disk::CHECKS,
    drive::CHECKS,
    state::CHECKS,
    firmware::CHECKS,
    cpu::CHECKS,
    memory::CHECKS,
    device::CHECKS,
    network::CHECKS,
    guest::CHECKS,
    target::CHECKS,
    inside::CHECKS,
    windows::CHECKS,
    workload::CHECKS,
];

/// All checks.
pub fn all() -> impl Iterator<Item = &'static Check> {
    PARTS.into_iter().flatten()
}
