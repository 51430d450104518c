#!/usr/bin/env bash
# The main job on a real guest: make a VMware guest, migrate it, show where the report is. A second run reuses what exists.
set -euo pipefail
cd "$(dirname "$0")/.."
cache=${ESXODUS_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/esxodus}
guest=$cache/demo out=${OUT:-$cache/demo-out}
# The guest is made while the compiler works: the two wait for different things.
scripts/demo-guest.sh "$guest" & making=$!
if ! scripts/build.sh; then kill $making 2>/dev/null; wait $making || true; exit 2; fi
wait $making || { echo "demo: the sample guest could not be made, see above" >&2; exit 2; }
# The sample has virtio in its initramfs already; left as it is, the converted disks can be compared with the source.
exec target/release/esxodus migrate "$guest/demo.vmx" -o "$out" --resume --no-fixup --bench-budget 12
