#!/bin/sh
# Creates the guest on a Proxmox VE node, as root. It starts nothing and overwrites nothing.
# VMID may be given in the environment, and STORAGE for what the map names none.
set -eu
here=$(CDPATH= cd -- "$(dirname -- "$0")/.." && pwd)
VMID=${VMID:-$(pvesh get /cluster/nextid)}
STORAGE=${STORAGE:-local-lvm}

qm create "$VMID" \
  --name Prod-DB01-x \
  --bios ovmf \
  --cores 1 \
  --cpu x86-64-v2-AES \
  --ide2 none,media=cdrom \
  --localtime 1 \
  --machine q35 \
  --memory 8192 \
  --net0 virtio=00:50:56:11:22:33,bridge=vmbr0,tag=100 \
  --net1 virtio=00:50:56:AA:BB:CC,bridge=vmbr1,link_down=1 \
  --net2 virtio=00:50:56:80:00:10,bridge=vmbr2 \
  --ostype win10 \
  --scsihw virtio-scsi-single \
  --smbios1 uuid=1f5e2c42-2211-4433-5566-778899aabbcc,serial=Vk13YXJlLTQyIDJjIDVlIDFmIDExIDIyIDMzIDQ0LTU1IDY2IDc3IDg4IDk5IGFhIGJiIGNj,manufacturer=Vk13YXJlLCBJbmMu,product=Vk13YXJlIFZpcnR1YWwgUGxhdGZvcm0=,base64=1 \
  --sockets 6 \
  --vmgenid 09512cc5-940a-8987-b950-f54f631015e8 \
  --description 'Source name: Prod DB_01 " x

owner: Ops
100 % sure'

qm set "$VMID" --efidisk0 "$STORAGE":1,efitype=4m,pre-enrolled-keys=1
qm set "$VMID" --tpmstate0 "$STORAGE":1,version=v2.0
qm set "$VMID" --scsi0 "$STORAGE":0,import-from="$here"/'disks/it'\''s, disk 0.qcow2',discard=on,iothread=1
qm set "$VMID" --scsi1 "$STORAGE":0,import-from="$here"/'disks/it'\''s, disk 1.qcow2',discard=on,iothread=1
qm set "$VMID" --scsi2 "$STORAGE":0,import-from="$here"/'disks/it'\''s, disk 2.qcow2',discard=on,iothread=1
qm set "$VMID" --scsi3 "$STORAGE":0,import-from="$here"/'disks/it'\''s, disk 3.qcow2',discard=on,iothread=1
qm set "$VMID" --scsi4 "$STORAGE":0,import-from="$here"/'disks/it'\''s, disk 4.qcow2',discard=on,iothread=1
qm set "$VMID" --boot order=scsi0
echo "guest $VMID is ready: qm start $VMID"
