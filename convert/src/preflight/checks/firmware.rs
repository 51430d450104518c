//! Firmware, Secure Boot and TPM.

use super::super::evidence::{is_true, keys, noticed, when};
use super::super::{Check, check};
use crate::machine::{FirmwareKind, Tpm};
use reports::schema::Severity::{Block, Warn};

/// The checks, in the order of the documentation.
pub(super) const CHECKS: &[Check] = &[
    check(
        "firmware.unknown",
        Block,
        "`firmware` other than bios and efi",
        "It isn't known how the guest boots.",
        "Correct the value.",
        noticed,
    ),
    check(
        "firmware.nvram-lost",
        Warn,
        "UEFI",
        "Firmware variables are not converted: boot entries are lost, and firmware falls back to \\EFI\\BOOT\\BOOTX64.EFI.",
        "`fixup` copies a Linux guest's loader there where none is; of other guests see that it is there.",
        |s| {
            when(s.machine.firmware.kind == FirmwareKind::Uefi, || {
                s.machine
                    .firmware
                    .nvram
                    .clone()
                    .unwrap_or_else(|| "firmware = efi".to_owned())
            })
        },
    ),
    check(
        "secureboot.enabled",
        Warn,
        "Secure Boot is on",
        "It needs SMM, q35 and Microsoft's keys on the target; loaders trusted through VMware's keys only don't start.",
        "Nothing to do for signed distributions; otherwise turn Secure Boot off.",
        |s| when(s.machine.firmware.secure_boot, || "Secure Boot on".to_owned()),
    ),
    check(
        "secureboot.without-uefi",
        Warn,
        "Secure Boot asked for on a BIOS guest",
        "BIOS has no Secure Boot; the key is ignored.",
        "Correct the firmware if the guest boots by UEFI.",
        |s| {
            if s.machine.firmware.kind == FirmwareKind::Bios {
                keys(s, |key, value| {
                    (key == "uefi.secureboot.enabled" || key.ends_with("efisecurebootenabled")) && is_true(value)
                })
            } else {
                Vec::new()
            }
        },
    ),
    check(
        "tpm.present",
        Warn,
        "a virtual TPM",
        "A new, empty TPM is made; keys sealed in the old one are lost.",
        "Have the recovery keys of BitLocker or LUKS at hand.",
        |s| when(s.machine.firmware.tpm == Tpm::V2, || "vTPM".to_owned()),
    ),
    check(
        "windows.vbs-hvci",
        Warn,
        "virtualisation-based security is on",
        "It needs nested virtualisation on the target.",
        "Use the host's CPU model, or turn it off.",
        |s| {
            keys(s, |key, value| {
                (key.starts_with("windows.vbs")
                    || key.starts_with("vbs.")
                    || key == "vvtd.enable"
                    || key.ends_with("vbsenabled"))
                    && is_true(value)
            })
        },
    ),
];
