#!/bin/sh
# Runs the tests of what says `unsafe` under AddressSanitizer: the kernels, the runtime that calls them, and the
# readers of mapped files. A read or write outside of a buffer, or of one that is gone, ends a test with a report.
#
#     scripts/sanitize.sh [arguments of the test programs, such as a part of a test's name]
#
# Needs the nightly toolchain and a target that has the sanitizer's runtime (Linux or macOS, x86-64 or AArch64).
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

# With a target named, build scripts and procedural macros stay as they are.
export RUSTFLAGS="-Zsanitizer=address"
# Asking for more memory than there is fails as it does elsewhere: readers ask and give an error.
export ASAN_OPTIONS="allocator_may_return_null=1${ASAN_OPTIONS:+:$ASAN_OPTIONS}"
cargo +nightly test --target "$target" -p secateur-kernels -p secateur-runtime --lib --tests -- "$@"
cargo +nightly test --target "$target" -p secateur-model --lib --tests -- "$@"
