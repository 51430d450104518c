#!/usr/bin/env bash
# The agent's figures beside fio, sysbench and a C STREAM on this host: taken in turn (A B, B A, ...), so that drift hits both,
# and printed as medians of paired ratios agent : tool. Usage: bench-agreement.sh [PAIRS] [FOLDER]
#
# Pairs taken while other processes used more than a tenth of the CPU time are marked, as they say little.
# Needs: cargo, fio, sysbench, cc, python3.
set -euo pipefail
cd "$(dirname "$0")/.."

pairs=${1:-5}
folder=${2:-$PWD/target}
for tool in cargo fio sysbench cc python3; do
    command -v "$tool" >/dev/null || { echo "SKIP: $tool is missing; scripts/setup.sh installs it" >&2; exit 0; }
done

cargo build --release -p esxodus-agent
work=$(mktemp -d "$folder/bench-agreement.XXXXXX")
trap 'rm -rf "$work"' EXIT

# STREAM's four loops over arrays of 128 MiB, ordinary stores; prints MB/s of copy and triad.
cat >"$work/stream.c" <<'C'
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#define N (128UL * 1024 * 1024 / sizeof(double))
static double now(void) { struct timespec t; clock_gettime(CLOCK_MONOTONIC_RAW, &t); return t.tv_sec + t.tv_nsec * 1e-9; }
int main(void) {
    double *a = aligned_alloc(2097152, N * 8), *b = aligned_alloc(2097152, N * 8), *c = aligned_alloc(2097152, N * 8);
    double copy = 1e9, triad = 1e9;
    for (size_t i = 0; i < N; i++) { a[i] = 1; b[i] = 2; c[i] = 0; }
    for (int k = 0; k < 10; k++) {
        double t = now();
        for (size_t i = 0; i < N; i++) c[i] = a[i];
        __asm__ volatile("" ::: "memory");
        double d = now() - t; if (d < copy) copy = d;
        t = now();
        for (size_t i = 0; i < N; i++) a[i] = b[i] + 3.0 * c[i];
        __asm__ volatile("" ::: "memory");
        d = now() - t; if (d < triad) triad = d;
    }
    printf("%f %f\n", 16.0 * N / copy / 1e6, 24.0 * N / triad / 1e6);
    return a[N / 2] > 1e300;
}
C
# A library call to memcpy would use non-temporal stores, which the agent does not.
cc -O3 -fno-tree-loop-distribute-patterns -o "$work/stream" "$work/stream.c"

export WORK=$work AGENT=$PWD/target/release/esxodus-agent PAIRS=$pairs
python3 - <<'PY'
import json, os, statistics, subprocess, time
work, agent, pairs = os.environ["WORK"], os.environ["AGENT"], int(os.environ["PAIRS"])
MIB = 256

def run(*args):
    return subprocess.run(args, check=True, capture_output=True, text=True, cwd=work).stdout

def agent_metric(metric, best=False):
    record = json.loads(run(agent, "bench", "--only", metric, "--budget", "4", "--folder", work, "--disk-budget", str(MIB)))
    found = [m for m in record["metrics"] if m["id"] == metric]
    if not found:
        raise RuntimeError(f"{metric}: {record.get('skipped')}")
    # STREAM reports its best pass, so its counterpart is the agent's best sample.
    return found[0]["summary"]["max" if best else "median"]

def sysbench(threads):
    out = run("sysbench", "cpu", "--cpu-max-prime=10000", f"--threads={threads}", "--time=3", "run")
    return float(next(l for l in out.splitlines() if "events per second" in l).split(":")[1])

def stream(at):
    return float(run("./stream").split()[at])

def fio(rw, bs, depth, key):
    out = run("fio", "--name=a", "--filename=fio.data", f"--size={MIB}M", f"--rw={rw}", f"--bs={bs}", f"--iodepth={depth}",
              "--ioengine=io_uring", "--direct=1", "--time_based", "--runtime=3", "--refill_buffers", "--output-format=json")
    job = json.loads(out)["jobs"][0]
    side = job["write"] if "write" in rw else job["read"]
    return side["bw_bytes"] / 1e6 if key == "bw" else side["iops"]

# Filled once with random data, as the agent fills its own file.
run("fio", "--name=fill", "--filename=fio.data", f"--size={MIB}M", "--rw=write", "--bs=1m", "--refill_buffers", "--end_fsync=1")
cpus = len(os.sched_getaffinity(0))
cases = [
    ("cpu.sieve.single", "sysbench cpu", lambda: sysbench(1), 5, False),
    ("cpu.sieve.all", f"sysbench cpu, {cpus} threads", lambda: sysbench(cpus), 5, False),
    ("memory.copy.single", "C STREAM copy", lambda: stream(0), 10, True),
    ("memory.triad.single", "C STREAM triad", lambda: stream(1), 10, True),
    ("disk.seqread-1m.qd8", "fio read", lambda: fio("read", "1m", 8, "bw"), 10, False),
    ("disk.seqwrite-1m.qd8", "fio write", lambda: fio("write", "1m", 8, "bw"), 10, False),
    ("disk.randread-4k.qd1", "fio randread", lambda: fio("randread", "4k", 1, "iops"), 10, False),
    ("disk.randread-4k.qd32", "fio randread", lambda: fio("randread", "4k", 32, "iops"), 10, False),
    ("disk.randwrite-4k.qd1", "fio randwrite", lambda: fio("randwrite", "4k", 1, "iops"), 10, False),
    ("disk.randwrite-4k.qd32", "fio randwrite", lambda: fio("randwrite", "4k", 32, "iops"), 10, False),
]

def busy():
    f = [float(x) for x in open("/proc/stat").readline().split()[1:]]
    own = os.times()
    return (f[0] + f[1] + f[2] + f[5] + f[6]) / os.sysconf("SC_CLK_TCK") - sum(own[:4]), f[7] / os.sysconf("SC_CLK_TCK")

print(f"{'metric':<26} {'tool':<26} {'agent':>12} {'tool':>12} {'ratio':>7} {'pairs':>12}  bar     foreign CPU, steal")
for metric, tool, other, bar, best in cases:
    a, b = [], []
    (busy0, steal0), t0 = busy(), time.monotonic()
    for pair in range(pairs):
        sides = [lambda: a.append(agent_metric(metric, best)), lambda: b.append(other())]
        for side in sides if pair % 2 == 0 else reversed(sides):
            side()
    (busy1, steal1), t1 = busy(), time.monotonic()
    foreign, steal = (busy1 - busy0) / (t1 - t0) / cpus, (steal1 - steal0) / (t1 - t0) / cpus
    ratios = [x / y for x, y in zip(a, b)]
    ratio = statistics.median(ratios)
    verdict = "within" if abs(ratio - 1) <= bar / 100 else "OUTSIDE"
    quiet = "" if foreign <= 0.1 and steal <= 0.02 else "  not quiet: repeat"
    print(f"{metric:<26} {tool:<26} {statistics.median(a):12.1f} {statistics.median(b):12.1f} {ratio:7.3f} "
          f"{min(ratios):.2f}..{max(ratios):.2f}  {verdict} {bar} %  {foreign:.0%}, {steal:.0%}{quiet}", flush=True)
PY
