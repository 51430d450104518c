#!/usr/bin/env bash
# The agent's figures beside fio, sysbench, a C STREAM, a C pointer chase, iperf3 and qperf on this host: taken in turn (A B, B A, ...), so
# that drift hits both sides of a pair, and printed as the median of the paired ratios agent : tool.
# Usage: bench-agreement.sh [--pairs N] [--folder DIR | --memory-disk] [--only TEXT]... [--json FILE]
#        (default: 5 pairs in target/, every metric)
# --memory-disk: an ext4 on a loop device in memory (root). A shared disk gives one tool three times the other's speed and back within a
# minute; there only the tools can differ.
#
# A pair is quiet when other processes used at most a tenth of the CPU time and at most 2 % was stolen meanwhile. Where there
# are enough quiet pairs, only they count; up to twice the pairs are taken for that. As root both sides run at raised
# priority. Exit code 1: outside of the bar in quiet pairs, and no explanation is known.
# ESXODUS_AGENT names an agent that is built already (static, release).
# The network is a veth pair into a namespace of its own, which needs root. Needs: cargo, fio, sysbench, cc, python3, iperf3, qperf.
set -euo pipefail
cd "$(dirname "$0")/.."

folder=$PWD/target
options=() memory_disk=no
while [ $# -gt 0 ]; do
    case $1 in
        --folder) folder=$2 ;;
        --memory-disk) memory_disk=yes; shift; continue ;;
        --json) options+=(--json "$(realpath -m "$2")") ;;
        --pairs | --only) options+=("$1" "$2") ;;
        *) sed -n '2,8s/^# //p' "$0" >&2; exit 2 ;;
    esac
    shift 2
done
for tool in fio sysbench cc python3; do
    command -v "$tool" >/dev/null || { echo "SKIP: $tool is missing; scripts/setup.sh bench installs it" >&2; exit 0; }
done
. scripts/static.sh
agent=${ESXODUS_AGENT:-$PWD/target/$triple/release/esxodus-agent}
[ -n "${ESXODUS_AGENT:-}" ] ||
    cargo build --locked --release -p esxodus-agent --target $triple
space=esxa$$ link=esxb$$ net='' work='' image=''
clean_up() {
    for pid in $(jobs -p); do kill "$pid" 2>/dev/null || true; done
    if [ -n "$net" ]; then ip link del "$link" 2>/dev/null || true; ip netns del "$space" 2>/dev/null || true; fi
    [ -z "$work" ] || rm -rf "$work"
    if [ -n "$image" ]; then umount "$folder" 2>/dev/null || true; rm -rf "$image" "$folder"; fi
}
trap clean_up EXIT
if [ "$memory_disk" = yes ]; then
    [ "$(id -u)" = 0 ] || { echo "--memory-disk needs root: it mounts a file system" >&2; exit 2; }
    image=$(mktemp /dev/shm/bench-agreement.XXXXXX) folder=$(mktemp -d)
    truncate -s 1G "$image" && mkfs.ext4 -q "$image" && mount -o loop,noatime "$image" "$folder"
fi
mkdir -p "$folder"
work=$(mktemp -d "$folder/bench-agreement.XXXXXX")

cc -O3 -fopenmp -o "$work/stream" scripts/agreement/stream.c
cc -O2 -o "$work/chase" scripts/agreement/chase.c

if [ "$(id -u)" = 0 ] && command -v ip iperf3 qperf >/dev/null; then
    net=198.19.7.2
    ip netns add "$space"
    ip link add "$link" type veth peer name far netns "$space"
    ip addr add 198.19.7.1/24 dev "$link" && ip link set "$link" up
    ip -n "$space" addr add $net/24 dev far && ip -n "$space" link set far up && ip -n "$space" link set lo up
    # The servers on one CPU and the clients on another, so that the scheduler places both tools alike.
    far=(ip netns exec "$space"); [ "$(nproc)" = 1 ] || far+=(taskset -c 1)
    "${far[@]}" "$agent" bench --serve 7077 2>/dev/null & servers=$!
    "${far[@]}" iperf3 -s >/dev/null 2>&1 & servers+=,$!
    "${far[@]}" qperf >/dev/null 2>&1 & servers+=,$!
    sleep 1
else
    echo "SKIP: the network needs root, ip, iperf3 and qperf" >&2
fi
python3 scripts/agreement/pairs.py --work "$work" --agent "$agent" ${net:+--peer "$net" --servers "$servers"} "${options[@]}"
