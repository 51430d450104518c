#!/usr/bin/env bash
# Fuzzes the readers of everything that comes from outside: each target for a while, from the committed corpus on.
#
# usage: scripts/fuzz.sh [-t SECONDS] [TARGET]...    (default: all targets, 60 seconds each)
#
# Needs g++ and cargo-fuzz (scripts/setup.sh fuzz). The installed stable toolchain is enough: RUSTC_BOOTSTRAP lets it take the
# flags for coverage. No sanitizer: the readers are safe Rust, and what is looked for are panics, hangs, memory without bound
# and files opened outside the folder. Findings end in convert/fuzz/artifacts/TARGET; what is mended belongs into
# convert/tests/corpus, which the ordinary tests read.
set -euo pipefail
cd "$(dirname "$0")/.."
export PATH=$HOME/.cargo/bin:$PATH
seconds=60
while getopts t: option; do case $option in t) seconds=$OPTARG ;; *) sed -n '2,5s/^# \{0,1\}//p' "$0" >&2; exit 2 ;; esac; done
shift $((OPTIND - 1))
command -v cargo-fuzz >/dev/null || { echo "fuzz: cargo-fuzz is missing: run scripts/setup.sh fuzz" >&2; exit 2; }
export RUSTC_BOOTSTRAP=1
targets=("$@"); [ ${#targets[@]} -gt 0 ] || mapfile -t targets < <(cargo fuzz list --fuzz-dir convert/fuzz)
cargo fuzz build --fuzz-dir convert/fuzz --sanitizer none
bad=0
for target in "${targets[@]}"; do
  seeds=(convert/tests/corpus/"${target%%_*}" convert/tests/corpus/seeds/"$target")
  mkdir -p "convert/fuzz/corpus/$target"
  echo "fuzz: $target, $seconds s"
  log=$(mktemp)
  if cargo fuzz run --fuzz-dir convert/fuzz --sanitizer none "$target" "convert/fuzz/corpus/$target" "${seeds[@]}" -- \
      -max_total_time="$seconds" -timeout=10 -rss_limit_mb=1024 -max_len=262144 -print_final_stats=1 >"$log" 2>&1; then
    grep -E 'stat::(number_of_executed_units|new_units_added|peak_rss_mb)' "$log"
  else
    bad=1; tail -25 "$log"
  fi
  rm -f "$log"
done
exit $bad
