#!/usr/bin/env python3
"""Takes the agent and a reference tool in turn and prints the median of the paired ratios. bench-agreement.sh prepares it.

`pairs.py --table FILE.json...` prints the table of docs/bench.md from the results of earlier runs; later files replace earlier rows."""
import argparse, json, os, random, re, statistics, subprocess, sys, time

parser = argparse.ArgumentParser()
parser.add_argument("--work")
parser.add_argument("--agent")
parser.add_argument("--peer", default="")
parser.add_argument("--servers", default="", help="processes of the far side, separated by commas: their CPU time is no stranger's")
parser.add_argument("--pairs", type=int, default=5)
parser.add_argument("--only", action="append", default=[])
parser.add_argument("--json")
parser.add_argument("--table", nargs="+")
args = parser.parse_args()

if args.table:
    rows = {}
    for name in args.table:
        for row in json.load(open(name))["rows"]:
            rows[row["metric"], row["tool"]] = row
    print("| metric | tool | agent | tool's figure | agent : tool | pairs from .. to | pairs (quiet) | |")
    print("|--|--|--|--|--|--|--|--|")
    number = lambda value: f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
    for row in rows.values():
        print(f"| `{row['metric']}` | {row['tool']} | {number(row['agent'])} | {number(row['figure'])} | {row['ratio']:.2f} | "
              f"{row['least']:.2f} .. {row['most']:.2f} | {row['pairs']} ({row['quiet']}) | {row['verdict']} |")
    sys.exit(0)

MIB = 256
raised = ["nice", "-n", "-15"] if os.geteuid() == 0 else []
cpus = len(os.sched_getaffinity(0))

# Set while the network is measured: the far side has the other CPU.
pinned = []

def run(*command, **environment):
    done = subprocess.run(raised + pinned + list(command), check=True, capture_output=True, text=True, cwd=args.work,
                          env={**os.environ, **environment})
    return done.stdout

def agent(metrics, budget):
    """The metrics' summaries. The file has the size of the other side's."""
    command = [args.agent, "bench", "--budget", str(budget), "--folder", args.work, "--like", json.dumps({"disk_file_bytes": MIB << 20})]
    for metric in metrics:
        command += ["--only", metric + "*"]
    if args.peer:
        command += ["--peer", args.peer + ":7077"]
    record = json.loads(run(*command))
    found = {metric["id"]: metric for metric in record["metrics"]}
    if missing := [metric for metric in metrics if metric not in found]:
        raise RuntimeError(f"{missing}: {record.get('skipped')}")
    agent.stream_mib = record.get("sizes", {}).get("stream_array_bytes", agent.stream_mib << 20) >> 20
    return found
agent.stream_mib = 128

def sysbench_cpu(threads):
    out = run("sysbench", "cpu", "--cpu-max-prime=10000", f"--threads={threads}", "--time=3", "run")
    return [float(next(l for l in out.splitlines() if "events per second" in l).split(":")[1])]

def sysbench_memory():
    def one(operation):
        out = run("sysbench", "memory", "--memory-block-size=64M", "--memory-total-size=100T", f"--memory-oper={operation}",
                  "--time=2", "run")
        return float(re.search(r"\(([\d.]+) MiB/sec\)", out).group(1)) * 1.048576
    return [one("read"), one("write")]

def stream(threads):
    out = run("./stream", str(agent.stream_mib), OMP_NUM_THREADS=str(threads), OMP_PROC_BIND="true")
    return [float(value) for value in out.split()]

def chase():
    return [float(value) for value in run("./chase", str(16 << 10), str(256 << 10), str(64 << 20)).split()]

def iperf(*more):
    # Pieces of the agent's size.
    out = json.loads(run("iperf3", "-J", "-t", "3", "-l", "1M", "-c", args.peer, *more))
    return [out["end"]["sum_received"]["bits_per_second"] / 8e6]

def qperf_round_trip():
    # tcp_lat is half of the round trip, with its unit behind it.
    value, unit = re.search(r"latency\s*=\s*([\d.]+) (\w+)", run("qperf", "-t", "3", "-m", "1", args.peer, "tcp_lat")).groups()
    return [2 * float(value) * {"ns": 1e-3, "us": 1, "ms": 1e3}[unit]]

