//! OVF and OVA, the real ones of other people and made ones.

use crate::support::shared;
use esxodus_convert::machine::{ControllerBus, FirmwareKind};
use esxodus_convert::source::{ImportError, ImportOptions, Imported, open, verify_manifest};
use reports::schema::KeyClass;
use std::collections::HashSet;
use std::path::Path;
use std::sync::atomic::AtomicBool;

fn ids(imported: &Imported) -> HashSet<&str> {
    imported.findings.iter().map(|finding| finding.id.as_str()).collect()
}

#[test]
fn disks_of_the_sample_packages_are_found_in_place() {
    let Some(images) = shared("images") else { return };
    for (name, offset, bytes, capacity) in [
        ("vcd/test_vapp_template.ova", 11_776, 68_096, 41_943_040),
        ("vcd/template_without_vmdk_size.ova", 11_776, 68_096, 41_943_040),
        ("vcd/tf_test_vapp_template.ova", 17_920, 68_096, 41_943_040),
        ("harvester/test.ova", 512, 68_608, 8_589_934_592),
        ("govmomi/ttylinux-pc_i486-16.1.ova", 7_168, 1_048_576, 31_457_280),
    ] {
        let imported =
            open(&images.join(name), &ImportOptions::default()).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(imported.disks.len(), 1, "{name}");
        assert_eq!(imported.disks[0].window, Some((offset, bytes)), "{name}");
        assert_eq!(imported.machine.disks[0].capacity_bytes, Some(capacity), "{name}");
        assert!(imported.accounting.keys.len() > 20, "{name}");
        assert_eq!(
            imported.accounting.count(KeyClass::Unknown),
            0,
            "{name}: {:?}",
            imported.accounting.keys
        );
        let unique: HashSet<&str> = imported.accounting.keys.iter().map(|key| key.key.as_str()).collect();
        assert_eq!(unique.len(), imported.accounting.keys.len(), "{name}: a key twice");
        assert!(!ids(&imported).contains("ova.manifest-mismatch"), "{name}");
    }
}

#[test]
fn pieces_are_joined_in_order() {
    let Some(images) = shared("images/vcd/template_with_custom_chunk_size.ova") else {
        return;
    };
    let imported = open(&images, &ImportOptions::default()).expect("importable");
    let pieces: Vec<(u64, u64)> = imported.disks[0]
        .chunks
        .iter()
        .map(|(_, offset, bytes)| (*offset, *bytes))
        .collect();
    assert_eq!(pieces, [(13_312, 40_960), (54_784, 27_136)]);
    assert!(!ids(&imported).contains("ova.chunks"));
}

#[test]
fn of_three_guests_one_is_chosen() {
    let Some(path) = shared("images/vcd/vapp_with_3_vms.ova") else {
        return;
    };
    let error = open(&path, &ImportOptions::default()).expect_err("three").to_string();
    for name in ["firstVM", "secondVM", "thirdVM"] {
        assert!(error.contains(name), "{error}");
    }
    let mut offsets = HashSet::new();
    for (name, model, os) in [
        ("firstVM", "lsilogic", "SUSE Linux Enterprise Server 15 (64-bit)"),
        ("secondVM", "lsilogic", "SUSE Linux Enterprise Server 15 (64-bit)"),
        ("thirdVM", "pvscsi", "Red Hat Enterprise Linux 8 (64-bit)"),
    ] {
        let options = ImportOptions {
            system: Some(name.to_owned()),
            ..ImportOptions::default()
        };
        let imported = open(&path, &options).expect(name);
        assert_eq!(imported.machine.name, name);
        assert_eq!(imported.machine.os.title, os);
        assert_eq!(
            imported
                .machine
                .controllers
                .iter()
                .find(|c| c.bus == ControllerBus::Scsi)
                .expect("SCSI")
                .model,
            model
        );
        offsets.insert(imported.disks[0].window.expect("in the tar").0);
    }
    assert_eq!(offsets, [40_448, 109_056, 177_664].into());
}

