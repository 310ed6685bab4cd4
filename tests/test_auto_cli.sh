#!/usr/bin/env bash
# swin-calib --int8-mode auto from outside: refusals, what it prints, one file for every way of running, and who takes the
# file. Needs no test data: model and pictures are made by tool_tiny.
set -u
cd "$(dirname "$0")/.."
source tests/support/cli.sh
need "$bin"/swin-{calib,eval,export} "$tools/tool_tiny"

"$tools/tool_tiny" "$tmp/set" 40 || exit 1
model=(--cfg "$tmp/set/model.yaml" --resume "$tmp/set/model.safetensors")
common=("$bin/swin-calib" "${model[@]}" --backend cpu --data-path "$tmp/set" --num-calib-batch 2 --recover none)
auto=("${common[@]}" --int8-mode auto --auto-images 20)

# A limit goes with auto, auto with a limit; neither with ranges that need no images.
expect 2 "--min-agreement" "${common[@]}" --min-agreement 90
expect 2 "--min-sqnr" "${common[@]}" --int8-mode 3 --min-sqnr 30
expect 2 "--int8-mode auto needs" "${auto[@]}"
expect 2 "--from-checkpoint" "${auto[@]}" --min-sqnr 30 --from-checkpoint
expect 2 "--min-agreement" "${auto[@]}" --min-agreement 101
expect 2 "--min-sqnr" "${auto[@]}" --min-sqnr much
expect 2 "--auto-from" "${auto[@]}" --min-sqnr 30 --auto-from 4
expect 2 "--auto-images" "${common[@]}" --int8-mode auto --min-sqnr 30 --auto-images 1
expect 2 "--int8-mode" "${common[@]}" --int8-mode automatic
# Finer than one image: known before any work where the flags say it, else when the set turns out to be small.
expect 2 "finer than one image" "${auto[@]}" --min-agreement 95.1
expect 2 "finer than one image" "${common[@]}" --int8-mode auto --min-agreement 99.9
expect 2 "finer than one image" "${common[@]}" --int8-mode auto --min-agreement 98.75
grep -q "20 images are held back\|24 images are held back" "$tmp/err" || fail "how many images is not said: $(cat "$tmp/err")"
expect 2 "finer than one image" "${auto[@]}" --min-agreement 100 --calib-output-path "$tmp/f.h5"
[[ -e $tmp/f.h5 || -e $tmp/f.h5.tmp ]] && fail "a refused run left a file"

# Nothing to relax, something, everything.
expect 0 "0 of 16 units relaxed" "${auto[@]}" --min-agreement 95 --calib-output-path "$tmp/none.h5"
expect 0 "agreement" "${auto[@]}" --min-sqnr 40 --calib-output-path "$tmp/some.h5"
cp "$tmp/out" "$tmp/table"
grep -q "^layers\..* float$" "$tmp/out" || fail "no unit in float"
grep -q "^layers\..* int8$" "$tmp/out" || fail "no unit in int8"
[[ $(grep -cE "^layers\..* (float|int8)$" "$tmp/out") -eq 16 ]] || fail "not 16 units"
expect 0 "29 of 29 units relaxed" "${auto[@]}" --auto-from 1 --min-sqnr 100 --calib-output-path "$tmp/all.h5"
expect 0 "0 quantized in int8-mode 1" "${auto[@]}" --auto-from 1 --min-sqnr 100 --calib-output-path "$tmp/all.h5" --threads 1

# One file and one table for every batch size, thread count and layout.
expect 0 "units relaxed" "$bin/swin-calib" "${model[@]}" --backend cpu --data-path "$tmp/set/zipped" --num-calib-batch 16 --calib-batchsz 1 \
    --recover none --int8-mode auto --auto-images 20 --min-sqnr 40 --threads 3 --calib-output-path "$tmp/same.h5"
cmp -s "$tmp/some.h5" "$tmp/same.h5" || fail "another file from one image at a time, three threads, zip"
cmp -s "$tmp/table" "$tmp/out" || fail "another table from one image at a time, three threads, zip"
expect 0 '"sqnr_alone_db"' "${auto[@]}" --min-sqnr 40 --json --calib-output-path "$tmp/same.h5"
cmp -s "$tmp/some.h5" "$tmp/same.h5" || fail "another file with --json"

# The engines take it: better than what was not relaxed, perfect where all is.
eval_db() { # FILE PRECISION
    "$bin/swin-eval" "${model[@]}" --backend cpu --data-path "$tmp/set" --split train --calib "$1" --precision "$2" --json 2>"$tmp/err" |
        awk -F: '/"sqnr_db"/ { v = $2 } END { gsub(/[ ,]/, "", v); print v }'
}
for precision in int8 int8-sim; do
    none=$(eval_db "$tmp/none.h5" $precision)
    some=$(eval_db "$tmp/some.h5" $precision)
    all=$(eval_db "$tmp/all.h5" $precision)
    echo "$precision: $none dB, relaxed $some dB, all in float ${all:-no error}"
    awk -v a="$none" -v b="$some" 'BEGIN { exit !(a > 10 && b > a + 1) }' || fail "$precision: $none, then $some dB"
    [[ $all = null ]] || awk -v a="$all" 'BEGIN { exit !(a > 100) }' || fail "$precision: $all dB with everything in float"
done

# Formats that know only whole modes refuse the file by a site's name; the others leave the sites out.
expect 0 "units relaxed" "${auto[@]}" --auto-from 1 --min-sqnr 40 --calib-output-path "$tmp/one.h5"
relaxed=$(awk '$1 ~ /_aftergemm$/ && $NF == "float" { print $1; exit }' "$tmp/out")
grep -q . <<<"$relaxed" || fail "no output of a GEMM was relaxed"
for format in ft-scales ft-weights pytorch; do
    expect 1 "int8-mode 1, which has this site on" "$bin/swin-export" --calib "$tmp/one.h5" "${model[@]}" --format $format --output "$tmp/x.npz"
    [[ -e $tmp/x.npz ]] && fail "$format left a file"
done
for format in tensorrt-cache openvino-fq csv json onnx-qdq; do
    expect 0 "" "$bin/swin-export" --calib "$tmp/one.h5" "${model[@]}" --format $format --output "$tmp/x_$format"
done
grep -q "$relaxed " "$tmp/x_tensorrt-cache" && fail "tensorrt-cache has a scale for $relaxed"
grep -q "^$relaxed,[a-z_]*,0," "$tmp/x_csv" || fail "csv does not have $relaxed off"
finish
