#!/usr/bin/env bash
# The agent's figures beside fio, sysbench, a C STREAM, a C pointer chase, iperf3 and qperf on this host: taken in turn (A B, B A, ...), so
# that drift hits both sides of a pair, and printed as the median of the paired ratios agent : tool.
# Usage: bench-agreement.sh [PAIRS] [FOLDER] [ONLY]      (default: 5 pairs in target/, every metric)
#
# A pair is quiet when other processes used at most a tenth of the CPU time and at most 2 % was stolen meanwhile. Where there
# are enough quiet pairs, only they count; up to twice the pairs are taken for that. As root both sides run at raised
# priority. Exit code 1: outside of the bar in quiet pairs, and no explanation is known.
# ESXODUS_AGENT names an agent that is built already (static, release).
# The network is a veth pair into a namespace of its own, which needs root. Needs: cargo, fio, sysbench, cc, python3, iperf3, qperf.
set -euo pipefail
cd "$(dirname "$0")/.."

pairs=${1:-5}
folder=${2:-$PWD/target}
only=${3:-}
for tool in cargo fio sysbench cc python3; do
    command -v "$tool" >/dev/null || { echo "SKIP: $tool is missing; scripts/setup.sh bench installs it" >&2; exit 0; }
done
triple=x86_64-unknown-linux-gnu
agent=${ESXODUS_AGENT:-$PWD/target/$triple/release/esxodus-agent}
[ -n "${ESXODUS_AGENT:-}" ] ||
    RUSTFLAGS="-C target-feature=+crt-static" cargo build --release -p esxodus-agent --target $triple
mkdir -p "$folder"
work=$(mktemp -d "$folder/bench-agreement.XXXXXX")
space=esxa$$ link=esxb$$ net=''
clean_up() {
    for pid in $(jobs -p); do kill "$pid" 2>/dev/null || true; done
    if [ -n "$net" ]; then ip link del "$link" 2>/dev/null || true; ip netns del "$space" 2>/dev/null || true; fi
    rm -rf "$work"
}
trap clean_up EXIT

# McCalpin's four loops as gcc -O3 builds them, huge pages wanted as the agent wants them. A sample is passes for 0.1 s, as
# the agent's; prints the median MB/s of 11. (STREAM itself prints its best single pass, which noise does not reach.)
cat >"$work/stream.c" <<'C'
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>
static double now(void) { struct timespec t; clock_gettime(CLOCK_MONOTONIC_RAW, &t); return t.tv_sec + t.tv_nsec * 1e-9; }
static double *array(size_t bytes, double value) {
    double *p = aligned_alloc(2097152, bytes);
    madvise(p, bytes, MADV_HUGEPAGE);
    for (size_t i = 0; i < bytes / 8; i++) p[i] = value;
    return p;
}
static int order(const void *a, const void *b) { double x = *(const double *)a, y = *(const double *)b; return (x > y) - (x < y); }
#define SAMPLES(result, moved, loop) do { double v[11]; for (int k = -1; k < 11; k++) { int passes = 0; double t = now(), d; \
        do { loop; __asm__ volatile("" ::: "memory"); passes++; d = now() - t; } while (d < 0.1); \
        if (k >= 0) v[k] = (moved) * passes / d / 1e6; } qsort(v, 11, sizeof *v, order); result = v[5]; } while (0)
