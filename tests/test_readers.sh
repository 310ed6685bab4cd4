#!/usr/bin/env bash
# The README's small readers of a calibration file, in C and (where SWIN_PYTHON names a Python with h5py) in Python: each
# lists every quantized site, with the scale that swin-info's table shows.
set -u
cd "$(dirname "$0")/.." || exit 1
source tests/support/cli.sh
need "$bin"/swin-{calib,info} "$tools/make_images"

"$tools/make_images" --output "$tmp/images" --train 1 --val 0 >/dev/null || exit 1
"$bin/swin-calib" --cfg configs/swin_demo_patch4_window7_112.yaml --resume tests/demo/swin_demo.safetensors \
    --data-path "$tmp/images" --num-calib-batch 1 --backend cpu --quiet --recover none --calib-output-path "$tmp/c.h5" >/dev/null || exit 1
# name and scale of the sites that are on; the table's columns: site kind int8 min max amax scale ...
"$bin/swin-info" "$tmp/c.h5" | awk '$3 == "on" { print $1, $7 }' | sort >"$tmp/info"
sites=$(wc -l <"$tmp/info")
[[ $sites -gt 0 ]] || fail "swin-info lists no quantized site"

# compare WHAT FILE: the reader's lines are "site scale zero_point qmin qmax"
compare() {
    [[ $(wc -l <"$2") -eq $sites ]] || fail "$1: $(wc -l <"$2") sites, swin-info has $sites"
    sort "$2" | join "$tmp/info" - | awk '{ d = $2 - $3; if (d < 0) d = -d; if (d > 1e-5 * $3 || $5 != -127 || $6 != 127) print }' \
        >"$tmp/wrong"
    [[ $(sort "$2" | join "$tmp/info" - | wc -l) -eq $sites ]] || fail "$1: other site names than swin-info"
    [[ ! -s $tmp/wrong ]] || fail "$1: $(head -3 "$tmp/wrong")"
    echo "$1: $sites sites"
}

# in_readme LANGUAGE FILE: the README shows the reader as it is
in_readme() {
    awk -v open='```'"$1" '$0 == open { on = 1; next } $0 == "```" { on = 0 } on' README.md >"$tmp/shown"
    cmp -s "$tmp/shown" "$2" || fail "README.md does not show $2 as it is"
    [[ $(wc -l <"$2") -le 30 ]] || fail "$2 is no short reader any more: $(wc -l <"$2") lines"
}
in_readme python tests/readers/read_calib.py
in_readme c tests/readers/read_calib.c

hdf5="hdf5"
pkg-config --exists hdf5 || hdf5="hdf5-serial"
# shellcheck disable=SC2046 # words for the compiler
if cc -std=c11 -Wall -o "$tmp/reader" tests/readers/read_calib.c $(pkg-config --cflags --libs $hdf5) 2>"$tmp/err"; then
    "$tmp/reader" "$tmp/c.h5" >"$tmp/c" || fail "the C reader failed"
    compare "C reader" "$tmp/c"
    "$tmp/reader" README.md >"$tmp/out" 2>/dev/null && fail "the C reader took README.md for a calibration file"
else
    fail "the C reader does not compile: $(cat "$tmp/err")"
fi

if [[ -n ${SWIN_PYTHON:-} ]]; then
    "$SWIN_PYTHON" tests/readers/read_calib.py "$tmp/c.h5" >"$tmp/python" || fail "the Python reader failed"
    compare "Python reader" "$tmp/python"
    cmp "$tmp/c" "$tmp/python" || fail "C and Python readers print different lines"
else
    echo "skipped: the Python reader (SWIN_PYTHON names no Python with h5py)"
fi
exit $failed
