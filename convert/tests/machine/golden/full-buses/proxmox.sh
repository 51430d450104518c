#!/bin/sh
# Creates the guest on a Proxmox VE node, as root. It starts nothing and overwrites nothing.
# VMID may be given in the environment, and STORAGE for what the map names none.
set -eu
here=$(CDPATH= cd -- "$(dirname -- "$0")/.." && pwd)
VMID=${VMID:-$(pvesh get /cluster/nextid)}
STORAGE=${STORAGE:-local-lvm}

qm create "$VMID" \
  --name bro \
  --bios seabios \
  --cores 1 \
  --cpu x86-64-v2-AES \
  --localtime 1 \
  --memory 1024 \
  --net0 e1000,bridge=vmbr0 \
  --ostype w2k3 \
  --scsihw virtio-scsi-single \
  --sockets 1 \
  --description 'Source name: büro

€ 5'

qm set "$VMID" --ide0 "$STORAGE":0,import-from="$here"/'disks/it'\''s, disk 0.qcow2'
qm set "$VMID" --ide1 "$STORAGE":0,import-from="$here"/'disks/it'\''s, disk 1.qcow2'
qm set "$VMID" --ide2 "$STORAGE":0,import-from="$here"/'disks/it'\''s, disk 2.qcow2'
qm set "$VMID" --ide3 "$STORAGE":0,import-from="$here"/'disks/it'\''s, disk 3.qcow2',snapshot=1
qm set "$VMID" --scsi0 "$STORAGE":0,import-from="$here"/'disks/it'\''s, disk 4.qcow2',discard=on,iothread=1
qm set "$VMID" --boot 'order=net0;ide2'
echo "guest $VMID is ready: qm start $VMID"
