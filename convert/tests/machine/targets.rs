//! Each target against its own oracle, and all of them against each other.

use crate::support::{WORKED, context, import, shared, tool};
use crate::written::BUSY;
use esxodus_convert::machine::Machine;
use esxodus_convert::targets::{NetworkMap, Target, TargetContext, TargetError, write_all};
use serde_yaml_ng::Value;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const BIOS: &str = "displayName = \"old 32-bit\"\nguestOS = \"winXPPro\"\nmemSize = \"512\"\nide0:0.present = \"TRUE\"\n\
    ide0:0.fileName = \"a.vmdk\"\nide1:0.present = \"TRUE\"\nide1:0.deviceType = \"cdrom-raw\"\nide1:0.fileName = \"auto detect\"\n\
    ethernet0.present = \"TRUE\"\nethernet0.virtualDev = \"vlance\"\nserial0.present = \"TRUE\"\n";

const LINUX: &str = "displayName = \"web<&>'01\"\nguestOS = \"debian12-64\"\nmemSize = \"1536000\"\nnumvcpus = \"8\"\n\
    cpuid.coresPerSocket = \"4\"\nscsi0.present = \"TRUE\"\nscsi0.virtualDev = \"lsilogic\"\n\
    scsi0:0.present = \"TRUE\"\nscsi0:0.fileName = \"a.vmdk\"\ndisk.EnableUUID = \"TRUE\"\n\
    scsi0:1.present = \"TRUE\"\nscsi0:1.fileName = \"b.vmdk\"\nscsi0:1.mode = \"independent-nonpersistent\"\n\
    ethernet0.present = \"TRUE\"\nethernet0.virtualDev = \"vmxnet3\"\nethernet0.pciSlotNumber = \"160\"\n";

/// A guest with claims on its host.
const CLAIMS: &str = "displayName = \"claims\"\nguestOS = \"rhel10-64\"\nmemSize = \"1025\"\nnumvcpus = \"4\"\n\
    cpuid.coresPerSocket = \"2\"\nnuma.vcpu.maxPerVirtualNode = \"2\"\nsched.mem.pin = \"TRUE\"\n\
    sched.cpu.shares = \"high\"\nvcpu.hotadd = \"TRUE\"\nmem.hotadd = \"TRUE\"\nscsi0.present = \"TRUE\"\n\
    scsi0.virtualDev = \"pvscsi\"\nscsi0:0.present = \"TRUE\"\nscsi0:0.fileName = \"a.vmdk\"\n";

const GROWS: &str = "[guests.claims]\nmax_vcpus = 8\nmax_memory_mib = 4096\ncpu_affinity = \"0-1\"\nnuma_nodes = \"0\"\n\
    cpu_limit = 2.5\n";

const LIMITED: &str = "[guests.claims]\nnuma_nodes = \"0\"\ncpu_limit = 0.25\n";

/// More vCPUs than eight bits of an APIC id can tell apart, and the memory of a small one.
const MANY: &str = "displayName = \"many\"\nguestOS = \"rhel9-64\"\nmemSize = \"1024\"\nnumvcpus = \"320\"\n\
    cpuid.coresPerSocket = \"80\"\nfirmware = \"efi\"\nscsi0.present = \"TRUE\"\nscsi0.virtualDev = \"pvscsi\"\n\
    scsi0:0.present = \"TRUE\"\nscsi0:0.fileName = \"a.vmdk\"\n";

fn claims(map: &str) -> (Machine, TargetContext) {
    let machine = import(CLAIMS.as_bytes()).machine;
    let mut context = context(&machine, false);
    context.map = Some(NetworkMap::parse(map).expect("the map is right"));
    (machine, context)
}

fn cases() -> Vec<(Machine, TargetContext)> {
    let mut cases = vec![claims(GROWS), claims(LIMITED)];
    for (text, map) in [
        (WORKED, true),
        (BIOS, false),
        (LINUX, false),
        (BUSY, false),
        (MANY, false),
    ] {
        for proven in [false, true] {
            let machine = import(text.as_bytes()).machine;
            let mut context = context(&machine, proven);
            if !map {
                context.map = None;
            }
            cases.push((machine, context));
        }
    }
    cases
}

fn written(machine: &Machine, context: &TargetContext) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("temporary folder");
    let files = write_all(machine, context, folder.path(), &Target::ALL).expect("writable");
    assert_eq!(files.len(), 5);
    folder
}

fn read(folder: &Path, name: &str) -> String {
    std::fs::read_to_string(folder.join("targets").join(name)).expect("written")
}

