#!/usr/bin/env bash
# Builds the release binaries, `esxodus` and the agent beside it, both static: the agent runs in any guest, and `esxodus` on
# any host. One call of cargo, so that what both use is compiled once.
set -euo pipefail
cd "$(dirname "$0")/.."
export PATH=$HOME/.cargo/bin:$PATH
. scripts/static.sh
cargo build --release --locked --target $triple -p esxodus -p esxodus-agent --bins
mkdir -p target/release
install -m 755 target/$triple/release/esxodus target/$triple/release/esxodus-agent target/release/
