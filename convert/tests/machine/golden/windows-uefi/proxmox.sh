#!/bin/sh
# Creates the guest on a Proxmox VE node, as root. It starts nothing and overwrites nothing.
# VMID may be given in the environment, and STORAGE for what the map names none.
set -eu
here=$(CDPATH= cd -- "$(dirname -- "$0")/.." && pwd)
VMID=${VMID:-$(pvesh get /cluster/nextid)}
STORAGE=${STORAGE:-local-lvm}

qm create "$VMID" \
  --name DC-01 \
  --bios ovmf \
  --cores 1 \
  --cpu x86-64-v2-AES \
  --localtime 1 \
  --machine q35 \
  --memory 8192 \
  --net0 e1000e,bridge=vmbr0 \
  --ostype win10 \
  --scsihw virtio-scsi-single \
  --sockets 2 \
  --vmgenid 00000001-0000-0000-feff-ffffffffffff \
  --description 'Source name: DC 01'

qm set "$VMID" --efidisk0 "$STORAGE":1,efitype=4m,pre-enrolled-keys=1
qm set "$VMID" --tpmstate0 "$STORAGE":1,version=v2.0
qm set "$VMID" --sata0 "$STORAGE":0,import-from="$here"/'disks/it'\''s, disk 0.qcow2',discard=on
qm set "$VMID" --boot order=sata0
echo "guest $VMID is ready: qm start $VMID"