#[test]
fn details_of_real_descriptions_arrive() {
    let Some(images) = shared("images") else { return };
    let imported = open(
        &images.join("govmomi/ttylinux-pc_i486-16.1.ova"),
        &ImportOptions::default(),
    )
    .expect("importable");
    let machine = &imported.machine;
    assert_eq!(machine.name, "ttylinux-pc_i486-16.1");
    assert_eq!(
        (machine.memory.mib, machine.hw_version, machine.firmware.kind),
        (32, Some(9), FirmwareKind::Uefi)
    );
    assert_eq!(machine.nics[0].model.as_deref(), Some("e1000"));
    assert_eq!(machine.nics[0].network.as_deref(), Some("nat"));
    // The file was cut at 1 MiB: the OVF knows it, though the manifest was made afterwards.
    assert!(ids(&imported).contains("ova.file-size"));
    let imported = open(&images.join("harvester/test.ova"), &ImportOptions::default()).expect("importable");
    let machine = &imported.machine;
    assert_eq!((machine.disks[0].bus, machine.memory.mib), (ControllerBus::Sata, 512));
    assert_eq!(machine.nics.len(), 1);
    assert!(ids(&imported).contains("ovf.source-foreign"));
}

#[test]
fn the_manifest_tells_a_changed_byte() {
    let Some(path) = shared("images/harvester/test.ova") else {
        return;
    };
    let never = AtomicBool::new(false);
    let good = verify_manifest(&path, &never).expect("readable");
    assert!(good.len() == 2 && good.iter().all(|(_, good)| *good), "{good:?}");
    let folder = tempfile::tempdir().expect("temporary folder");
    let mut bytes = std::fs::read(&path).expect("readable");
    bytes[2_000] ^= 1;
    let changed = folder.path().join("x.ova");
    std::fs::write(&changed, bytes).expect("file");
    assert!(
        verify_manifest(&changed, &never)
            .expect("readable")
            .iter()
            .any(|(_, good)| !good)
    );
    let imported = open(&changed, &ImportOptions::default()).expect("importable");
    assert!(ids(&imported).contains("ova.manifest-mismatch"));
    assert!(esxodus_convert::preflight::blocks(&imported.findings));
}

const HEAD: &str = r#"<Envelope xmlns="http://schemas.dmtf.org/ovf/envelope/1" xmlns:o="http://schemas.dmtf.org/ovf/envelope/1"
 xmlns:r="http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_ResourceAllocationSettingData" xmlns:v="http://www.vmware.com/schema/ovf">"#;

fn item(kind: u16, fields: &str) -> String {
    format!("<Item><r:ResourceType>{kind}</r:ResourceType>{fields}</Item>")
}

fn import(document: &str) -> Result<Imported, ImportError> {
    import_with(document, &ImportOptions::default())
}

fn import_with(document: &str, options: &ImportOptions) -> Result<Imported, ImportError> {
    let folder = tempfile::tempdir().expect("temporary folder");
    let path = folder.path().join("guest.ovf");
    std::fs::write(&path, document).expect("file");
    std::fs::write(folder.path().join("a.vmdk"), "x").expect("file");
    open(&path, options)
}

fn guest(items: &str) -> String {
    format!(
        "{HEAD}<References><File o:id=\"f\" o:href=\"a.vmdk\"/></References>\
         <DiskSection><Disk o:diskId=\"d\" o:fileRef=\"f\" o:capacity=\"${{size}}\" o:capacityAllocationUnits=\"byte * 2^30\"/></DiskSection>\
         <VirtualSystem o:id=\"x\"><Info>i</Info><Name> sp&amp;ce </Name><VirtualHardwareSection>{items}</VirtualHardwareSection>\
         <ProductSection><Property o:key=\"size\" o:value=\"5\"/></ProductSection></VirtualSystem></Envelope>"
    )
}

