#!/usr/bin/env bash
# The own VMM beside QEMU's microvm inside the nested lab, in turn: time to the guest's entry and to its init, memory beside the
# guest's own, small random reads. The lab's times are those of an emulated CPU: only the ratios say something.
# Takes 4 to 8 minutes on two cores. Needs: cargo, qemu-system-x86, busybox-static, cpio, lz4, the cached guest kernel.
set -euo pipefail
cd "$(dirname "$0")/.."
export PATH=$HOME/.cargo/bin:$PATH
. scripts/static.sh
cargo build --locked --release --target $triple -p esxodus-runner --example vmm
export ESXODUS_LAB_VMM=$PWD/target/$triple/release/examples/vmm
# ESXODUS_BENCH_STRICT=1 makes a missed aim a failure.
exec cargo test --locked --workspace --target $triple --test kvm_lab -- --ignored --nocapture --test-threads=1 beside_qemu_microvm
