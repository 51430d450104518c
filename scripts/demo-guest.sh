#!/usr/bin/env bash
# Makes the sample VMware guest of `make demo`: a VMX folder as ESXi would leave it, from Debian packages only.
#
# usage: scripts/demo-guest.sh FOLDER        FOLDER/demo.vmx appears last; an existing one is kept.
#
# Boot disk: a real Debian 12 with systemd (BIOS, MBR, GRUB, ext4), streamOptimized, on an lsilogic controller.
# Data disk: a bare ext4 file system, monolithicSparse. NIC: vmxnet3 with a static MAC and a static address on ens192.
# Needs root (ownership of the guest's files); no loop device, no mount on this machine.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
. "$here/guest-disk.sh"
folder=${1:?usage: $0 FOLDER}
[ -e "$folder/demo.vmx" ] && { echo "demo guest: $folder/demo.vmx exists, kept" >&2; exit 0; }
if [ "$(id -u)" != 0 ]; then
  command -v sudo >/dev/null || { echo "demo guest: making the guest's file system needs root or sudo" >&2; exit 2; }
  sudo env ESXODUS_CACHE="${ESXODUS_CACHE:-}" "$0" "$folder"; exec sudo chown -R "$(id -u):$(id -g)" "$folder"
fi
for tool in mmdebstrap mke2fs sfdisk qemu-img python3; do
  PATH=$PATH:/usr/sbin:/sbin command -v "$tool" >/dev/null || { echo "demo guest: $tool is missing: run scripts/setup.sh" >&2; exit 2; }
done
export PATH=$PATH:/usr/sbin:/sbin
say() { printf 'demo guest: %s (%s s)\n' "$*" "$SECONDS" >&2; }
mkdir -p "$folder"; work=$(mktemp -d "$folder/.partial.XXXXXX"); trap 'rm -rf "$work"' EXIT

# A guest that lived on ESXi: the stock kernel (the cloud flavour has no LSI driver), an initramfs with the drivers of
# both worlds, VMware's names in the network configuration. Documentation and drivers for hardware that no guest has
# are left out so that the demo stays quick.
say "installing Debian into a folder"
mmdebstrap "${lean_options[@]}" \
  --include=systemd-sysv,udev,kmod,initramfs-tools,zstd,linux-image-amd64,grub-pc-bin,iproute2,ifupdown,e2fsprogs \
  --essential-hook='mkdir -p "$1/etc/initramfs-tools/conf.d"; printf "MODULES=list\nCOMPRESS=zstd\nCOMPRESSLEVEL=3\n" > "$1/etc/initramfs-tools/conf.d/demo"; printf "%s\n" mptspi vmw_pvscsi vmxnet3 ahci ata_piix sd_mod sr_mod virtio_pci virtio_blk virtio_scsi virtio_net nvme ext4 > "$1/etc/initramfs-tools/modules"' \
  bookworm "$work/root"