#[test]
fn libvirt_takes_the_domain() {
    // virt-xml-validate is a script around xmllint.
    let schema = tool("virt-xml-validate") && tool("xmllint");
    if !tool("virsh") {
        return;
    }
    for (machine, context) in cases() {
        let folder = written(&machine, &context);
        let path = folder.path().join("targets/libvirt.xml");
        for command in [
            vec!["virt-xml-validate"],
            vec!["virsh", "-c", "test:///default", "define", "--validate"],
        ] {
            if command[0] == "virt-xml-validate" && !schema {
                continue;
            }
            let out = Command::new(command[0])
                .args(&command[1..])
                .arg(&path)
                .output()
                .expect("runs");
            assert!(
                out.status.success(),
                "{}: {command:?}: {}{}\n{}",
                machine.name,
                String::from_utf8_lossy(&out.stdout),
                String::from_utf8_lossy(&out.stderr),
                read(folder.path(), "libvirt.xml")
            );
        }
    }
}

/// Every key of `document` must be one that `sample` has, list items being compared with the sample's first.
fn walk(document: &Value, sample: &Value, path: &str, typos: &mut Vec<String>) {
    match (document, sample) {
        (Value::Mapping(document), Value::Mapping(sample)) => {
            for (key, value) in document {
                let name = key.as_str().unwrap_or_default();
                if [
                    "labels",
                    "annotations",
                    "requests",
                    "limits",
                    "nodeSelector",
                    "matchLabels",
                ]
                .contains(&name)
                {
                    continue;
                }
                match sample.get(key) {
                    Some(inner) => walk(value, inner, &format!("{path}.{name}"), typos),
                    None => typos.push(format!("{path}.{name}")),
                }
            }
        }
        (Value::Sequence(document), Value::Sequence(sample)) => {
            for value in document {
                walk(value, sample.first().unwrap_or(&Value::Null), path, typos);
            }
        }
        _ => {}
    }
}

#[test]
fn kubevirt_knows_every_field() {
    let Some(sample) = shared("data/kubevirt-sample.yaml") else {
        return;
    };
    let sample: Value = serde_yaml_ng::from_str(&std::fs::read_to_string(sample).expect("readable")).expect("YAML");
    for (machine, context) in cases() {
        let folder = written(&machine, &context);
        let text = read(folder.path(), "kubevirt.yaml");
        let document: Value = serde_yaml_ng::from_str(&text).unwrap_or_else(|error| panic!("{error}\n{text}"));
        let mut typos = Vec::new();
        walk(&document, &sample, "", &mut typos);
        assert!(typos.is_empty(), "{typos:?}\n{text}");
    }
}

