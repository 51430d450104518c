# Functions that put a bootable disk together from files, for demo-guest.sh and test-guests.sh. Sourced, not run.
# No loop device and no mount: file systems are made inside image files.

# Packages and files that no guest here needs; for mmdebstrap. The filter goes into the guest's own dpkg: given as --dpkgopt it would
# also make mmdebstrap unpack the first sixty packages through a filter in Python, which takes longer than all the rest of them.
# Kernel modules are those that a guest on VMware or KVM can meet. The last matching rule wins.
lean_filter=$(
  for part in doc man locale; do echo "path-exclude=/usr/share/$part/*"; done
  echo 'path-exclude=/usr/lib/udev/hwdb.d/*'
  for part in drivers sound net fs; do echo "path-exclude=/lib/modules/*/kernel/$part/*"; done
  for part in drivers/virtio drivers/block drivers/scsi drivers/ata drivers/message drivers/md drivers/nvme drivers/cdrom drivers/dax \
    drivers/net/virtio_net.ko drivers/net/net_failover.ko drivers/net/vmxnet3 drivers/net/ethernet/intel/e1000 drivers/net/ethernet/intel/e1000e \
    drivers/char/virtio_console.ko drivers/char/hw_random drivers/misc/pvpanic net/core net/ipv6 net/packet \
    fs/ext4 fs/jbd2 fs/xfs fs/btrfs fs/fat fs/nls fs/mbcache.ko fs/binfmt_misc.ko fs/autofs fs/fuse fs/configfs fs/efivarfs fs/pstore; do
    printf 'path-include=/lib/modules/*/kernel/%s\npath-include=/lib/modules/*/kernel/%s/*\n' "$part" "$part"
  done
)
lean_options=(--quiet --variant=minbase --format=directory --aptopt='Acquire::Languages "none"'
  --setup-hook="mkdir -p \"\$1/etc/dpkg/dpkg.cfg.d\"; echo '$lean_filter' > \"\$1/etc/dpkg/dpkg.cfg.d/lean\""
  --customize-hook='for part in doc man locale; do rm -rf "$1/usr/share/$part/"*; done; rm -rf "$1/usr/lib/udev/hwdb.d/"*')

# bios_core TREE MODULE...: core.img inside TREE, which has grub-pc-bin installed. The folder of GRUB's own files is $grub_prefix.
bios_core() {
  local tree=$1; shift
  mkdir -p "$tree/boot/grub/i386-pc"
  cp "$tree/usr/lib/grub/i386-pc/"*.mod "$tree/usr/lib/grub/i386-pc/"*.lst "$tree/boot/grub/i386-pc/"
  chroot "$tree" grub-mkimage -O i386-pc -o /boot/grub/core.img -p "${grub_prefix:?}" biosdisk part_msdos normal linux search search_fs_uuid serial terminal echo configfile "$@"
}

# bios_boot TREE IMAGE: makes IMAGE boot TREE's core.img. GRUB without grub-install: boot.img loads sector 1, the first sector of
# core.img loads the rest from sector 2 on.
bios_boot() {
  python3 - "$1/boot/grub/core.img" "$1/usr/lib/grub/i386-pc/boot.img" "$2" <<'PY'
import struct, sys
core, boot, image = sys.argv[1:]
core, boot = bytearray(open(core, "rb").read()), bytearray(open(boot, "rb").read())
sectors = -(-len(core) // 512); core = core.ljust(sectors * 512, b"\0")
assert sectors < 2048, "core.img does not fit before the first partition"
struct.pack_into("<QHH", core, 0x1F4, 2, sectors - 1, 0x820)
struct.pack_into("<Q", boot, 0x5C, 1); boot[0x66:0x68] = b"\x90\x90"
with open(image, "r+b") as f:
    f.write(boot[:440]); f.seek(512); f.write(core)
PY
}

# ext4_into IMAGE OFFSET_BYTES KIBIBYTES LABEL UUID TREE: a file system with TREE's content in a partition of IMAGE.
# metadata_csum_seed and orphan_file are newer than the guests' GRUB.
ext4_into() {
  mke2fs -q -t ext4 -F -L "$4" -U "$5" -O ^metadata_csum_seed,^orphan_file -E "offset=$2" -d "$6" "$1" "${3}k"
}
