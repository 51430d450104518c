//! Every check of the register with a source that makes it fire and one that doesn't.

use esxodus_convert::assess::{AssessOptions, assess};
use esxodus_convert::preflight::{Needs, UNMADE, checks};
use esxodus_convert::source::{ImportOptions, open};
use esxodus_convert::targets::{NetworkMap, Target, TargetContext, target_findings};
use std::collections::BTreeSet;
use std::path::Path;
use std::sync::atomic::AtomicBool;

/// A guest about which nothing is odd.
const BASE: &str = r#"config.version = "8"
virtualHW.version = "19"
displayName = "web01"
guestOS = "debian12-64"
memSize = "2048"
numvcpus = "2"
uuid.bios = "42 2c 5e 1f 11 22 33 44-55 66 77 88 99 aa bb cc"
ctkEnabled = "TRUE"
scsi0.present = "TRUE"
scsi0.virtualDev = "pvscsi"
scsi0:0.present = "TRUE"
scsi0:0.fileName = "d.vmdk"
ethernet0.present = "TRUE"
ethernet0.virtualDev = "vmxnet3"
ethernet0.addressType = "vpx"
ethernet0.generatedAddress = "00:50:56:80:00:10"
ethernet0.networkName = "LAN"
"#;

const DISK: &str = "# Disk DescriptorFile\nversion=1\nCID=fffffffe\nparentCID=ffffffff\ncreateType=\"vmfs\"\nRW 2048 VMFS \"d-flat.vmdk\"\n";