#[test]
fn oddities_of_the_reference_are_read() {
    let items = [
        item(3, "<r:VirtualQuantity>4</r:VirtualQuantity><v:CoresPerSocket o:required=\"false\">2</v:CoresPerSocket>"),
        item(4, "<r:AllocationUnits>byte * 2 ^ 30</r:AllocationUnits><r:VirtualQuantity>2</r:VirtualQuantity>"),
        item(20, "<r:InstanceID>7</r:InstanceID><r:ResourceSubType>vmware.nvme.controller</r:ResourceSubType><r:Address>0</r:Address>"),
        item(6, "<r:InstanceID>8</r:InstanceID><r:ResourceSubType>someother, lsilogicas</r:ResourceSubType>"),
        item(17, "<r:InstanceID>9</r:InstanceID><r:HostResource>ovf://disk/d</r:HostResource><r:Parent>7</r:Parent><r:AddressOnParent>3</r:AddressOnParent>"),
        item(10, "<r:ResourceSubType>VmxNet3</r:ResourceSubType><r:Connection>A</r:Connection><r:Connection>B</r:Connection><r:HostResource/>"),
    ]
    .concat();
    let imported = import(&guest(&items)).expect("importable");
    let machine = &imported.machine;
    assert_eq!((machine.cpu.sockets, machine.cpu.cores_per_socket), (2, 2));
    assert_eq!(machine.memory.mib, 2048);
    assert_eq!(machine.disks[0].name(), "nvme0:3");
    assert_eq!(machine.disks[0].capacity_bytes, Some(5 << 30));
    assert_eq!(machine.controllers[0].model, "lsisas1068");
    assert_eq!(machine.nics[0].network.as_deref(), Some("A"));
    assert_eq!(machine.name, "sp&ce");
}

#[test]
fn ovf_0_9_is_read() {
    let document = r#"<ovf:Envelope xmlns:ovf="http://www.vmware.com/schema/ovf/1/envelope" xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance"
      xmlns:rasd="http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_ResourceAllocationSettingData">
      <References><File ovf:id="f" ovf:href="a.vmdk"/></References>
      <Section xsi:type="ovf:DiskSection_Type"><Info/><Disk ovf:diskId="d" ovf:fileRef="f" ovf:capacity="1024"/></Section>
      <Content ovf:id="old" xsi:type="ovf:VirtualSystem_Type"><Info/>
        <Section xsi:type="ovf:VirtualHardwareSection_Type"><Info/>
          <Item><rasd:InstanceId>1</rasd:InstanceId><rasd:ResourceType>6</rasd:ResourceType><rasd:ResourceSubType>buslogic lsilogic</rasd:ResourceSubType></Item>
          <Item><rasd:InstanceId>2</rasd:InstanceId><rasd:ResourceType>17</rasd:ResourceType><rasd:Parent>1</rasd:Parent><rasd:HostResource>disk/d</rasd:HostResource></Item>
          <Item><rasd:InstanceId>3</rasd:InstanceId><rasd:ResourceType>4</rasd:ResourceType><rasd:VirtualQuantity>256</rasd:VirtualQuantity></Item>
        </Section></Content></ovf:Envelope>"#;
    let imported = import(document).expect("importable");
    assert_eq!(imported.machine.name, "old");
    assert_eq!(imported.machine.memory.mib, 256);
    assert_eq!(imported.machine.disks[0].name(), "scsi0:0");
    assert_eq!(imported.machine.controllers[0].model, "buslogic");
}

#[test]
fn of_several_configurations_one_is_used_and_the_choice_is_asked_for() {
    let items = "<Item o:configuration=\"small\"><r:ResourceType>4</r:ResourceType><r:VirtualQuantity>1</r:VirtualQuantity></Item>\
                 <Item o:configuration=\"large\"><r:ResourceType>4</r:ResourceType><r:VirtualQuantity>9</r:VirtualQuantity></Item>";
    let document = guest(items).replace(
        "<VirtualSystem",
        "<DeploymentOptionSection><Configuration o:id=\"small\"/><Configuration o:id=\"large\" o:default=\"true\"/></DeploymentOptionSection><VirtualSystem",
    );
    let imported = import(&document).expect("importable");
    assert_eq!(imported.machine.memory.mib, 9);
    assert!(ids(&imported).contains("ovf.several-configurations"));
    let options = ImportOptions {
        deployment: Some("small".to_owned()),
        ..ImportOptions::default()
    };
    let imported = import_with(&document, &options).expect("importable");
    assert_eq!(imported.machine.memory.mib, 1);
    assert!(!ids(&imported).contains("ovf.several-configurations"));
}

