#!/usr/bin/env bash
# Each header compiles alone, twice in a row, without a warning; guards are there and their names are unique.
# (*_body*.h are bodies that one file per instruction set includes: no headers in that sense.)
set -u
cd "$(dirname "$0")/.."
cc=${CC:-cc}
flags=(-std=c11 -fsyntax-only -Wall -Wextra -Werror -Wstrict-prototypes -I. -D_GNU_SOURCE -DSWIN_WITH_CUDA=0
    -DSWIN_VERSION='"0"' -DSWIN_SOURCE_DIR='"."' -DSWIN_BIN_DIR='"."')
generated=$(find "${SWIN_BUILD_DIR:-build}" -name '*.pb-c.h' 2>/dev/null | head -1)
[[ -n $generated ]] && flags+=(-I"$(dirname "$generated")")

# Compile a header as a unit of its own. AVX headers need their instruction set.
alone() {
    local more=()
    case $1 in
    *avx512*) more=(-mavx512f -mavx512bw -mavx512vl -mavx512dq -mavx2 -mfma -mf16c) ;;
    *avx2* | *_vec.h) more=(-mavx2 -mfma -mf16c) ;;
    esac
    printf '#include "%s"\n#include "%s"\nextern int translation_unit;\n' "$1" "$1" |
        "$cc" "${flags[@]}" "${more[@]}" -x c - 2>&1
}

# The test can fail: a header that leans on another one, and one without a guard.
made=$(mktemp -d "${TMPDIR:-/tmp}/swin-headers-XXXXXX")
trap 'rm -rf "$made"' EXIT
echo 'static inline size_t f(void) { return 0; }' >"$made/leans.h"
echo 'struct twice { int a; };' >"$made/twice.h"
for bad in leans twice; do
    if alone "$made/$bad.h" >/dev/null; then
        echo "FAILED: the check overlooks a bad header ($bad)"
        exit 1
    fi
done

failed=0 count=0
headers=$(find runtime data quant calib tests -name '*.h' ! -path '*/kernels/*' ! -name '*_body*.h' | sort)
for header in $headers; do
    count=$((count + 1))
    if grep -q 'pb-c\.h[">]' "$header" && [[ -z $generated ]]; then
        echo "skipped $header: the header that it includes is generated while building"
        continue
    fi
    if ! out=$(alone "$header"); then
        echo "FAILED: $header does not compile alone:"
        echo "$out" | head -5
        failed=1
    fi
done
repeated=$(for header in $headers; do grep -m1 -E '^#ifndef ' "$header"; done | sort | uniq -d)
unguarded=$(for header in $headers; do grep -qE '^#(ifndef|pragma once)' "$header" || echo "$header"; done)
[[ -z $repeated ]] || { echo "FAILED: the same guard in two headers: $repeated"; failed=1; }
[[ -z $unguarded ]] || { echo "FAILED: no guard in $unguarded"; failed=1; }
echo "$count headers"
exit $failed