int main(int argc, char **argv) {
    size_t bytes = strtoul(argv[1], 0, 10) << 20, n = bytes / 8;
    double *restrict a = array(bytes, 1), *restrict b = array(bytes, 2), *restrict c = array(bytes, 0);
    double copy, scale, add, triad;
    (void)argc;
    SAMPLES(copy, 2.0 * bytes, for (size_t i = 0; i < n; i++) c[i] = a[i]);
    SAMPLES(scale, 2.0 * bytes, for (size_t i = 0; i < n; i++) b[i] = 3.0 * c[i]);
    SAMPLES(add, 3.0 * bytes, for (size_t i = 0; i < n; i++) c[i] = a[i] + b[i]);
    SAMPLES(triad, 3.0 * bytes, for (size_t i = 0; i < n; i++) a[i] = b[i] + 3.0 * c[i]);
    printf("%f %f %f %f\n", copy, scale, add, triad);
    return a[n / 2] > 1e300;
}
C
# lat_mem_rd's dependent loads, in random order over 64-byte lines, 4 KiB pages; prints the median ns of 21 slices.
cat >"$work/chase.c" <<'C'
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>
static double now(void) { struct timespec t; clock_gettime(CLOCK_MONOTONIC_RAW, &t); return t.tv_sec + t.tv_nsec * 1e-9; }
static int order(const void *a, const void *b) { double x = *(const double *)a, y = *(const double *)b; return (x > y) - (x < y); }
static uint64_t state = 88172645463325252ULL;
static uint64_t next(void) { state ^= state << 13; state ^= state >> 7; state ^= state << 17; return state; }
int main(int argc, char **argv) {
    size_t bytes = strtoul(argv[1], 0, 10), lines = bytes / 64;
    size_t *cycle = malloc(lines * sizeof *cycle);
    char *area = mmap(0, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    madvise(area, bytes, MADV_NOHUGEPAGE);
    (void)argc;
    for (size_t i = 0; i < lines; i++) cycle[i] = i;
    for (size_t i = lines - 1; i > 0; i--) { size_t j = next() % i, t = cycle[i]; cycle[i] = cycle[j]; cycle[j] = t; }
    for (size_t i = 0; i < lines; i++) *(void **)(area + 64 * i) = area + 64 * cycle[i];
    void **p = (void **)area;
    size_t loads = 1000; double took = 0, values[21];
    while (took < 0.04) { loads *= 2; double t = now(); for (size_t i = 0; i < loads; i++) p = *p; __asm__ volatile("" :: "r"(p)); took = now() - t; }
    for (int k = 0; k < 21; k++) {
        double t = now(); for (size_t i = 0; i < loads; i++) p = *p; __asm__ volatile("" :: "r"(p)); values[k] = (now() - t) / loads * 1e9;
    }
    qsort(values, 21, sizeof *values, order);
    printf("%f\n", values[10]);
    return 0;
}
C
cc -O3 -o "$work/stream" "$work/stream.c"
cc -O2 -o "$work/chase" "$work/chase.c"

wanted=no; case $only in ''|net*) wanted=yes ;; esac
if [ "$wanted" = yes ] && [ "$(id -u)" = 0 ] && command -v ip iperf3 qperf >/dev/null; then
    net=198.19.7.2
    ip netns add "$space"
    ip link add "$link" type veth peer name far netns "$space"
    ip addr add 198.19.7.1/24 dev "$link" && ip link set "$link" up
    ip -n "$space" addr add $net/24 dev far && ip -n "$space" link set far up && ip -n "$space" link set lo up
    ip netns exec "$space" "$agent" bench --serve 7077 2>/dev/null &
    ip netns exec "$space" iperf3 -s >/dev/null 2>&1 &
    ip netns exec "$space" qperf >/dev/null 2>&1 &
    sleep 1
elif [ "$wanted" = yes ]; then
    echo "SKIP: the network needs root, ip, iperf3 and qperf" >&2
fi
export NET=$net
export WORK=$work AGENT=$agent PAIRS=$pairs ONLY=$only
python3 - <<'PY'
import json, os, re, statistics, subprocess, sys, time
work, agent, pairs, only = os.environ["WORK"], os.environ["AGENT"], int(os.environ["PAIRS"]), os.environ["ONLY"]
MIB = 256
raised = ["nice", "-n", "-15"] if os.geteuid() == 0 else []
cpus = len(os.sched_getaffinity(0))

def run(*args):
    return subprocess.run(raised + list(args), check=True, capture_output=True, text=True, cwd=work).stdout

