#!/bin/sh
# Runs the tests of all `unsafe` code under AddressSanitizer: the kernels, the runtime that calls them, and the readers of
# mapped files. An access outside a buffer, or to a freed one, ends the test with a report.
#
#     scripts/sanitize.sh [arguments of the test programs, for example part of a test's name]
#
# Needs the nightly toolchain and a target with the sanitizer's runtime (Linux or macOS, x86-64 or AArch64).
set -eu
cd "$(dirname "$0")/.."

if ! version=$(rustc +nightly -vV 2>&1); then
    echo "scripts/sanitize.sh needs the nightly toolchain: rustup toolchain install nightly" >&2
    exit 2
fi
target=$(echo "$version" | sed -n 's/^host: //p')
if ! find "$(rustc +nightly --print target-libdir)" -name '*asan*' | grep -q .; then
    echo "scripts/sanitize.sh: the nightly toolchain has no AddressSanitizer for $target" >&2
    exit 2
fi

# With an explicit target, build scripts and procedural macros are not instrumented.
export RUSTFLAGS="-Zsanitizer=address"
# Failed allocations return null as elsewhere: readers report them as errors.
export ASAN_OPTIONS="allocator_may_return_null=1${ASAN_OPTIONS:+:$ASAN_OPTIONS}"
cargo +nightly test --target "$target" -p secateur-kernels -p secateur-runtime --lib --tests -- "$@"
cargo +nightly test --target "$target" -p secateur-model --lib --tests -- "$@"
