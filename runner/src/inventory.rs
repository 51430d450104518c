//! What this host has of the programs and files that running guests needs.

use crate::appliance;
use crate::engine::Engine;
use crate::qemu::Qemu;
use serde::Serialize;
use std::path::Path;

/// A program or file that is needed, or good to have.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Tool {
    /// For people: `QEMU`, `UEFI`.
    pub name: &'static str,
    /// Version or path where it was found.
    pub found: Option<String>,
    /// Some guests can be run without it.
    pub optional: bool,
    /// How to get it.
    pub advice: String,
}

/// Looks at everything. Starts `qemu-system-x86_64 --version`, and nothing else.
#[must_use]
pub fn inventory() -> Vec<Tool> {
    let first = |paths: &[&str]| {
        paths
            .iter()
            .find(|path| Path::new(path).is_file())
            .map(|path| (*path).to_owned())
    };
    let appliance = appliance::appliance_status();
    let agent = appliance::agent_binary();
    let qemu = Qemu.version();
    vec![
        Tool {
            name: "QEMU",
            advice: qemu.as_ref().err().map(ToString::to_string).unwrap_or_default(),
            found: qemu.ok(),
            optional: false,
        },
        Tool {
            name: "qemu-img",
            found: std::env::var_os("PATH").and_then(|paths| {
                std::env::split_paths(&paths)
                    .map(|folder| folder.join("qemu-img"))
                    .find(|path| path.is_file())
                    .map(|path| path.display().to_string())
            }),
            optional: false,
            advice: "apt install qemu-utils (or run scripts/setup.sh)".to_owned(),
        },
        Tool {
            name: "BIOS",
            found: first(&[
                "/usr/share/seabios/bios-256k.bin",
                "/usr/share/qemu/bios-256k.bin",
                "/usr/share/kvm/bios-256k.bin",
            ]),
            optional: false,
            advice: "apt install seabios".to_owned(),
        },
        Tool {
            name: "UEFI",
            found: first(&[
                "/usr/share/OVMF/OVMF_CODE_4M.fd",
                "/usr/share/pve-edk2-firmware/OVMF_CODE_4M.fd",
                "/usr/share/OVMF/OVMF_CODE.fd",
            ]),
            optional: true,
            advice: "UEFI guests need it: apt install ovmf".to_owned(),
        },
        Tool {
            name: "appliance",
            advice: appliance.as_ref().err().map(ToString::to_string).unwrap_or_default(),
            found: appliance.ok(),
            optional: true,
        },
        Tool {
            name: "virt-v2v",
            found: crate::v2v::find().map(|path| path.display().to_string()),
            optional: true,
            advice: "only for 'fixup --engine virt-v2v' (Windows guests): apt install virt-v2v".to_owned(),
        },
        Tool {
            name: "agent",
            advice: agent.as_ref().err().map(ToString::to_string).unwrap_or_default(),
            found: agent.ok().map(|path| path.display().to_string()),
            optional: true,
        },
    ]
}
