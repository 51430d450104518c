#!/bin/sh
# Creates the guest on a Proxmox VE node, as root. It starts nothing and overwrites nothing.
# VMID may be given in the environment, and STORAGE for what the map names none.
set -eu
here=$(CDPATH= cd -- "$(dirname -- "$0")/.." && pwd)
VMID=${VMID:-$(pvesh get /cluster/nextid)}
STORAGE=${STORAGE:-local-lvm}

qm create "$VMID" \
  --name web01 \
  --bios seabios \
  --cores 2 \
  --cpu x86-64-v2-AES \
  --localtime 0 \
  --machine q35 \
  --memory 4096 \
  --net0 virtio=00:0C:29:AA:BB:CC,bridge=vmbr0 \
  --ostype l26 \
  --scsihw virtio-scsi-single \
  --serial0 socket \
  --smbios1 uuid=34124d56-7856-bc9a-def0-123456789abc,serial=Vk13YXJlLTU2IDRkIDEyIDM0IDU2IDc4IDlhIGJjLWRlIGYwIDEyIDM0IDU2IDc4IDlhIGJj,manufacturer=Vk13YXJlLCBJbmMu,product=Vk13YXJlIFZpcnR1YWwgUGxhdGZvcm0=,base64=1 \
  --sockets 2 \
  --description 'Source name: web01'

qm set "$VMID" --scsi0 "$STORAGE":0,import-from="$here"/'disks/it'\''s, disk 0.qcow2',discard=on,iothread=1
qm set "$VMID" --boot order=scsi0
echo "guest $VMID is ready: qm start $VMID"
