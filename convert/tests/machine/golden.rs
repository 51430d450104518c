//! Descriptions that cover the traps of the reference, with the machine and the four targets that come of them.
//!
//! To write them anew: `ESXODUS_WRITE_GOLDEN=1 cargo test -p esxodus-convert --test machine golden`; then read the
//! difference.

use crate::support::{WORKED, context};
use esxodus_convert::source::{ImportOptions, open};
use esxodus_convert::targets::{Target, write_all};
use std::path::{Path, PathBuf};

struct Guest {
    /// Folder under `golden/`.
    name: &'static str,
    /// `vmx` or `ovf`.
    extension: &'static str,
    description: Vec<u8>,
    /// Are drivers for virtio proven in the guest?
    virtio_proven: bool,
    /// With the tests' map of networks?
    map: bool,
}

fn guest(name: &'static str, extension: &'static str, description: impl Into<Vec<u8>>) -> Guest {
    Guest {
        name,
        extension,
        description: description.into(),
        virtio_proven: false,
        map: false,
    }
}

const DISK: &str = "scsi0.present = \"TRUE\"\nscsi0:0.present = \"TRUE\"\nscsi0:0.fileName = \"a.vmdk\"\n";

fn guests() -> Vec<Guest> {
    let linux = format!(
        "displayName = \"web01\"\nguestOS = \"debian12-64\"\nmemSize = \"4096\"\nnumvcpus = \"4\"\ncpuid.coresPerSocket = \"2\"\n\
         scsi0.virtualDev = \"pvscsi\"\n{DISK}ethernet0.present = \"TRUE\"\nethernet0.virtualDev = \"vmxnet3\"\n\
         ethernet0.addressType = \"generated\"\nethernet0.generatedAddress = \"00:0c:29:aa:bb:cc\"\nethernet0.networkName = \"DMZ\"\n\
         ethernet0.pciSlotNumber = \"192\"\nserial0.present = \"TRUE\"\nserial0.fileType = \"pipe\"\n\
         uuid.bios = \"56 4d 12 34 56 78 9a bc-de f0 12 34 56 78 9a bc\"\n"
    );
    let windows = format!(
        "displayName = \"DC 01\"\nguestOS = \"windows2019srv-64\"\nfirmware = \"efi\"\nmemSize = \"8192\"\nnumvcpus = \"2\"\n\
         uefi.secureBoot.enabled = \"TRUE\"\nvtpm.present = \"TRUE\"\nscsi0.virtualDev = \"lsisas1068\"\n{DISK}\
         ethernet0.present = \"TRUE\"\nethernet0.virtualDev = \"e1000e\"\nvm.genid = \"1\"\nvm.genidX = \"-2\"\n"
    );
    let old = "displayName = \"legacy\"\nguestOS = \"winXPPro\"\nmemSize = \"512\"\nide0:0.present = \"TRUE\"\n\
               ide0:0.fileName = \"a.vmdk\"\nide1:0.present = \"TRUE\"\nide1:0.deviceType = \"cdrom-raw\"\n\
               ide1:0.fileName = \"auto detect\"\nfloppy0.present = \"TRUE\"\nethernet0.present = \"TRUE\"\nethernet0.virtualDev = \"vlance\"\n";
    // Signature of UTF-8, lines of DOS, keys in any case, spaces, no quotes.
    let odd = "\u{feff}.ENCODING = \"UTF-8\"\r\nDISPLAYNAME = \"odd\"\r\n  MemSize=\"1024\"\r\nNumVCPUs = 2\r\nGUESTOS = \"otherLinux64Guest\"\r\n\
               Scsi0.Present = \"true\"\r\nscsi0:0.PRESENT = \"True\"\r\nSCSI0:0.filename = \"a.vmdk\"\r\nmemsize = \"2048\"\r\n";
    let mut japanese = b".encoding = \"Shift_JIS\"\ndisplayName = \"".to_vec();
    japanese.extend(b"\x83\x54\x81\x5b\x83\x6f");
    japanese.extend(format!("\"\nguestOS = \"centos7-64\"\nmemSize = \"1024\"\n{DISK}").bytes());
    // Every IDE place taken, a name in a code page, a boot order, disks that forget or are shared, an unknown slot.
    let mut full = b".encoding = \"windows-1252\"\ndisplayName = \"b\xfcro\"\nannotation = \"\x80 5\"\n".to_vec();
    full.extend(
        b"guestOS = \"winNetStandard\"\nmemSize = \"1024\"\nbios.bootOrder = \"ethernet0\"\nbios.hddOrder = \"ide0:1\"\n\
          ide0:0.present = \"TRUE\"\nide0:0.fileName = \"a.vmdk\"\nide0:1.present = \"TRUE\"\nide0:1.fileName = \"b.vmdk\"\n\
          ide1:0.present = \"TRUE\"\nide1:0.fileName = \"d2.vmdk\"\nide1:0.mode = \"independent-nonpersistent\"\n\
          ide1:1.present = \"TRUE\"\nide1:1.fileName = \"d10.vmdk\"\nscsi0.present = \"TRUE\"\nscsi0.virtualDev = \"lsilogic\"\n\
          scsi0:0.present = \"TRUE\"\nscsi0:0.fileName = \"s1.vmdk\"\nscsi0:0.sharing = \"multi-writer\"\n\
          ethernet0.present = \"TRUE\"\nethernet0.virtualDev = \"e1000\"\nethernet0.pciSlotNumber = \"1184\"\n",
    );
    let many = format!(
        "displayName = \"big\"\nguestOS = \"rhel9-64\"\nmemSize = \"1048576\"\nnumvcpus = \"320\"\ncpuid.coresPerSocket = \"80\"\n\
         numa.vcpu.maxPerVirtualNode = \"80\"\nfirmware = \"efi\"\nscsi0.virtualDev = \"pvscsi\"\n{DISK}"
    );
    let mut chinese = b".encoding = \"GBK\"\ndisplayName = \"\xd6\xd0\xce\xc4\"\n".to_vec();
    chinese.extend(format!("guestOS = \"ubuntu-64\"\nmemSize = \"1024\"\n{DISK}").bytes());
    vec![
        guest("full-buses", "vmx", full),
        guest("many-cpus", "vmx", many),
        guest("gbk", "vmx", chinese),
        Guest {
            virtio_proven: true,
            map: true,
            ..guest("worked-example", "vmx", WORKED)
        },
        guest("linux-bios", "vmx", linux.clone()),
        Guest {
            virtio_proven: true,
            ..guest("linux-bios-virtio", "vmx", linux)
        },
        guest("windows-uefi", "vmx", windows),
        guest("windows-xp", "vmx", old),
        guest("odd-spelling", "vmx", odd),
        guest("shift-jis", "vmx", japanese),
        guest("ovf-vmware", "ovf", OVF_VMWARE),
        guest("ovf-virtualbox", "ovf", OVF_VIRTUALBOX),
    ]
}

