//! QEMU's argument list from a [`VmSpec`]: pure, so that tests can look at it.

use super::firmware::Flash;
use crate::engine::{Accelerator, DiskBus, DiskCache, MachineModel, Network, VmSpec};
use agent::protocol::PORT_NAME;
use serde_json::json;
use std::path::Path;

/// A comma in a value is written twice in QEMU's option lists.
fn escaped(path: &Path) -> String {
    path.to_string_lossy().replace(',', ",,")
}

/// The arguments. `folder` holds the sockets; `disks` are the files to open, one for each disk of the spec.
pub(crate) fn arguments(
    spec: &VmSpec,
    flash: Option<&Flash>,
    folder: &Path,
    disks: &[(std::path::PathBuf, &'static str)],
) -> Vec<String> {
    let mut args: Vec<String> = Vec::new();
    let mut add = |parts: &[&str]| args.extend(parts.iter().map(|&part| part.to_owned()));
    let name: String = spec
        .name
        .chars()
        .filter(|c| c.is_ascii_alphanumeric() || "-_.".contains(*c))
        .take(60)
        .collect();
    add(&[
        "-name",
        if name.is_empty() { "guest" } else { &name },
        "-nodefaults",
        "-no-user-config",
        "-display",
        "none",
    ]);

    let mut machine = match spec.machine {
        MachineModel::Q35 => "q35,vmport=off".to_owned(),
        MachineModel::Pc => "pc,vmport=off".to_owned(),
    };
    if let Some(flash) = flash {
        machine.push_str(",pflash0=code,pflash1=vars");
        if flash.secure {
            machine.push_str(",smm=on");
            add(&["-global", "driver=cfi.pflash01,property=secure,value=on"]);
        }
        let code = json!({"driver": "file", "node-name": "code", "filename": flash.code, "read-only": true});
        let vars = json!({"driver": "file", "node-name": "vars", "filename": flash.vars});
        add(&["-blockdev", &code.to_string(), "-blockdev", &vars.to_string()]);
    }
    add(&["-machine", &machine]);
    let cpus = spec.topology;
    match spec.accelerator {
        Accelerator::Tcg if cpus.vcpus() > 1 => add(&["-accel", "tcg,thread=multi", "-cpu", "max"]),
        Accelerator::Tcg => add(&["-accel", "tcg", "-cpu", "max"]),
        Accelerator::Kvm => add(&["-accel", "kvm", "-cpu", "host"]),
    }
    let smp = format!(
        "{},sockets={},cores={},threads={}",
        cpus.vcpus(),
        cpus.sockets,
        cpus.cores,
        cpus.threads
    );
    add(&["-smp", &smp, "-m", &spec.memory_mib.to_string()]);
    if let Some(uuid) = &spec.uuid {
        add(&["-uuid", uuid]);
    }
    add(&["-rtc", if spec.rtc_local { "base=localtime" } else { "base=utc" }]);
    if spec.display {
        add(&["-vga", "std"]);
    }
    if let Some(kernel) = &spec.kernel {
        add(&["-kernel", &kernel.kernel.to_string_lossy(), "-append", &kernel.cmdline]);
        if let Some(initrd) = &kernel.initrd {
            add(&["-initrd", &initrd.to_string_lossy()]);
        }
    }

    if spec.disks.iter().any(|disk| disk.bus == DiskBus::VirtioScsi) {
        add(&["-device", "virtio-scsi-pci,id=scsi"]);
    }
    let mut ports = 0;
    for (index, (disk, (path, format))) in spec.disks.iter().zip(disks).enumerate() {
        let cache = json!({"direct": disk.cache == DiskCache::Direct, "no-flush": disk.cache == DiskCache::Unsafe});
        let file = json!({"driver": "file", "node-name": format!("f{index}"), "filename": path, "cache": cache, "aio": "threads", "discard": "unmap"});
        let node = json!({"driver": format, "node-name": format!("d{index}"), "file": format!("f{index}"), "cache": cache, "discard": "unmap"});
        add(&["-blockdev", &file.to_string(), "-blockdev", &node.to_string()]);
        let serial: String = disk
            .serial
            .iter()
            .flat_map(|serial| serial.chars())
            .filter(char::is_ascii_alphanumeric)
            .take(20)
            .collect();
        let serial = if serial.is_empty() {
            String::new()
        } else {
            format!(",serial={serial}")
        };
        let common = format!("drive=d{index},bootindex={}{serial}", index + 1);
        let device = match disk.bus {
            DiskBus::VirtioBlk => format!("virtio-blk-pci,{common}"),
            DiskBus::VirtioScsi => format!("scsi-hd,bus=scsi.0,scsi-id={index},{common}"),
            DiskBus::Sata | DiskBus::Ide => {
                let place = match spec.machine {
                    MachineModel::Q35 => format!("bus=ide.{ports}"),
                    MachineModel::Pc => format!("bus=ide.{},unit={}", ports / 2, ports % 2),
                };
                ports += 1;
                format!("ide-hd,{place},{common}")
            }
        };
        add(&["-device", &device]);
    }

    // With ACPI hot-plug on bridges udev names a NIC after its bus (`enp1s0`), without it after the port's slot (`ens192`).
    if spec.machine == MachineModel::Q35 && (0..spec.nics.len()).any(|index| kept_slot(spec, index).is_some()) {
        add(&["-global", "ICH9-LPC.acpi-pci-hotplug-with-bridge-support=off"]);
    }
    for (index, nic) in spec.nics.iter().enumerate() {
        let model = if nic.model == "virtio-net" {
            "virtio-net-pci"
        } else {
            nic.model.as_str()
        };
        let mac = nic.mac.as_ref().map(|mac| format!(",mac={mac}")).unwrap_or_default();
        let mut place = String::new();
        if let (MachineModel::Q35, Some(slot)) = (spec.machine, kept_slot(spec, index)) {
            let port = format!("pcie-root-port,id=nic{index},chassis={},slot={slot}", index + 1);
            add(&["-device", &port]);
            place = format!(",bus=nic{index}");
        }
        let network = match nic.network {
            // A hub port without a second member: link up, nothing behind it.
            Network::Nothing => format!("hubport,id=n{index},hubid={index}"),
            Network::User => format!("user,id=n{index}"),
        };
        add(&[
            "-netdev",
            &network,
            "-device",
            &format!("{model},netdev=n{index}{mac}{place},romfile="),
        ]);
    }

    let socket = |id: &str| {
        format!(
            "socket,id={id},path={},server=on,wait=off",
            escaped(&folder.join(format!("{id}.sock")))
        )
    };
    add(&["-chardev", &socket("console"), "-serial", "chardev:console"]);
    if spec.agent {
        add(&["-chardev", &socket("uart"), "-serial", "chardev:uart"]);
        add(&["-device", "virtio-serial-pci,id=vs", "-chardev", &socket("agent")]);
        add(&[
            "-device",
            &format!("virtserialport,bus=vs.0,chardev=agent,name={PORT_NAME}"),
        ]);
    }
    add(&["-chardev", &socket("qmp"), "-mon", "chardev=qmp,mode=control"]);
    add(&["-device", "virtio-rng-pci"]);
    if spec.kernel.is_none() {
        add(&["-device", "pvpanic-pci"]);
        let log = escaped(&folder.join("firmware.log"));
        add(&[
            "-chardev",
            &format!("file,id=fw,path={log}"),
            "-device",
            "isa-debugcon,iobase=0x402,chardev=fw",
        ]);
        // SeaBIOS mirrors the text screen to ttyS0, so that a boot loader's words are in the console log.
        if flash.is_none() {
            add(&[
                "-fw_cfg",
                &format!("name=etc/sercon-port,file={}", escaped(&folder.join("sercon-port"))),
            ]);
        }
    }
    add(&["-action", "reboot=shutdown,panic=pause,watchdog=pause", "-S"]);
    add(&[
        "-sandbox",
        "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny",
    ]);
    args
}
/// The source's slot number of a NIC, where the name that Linux makes of it can be kept: it is one NIC's alone, and not one
/// of the numbers above 1023 in which VMware codes a bridge's function too.
fn kept_slot(spec: &VmSpec, index: usize) -> Option<u32> {
    let slot = spec.nics.get(index)?.slot.filter(|slot| (1..=1023).contains(slot))?;
    let alone = spec.nics.iter().filter(|nic| nic.slot == Some(slot)).count() == 1;
    alone.then_some(slot)
}

#[cfg(test)]
mod tests {
    use super::arguments;
    use crate::arch::Topology;
    use crate::engine::{Accelerator, DiskBus, DiskCache, DiskFormat, DiskSpec, FirmwareSpec, MachineModel, VmSpec};
    use std::path::{Path, PathBuf};

    /// The `-blockdev` arguments of a guest with one disk in the folder for throw-away overlays.
    fn block_devices(cache: DiskCache) -> Vec<String> {
        let path = PathBuf::from("/scratch/overlay.qcow2");
        let spec = VmSpec {
            name: "guest".to_owned(),
            topology: Topology::flat(1),
            memory_mib: 512,
            machine: MachineModel::Q35,
            firmware: FirmwareSpec::Bios,
            kernel: None,
            disks: vec![DiskSpec {
                path: path.clone(),
                format: DiskFormat::Qcow2,
                bus: DiskBus::VirtioBlk,
                serial: None,
                snapshot: false,
                cache,
            }],
            nics: Vec::new(),
            uuid: None,
            display: false,
            agent: false,
            rtc_local: false,
            accelerator: Accelerator::Tcg,
            scratch: "/scratch".into(),
        };
        let all = arguments(&spec, None, Path::new("/sockets"), &[(path, "qcow2")]);
        all.into_iter().filter(|one| one.starts_with('{')).collect()
    }

    #[test]
    fn flushes_are_dropped_where_that_was_asked_for_and_not_by_where_the_disk_lies() {
        for (cache, direct, dropped) in [
            (DiskCache::Direct, true, false),
            (DiskCache::Writeback, false, false),
            (DiskCache::Unsafe, false, true),
        ] {
            let found = block_devices(cache);
            assert_eq!(found.len(), 2);
            for device in found {
                let device: serde_json::Value = serde_json::from_str(&device).expect("JSON");
                assert_eq!(device["cache"]["direct"], direct, "{device}");
                assert_eq!(device["cache"]["no-flush"], dropped, "{device}");
            }
        }
    }
}
