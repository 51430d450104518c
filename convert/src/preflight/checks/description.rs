//! What the description itself says, and how it is written.

use super::super::evidence::{disks, noticed, when};
use super::super::{Check, check};
use crate::targets::plan::{Plan, Target};
use reports::schema::KeyClass;
use reports::schema::Severity::{Block, Info, Warn};

/// The newest virtual hardware version known here.
const NEWEST_HARDWARE: u32 = 22;

/// The checks, in the order of the documentation.
pub(super) const CHECKS: &[Check] = &[
    check(
        "vmx.unparsable-line",
        Warn,
        "a line is neither blank, comment nor `key = \"value\"`",
        "A line of the VMX file makes no sense and was left out.",
        "Save the guest's settings anew in vSphere, or delete the line.",
        noticed,
    ),
    check(
        "vmx.duplicate-key",
        Warn,
        "the same key twice with different values",
        "A key has two values; the first is used. Other readers take the last.",
        "Remove one of the lines.",
        noticed,
    ),
    check(
        "vmx.key-unknown",
        Warn,
        "a key that is not in the accounting table",
        "The effect of the key is not known here; it is not carried over.",
        "Check whether the guest needs it, and report the key.",
        |s| {
            s.accounting
                .keys
                .iter()
                .filter(|key| key.class == KeyClass::Unknown)
                .map(|key| format!("{} = \"{}\"", key.key, key.value.chars().take(80).collect::<String>()))
                .collect()
        },
    ),
    check(
        "vmx.unquoted-value",
        Warn,
        "a value without quotes",
        "A value has no quotes; it was read to the end of the line.",
        "Put the value in double quotes.",
        noticed,
    ),
    check(
        "vmx.raw-quote",
        Warn,
        "a double quote inside a value that is not written `|22`",
        "A value holds a bare quote; it was read up to the last quote of the line.",
        "Write `|22` for the quote inside.",
        noticed,
    ),
    check(
        "vmx.malformed-escape",
        Warn,
        "`|` that two hex digits don't follow",
        "An escape is incomplete; it was left as it stands.",
        "Write `|7C` for a bar.",
        noticed,
    ),
    check(
        "vmx.encoding-unsupported",
        Block,
        "`.encoding` names an unknown charset and the file isn't ASCII",
        "Names would be corrupted.",
        "Convert the file to UTF-8 and set `.encoding = \"UTF-8\"`.",
        noticed,
    ),
    check(
        "vmx.encoding-guess",
        Warn,
        "bytes that are not of the declared charset",
        "Text was read in another charset, or with signs missing; the evidence says how.",
        "Compare the names; convert the file to UTF-8.",
        noticed,
    ),
    check(
        "vmx.present-false-leftover",
        Info,
        "keys of a device with `present = \"FALSE\"`",
        "A removed device left keys behind; they are ignored.",
        "Nothing to do.",
        noticed,
    ),
    check(
        "vmx.present-missing",
        Warn,
        "a device without a readable `present`",
        "It isn't said whether the device is there; it is kept.",
        "Remove the device from the result if the guest didn't have it.",
        noticed,
    ),
    check(
        "vmx.odd-version",
        Warn,
        "`virtualHW.version` below 4 or `config.version` other than 8",
        "The file is of a version that nobody writes any more.",
        "Check the result with care.",
        noticed,
    ),
    check(
        "vmx.value-unreadable",
        Warn,
        "an identity that can't be read",
        "A value is malformed and was left out; the guest gets a new one.",
        "Correct the line.",
        noticed,
    ),
    check(
        "vm.name-missing",
        Warn,
        "no `displayName`, no name or id in the OVF",
        "The file's name is used as the guest's name.",
        "Give a name in the map.",
        noticed,
    ),
    check(
        "vm.name-non-ascii",
        Warn,
        "a name or disk file outside of ASCII",
        "The target's name will differ; the original is kept in its description.",
        "Give a name in the map.",
        |s| {
            when(!s.machine.name.is_ascii(), || s.machine.name.clone())
                .into_iter()
                .chain(disks(s, |disk| !disk.file.is_ascii()))
                .collect()
        },
    ),
    check(
        "vm.name-invalid",
        Warn,
        "a name that Proxmox VE or KubeVirt refuses",
        "The guest is renamed on the target; the original is kept in its description.",
        "Give a name in the map.",
        |s| {
            let name = &s.machine.name;
            let fits = !name.is_empty()
                && name.len() < 64
                && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '.')
                && name.starts_with(|c: char| c.is_ascii_alphanumeric())
                && name.ends_with(|c: char| c.is_ascii_alphanumeric());
            when(!fits, || {
                format!(
                    "\"{name}\" becomes {}",
                    Plan::new(s.machine, Target::Kubevirt, false).name
                )
            })
        },
    ),
    check(
        "vm.guessed",
        Warn,
        "a bare disk was given",
        "There is no description: CPUs, memory, firmware and NICs are guesses (1 vCPU, 1 GiB, BIOS, no NIC).",
        "Give the .vmx or .ovf, or correct the result.",
        noticed,
    ),
    check(
        "vm.sheet-only",
        Warn,
        "a guest that is known from a spreadsheet of RVTools only",
        "Keys, snapshot chains and files were not looked at: what the sheet doesn't say is not judged.",
        "Assess the guest's folder too; both may be given at once.",
        noticed,
    ),
    check(
        "vm.template",
        Info,
        "a `.vmtx` file",
        "This is a template, not a guest that ran.",
        "Nothing to do.",
        |s| when(s.machine.template, || s.machine.source.display().to_string()),
    ),
    check(
        "vm.hw-version-old",
        Info,
        "`virtualHW.version` below 7",
        "There is no changed block tracking on such hardware, so only a cold copy works.",
        "Nothing to do for a cold copy.",
        |s| {
            s.machine
                .hw_version
                .filter(|version| *version < 7)
                .map(|version| format!("version {version}"))
                .into_iter()
                .collect()
        },
    ),
    check(
        "vm.hw-version-new",
        Warn,
        "a hardware version above 22",
        "The version is newer than what is known here; keys of it may be unknown.",
        "Read the accounting with care.",
        |s| {
            s.machine
                .hw_version
                .filter(|version| *version > NEWEST_HARDWARE)
                .map(|version| format!("version {version}"))
                .into_iter()
                .collect()
        },
    ),
];
