//! A rich, invented report: for tests, for `examples/sample.rs` and for the picture in the README.
//!
//! Every figure in it is made up by a fixed sequence; none was measured.

mod estate;
mod probed;

pub use estate::{HOSTILE, sample_estate};

use crate::limits::{self, MachineNumbers};
use crate::schema::{
    AcceleratorClass, AccountedKey, Accounting, BenchRecord, BenchSizes, Better, Comparability, ComparedMetric,
    Comparison, ComparisonVerdict, DeepFacts, DiskFacts, DiskManifest, DriverPlace, Evidence, Finding, FixupFacts,
    GuestReport, HashTree, HostFacts, KernelFacts, KeyClass, MachineFacts, Manifest, Metric, Milestone, NicFacts,
    Noise, Percentile, Place, ProofRecord, ProofVerdict, RecordRef, Severity, SkippedMetric, SourceFile, Stamp,
    StepRecord, StepStatus, Suite, Summary, SystemFacts, VolumeFacts,
};

const GIB: u64 = 1 << 30;
const SCREEN: &str = include_str!("login.png.base64");

/// The sample. The same on every call.
#[must_use]
pub fn sample_report() -> GuestReport {
    let machine = machine();
    let bench = vec![
        record("web01 on ESXi 7.0", Place::Imported, AcceleratorClass::Esxi, 1.0),
        record("web01 on KVM", Place::Guest, AcceleratorClass::Native, 1.04),
        record("host", Place::Host, AcceleratorClass::Metal, 1.18),
    ];
    let comparisons = vec![compare(&bench[0], &bench[1]), compare(&bench[2], &bench[1])];
    GuestReport {
        stamp: stamp(),
        limits: limits::usage(&MachineNumbers::from(&machine)),
        probed_limits: Some(probed::probed()),
        host: host(None),
        steps: steps(),
        findings: findings(),
        accounting: accounting(),
        manifest: Some(manifest()),
        deep: Some(deep()),
        fixup: changes(),
        proof: Some(proof()),
        screenshots: vec![("login".to_owned(), SCREEN.trim().to_owned())],
        machine,
        bench,
        comparisons,
    }
}

fn deep() -> DeepFacts {
    let volume = |device: &str, partition, content: &str, mounted: Option<&str>| VolumeFacts {
        device: device.to_owned(),
        disk: Some(0),
        partition: Some(partition),
        bytes: 39 * GIB,
        content: Some(content.to_owned()),
        uuid: Some("0f3c2a51-6a0e-4b7d-9d53-1c2b7b8e9f10".to_owned()),
        free_bytes: mounted.map(|_| 21 * GIB),
        mounted_at: mounted.map(str::to_owned),
        state: None,
        ..VolumeFacts::default()
    };
    let drivers = [
        ("sd_mod", DriverPlace::Initramfs),
        ("virtio_blk", DriverPlace::Modules),
        ("virtio_pci", DriverPlace::BuiltIn),
    ];
    DeepFacts {
        volumes: vec![volume("vda1", 1, "ext4", Some("/")), volume("vda5", 5, "swap", None)],
        systems: vec![SystemFacts {
            device: "vda1".to_owned(),
            name: "Debian GNU/Linux 12 (bookworm)".to_owned(),
            id: "debian".to_owned(),
            version: "12".to_owned(),
            init: "systemd".to_owned(),
            boot_loader: Some("grub2".to_owned()),
            initramfs_tool: Some("initramfs-tools".to_owned()),
            kernels: vec![KernelFacts {
                version: "6.1.0-28-amd64".to_owned(),
                initramfs: Some("/boot/initrd.img-6.1.0-28-amd64".to_owned()),
                drivers: drivers.map(|(name, place)| (name.to_owned(), place)).into(),
                ..KernelFacts::default()
            }],
            interfaces: [("ens192".to_owned(), "/etc/network/interfaces".to_owned())].into(),
            vmware_tools: Some("/usr/bin/vmtoolsd".to_owned()),
            ..SystemFacts::default()
        }],
        notes: vec!["vdb: luks is recognised and not opened".to_owned()],
    }
}