/// KubeVirt's API of 1.7 as TypeScript types, made from its published OpenAPI document; the compiler names unknown fields and
/// wrong types.
#[test]
fn kubevirt_manifests_are_what_the_published_api_says() {
    let home = std::env::var_os("HOME")
        .map(std::path::PathBuf::from)
        .unwrap_or_default();
    let cache = std::env::var_os("ESXODUS_CACHE").map_or_else(|| home.join(".cache/esxodus"), Into::into);
    let modules = cache.join("kubevirt-api/node_modules");
    let compiler = modules.join("typescript/bin/tsc");
    if !tool("node") {
        return;
    }
    if !compiler.is_file() || !modules.join("@kubevirt-ui-ext/kubevirt-api").is_dir() {
        println!(
            "SKIP: KubeVirt's types are not in {} (scripts/setup.sh test)",
            modules.display()
        );
        return;
    }
    let folder = tempfile::tempdir().expect("temporary folder");
    std::os::unix::fs::symlink(&modules, folder.path().join("node_modules")).expect("link");
    std::fs::write(folder.path().join("package.json"), r#"{"type":"module"}"#).expect("file");
    let check = |documents: &[String]| {
        let mut source =
            String::from("import type { V1VirtualMachine } from \"@kubevirt-ui-ext/kubevirt-api/kubevirt\";\n");
        for (number, document) in documents.iter().enumerate() {
            source += &format!("export const vm{number}: V1VirtualMachine = {document};\n");
        }
        std::fs::write(folder.path().join("vm.ts"), source).expect("file");
        let out = Command::new("node")
            .arg(&compiler)
            .args([
                "--noEmit",
                "--strict",
                "--module",
                "nodenext",
                "--moduleResolution",
                "nodenext",
                "vm.ts",
            ])
            .current_dir(folder.path())
            .output()
            .expect("node runs");
        (out.status.success(), String::from_utf8_lossy(&out.stdout).into_owned())
    };
    let documents: Vec<String> = cases()
        .iter()
        .map(|(machine, context)| {
            let out = written(machine, context);
            let yaml: Value = serde_yaml_ng::from_str(&read(out.path(), "kubevirt.yaml")).expect("YAML");
            serde_json::to_string(&yaml).expect("YAML of JSON's kinds")
        })
        .collect();
    let (good, said) = check(&documents);
    assert!(good, "{said}");
    // The oracle sees the defect that virt-v2v's manifests had.
    let wrong = documents[0].replace("\"threads\"", "\"thread\"");
    let (good, said) = check(&[wrong]);
    assert!(!good && said.contains("thread"), "{said}");
}

#[test]
fn proxmox_knows_every_option_and_value() {
    let Some(contract) = shared("data/pve-contract.json") else {
        return;
    };
    let contract: serde_json::Value =
        serde_json::from_str(&std::fs::read_to_string(contract).expect("readable")).expect("JSON");
    let params = &contract["endpoints"]["/nodes/{node}/qemu"]["POST"]["params"];
    for (machine, context) in cases() {
        let folder = written(&machine, &context);
        for line in read(folder.path(), "proxmox.conf")
            .lines()
            .filter(|line| !line.starts_with('#'))
        {
            let (key, value) = line.split_once(": ").expect("key: value");
            let numbered = format!("{}[n]", key.trim_end_matches(|c: char| c.is_ascii_digit()));
            let schema = params
                .get(key)
                .or_else(|| params.get(&numbered))
                .unwrap_or_else(|| panic!("no option {key}"));
            if let Some(allowed) = schema["enum"].as_array() {
                assert!(allowed.iter().any(|allowed| allowed == value), "{line}");
            }
            if let Some(most) = schema["maxLength"].as_u64() {
                assert!(u64::try_from(value.len()).expect("short") <= most, "{line}");
            }
            let Some(sub) = schema["sub"].as_object() else { continue };
            for (number, part) in value.split(',').enumerate() {
                let Some((name, text)) = part
                    .split_once('=')
                    .filter(|_| !(number == 0 && key.starts_with("ide")))
                else {
                    assert!(number == 0, "{line}: {part}");
                    continue;
                };
                let inner = sub.get(name).unwrap_or_else(|| panic!("{line}: no key {name}"));
                if let Some(allowed) = inner["enum"].as_array() {
                    assert!(allowed.iter().any(|allowed| allowed == text), "{line}: {part}");
                }
                if let Some(most) = inner["maxLength"].as_u64() {
                    assert!(u64::try_from(text.len()).expect("short") <= most, "{line}: {part}");
                }
            }
        }
    }
}

/// Runs the Proxmox script with a `qm` that writes its arguments down.
#[test]
fn the_proxmox_script_gives_qm_what_the_configuration_says() {
    for (machine, context) in cases() {
        let folder = written(&machine, &context);
        let log = folder.path().join("log");
        let qm = folder.path().join("qm");
        std::fs::write(
            &qm,
            format!(
                "#!/bin/sh\nfor a; do printf '%s\\n' \"$a\" >> '{}'; done\n",
                log.display()
            ),
        )
        .expect("file");
        let mut command = Command::new("chmod");
        assert!(command.arg("+x").arg(&qm).status().expect("runs").success());
        let path = format!(
            "{}:{}",
            folder.path().display(),
            std::env::var("PATH").unwrap_or_default()
        );
        let out = Command::new("sh")
            .arg(folder.path().join("targets/proxmox.sh"))
            .env("PATH", path)
            .env("VMID", "777")
            .output()
            .expect("runs");
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        let said = std::fs::read_to_string(&log).expect("qm was called");
        let words: Vec<&str> = said.lines().collect();
        let config = read(folder.path(), "proxmox.conf");
        for line in config.lines().filter(|line| !line.starts_with('#')) {
            let (key, value) = line.split_once(": ").expect("key: value");
            let at = words
                .iter()
                .position(|word| *word == format!("--{key}"))
                .unwrap_or_else(|| panic!("--{key} in {words:?}"));
            if !value.contains(":vm-100-disk-") {
                assert_eq!(words[at + 1], value);
            }
        }
        for disk in &context.disks {
            let import = format!("import-from={}/{}", folder.path().display(), disk.path.display());
            assert!(said.contains(&import), "{import} in {said}");
        }
    }
}

/// A QEMU that is told to quit through its monitor, so the whole command line is parsed and every device made.
#[test]
fn qemu_starts_with_the_script() {
    if !tool("qemu-system-x86_64") || !tool("qemu-img") {
        return;
    }
    for (mut machine, context) in cases() {
        // What is tested is the command line, not whether this host has the memory.
        machine.memory.mib = machine.memory.mib.min(512);
        let folder = written(&machine, &context);
        std::fs::create_dir(folder.path().join("disks")).expect("folder");
        for disk in &context.disks {
            let made = Command::new("qemu-img")
                .args(["create", "-q", "-f", "qcow2"])
                .arg(folder.path().join(&disk.path))
                .arg(disk.virtual_bytes.to_string())
                .status()
                .expect("runs");
            assert!(made.success());
        }
        let mut child = Command::new("sh")
            .arg(folder.path().join("targets/qemu.sh"))
            .arg("-S")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("starts");
        // Ctrl-A c switches the console to the monitor.
        use std::io::Write as _;
        let mut input = child.stdin.take().expect("piped");
        let _ = input.write_all(b"\x01cquit\n");
        let deadline = Instant::now() + Duration::from_secs(20);
        let status = loop {
            if let Some(status) = child.try_wait().expect("waits") {
                break Some(status);
            }
            if Instant::now() > deadline {
                break None;
            }
            std::thread::sleep(Duration::from_millis(50));
        };
        if status.is_none() {
            child.kill().expect("killable");
        }
        let out = child.wait_with_output().expect("ends");
        assert!(
            status.is_some_and(|status| status.success()),
            "{}: {status:?}: {}{}\n{}",
            machine.name,
            String::from_utf8_lossy(&out.stdout),
            String::from_utf8_lossy(&out.stderr),
            read(folder.path(), "qemu.sh")
        );
    }
}

/// Text between `<tag …>` and `</tag>`, the first.
fn element<'a>(xml: &'a str, tag: &str) -> Option<&'a str> {
    let start = xml.find(&format!("<{tag}"))?;
    let rest = &xml[start..];
    let open = rest.find('>')?;
    Some(&rest[open + 1..rest.find(&format!("</{tag}>"))?])
}

