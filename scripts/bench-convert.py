#!/usr/bin/env python3
"""Conversion speed beside qemu-img and nbdcopy: ratios from paired runs on the same files.

usage: bench-convert.py [--gib N] [--rounds N] [--only PATTERN] [--folder DIR] [--json FILE]

Each round runs the rivals and esxodus on the same source, one behind the other; the ratio is the median of the rounds'
ratios (best rival's wall time : ours). Content is compared with `qemu-img compare` once a row. Files lie on tmpfs where it is large enough, so
that the disk of a shared machine does not decide; the reflink row needs root for a loop-mounted XFS. Hashing for the
manifest is included in our times unless the row says otherwise. qemu-img's target cache is "unsafe" by default, so ours
is told --no-sync. Memory for the results is taken from the host of a virtual machine before anything is measured.
"""
import argparse, ctypes, json, os, re, resource, shutil, signal, statistics, subprocess, sys, tempfile, time

ESXODUS = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "target", "release", "esxodus")

def run(argv, check=True):
    """Wall seconds, CPU seconds, peak resident MiB of one command."""
    start = time.monotonic()
    child = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    error = child.stderr.read()
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    wall = time.monotonic() - start
    if check and child.returncode != 0:
        sys.exit(f"{' '.join(argv)}\nended with {child.returncode}: {error.decode(errors='replace')[-2000:]}")
    return wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024

def sh(*argv):
    subprocess.run(argv, check=True, stdout=subprocess.DEVNULL)