fn changes() -> Vec<FixupFacts> {
    let change = |path: &str, why: &str, before: Option<&str>, after: &str| FixupFacts {
        path: path.to_owned(),
        why: why.to_owned(),
        before: before.map(str::to_owned),
        after: after.to_owned(),
        undone: false,
    };
    vec![
        change(
            "/etc/fstab",
            "names of the old bus: /dev/sda5 is UUID=0f3c2a51-6a0e-4b7d-9d53-1c2b7b8e9f10",
            Some("/dev/sda5 none swap sw 0 0"),
            "UUID=0f3c2a51-6a0e-4b7d-9d53-1c2b7b8e9f10 none swap sw 0 0",
        ),
        change(
            "/etc/systemd/network/10-esxodus-ens192.link",
            "/etc/network/interfaces names ens192, which is bound to its MAC so that the name stays",
            None,
            "[Match]\nMACAddress=00:50:56:9a:3f:12\n\n[Link]\nName=ens192",
        ),
    ]
}

fn stamp() -> Stamp {
    Stamp {
        schema: crate::schema::SCHEMA_VERSION,
        tool: "esxodus 0.1.0".to_owned(),
        created: "2026-11-23T21:40:15Z".to_owned(),
    }
}

fn machine() -> MachineFacts {
    let disk = |name: &str, source: &str, kind: &str, capacity, allocated| DiskFacts {
        name: name.to_owned(),
        controller: "pvscsi".to_owned(),
        source: source.to_owned(),
        kind: kind.to_owned(),
        capacity_bytes: capacity,
        allocated_bytes: allocated,
    };
    MachineFacts {
        name: "web01".to_owned(),
        source: "datastore1/web01/web01.vmx".to_owned(),
        guest_os: "debian12-64".to_owned(),
        hw_version: Some(19),
        vcpus: 4,
        memory_mib: 16_384,
        firmware: "uefi".to_owned(),
        disks: vec![
            disk("scsi0:0", "web01.vmdk", "streamOptimized", 40 * GIB, 3_422_552_064),
            disk("scsi0:1", "web01_1.vmdk", "monolithicSparse", 200 * GIB, 61_203_283_968),
        ],
        nics: vec![NicFacts {
            name: "ethernet0".to_owned(),
            model: "vmxnet3".to_owned(),
            mac: Some("00:50:56:9a:3f:12".to_owned()),
            network: Some("DMZ-120".to_owned()),
        }],
    }
}

fn host(hypervisor: Option<&str>) -> HostFacts {
    HostFacts {
        os: Some("Debian GNU/Linux 12 (bookworm)".to_owned()),
        kernel: Some("6.12.9-amd64".to_owned()),
        cpu_vendor: Some("AuthenticAMD".to_owned()),
        cpu_model: Some("AMD EPYC 9354P 32-Core Processor".to_owned()),
        cpu_flags: ["sse4_2", "aes", "avx2", "avx512f", "svm"].map(str::to_owned).to_vec(),
        cpus_online: 4,
        cpus_usable: 4,
        memory_bytes: 16 * GIB,
        last_level_cache_bytes: Some(256 << 20),
        hypervisor: hypervisor.map(str::to_owned),
        clock_source: Some("tsc".to_owned()),
        disk_drivers: vec!["vda virtio_blk".to_owned()],
        nic_drivers: vec!["enp1s0 virtio_net".to_owned()],
        governor: Some("performance".to_owned()),
        load_1min: Some(0.12),
        ..HostFacts::default()
    }
}

fn steps() -> Vec<StepRecord> {
    [
        (
            "inspect",
            0.08,
            StepStatus::Good,
            "VMX of hardware version 19, 2 disks, no snapshot",
        ),
        (
            "convert",
            141.2,
            StepStatus::Good,
            "2 disks to qcow2, 60.2 GiB of data at 458 MB/s",
        ),
        (
            "verify",
            64.9,
            StepStatus::Good,
            "content hashes of both disks equal the source's",
        ),
        (
            "targets",
            0.02,
            StepStatus::Good,
            "Proxmox VE, libvirt, QEMU and KubeVirt written",
        ),
        (
            "prove",
            23.4,
            StepStatus::Good,
            "login prompt after 9.84 s, agent answered",
        ),
        (
            "bench-host",
            61.0,
            StepStatus::Reused,
            "the record of this morning was still valid",
        ),
        ("bench-guest", 63.8, StepStatus::Good, "quick suite, quiet run"),
    ]
    .into_iter()
    .map(|(name, seconds, status, detail)| StepRecord {
        name: name.to_owned(),
        status,
        seconds,
        detail: detail.to_owned(),
    })
    .collect()
}