#[test]
fn all_targets_agree_on_what_they_share() {
    for (machine, context) in cases() {
        let folder = written(&machine, &context);
        let (conf, xml) = (read(folder.path(), "proxmox.conf"), read(folder.path(), "libvirt.xml"));
        let (yaml, sh) = (read(folder.path(), "kubevirt.yaml"), read(folder.path(), "qemu.sh"));
        let yaml: Value = serde_yaml_ng::from_str(&yaml).expect("YAML");
        let domain = &yaml["spec"]["template"]["spec"]["domain"];
        let option = |key: &str| conf.lines().find_map(|line| line.strip_prefix(&format!("{key}: ")));
        let mib = machine.memory.mib.to_string();
        assert_eq!(option("memory"), Some(mib.as_str()));
        assert_eq!(element(&xml, "memory"), Some(mib.as_str()));
        assert_eq!(domain["memory"]["guest"].as_str(), Some(format!("{mib}Mi").as_str()));
        assert!(sh.contains(&format!("size={mib}M")));
        let number = |key: &str| option(key).and_then(|text| text.parse::<u64>().ok()).unwrap_or(0);
        let vcpus = u64::from(machine.cpu.vcpus);
        let most = number("sockets") * number("cores");
        assert_eq!(option("vcpus").map_or(most, |_| number("vcpus")), vcpus);
        assert_eq!(element(&xml, "vcpu"), Some(most.to_string().as_str()));
        assert_eq!(xml.contains(&format!("current=\"{vcpus}\"")), most > vcpus);
        assert_eq!(sh.contains(&format!("maxcpus={most}")), most > vcpus);
        let part = |key: &str| domain["cpu"][key].as_u64().unwrap_or(0);
        assert_eq!(part("sockets") * part("cores") * part("threads"), vcpus);
        assert!(sh.contains(&format!("-smp {vcpus},")));
        let shape = |text: &str, sockets: &str, cores: &str| {
            let number = |key: &str| {
                value(text, key, &[',', '"', ' ', '\n'])
                    .parse::<u64>()
                    .expect("a number")
            };
            (number(sockets), number(cores))
        };
        let of_proxmox = (number("sockets"), number("cores"));
        assert_eq!(
            shape(parts(&xml, "<topology", "/>")[0], "sockets=\"", "cores=\""),
            of_proxmox
        );
        assert_eq!(shape(parts(&sh, " -smp ", "\n")[0], "sockets=", "cores="), of_proxmox);
        assert_eq!(part("cores"), number("cores"), "KubeVirt grows by sockets");
        if let Some(uuid) = &machine.identity.smbios_uuid {
            let uuid = esxodus_convert::machine::identity::target_uuid(uuid);
            assert!(option("smbios1").is_some_and(|value| value.contains(&uuid)));
            assert_eq!(element(&xml, "uuid"), Some(uuid.as_str()));
            assert_eq!(domain["firmware"]["uuid"].as_str(), Some(uuid.as_str()));
            assert!(sh.contains(&uuid));
        }
        let uefi = domain["firmware"]["bootloader"].get("efi").is_some();
        assert_eq!(option("bios") == Some("ovmf"), uefi);
        assert_eq!(xml.contains("firmware=\"efi\""), uefi);
        assert_eq!(sh.contains("OVMF_CODE"), uefi);
        let secure = domain["firmware"]["bootloader"]["efi"]["secureBoot"].as_bool() == Some(true);
        assert_eq!(conf.contains("pre-enrolled-keys=1"), secure);
        assert_eq!(xml.contains("<loader secure=\"yes\"/>"), secure);
        assert_eq!(sh.contains("secboot"), secure);
        for nic in &machine.nics {
            let Some(mac) = &nic.mac else { continue };
            assert!(conf.contains(&mac.to_uppercase()) && xml.contains(mac) && sh.contains(mac));
            let interfaces = domain["devices"]["interfaces"].as_sequence().expect("a list");
            assert!(
                interfaces
                    .iter()
                    .any(|interface| interface["macAddress"].as_str() == Some(mac))
            );
        }
        agree_on_devices(&machine, &conf, &xml, &sh, domain);
        let disks = xml.matches("device=\"disk\"").count();
        assert_eq!(disks, machine.disks.len());
        assert_eq!(sh.matches("-blockdev").count(), disks);
        for text in [&xml, &sh, &read(folder.path(), "proxmox.sh")] {
            let places = (0..disks).map(|number| text.find(&format!("disk {number}.qcow2")).expect("each disk's file"));
            assert!(places.is_sorted(), "{}: the disks in their order", machine.name);
        }
        assert_eq!(
            yaml["spec"]["dataVolumeTemplates"].as_sequence().map(Vec::len),
            Some(disks)
        );
        assert_eq!(conf.matches("size=1048577K").count(), disks);
    }
}