def agent_metric(metric, pick):
    peer = ["--peer", os.environ["NET"] + ":7077"] if metric.startswith("net.") else []
    record = json.loads(run(agent, "bench", "--only", metric, "--budget", "4", "--folder", work, "--disk-budget", str(MIB), *peer))
    found = [m for m in record["metrics"] if m["id"] == metric]
    if not found:
        raise RuntimeError(f"{metric}: {record.get('skipped')}")
    size = re.search(r"3 arrays of (\d+) MiB", found[0]["method"])
    if size:
        agent_metric.mib = int(size.group(1))
    return found[0]["summary"][pick]
agent_metric.mib = 128

def sysbench_cpu(threads):
    out = run("sysbench", "cpu", "--cpu-max-prime=10000", f"--threads={threads}", "--time=3", "run")
    return float(next(l for l in out.splitlines() if "events per second" in l).split(":")[1])

def sysbench_memory(operation):
    out = run("sysbench", "memory", "--memory-block-size=64M", "--memory-total-size=100T", f"--memory-oper={operation}",
              "--time=3", "run")
    return float(re.search(r"\(([\d.]+) MiB/sec\)", out).group(1)) * 1.048576

def stream(at):
    return float(run("./stream", str(agent_metric.mib)).split()[at])

def chase(size):
    return float(run("./chase", str(size)))

def iperf(*more):
    out = json.loads(run("iperf3", "-J", "-t", "3", "-c", os.environ["NET"], *more))
    return out["end"]["sum_received"]["bits_per_second"] / 8e6

def qperf_round_trip():
    # tcp_lat is half of the round trip, with its unit behind it.
    value, unit = re.search(r"latency\s*=\s*([\d.]+) (\w+)", run("qperf", "-t", "3", "-m", "1", os.environ["NET"], "tcp_lat")).groups()
    return 2 * float(value) * {"ns": 1e-3, "us": 1, "ms": 1e3}[unit]

def fio(rw, bs, depth, key):
    out = run("fio", "--name=a", "--filename=fio.data", f"--size={MIB}M", f"--rw={rw}", f"--bs={bs}", f"--iodepth={depth}",
              "--ioengine=io_uring", "--direct=1", "--time_based", "--ramp_time=1", "--runtime=3", "--output-format=json")
    job = json.loads(out)["jobs"][0]
    side = job["write"] if "write" in rw else job["read"]
    return side["bw_bytes"] / 1e6 if key == "bw" else side["iops"]

# Filled once with random data, as the agent fills its own file; later writes repeat their buffers, as the agent's do (fio's
# --refill_buffers would measure its generator of random numbers beside the disk).
run("fio", "--name=fill", "--filename=fio.data", f"--size={MIB}M", "--rw=write", "--bs=1m", "--refill_buffers", "--end_fsync=1")
other = ("another definition: sysbench moves one stream of scalar 8-byte words in one thread and counts it once, STREAM reads "
         "and writes with vectors and counts both; the two need not agree")
# metric, tool, the tool's figure, bar in percent, explanation
cases = [
    ("cpu.sieve.single", "sysbench cpu", lambda: sysbench_cpu(1), 5, ""),
    ("cpu.sieve.all", f"sysbench cpu, {cpus} threads", lambda: sysbench_cpu(cpus), 5, ""),
    ("memory.copy.single", "C STREAM copy", lambda: stream(0), 10, ""),
    ("memory.scale.single", "C STREAM scale", lambda: stream(1), 10, ""),
    ("memory.add.single", "C STREAM add", lambda: stream(2), 10, ""),
    ("memory.triad.single", "C STREAM triad", lambda: stream(3), 10, ""),
    ("memory.copy.single", "sysbench memory read", lambda: sysbench_memory("read"), 10, other),
    ("memory.copy.single", "sysbench memory write", lambda: sysbench_memory("write"), 10, other),
    ("memory.latency.16k", "C chase 16 KiB", lambda: chase(16 << 10), 10, ""),
    ("memory.latency.256k", "C chase 256 KiB", lambda: chase(256 << 10), 10, ""),
    ("memory.latency.64m", "C chase 64 MiB", lambda: chase(64 << 20), 10, ""),
    ("disk.seqread-1m.qd8", "fio read 1m qd8", lambda: fio("read", "1m", 8, "bw"), 10, ""),
    ("disk.seqwrite-1m.qd8", "fio write 1m qd8", lambda: fio("write", "1m", 8, "bw"), 10, ""),
    ("disk.randread-4k.qd1", "fio randread 4k qd1", lambda: fio("randread", "4k", 1, "iops"), 10, ""),
    ("disk.randread-4k.qd32", "fio randread 4k qd32", lambda: fio("randread", "4k", 32, "iops"), 10, ""),
    ("disk.randwrite-4k.qd1", "fio randwrite 4k qd1", lambda: fio("randwrite", "4k", 1, "iops"), 10, ""),
    ("disk.randwrite-4k.qd32", "fio randwrite 4k qd32", lambda: fio("randwrite", "4k", 32, "iops"), 10, ""),
]
if os.environ["NET"]:
    cases += [
        ("net.stream", "iperf3", lambda: iperf(), 10, ""),
        ("net.stream.back", "iperf3 -R", lambda: iperf("-R"), 10, ""),
        ("net.rr", "qperf tcp_lat, twice", qperf_round_trip, 10, ""),
    ]

