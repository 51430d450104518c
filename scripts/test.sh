#!/usr/bin/env bash
# All tests, with the runner's own summary at the end and the skipped ones counted with their reasons.
set -euo pipefail
cd "$(dirname "$0")/.."
export PATH=$HOME/.cargo/bin:$PATH
cache=${ESXODUS_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/esxodus}
# Where the time went is part of the summary: a slow machine shows by all phases, a slow change by one.
SECONDS=0; phases=
phase() { phases+=$(printf ' %s %ds,' "$1" "$SECONDS"); SECONDS=0; }
# Guests are made while the compiler works: one waits for packages and runs on one CPU, the other doesn't.
(scripts/demo-guest.sh "$cache/demo" && scripts/test-guests.sh "$cache/guests") & making=$!
trap 'kill "$making" 2>/dev/null || true' EXIT
# One build for everything: what runs inside guests (the agent; our VMM, in the nested lab) has to be static, so all is, and what
# programs and tests share is compiled once. Guests get them without their line tables.
. scripts/static.sh
cargo test --locked --workspace --target $triple --no-run
phase "programs and tests"
export ESXODUS_AGENT=$PWD/target/$triple/debug/in-guests/esxodus-agent ESXODUS_LAB_VMM=$PWD/target/$triple/debug/in-guests/vmm
mkdir -p target/$triple/debug/in-guests
strip --strip-debug -o "$ESXODUS_AGENT" target/$triple/debug/esxodus-agent
strip --strip-debug -o "$ESXODUS_LAB_VMM" target/$triple/debug/examples/vmm
export ESXODUS_DEMO_GUEST=$cache/demo ESXODUS_TEST_GUESTS=$cache/guests
wait "$making" || { echo "test: the guests could not be made, see above" >&2; exit 2; }
phase "guests, beyond that"
log=$(mktemp); trap 'rm -f "$log"' EXIT
set +e
cargo test --locked --workspace --target $triple --no-fail-fast -- --nocapture 2>&1 | tee "$log" | grep --line-buffered -vE '^(SKIP|running 0|$)'
status=${PIPESTATUS[0]}
set -e
phase tests
echo; echo "skipped, with the reason:"; grep -ahE 'SKIP: ' "$log" | sed 's/^.*SKIP: /  /' | sort | uniq -c || true
# The names come after each program's own text, which may be far up.
awk '/^failures:$/ { list = 1; next } /^test result:/ { list = 0 } list && /^    [^ ]/ { print (named++ ? "" : "\nfailed:\n") $0 }' "$log"
grep -aE -A3 "^thread '.*panicked at" "$log" | grep -avE '^(stack backtrace|--)' | head -60 >"$log.panics" || true
if [ "$status" != 0 ]; then echo; echo "panics, expected ones among them:"; cat "$log.panics"; fi
rm -f "$log.panics"
printf '\ntime:%s\n' "${phases%,}"
# cargo prints one summary a test program; this line adds them up.
awk '/^test result:/ { for (i = 1; i <= NF; i++) { if ($(i+1) ~ /^passed/) p += $i; if ($(i+1) ~ /^failed/) f += $i; if ($(i+1) ~ /^ignored/) g += $i } }
     END { printf "\n%d passed, %d failed, %d skipped\n", p, f, g }' "$log"
exit "$status"