/// A source.
#[derive(Debug, Clone, Copy)]
enum Case {
    /// [`BASE`] with these lines: they replace lines of the same key; `-key` removes one.
    Vmx(&'static str),
    /// The same in bytes that are no UTF-8.
    Bytes(&'static [u8]),
    /// [`BASE`] with this descriptor for its disk, and a parent `p.vmdk` beside it.
    Disk(&'static str),
    /// [`BASE`] with this many disks.
    Disks(u32),
    /// [`BASE`] with this many NICs.
    Nics(u32),
    /// [`BASE`] under another name.
    Named(&'static str),
    /// [`BASE`] with a list of this many snapshots.
    Snapshots(u32),
    /// The disk of [`BASE`] alone.
    Bare,
    /// A good OVF, with these replacements, and these files beside it.
    Ovf(
        &'static [(&'static str, &'static str)],
        &'static [(&'static str, &'static str)],
    ),
    /// A good OVF whose disk is in gzip.
    Gzip,
    /// A row of a sheet.
    Sheet,
    /// The tabs of a sheet as CSV, by name.
    Tabs(&'static [(&'static str, &'static str)]),
    /// Two guests: [`BASE`], and another with these lines.
    Pair(&'static str),
    /// [`BASE`] with these lines, written for these targets with this map.
    Written(&'static str, &'static [Target], Option<&'static str>),
    /// [`BASE`] with its disk on the datastore ds1, assessed with this map for Proxmox VE.
    Mapped(&'static str),
}
use Case::*;

const OVF: &str = r#"<Envelope xmlns="http://schemas.dmtf.org/ovf/envelope/1" xmlns:o="http://schemas.dmtf.org/ovf/envelope/1"
 xmlns:r="http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_ResourceAllocationSettingData"
 xmlns:s="http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_VirtualSystemSettingData" xmlns:v="http://www.vmware.com/schema/ovf">
<References><File o:id="f" o:href="a.vmdk"/></References>
<DiskSection><Disk o:diskId="d" o:fileRef="f" o:capacity="5" o:capacityAllocationUnits="byte * 2^30"/></DiskSection>
<VirtualSystem o:id="web01"><Info>i</Info><Name>web01</Name><VirtualHardwareSection>
<System><s:VirtualSystemType>vmx-19</s:VirtualSystemType></System>
<Item><r:ResourceType>3</r:ResourceType><r:VirtualQuantity>2</r:VirtualQuantity><v:CoresPerSocket>1</v:CoresPerSocket></Item>
<Item><r:ResourceType>4</r:ResourceType><r:AllocationUnits>byte * 2^20</r:AllocationUnits><r:VirtualQuantity>2048</r:VirtualQuantity></Item>
<Item><r:InstanceID>7</r:InstanceID><r:ResourceType>6</r:ResourceType><r:ResourceSubType>VirtualSCSI</r:ResourceSubType><r:Address>0</r:Address></Item>
<Item><r:InstanceID>9</r:InstanceID><r:ResourceType>17</r:ResourceType><r:HostResource>ovf:/disk/d</r:HostResource><r:Parent>7</r:Parent><r:AddressOnParent>0</r:AddressOnParent></Item>
</VirtualHardwareSection></VirtualSystem></Envelope>"#;

/// Sums of `x`, the content of `a.vmdk`.
const GOOD_SUM: &str = "SHA1(a.vmdk)= 11f6ad8ec52a2984abaafd7c3b516503785c2072\n";

/// Check, source that makes it fire, source that doesn't.
const CASES: &[(&str, Case, Case)] = &[
    ("vmx.unparsable-line", Vmx("no sense at all"), Vmx("# a comment")),
    (
        "vmx.duplicate-key",
        Vmx("annotation = \"a\"\nannotation = \"b\""),
        Vmx("annotation = \"a\""),
    ),
    (
        "vmx.key-unknown",
        Vmx("some.future.key = \"1\""),
        Vmx("annotation = \"a\""),
    ),
    ("vmx.unquoted-value", Vmx("annotation = x"), Vmx("annotation = \"x\"")),
    (
        "vmx.raw-quote",
        Vmx("annotation = \"a\"b\""),
        Vmx("annotation = \"a|22b\""),
    ),
    (
        "vmx.malformed-escape",
        Vmx("annotation = \"|zz\""),
        Vmx("annotation = \"|7C\""),
    ),
    (
        "vmx.encoding-unsupported",
        Vmx(".encoding = \"klingon\"\nannotation = \"\u{e9}\""),
        Vmx(".encoding = \"windows-1252\""),
    ),
    (
        "vmx.encoding-guess",
        Bytes(b"annotation = \"\xff\""),
        Vmx("annotation = \"\u{e9}\""),
    ),
    (
        "vmx.present-false-leftover",
        Vmx("ethernet5.present = \"FALSE\"\nethernet5.networkName = \"x\""),
        Vmx("ethernet5.present = \"FALSE\""),
    ),
    ("vmx.present-missing", Vmx("-scsi0:0.present"), Vmx("")),
    ("vmx.odd-version", Vmx("config.version = \"7\""), Vmx("")),
    ("vmx.value-unreadable", Vmx("uuid.bios = \"junk\""), Vmx("-uuid.bios")),
    ("vm.name-missing", Vmx("-displayName"), Vmx("")),
    (
        "vm.name-non-ascii",
        Vmx("displayName = \"w\u{e9}b\""),
        Vmx("displayName = \"web 1\""),
    ),
    (
        "vm.name-invalid",
        Vmx("displayName = \"web 1\""),
        Vmx("displayName = \"web-1.example\""),
    ),
    ("vm.guessed", Bare, Vmx("")),
    ("vm.sheet-only", Sheet, Vmx("")),
    ("vm.template", Named("guest.vmtx"), Vmx("")),
    (
        "vm.hw-version-old",
        Vmx("virtualHW.version = \"4\""),
        Vmx("virtualHW.version = \"7\""),
    ),
    (
        "vm.hw-version-new",
        Vmx("virtualHW.version = \"23\""),
        Vmx("virtualHW.version = \"22\""),
    ),
    (
        "ovf.source-foreign",
        Ovf(
            &[
                (" xmlns:v=\"http://www.vmware.com/schema/ovf\"", ""),
                ("<v:CoresPerSocket>1</v:CoresPerSocket>", ""),
                ("vmx-19", "virtualbox-2.2"),
            ],
            &[],
        ),
        Ovf(&[], &[]),
    ),
    (
        "ovf.controller-unknown",
        Ovf(&[("<r:Parent>7</r:Parent>", "")], &[]),
        Ovf(&[], &[]),
    ),
    (
        "ovf.cores-per-socket-invalid",
        Ovf(&[("Socket>1<", "Socket>9<")], &[]),
        Ovf(&[], &[]),
    ),
    (
        "ovf.several-configurations",
        Ovf(
            &[(
                "<VirtualSystem ",
                "<DeploymentOptionSection><Configuration o:id=\"s\"/><Configuration o:id=\"l\"/></DeploymentOptionSection><VirtualSystem ",
            )],
            &[],
        ),
        Ovf(
            &[(
                "<VirtualSystem ",
                "<DeploymentOptionSection><Configuration o:id=\"s\"/></DeploymentOptionSection><VirtualSystem ",
            )],
            &[],
        ),
    ),
    (
        "ovf.disk-reference",
        Ovf(&[("disk/d<", "disk/nowhere<")], &[]),
        Ovf(&[], &[]),
    ),
    (
        "ovf.several-hardware-sections",
        Ovf(
            &[("</VirtualSystem>", "<VirtualHardwareSection/></VirtualSystem>")],
            &[],
        ),
        Ovf(&[], &[]),
    ),
    ("ovf.empty-disk", Ovf(&[(" o:fileRef=\"f\"", "")], &[]), Ovf(&[], &[])),
    (
        "ova.manifest-mismatch",
        Ovf(
            &[],
            &[("guest.mf", "SHA1(a.vmdk)= 0000000000000000000000000000000000000000\n")],
        ),
        Ovf(&[], &[("guest.mf", GOOD_SUM)]),
    ),
    (
        "ova.manifest-file-missing",
        Ovf(
            &[],
            &[("guest.mf", "SHA1(b.vmdk)= 11f6ad8ec52a2984abaafd7c3b516503785c2072\n")],
        ),
        Ovf(&[], &[("guest.mf", GOOD_SUM)]),
    ),
    (
        "ova.certificate",
        Ovf(&[], &[("guest.cert", "-----BEGIN CERTIFICATE-----\n")]),
        Ovf(&[], &[]),
    ),
    ("ova.needs-extracting", Gzip, Ovf(&[], &[])),
    (
        "ova.file-size",
        Ovf(&[("o:href=\"a.vmdk\"", "o:href=\"a.vmdk\" o:size=\"2\"")], &[]),
        Ovf(&[("o:href=\"a.vmdk\"", "o:href=\"a.vmdk\" o:size=\"1\"")], &[]),
    ),
    (
        "ova.chunks",
        Ovf(
            &[("o:href=\"a.vmdk\"", "o:href=\"c.vmdk\" o:size=\"4\" o:chunkSize=\"2\"")],
            &[("c.vmdk.000000000", "12"), ("c.vmdk.000000001", "3")],
        ),
        Ovf(
            &[("o:href=\"a.vmdk\"", "o:href=\"c.vmdk\" o:size=\"3\" o:chunkSize=\"2\"")],
            &[("c.vmdk.000000000", "12"), ("c.vmdk.000000001", "3")],
        ),
    ),
    ("disk.none", Vmx("-scsi0:0.present\n-scsi0:0.fileName"), Vmx("")),
    ("disk.file-missing", Vmx("scsi0:0.fileName = \"nowhere.vmdk\""), Vmx("")),
    (
        "disk.file-duplicate",
        Vmx("scsi0:1.present = \"TRUE\"\nscsi0:1.fileName = \"d.vmdk\""),
        Vmx("scsi0:1.present = \"TRUE\"\nscsi0:1.fileName = \"e.vmdk\""),
    ),
    (
        "disk.path-outside",
        Vmx("scsi0:0.fileName = \"../../etc/passwd\""),
        Vmx(""),
    ),
    (
        "disk.capacity-invalid",
        Ovf(&[("o:capacity=\"5\"", "o:capacity=\"0\"")], &[]),
        Ovf(&[], &[]),
    ),
    (
        "disk.extent-size-mismatch",
        Disk("RW 4096 VMFS \"d-flat.vmdk\""),
        Vmx(""),
    ),
    ("disk.type-unsupported", Disk("createType=\"fancy\""), Vmx("")),
    (
        "disk.parent-missing",
        Disk("parentFileNameHint=\"nowhere.vmdk\"\nparentCID=11111111"),
        Disk("parentFileNameHint=\"p.vmdk\"\nparentCID=11111111"),
    ),
    (
        "disk.cid-mismatch",
        Disk("parentFileNameHint=\"p.vmdk\"\nparentCID=22222222"),
        Disk("parentFileNameHint=\"p.vmdk\"\nparentCID=11111111"),
    ),
    (
        "disk.encrypted",
        Vmx("encryption.keySafe = \"vmware:key/list\""),
        Vmx("encryption.keySafe = \"\""),
    ),
    (
        "disk.rdm-physical",
        Disk("createType=\"vmfsPassthroughRawDeviceMap\""),
        Disk("createType=\"vmfsRawDeviceMap\""),
    ),
    (
        "disk.rdm-virtual",
        Disk("createType=\"vmfsRawDeviceMap\""),
        Disk("createType=\"vmfsPassthroughRawDeviceMap\""),
    ),
    (
        "disk.shared",
        Vmx("scsi0:0.sharing = \"multi-writer\""),
        Vmx("scsi0.sharedBus = \"none\""),
    ),
    (
        "disk.independent-persistent",
        Vmx("scsi0:0.mode = \"independent-persistent\""),
        Vmx("scsi0:0.mode = \"persistent\""),
    ),
    (
        "disk.independent-nonpersistent",
        Vmx("scsi0:0.mode = \"independent-nonpersistent\""),
        Vmx("scsi0:0.mode = \"independent-persistent\""),
    ),
    ("disk.sesparse", Disk("RW 2048 SESPARSE \"d-flat.vmdk\""), Vmx("")),
    (
        "disk.enable-uuid",
        Vmx("disk.EnableUUID = \"TRUE\""),
        Vmx("disk.EnableUUID = \"FALSE\""),
    ),
    (
        "disk.device-type-unknown",
        Vmx("scsi0:0.deviceType = \"fancy\""),
        Vmx("scsi0:0.deviceType = \"scsi-hardDisk\""),
    ),
    ("disk.count-exceeds-bus", Disks(48), Disks(47)),
    ("disk.count-exceeds-limit", Disks(166), Disks(165)),
    (
        "cdrom.image-attached",
        Vmx("sata0:0.present = \"TRUE\"\nsata0:0.deviceType = \"cdrom-image\"\nsata0:0.fileName = \"i.iso\""),
        Vmx("sata0:0.present = \"TRUE\"\nsata0:0.deviceType = \"cdrom-raw\"\nsata0:0.fileName = \"auto detect\""),
    ),
    (
        "cdrom.several",
        Vmx(
            "sata0:0.present = \"TRUE\"\nsata0:0.deviceType = \"cdrom-raw\"\nsata0:1.present = \"TRUE\"\nsata0:1.deviceType = \"cdrom-raw\"",
        ),
        Vmx("sata0:0.present = \"TRUE\"\nsata0:0.deviceType = \"cdrom-raw\""),
    ),
    (
        "floppy.attached",
        Vmx("floppy0.present = \"TRUE\"\nfloppy0.fileName = \"x.flp\""),
        Vmx("floppy0.present = \"TRUE\"\nfloppy0.startConnected = \"FALSE\""),
    ),
    (
        "scsi.mixed-controllers",
        Vmx(
            "scsi1.present = \"TRUE\"\nscsi1.virtualDev = \"lsilogic\"\nscsi1:0.present = \"TRUE\"\nscsi1:0.fileName = \"e.vmdk\"",
        ),
        Vmx(
            "scsi1.present = \"TRUE\"\nscsi1.virtualDev = \"pvscsi\"\nscsi1:0.present = \"TRUE\"\nscsi1:0.fileName = \"e.vmdk\"",
        ),
    ),
    ("scsi.buslogic", Vmx("scsi0.virtualDev = \"buslogic\""), Vmx("")),
    (
        "scsi.lsi-with-uefi",
        Vmx("firmware = \"efi\"\nscsi0.virtualDev = \"lsilogic\""),
        Vmx("firmware = \"efi\""),
    ),
    ("scsi.model-missing", Vmx("-scsi0.virtualDev"), Vmx("")),
    (
        "scsi.controller-absent",
        Vmx("scsi1.present = \"FALSE\"\nscsi1:0.present = \"TRUE\"\nscsi1:0.fileName = \"e.vmdk\""),
        Vmx("scsi1.present = \"FALSE\""),
    ),
    (
        "nvme.not-native",
        Vmx("nvme0.present = \"TRUE\""),
        Vmx("nvme0.present = \"FALSE\""),
    ),
    (
        "device.scsi-passthrough",
        Vmx("scsi0:3.present = \"TRUE\"\nscsi0:3.deviceType = \"scsi-passthru\"\nscsi0:3.fileName = \"/dev/sg0\""),
        Vmx(""),
    ),
    (
        "vm.suspended",
        Vmx("checkpoint.vmState = \"web01.vmss\""),
        Vmx("checkpoint.vmState = \"\""),
    ),
    ("snapshot.present", Snapshots(1), Vmx("")),
    ("snapshot.many", Snapshots(4), Snapshots(3)),
    ("cbt.vm-disabled", Vmx("ctkEnabled = \"FALSE\""), Vmx("")),
    (
        "vm.fault-tolerance",
        Vmx("ftcpt.enabled = \"TRUE\""),
        Vmx("ftcpt.enabled = \"FALSE\""),
    ),
    (
        "firmware.unknown",
        Vmx("firmware = \"coreboot\""),
        Vmx("firmware = \"EFI\""),
    ),
    (
        "firmware.nvram-lost",
        Vmx("firmware = \"efi\""),
        Vmx("firmware = \"bios\""),
    ),
    (
        "secureboot.enabled",
        Vmx("firmware = \"efi\"\nuefi.secureBoot.enabled = \"TRUE\""),
        Vmx("firmware = \"efi\"\nuefi.secureBoot.enabled = \"FALSE\""),
    ),
    (
        "secureboot.without-uefi",
        Vmx("uefi.secureBoot.enabled = \"TRUE\""),
        Vmx("firmware = \"efi\"\nuefi.secureBoot.enabled = \"TRUE\""),
    ),
    (
        "tpm.present",
        Vmx("vtpm.present = \"TRUE\""),
        Vmx("vtpm.present = \"FALSE\""),
    ),
    (
        "windows.vbs-hvci",
        Vmx("vvtd.enable = \"TRUE\""),
        Vmx("vvtd.enable = \"FALSE\""),
    ),
    (
        "cpu.topology-not-divisible",
        Vmx("numvcpus = \"6\"\ncpuid.coresPerSocket = \"4\""),
        Vmx("numvcpus = \"6\"\ncpuid.coresPerSocket = \"3\""),
    ),
    (
        "cpu.cores-per-socket-gt-vcpus",
        Vmx("cpuid.coresPerSocket = \"4\""),
        Vmx("cpuid.coresPerSocket = \"2\""),
    ),
    (
        "cpu.count-missing",
        Vmx("-numvcpus\ncpuid.coresPerSocket = \"4\""),
        Vmx(""),
    ),
    (
        "cpu.hot-add",
        Vmx("vcpu.hotadd = \"TRUE\""),
        Vmx("vcpu.hotadd = \"FALSE\""),
    ),
    (
        "mem.hot-add",
        Vmx("mem.hotadd = \"TRUE\""),
        Vmx("mem.hotadd = \"FALSE\""),
    ),
    (
        "cpu.affinity",
        Vmx("sched.cpu.affinity = \"0,1\""),
        Vmx("sched.cpu.affinity = \"all\""),
    ),
    ("numa.affinity", Vmx("numa.nodeAffinity = \"0\""), Vmx("")),
    (
        "cpu.shares-or-limits",
        Vmx("sched.cpu.shares = \"high\""),
        Vmx("sched.cpu.shares = \"normal\""),
    ),
    (
        "mem.reserved-or-limited",
        Vmx("sched.mem.min = \"1024\""),
        Vmx("sched.mem.max = \"2048\""),
    ),
    ("mem.size-missing", Vmx("-memSize"), Vmx("")),
    ("mem.size-odd", Vmx("memSize = \"2046\""), Vmx("memSize = \"2052\"")),
    (
        "cpu.latency-sensitivity",
        Vmx("sched.cpu.latencySensitivity = \"high\""),
        Vmx("sched.cpu.latencySensitivity = \"normal\""),
    ),
    (
        "cpu.masks-evc",
        Vmx("cpuid.1.ecx = \"-------------------------------0\""),
        Vmx("cpuid.coresPerSocket = \"1\""),
    ),
    (
        "mem.hotplug-cap",
        Vmx("mem.hotadd = \"TRUE\"\nmemSize = \"600000\""),
        Vmx("mem.hotadd = \"TRUE\"\nmemSize = \"524288\""),
    ),
    (
        "device.pci-passthrough",
        Vmx("pciPassthru0.present = \"TRUE\""),
        Vmx("pciPassthru0.present = \"FALSE\""),
    ),
    (
        "device.vgpu",
        Vmx("pciPassthru0.present = \"TRUE\"\npciPassthru0.vgpu = \"grid_p40-4q\""),
        Vmx(""),
    ),
    (
        "device.usb",
        Vmx("usb.present = \"TRUE\"\nusb.autoConnect.device0 = \"0x529:0x3\""),
        Vmx("usb.present = \"TRUE\"\nusb:0.present = \"TRUE\"\nusb:0.deviceType = \"hid\""),
    ),
    (
        "device.parallel",
        Vmx("parallel0.present = \"TRUE\""),
        Vmx("parallel0.present = \"FALSE\""),
    ),
    (
        "device.serial",
        Vmx("serial0.present = \"TRUE\""),
        Vmx("serial0.present = \"FALSE\""),
    ),
    ("nic.network-missing", Vmx("-ethernet0.networkName"), Vmx("")),
    (
        "nic.mac-conflict",
        Vmx(
            "ethernet1.present = \"TRUE\"\nethernet1.addressType = \"vpx\"\nethernet1.generatedAddress = \"00:50:56:80:00:10\"",
        ),
        Vmx(
            "ethernet1.present = \"TRUE\"\nethernet1.addressType = \"vpx\"\nethernet1.generatedAddress = \"00:50:56:80:00:11\"",
        ),
    ),
    ("nic.mac-missing", Vmx("-ethernet0.generatedAddress"), Vmx("")),
    (
        "nic.mac-oui",
        Vmx(
            "ethernet0.addressType = \"static\"\n-ethernet0.generatedAddress\nethernet0.address = \"52:54:00:00:00:01\"",
        ),
        Vmx(""),
    ),
    (
        "nic.mac-ambiguous",
        Vmx("ethernet0.addressType = \"static\"\nethernet0.address = \"00:50:56:00:00:01\""),
        Vmx(""),
    ),
    ("nic.mac-type-missing", Vmx("-ethernet0.addressType"), Vmx("")),
    ("nic.rename-risk", Vmx("ethernet0.pciSlotNumber = \"192\""), Vmx("")),
    (
        "nic.slot-not-reproduced",
        Vmx("ethernet0.pciSlotNumber = \"1184\""),
        Vmx("ethernet0.pciSlotNumber = \"192\""),
    ),
    (
        "nic.start-disconnected",
        Vmx("ethernet0.startConnected = \"FALSE\""),
        Vmx("ethernet0.startConnected = \"TRUE\""),
    ),
    (
        "nic.model-obsolete",
        Vmx("ethernet0.virtualDev = \"vlance\""),
        Vmx("ethernet0.virtualDev = \"e1000\""),
    ),
    ("net.vlan-unknown", Vmx(""), Vmx("-ethernet0.networkName")),
    ("os.id-unknown", Vmx("guestOS = \"templeos\""), Vmx("")),
    (
        "os.id-stale",
        Vmx("guestOS = \"windows8srv-64\""),
        Vmx("guestOS = \"windows2019srv-64\""),
    ),
    (
        "windows.sha1-drivers",
        Vmx("guestOS = \"winXPPro\""),
        Vmx("guestOS = \"windows9-64\""),
    ),
    (
        "time.tools-sync",
        Vmx("tools.syncTime = \"TRUE\""),
        Vmx("tools.syncTime = \"FALSE\""),
    ),
    (
        "guest.cloud-init-data",
        Vmx("guestinfo.metadata = \"e30=\""),
        Vmx("guestinfo.metadata = \"\""),
    ),
    ("genid.kubevirt", Vmx("vm.genid = \"1\"\nvm.genidX = \"2\""), Vmx("")),
    ("identity.uuid-missing", Vmx("-uuid.bios"), Vmx("")),
    ("notes.dropped", Vmx("annotation = \"owner\""), Vmx("annotation = \"\"")),
    (
        "target.limit-vcpu",
        Vmx("numvcpus = \"1026\""),
        Vmx("numvcpus = \"1024\""),
    ),
    ("target.limit-nic", Nics(33), Nics(32)),
    (
        "target.limit-serial",
        Vmx(
            "serial0.present = \"TRUE\"\nserial1.present = \"TRUE\"\nserial2.present = \"TRUE\"\nserial3.present = \"TRUE\"\nserial4.present = \"TRUE\"",
        ),
        Vmx(
            "serial0.present = \"TRUE\"\nserial1.present = \"TRUE\"\nserial2.present = \"TRUE\"\nserial3.present = \"TRUE\"",
        ),
    ),
    (
        "vm.running",
        Vmx("cleanShutdown = \"FALSE\""),
        Vmx("cleanShutdown = \"TRUE\""),
    ),
    (
        "cbt.disk-disabled",
        Vmx("scsi0:0.ctkEnabled = \"TRUE\"\nscsi0:1.present = \"TRUE\"\nscsi0:1.fileName = \"e.vmdk\""),
        Vmx("scsi0:0.ctkEnabled = \"TRUE\""),
    ),
    (
        "os.architecture-unknown",
        Vmx("guestOS = \"arm-debian12-64\""),
        Vmx("guestOS = \"debian12-64\""),
    ),
    (
        "cpu.level-too-low",
        Vmx("guestOS = \"rhel10-64\""),
        Vmx("guestOS = \"rhel9-64\""),
    ),
    ("target.limit-pci-slots", Nics(25), Nics(24)),
    (
        "target.limit-numa",
        Vmx("numvcpus = \"18\"\nnuma.vcpu.maxPerVirtualNode = \"2\""),
        Vmx("numvcpus = \"16\"\nnuma.vcpu.maxPerVirtualNode = \"2\""),
    ),
    (
        "snapshot.consolidation-needed",
        Tabs(&[("vInfo", "VM,CPUs,Memory,Consolidation Needed\na,1,512,True\n")]),
        Tabs(&[("vInfo", "VM,CPUs,Memory,Consolidation Needed\na,1,512,False\n")]),
    ),
    (
        "tools.not-running",
        Tabs(&[
            ("vInfo", "VM,CPUs,Memory,Powerstate\na,1,512,poweredOn\n"),
            ("vTools", "VM,Tools\na,toolsNotRunning\n"),
        ]),
        Tabs(&[
            ("vInfo", "VM,CPUs,Memory,Powerstate\na,1,512,poweredOff\n"),
            ("vTools", "VM,Tools\na,toolsNotRunning\n"),
        ]),
    ),
    (
        "host.name-default",
        Tabs(&[("vInfo", "VM,CPUs,Memory,DNS Name\na,1,512,localhost.localdomain\n")]),
        Tabs(&[("vInfo", "VM,CPUs,Memory,DNS Name\na,1,512,a.example\n")]),
    ),
    (
        "vm.name-exists",
        Pair("displayName = \"Web01\""),
        Pair("displayName = \"web02\""),
    ),
    (
        "nic.network-unmapped",
        Mapped("[datastores.ds1]\nstorage = \"ceph\"\n"),
        Mapped("[networks.LAN]\nbridge = \"vmbr0\"\n"),
    ),
    (
        "target.storage-not-mapped",
        Mapped("[networks.LAN]\nbridge = \"vmbr0\"\n"),
        Mapped("[datastores.ds1]\nstorage = \"ceph\"\n"),
    ),
    (
        "nic.network-default",
        Written("", &Target::ALL, None),
        Written("", &Target::ALL, Some("")),
    ),
    (
        "nic.vlan-untagged",
        Written(
            "",
            &[Target::Libvirt],
            Some("[networks.LAN]\nbridge = \"b\"\nvlan = 7\n"),
        ),
        Written(
            "",
            &[Target::Libvirt, Target::Proxmox],
            Some("[networks.LAN]\nbridge = \"b\"\nvlan = 7\nopenvswitch = true\n"),
        ),
    ),
    (
        "time.zone-unknown",
        Written("guestOS = \"windows2019srv-64\"", &[Target::Kubevirt], None),
        Written(
            "guestOS = \"windows2019srv-64\"",
            &[Target::Kubevirt],
            Some("timezone = \"Europe/Berlin\"\n"),
        ),
    ),
    (
        "cdrom.kubevirt",
        Written(
            "sata0:0.present = \"TRUE\"\nsata0:0.deviceType = \"cdrom-raw\"",
            &[Target::Kubevirt],
            None,
        ),
        Written(
            "sata0:0.present = \"TRUE\"\nsata0:0.deviceType = \"cdrom-raw\"",
            &[Target::Proxmox],
            None,
        ),
    ),
    (
        "target.phys-bits",
        Vmx("memSize = \"1536000\""),
        Vmx("memSize = \"512000\""),
    ),
];

fn key(line: &str) -> Option<&str> {
    line.split_once('=').map(|(key, _)| key.trim())
}

/// [`BASE`] with lines replaced, removed and added.
fn vmx(lines: &str) -> String {
    let touched: BTreeSet<&str> = lines
        .lines()
        .filter_map(|line| line.strip_prefix('-').or_else(|| key(line)))
        .collect();
    let added = lines.lines().filter(|line| !line.starts_with('-'));
    let kept = BASE
        .lines()
        .filter(|line| key(line).is_none_or(|key| !touched.contains(key)));
    added.chain(kept).fold(String::new(), |text, line| text + line + "\n")
}

/// Ids that fire on a source.
fn fired(case: Case) -> BTreeSet<String> {
    let folder = tempfile::tempdir().expect("temporary folder");
    let write = |name: &str, content: &[u8]| std::fs::write(folder.path().join(name), content).expect("file");
    let flat = vec![0; 1 << 20];
    write("d-flat.vmdk", &flat);
    write("d.vmdk", DISK.as_bytes());
    write("e.vmdk", DISK.as_bytes());
    write("p.vmdk", DISK.replace("CID=fffffffe", "CID=11111111").as_bytes());
    write("a.vmdk", b"x");
    let mut name = "guest.vmx";
    let mut text = vmx("").into_bytes();
    match case {
        Vmx(lines) | Written(lines, _, _) => text = vmx(lines).into_bytes(),
        Mapped(map) => {
            write(
                name,
                vmx("scsi0:0.fileName = \"/vmfs/volumes/ds1/web01/d.vmdk\"").as_bytes(),
            );
            let options = AssessOptions {
                map: Some((NetworkMap::parse(map).expect("the map is right"), vec![Target::Proxmox])),
                ..AssessOptions::default()
            };
            return assessed_with(&folder.path().join(name), &options);
        }
        Bytes(bytes) => text = [bytes, b"\n", BASE.as_bytes()].concat(),
        Disk(lines) => {
            // The lines replace those of the same kind.
            let kept = DISK.lines().filter(|line| {
                !lines.lines().any(|new| {
                    key(new) == key(line) && key(line).is_some() || new.starts_with("RW") && line.starts_with("RW")
                })
            });
            let descriptor = kept
                .chain(lines.lines())
                .fold(String::new(), |text, line| text + line + "\n");
            write("d.vmdk", descriptor.as_bytes());
        }
        Disks(count) => {
            let mut lines = "-scsi0:0.present\n-scsi0:0.fileName\n".to_owned();
            for number in 0..count {
                let place = format!("scsi{}:{}", number / 15, number % 15);
                lines += &format!("{place}.present = \"TRUE\"\n{place}.fileName = \"d{number}.vmdk\"\n");
            }
            text = vmx(&lines).into_bytes();
        }
        Nics(count) => {
            let lines: String = (1..count)
                .map(|number| format!("ethernet{number}.present = \"TRUE\"\n"))
                .collect();
            text = vmx(&lines).into_bytes();
        }
        Named(other) => name = other,
        Snapshots(count) => {
            let mut list = format!("snapshot.numSnapshots = \"{count}\"\nsnapshot.current = \"{count}\"\n");
            for number in 0..count {
                list += &format!(
                    "snapshot{number}.uid = \"{}\"\nsnapshot{number}.displayName = \"s\"\n",
                    number + 1
                );
            }
            write("guest.vmsd", list.as_bytes());
        }
        Bare => {
            name = "d.vmdk";
            text = DISK.as_bytes().to_vec();
        }
        Ovf(replacements, files) => {
            name = "guest.ovf";
            let mut document = OVF.to_owned();
            for (from, to) in replacements {
                assert!(document.contains(from), "{from}");
                document = document.replace(from, to);
            }
            text = document.into_bytes();
            for (name, content) in files {
                write(name, content.as_bytes());
            }
        }
        Gzip => {
            use std::io::Write as _;
            name = "guest.ovf";
            text = OVF
                .replace("o:href=\"a.vmdk\"", "o:href=\"a.vmdk.gz\" o:compression=\"gzip\"")
                .into_bytes();
            let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            packed.write_all(b"the disk").expect("packs");
            write("a.vmdk.gz", &packed.finish().expect("packs"));
        }
        Sheet => {
            name = "sheet.csv";
            text = b"VM,CPUs,Memory\nweb01,2,2048\n".to_vec();
        }
        Tabs(tabs) => {
            for (tab, content) in tabs {
                write(&format!("tab{tab}.csv"), content.as_bytes());
            }
            return assessed(&folder.path().join("tabvInfo.csv"));
        }
        Pair(lines) => {
            write(name, &text);
            let second = folder.path().join("second");
            std::fs::create_dir(&second).expect("folder");
            for (name, content) in [("d.vmdk", DISK.as_bytes()), ("d-flat.vmdk", &flat)] {
                std::fs::write(second.join(name), content).expect("file");
            }
            std::fs::write(second.join("second.vmx"), vmx(lines)).expect("file");
            return assessed(folder.path());
        }
    }
    write(name, &text);
    if let Written(_, targets, map) = case {
        let machine = open(&folder.path().join(name), &ImportOptions::default())
            .expect("importable")
            .machine;
        let context = TargetContext {
            map: map.map(|text| NetworkMap::parse(text).expect("the map is right")),
            ..TargetContext::default()
        };
        let findings = target_findings(&machine, &context, targets);
        return findings.into_iter().map(|finding| finding.id).collect();
    }
    ids(&folder.path().join(name))
}

fn assessed(path: &Path) -> BTreeSet<String> {
    assessed_with(path, &AssessOptions::default())
}

fn assessed_with(path: &Path, options: &AssessOptions) -> BTreeSet<String> {
    let report = assess(
        &[path.to_owned()],
        options,
        "test",
        &mut |_, _| {},
        &AtomicBool::new(false),
    );
    let findings = report.guests.into_iter().flat_map(|guest| guest.findings);
    findings.map(|finding| finding.id).collect()
}

fn ids(path: &Path) -> BTreeSet<String> {
    if path.extension().is_some_and(|extension| extension == "csv") {
        return assessed(path);
    }
    let imported = open(path, &ImportOptions::default()).unwrap_or_else(|error| panic!("{error}"));
    imported.findings.into_iter().map(|finding| finding.id).collect()
}

#[test]
fn every_check_has_a_source_that_fires_and_one_that_does_not() {
    let tested: Vec<&str> = CASES.iter().map(|(id, _, _)| *id).collect();
    let known: Vec<&str> = checks()
        .filter(|check| check.needs != Needs::Inside)
        .map(|check| check.id)
        .collect();
    let missing: Vec<&&str> = known.iter().filter(|id| !tested.contains(id)).collect();
    assert!(missing.is_empty(), "no case for {missing:?}");
    let unknown: Vec<&&str> = tested.iter().filter(|id| !known.contains(id)).collect();
    assert!(unknown.is_empty(), "no such check: {unknown:?}");
    let unique: BTreeSet<&&str> = tested.iter().collect();
    assert_eq!(unique.len(), tested.len(), "a check twice");
}

#[test]
fn each_check_fires_where_it_should_and_is_quiet_where_it_should() {
    let mut wrong = Vec::new();
    for (id, fires, quiet) in CASES {
        let found = fired(*fires);
        if !found.contains(*id) {
            wrong.push(format!("{id} is silent on {fires:?}: {found:?}"));
        }
        if fired(*quiet).contains(*id) {
            wrong.push(format!("{id} fires on {quiet:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn guests_that_claim_the_same_mac_or_disk_block_each_other() {
    let clone = fired(Pair("displayName = \"clone\""));
    assert!(clone.contains("nic.mac-conflict"), "{clone:?}");
    assert!(!clone.contains("disk.shared"), "{clone:?}");
    let cluster = fired(Pair(
        "displayName = \"b\"\nethernet0.generatedAddress = \"00:50:56:80:00:11\"\nscsi0:0.fileName = \"d.vmdk\"",
    ));
    assert!(!cluster.contains("nic.mac-conflict"), "{cluster:?}");

    // One file, two guests: both are told.
    let folder = tempfile::tempdir().expect("temporary folder");
    std::fs::write(folder.path().join("d.vmdk"), DISK).expect("file");
    std::fs::write(folder.path().join("d-flat.vmdk"), vec![0; 1 << 20]).expect("file");
    for (name, mac) in [("a", "10"), ("b", "11")] {
        let text = vmx(&format!(
            "displayName = \"{name}\"\nethernet0.generatedAddress = \"00:50:56:80:00:{mac}\""
        ));
        std::fs::write(folder.path().join(format!("{name}.vmx")), text).expect("file");
    }
    let report = assess(
        &[folder.path().to_owned()],
        &AssessOptions::default(),
        "test",
        &mut |_, _| {},
        &AtomicBool::new(false),
    );
    for guest in &report.guests {
        let other = if guest.name == "a" { "\"b\"" } else { "\"a\"" };
        assert!(
            guest
                .findings
                .iter()
                .any(|finding| finding.id == "disk.shared" && finding.evidence.contains(other)),
            "{guest:?}"
        );
    }
}

#[test]
fn what_is_not_checked_is_not_in_the_register() {
    for id in UNMADE.iter().flat_map(|unmade| unmade.ids) {
        assert!(checks().all(|check| check.id != *id), "{id}");
    }
}

/// The limit is a row of the documented ones; the crate that reads them is not linked here.
#[test]
fn the_limit_of_vcpus_is_the_documented_one() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../reports/limits/qemu-kvm.toml");
    let table: toml::Table = std::fs::read_to_string(path).expect("readable").parse().expect("TOML");
    let groups = table["group"].as_array().expect("groups");
    let kvm = groups
        .iter()
        .find(|group| group["product"].as_str() == Some("KVM"))
        .expect("KVM");
    let rows = kvm["rows"].as_array().expect("rows");
    let most = rows
        .iter()
        .find(|row| row["key"].as_str() == Some("vcpus"))
        .and_then(|row| row["value"].as_integer())
        .expect("a number");
    let with = |vcpus: i64| {
        let folder = tempfile::tempdir().expect("temporary folder");
        let path = folder.path().join("guest.vmx");
        std::fs::write(&path, vmx(&format!("numvcpus = \"{vcpus}\""))).expect("file");
        ids(&path).contains("target.limit-vcpu")
    };
    assert!(with(most + 1) && !with(most));
}

#[test]
fn nothing_is_said_of_a_plain_guest_but_what_is_true_of_every_vmx() {
    let found = fired(Vmx(""));
    assert_eq!(found.into_iter().collect::<Vec<_>>(), ["net.vlan-unknown"]);
}
