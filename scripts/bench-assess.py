#!/usr/bin/env python3
"""How long `esxodus assess` takes for an estate, and how its memory grows with the number of guests.

usage: bench-assess.py [--guests N] [--rounds N] [--folder DIR] [--json FILE] [--most-seconds S] [--most-growth X]

Makes N guests (default 5000) as folders of a VMX file of about 90 lines, a snapshot list, and a disk with descriptor and
extent (sparse files), assesses them from disk, and a tenth of them beside it. Printed: the median wall time, guests a second,
and peak resident memory of both, so that growth shows. The files are in the page cache after the first, uncounted round: what
is measured is the program and the kernel's file system, not the disk.

Ends with 1 where the median is above --most-seconds (3), or where ten times the guests take more than --most-growth (8) times the
memory: rows are kept, descriptions are not.
"""
import argparse, json, os, shutil, statistics, subprocess, sys, tempfile, time

ESXODUS = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "target", "release", "esxodus")

DISK = """# Disk DescriptorFile
version=1
encoding="UTF-8"
CID=fffffffe
parentCID=ffffffff
createType="vmfs"

# Extent description
RW {sectors} VMFS "{name}-flat.vmdk"

# The Disk Data Base
ddb.adapterType = "lsilogic"
ddb.thinProvisioned = "1"
ddb.uuid = "60 00 C2 9{n:x} {a:02x} {b:02x} 3d 04-4b 8a 61 55 4e 9a 60 8f"
ddb.virtualHWVersion = "19"
"""

def guest(number):
    a, b = number >> 8 & 255, number & 255
    systems = ["debian12-64", "rhel9-64", "windows2019srv-64", "ubuntu-64", "sles15-64", "windows9srv-64"]
    lines = {
        ".encoding": "UTF-8", "config.version": "8", "virtualHW.version": 19, "displayName": f"guest-{number:05}",
        "guestOS": systems[number % len(systems)], "memSize": 2048 << number % 4, "numvcpus": 2 << number % 3,
        "cpuid.coresPerSocket": 2, "firmware": ["bios", "efi"][number % 2], "nvram": f"guest-{number:05}.nvram",
        "uuid.bios": f"42 2c 5e 1f 11 22 33 44-55 66 77 88 99 00 {a:02x} {b:02x}",
        "vm.genid": -8536691797830587195 + number, "vm.genidX": -1723453263670062919, "annotation": "made by bench-assess",
        "scsi0.present": "TRUE", "scsi0.virtualDev": ["pvscsi", "lsilogic", "lsisas1068"][number % 3],
        "sata0.present": "TRUE", "sata0:0.present": "TRUE", "sata0:0.deviceType": "cdrom-raw",
        "sata0:0.fileName": "auto detect", "sata0:0.startConnected": "FALSE", "cleanShutdown": "TRUE",
        "tools.syncTime": "FALSE", "vcpu.hotadd": "TRUE", "mem.hotadd": "TRUE", "sched.cpu.units": "mhz",
        "sched.cpu.shares": "normal", "sched.mem.shares": "normal", "floppy0.present": "FALSE",
        "disk.EnableUUID": "TRUE", "svga.vramSize": 16777216, "ctkEnabled": "TRUE",
    }
    for unit in range(1 + number % 3):
        lines |= {f"scsi0:{unit}.present": "TRUE", f"scsi0:{unit}.deviceType": "scsi-hardDisk",
                  f"scsi0:{unit}.fileName": f"guest-{number:05}_{unit}.vmdk", f"scsi0:{unit}.ctkEnabled": "TRUE",
                  f"scsi0:{unit}.redo": ""}
    for nic in range(1 + number % 2):
        lines |= {f"ethernet{nic}.present": "TRUE", f"ethernet{nic}.virtualDev": "vmxnet3",
                  f"ethernet{nic}.networkName": f"VLAN {(number + nic) % 40}", f"ethernet{nic}.addressType": "vpx",
                  f"ethernet{nic}.generatedAddress": f"00:50:56:8{nic}:{a:02x}:{b:02x}",
                  f"ethernet{nic}.pciSlotNumber": 192 + 32 * nic, f"ethernet{nic}.uptCompatibility": "TRUE"}
    for bridge in (0, 4, 5, 6, 7):
        lines |= {f"pciBridge{bridge}.present": "TRUE", f"pciBridge{bridge}.pciSlotNumber": 17 + bridge}
    for number in range(20):
        lines[f"guestinfo.vmtools.key{number}"] = f"value {number}"
    return "".join(f'{key} = "{value}"\n' for key, value in lines.items())

