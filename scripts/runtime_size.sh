#!/bin/sh
# Builds the runtime's example `embed` for release (stripped) and prints the size of the program and the crates in it.
#
#     scripts/runtime_size.sh
set -eu
cd "$(dirname "$0")/.."

cargo build --quiet --release -p secateur-runtime --example embed
target=$(cargo metadata --format-version 1 --no-deps | sed 's/.*"target_directory":"\([^"]*\)".*/\1/')
program="$target/release/examples/embed"
[ -f "$program" ] || program="$program.exe"
echo "embed, release, stripped: $(wc -c < "$program") bytes"

# Procedural macros and their dependencies run in the compiler only.
crates=$(cargo tree -p secateur-runtime -e no-dev,no-build,no-proc-macro --prefix none --format '{p}' | sed 's/ (.*//' | sort -u)
echo "crates in it: $(echo "$crates" | wc -l)"
echo "$crates" | sed 's/^/  /'
