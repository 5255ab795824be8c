#!/bin/sh
# Runs the tests of the kernels, the runtime and the readers for 64-bit ARM (NEON): natively on such a machine, elsewhere
# cross-compiled under qemu's user-mode emulation. Emulation shows whether results are right, not how fast they are.
#
#     scripts/aarch64.sh [arguments of the test programs, for example part of a test's name]
#
# Elsewhere it needs the target's standard library (for the same compiler), a C cross-compiler and qemu-aarch64. Set RUSTC,
# CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER and _RUNNER to override those found.
set -eu
cd "$(dirname "$0")/.."

target=aarch64-unknown-linux-gnu
run_tests() {
    cargo test -p secateur-kernels -p secateur-runtime -p secateur-model --lib --tests "$@"
}

case $(uname -m) in
aarch64 | arm64)
    run_tests -- "$@"
    exit
    ;;
esac

missing=
lacks() {
    echo "scripts/aarch64.sh lacks $1" >&2
    missing=yes
}

library=$("${RUSTC:-rustc}" --print target-libdir --target "$target")
ls "$library"/libstd-*.rlib >/dev/null 2>&1 ||
    lacks "the standard library for $target in $library: rustup target add $target"

linker=${CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER:-aarch64-linux-gnu-gcc}
command -v "$linker" >/dev/null ||
    lacks "$linker, which links for the target and compiles C: Debian's gcc-aarch64-linux-gnu and libc6-dev-arm64-cross"

runner=${CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER:-}
if [ -z "$runner" ]; then
    if program=$(command -v qemu-aarch64 || command -v qemu-aarch64-static); then
        # The target's C library lies beside its linker.
        libc=$("$linker" -print-file-name=libc.so.6 2>/dev/null || true)
        runner="$program -L $(dirname "$(dirname "$libc")")"
    else
        lacks "qemu-aarch64, which runs the tests: Debian's qemu-user-static"
    fi
fi
[ -z "$missing" ] || exit 2

export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER="$linker"
export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER="$runner"
export CC_aarch64_unknown_linux_gnu="$linker"
run_tests --target "$target" -- "$@"
