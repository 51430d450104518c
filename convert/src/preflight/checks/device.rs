//! Other devices.

use super::super::evidence::keys;
use super::super::{Check, check};
use reports::schema::Severity::{Block, Info, Warn};

/// The checks, in the order of the documentation.
pub(super) const CHECKS: &[Check] = &[
    check(
        "device.pci-passthrough",
        Block,
        "a passed-through PCI device",
        "The device is the old host's.",
        "Remove it first; pass one through on the target afterwards.",
        |s| s.machine.passthrough.clone(),
    ),
    check(
        "device.vgpu",
        Block,
        "a vGPU profile",
        "The GPU is the old host's.",
        "Remove it first; configure one on the target afterwards.",
        |s| {
            keys(s, |key, value| {
                key.starts_with("pcipassthru") && key.contains("vgpu") && !value.is_empty()
            })
        },
    ),
    check(
        "device.usb",
        Warn,
        "an attached USB device",
        "Devices are not moved.",
        "Plug it in on the target and pass it through.",
        |s| s.machine.usb.devices.clone(),
    ),
    check(
        "device.parallel",
        Warn,
        "a parallel port",
        "It is dropped.",
        "Use a network print server or a USB adapter.",
        |s| {
            s.machine
                .parallel
                .iter()
                .map(|port| format!("parallel{}", port.index))
                .collect()
        },
    ),
    check(
        "device.serial",
        Info,
        "a serial port",
        "It becomes a socket on Proxmox VE and a pty elsewhere; a network concentrator is lost.",
        "Connect it anew.",
        |s| {
            s.machine
                .serial
                .iter()
                .map(|port| format!("serial{}: {}", port.index, port.kind))
                .collect()
        },
    ),
];
