#!/bin/sh
# Prod DB_01 " x
# Runs the guest in the foreground, on its converted disks. Further arguments go to QEMU.
#   ESXODUS_ACCEL     tcg (default) or kvm
#   ESXODUS_CPU       CPU model; default max under TCG, host under KVM
#   ESXODUS_DISPLAY   none (default), gtk, vnc=:0 …
#   ESXODUS_NET       user (default) or bridge (needs qemu-bridge-helper)
#   ESXODUS_SNAPSHOT  1: writes to the disks, firmware variables and TPM are thrown away at the end (needs qemu-img)
#   ESXODUS_FIRMWARE  folder with OVMF's files; default: where Debian has them
set -eu
cd -- "$(dirname -- "$0")/.."
accel=${ESXODUS_ACCEL:-tcg}
if [ "$accel" = kvm ]; then cpu=host; else cpu=max; fi
cpu=${ESXODUS_CPU:-$cpu}
net=${ESXODUS_NET:-user}
qemu=${QEMU:-qemu-system-x86_64}
command -v "$qemu" >/dev/null || { echo "$qemu is missing: install qemu-system-x86" >&2; exit 2; }
snapshot=${ESXODUS_SNAPSHOT:-0}
set -- "$@" -name prod-db01-x -no-user-config -nodefaults
scratch=
if [ "$snapshot" = 1 ]; then
  command -v qemu-img >/dev/null || { echo "qemu-img is missing: install qemu-utils" >&2; exit 2; }
  scratch=$(mktemp -d targets/qemu-scratch.XXXXXX)
  trap 'rm -rf -- "$scratch"' EXIT
  trap 'exit 129' HUP
  trap 'exit 130' INT
  trap 'exit 143' TERM
fi
set -- "$@" -machine q35,smm=on -accel "$accel"
set -- "$@" -cpu "$cpu"
set -- "$@" -m size=8192M
set -- "$@" -smp 6,sockets=6,cores=1,threads=1
set -- "$@" -uuid 1f5e2c42-2211-4433-5566-778899aabbcc
set -- "$@" -smbios 'type=1,manufacturer=VMware,, Inc.,product=VMware Virtual Platform,serial=VMware-42 2c 5e 1f 11 22 33 44-55 66 77 88 99 aa bb cc'
set -- "$@" -device vmgenid,guid=09512cc5-940a-8987-b950-f54f631015e8
set -- "$@" -rtc base=localtime,driftfix=slew
firmware=${ESXODUS_FIRMWARE:-/usr/share/OVMF}
[ -r "$firmware/OVMF_CODE_4M.secboot.fd" ] || { echo "$firmware/OVMF_CODE_4M.secboot.fd is missing: install ovmf" >&2; exit 2; }
vars=targets/qemu-vars.fd
[ -e "$vars" ] || cp -- "$firmware/OVMF_VARS_4M.ms.fd" "$vars"
if [ "$snapshot" = 1 ]; then cp -- "$vars" "$scratch/vars.fd"; vars=$scratch/vars.fd; fi
set -- "$@" -drive "if=pflash,unit=0,format=raw,readonly=on,file=$firmware/OVMF_CODE_4M.secboot.fd"
set -- "$@" -drive "if=pflash,unit=1,format=raw,file=$vars"
set -- "$@" -global driver=cfi.pflash01,property=secure,value=on
if command -v swtpm >/dev/null; then
  tpm=targets/qemu-tpm
  mkdir -p "$tpm"
  if [ "$snapshot" = 1 ]; then cp -R -- "$tpm" "$scratch/tpm"; tpm=$scratch/tpm; fi
  swtpm socket --tpm2 --daemon --terminate --tpmstate "dir=$PWD/$tpm" --ctrl "type=unixio,path=$PWD/$tpm/socket"
  set -- "$@" -chardev "socket,id=tpm,path=$tpm/socket" -tpmdev emulator,id=tpm0,chardev=tpm -device tpm-crb,tpmdev=tpm0
else
  echo "swtpm is missing: the guest runs without its TPM" >&2
fi
set -- "$@" -global ICH9-LPC.acpi-pci-hotplug-with-bridge-support=off
set -- "$@" -device virtio-scsi-pci,id=virtio-scsi0
disk='driver=qcow2,node-name=d0,discard=unmap,file.driver=file,file.filename=./disks/it'\''s,, disk 0.qcow2'
if [ "$snapshot" = 1 ]; then
  qemu-img create -q -f qcow2 -F qcow2 -b "$PWD"/'disks/it'\''s, disk 0.qcow2' "$scratch/d0.qcow2"
  disk=driver=qcow2,node-name=d0,discard=unmap,file.driver=file,file.filename=$scratch/d0.qcow2
