# Sourced, not run: how static programs are built.

triple=x86_64-unknown-linux-gnu
# --target $triple goes with it: it keeps the flag away from build scripts and proc macros. Documentation tests link the same crates.
export RUSTFLAGS="-C target-feature=+crt-static" RUSTDOCFLAGS="-C target-feature=+crt-static"
# Debian's libzstd where setup.sh installed it: the C code that zstd-sys brings is a tenth of the first build's time.
case $(gcc -print-file-name=libzstd.a 2>/dev/null) in /*) if pkg-config --exists libzstd 2>/dev/null; then export ZSTD_SYS_USE_PKG_CONFIG=1; fi ;; esac
