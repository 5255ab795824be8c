#!/bin/sh
# Makes the two subsets of Inter that reports are set in, from the folder with Inter's static OTF files.
# usage: subset.sh FOLDER   (needs fonttools; the files here were made from Debian's fonts-inter 4.0~beta7)
set -eu
for weight in Regular SemiBold; do
    pyftsubset "$1/Inter-$weight.otf" --output-file="$(dirname "$0")/inter-$(echo "$weight" | tr A-Z a-z).otf" \
        --unicodes=U+0020-007E,U+00A0-00FF,U+0131,U+0141-0142,U+0152-0153,U+0160-0161,U+017D-017E,U+03B1-03C9,U+2010-2015,U+2018-201E,U+2026,U+2030,U+2190-2193,U+2212,U+2248,U+2260,U+2264,U+2265,U+221A,U+00D7,U+2713 \
        --layout-features=tnum --no-hinting --name-IDs=0,1,2,13,14
done