def hold_memory(path, size):
    """Makes `size` bytes of free memory that stay with this machine. The host of a virtual machine takes large free blocks
    back within seconds, and giving them again costs more than the copy into them, on whichever side of a comparison it falls. So the
    free memory is cut into pieces too small to be taken: a file on tmpfs of which one page in 64 stays allocated."""
    libc = ctypes.CDLL(None, use_errno=True)
    piece, block = 256 << 10, bytes(4 << 20)
    with open(path, "wb", buffering=0) as out:
        for _ in range(size // len(block)):
            out.write(block)
        for at in range(0, size, piece):
            # 3: punch a hole, keep the size
            if libc.fallocate(out.fileno(), 3, ctypes.c_long(at + 4096), ctypes.c_long(piece - 4096)) != 0:
                return  # not tmpfs: nothing is held, the figures are noisier

def remove(path):
    if os.path.isdir(path):
        shutil.rmtree(path)
    elif os.path.exists(path):
        os.unlink(path)

class Bench:
    def __init__(self, folder, gib, rounds, only):
        self.folder, self.gib, self.rounds, self.only, self.rows = folder, gib, rounds, only, []

    def path(self, *names):
        return os.path.join(self.folder, *names)

    def make(self):
        """A disk of operating-system files: what this machine has under /usr, as a tar stream, with holes between."""
        if all(os.path.exists(self.path(n)) for n in ("streamOptimized.vmdk", "monolithicSparse.vmdk", "monolithicFlat.vmdk", "delta2.vmdk")):
            return  # kept by an earlier run
        raw = self.path("disk.raw")
        size = self.gib << 30
        with open(raw, "wb") as out:
            out.truncate(size)
            tar = subprocess.Popen(["tar", "-C", "/", "-cf", "-", "--sort=name", "--mtime=2026-01-01", "usr"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
            at, data = 1 << 20, int(size * 0.55)
            # Small pieces: what this program once held is counted as the peak of every program it starts.
            while data > 0 and at + (48 << 20) <= size:
                out.seek(at)
                for _ in range(48):
                    out.write(tar.stdout.read(1 << 20))
                at, data = at + (64 << 20), data - (48 << 20)
            tar.kill()
            tar.wait()
        for kind in ("streamOptimized", "monolithicSparse", "monolithicFlat"):
            sh("qemu-img", "convert", "-O", "vmdk", "-o", f"subformat={kind}", raw, self.path(f"{kind}.vmdk"))
        # A chain: base, then two deltas that each rewrite some of it.
        shutil.copy(self.path("monolithicSparse.vmdk"), self.path("base.vmdk"))
        below = "base.vmdk"
        for n in (1, 2):
            delta = f"delta{n}.vmdk"
            subprocess.run(["qemu-img", "create", "-q", "-f", "vmdk", "-F", "vmdk", "-b", below, delta], check=True, cwd=self.folder)
            commands = []
            for at in range(n * 7, self.gib * 1024 - 8, 50):
                commands += ["-c", f"write -q -P {n} {at}M 3M"]
            subprocess.run(["qemu-io", "-f", "vmdk", delta] + commands, check=True, cwd=self.folder, stdout=subprocess.DEVNULL)
            below = delta
        remove(raw)

    def ours(self, source, *options):
        return [ESXODUS, "convert", source, "-o", self.path("ours"), "--target", "none", "-q", "--no-sync", *options]

    def rows_against(self, rivals, variants):
        """rivals: label -> argv. variants: (name, goal, argv of ours, result). Each round runs every rival that counts and
        every variant once; the best rival of a round is what the variants of that round are divided by. The first round
        warms the caches and is dropped; a rival that took over 1.3 times the best one's time in it is not run again."""
        variants = [v for v in variants if not self.only or re.search(self.only, v[0])]
        if not variants:
            return
        taken = {v[0]: [] for v in variants}
        bests, sizes = [], {}
        for round_number in range(self.rounds + 1):
            best = None
            for label, argv in list(rivals.items()):
                remove(self.path("rival"))
                timing = run(argv)
                sizes[label] = os.stat(self.path("rival")).st_size
                if best is None or timing[0] < best[0][0]:
                    best = (timing, label)
                if round_number == 0:
                    taken.setdefault(label, timing[0])
            if round_number == 0:
                slow = [label for label in rivals if taken[label] > 1.3 * best[0][0]]
                for label in slow:
                    print(f"  {label}: {taken[label]:.2f} s once, not the best rival", flush=True)
                rivals = {label: argv for label, argv in rivals.items() if label not in slow}
            for name, goal, argv, result in variants:
                remove(self.path("ours"))
                timing = run(argv)
                target = self.path("ours", result)
                if round_number:
                    taken[name].append((best[0], timing))
                    continue
                sizes[name] = os.stat(target).st_size
                sh("qemu-img", "compare", "-q", self.path("rival"), target)
                if target.endswith(".qcow2"):
                    sh("qemu-img", "check", "-q", target)
            if round_number:
                bests.append(best)
        label = bests[-1][1]
        for name, goal, _, _ in variants:
            theirs, mine = [t for t, _ in taken[name]], [m for _, m in taken[name]]
            ratios = [t[0] / m[0] for t, m in taken[name]]
            row = {"row": name, "goal": goal, "ratio": round(statistics.median(ratios), 2), "ratios": [round(r, 2) for r in ratios],
                   "rival": label, "rival_wall_s": [round(t[0], 2) for t in theirs], "rival_cpu_s": [round(t[1], 2) for t in theirs],
                   "our_wall_s": [round(t[0], 2) for t in mine], "our_cpu_s": [round(t[1], 2) for t in mine],
                   "our_peak_mib": round(max(t[2] for t in mine), 1), "rival_bytes": sizes[label], "our_bytes": sizes[name]}
            self.rows.append(row)
            median = lambda timings, which: statistics.median(t[which] for t in timings)
            print(f"{name:<44} {row['ratio']:6.2f}x  goal {goal:>5}  ours {median(mine, 0):6.2f} s ({median(mine, 1):5.2f} CPU)  {label} "
                  f"{median(theirs, 0):6.2f} s ({median(theirs, 1):5.2f} CPU)  peak {row['our_peak_mib']:4.0f} MiB  "
                  f"size {sizes[name] / sizes[label]:.3f}", flush=True)
        remove(self.path("ours")); remove(self.path("rival"))

    def all(self):
        rival = self.path("rival")
        img = lambda source, *options: ["qemu-img", "convert", "-O", "qcow2", *options, self.path(source), rival]
        plain = lambda source: {"qemu-img": img(source), "qemu-img -m16": img(source, "-m", "16"), "qemu-img -W -m16": img(source, "-W", "-m", "16")}
        packed = {f"qemu-img -c {kind}": img("streamOptimized.vmdk", "-c", "-o", f"compression_type={kind}", "-W", "-m", "16") for kind in ("zlib", "zstd")}
        stream, sparse = self.path("streamOptimized.vmdk"), self.path("monolithicSparse.vmdk")
        qcow2 = "disks/streamOptimized.qcow2"
        self.rows_against(plain("streamOptimized.vmdk"), [
            ("streamOptimized -> qcow2", 4.0, self.ours(stream), qcow2),
            ("streamOptimized -> qcow2, not hashed", 4.0, self.ours(stream, "--no-hash"), qcow2)])
        for source, goal in (("streamOptimized", 4.0), ("monolithicSparse", 1.8)):
            vmdk = self.path(f"{source}.vmdk")
            nbd = {label: ["nbdcopy", *options, "--", "[", "qemu-nbd", "-r", "-f", "vmdk", vmdk, "]", rival] for label, options in (("nbdcopy", []), ("nbdcopy -C4", ["-C", "4"]))}
            self.rows_against(nbd, [(f"{source} -> raw, against nbdcopy", goal, self.ours(vmdk, "--format", "raw"), f"disks/{source}.raw")])
        self.rows_against(packed, [
            ("streamOptimized -> keep (checked, hashed)", 7.0, self.ours(stream, "--compress", "keep"), qcow2),
            ("streamOptimized -> keep --trust", 20.0, self.ours(stream, "--compress", "keep", "--trust"), qcow2),
            ("streamOptimized -> zstd (default level)", 3.0, self.ours(stream, "--compress", "zstd"), qcow2),
            ("streamOptimized -> zstd --level 1", 3.0, self.ours(stream, "--compress", "zstd", "--level", "1"), qcow2)])
        self.rows_against(plain("monolithicSparse.vmdk"), [
            ("monolithicSparse -> qcow2", 1.8, self.ours(sparse), "disks/monolithicSparse.qcow2"),
            ("monolithicSparse -> qcow2, not hashed", 1.8, self.ours(sparse, "--no-hash"), "disks/monolithicSparse.qcow2")])
        self.rows_against(plain("delta2.vmdk"), [("delta chain -> qcow2", 1.8, self.ours(self.path("delta2.vmdk")), "disks/delta2.qcow2")])
        self.rows_against(plain("monolithicFlat.vmdk"), [("monolithicFlat -> qcow2", 1.8, self.ours(self.path("monolithicFlat.vmdk")), "disks/monolithicFlat.qcow2")])
        self.reflink()
        self.data_file()
        self.verify()

    def reflink(self):
        """monolithicSparse -> qcow2 on a loop-mounted XFS, where blocks are shared instead of copied."""
        name = "monolithicSparse -> qcow2, XFS reflink"
        if self.only and not re.search(self.only, name):
            return
        if os.geteuid() != 0 or not shutil.which("mkfs.xfs"):
            print(f"{name:<44} SKIP: needs root and mkfs.xfs", flush=True)
            return
        image, mount = self.path("xfs.img"), self.path("xfs")
        os.makedirs(mount)
        with open(image, "wb") as f:
            f.truncate(max(4, self.gib * 3) << 30)
        sh("mkfs.xfs", "-q", image)
        sh("mount", "-o", "loop", image, mount)
        inner = Bench(mount, self.gib, self.rounds, None)
        try:
            print(f"{name:<44} (image on {self.folder}, loop-mounted)", flush=True)
            shutil.copy(self.path("monolithicSparse.vmdk"), mount)
            convert = ["qemu-img", "convert", "-O", "qcow2", inner.path("monolithicSparse.vmdk"), inner.path("rival")]
            rival = {"qemu-img": convert, "qemu-img -W -m16": convert[:2] + ["-W", "-m", "16"] + convert[2:]}
            source, result = inner.path("monolithicSparse.vmdk"), "disks/monolithicSparse.qcow2"
            inner.rows_against(rival, [
                (name, 15.0, inner.ours(source, "--reflink", "always"), result),
                (name + ", not hashed", 15.0, inner.ours(source, "--reflink", "always", "--no-hash"), result)])
            self.rows += inner.rows
        finally:
            sh("umount", mount)
            remove(image)

    def data_file(self):
        """The tables for an existing flat file of 8 TiB: milliseconds a TiB."""
        name = "flat --data-file, per TiB"
        if self.only and not re.search(self.only, name):
            return
        flat, tib = self.path("huge-flat.vmdk"), 8
        with open(flat, "wb") as f:
            f.truncate(tib << 40)
            for at in (0, 3 << 40, (8 << 40) - 4096):
                f.seek(at)
                f.write(b"E" * 4096)
        with open(self.path("huge.vmdk"), "w") as f:
            f.write(f'# Disk DescriptorFile\nversion=1\nCID=fffffffe\nparentCID=ffffffff\ncreateType="vmfs"\nRW {tib << 31} VMFS "huge-flat.vmdk"\nddb.adapterType = "lsilogic"\n')
        timings, target = [], self.path("ours", "disks", "huge.qcow2")
        for _ in range(self.rounds):
            remove(self.path("ours"))
            timings.append(run(self.ours(self.path("huge.vmdk"), "--data-file", "--no-hash")))
        sh("qemu-img", "check", "-q", target)
        # Comparing 8 TiB takes minutes: what was written is read back through QEMU, and zeros beside it.
        for at, pattern in ((0, 69), (3 << 40, 69), ((8 << 40) - 4096, 69), (5 << 40, 0)):
            sh("qemu-io", "-r", "-f", "qcow2", "-c", f"read -q -P {pattern} {at} 4096", target)
        walls, peak = [t[0] for t in timings], max(t[2] for t in timings)
        per_tib = 1000 * statistics.median(walls) / tib
        print(f"{name:<44} {per_tib:6.1f} ms  goal   50 ms  peak {peak:4.0f} MiB", flush=True)
        self.rows.append({"row": name, "goal_ms": 50, "ms_per_tib": round(per_tib, 1), "walls_s": [round(w, 3) for w in walls], "our_peak_mib": round(peak, 1)})
        remove(self.path("ours")); remove(flat)

    def verify(self):
        """Verification beside plainly reading the same file."""
        name = "verify, against reading the file"
        if self.only and not re.search(self.only, name):
            return
        run(self.ours(self.path("monolithicSparse.vmdk")))
        target = self.path("ours", "disks", "monolithicSparse.qcow2")
        ratios, peak = [], 0
        for _ in range(self.rounds + 1):
            read = run(["dd", f"if={target}", "of=/dev/null", "bs=1M", "status=none"])[0]
            ours, _, resident = run([ESXODUS, "verify", self.path("ours"), "-q"])
            ratios.append(read / ours)
            peak = max(peak, resident)
        ratio = statistics.median(ratios[1:])
        print(f"{name:<44} {ratio:6.2f}x  goal    1.0  peak {peak:4.0f} MiB", flush=True)
        self.rows.append({"row": name, "goal": 1.0, "ratio": round(ratio, 2), "ratios": [round(r, 2) for r in ratios[1:]], "our_peak_mib": round(peak, 1)})

def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gib", type=int, default=3, help="size of the disk in GiB (default 3)")
    parser.add_argument("--rounds", type=int, default=3, help="counted rounds a row (default 3)")
    parser.add_argument("--only", help="only rows whose name matches")
    parser.add_argument("--folder", help="where the files go (default: tmpfs, else the temporary folder)")
    parser.add_argument("--keep", metavar="DIR", help="keep the source files in DIR and use those that are there")
    parser.add_argument("--json", help="also write the rows there")
    options = parser.parse_args()
    if not os.access(ESXODUS, os.X_OK):
        sys.exit("target/release/esxodus is missing: run 'make build'")
    base = options.folder
    if base is None:
        free = shutil.disk_usage("/dev/shm").free if os.path.isdir("/dev/shm") else 0
        base = "/dev/shm" if free > (options.gib * 7 << 30) // 2 else tempfile.gettempdir()
    folder = tempfile.mkdtemp(prefix="esxodus-bench-", dir=base) if options.keep is None else os.path.abspath(options.keep)
    os.makedirs(folder, exist_ok=True)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        print(f"load {os.getloadavg()[0]:.2f}, {os.cpu_count()} CPUs, files on {folder if options.keep else base}, {options.rounds} rounds", flush=True)
        bench = Bench(folder, options.gib, options.rounds, options.only)
        bench.make()
        hold_memory(os.path.join(folder, "held"), int(options.gib * 1.5 * (1 << 30)))
        bench.all()
        print(f"load {os.getloadavg()[0]:.2f} at the end", flush=True)
        if options.json:
            with open(options.json, "w") as out:
                json.dump(bench.rows, out, indent=1)
    finally:
        remove(os.path.join(folder, "held"))
        subprocess.run(["umount", "-q", os.path.join(folder, "xfs")], stderr=subprocess.DEVNULL)
        if options.keep is None:
            shutil.rmtree(folder, ignore_errors=True)

if __name__ == "__main__":
    main()