def kernel_threads():
    # They write what both sides ask for: PF_KTHREAD (include/linux/sched.h) in the flags, field 9 of /proc/PID/stat.
    ticks = 0
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            fields = open(f"/proc/{pid}/stat").read().rsplit(")", 1)[1].split()
        except OSError:
            continue
        if int(fields[6]) & 0x00200000:
            ticks += int(fields[11]) + int(fields[12])
    return ticks

def busy():
    f = [float(x) for x in open("/proc/stat").readline().split()[1:]]
    own = os.times()
    tick = os.sysconf("SC_CLK_TCK")
    return (f[0] + f[1] + f[2] - kernel_threads()) / tick - sum(own[:4]), f[7] / tick

print(f"load at the start: {open('/proc/loadavg').read().split()[0]}, {cpus} CPUs, both sides at "
      f"{'raised' if raised else 'ordinary'} priority")
print(f"{'metric':<24} {'tool':<23} {'agent':>10} {'tool':>10} {'ratio':>6} {'pairs':>13}  n (quiet)  foreign steal  verdict", flush=True)
bad = 0
for metric, tool, figure, bar, why in cases:
    # fio and sysbench divide all work by all time; the C programs print a median, as the agent's summary does.
    pick = "median" if tool.startswith("C ") else "mean"
    if only and only not in metric:
        continue
    taken = []
    while len(taken) < pairs or (sum(q for *_, q in taken) < pairs and len(taken) < 2 * pairs):
        (busy0, steal0), t0 = busy(), time.monotonic()
        if len(taken) % 2 == 0:
            a, b = agent_metric(metric, pick), figure()
        else:
            b, a = figure(), agent_metric(metric, pick)
        (busy1, steal1), wall = busy(), (time.monotonic() - t0) * cpus
        foreign, steal = max(0, busy1 - busy0) / wall, (steal1 - steal0) / wall
        taken.append((a, b, foreign, steal, foreign <= 0.1 and steal <= 0.02))
    quiet = [t for t in taken if t[4]]
    used = quiet if len(quiet) >= pairs else taken
    ratios = [a / b for a, b, *_ in used]
    ratio = statistics.median(ratios)
    if why:
        verdict = why
    elif abs(ratio - 1) <= bar / 100:
        verdict = f"within {bar} %" + ("" if used is quiet else ", though not quiet")
    elif used is quiet:
        verdict, bad = f"OUTSIDE {bar} %", bad + 1
    else:
        verdict = f"outside {bar} %, but not quiet: repeat"
    middle = lambda at: statistics.median(t[at] for t in used)
    print(f"{metric:<24} {tool:<23} {middle(0):10.1f} {middle(1):10.1f} {ratio:6.3f} {min(ratios):6.2f}..{max(ratios):5.2f}"
          f"  {len(used):2} ({len(quiet):2})   {middle(2):5.0%} {middle(3):6.0%}  {verdict}", flush=True)
print(f"load at the end: {open('/proc/loadavg').read().split()[0]}")
sys.exit(1 if bad else 0)
PY
