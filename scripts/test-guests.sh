#!/usr/bin/env bash
# Makes the guests that the boot proof and the fix-up are tested with: VMX folders as ESXi would leave them, from Debian packages,
# with the defects that real estates have.
#
# usage: scripts/test-guests.sh FOLDER [GUEST...]        FOLDER/GUEST/GUEST.vmx appears last; existing ones are kept
#
#   old-initramfs   BIOS, ext4 root, two disks; the initramfs knows VMware's buses and no virtio; fstab by /dev/sda1 and /dev/sdb1;
#                   a static address on ens192; open-vm-tools installed
#   device-names    the same with virtio in the initramfs: only fstab is wrong
#   uefi-lvm        UEFI, ESP, separate /boot, root on LVM with XFS, a second disk with LUKS that the system opens at boot
#   rpm-layout      as a Rocky 9 lays its files out: BLS entries, dracut image without virtio, ifcfg file, separate /boot, XFS root.
#                   EMULATED: Debian's programs in that layout, since the packages are not to be had from a Debian mirror
#   suse-layout     as a SLES 15 lays its files out: btrfs root, dracut image without virtio, wicked's ifcfg file. EMULATED as well
#   panic           the kernel panics, and tells it to the VGA text screen only (no serial console)
#   no-root         the command line names a root that is on no disk
#   hung            the first program sleeps for ever and says nothing
#
# One base tree is installed; every guest is derived from it by editing files. Needs root and one loop device (for LVM's metadata;
# nothing is mounted, no device-mapper).
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
. "$here/guest-disk.sh"
export PATH=$PATH:/usr/sbin:/sbin
all=(old-initramfs device-names uefi-lvm rpm-layout suse-layout panic no-root hung)
folder=${1:?usage: $0 FOLDER [GUEST...]}; shift
wanted=("$@"); [ ${#wanted[@]} -gt 0 ] || wanted=("${all[@]}")
if [ "$(id -u)" != 0 ]; then
  command -v sudo >/dev/null || { echo "test guests: making guests' file systems needs root or sudo" >&2; exit 2; }
  sudo env ESXODUS_CACHE="${ESXODUS_CACHE:-}" "$0" "$folder" "${wanted[@]}"; exec sudo chown -R "$(id -u):$(id -g)" "$folder"
fi
say() { printf 'test guests: %s (%s s)\n' "$*" "$SECONDS" >&2; }
for tool in mmdebstrap mke2fs sfdisk qemu-img python3 mkfs.xfs mkfs.btrfs mkfs.vfat mcopy losetup pvcreate; do
  command -v "$tool" >/dev/null || { echo "test guests: $tool is missing: run scripts/setup.sh run test" >&2; exit 2; }
done
mkdir -p "$folder"; folder=$(cd "$folder" && pwd)
work=''; loop=''
trap '[ -z "$loop" ] || losetup -d "$loop"; [ -z "$work" ] || rm -rf "$work"' EXIT
base=$folder/base
uuid() { printf '6f1c2e5a-0d0e-4c1b-9a51-e50d0500%04x' "$1"; }

# What VMware's virtual hardware needs in an initramfs, and what KVM needs beside it.
vmware_modules='mptspi vmw_pvscsi vmxnet3 ahci ata_piix ata_generic sd_mod sr_mod ext4 xfs btrfs dm_mod'
virtio_modules='virtio_pci virtio_blk virtio_scsi virtio_net nvme'

make_base() {
  say "installing Debian into a folder, once for all guests"
  cat > "$work/essential" <<HOOK
mkdir -p "\$1/etc/initramfs-tools/conf.d"
printf 'MODULES=list\nCOMPRESS=zstd\nCOMPRESSLEVEL=3\n' > "\$1/etc/initramfs-tools/conf.d/guest"
printf '%s\n' $vmware_modules $virtio_modules > "\$1/etc/initramfs-tools/modules"
HOOK
  cat > "$work/customize" <<HOOK
set -e
version=\$(ls "\$1/lib/modules" | sort -V | tail -1)
mv "\$1/boot/initrd.img-\$version" "\$1/boot/initrd.virtio"
mv "\$1/boot/vmlinuz-\$version" "\$1/boot/vmlinuz"
echo "\$version" > "\$1/kernel-version"
# As an installer inside VMware would have made it: the machine's own drivers only.
printf '%s\n' $vmware_modules > "\$1/etc/initramfs-tools/modules"
chroot "\$1" mkinitramfs -o /boot/initrd.vmware "\$version"
chroot "\$1" dracut --force --no-hostonly --no-early-microcode --zstd --omit 'network nfs iscsi plymouth i18n' \
  --drivers '$vmware_modules' --omit-drivers 'virtio virtio_ring virtio_pci virtio_pci_modern_dev virtio_pci_legacy_dev virtio_blk virtio_scsi virtio_net nvme' /boot/dracut.vmware "\$version" 2>"\$1/dracut.log" || { cat "\$1/dracut.log" >&2; exit 1; }
rm -f "\$1/dracut.log" "\$1/boot/System.map"* "\$1/etc/resolv.conf" "\$1/vmlinuz"* "\$1/initrd.img"*
HOOK
  chmod +x "$work/essential" "$work/customize"
  mmdebstrap "${lean_options[@]}" \
    --include=systemd-sysv,udev,kmod,initramfs-tools,zstd,linux-image-amd64,grub-pc-bin,grub-efi-amd64-bin,iproute2,ifupdown,e2fsprogs,xfsprogs,btrfs-progs,lvm2,open-vm-tools,dracut-core \
    --essential-hook="$work/essential \"\$1\"" --customize-hook="$work/customize \"\$1\"" \
    bookworm "$work/base"
  rm -rf "$work/base/var/cache/apt/"* "$work/base/var/lib/apt/lists/"* "$work/base/var/log/"*; : > "$work/base/etc/machine-id"
  # Nothing in these guests shall start that a slow boot would wait for.
  local unit
  for unit in apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer fstrim.timer systemd-timesyncd.service e2scrub_reap.service; do
    ln -sf /dev/null "$work/base/etc/systemd/system/$unit"
  done
  grub_prefix='(hd0,msdos1)/boot/grub' bios_core "$work/base" ext2
  rm -rf "$base"; mv "$work/base" "$base"
}

# tree NAME INITRAMFS: a copy of the base tree as $work/tree, with the files every guest has.
tree() {
  tree=$work/tree; rm -rf "$tree"; cp -a --reflink=auto "$base" "$tree"
  version=$(cat "$base/kernel-version"); rm "$tree/kernel-version"
  echo "$1" > "$tree/etc/hostname"; printf '127.0.0.1 localhost\n127.0.1.1 %s\n' "$1" > "$tree/etc/hosts"
  mkdir -p "$tree/etc/network" "$tree/srv/data"
  printf 'auto lo\niface lo inet loopback\n' > "$tree/etc/network/interfaces"
  mv "$tree/boot/vmlinuz" "$tree/boot/vmlinuz-$version"
  mv "$tree/boot/$2" "$tree/boot/${3:-initrd.img-$version}"
  rm -f "$tree/boot/"{initrd,dracut}.{virtio,vmware}
}

debian_network() {
  printf '\nallow-hotplug ens192\niface ens192 inet static\n  address 192.0.2.10/24\n' >> "$tree/etc/network/interfaces"
}

# grub_config FILE SEARCH_UUID DIR ROOT EXTRA [INITRD]: one entry that is entered at once.
grub_config() {
  mkdir -p "$(dirname "$1")"
  cat > "$1" <<CFG
serial --unit=0 --speed=115200
terminal_input serial console
terminal_output serial console
set timeout=0
search --no-floppy --fs-uuid --set=root $2
menuentry 'Linux' {
  linux $3/vmlinuz-$version root=$4 ro $5
  initrd $3/${6:-initrd.img-$version}
}
CFG
}
serial='console=tty0 console=ttyS0,115200'

# vmx NAME GUEST_OS FIRMWARE DISK...: raw DISKs become VMDKs in $work/out, described by a VMX.
vmx() {
  local name=$1 os=$2 firmware=$3 index=0 disk; shift 3
  local out=$work/out; rm -rf "$out"; mkdir "$out"
  cat > "$out/$name.vmx" <<VMX
.encoding = "UTF-8"
config.version = "8"
virtualHW.version = "14"
displayName = "$name"
guestOS = "$os"
firmware = "$firmware"
numvcpus = "1"
memSize = "768"
scsi0.present = "TRUE"
scsi0.virtualDev = "lsilogic"
scsi0.pciSlotNumber = "16"
ethernet0.present = "TRUE"
ethernet0.virtualDev = "vmxnet3"
ethernet0.networkName = "VM Network"
ethernet0.addressType = "static"
ethernet0.address = "00:50:56:11:22:33"
ethernet0.pciSlotNumber = "192"
svga.present = "TRUE"
VMX
  for disk in "$@"; do
    local file=$name.vmdk; [ $index = 0 ] || file=${name}_$index.vmdk
    qemu-img convert -f raw -O vmdk -o subformat=monolithicSparse,adapter_type=lsilogic "$disk" "$out/$file"
    printf 'scsi0:%s.present = "TRUE"\nscsi0:%s.deviceType = "scsi-hardDisk"\nscsi0:%s.fileName = "%s"\n' $index $index $index "$file" >> "$out/$name.vmx"
    index=$((index + 1)); rm -f "$disk"
  done
  rm -rf "${folder:?}/$name"; mv "$out" "$folder/$name"
  say "$name is ready"
}

# A disk with one ext4 partition that holds TREE.
one_partition() {   # IMAGE MIB LABEL UUID TREE
  rm -f "$1"; truncate -s "$2M" "$1"
  echo 'start=2048, type=83, bootable' | sfdisk -q -X dos "$1"
  ext4_into "$1" 1048576 $((($2 - 1) * 1024)) "$3" "$4" "$5"
}

data_disk() {       # IMAGE
  rm -rf "$work/files"; mkdir "$work/files"; echo 'the guest finds this' > "$work/files/kept.txt"
  one_partition "$1" 48 data "$(uuid 2)" "$work/files"
}

debian_bios() {     # NAME INITRAMFS: root and data by the names that VMware's disks had
  tree "$1" "$2"; debian_network
  printf '/dev/sda1 / ext4 errors=remount-ro 0 1\n/dev/sdb1 /srv/data ext4 defaults,x-systemd.device-timeout=30s 0 2\n' > "$tree/etc/fstab"
  grub_config "$tree/boot/grub/grub.cfg" "$(uuid 1)" /boot "${3:-UUID=$(uuid 1)}" "$serial"
  one_partition "$work/boot.raw" 1536 root "$(uuid 1)" "$tree"; bios_boot "$tree" "$work/boot.raw"
  data_disk "$work/data.raw"
  vmx "$1" debian12-64 bios "$work/boot.raw" "$work/data.raw"
}
make_old_initramfs() { debian_bios old-initramfs initrd.vmware /dev/sda1; }
make_device_names() { debian_bios device-names initrd.virtio; }

# xfs_into IMAGE OFFSET MIB LABEL UUID: the tree as an XFS in an image. mkfs.xfs fills it from a prototype file.
xfs_into() {
  python3 - "$tree" > "$work/proto" <<'PY'
import os, stat, sys
# mkfs.xfs(8), -p: name, mode, uid, gid, then what the type needs. Names with spaces cannot be told, sockets are not wanted.
def mode(st, kind):
    m = st.st_mode
    return kind + ("u" if m & stat.S_ISUID else "-") + ("g" if m & stat.S_ISGID else "-") + "%03o" % (m & 0o777)
def entries(path, depth):
    for name in sorted(os.listdir(path)):
        full = os.path.join(path, name); st = os.lstat(full); m = st.st_mode; pad = " " * depth
        if any(c.isspace() for c in name) or stat.S_ISSOCK(m): continue
        head = f"{pad}{name} "
        if stat.S_ISDIR(m):
            print(f"{head}{mode(st, 'd')} {st.st_uid} {st.st_gid}"); entries(full, depth + 1); print(f"{pad}$")
        elif stat.S_ISLNK(m): print(f"{head}{mode(st, 'l')} {st.st_uid} {st.st_gid} {os.readlink(full)}")
        elif stat.S_ISREG(m): print(f"{head}{mode(st, '-')} {st.st_uid} {st.st_gid} {full}")
        elif stat.S_ISCHR(m) or stat.S_ISBLK(m):
            print(f"{head}{mode(st, 'c' if stat.S_ISCHR(m) else 'b')} {st.st_uid} {st.st_gid} {os.major(st.st_rdev)} {os.minor(st.st_rdev)}")
print("/\n0 0\nd--755 0 0"); entries(sys.argv[1], 0); print("$")
PY
  rm -f "$work/xfs.raw"; truncate -s "$3M" "$work/xfs.raw"
  mkfs.xfs -q -L "$4" -m "uuid=$5" -p "$work/proto" "$work/xfs.raw"
  into "$work/xfs.raw" "$1" "$2"
}
# into FILE IMAGE OFFSET: FILE's data at OFFSET of IMAGE, holes left as holes.
into() { dd if="$1" of="$2" bs=1M seek="$3" oflag=seek_bytes conv=notrunc,sparse status=none; rm -f "$1"; }

# The files of /boot as a tree of their own, and an empty /boot in the root.
split_boot() { rm -rf "$work/bootfiles"; mv "$tree/boot" "$work/bootfiles"; mkdir "$tree/boot"; }

make_uefi_lvm() {
  tree uefi-lvm initrd.virtio; debian_network
  printf '/dev/mapper/vg0-root / xfs defaults 0 0\nUUID=%s /boot ext4 defaults 0 2\nUUID=E50D-0001 /boot/efi vfat umask=0077 0 1\n/dev/mapper/private /srv/data ext4 defaults 0 2\n' "$(uuid 3)" > "$tree/etc/fstab"
  mkdir -p "$tree/etc/keys"; printf 'a key for tests' > "$tree/etc/keys/private"; chmod 400 "$tree/etc/keys/private"
  printf 'private UUID=%s /etc/keys/private luks\n' "$(uuid 5)" > "$tree/etc/crypttab"
  grub_config "$tree/boot/grub/grub.cfg" "$(uuid 3)" '' /dev/mapper/vg0-root "$serial"
  rm -rf "$tree/boot/grub/i386-pc"
  printf 'search --no-floppy --fs-uuid --set=root %s\nset prefix=($root)/grub\nconfigfile ($root)/grub/grub.cfg\n' "$(uuid 3)" > "$tree/boot/early.cfg"
  chroot "$tree" grub-mkimage -O x86_64-efi -o /boot/grubx64.efi -c /boot/early.cfg -p /grub part_gpt fat ext2 normal linux search search_fs_uuid serial terminal echo configfile
  mkdir -p "$tree/boot/efi"; mv "$tree/boot/grubx64.efi" "$work/"; rm "$tree/boot/early.cfg"
  split_boot
  local image=$work/boot.raw; rm -f "$image"; truncate -s 1600M "$image"
  printf 'label: gpt\nstart=2048, size=98304, type=U, name=EFI\nsize=262144, type=L, name=boot\ntype=V, name=lvm\n' | sfdisk -q "$image"
  rm -f "$work/esp.raw"; truncate -s 48M "$work/esp.raw"; mkfs.vfat -F 32 -i E50D0001 -n EFI "$work/esp.raw" >/dev/null
  mmd -i "$work/esp.raw" ::EFI ::EFI/BOOT ::EFI/debian
  mcopy -i "$work/esp.raw" "$work/grubx64.efi" ::EFI/BOOT/BOOTX64.EFI; mcopy -i "$work/esp.raw" "$work/grubx64.efi" ::EFI/debian/grubx64.efi
  into "$work/esp.raw" "$image" $((2048 * 512))
  ext4_into "$image" $((100352 * 512)) $((128 * 1024)) boot "$(uuid 3)" "$work/bootfiles"
  lvm_root "$image" $((362496 * 512))
  # QEMU writes LUKS 1 with content in it: no device-mapper on this machine.
  data_disk "$work/plain.raw"; rm -f "$work/plain.raw" "$work/data.raw"; truncate -s 40M "$work/plain.raw"
  mke2fs -q -t ext4 -F -L private -d "$work/files" "$work/plain.raw"
  qemu-img convert -f raw -O luks --object secret,id=key,data='a key for tests' -o key-secret=key,iter-time=10 "$work/plain.raw" "$work/data.raw"
  luks_uuid "$work/data.raw" "$(uuid 5)"
  vmx uefi-lvm debian12-64 efi "$work/boot.raw" "$work/data.raw"
}
# LUKS 1 keeps its UUID as text at byte 168 (LUKS On-Disk Format Specification 1.2.3, table 1).
luks_uuid() { printf '%s\0' "$2" | dd of="$1" bs=1 seek=168 conv=notrunc status=none; }

# lvm_root IMAGE OFFSET: a physical volume from OFFSET to the end, in it vg0/root with the tree as XFS. LVM writes its metadata through a
# loop device; the volume is linear, so its place is known and it need not be activated.
lvm_root() {
  loop=$(losetup --show -f -o "$2" --sizelimit $(($(stat -c %s "$1") - $2 - 33 * 512 - 1048576)) "$1")
  mkdir -p "$work/lvm"
  cat > "$work/lvm/lvm.conf" <<CONF
devices { dir="/dev" scan=["/dev"] filter=["a|^$loop\$|","r|.*|"] use_devicesfile=0 obtain_device_list_from_udev=0 external_device_info_source="none" multipath_component_detection=0 }
activation { udev_sync=0 udev_rules=0 monitoring=0 }
global { locking_type=1 locking_dir="$work/lvm" use_lvmpolld=0 event_activation=0 }
backup { backup=0 archive=0 }
CONF
  export LVM_SYSTEM_DIR=$work/lvm LVM_SUPPRESS_FD_WARNINGS=1
  local start bytes step
  for step in "pvcreate $loop" "vgcreate vg0 $loop" "lvcreate -an -Zn -Wn -n root -l 100%FREE vg0"; do
    # shellcheck disable=SC2086 # words of a command
    $step --driverloaded n >"$work/lvm/log" 2>&1 || { cat "$work/lvm/log" >&2; return 2; }
  done
  start=$(pvs --driverloaded n --noheadings --nosuffix --units b -o pe_start "$loop" 2>/dev/null | tr -d ' ')
  bytes=$(lvs --driverloaded n --noheadings --nosuffix --units b -o lv_size vg0/root 2>/dev/null | tr -d ' ')
  losetup -d "$loop"; loop=''
  xfs_into "$1" $(($2 + start)) $((bytes / 1048576)) root "$(uuid 4)"
}

release() {         # ID LIKE VERSION NAME
  rm -f "$tree/etc/os-release" "$tree/usr/lib/os-release"
  printf 'NAME="%s"\nID=%s\nID_LIKE="%s"\nVERSION_ID="%s"\nPRETTY_NAME="%s %s (layout only, made from Debian)"\n' "$4" "$1" "$2" "$3" "$4" "$3" > "$tree/usr/lib/os-release"
  ln -s ../usr/lib/os-release "$tree/etc/os-release"
  # What tells a program that it looks at a Debian, and its way to an initramfs.
  rm -rf "$tree/etc/debian_version" "$tree/etc/initramfs-tools" "$tree/usr/sbin/update-initramfs" "$tree/usr/sbin/mkinitramfs" "$tree/usr/share/initramfs-tools" "$tree/var/lib/dpkg/status" "$tree/etc/network"
}

make_rpm_layout() {
  tree rpm-layout dracut.vmware "initramfs-$(cat "$base/kernel-version").img"
  release rocky "rhel centos fedora" 9.4 "Rocky Linux"
  echo 'Rocky Linux release 9.4 (layout only)' > "$tree/etc/redhat-release"
  printf '/dev/sda2 / xfs defaults 0 0\n/dev/sda1 /boot ext4 defaults,x-systemd.device-timeout=30s 0 0\n' > "$tree/etc/fstab"
  mkdir -p "$tree/etc/sysconfig/network-scripts" "$tree/etc/default" "$tree/boot/loader/entries" "$tree/boot/grub2"
  printf 'TYPE=Ethernet\nBOOTPROTO=none\nNAME=ens192\nDEVICE=ens192\nONBOOT=yes\nIPADDR=192.0.2.10\nPREFIX=24\n' > "$tree/etc/sysconfig/network-scripts/ifcfg-ens192"
  printf 'GRUB_TIMEOUT=0\nGRUB_CMDLINE_LINUX="%s"\nGRUB_ENABLE_BLSCFG=true\n' "$serial" > "$tree/etc/default/grub"
  printf 'title Rocky Linux (%s)\nversion %s\nlinux /vmlinuz-%s\ninitrd /initramfs-%s.img\noptions root=/dev/sda2 ro %s rd.retry=10\n' "$version" "$version" "$version" "$version" "$serial" > "$tree/boot/loader/entries/0123456789abcdef-$version.conf"
  # Debian's GRUB has no blscfg: the entry stands in grub.cfg as well.
  grub_config "$tree/boot/grub2/grub.cfg" "$(uuid 6)" '' /dev/sda2 "$serial rd.retry=10" "initramfs-$version.img"
  grub_prefix='(hd0,msdos1)/grub2' bios_core "$tree" ext2
  mv "$tree/boot/grub/i386-pc" "$tree/boot/grub2/"; mv "$tree/boot/grub" "$work/grub"
  local image=$work/boot.raw; rm -f "$image"; truncate -s 1536M "$image"
  printf 'start=2048, size=262144, type=83, bootable\ntype=83\n' | sfdisk -q -X dos "$image"
  mkdir -p "$work/keep/boot/grub" "$work/keep/usr/lib/grub"; cp "$work/grub/core.img" "$work/keep/boot/grub/"; cp -r "$tree/usr/lib/grub/i386-pc" "$work/keep/usr/lib/grub/"
  split_boot
  ext4_into "$image" 1048576 $((128 * 1024)) boot "$(uuid 6)" "$work/bootfiles"
  xfs_into "$image" $((264192 * 512)) $((1536 - 130)) root "$(uuid 7)"
  bios_boot "$work/keep" "$image"; rm -rf "$work/keep" "$work/grub"
  vmx rpm-layout rhel9-64 bios "$image"
}

make_suse_layout() {
  tree suse-layout dracut.vmware "initrd-$(cat "$base/kernel-version")"
  release sles suse 15.6 "SLES"
  printf '/dev/sda2 / btrfs defaults 0 0\n/dev/sda1 /boot ext4 defaults,x-systemd.device-timeout=30s 0 0\n' > "$tree/etc/fstab"
  mkdir -p "$tree/etc/sysconfig/network" "$tree/etc/default" "$tree/boot/grub2"
  printf "BOOTPROTO='static'\nSTARTMODE='auto'\nIPADDR='192.0.2.10/24'\n" > "$tree/etc/sysconfig/network/ifcfg-ens192"
  printf 'GRUB_TIMEOUT=0\nGRUB_CMDLINE_LINUX_DEFAULT="%s"\n' "$serial" > "$tree/etc/default/grub"
  grub_config "$tree/boot/grub2/grub.cfg" "$(uuid 8)" '' /dev/sda2 "$serial rd.retry=10" "initrd-$version"
  grub_prefix='(hd0,msdos1)/grub2' bios_core "$tree" ext2
  mv "$tree/boot/grub/i386-pc" "$tree/boot/grub2/"; mv "$tree/boot/grub" "$work/grub"
  local image=$work/boot.raw; rm -f "$image"; truncate -s 1536M "$image"
  printf 'start=2048, size=262144, type=83, bootable\ntype=83\n' | sfdisk -q -X dos "$image"
  mkdir -p "$work/keep/boot/grub" "$work/keep/usr/lib/grub"; cp "$work/grub/core.img" "$work/keep/boot/grub/"; cp -r "$tree/usr/lib/grub/i386-pc" "$work/keep/usr/lib/grub/"
  split_boot
  ext4_into "$image" 1048576 $((128 * 1024)) boot "$(uuid 8)" "$work/bootfiles"
  rm -f "$work/btrfs.raw"; truncate -s 1400M "$work/btrfs.raw"; mkfs.btrfs -q -L root -U "$(uuid 9)" --rootdir "$tree" "$work/btrfs.raw"
  into "$work/btrfs.raw" "$image" $((264192 * 512))
  bios_boot "$work/keep" "$image"; rm -rf "$work/keep" "$work/grub"
  vmx suse-layout sles15-64 bios "$image"
}

boot_only() {       # NAME ROOT CMDLINE [TERMINAL]: a disk with /boot and nothing else
  local files=$work/only; rm -rf "$files"; mkdir -p "$files/grub"
  version=$(cat "$base/kernel-version")
  cp "$base/boot/vmlinuz" "$files/vmlinuz-$version"; cp "$base/boot/initrd.virtio" "$files/initrd.img-$version"
  grub_config "$files/grub/grub.cfg" "$(uuid 10)" '' "$2" "$3"
  # The base's core.img looks for its files in /boot/grub.
  mkdir "$files/boot"; mv "$files/grub" "$files/boot/grub"; cp -r "$base/boot/grub/i386-pc" "$files/boot/grub/"
  [ -z "${4:-}" ] || sed -i "/^serial/d; s/serial console/$4/" "$files/boot/grub/grub.cfg"
  one_partition "$work/boot.raw" 96 boot "$(uuid 10)" "$files"; bios_boot "$base" "$work/boot.raw"
  vmx "$1" debian12-64 bios "$work/boot.raw"
}
# The first program ends at once, which the kernel does not survive.
make_panic() { boot_only panic /dev/vda1 'rdinit=/usr/bin/kmod' console; }
make_no_root() { boot_only no-root UUID=00000000-dead-4bad-8bad-000000000000 "$serial"; }
make_hung() { boot_only hung /dev/vda1 "$serial rdinit=/usr/bin/sleep -- 1000000"; }

# What another version of this script made is made anew.
current() { [ "$(cat "$folder/$1" 2>/dev/null)" = "$2" ] || { rm -rf "${@:3}"; echo "$2" > "$folder/$1"; }; }
digest() { sha256sum | cut -c1-16; }
current base-version "$( (declare -f make_base bios_core; declare -p lean_options vmware_modules virtio_modules) | digest)" "$base" "${all[@]/#/$folder/}"
current version "$(cat "${BASH_SOURCE[0]}" "$here/guest-disk.sh" | digest)" "${all[@]/#/$folder/}"
missing=()
for guest in "${wanted[@]}"; do [ -e "$folder/$guest/$guest.vmx" ] || missing+=("$guest"); done
[ ${#missing[@]} -gt 0 ] || exit 0
work=$(mktemp -d "$folder/.partial.XXXXXX")
[ -e "$base/kernel-version" ] || make_base
for guest in "${missing[@]}"; do "make_${guest//-/_}"; done
say "all in $folder"
