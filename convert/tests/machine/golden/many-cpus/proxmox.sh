#!/bin/sh
# Creates the guest on a Proxmox VE node, as root. It starts nothing and overwrites nothing.
# VMID may be given in the environment, and STORAGE for what the map names none.
set -eu
here=$(CDPATH= cd -- "$(dirname -- "$0")/.." && pwd)
VMID=${VMID:-$(pvesh get /cluster/nextid)}
STORAGE=${STORAGE:-local-lvm}

qm create "$VMID" \
  --name big \
  --bios ovmf \
  --cores 80 \
  --cpu host \
  --localtime 0 \
  --machine q35,viommu=intel \
  --memory 1048576 \
  --numa 1 \
  --numa0 cpus=0-79,memory=262144 \
  --numa1 cpus=80-159,memory=262144 \
  --numa2 cpus=160-239,memory=262144 \
  --numa3 cpus=240-319,memory=262144 \
  --ostype l26 \
  --scsihw pvscsi \
  --sockets 4 \
  --description 'Source name: big'

qm set "$VMID" --efidisk0 "$STORAGE":1,efitype=4m,pre-enrolled-keys=0
qm set "$VMID" --scsi0 "$STORAGE":0,import-from="$here"/'disks/it'\''s, disk 0.qcow2',discard=on
qm set "$VMID" --boot order=scsi0
echo "guest $VMID is ready: qm start $VMID"