#[test]
fn what_is_no_ovf_is_refused_with_the_reason() {
    for (document, word) in [
        ("<html><body>404</body></html>", "HTML"),
        ("<!DOCTYPE x [<!ENTITY a \"b\">]><Envelope/>", "DOCTYPE"),
        ("<Envelope><a></Envelope>", "byte"),
        ("<Envelope>", "inside"),
        ("<other/>", "envelope"),
        ("", "envelope"),
    ] {
        let error = import(document).expect_err(document).to_string();
        assert!(error.contains(word), "{document}: {error}");
    }
    let deep = format!("{HEAD}{}", "<a>".repeat(300));
    assert!(import(&deep).expect_err("deep").to_string().contains("nesting"));
}

/// Makes a tar with GNU tar.
fn tar(folder: &Path, arguments: &[&str]) -> std::path::PathBuf {
    let package = folder.join("x.ova");
    let made = std::process::Command::new("tar")
        .arg("-cf")
        .arg(&package)
        .arg("-C")
        .arg(folder)
        .args(arguments)
        .status()
        .expect("tar runs");
    assert!(made.success());
    package
}

#[test]
fn links_and_doubles_in_a_package_are_refused() {
    let folder = tempfile::tempdir().expect("temporary folder");
    std::fs::write(folder.path().join("g.ovf"), guest("")).expect("file");
    std::os::unix::fs::symlink("/etc/passwd", folder.path().join("a.vmdk")).expect("link");
    let error = open(&tar(folder.path(), &["g.ovf", "a.vmdk"]), &ImportOptions::default()).expect_err("link");
    assert!(error.to_string().contains("ova.path-escape"), "{error}");
    let error = open(
        &tar(folder.path(), &["--hard-dereference", "g.ovf", "g.ovf"]),
        &ImportOptions::default(),
    )
    .expect_err("double");
    assert!(error.to_string().contains("twice"), "{error}");
}

#[test]
fn long_names_and_both_kinds_of_headers_are_read() {
    let long = format!("{}.vmdk", "n".repeat(150));
    for format in ["--format=gnu", "--format=pax"] {
        let folder = tempfile::tempdir().expect("temporary folder");
        let disk = item(17, "<r:HostResource>/disk/d</r:HostResource>");
        std::fs::write(folder.path().join("g.ovf"), guest(&disk).replace("a.vmdk", &long)).expect("file");
        std::fs::write(folder.path().join("._g.ovf"), "junk of macOS").expect("file");
        std::fs::write(folder.path().join(&long), "content").expect("file");
        let package = tar(folder.path(), &[format, &long, "._g.ovf", "g.ovf"]);
        let imported = open(&package, &ImportOptions::default()).expect("importable");
        let (offset, bytes) = imported.disks[0].window.expect("in the tar");
        let whole = std::fs::read(&package).expect("readable");
        let range = usize::try_from(offset).expect("small")..usize::try_from(offset + bytes).expect("small");
        assert_eq!(&whole[range], b"content");
    }
}

#[test]
fn a_gzipped_disk_is_unpacked_beside() {
    use std::io::Write as _;
    let folder = tempfile::tempdir().expect("temporary folder");
    let disk = item(17, "<r:HostResource>/disk/d</r:HostResource>");
    let text = guest(&disk).replace("o:href=\"a.vmdk\"", "o:href=\"a.vmdk.gz\" o:compression=\"gzip\"");
    std::fs::write(folder.path().join("g.ovf"), text).expect("file");
    let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    packed.write_all(b"the disk").expect("packs");
    std::fs::write(folder.path().join("a.vmdk.gz"), packed.finish().expect("packs")).expect("file");
    let imported = open(&folder.path().join("g.ovf"), &ImportOptions::default()).expect("importable");
    assert_eq!(std::fs::read(&imported.disks[0].path).expect("readable"), b"the disk");
    assert!(ids(&imported).contains("ova.needs-extracting"));
}