/// What every target says of its devices, in one form.
#[derive(Debug, PartialEq)]
struct Devices {
    /// MAC, and whether the link is up, of each NIC in order.
    nics: Vec<(String, bool)>,
    /// Families of NIC models, in order.
    models: Vec<String>,
    /// Serials of disks, in order.
    serials: Vec<String>,
    /// The first device to boot from: `disk` or `nic`.
    boot: String,
    tpm: bool,
}

/// The parts of `text` that begin with `start` and end before the next `end`.
fn parts<'a>(text: &'a str, start: &str, end: &str) -> Vec<&'a str> {
    let starts = text.match_indices(start).map(|(at, _)| &text[at..]);
    starts
        .map(|rest| &rest[..rest.find(end).unwrap_or(rest.len())])
        .collect()
}

/// Text behind `key`, up to one of `ends`.
fn value(text: &str, key: &str, ends: &[char]) -> String {
    let rest = text.split_once(key).map_or("", |(_, rest)| rest);
    rest.split(ends).next().unwrap_or_default().to_lowercase()
}

fn agree_on_devices(machine: &Machine, conf: &str, xml: &str, sh: &str, domain: &Value) {
    let family = |model: &str| model.trim_end_matches("-net-pci").to_owned();
    let numbered = |number: usize, prefix: &str| {
        conf.lines()
            .find_map(|line| line.strip_prefix(&format!("{prefix}{number}: ")))
            .unwrap_or_default()
    };
    let count = machine.nics.len();
    let lines: Vec<&str> = (0..count).map(|number| numbered(number, "net")).collect();
    let of_disks: Vec<&str> = machine
        .disks
        .iter()
        .enumerate()
        .map(|(number, _)| {
            let slots = conf.lines().filter(|line| line.contains("size=1048577K"));
            slots.clone().nth(number).unwrap_or_default()
        })
        .collect();
    let mut proxmox_serials: Vec<String> = of_disks.iter().map(|line| value(line, ",serial=", &[','])).collect();
    let proxmox = Devices {
        nics: lines
            .iter()
            .map(|line| {
                let mac = line.split_once('=').filter(|(model, _)| !model.contains(','));
                let mac = mac.map_or(String::new(), |(_, rest)| {
                    rest.split(',').next().unwrap_or("").to_lowercase()
                });
                (mac, !line.contains("link_down=1"))
            })
            .collect(),
        models: lines
            .iter()
            .map(|line| line.split(['=', ',']).next().unwrap_or_default().to_owned())
            .collect(),
        serials: Vec::new(),
        boot: if value(conf, "boot: order=", &[';', '\n']).starts_with("net") {
            "nic"
        } else {
            "disk"
        }
        .to_owned(),
        tpm: conf.contains("tpmstate0: "),
    };
    let interfaces = parts(xml, "<interface", "</interface>");
    let mut serials: Vec<String> = parts(xml, "device=\"disk\"", "</disk>")
        .iter()
        .map(|disk| value(disk, "<serial>", &['<']))
        .collect();
    let libvirt = Devices {
        nics: interfaces
            .iter()
            .map(|nic| {
                (
                    value(nic, "<mac address=\"", &['"']),
                    !nic.contains("<link state=\"down\"/>"),
                )
            })
            .collect(),
        models: interfaces
            .iter()
            .map(|nic| value(nic, "<model type=\"", &['"']))
            .collect(),
        serials: Vec::new(),
        boot: if interfaces.iter().any(|nic| nic.contains("<boot order=\"1\"/>")) {
            "nic"
        } else {
            "disk"
        }
        .to_owned(),
        tpm: xml.contains("<tpm "),
    };
    let cards: Vec<&str> = sh.lines().filter(|line| line.contains(",netdev=n")).collect();
    let qemu_serials: Vec<String> = sh
        .lines()
        .filter(|line| line.contains(",drive=d"))
        .map(|line| {
            let serial = value(line, ",serial=", &[',']);
            // NVMe wants one in any case.
            if serial.starts_with("esx-nvme") && machine.disks.iter().all(|disk| disk.serial.is_none()) {
                String::new()
            } else {
                serial
            }
        })
        .collect();
    let qemu = Devices {
        nics: cards
            .iter()
            .enumerate()
            .map(|(number, card)| {
                let plugged = !sh.contains(&format!("-netdev hubport,id=n{number},"));
                (value(card, ",mac=", &[',']), plugged)
            })
            .collect(),
        models: cards
            .iter()
            .map(|card| family(&value(card, "-device ", &[','])))
            .collect(),
        serials: Vec::new(),
        boot: if cards.iter().any(|card| card.ends_with(",bootindex=1")) {
            "nic"
        } else {
            "disk"
        }
        .to_owned(),
        tpm: sh.contains("tpmdev=tpm0"),
    };
    let list = |key: &str| domain["devices"][key].as_sequence().cloned().unwrap_or_default();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_lowercase();
    let kubevirt = Devices {
        nics: list("interfaces")
            .iter()
            .map(|nic| (text(&nic["macAddress"]), nic["state"].as_str() != Some("down")))
            .collect(),
        models: list("interfaces").iter().map(|nic| text(&nic["model"])).collect(),
        serials: Vec::new(),
        boot: if list("interfaces")
            .iter()
            .any(|nic| nic["bootOrder"].as_u64() == Some(1))
        {
            "nic"
        } else {
            "disk"
        }
        .to_owned(),
        tpm: !domain["devices"]["tpm"].is_null(),
    };
    assert_eq!(proxmox, libvirt, "{}", machine.name);
    assert_eq!(proxmox, qemu, "{}", machine.name);
    // KubeVirt has no vmxnet3.
    let models = proxmox.models.iter().map(|model| model.replace("vmxnet3", "e1000e"));
    let expected = Devices {
        models: models.collect(),
        ..proxmox
    };
    assert_eq!(expected, kubevirt, "{}", machine.name);
    assert_eq!(serials, qemu_serials, "{}", machine.name);
    let of_kubevirt: Vec<String> = list("disks").iter().map(|disk| text(&disk["serial"])).collect();
    assert_eq!(serials, of_kubevirt, "{}", machine.name);
    // The configuration is sorted by key, so its disks are compared without order.
    proxmox_serials.sort();
    serials.sort();
    assert_eq!(proxmox_serials, serials, "{}", machine.name);
    if let Some(id) = &machine.identity.generation_id {
        let id = esxodus_convert::machine::identity::target_uuid(id);
        assert!(
            conf.contains(&format!("vmgenid: {id}\n"))
                && xml.contains(&format!("<genid>{id}</genid>"))
                && sh.contains(&id)
        );
    }
    if let Some(seconds) = machine.rtc_offset_seconds {
        assert!(xml.contains(&format!("adjustment=\"{seconds}\"")) && sh.contains(&format!("+ {seconds}))")));
        assert_eq!(domain["clock"]["utc"]["offsetSeconds"].as_i64(), Some(seconds));
    } else {
        assert_eq!(conf.contains("localtime: 1"), machine.rtc_local);
        assert_eq!(xml.contains("offset=\"localtime\""), machine.rtc_local);
        assert_eq!(sh.contains("base=localtime"), machine.rtc_local);
    }
}

