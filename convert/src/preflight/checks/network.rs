//! NICs and networks.

use super::super::evidence::{nics, noticed};
use super::super::{Check, Needs, check, raised};
use crate::machine::{MacOrigin, OsFamily, SourceKind, identity};
use reports::schema::Severity::{Block, Info, Warn};

/// The checks, in the order of the documentation.
pub(super) const CHECKS: &[Check] = &[
    raised(
        "nic.network-unmapped",
        Block,
        Needs::Targets,
        "a network that the map lacks",
        "The NIC has no place on the target; nothing is written until the map names one.",
        "Add the lines to the map.",
    ),
    raised(
        "target.storage-not-mapped",
        Block,
        Needs::Targets,
        "a datastore that the map lacks",
        "The disk has no place on the target; nothing is written until the map names one.",
        "Add the lines to the map.",
    ),
    raised(
        "nic.network-default",
        Warn,
        Needs::Targets,
        "a NIC, and no map",
        "The NIC goes to the default network: vmbr0 on Proxmox VE, the network `default` of libvirt, user networking of QEMU, \
         the pod network or a NetworkAttachmentDefinition named after the source network on KubeVirt.",
        "Give a map (--map FILE) that says where each source network ends.",
    ),
    raised(
        "nic.vlan-untagged",
        Warn,
        Needs::Targets,
        "a VLAN tag for libvirt on a plain bridge, or for QEMU",
        "libvirt tags the traffic of Open vSwitch's bridges only, and QEMU none: the NIC is on the bridge without a tag.",
        "Set `openvswitch = true` where the bridge is one of Open vSwitch; otherwise name a bridge that is in the VLAN already.",
    ),
    check(
        "nic.network-missing",
        Warn,
        "a NIC without a network",
        "The source doesn't say which network; with a map it has to be named by its MAC.",
        "Add the NIC's MAC to the guest's part of the map.",
        |s| nics(s, |nic| nic.network.is_none()),
    ),
    check(
        "nic.mac-conflict",
        Block,
        "the same MAC twice in a guest, or (`assess`) in two guests",
        "Two NICs can't share a MAC on one network.",
        "Change one of them.",
        |s| {
            let all = &s.machine.nics;
            nics(s, |nic| {
                nic.mac.is_some() && all.iter().filter(|other| other.mac == nic.mac).count() > 1
            })
        },
    ),
    check(
        "nic.mac-missing",
        Warn,
        "a NIC without a MAC",
        "The target makes a new one; what is bound to the old one is lost.",
        "Set the MAC on the target.",
        |s| nics(s, |nic| nic.mac.is_none()),
    ),
    check(
        "nic.mac-oui",
        Info,
        "a MAC outside of VMware's ranges",
        "It was set by hand; it is kept.",
        "Nothing to do.",
        |s| {
            nics(s, |nic| {
                nic.mac.as_deref().is_some_and(|mac| !identity::is_vmware_mac(mac))
            })
        },
    ),
    check(
        "nic.mac-ambiguous",
        Warn,
        "a static and another generated MAC, or no address type",
        "Two MACs are written; the one that the address type names is used.",
        "Compare with what the guest had.",
        noticed,
    ),
    check(
        "nic.mac-type-missing",
        Info,
        "no address type",
        "The static address is used if there is one.",
        "Nothing to do.",
        |s| {
            if s.machine.source_kind == SourceKind::Vmx {
                nics(s, |nic| nic.mac_origin == MacOrigin::Unknown)
            } else {
                Vec::new()
            }
        },
    ),
    check(
        "nic.rename-risk",
        Warn,
        "a Linux guest with a NIC in a PCI slot",
        "Names such as ens192 come from the slot. QEMU and libvirt (on q35) keep it, Proxmox VE and KubeVirt can't.",
        "Let `fixup` write rules that name NICs by MAC.",
        |s| {
            if s.machine.os.family == OsFamily::Linux || s.machine.os.family == OsFamily::Windows {
                nics(s, |nic| nic.pci_slot.is_some())
            } else {
                Vec::new()
            }
        },
    ),
    check(
        "nic.slot-not-reproduced",
        Info,
        "a PCI slot above 1023",
        "The name that the guest made of this slot is not known for certain (ens161 for 1184 is a hypothesis), so it isn't kept.",
        "Let `fixup` write rules that name NICs by MAC.",
        |s| nics(s, |nic| nic.pci_slot.is_some_and(|slot| slot > 1023)),
    ),
    check(
        "nic.start-disconnected",
        Info,
        "a NIC that starts disconnected",
        "The link is made down; on QEMU the cable leads nowhere.",
        "Nothing to do.",
        |s| nics(s, |nic| !nic.connected),
    ),
    check(
        "nic.model-obsolete",
        Warn,
        "vmxnet, vmxnet2, vlance or flexible",
        "E1000 or PCnet is used instead.",
        "Check that the guest has a driver.",
        |s| {
            nics(s, |nic| {
                matches!(
                    nic.model.as_deref(),
                    Some("vmxnet" | "vmxnet2" | "vlance" | "flexible" | "pcnet32")
                )
            })
        },
    ),
    check(
        "net.vlan-unknown",
        Info,
        "NICs on a network",
        "The VLAN is not in the files; it is the port group's.",
        "Give the tag in the map.",
        |s| {
            if s.machine.source_kind == SourceKind::Vmx {
                nics(s, |nic| nic.network.is_some() && nic.vlan.is_none())
            } else {
                Vec::new()
            }
        },
    ),
];