fn findings() -> Vec<Finding> {
    let finding = |id: &str, severity, message: &str, evidence: &str, fix: &str| Finding {
        id: id.to_owned(),
        severity,
        message: message.to_owned(),
        evidence: evidence.to_owned(),
        fix: fix.to_owned(),
        suppressed: None,
    };
    vec![
        finding(
            "net.name-changes",
            Severity::Warn,
            "The NIC will be called enp1s0 instead of ens192; a fixed address bound to the old name is lost.",
            "ethernet0.pciSlotNumber = 192",
            "Run esxodus fixup, or match the NIC by its MAC address.",
        ),
        finding(
            "guest.vmware-tools",
            Severity::Info,
            "open-vm-tools is installed and does nothing on KVM.",
            "package open-vm-tools 12.2.0",
            "Install qemu-guest-agent after the move.",
        ),
        finding(
            "source.vsan",
            Severity::Skipped,
            "Whether the datastore is vSAN cannot be told from the files.",
            "no access to the host",
            "Ask the storage administrator.",
        ),
    ]
}

fn accounting() -> Accounting {
    let mut keys = Vec::new();
    let mut add = |key: &str, value: &str, class, why: &str, target: Option<(&str, &str)>| {
        keys.push(AccountedKey {
            key: key.to_owned(),
            value: value.to_owned(),
            line: u32::try_from(keys.len() + 1).ok(),
            class,
            why: why.to_owned(),
            same_as: None,
            targets: target
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .into_iter()
                .collect(),
        });
    };
    for (key, value) in [
        ("displayName", "web01"),
        ("numvcpus", "4"),
        ("memSize", "16384"),
        ("firmware", "efi"),
        ("scsi0.virtualDev", "pvscsi"),
        ("scsi0:0.fileName", "web01.vmdk"),
        ("scsi0:1.fileName", "web01_1.vmdk"),
        ("ethernet0.virtualDev", "vmxnet3"),
        ("ethernet0.address", "00:50:56:9a:3f:12"),
        ("uuid.bios", "42 1a 8c 55 0e 77 3d 91-aa 10 5b 2e 61 c4 9f 02"),
        ("guestOS", "debian12-64"),
        ("virtualHW.version", "19"),
    ] {
        add(key, value, KeyClass::Mapped, "a field of the machine", None);
    }
    for key in [
        "vmci0.present",
        "svga.vramSize",
        "tools.syncTime",
        "hpet0.present",
        "sched.swap.derivedName",
    ] {
        add(
            key,
            "TRUE",
            KeyClass::DroppedHarmless,
            "means nothing away from VMware",
            None,
        );
    }
    add(
        "sched.cpu.shares",
        "high",
        KeyClass::Approximated,
        "Shares are relative to the other guests of a host; written as a weight.",
        Some(("proxmox", "cpuunits: 200")),
    );
    add(
        "ethernet0.pciSlotNumber",
        "192",
        KeyClass::Approximated,
        "The slot is kept where the target can; the name of the NIC may change.",
        Some(("libvirt", "slot 0x12")),
    );
    add(
        "sched.mem.min",
        "4096",
        KeyClass::DroppedWarning,
        "Memory reservations have no counterpart on Proxmox VE: plan the host's memory.",
        None,
    );
    add(
        "featMask.vm.cpuid.stibp",
        "Max:1",
        KeyClass::Unknown,
        "not in our table",
        None,
    );
    Accounting { keys }
}