/// A package as a tar, in xz, gzip and zip: the same guest comes out, with its disk's bytes.
#[test]
fn packages_in_gzip_xz_and_zip_are_unpacked_and_read() {
    use std::io::Write as _;
    let folder = tempfile::tempdir().expect("temporary folder");
    let disk = item(17, "<r:HostResource>/disk/d</r:HostResource>");
    std::fs::write(folder.path().join("g.ovf"), guest(&disk)).expect("file");
    std::fs::write(folder.path().join("a.vmdk"), "the disk").expect("file");
    let plain = std::fs::read(tar(folder.path(), &["g.ovf", "a.vmdk"])).expect("readable");
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(&plain).expect("packs");
    let mut xz = xz2::write::XzEncoder::new(Vec::new(), 1);
    xz.write_all(&plain).expect("packs");
    let mut zip = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    for (name, content) in [("sub/", ""), ("g.ovf", &*guest(&disk)), ("a.vmdk", "the disk")] {
        let options = zip::write::SimpleFileOptions::default();
        if name.ends_with('/') {
            zip.add_directory(name, options).expect("packs");
        } else {
            zip.start_file(name, options).expect("packs");
            zip.write_all(content.as_bytes()).expect("packs");
        }
    }
    for (name, content) in [
        ("gzip.ova", gzip.finish().expect("packs")),
        ("xz.ova", xz.finish().expect("packs")),
        ("zip.zip", zip.finish().expect("packs").into_inner()),
    ] {
        let path = folder.path().join(name);
        std::fs::write(&path, content).expect("file");
        let imported = open(&path, &ImportOptions::default()).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert!(ids(&imported).contains("ova.needs-extracting"), "{name}");
        let place = &imported.disks[0];
        let (offset, bytes) = place.window.expect("in the unpacked package");
        let whole = std::fs::read(&place.path).expect("readable");
        let range = usize::try_from(offset).expect("small")..usize::try_from(offset + bytes).expect("small");
        assert_eq!(&whole[range], b"the disk", "{name}");
        let temporary = place.path.clone();
        drop(imported);
        assert!(!temporary.exists(), "{name}: the temporary copy stays");
    }
}

#[test]
fn a_disk_in_xz_and_a_compressed_one_in_pieces_are_unpacked() {
    use std::io::Write as _;
    let disk = item(17, "<r:HostResource>/disk/d</r:HostResource>");
    let content: Vec<u8> = (0..5000_u32).flat_map(u32::to_le_bytes).collect();
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(&content).expect("packs");
    let mut xz = xz2::write::XzEncoder::new(Vec::new(), 1);
    xz.write_all(&content).expect("packs");
    for (compression, packed) in [
        ("gzip", gzip.finish().expect("packs")),
        ("xz", xz.finish().expect("packs")),
    ] {
        for chunk in [None, Some(1000)] {
            let folder = tempfile::tempdir().expect("temporary folder");
            let mut attributes = format!("o:href=\"a.vmdk\" o:compression=\"{compression}\"");
            match chunk {
                None => std::fs::write(folder.path().join("a.vmdk"), &packed).expect("file"),
                Some(size) => {
                    attributes += &format!(" o:chunkSize=\"{size}\"");
                    for (number, piece) in packed.chunks(size).enumerate() {
                        std::fs::write(folder.path().join(format!("a.vmdk.{number:09}")), piece).expect("file");
                    }
                }
            }
            let text = guest(&disk).replace("o:href=\"a.vmdk\"", &attributes);
            std::fs::write(folder.path().join("g.ovf"), text).expect("file");
            let imported = open(&folder.path().join("g.ovf"), &ImportOptions::default()).expect("importable");
            let unpacked = std::fs::read(&imported.disks[0].path).expect("readable");
            assert_eq!(unpacked, content, "{compression}, pieces: {chunk:?}");
        }
    }
}