#[test]
fn claims_on_the_host_reach_the_targets_that_have_a_word_for_them() {
    let (machine, context) = claims(GROWS);
    let folder = written(&machine, &context);
    let all = |name: &str, wanted: &[&str]| {
        let text = read(folder.path(), name);
        for line in wanted {
            assert!(text.contains(line), "{name} lacks {line}:\n{text}");
        }
    };
    all(
        "proxmox.conf",
        &[
            "\nsockets: 4\n",
            "\ncores: 2\n",
            "\nvcpus: 4\n",
            "\nhotplug: network,disk,usb,cpu,memory\n",
            "\nnuma: 1\n",
            "\naffinity: 0-1\n",
            "cpulimit: 2.50\n",
            "cpuunits: 200\n",
            "balloon: 0\n",
            "cpu: x86-64-v3\n",
        ],
    );
    all(
        "libvirt.xml",
        &[
            "<maxMemory slots=\"16\" unit=\"MiB\">4096</maxMemory>",
            "<vcpu cpuset=\"0-1\" current=\"4\">8</vcpu>",
            "<global_quota>250000</global_quota>",
            "<shares>200</shares>",
            "<memory mode=\"strict\" nodeset=\"0\"/>",
            "<cell id=\"0\" cpus=\"0-7\" memory=\"1025\" unit=\"MiB\"/>",
        ],
    );
    all(
        "qemu.sh",
        &[
            "size=1025M,slots=16,maxmem=4096M",
            "4,sockets=4,cores=2,threads=1,maxcpus=8",
            "exec taskset -c 0-1",
        ],
    );
    all(
        "kubevirt.yaml",
        &[
            "maxSockets: 4",
            "maxGuest: \"4096Mi\"",
            "memory: \"1025Mi\"",
            "cpu: \"2500m\"",
        ],
    );

    let (machine, context) = claims(LIMITED);
    let folder = written(&machine, &context);
    let conf = read(folder.path(), "proxmox.conf");
    assert!(
        conf.contains("numa0: cpus=0-1,memory=513,hostnodes=0,policy=bind\n"),
        "{conf}"
    );
    assert!(
        conf.contains("numa1: cpus=2-3,memory=512,hostnodes=0,policy=bind\n"),
        "{conf}"
    );
    let xml = read(folder.path(), "libvirt.xml");
    assert!(
        xml.contains("<cell id=\"1\" cpus=\"2-3\" memory=\"512\" unit=\"MiB\"/>"),
        "{xml}"
    );
    assert!(read(folder.path(), "qemu.sh").contains("node,nodeid=1,cpus=2-3,memdev=node1"));

    for (wrong, why) in [
        ("max_vcpus = 7", "multiples of 2"),
        ("max_vcpus = 2", "from 4"),
        ("max_memory_mib = 512", "1025 MiB"),
    ] {
        let (machine, context) = claims(&format!("[guests.claims]\n{wrong}\n"));
        let out = tempfile::tempdir().expect("temporary folder");
        let error = write_all(&machine, &context, out.path(), &Target::ALL).expect_err(wrong);
        assert!(error.to_string().contains(why), "{error}");
    }
    for wrong in [
        "cpu_limit = 0",
        "cpu_limit = 129",
        "cpu_affinity = \"3-1\"",
        "numa_nodes = \"a\"",
    ] {
        assert!(
            NetworkMap::parse(&format!("[guests.claims]\n{wrong}\n")).is_err(),
            "{wrong}"
        );
    }
}