fn manifest() -> Manifest {
    let disk = |name: &str, file: &str, size, data, seconds, seed: u64, source: &str, mode: &str| DiskManifest {
        name: name.to_owned(),
        file: file.to_owned(),
        format: "qcow2".to_owned(),
        virtual_bytes: size,
        data_bytes: data,
        file_bytes: data + (12 << 20),
        content: Some(HashTree {
            algorithm: "blake3".to_owned(),
            leaf_bytes: 4 << 20,
            group_leaves: 1,
            root: hex(seed),
            leaves: (0..data / (4 << 20) / 64)
                .map(|leaf| (leaf * 64, hex(seed + leaf)))
                .collect(),
        }),
        sources: vec![SourceFile {
            path: source.to_owned(),
            bytes: data,
            mtime_ns: 1_795_000_000_000_000_000,
        }],
        mode: mode.to_owned(),
        seconds,
        notes: Vec::new(),
    };
    Manifest {
        stamp: stamp(),
        disks: vec![
            disk(
                "scsi0:0",
                "disks/web01.qcow2",
                40 * GIB,
                3_422_552_064,
                7.9,
                11,
                "web01.vmdk",
                "copy",
            ),
            disk(
                "scsi0:1",
                "disks/web01_1.qcow2",
                200 * GIB,
                61_203_283_968,
                133.3,
                77,
                "web01_1.vmdk",
                "copy",
            ),
        ],
    }
}

fn proof() -> ProofRecord {
    let hashes = vec![
        ("disks/web01.qcow2".to_owned(), hex(11)),
        ("disks/web01_1.qcow2".to_owned(), hex(77)),
    ];
    let milestones = [
        ("firmware", 410, "BdsDxe: starting Boot0001 \"debian\""),
        ("boot-loader", 1_280, "GNU GRUB  version 2.06-13+deb12u1"),
        ("kernel", 2_950, "Linux version 6.1.0-28-amd64"),
        (
            "root-found",
            4_410,
            "EXT4-fs (vda2): mounted filesystem with ordered data mode",
        ),
        ("init", 4_720, "systemd[1]: Detected virtualization kvm."),
        ("login", 9_840, "web01 login:"),
        ("agent", 10_260, "agent 0.1.0 answered: 2 disks, 1 NIC, no failed unit"),
        ("powered-off", 22_900, "reboot: Power down"),
    ];
    ProofRecord {
        stamp: stamp(),
        verdict: ProofVerdict::Proven,
        reason: "The guest reached its login prompt and its agent answered from inside.".to_owned(),
        advice: Vec::new(),
        engine: "qemu 10.0.2".to_owned(),
        accelerator: AcceleratorClass::Native,
        engine_reason: "KVM is native here, and the guest needs UEFI".to_owned(),
        firmware: "uefi".to_owned(),
        devices: "virtio-blk, virtio-net".to_owned(),
        milestones: milestones
            .into_iter()
            .map(|(name, at_ms, seen)| Milestone {
                name: name.to_owned(),
                at_ms,
                seen: seen.to_owned(),
                screenshot: (name == "login").then(|| "proof/login.png".to_owned()),
            })
            .collect(),
        guest: Some(serde_json::json!({"hostname": "web01", "kernel": "6.1.0-28-amd64", "failed_units": []})),
        evidence: [
            ("console", "proof/console.log"),
            ("screenshot", "proof/login.png"),
            ("events", "proof/events.json"),
        ]
        .map(|(kind, file)| Evidence {
            kind: kind.to_owned(),
            file: file.to_owned(),
        })
        .to_vec(),
        tries: Vec::new(),
        disks_check: "content".to_owned(),
        disks_before: hashes.clone(),
        disks_after: hashes,
        seconds: 23.4,
    }
}

