#!/usr/bin/env python3
"""Conversion speed beside qemu-img and nbdcopy: ratios from paired runs on the same files.

usage: bench-convert.py [--gib N] [--rounds N] [--only PATTERN] [--folder DIR] [--json FILE]

Each row alternates the rival and esxodus on the same source; the ratio is the median of the rounds' ratios (rival's
wall time : ours). Content is compared with `qemu-img compare` once a row. Files lie on tmpfs where it is large enough, so
that the disk of a shared machine does not decide; the reflink row needs root for a loop-mounted XFS. Hashing for the
manifest is included in our times unless the row says otherwise. qemu-img's target cache is "unsafe" by default, so ours
is told --no-sync.
"""
import argparse, json, os, re, resource, shutil, signal, statistics, subprocess, sys, tempfile, time

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
            while data > 0:
                piece = tar.stdout.read(48 << 20)
                if not piece:
                    break
                out.seek(at)
                out.write(piece[: size - at])
                at, data = at + (64 << 20), data - len(piece)
                if at + (48 << 20) > size:
                    break
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

    def row(self, name, goal, rivals, ours, result, compare=True, clean=()):
        """rivals: label -> argv. The best rival of each round counts."""
        if self.only and not re.search(self.only, name):
            return
        theirs, mine, ratios, rss, sizes = [], [], [], [], {}
        best_label = ""
        for round_number in range(self.rounds + 1):  # the first round warms the caches and is dropped
            best = None
            for label, argv in rivals.items():
                remove(self.path("rival")); [remove(self.path(c)) for c in clean]
                timing = run(argv)
                if best is None or timing[0] < best[0]:
                    best, best_label = timing, label
            rival_size = os.stat(self.path("rival")).st_blocks * 512 if os.path.exists(self.path("rival")) else 0
            remove(self.path("ours"))
            timing = run(ours)
            if round_number:
                theirs.append(best); mine.append(timing); ratios.append(best[0] / timing[0]); rss.append(timing[2])
        target = self.path("ours", result)
        size = os.stat(target).st_size
        if compare and os.path.exists(self.path("rival")):
            sh("qemu-img", "compare", "-q", self.path("rival"), target)
            sh("qemu-img", "check", "-q", target) if target.endswith(".qcow2") else None
        ratio = statistics.median(ratios)
        row = {"row": name, "goal": goal, "ratio": round(ratio, 2), "ratios": [round(r, 2) for r in ratios], "rival": best_label,
               "rival_wall_s": [round(t[0], 2) for t in theirs], "rival_cpu_s": [round(t[1], 2) for t in theirs],
               "our_wall_s": [round(t[0], 2) for t in mine], "our_cpu_s": [round(t[1], 2) for t in mine],
               "our_peak_mib": round(max(rss), 1), "rival_bytes": rival_size, "our_bytes": size}
        self.rows.append(row)
        remove(self.path("ours")); remove(self.path("rival"))
        median = lambda timings, which: statistics.median(t[which] for t in timings)
        print(f"{name:<44} {ratio:6.2f}x  goal {goal:>6}  ours {median(mine, 0):7.2f} s ({median(mine, 1):.2f} CPU)  {best_label} "
              f"{median(theirs, 0):7.2f} s ({median(theirs, 1):.2f} CPU)  peak {max(rss):5.0f} MiB  size {size / max(rival_size, 1):.3f}", flush=True)

    def all(self):
        rival = self.path("rival")
        img = lambda source, *options: ["qemu-img", "convert", "-O", "qcow2", *options, self.path(source), rival]
        plain = lambda source: {"qemu-img": img(source), "qemu-img -W -m16": img(source, "-W", "-m", "16")}
        packed = {f"qemu-img -c {kind}": img("streamOptimized.vmdk", "-c", "-o", f"compression_type={kind}", "-W", "-m", "16") for kind in ("zlib", "zstd")}
        stream, sparse = self.path("streamOptimized.vmdk"), self.path("monolithicSparse.vmdk")
        nbd = ["nbdcopy", "--", "[", "qemu-nbd", "-r", "-f", "vmdk", stream, "]", rival]
        self.row("streamOptimized -> qcow2", 4.0, plain("streamOptimized.vmdk"), self.ours(stream), "disks/streamOptimized.qcow2")
        self.row("streamOptimized -> raw, against nbdcopy", 4.0, {"nbdcopy": nbd}, self.ours(stream, "--format", "raw"), "disks/streamOptimized.raw", compare=False)
        self.row("streamOptimized -> keep (checked, hashed)", 7.0, packed, self.ours(stream, "--compress", "keep"), "disks/streamOptimized.qcow2")
        self.row("streamOptimized -> keep --trust", 20.0, packed, self.ours(stream, "--compress", "keep", "--trust"), "disks/streamOptimized.qcow2")
        zstd = {k: v for k, v in packed.items() if "zstd" in k}
        self.row("streamOptimized -> zstd", 3.0, zstd, self.ours(stream, "--compress", "zstd"), "disks/streamOptimized.qcow2")
        self.row("monolithicSparse -> qcow2", 1.8, plain("monolithicSparse.vmdk"), self.ours(sparse), "disks/monolithicSparse.qcow2")
        self.row("delta chain -> qcow2", 1.8, plain("delta2.vmdk"), self.ours(self.path("delta2.vmdk")), "disks/delta2.qcow2")
        self.row("monolithicFlat -> qcow2", 1.8, plain("monolithicFlat.vmdk"), self.ours(self.path("monolithicFlat.vmdk")), "disks/monolithicFlat.qcow2")
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
            for label, goal, options in ((name, 15.0, ["--reflink", "always", "--no-hash"]), (name + ", hashed", 15.0, ["--reflink", "always"])):
                inner.row(label, goal, rival, inner.ours(inner.path("monolithicSparse.vmdk"), *options), "disks/monolithicSparse.qcow2")
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
        with open(self.path("huge.vmdk"), "w") as f:
            f.write(f'# Disk DescriptorFile\nversion=1\nCID=fffffffe\nparentCID=ffffffff\ncreateType="vmfs"\nRW {tib << 31} VMFS "huge-flat.vmdk"\nddb.adapterType = "lsilogic"\n')
        walls = []
        for _ in range(self.rounds):
            remove(self.path("ours"))
            walls.append(run(self.ours(self.path("huge.vmdk"), "--data-file", "--no-hash"))[0])
        per_tib = 1000 * statistics.median(walls) / tib
        print(f"{name:<44} {per_tib:6.1f} ms  goal   50 ms", flush=True)
        self.rows.append({"row": name, "goal_ms": 50, "ms_per_tib": round(per_tib, 1), "walls_s": [round(w, 3) for w in walls]})
        remove(self.path("ours")); remove(flat)

    def verify(self):
        """Verification beside plainly reading the same file."""
        name = "verify, against reading the file"
        if self.only and not re.search(self.only, name):
            return
        run(self.ours(self.path("monolithicSparse.vmdk")))
        target = self.path("ours", "disks", "monolithicSparse.qcow2")
        ratios = []
        for _ in range(self.rounds + 1):
            read = run(["dd", f"if={target}", "of=/dev/null", "bs=1M", "status=none"])[0]
            ours = run([ESXODUS, "verify", self.path("ours"), "-q"])[0]
            ratios.append(read / ours)
        ratio = statistics.median(ratios[1:])
        print(f"{name:<44} {ratio:6.2f}x  goal    1.0", flush=True)
        self.rows.append({"row": name, "goal": 1.0, "ratio": round(ratio, 2), "ratios": [round(r, 2) for r in ratios[1:]]})

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
        bench.all()
        print(f"load {os.getloadavg()[0]:.2f} at the end", flush=True)
        if options.json:
            with open(options.json, "w") as out:
                json.dump(bench.rows, out, indent=1)
    finally:
        subprocess.run(["umount", "-q", os.path.join(folder, "xfs")], stderr=subprocess.DEVNULL)
        if options.keep is None:
            shutil.rmtree(folder, ignore_errors=True)

if __name__ == "__main__":
    main()