root=$work/root
say "configuring the guest"
boot_uuid=6f1c2e5a-0d0e-4c1b-9a51-e50d05000001; data_uuid=6f1c2e5a-0d0e-4c1b-9a51-e50d05000002
printf 'UUID=%s / ext4 errors=remount-ro 0 1\nUUID=%s /srv/data ext4 defaults 0 2\n' $boot_uuid $data_uuid > "$root/etc/fstab"
mkdir -p "$root/srv/data"; echo demo > "$root/etc/hostname"; printf '127.0.0.1 localhost\n127.0.1.1 demo\n' > "$root/etc/hosts"
mkdir -p "$root/etc/network" "$root/boot/grub"
printf 'auto lo\niface lo inet loopback\n\nallow-hotplug ens192\niface ens192 inet static\n  address 192.0.2.10/24\n' > "$root/etc/network/interfaces"
# No password is set: the login prompt is as far as anybody gets.
rm -f "$root/etc/resolv.conf"; : > "$root/etc/machine-id"; rm -rf "$root/var/cache/apt/"* "$root/var/lib/apt/lists/"*
kernel=$(cd "$root/boot" && ls vmlinuz-* | sort -V | tail -1); version=${kernel#vmlinuz-}
cat > "$root/boot/grub/grub.cfg" <<CFG
serial --unit=0 --speed=115200
terminal_input serial console
terminal_output serial console
set timeout=0
search --no-floppy --fs-uuid --set=root $boot_uuid
menuentry 'Debian GNU/Linux' {
  linux /boot/vmlinuz-$version root=UUID=$boot_uuid ro console=tty0 console=ttyS0,115200
  initrd /boot/initrd.img-$version
}
CFG
grub_prefix='(hd0,msdos1)/boot/grub' bios_core "$root" ext2

say "writing the disks"
boot=$work/boot.raw; truncate -s 4G "$boot"
echo 'start=2048, type=83, bootable' | sfdisk -q -X dos "$boot"
ext4_into "$boot" 1048576 $((4 * 1024 * 1024 - 1024)) root $boot_uuid "$root"
bios_boot "$root" "$boot"
data=$work/data.raw; truncate -s 1G "$data"; mkdir "$work/files"
python3 - "$work/files" <<'PY'
import hashlib, sys
# Records that compress as a database's would, the same in every run.
for n in range(4):
    with open(f"{sys.argv[1]}/table{n}.dat", "w") as f:
        for i in range(120_000):
            f.write(f"{i:08d};{hashlib.md5(f'{n}.{i}'.encode()).hexdigest()};customer {i % 977};open\n")
PY
mke2fs -q -t ext4 -F -L data -U $data_uuid -O ^metadata_csum_seed,^orphan_file -d "$work/files" "$data"
qemu-img convert -O vmdk -o subformat=streamOptimized "$boot" "$work/demo.vmdk"
qemu-img convert -O vmdk -o subformat=monolithicSparse,adapter_type=lsilogic "$data" "$work/demo_1.vmdk"

say "writing the machine's description"
cat > "$work/demo.vmsd" <<'VMSD'
.encoding = "UTF-8"
snapshot.lastUID = "0"
snapshot.numSnapshots = "0"
VMSD
head -c 8684 /dev/zero > "$work/demo.nvram"; printf 'MRVN' | dd of="$work/demo.nvram" conv=notrunc status=none
cat > "$work/demo.vmx" <<'VMX'
.encoding = "UTF-8"
config.version = "8"
virtualHW.version = "14"
vmci0.present = "TRUE"
floppy0.present = "FALSE"
numvcpus = "2"
cpuid.coresPerSocket = "2"
memSize = "1024"
mem.hotadd = "TRUE"
bios.bootRetry.delay = "10"
powerType.powerOff = "default"
powerType.suspend = "soft"
powerType.reset = "default"
tools.upgrade.policy = "manual"
sched.cpu.units = "mhz"
sched.cpu.affinity = "all"
sched.cpu.shares = "normal"
sched.mem.shares = "normal"
displayName = "demo"
annotation = "Sample guest of esxodus: Debian 12, two disks, one NIC"
guestOS = "debian12-64"
nvram = "demo.nvram"
extendedConfigFile = "demo.vmxf"
scsi0.virtualDev = "lsilogic"
scsi0.present = "TRUE"
scsi0.pciSlotNumber = "16"
scsi0:0.deviceType = "scsi-hardDisk"
scsi0:0.fileName = "demo.vmdk"
scsi0:0.present = "TRUE"
scsi0:1.deviceType = "scsi-hardDisk"
scsi0:1.fileName = "demo_1.vmdk"
scsi0:1.present = "TRUE"
sata0.present = "TRUE"
sata0.pciSlotNumber = "33"
sata0:0.deviceType = "cdrom-raw"
sata0:0.startConnected = "FALSE"
sata0:0.fileName = "emptyBackingString"
sata0:0.present = "TRUE"
ethernet0.virtualDev = "vmxnet3"
ethernet0.networkName = "VM Network"
ethernet0.addressType = "static"
ethernet0.address = "00:50:56:11:22:33"
ethernet0.pciSlotNumber = "192"
ethernet0.uptCompatibility = "TRUE"
ethernet0.present = "TRUE"
svga.vramSize = "8388608"
svga.present = "TRUE"
hpet0.present = "TRUE"
toolScripts.afterPowerOn = "TRUE"
toolScripts.beforePowerOff = "TRUE"
tools.syncTime = "FALSE"
uuid.bios = "42 2c 5e 1f 11 22 33 44-55 66 77 88 99 aa bb cc"
uuid.location = "56 4d 83 a2 aa 3e 3a 0c-3a 2d 11 7e 5b 6b 9c 1f"
vc.uuid = "50 2c 7b 7c 9d 1e 6a 4e-0e 3b 5d 0a 44 3f 1c 77"
vm.genid = "-8536691797830587195"
vm.genidX = "-1723453263670062919"
migrate.hostLog = "./demo-1f2e3d4c.hlog"
sched.swap.derivedName = "/vmfs/volumes/5f0e1d2c-3b4a5968-7786-001b21a5c3d4/demo/demo-1f2e3d4c.vswp"
monitor.phys_bits_used = "45"
cleanShutdown = "TRUE"
softPowerOff = "FALSE"
pciBridge0.present = "TRUE"
pciBridge0.pciSlotNumber = "17"
VMX
mv "$work/demo.vmdk" "$work/demo_1.vmdk" "$work/demo.vmsd" "$work/demo.nvram" "$folder/"
mv "$work/demo.vmx" "$folder/"
say "ready: $folder/demo.vmx"