def fio(rw, bs, depth, *more):
    out = run("fio", "--name=a", "--filename=fio.data", f"--size={MIB}M", f"--rw={rw}", f"--bs={bs}", f"--iodepth={depth}",
              "--ioengine=io_uring", "--direct=1", "--time_based", "--ramp_time=1", "--runtime=3", "--output-format=json", *more)
    return json.loads(out)["jobs"][0]

def fio_rate(rw, bs, depth, *more):
    job = fio(rw, bs, depth, *more)
    bandwidth = bs == "1m"
    # A mix counts both sides, as the agent does.
    return [sum(job[side]["bw_bytes"] / 1e6 if bandwidth else job[side]["iops"] for side in ("read", "write"))]

def fio_durable():
    # A write and the fdatasync behind it, by the system calls that the agent makes: medians of both, which fio keeps apart.
    job = fio("write", "4k", 1, "--fdatasync=1", "--ioengine=psync")
    median = lambda part: part["percentile"]["50.000000"] / 1e3
    return [median(job["write"]["clat_ns"]) + job["write"]["slat_ns"]["mean"] / 1e3 + median(job["sync"]["lat_ns"])]

other = ("another definition: sysbench moves one stream of 8-byte words in one thread and counts it once, STREAM reads and writes with "
         "vectors and counts both; the two need not agree")
STREAM = ("copy", "scale", "add", "triad")

class Case:
    """Metrics that the agent takes in one run, and the tool's figures for them in one run."""
    def __init__(self, metrics, tools, figures, bar, pick="mean", budget=4, why=""):
        self.metrics, self.tools, self.figures, self.bar = metrics, tools, figures, bar
        # fio, sysbench and iperf3 divide all work by all time; the C programs print a median, as the agent's summary does.
        self.pick, self.budget, self.why = pick, budget, why

cases = [
    Case(["cpu.sieve.single"], ["sysbench cpu"], lambda: sysbench_cpu(1), 5),
    Case(["cpu.sieve.all"], [f"sysbench cpu, {cpus} threads"], lambda: sysbench_cpu(cpus), 5),
    Case([f"memory.{name}.single" for name in STREAM], [f"C STREAM {name}" for name in STREAM], lambda: stream(1), 10, "median", 8),
    Case([f"memory.{name}.all" for name in STREAM], [f"C STREAM {name}, {cpus} threads" for name in STREAM], lambda: stream(cpus), 10,
         "median", 8),
    Case(["memory.copy.single"] * 2, ["sysbench memory read", "sysbench memory write"], sysbench_memory, 10, why=other),
    Case([f"memory.latency.{size}" for size in ("16k", "256k", "64m")], [f"C chase {size}" for size in ("16 KiB", "256 KiB", "64 MiB")],
         chase, 10, "median", 8),
]
cases += [Case([f"disk.{name}-1m.qd{depth}"], [f"fio {rw} 1m qd{depth}"], lambda rw=rw, depth=depth: fio_rate(rw, "1m", depth), 10)
          for name, rw in (("seqread", "read"), ("seqwrite", "write")) for depth in (1, 8)]
cases += [Case([f"disk.{name}-4k.qd{depth}"], [f"fio {name} 4k qd{depth}"],
               lambda name=name, depth=depth: fio_rate(name, "4k", depth, *(["--rwmixread=70"] if name == "randrw" else [])), 10)
          for name in ("randread", "randwrite", "randrw") for depth in (1, 32)]
cases += [Case(["disk.write-fdatasync"], ["fio write 4k fdatasync=1"], fio_durable, 10, "median")]
if args.peer:
    cases += [
        Case(["net.stream"], ["iperf3"], lambda: iperf(), 10),
        Case(["net.stream.back"], ["iperf3 -R"], lambda: iperf("-R"), 10),
        Case(["net.rr"], ["qperf tcp_lat, twice"], qperf_round_trip, 10),
    ]
cases = [case for case in cases if not args.only or any(text in metric for text in args.only for metric in case.metrics)]

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

def far_side():
    # With the children that ended: user, system and both of the children are the fields 14 to 17 of /proc/PID/stat.
    ticks = 0
    for pid in filter(None, args.servers.split(",")):
        try:
            ticks += sum(map(int, open(f"/proc/{pid}/stat").read().rsplit(")", 1)[1].split()[11:15]))
        except OSError:
            pass
    return ticks

