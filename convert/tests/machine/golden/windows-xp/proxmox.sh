#!/bin/sh
# Creates the guest on a Proxmox VE node, as root. It starts nothing and overwrites nothing.
# VMID may be given in the environment, and STORAGE for what the map names none.
set -eu
here=$(CDPATH= cd -- "$(dirname -- "$0")/.." && pwd)
VMID=${VMID:-$(pvesh get /cluster/nextid)}
STORAGE=${STORAGE:-local-lvm}

qm create "$VMID" \
  --name legacy \
  --bios seabios \
  --cores 1 \
  --cpu x86-64-v2-AES \
  --ide2 none,media=cdrom \
  --localtime 1 \
  --memory 512 \
  --net0 pcnet,bridge=vmbr0 \
  --ostype wxp \
  --scsihw virtio-scsi-single \
  --sockets 1 \
  --description 'Source name: legacy'

qm set "$VMID" --ide0 "$STORAGE":0,import-from="$here"/'disks/it'\''s, disk 0.qcow2'
qm set "$VMID" --boot order=ide0
echo "guest $VMID is ready: qm start $VMID"
