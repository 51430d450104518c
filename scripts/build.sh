#!/usr/bin/env bash
# Builds the release binaries. The agent is static, so that it runs in any guest; it lies beside `esxodus`, which looks for it there.
set -euo pipefail
cd "$(dirname "$0")/.."
export PATH=$HOME/.cargo/bin:$PATH
triple=x86_64-unknown-linux-gnu
cargo build --release --locked --bin esxodus
# --target keeps the flag away from build scripts and proc macros.
RUSTFLAGS="-C target-feature=+crt-static" cargo build --release --locked -p esxodus-agent --target $triple
install -m 755 target/$triple/release/esxodus-agent target/release/esxodus-agent