const OVF_VMWARE: &str = r#"<Envelope xmlns="http://schemas.dmtf.org/ovf/envelope/1" xmlns:ovf="http://schemas.dmtf.org/ovf/envelope/1"
 xmlns:rasd="http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_ResourceAllocationSettingData"
 xmlns:vssd="http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_VirtualSystemSettingData" xmlns:vmw="http://www.vmware.com/schema/ovf">
<References><File ovf:id="file1" ovf:href="a.vmdk"/></References>
<DiskSection><Disk ovf:diskId="vmdisk1" ovf:fileRef="file1" ovf:capacity="40" ovf:capacityAllocationUnits="byte * 2^30"/></DiskSection>
<NetworkSection><Network ovf:name="VM Network"/></NetworkSection>
<VirtualSystem ovf:id="app01"><Info>x</Info><Name>app01</Name>
<OperatingSystemSection ovf:id="96" vmw:osType="debian10_64Guest"><Info/></OperatingSystemSection>
<VirtualHardwareSection><Info/><System><vssd:VirtualSystemType>vmx-14</vssd:VirtualSystemType></System>
<Item><rasd:InstanceID>1</rasd:InstanceID><rasd:ResourceType>3</rasd:ResourceType><rasd:VirtualQuantity>4</rasd:VirtualQuantity><vmw:CoresPerSocket ovf:required="false">2</vmw:CoresPerSocket></Item>
<Item><rasd:AllocationUnits>byte * 2^30</rasd:AllocationUnits><rasd:InstanceID>2</rasd:InstanceID><rasd:ResourceType>4</rasd:ResourceType><rasd:VirtualQuantity>8</rasd:VirtualQuantity></Item>
<Item><rasd:Address>0</rasd:Address><rasd:InstanceID>3</rasd:InstanceID><rasd:ResourceSubType>vmware.nvme.controller</rasd:ResourceSubType><rasd:ResourceType>20</rasd:ResourceType></Item>
<Item><rasd:AddressOnParent>0</rasd:AddressOnParent><rasd:HostResource>ovf:/disk/vmdisk1</rasd:HostResource><rasd:InstanceID>4</rasd:InstanceID><rasd:Parent>3</rasd:Parent><rasd:ResourceType>17</rasd:ResourceType></Item>
<Item><rasd:AddressOnParent>7</rasd:AddressOnParent><rasd:AutomaticAllocation>true</rasd:AutomaticAllocation><rasd:Connection>VM Network</rasd:Connection><rasd:InstanceID>5</rasd:InstanceID><rasd:ResourceSubType>VmxNet3</rasd:ResourceSubType><rasd:ResourceType>10</rasd:ResourceType></Item>
<vmw:Config ovf:required="false" vmw:key="firmware" vmw:value="efi"/>
<vmw:ExtraConfig ovf:required="false" vmw:key="disk.EnableUUID" vmw:value="TRUE"/>
</VirtualHardwareSection></VirtualSystem></Envelope>"#;

const OVF_VIRTUALBOX: &str = r#"<Envelope ovf:version="2.0" xmlns="http://schemas.dmtf.org/ovf/envelope/2" xmlns:ovf="http://schemas.dmtf.org/ovf/envelope/2"
 xmlns:rasd="http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_ResourceAllocationSettingData"
 xmlns:vssd="http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_VirtualSystemSettingData">
