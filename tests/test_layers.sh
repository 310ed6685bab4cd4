#!/usr/bin/env bash
# The module picture: which folder includes which, where third-party headers may appear, and that no program
# needs a CUDA library to start.
#
#   main_*.c (leaves) -> calib -> quant -> runtime/swin -> runtime/ops -> runtime/base
#                        calib -> data -----------------------------------^
set -u
cd "$(dirname "$0")/.."

# Modules that a module's files may include.
allowed() {
    case $1 in
    runtime/base) echo "runtime/base" ;;
    runtime/ops) echo "runtime/ops runtime/base" ;;
    runtime/swin) echo "runtime/swin runtime/ops runtime/base" ;;
    data) echo "data runtime/base" ;;
    quant) echo "quant runtime/swin runtime/ops runtime/base" ;;
    calib) echo "calib quant data runtime/swin runtime/ops runtime/base" ;;
    esac
}

# A third-party header and the only files that may include it (extended regular expressions).
third_party='
hdf5\.h|H5.*\.h          runtime/base/h5(_attr)?\.c|tests/readers/.*
yaml\.h                  runtime/swin/config[a-z_]*\.c
zip\.h                   quant/npz\.c|runtime/swin/checkpoint_[a-z_]*\.c|data/[a-z_]*zip[a-z_]*\.c|tests/.*
jpeglib\.h|jerror\.h     data/image_jpeg\.c|data/decode[a-z_]*\.[ch]|data/image\.c|tests/.*
png\.h                   data/image_png\.c|data/image\.c|tests/.*
openssl/.*               runtime/base/sha256\.c
oneapi/.*|dnnl.*\.h      runtime/ops/.*_cpu\.c|tests/.*
cuda.*\.h|cublas.*\.h    runtime/ops/.*_cuda\.[ch]|runtime/ops/kernels/.*|tests/.*
'

# Print every fault of the tree below $1, one a line: "file: what".
faults() {
    local root=$1 module file inc target ok
    for module in runtime/base runtime/ops runtime/swin data quant calib; do
        while read -r file; do
            [[ $file == */main_* ]] && continue
            while read -r inc; do
                [[ $inc == *.pb-c.h ]] && continue # generated while building
                if [[ ! -e $root/$inc ]]; then
                    echo "$file: \"$inc\" is not a path from the root"
                    continue
                fi
                ok=no
                for target in $(allowed "$module"); do [[ $inc == "$target"/* ]] && ok=yes; done
                [[ $ok == yes && $inc != */main_* ]] || echo "$file: may not include $inc"
            done < <(sed -n 's/^[[:space:]]*#[[:space:]]*include[[:space:]]*"\([^"]*\)".*/\1/p' "$root/$file")
        done < <(cd "$root" && find "$module" -type f -regex '.*\.\(c\|h\|cu\|cuh\)' 2>/dev/null | sort)
    done
    while read -r header where; do
        [[ -n $header ]] || continue
        (cd "$root" && grep -rElI "^[[:space:]]*#[[:space:]]*include[[:space:]]*[<\"]($header)[>\"]" \
            --include='*.[ch]' --include='*.cu' --include='*.cuh' runtime data quant calib tests 2>/dev/null) |
            grep -vxE "($where)" | sed "s#\$#: may not include <$header>#"
    done <<<"$third_party"
    # Only ops knows CUDA types; the walk sees ops.h alone.
    (cd "$root" && grep -rnE '\b(cudaStream_t|cudaError_t|cublasLt[A-Z][A-Za-z]*_t)\b' --include='*.[ch]' \
        runtime/base runtime/swin data quant calib 2>/dev/null) | sed 's/$/: a CUDA type outside runtime\/ops/'
    # Nobody includes a leaf.
    (cd "$root" && grep -rnE '#[[:space:]]*include.*main_[a-z]+\.c' --include='*.[ch]' \
        runtime data quant calib 2>/dev/null)
}

# ---- the check can fail: a made-up tree with one fault of each kind ------------------------------
made=$(mktemp -d "${TMPDIR:-/tmp}/swin-layers-XXXXXX")
trap 'rm -rf "$made"' EXIT
mkdir -p "$made"/runtime/{base,ops,swin} "$made"/{data,quant,calib}
(cd "$made" && touch runtime/base/a.h runtime/ops/o.h runtime/swin/s.h data/d.h quant/q.h)
echo '#include "runtime/base/a.h"' >"$made/data/good.c"
[[ -z $(faults "$made") ]] || { echo "FAILED: a tree without faults is blamed: $(faults "$made")"; exit 1; }
expect() { # line file words
    echo "$1" >"$made/$2"
    faults "$made" | grep -qF "$3" || { echo "FAILED: the check overlooks: $1 in $2"; exit 1; }
    rm "$made/$2"
}
expect '#include "runtime/ops/o.h"' runtime/base/bad.c "may not include runtime/ops/o.h"
expect '#include "runtime/swin/s.h"' runtime/ops/bad.h "may not include runtime/swin/s.h"
expect '# include "quant/q.h"' runtime/swin/bad.c "may not include quant/q.h"
expect '#include "quant/q.h"' data/bad.c "may not include quant/q.h"
expect '#include "data/d.h"' quant/bad.c "may not include data/d.h"
expect '#include "d.h"' data/bad.c "not a path from the root"
expect '#include <hdf5.h>' quant/bad.c "may not include <hdf5"
expect '#include <zip.h>' runtime/swin/bad.c "may not include <zip"
expect '#include <cuda_runtime.h>' runtime/swin/bad.h "may not include <cuda"
expect 'cudaStream_t s;' calib/bad.h "CUDA type"

# ---- this tree -----------------------------------------------------------------------------------
failed=0
found=$(faults .)
if [[ -n $found ]]; then
    echo "FAILED: includes against the module picture:"
    echo "$found"
    failed=1
fi
echo "checked $(find runtime data quant calib -name '*.[ch]' | wc -l) files"

# ---- the programs start on a machine without CUDA ------------------------------------------------
checked=0
for program in "${SWIN_BIN_DIR:-build/bin}"/swin-*; do
    [[ -x $program && -f $program ]] || continue
    checked=$((checked + 1))
    needed=$(readelf -d "$program" | sed -n 's/.*(NEEDED).*\[\(.*\)\]/\1/p')
    [[ -n $needed ]] || { echo "FAILED: $program: readelf shows no libraries at all"; failed=1; }
    if cuda=$(grep -iE 'cuda|cublas|cudnn|nvrtc|nvidia|libnv' <<<"$needed"); then
        echo "FAILED: $program needs $cuda"
        failed=1
    fi
done
echo "checked the libraries of $checked programs"
[[ $checked -gt 0 ]] || echo "note: no programs in ${SWIN_BIN_DIR:-build/bin}"
exit $failed
