//! Checks that others make or that one would wish for, and that are not made here, each with the reason.

/// Checks that are not made, for one reason.
#[derive(Debug, Clone, Copy)]
pub struct Unmade {
    /// Their ids in the catalogue.
    pub ids: &'static [&'static str],
    /// Why.
    pub why: &'static str,
}

/// All of them.
pub const UNMADE: &[Unmade] = &[
    Unmade {
        ids: &["disk.locked", "host.maintenance", "source.nfc-connections"],
        why: "The state of a running ESXi host; no file says it.",
    },
    Unmade {
        ids: &["source.api-restricted", "source.port-closed", "source.version-old"],
        why: "Known when a connection to ESXi or vCenter is made, which reports it as its own error.",
    },
    Unmade {
        ids: &["cluster.drs", "cluster.dpm", "cluster.ha", "cluster.host-affinity"],
        why: "Rules of the source's cluster are in vCenter only.",
    },
    Unmade {
        ids: &[
            "datastore.missing",
            "datastore.vsan",
            "guest.disk-key-missing",
            "device.sriov",
        ],
        why: "Objects of vCenter's inventory. A passed-through function of an SR-IOV card is written as `pciPassthruN` in a VMX \
              file and blocks as `device.pci-passthrough`.",
    },
    Unmade {
        ids: &[
            "tools.end-of-life",
            "tools.removal-risk",
            "rightsize.hint",
            "ip.guest-info-missing",
            "host.name-empty",
        ],
        why: "Needs versions, addresses and usage as VMware Tools reported them over time.",
    },
    Unmade {
        ids: &["disk.4kn-mismatch"],
        why: "A VMDK has sectors of 512 bytes, and all targets are written with 512; only a raw LUN could have 4096.",
    },
    Unmade {
        ids: &[
            "disk.thin-becomes-thick",
            "target.credentials",
            "target.version-unsupported",
            "target.fips-source-old",
        ],
        why: "Properties of the target's storage and cluster, which are not asked: results are files.",
    },
    Unmade {
        ids: &["target.live-import-risk", "windows.reboot-count"],
        why: "Belongs to ways that are not gone here (Proxmox VE's live import, virt-v2v's firstboot scripts).",
    },
    Unmade {
        ids: &["cpu.host-model-breaks-live-migration"],
        why: "The host's model is chosen for nested guests and above about 1 TiB only; `target.phys-bits` and `docs/machine.md` say so.",
    },
    Unmade {
        ids: &["target.limit-memory", "target.eta"],
        why: "Figures and no findings: `assess` sets each guest beside the documented limits and beside each host of \
              `--target-host`, and gives the time of the copy at `--rate`.",
    },
    Unmade {
        ids: &["nic.several-on-pod-network"],
        why: "An error when targets are written with `--map`: it names the NICs.",
    },
    Unmade {
        ids: &[
            "target.space",
            "target.temp-space",
            "target.tool-missing",
            "target.firmware-missing",
        ],
        why: "Shown where the work is done: `convert` stops with what is free and what is still needed, and goes on from there; \
              `doctor` names missing programs; `qemu.sh` stops with the package to install where OVMF is missing.",
    },
    Unmade {
        ids: &["ip.subnet-mismatch", "ip.preserve-on-nat-network"],
        why: "Needs the guest's addresses and the target's subnets.",
    },
    Unmade {
        ids: &["secureboot.custom-keys", "tpm.sealed-secret", "windows.measured-boot"],
        why: "Needs the NVRAM's variables or what a TPM sealed. `secureboot.enabled` and `tpm.present` warn instead.",
    },
    Unmade {
        ids: &[
            "guest.root-not-found",
            "guest.live-image",
            "guest.space-context",
            "guest.luks-key-and-clevis",
        ],
        why: "The look into the disks takes no named root, opens no images within the file system, and no network's keys; what it \
              can't mount is `inside.not-looked-at`. The space that OpenNebula's packages need is OpenNebula's.",
    },
    Unmade {
        ids: &["windows.compact-os"],
        why: "Matters to programs that read Windows' own files from outside; of these only the registry is read, which is never \
              compressed so.",
    },
    Unmade {
        ids: &["os.not-supported-by-conversion", "linux.no-modprobe-conf"],
        why: "Nothing depends on it: what can't be made ready is moved as it is, and the boot proof decides.",
    },
];
