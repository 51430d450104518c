#!/bin/sh
# DC 01
# Runs the guest in the foreground, on its converted disks. Further arguments go to QEMU.
#   ESXODUS_ACCEL     tcg (default) or kvm
#   ESXODUS_CPU       CPU model; default max under TCG, host under KVM
#   ESXODUS_DISPLAY   none (default), gtk, vnc=:0 …
#   ESXODUS_NET       user (default) or bridge (needs qemu-bridge-helper)
#   ESXODUS_SNAPSHOT  1: writes to the disks are thrown away at the end
#   ESXODUS_FIRMWARE  folder with OVMF's files; default: where Debian has them
set -eu
cd -- "$(dirname -- "$0")/.."
accel=${ESXODUS_ACCEL:-tcg}
if [ "$accel" = kvm ]; then cpu=host; else cpu=max; fi
cpu=${ESXODUS_CPU:-$cpu}
net=${ESXODUS_NET:-user}
qemu=${QEMU:-qemu-system-x86_64}
command -v "$qemu" >/dev/null || { echo "$qemu is missing: install qemu-system-x86" >&2; exit 2; }
set -- "$@" -name dc-01 -no-user-config -nodefaults
set -- "$@" -machine q35,smm=on -accel "$accel"
set -- "$@" -cpu "$cpu"
set -- "$@" -m size=8192M
set -- "$@" -smp 2,sockets=2,cores=1,threads=1
set -- "$@" -device vmgenid,guid=00000001-0000-0000-feff-ffffffffffff
set -- "$@" -rtc base=localtime,driftfix=slew
firmware=${ESXODUS_FIRMWARE:-/usr/share/OVMF}
[ -r "$firmware/OVMF_CODE_4M.secboot.fd" ] || { echo "$firmware/OVMF_CODE_4M.secboot.fd is missing: install ovmf" >&2; exit 2; }
[ -e targets/qemu-vars.fd ] || cp -- "$firmware/OVMF_VARS_4M.ms.fd" targets/qemu-vars.fd
set -- "$@" -drive "if=pflash,unit=0,format=raw,readonly=on,file=$firmware/OVMF_CODE_4M.secboot.fd"
set -- "$@" -drive if=pflash,unit=1,format=raw,file=targets/qemu-vars.fd
set -- "$@" -global driver=cfi.pflash01,property=secure,value=on
if command -v swtpm >/dev/null; then
  mkdir -p targets/qemu-tpm
  swtpm socket --tpm2 --daemon --terminate --tpmstate "dir=$PWD/targets/qemu-tpm" --ctrl "type=unixio,path=$PWD/targets/qemu-tpm/socket"
  set -- "$@" -chardev socket,id=tpm,path=targets/qemu-tpm/socket -tpmdev emulator,id=tpm0,chardev=tpm -device tpm-crb,tpmdev=tpm0
else
  echo "swtpm is missing: the guest runs without its TPM" >&2
fi
set -- "$@" -global ICH9-LPC.acpi-pci-hotplug-with-bridge-support=off
set -- "$@" -blockdev 'driver=qcow2,node-name=d0,discard=unmap,file.driver=file,file.filename=./disks/it'\''s,, disk 0.qcow2'
set -- "$@" -device ide-hd,bus=ide.0,drive=d0,bootindex=1
if [ "$net" = bridge ]; then set -- "$@" -netdev bridge,id=n0,br=br0; else set -- "$@" -netdev user,id=n0; fi
set -- "$@" -device e1000e,netdev=n0
set -- "$@" -device VGA -device virtio-rng-pci
set -- "$@" -device qemu-xhci -device usb-tablet
set -- "$@" -display "${ESXODUS_DISPLAY:-none}" -chardev stdio,id=console,mux=on,signal=off -serial chardev:console -mon console
[ "${ESXODUS_SNAPSHOT:-0}" = 1 ] && set -- "$@" -snapshot
exec "$qemu" "$@"