fi
set -- "$@" -blockdev "$disk"
set -- "$@" -device scsi-hd,bus=virtio-scsi0.0,scsi-id=0,lun=0,drive=d0,bootindex=1
disk='driver=qcow2,node-name=d1,discard=unmap,file.driver=file,file.filename=./disks/it'\''s,, disk 1.qcow2'
if [ "$snapshot" = 1 ]; then
  qemu-img create -q -f qcow2 -F qcow2 -b "$PWD"/'disks/it'\''s, disk 1.qcow2' "$scratch/d1.qcow2"
  disk=driver=qcow2,node-name=d1,discard=unmap,file.driver=file,file.filename=$scratch/d1.qcow2
fi
set -- "$@" -blockdev "$disk"
set -- "$@" -device scsi-hd,bus=virtio-scsi0.0,scsi-id=1,lun=0,drive=d1
disk='driver=qcow2,node-name=d2,discard=unmap,file.driver=file,file.filename=./disks/it'\''s,, disk 2.qcow2'
if [ "$snapshot" = 1 ]; then
  qemu-img create -q -f qcow2 -F qcow2 -b "$PWD"/'disks/it'\''s, disk 2.qcow2' "$scratch/d2.qcow2"
  disk=driver=qcow2,node-name=d2,discard=unmap,file.driver=file,file.filename=$scratch/d2.qcow2
fi
set -- "$@" -blockdev "$disk"
set -- "$@" -device scsi-hd,bus=virtio-scsi0.0,scsi-id=2,lun=0,drive=d2
disk='driver=qcow2,node-name=d3,discard=unmap,file.driver=file,file.filename=./disks/it'\''s,, disk 3.qcow2'
if [ "$snapshot" = 1 ]; then
  qemu-img create -q -f qcow2 -F qcow2 -b "$PWD"/'disks/it'\''s, disk 3.qcow2' "$scratch/d3.qcow2"
  disk=driver=qcow2,node-name=d3,discard=unmap,file.driver=file,file.filename=$scratch/d3.qcow2
fi
set -- "$@" -blockdev "$disk"
set -- "$@" -device scsi-hd,bus=virtio-scsi0.0,scsi-id=3,lun=0,drive=d3
disk='driver=qcow2,node-name=d4,discard=unmap,file.driver=file,file.filename=./disks/it'\''s,, disk 4.qcow2'
if [ "$snapshot" = 1 ]; then
  qemu-img create -q -f qcow2 -F qcow2 -b "$PWD"/'disks/it'\''s, disk 4.qcow2' "$scratch/d4.qcow2"
  disk=driver=qcow2,node-name=d4,discard=unmap,file.driver=file,file.filename=$scratch/d4.qcow2
fi
set -- "$@" -blockdev "$disk"
set -- "$@" -device scsi-hd,bus=virtio-scsi0.0,scsi-id=4,lun=0,drive=d4
if [ "$net" = bridge ]; then set -- "$@" -netdev bridge,id=n0,br=vmbr0; else set -- "$@" -netdev user,id=n0; fi
set -- "$@" -device pcie-root-port,id=rp0,chassis=1,slot=192
set -- "$@" -device virtio-net-pci,netdev=n0,mac=00:50:56:11:22:33,bus=rp0
# ethernet2 starts unplugged: its cable ends in a hub of its own. To plug it in, replace the next line's -netdev by bridge,id=n1,br=vmbr1.
set -- "$@" -netdev hubport,id=n1,hubid=1
set -- "$@" -device virtio-net-pci,netdev=n1,mac=00:50:56:aa:bb:cc
if [ "$net" = bridge ]; then set -- "$@" -netdev bridge,id=n2,br=vmbr2; else set -- "$@" -netdev user,id=n2; fi
set -- "$@" -device virtio-net-pci,netdev=n2,mac=00:50:56:80:00:10
set -- "$@" -device ide-cd,bus=ide.5
set -- "$@" -device VGA -device virtio-rng-pci
set -- "$@" -device qemu-xhci -device usb-tablet
set -- "$@" -display "${ESXODUS_DISPLAY:-none}" -chardev stdio,id=console,mux=on,signal=off -serial chardev:console -mon console
[ -n "$scratch" ] || exec "$qemu" "$@"
"$qemu" "$@"