#[test]
fn datastores_that_the_map_lacks_and_a_second_nic_on_the_pod_network_are_errors() {
    let text = CLAIMS.replace("\"a.vmdk\"", "\"/vmfs/volumes/ds1/claims/a.vmdk\"")
        + "ethernet0.present = \"TRUE\"\nethernet0.networkName = \"A\"\nethernet1.present = \"TRUE\"\nethernet1.networkName = \"B\"\n";
    let machine = import(text.as_bytes()).machine;
    let with = |map: &str, targets: &[Target]| {
        let mut context = context(&machine, false);
        context.map = Some(NetworkMap::parse(map).expect("the map is right"));
        let out = tempfile::tempdir().expect("temporary folder");
        write_all(&machine, &context, out.path(), targets).map_err(|error| error.to_string())
    };
    let networks = "[networks.A]\nbridge = \"a\"\npod = true\n[networks.B]\nbridge = \"b\"\n";
    let error = with(networks, &[Target::Proxmox]).expect_err("ds1 is not in the map");
    assert!(error.contains("[datastores.\"ds1\"]\nstorage ="), "{error}");
    let stored = format!("{networks}nad = \"n/b\"\n[datastores.ds1]\nstorage = \"ceph\"\n");
    with(&stored, &[Target::Proxmox, Target::Libvirt]).expect("all is mapped");
    let error = with(&stored, &[Target::Kubevirt]).expect_err("no storage class");
    assert!(error.contains("storage_class"), "{error}");
    let twice = stored.replace("nad = \"n/b\"", "pod = true") + "storage_class = \"fast\"\n";
    let error = with(&twice, &[Target::Kubevirt]).expect_err("two NICs on the pod network");
    assert!(error.contains("ethernet0, ethernet1"), "{error}");
    let once = format!("{stored}storage_class = \"fast\"\n");
    with(&once, &Target::ALL).expect("all is mapped");
}

