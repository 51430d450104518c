#!/bin/sh
# app01
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
set -- "$@" -name app01 -no-user-config -nodefaults
scratch=
if [ "$snapshot" = 1 ]; then
  command -v qemu-img >/dev/null || { echo "qemu-img is missing: install qemu-utils" >&2; exit 2; }
  scratch=$(mktemp -d targets/qemu-scratch.XXXXXX)
  trap 'rm -rf -- "$scratch"' EXIT
  trap 'exit 129' HUP
  trap 'exit 130' INT
  trap 'exit 143' TERM
fi
set -- "$@" -machine q35 -accel "$accel"
set -- "$@" -cpu "$cpu"
set -- "$@" -m size=8192M
set -- "$@" -smp 4,sockets=2,cores=2,threads=1
set -- "$@" -rtc base=utc,driftfix=slew
firmware=${ESXODUS_FIRMWARE:-/usr/share/OVMF}
[ -r "$firmware/OVMF_CODE_4M.fd" ] || { echo "$firmware/OVMF_CODE_4M.fd is missing: install ovmf" >&2; exit 2; }
vars=targets/qemu-vars.fd
[ -e "$vars" ] || cp -- "$firmware/OVMF_VARS_4M.fd" "$vars"
if [ "$snapshot" = 1 ]; then cp -- "$vars" "$scratch/vars.fd"; vars=$scratch/vars.fd; fi
set -- "$@" -drive "if=pflash,unit=0,format=raw,readonly=on,file=$firmware/OVMF_CODE_4M.fd"
set -- "$@" -drive "if=pflash,unit=1,format=raw,file=$vars"
set -- "$@" -global ICH9-LPC.acpi-pci-hotplug-with-bridge-support=off
disk='driver=qcow2,node-name=d0,discard=unmap,file.driver=file,file.filename=./disks/it'\''s,, disk 0.qcow2'
if [ "$snapshot" = 1 ]; then
  qemu-img create -q -f qcow2 -F qcow2 -b "$PWD"/'disks/it'\''s, disk 0.qcow2' "$scratch/d0.qcow2"
  disk=driver=qcow2,node-name=d0,discard=unmap,file.driver=file,file.filename=$scratch/d0.qcow2
fi
set -- "$@" -blockdev "$disk"
set -- "$@" -device nvme,drive=d0,serial=esx-nvme0-0,bootindex=1
if [ "$net" = bridge ]; then set -- "$@" -netdev bridge,id=n0,br=br0; else set -- "$@" -netdev user,id=n0; fi
set -- "$@" -device vmxnet3,netdev=n0
set -- "$@" -device VGA -device virtio-rng-pci
set -- "$@" -device qemu-xhci -device usb-tablet
set -- "$@" -display "${ESXODUS_DISPLAY:-none}" -chardev stdio,id=console,mux=on,signal=off -serial chardev:console -mon console
[ -n "$scratch" ] || exec "$qemu" "$@"
"$qemu" "$@"