/// Certificates are made by OpenSSL.
#[test]
fn the_certificate_of_a_package_is_described_and_not_trusted() {
    if !crate::support::tool("openssl") {
        return;
    }
    let folder = tempfile::tempdir().expect("temporary folder");
    let path = |name: &str| folder.path().join(name);
    let made = std::process::Command::new("openssl")
        .args(["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "30", "-subj"])
        .arg("/O=Example Corp/CN=Packager")
        .arg("-keyout")
        .arg(path("key"))
        .arg("-out")
        .arg(path("pem"))
        .output()
        .expect("openssl runs");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let pem = std::fs::read_to_string(path("pem")).expect("readable");
    std::fs::write(path("g.ovf"), guest("")).expect("file");
    let told = |content: &str| {
        std::fs::write(path("g.cert"), content).expect("file");
        let imported = open(&path("g.ovf"), &ImportOptions::default()).expect("importable");
        let finding = imported
            .findings
            .into_iter()
            .find(|finding| finding.id == "ova.certificate");
        finding.expect("a finding").evidence
    };
    let said = told(&format!("SHA256(g.mf)= 00ff\n{pem}"));
    for part in ["CN=Packager", "O=Example Corp", "self-signed", "valid from 20"] {
        assert!(said.contains(part), "{part}: {said}");
    }
    assert!(!said.contains("expired"), "{said}");
    let cut: String = pem.chars().take(300).collect();
    for broken in ["SHA256(g.mf)= 00ff\n", &cut] {
        assert!(told(broken).contains("no readable"), "{broken}");
    }
}

#[test]
fn what_an_ovf_says_in_its_own_words_is_accounted_for_on_each_target() {
    let items = item(
        3,
        "<r:InstanceID>1</r:InstanceID><r:VirtualQuantity>2</r:VirtualQuantity>",
    ) + &item(
        4,
        "<r:InstanceID>2</r:InstanceID><r:VirtualQuantity>512</r:VirtualQuantity>",
    ) + &item(
        6,
        "<r:InstanceID>3</r:InstanceID><r:Address>1</r:Address><r:ResourceSubType>VirtualSCSI</r:ResourceSubType>",
    ) + &item(
        17,
        "<r:InstanceID>4</r:InstanceID><r:Parent>3</r:Parent><r:AddressOnParent>5</r:AddressOnParent>\
             <r:HostResource>/disk/d</r:HostResource>",
    ) + &item(
        10,
        "<r:InstanceID>5</r:InstanceID><r:Connection>LAN</r:Connection><r:ResourceSubType>VmxNet3</r:ResourceSubType>",
    ) + "<v:Config v:key=\"firmware\" v:value=\"efi\"/>";
    let imported = import(&guest(&items)).expect("importable");
    let on = |key: &str, target: &str| {
        let found = imported.accounting.keys.iter().find(|found| found.key == key);
        let found = found.unwrap_or_else(|| panic!("{key} in {:?}", imported.accounting));
        found.targets.get(target).cloned().unwrap_or_default()
    };
    assert_eq!(on("VirtualSystem.name", "kubevirt"), "name: \"spce\"");
    assert_eq!(on("Item[1].VirtualQuantity", "qemu"), "-smp 2,sockets=2,cores=1");
    assert_eq!(on("Item[2].VirtualQuantity", "qemu"), "size=512M");
    assert_eq!(on("Item[3].ResourceSubType", "proxmox"), "scsihw: pvscsi");
    assert_eq!(on("Item[4].HostResource", "proxmox"), "scsi0:");
    assert_eq!(on("Item[5].ResourceSubType", "kubevirt"), "model: \"e1000e\"");
    assert_eq!(on("Item[5].Connection", "proxmox"), "bridge=vmbr0");
    assert_eq!(on("Config.firmware", "proxmox"), "bios: ovmf");
}
