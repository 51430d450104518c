#!/usr/bin/env bash
# The agent's figures beside fio, sysbench, a C STREAM, a C pointer chase, iperf3 and qperf on this host: taken in turn (A B, B A, ...), so
# that drift hits both sides of a pair, and printed as the median of the paired ratios agent : tool.
# Usage: bench-agreement.sh [--pairs N] [--folder DIR] [--only TEXT]... [--json FILE]      (default: 5 pairs in target/, every metric)
#
# A pair is quiet when other processes used at most a tenth of the CPU time and at most 2 % was stolen meanwhile. Where there
# are enough quiet pairs, only they count; up to twice the pairs are taken for that. As root both sides run at raised
# priority. Exit code 1: outside of the bar in quiet pairs, and no explanation is known.
# ESXODUS_AGENT names an agent that is built already (static, release).
# The network is a veth pair into a namespace of its own, which needs root. Needs: cargo, fio, sysbench, cc, python3, iperf3, qperf.
set -euo pipefail
cd "$(dirname "$0")/.."

folder=$PWD/target
options=()
while [ $# -gt 0 ]; do
    case $1 in
        --folder) folder=$2 ;;
        --json) options+=(--json "$(realpath -m "$2")") ;;
        --pairs | --only) options+=("$1" "$2") ;;
        *) sed -n '2,5s/^# //p' "$0" >&2; exit 2 ;;
    esac
    shift 2
done
for tool in fio sysbench cc python3; do
    command -v "$tool" >/dev/null || { echo "SKIP: $tool is missing; scripts/setup.sh bench installs it" >&2; exit 0; }
done
triple=x86_64-unknown-linux-gnu
agent=${ESXODUS_AGENT:-$PWD/target/$triple/release/esxodus-agent}
[ -n "${ESXODUS_AGENT:-}" ] ||
    RUSTFLAGS="-C target-feature=+crt-static" cargo build --locked --release -p esxodus-agent --target $triple
mkdir -p "$folder"
work=$(mktemp -d "$folder/bench-agreement.XXXXXX")
space=esxa$$ link=esxb$$ net=''
clean_up() {
    for pid in $(jobs -p); do kill "$pid" 2>/dev/null || true; done
    if [ -n "$net" ]; then ip link del "$link" 2>/dev/null || true; ip netns del "$space" 2>/dev/null || true; fi
    rm -rf "$work"
}
trap clean_up EXIT

cc -O3 -fopenmp -o "$work/stream" scripts/agreement/stream.c
cc -O2 -o "$work/chase" scripts/agreement/chase.c

if [ "$(id -u)" = 0 ] && command -v ip iperf3 qperf >/dev/null; then
    net=198.19.7.2
    ip netns add "$space"
    ip link add "$link" type veth peer name far netns "$space"
    ip addr add 198.19.7.1/24 dev "$link" && ip link set "$link" up
    ip -n "$space" addr add $net/24 dev far && ip -n "$space" link set far up && ip -n "$space" link set lo up
    ip netns exec "$space" "$agent" bench --serve 7077 2>/dev/null &
    ip netns exec "$space" iperf3 -s >/dev/null 2>&1 &
    ip netns exec "$space" qperf >/dev/null 2>&1 &
    sleep 1
else
    echo "SKIP: the network needs root, ip, iperf3 and qperf" >&2
fi
python3 scripts/agreement/pairs.py --work "$work" --agent "$agent" ${net:+--peer "$net"} "${options[@]}"