def busy():
    f = [float(x) for x in open("/proc/stat").readline().split()[1:]]
    own = os.times()
    tick = os.sysconf("SC_CLK_TCK")
    return (f[0] + f[1] + f[2] - kernel_threads() - far_side()) / tick - sum(own[:4]), f[7] / tick

def take(case, first_agent):
    (busy0, steal0), t0 = busy(), time.monotonic()
    own = lambda: agent(dict.fromkeys(case.metrics), case.budget)
    if first_agent:
        mine, theirs = own(), case.figures()
    else:
        theirs, mine = case.figures(), own()
    (busy1, steal1), wall = busy(), (time.monotonic() - t0) * cpus
    foreign, steal = max(0, busy1 - busy0) / wall, (steal1 - steal0) / wall
    pair = [(mine[metric]["summary"][case.pick], figure) for metric, figure in zip(case.metrics, theirs)]
    return {"values": pair, "foreign": foreign, "steal": steal, "quiet": foreign <= 0.1 and steal <= 0.02}

# Filled once with random data, as the agent fills its own file; later writes repeat their buffers, as the agent's do (fio's
# --refill_buffers would measure its generator of random numbers beside the disk).
if any(metric.startswith("disk.") for case in cases for metric in case.metrics):
    run("fio", "--name=fill", "--filename=fio.data", f"--size={MIB}M", "--rw=write", "--bs=1m", "--refill_buffers", "--end_fsync=1")
print(f"load at the start: {open('/proc/loadavg').read().split()[0]}, {cpus} CPUs, both sides at "
      f"{'raised' if raised else 'ordinary'} priority")
print(f"{'metric':<24} {'tool':<25} {'agent':>10} {'tool':>10} {'ratio':>6} {'pairs':>13}  n (quiet)  foreign steal  verdict", flush=True)
rows, bad = [], 0
dice = random.Random(1)
for case in cases:
    taken = []
    pinned[:] = ["taskset", "-c", "0"] if case.metrics[0].startswith("net.") and cpus > 1 else []
    while len(taken) < args.pairs or (sum(t["quiet"] for t in taken) < args.pairs and len(taken) < 2 * args.pairs):
        taken.append(take(case, len(taken) % 2 == 0))
    quiet = [t for t in taken if t["quiet"]]
    used = quiet if len(quiet) >= args.pairs else taken
    for at, (metric, tool) in enumerate(zip(case.metrics, case.tools)):
        values = [t["values"][at] for t in used]
        ratios = [a / b for a, b in values]
        ratio = statistics.median(ratios)
        # 95 % bootstrap interval of the median: a shared memory bus or disk spreads pairs by more than the bar.
        again = sorted(statistics.median(dice.choices(ratios, k=len(ratios))) for _ in range(2000))
        low, high = again[50], again[1949]
        if case.why:
            verdict = case.why
        elif abs(ratio - 1) <= case.bar / 100:
            verdict = f"within {case.bar} %" + ("" if used is quiet else ", though not quiet")
        elif low <= 1 + case.bar / 100 and high >= 1 - case.bar / 100:
            verdict = f"can't tell: the interval {low:.2f} .. {high:.2f} reaches into {case.bar} %"
        elif used is quiet:
            verdict, bad = f"OUTSIDE {case.bar} %", bad + 1
        else:
            verdict = f"outside {case.bar} %, but not quiet: repeat"
        row = {"metric": metric, "tool": tool, "agent": statistics.median(a for a, _ in values), "figure": statistics.median(b for _, b in values),
               "ratio": ratio, "least": min(ratios), "most": max(ratios), "pairs": len(used), "quiet": len(quiet),
               "foreign": statistics.median(t["foreign"] for t in used), "steal": statistics.median(t["steal"] for t in used),
               "verdict": verdict, "values": values}
        rows.append(row)
        print(f"{metric:<24} {tool:<25} {row['agent']:10.1f} {row['figure']:10.1f} {ratio:6.3f} {row['least']:6.2f}..{row['most']:5.2f}"
              f"  {len(used):2} ({len(quiet):2})   {row['foreign']:5.0%} {row['steal']:6.0%}  {verdict}", flush=True)
    if args.json:
        with open(args.json, "w") as file:
            json.dump({"cpus": cpus, "raised": bool(raised), "file_mib": MIB, "rows": rows}, file, indent=1)
print(f"load at the end: {open('/proc/loadavg').read().split()[0]}")
sys.exit(1 if bad else 0)
