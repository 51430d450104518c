#!/bin/sh
# Creates the guest on a Proxmox VE node, as root. It starts nothing and overwrites nothing.
# VMID may be given in the environment, and STORAGE for what the map names none.
set -eu
here=$(CDPATH= cd -- "$(dirname -- "$0")/.." && pwd)
VMID=${VMID:-$(pvesh get /cluster/nextid)}
STORAGE=${STORAGE:-local-lvm}

qm create "$VMID" \
  --name odd \
  --bios seabios \
  --cores 1 \
  --cpu x86-64-v2-AES \
  --localtime 0 \
  --machine q35 \
  --memory 1024 \
  --ostype l26 \
  --scsihw virtio-scsi-single \
  --sockets 2 \
  --description 'Source name: odd'

qm set "$VMID" --sata0 "$STORAGE":0,import-from="$here"/'disks/it'\''s, disk 0.qcow2',discard=on
qm set "$VMID" --boot order=sata0
echo "guest $VMID is ready: qm start $VMID"