<References><File ovf:id="file1" ovf:href="a.vmdk"/></References>
<DiskSection><Disk ovf:diskId="vmdisk1" ovf:fileRef="file1" ovf:capacity="8589934592"/></DiskSection>
<NetworkSection><Network ovf:name="NAT"/></NetworkSection>
<VirtualSystem ovf:id="ubuntu"><Info>x</Info>
<OperatingSystemSection ovf:id="94"><Info/><Description>Ubuntu_64</Description></OperatingSystemSection>
<VirtualHardwareSection><Info/><System><vssd:VirtualSystemType>virtualbox-2.2</vssd:VirtualSystemType></System>
<Item><rasd:InstanceID>1</rasd:InstanceID><rasd:ResourceType>3</rasd:ResourceType><rasd:VirtualQuantity>1</rasd:VirtualQuantity></Item>
<Item><rasd:AllocationUnits>MegaBytes</rasd:AllocationUnits><rasd:InstanceID>2</rasd:InstanceID><rasd:ResourceType>4</rasd:ResourceType><rasd:VirtualQuantity>1024</rasd:VirtualQuantity></Item>
<Item><rasd:Address>0</rasd:Address><rasd:InstanceID>3</rasd:InstanceID><rasd:ResourceSubType>AHCI</rasd:ResourceSubType><rasd:ResourceType>20</rasd:ResourceType></Item>
<Item><rasd:AddressOnParent>0</rasd:AddressOnParent><rasd:HostResource>/disk/vmdisk1</rasd:HostResource><rasd:InstanceID>4</rasd:InstanceID><rasd:Parent>3</rasd:Parent><rasd:ResourceType>17</rasd:ResourceType></Item>
<Item><rasd:Connection>NAT</rasd:Connection><rasd:InstanceID>5</rasd:InstanceID><rasd:ResourceSubType>E1000</rasd:ResourceSubType><rasd:ResourceType>10</rasd:ResourceType></Item>
</VirtualHardwareSection></VirtualSystem></Envelope>"#;

/// The files that a description becomes, with the folder's name taken out.
fn outputs(guest: &Guest) -> Vec<(String, String)> {
    let folder = tempfile::tempdir().expect("temporary folder");
    let path = folder.path().join(format!("guest.{}", guest.extension));
    std::fs::write(&path, &guest.description).expect("file");
    for name in ["boot", "d2", "d10", "s1", "n0", "a", "b"] {
        std::fs::write(folder.path().join(format!("{name}.vmdk")), "").expect("file");
    }
    let imported = open(&path, &ImportOptions::default()).unwrap_or_else(|error| panic!("{}: {error}", guest.name));
    let mut machine = imported.machine;
    machine.source = PathBuf::from(format!("guest.{}", guest.extension));
    let mut context = context(&machine, guest.virtio_proven);
    if !guest.map {
        context.map = None;
    }
    write_all(&machine, &context, folder.path(), &Target::ALL)
        .unwrap_or_else(|error| panic!("{}: {error}", guest.name));
    let mut ids: Vec<String> = imported.findings.into_iter().map(|finding| finding.id).collect();
    ids.sort();
    ids.dedup();
    let mut files = vec![
        (
            "machine.json".to_owned(),
            serde_json::to_string_pretty(&machine).expect("serializes") + "\n",
        ),
        ("findings.txt".to_owned(), ids.join("\n") + "\n"),
    ];
    for name in ["proxmox.conf", "proxmox.sh", "libvirt.xml", "qemu.sh", "kubevirt.yaml"] {
        let text = std::fs::read_to_string(folder.path().join("targets").join(name)).expect("written");
        files.push((
            name.to_owned(),
            text.replace(&folder.path().display().to_string(), "/OUT"),
        ));
    }
    files
}

#[test]
fn golden_descriptions_become_the_machines_and_targets_on_record() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/machine/golden");
    let write = std::env::var_os("ESXODUS_WRITE_GOLDEN").is_some();
    let mut stale = Vec::new();
    for guest in guests() {
        let folder = root.join(guest.name);
        if write {
            std::fs::create_dir_all(&folder).expect("folder");
        }
        for (name, text) in outputs(&guest) {
            let path = folder.join(&name);
            if write {
                std::fs::write(&path, &text).expect("written");
            }
            let recorded = std::fs::read_to_string(&path).unwrap_or_default();
            if recorded != text {
                let line = recorded.lines().zip(text.lines()).find(|(old, new)| old != new);
                stale.push(format!("{}/{name}: {line:?}", guest.name));
            }
        }
    }
    assert!(
        stale.is_empty(),
        "differs from tests/machine/golden:\n{}",
        stale.join("\n")
    );
}

#[test]
fn every_golden_machine_survives_json() {
    for guest in guests() {
        let files = outputs(&guest);
        let machine: esxodus_convert::machine::Machine = serde_json::from_str(&files[0].1).expect("reads back");
        assert_eq!(
            serde_json::to_string_pretty(&machine).expect("serializes") + "\n",
            files[0].1
        );
    }
}
