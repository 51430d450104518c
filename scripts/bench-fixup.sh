#!/usr/bin/env bash
# Speed of converting and fixing up a guest beside virt-v2v, and of the appliance beside guestfish: same guest, same machine, one run,
# both under TCG. Prints seconds and ratios; the targets are 8x and 0.5x.
#
# usage: scripts/bench-fixup.sh [--rounds N] [--guest NAME]     (default: 1 round of virt-v2v, 3 of the appliance; old-initramfs)
set -euo pipefail
cd "$(dirname "$0")/.."
rounds=1; guest=old-initramfs
while [ $# -gt 0 ]; do
  case $1 in
    --rounds) rounds=${2:?}; shift 2 ;;
    --guest) guest=${2:?}; shift 2 ;;
    *) sed -n '2,5s/^# //p' "$0" >&2; exit 2 ;;
  esac
done
for tool in virt-v2v guestfish python3; do
  command -v "$tool" >/dev/null || { echo "bench: $tool is missing: run scripts/setup.sh bench" >&2; exit 2; }
done
cache=${ESXODUS_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/esxodus}
esxodus=${ESXODUS:-$PWD/target/release/esxodus}
scripts/test-guests.sh "$cache/guests" "$guest"
source=$cache/guests/$guest/$guest.vmx; folder=$cache/guests/$guest
# Both appliances get every disk of the guest: the description names them in their order.
disks=()
while read -r name; do disks+=(-a "$folder/$name"); done < <(sed -n 's/^scsi0:[0-9]*\.fileName = "\(.*\)"/\1/p' "$source")
export LIBGUESTFS_BACKEND=direct LIBGUESTFS_BACKEND_SETTINGS=force_tcg
# Where no kernel is installed (a container), libguestfs takes the one that our appliance boots; both then start the same kernel.
if ! ls /boot/vmlinuz-* >/dev/null 2>&1; then
  export SUPERMIN_KERNEL=$cache/kernel/current/vmlinuz SUPERMIN_MODULES=$cache/kernel/current/modules
  SUPERMIN_KERNEL_VERSION=$(cat "$cache/kernel/current/version"); export SUPERMIN_KERNEL_VERSION
fi
work=$(mktemp -d "${TMPDIR:-/var/tmp}/bench-fixup.XXXXXX"); trap 'rm -rf "$work"' EXIT
: > "$work/times"
# timed NAME COMMAND...: its wall seconds into the table; a failure ends the run with its words.
timed() {
  local name=$1 begun ended; shift
  begun=$(date +%s.%N)
  "$@" > "$work/log" 2>&1 || { echo "bench: $name failed:" >&2; tail -20 "$work/log" >&2; exit 1; }
  ended=$(date +%s.%N)
  python3 -c "print('$name', round($ended - $begun, 3))" | tee -a "$work/times" >&2
}
echo "load before: $(cut -d' ' -f1-3 /proc/loadavg); $(nproc) CPUs; guest $guest, $(du -ch --apparent-size "$folder"/*.vmdk | tail -1 | cut -f1) in VMDKs" >&2
# Both appliances are built once and kept by their programs: not part of the comparison.
"$esxodus" convert "$source" -o "$work/seen" --target none >/dev/null 2>&1
"$esxodus" inspect "$work/seen" --deep --accel tcg >/dev/null 2>&1
guestfish --ro "${disks[@]}" run : exit >/dev/null
for _ in 1 2 3; do
  timed appliance "$esxodus" inspect "$work/seen" --deep --accel tcg
  timed guestfish guestfish --ro "${disks[@]}" -i exit
done
for ((round = 0; round < rounds; round++)); do
  rm -rf "$work/out" "$work/v2v"; mkdir "$work/v2v"
  timed convert "$esxodus" convert "$source" -o "$work/out" --target none
  timed fixup "$esxodus" fixup "$work/out" --accel tcg
  timed virt-v2v virt-v2v -i vmx "$source" -o local -os "$work/v2v" -of qcow2
done
python3 - "$work/times" <<'PY'
import statistics, sys
times = {}
for line in open(sys.argv[1]):
    name, seconds = line.split(); times.setdefault(name, []).append(float(seconds))
middle = {name: statistics.median(values) for name, values in times.items()}
ours = middle["convert"] + middle["fixup"]
print(f"appliance round trip  {middle['appliance']:7.1f} s   guestfish -i  {middle['guestfish']:7.1f} s   ratio {middle['appliance'] / middle['guestfish']:.2f} (target at most 0.5)")
print(f"convert + fixup       {ours:7.1f} s   virt-v2v      {middle['virt-v2v']:7.1f} s   {middle['virt-v2v'] / ours:.1f} times faster (target 8)")
PY
