#!/usr/bin/env bash
# Builds the release binaries, `esxodus` and the agent beside it, both static: the agent runs in any guest, and `esxodus` on
# any host. One call of cargo, so that what both use is compiled once; --target keeps the flag away from build scripts and proc macros.
set -euo pipefail
cd "$(dirname "$0")/.."
export PATH=$HOME/.cargo/bin:$PATH
triple=x86_64-unknown-linux-gnu
RUSTFLAGS="-C target-feature=+crt-static" cargo build --release --locked --target $triple -p esxodus -p esxodus-agent --bins
mkdir -p target/release
install -m 755 target/$triple/release/esxodus target/$triple/release/esxodus-agent target/release/