/// Metric id, name, unit, direction, value on ESXi, and how far this metric moves on KVM beside the general factor.
type Shape = (&'static str, &'static str, &'static str, Better, f64, f64);

const SHAPES: [Shape; 17] = [
    (
        "cpu.integer.t1",
        "Integer, 1 thread",
        "Mops/s",
        Better::Higher,
        1_482.0,
        0.97,
    ),
    (
        "cpu.integer.t2",
        "Integer, 2 threads",
        "Mops/s",
        Better::Higher,
        2_951.0,
        0.97,
    ),
    (
        "cpu.integer.t4",
        "Integer, 4 threads",
        "Mops/s",
        Better::Higher,
        5_770.0,
        0.965,
    ),
    (
        "cpu.sha256.t1",
        "SHA-256, 1 thread",
        "MB/s",
        Better::Higher,
        1_904.0,
        0.965,
    ),
    ("cpu.syscall", "System call", "ns", Better::Lower, 71.0, 0.90),
    ("cpu.cpuid", "CPUID (a VM exit)", "ns", Better::Lower, 1_240.0, 0.91),
    (
        "memory.copy.all",
        "Copy, all threads",
        "MB/s",
        Better::Higher,
        41_800.0,
        0.962,
    ),
    (
        "memory.triad.all",
        "Triad, all threads",
        "MB/s",
        Better::Higher,
        39_200.0,
        0.97,
    ),
    (
        "memory.latency.16KiB",
        "Memory latency, 16 KiB",
        "ns",
        Better::Lower,
        1.31,
        0.96,
    ),
    (
        "memory.latency.1MiB",
        "Memory latency, 1 MiB",
        "ns",
        Better::Lower,
        4.62,
        0.96,
    ),
    (
        "memory.latency.64MiB",
        "Memory latency, 64 MiB",
        "ns",
        Better::Lower,
        14.8,
        0.97,
    ),
    (
        "memory.latency.1GiB",
        "Memory latency, 1 GiB",
        "ns",
        Better::Lower,
        98.0,
        0.96,
    ),
    (
        "disk.read-1m",
        "Sequential read, 1 MiB",
        "MB/s",
        Better::Higher,
        1_610.0,
        1.28,
    ),
    (
        "disk.randread-4k.qd1",
        "Random read 4 KiB, depth 1",
        "IOPS",
        Better::Higher,
        9_120.0,
        1.09,
    ),
    (
        "disk.randread-4k.qd32",
        "Random read 4 KiB, depth 32",
        "IOPS",
        Better::Higher,
        112_400.0,
        1.31,
    ),
    (
        "disk.randwrite-4k.qd32",
        "Random write 4 KiB, depth 32",
        "IOPS",
        Better::Higher,
        88_100.0,
        0.96,
    ),
    ("disk.fsync", "Write and fdatasync", "us", Better::Lower, 412.0, 1.36),
];

fn record(label: &str, place: Place, accelerator: AcceleratorClass, factor: f64) -> BenchRecord {
    let mut sequence = Sequence(u64::try_from(label.len()).unwrap_or(1) * 7919);
    let metrics = SHAPES
        .iter()
        .map(|(id, name, unit, better, value, own)| {
            let moved = match (place, better) {
                (Place::Imported, _) => 1.0,
                (_, Better::Higher) => factor * own,
                (_, Better::Lower) if *own > 1.2 => own * factor,
                (_, Better::Lower) => own / factor.sqrt(),
            };
            metric(id, name, unit, *better, value * moved, &mut sequence)
        })
        .collect();
    BenchRecord {
        stamp: stamp(),
        label: label.to_owned(),
        place,
        accelerator,
        engine: (place == Place::Guest).then(|| "qemu 10.0.2".to_owned()),
        host: host(match place {
            Place::Imported => Some("VMwareVMware"),
            Place::Guest => Some("KVMKVMKVM"),
            _ => None,
        }),
        storage: (place == Place::Guest).then(|| {
            "throw-away qcow2 overlays on qcow2, virtio-blk, direct I/O, flushes reach the disk (none)".to_owned()
        }),
        sizes: BenchSizes {
            disk_file_bytes: Some(GIB / 4),
            disk_rate: Some(2000),
            stream_array_bytes: Some(GIB / 8),
        },
        suite: Suite::Quick,
        noise: Noise {
            steal_cpu_seconds: 0.02,
            foreign_cpu_seconds: 0.4,
            wall_seconds: 61.0,
            noisy: false,
        },
        metrics,
        skipped: vec![SkippedMetric {
            id: "network.stream".to_owned(),
            reason: "no agent on the other side; start one with --serve".to_owned(),
        }],
        self_checks: vec!["clock: 1.000 s of sleep took 1.000 s".to_owned()],
    }
}

fn metric(id: &str, name: &str, unit: &str, better: Better, value: f64, sequence: &mut Sequence) -> Metric {
    let spread = if id.starts_with("disk") { 0.06 } else { 0.012 };
    let samples: Vec<f64> = (0..9)
        .map(|_| (value * (1.0 + spread * (sequence.next() - 0.5)) * 1000.0).round() / 1000.0)
        .collect();
    let mut sorted = samples.clone();
    sorted.sort_by(f64::total_cmp);
    let latency = id.contains("rand") || id == "disk.fsync";
    let median_us = if unit == "us" {
        value
    } else {
        32_000_000.0 / value / if id.ends_with("qd1") { 32.0 } else { 1.0 }
    };
    Metric {
        id: id.to_owned(),
        name: name.to_owned(),
        unit: unit.to_owned(),
        better,
        summary: Summary {
            n: 9,
            median: sorted[4],
            mean: samples.iter().sum::<f64>() / 9.0,
            min: sorted[0],
            max: sorted[8],
            q1: sorted[2],
            q3: sorted[6],
            ci_low: sorted[1],
            ci_high: sorted[7],
        },
        samples,
        percentiles: if latency {
            [(50.0, 1.0), (90.0, 1.5), (99.0, 2.8), (99.9, 6.5), (99.99, 19.0)]
                .map(|(percent, factor)| Percentile {
                    percent,
                    value: (median_us * factor * 10.0).round() / 10.0,
                })
                .to_vec()
        } else {
            Vec::new()
        },
        percentile_unit: latency.then(|| "us".to_owned()),
        method: "engine io_uring or own kernel, calibrated to 0.5 s a sample".to_owned(),
        stopped: "interval".to_owned(),
        unfit: None,
    }
}

/// Invented statistics that are consistent with the samples; real ones come from the bench crate.
fn compare(base: &BenchRecord, candidate: &BenchRecord) -> Comparison {
    let metrics = base
        .metrics
        .iter()
        .zip(&candidate.metrics)
        .map(|(a, b)| {
            let ratio = b.summary.median / a.summary.median;
            let (low, high) = (
                b.summary.ci_low / a.summary.ci_high,
                b.summary.ci_high / a.summary.ci_low,
            );
            let margin = match a.id.split('.').next() {
                Some("cpu") => 0.03,
                Some("memory") => 0.05,
                _ => 0.10,
            };
            let higher = a.better == Better::Higher;
            let verdict = if low > 1.0 - margin && high < 1.0 + margin {
                ComparisonVerdict::Same
            } else if low > 1.0 {
                if higher {
                    ComparisonVerdict::Better
                } else {
                    ComparisonVerdict::Worse
                }
            } else if high < 1.0 {
                if higher {
                    ComparisonVerdict::Worse
                } else {
                    ComparisonVerdict::Better
                }
            } else {
                ComparisonVerdict::CantTell
            };
            ComparedMetric {
                id: a.id.clone(),
                name: a.name.clone(),
                unit: a.unit.clone(),
                better: a.better,
                base_median: a.summary.median,
                base_ci: (a.summary.ci_low, a.summary.ci_high),
                candidate_median: b.summary.median,
                candidate_ci: (b.summary.ci_low, b.summary.ci_high),
                ratio,
                ratio_ci: (low, high),
                p_adjusted: if verdict == ComparisonVerdict::Same {
                    0.41
                } else {
                    0.004
                },
                effect: if ratio > 1.0 { 0.9 } else { -0.9 },
                margin,
                verdict,
                words: match verdict {
                    ComparisonVerdict::Same => format!("interval inside ±{:.0} %", margin * 100.0),
                    ComparisonVerdict::CantTell => "the interval crosses 1; more samples needed".to_owned(),
                    _ => "interval clear of 1, p below 0.05".to_owned(),
                },
            }
        })
        .collect();
    let reference = |record: &BenchRecord| RecordRef {
        label: record.label.clone(),
        created: record.stamp.created.clone(),
        accelerator: record.accelerator,
        file: None,
    };
    Comparison {
        stamp: stamp(),
        base: reference(base),
        candidate: reference(candidate),
        comparability: if base.accelerator == AcceleratorClass::Esxi {
            Comparability::Yes
        } else {
            Comparability::WithReservations(vec!["the host has no hypervisor between, the guest has one".to_owned()])
        },
        metrics,
        left_out: vec![("network.stream".to_owned(), "measured on neither side".to_owned())],
    }
}

/// Knuth's linear congruential generator: the same figures on every machine.
struct Sequence(u64);

impl Sequence {
    /// From 0 up to, not including, 1.
    fn next(&mut self) -> f64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        f64::from(u32::try_from(self.0 >> 32).unwrap_or(0)) / 4_294_967_296.0
    }
}

fn hex(seed: u64) -> String {
    let mut sequence = Sequence(seed);
    let mut text = String::new();
    while text.len() < 64 {
        sequence.next();
        text.push_str(&format!("{:08x}", sequence.0 >> 32));
    }
    text
}