#[test]
fn proxmox_gets_the_worked_example_as_stated() {
    let machine = import(WORKED.as_bytes()).machine;
    let folder = written(&machine, &context(&machine, true));
    let conf = read(folder.path(), "proxmox.conf");
    for line in [
        "#Source name%3A Prod DB_01 \" x",
        "#100 %25 sure",
        "bios: ovmf",
        "boot: order=scsi0",
        "cores: 1",
        "sockets: 6",
        "machine: q35",
        "memory: 8192",
        "name: Prod-DB01-x",
        "net0: virtio=00:50:56:11:22:33,bridge=vmbr0,tag=100",
        "net1: virtio=00:50:56:AA:BB:CC,bridge=vmbr1,link_down=1",
        "net2: virtio=00:50:56:80:00:10,bridge=vmbr2",
        "ostype: win10",
        "scsihw: virtio-scsi-single",
        "localtime: 1",
        "ide2: none,media=cdrom",
        "vmgenid: 09512cc5-940a-8987-b950-f54f631015e8",
    ] {
        assert!(conf.lines().any(|found| found == line), "{line} in\n{conf}");
    }
    assert!(conf.contains("smbios1: uuid=1f5e2c42-2211-4433-5566-778899aabbcc,serial="));
    assert!(conf.contains("scsi4: ") && !conf.contains("scsi5: "));
}

#[test]
fn networks_that_the_map_lacks_are_listed_with_what_to_add() {
    let machine = import(WORKED.as_bytes()).machine;
    let mut context = context(&machine, false);
    context.map = Some(NetworkMap::parse("[networks.DMZ]\nbridge = \"br0\"\n").expect("TOML"));
    let folder = tempfile::tempdir().expect("temporary folder");
    let error = write_all(&machine, &context, folder.path(), &[Target::Libvirt]).expect_err("unmapped");
    let TargetError::Unmapped { names, add } = error else {
        panic!("{error}")
    };
    assert_eq!(names.len(), 2);
    // What is to be added is TOML that works.
    let full = format!("[networks.DMZ]\nbridge = \"br0\"\n{add}");
    context.map = Some(NetworkMap::parse(&full).expect("TOML"));
    write_all(&machine, &context, folder.path(), &[Target::Libvirt]).expect("all mapped now");
}

#[test]
fn nic_slots_are_kept_where_the_target_can() {
    let machine = import(LINUX.as_bytes()).machine;
    let mut context = context(&machine, false);
    context.map = None;
    let folder = written(&machine, &context);
    assert!(read(folder.path(), "qemu.sh").contains("pcie-root-port,id=rp0,chassis=1,slot=160"));
    assert!(read(folder.path(), "libvirt.xml").contains("name=\"slot\" type=\"unsigned\" value=\"160\""));
    // Above a terabyte the default CPU model of Proxmox VE runs out of address bits.
    assert!(read(folder.path(), "proxmox.conf").contains("cpu: host"));
}

#[test]
fn too_many_disks_spread_over_buses_and_then_stop() {
    let text = |count: u32| {
        (0..count).fold("guestOS = \"debian12-64\"\n".to_owned(), |text, number| {
            let (controller, unit) = (number / 15, number % 15);
            format!("{text}scsi{controller}:{unit}.present = \"TRUE\"\nscsi{controller}:{unit}.fileName = \"d{number}.vmdk\"\n")
        })
    };
    let machine = import(text(47).as_bytes()).machine;
    let mut context = context(&machine, true);
    context.map = None;
    let folder = tempfile::tempdir().expect("temporary folder");
    write_all(&machine, &context, folder.path(), &[Target::Proxmox]).expect("31 + 16 fit");
    let machine = import(text(48).as_bytes()).machine;
    let mut context = self::context(&machine, true);
    context.map = None;
    let error = write_all(&machine, &context, folder.path(), &[Target::Proxmox]).expect_err("48 don't");
    assert!(matches!(error, TargetError::Limit { .. }), "{error}");
}
