//! OVF and OVA as packages.

use super::super::evidence::noticed;
use super::super::{Check, check};
use reports::schema::Severity::{Block, Info, Warn};

/// The checks, in the order of the documentation.
pub(super) const CHECKS: &[Check] = &[
    check(
        "ovf.source-foreign",
        Warn,
        "an OVF that VMware didn't write",
        "Sub-types may mean something else; MACs and firmware are often missing.",
        "Check controllers, firmware and NICs.",
        noticed,
    ),
    check(
        "ovf.controller-unknown",
        Warn,
        "a disk without a known controller",
        "The bus and order of the disk are a guess.",
        "Check which disk the guest boots from.",
        noticed,
    ),
    check(
        "ovf.cores-per-socket-invalid",
        Warn,
        "`vmw:CoresPerSocket` of 0 or above the number of vCPUs",
        "The value is ignored.",
        "Correct the OVF, or the topology on the target.",
        noticed,
    ),
    check(
        "ovf.several-configurations",
        Block,
        "several deployment configurations and none chosen",
        "CPU and memory depend on the configuration; the default was read.",
        "Choose one with --deployment.",
        noticed,
    ),
    check(
        "ovf.disk-reference",
        Warn,
        "a disk item whose HostResource leads nowhere",
        "The item is left out: no file belongs to it.",
        "Check the list of disks.",
        noticed,
    ),
    check(
        "ovf.several-hardware-sections",
        Warn,
        "more than one VirtualHardwareSection in a guest",
        "The first section is used.",
        "Choose the section in the file.",
        noticed,
    ),
    check(
        "ovf.empty-disk",
        Info,
        "a disk without a file",
        "The disk is empty; it is made with the stated capacity.",
        "Nothing to do.",
        noticed,
    ),
    check(
        "ova.manifest-mismatch",
        Block,
        "a sum in the manifest differs from the file's",
        "The package is damaged or was changed.",
        "Download it again; or go on with --no-verify-manifest.",
        noticed,
    ),
    check(
        "ova.manifest-file-missing",
        Warn,
        "the manifest names a file that is not there",
        "The package is incomplete.",
        "Check where it came from.",
        noticed,
    ),
    check(
        "ova.certificate",
        Info,
        "a `.cert` file",
        "The package carries a signature; it is recognised, not trusted.",
        "Verify it with the publisher's certificate where that matters.",
        noticed,
    ),
    check(
        "ova.needs-extracting",
        Info,
        "the package or a disk in it is compressed",
        "It can't be read in place; a temporary copy is made.",
        "Nothing to do, given the space.",
        noticed,
    ),
    check(
        "ova.file-size",
        Block,
        "a file is shorter or longer than the OVF says",
        "The package was cut, or its description belongs to another.",
        "Download it again.",
        noticed,
    ),
    check(
        "ova.chunks",
        Block,
        "pieces of a split file are missing or of the wrong size",
        "The disk can't be joined.",
        "Copy all pieces.",
        noticed,
    ),
];