def estate(root, guests):
    for number in range(guests):
        name = f"guest-{number:05}"
        folder = os.path.join(root, f"datastore{number % 8}", name)
        os.makedirs(folder)
        with open(os.path.join(folder, f"{name}.vmx"), "w") as out:
            out.write(guest(number))
        with open(os.path.join(folder, f"{name}.vmsd"), "w") as out:
            out.write('.encoding = "UTF-8"\n')
        for unit in range(1 + number % 3):
            disk, size = f"{name}_{unit}", 40 << 30
            with open(os.path.join(folder, f"{disk}.vmdk"), "w") as out:
                out.write(DISK.format(sectors=size // 512, name=disk, n=unit, a=number >> 8 & 255, b=number & 255))
            with open(os.path.join(folder, f"{disk}-flat.vmdk"), "w") as out:
                out.truncate(size)

def measure(root, guests, rounds):
    walls, peak = [], 0
    for number in range(rounds + 1):
        start = time.monotonic()
        child = subprocess.Popen([ESXODUS, "assess", root, "--json"], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        out, error = child.stdout.read(), child.stderr.read()
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
        wall = time.monotonic() - start
        if child.returncode not in (0, 1):
            sys.exit(f"assess ended with {child.returncode}: {error.decode(errors='replace')[-2000:]}")
        report = json.loads(out)
        unread = [guest["source"] for guest in report["guests"] if guest["verdict"] == "unreadable"]
        if len(report["guests"]) != guests or unread:
            sys.exit(f"{len(report['guests'])} guests, {len(unread)} unreadable: {unread[:3]}")
        if number > 0:
            walls.append(wall)
        peak = max(peak, usage.ru_maxrss / 1024)
    return {"guests": guests, "seconds": statistics.median(walls), "worst": max(walls), "peak_mib": peak}

def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--guests", type=int, default=5000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", default=None, help="where the estate is made (default: the system's temporary folder)")
    parser.add_argument("--json", default=None)
    parser.add_argument("--most-seconds", type=float, default=3.0)
    parser.add_argument("--most-growth", type=float, default=8.0)
    args = parser.parse_args()
    rows = []
    for guests in (max(args.guests // 10, 1), args.guests):
        root = tempfile.mkdtemp(prefix="esxodus-assess-", dir=args.folder)
        try:
            estate(root, guests)
            row = measure(root, guests, args.rounds)
        finally:
            shutil.rmtree(root)
        rows.append(row)
        print(f"{row['guests']:6} guests  {row['seconds']:7.2f} s median  {row['worst']:7.2f} s worst  "
              f"{row['guests'] / row['seconds']:8.0f} guests/s  {row['peak_mib']:7.0f} MiB peak", flush=True)
    if args.json:
        with open(args.json, "w") as out:
            json.dump(rows, out, indent=1)
    small, large = rows
    growth = large["peak_mib"] / small["peak_mib"]
    print(f"allowed: {args.most_seconds:.2f} s median, {args.most_growth:.1f} times the memory for ten times the guests; "
          f"found: {large['seconds']:.2f} s, {growth:.1f} times", flush=True)
    if large["seconds"] > args.most_seconds or growth > args.most_growth:
        sys.exit(1)

if __name__ == "__main__":
    main()
