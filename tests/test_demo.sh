#!/usr/bin/env bash
# The embedded demo: pictures that do not change from run to run, calibration and evaluation of the committed network,
# and one result for zips and folders. Needs nothing but the repository.
set -u
cd "$(dirname "$0")/.." || exit 1
source tests/support/cli.sh
make_images=$tools/make_images
need "$bin"/swin-{calib,eval} "$make_images"
model=(--cfg configs/swin_demo_patch4_window7_112.yaml --resume tests/demo/swin_demo.safetensors --backend cpu --quiet)
must() { "$@" >"$tmp/out" 2>&1 || { fail "exit $?: $*: $(tail -5 "$tmp/out")" && exit 1; }; }
# value FILE PRECISION KEY: one number of a JSON report
value() { sed -n "/^    \"$2\": {/,/}/s/^ *\"$3\": \([-0-9.]*\),*$/\1/p" "$1"; }
# between WHAT NUMBER LOW HIGH: fails on an empty number too
between() {
    echo "$1: $2 (wanted: $3 to $4)"
    awk -v v="$2" -v lo="$3" -v hi="$4" 'BEGIN { exit !(v != "" && v + 0 >= lo && v + 0 <= hi) }' ||
        fail "$1 is '$2', not in $3 to $4"
}

# ---- pictures --------------------------------------------------------------------------------------------------
must "$make_images" --output "$tmp/folder" --train 8 --val 50
must "$make_images" --output "$tmp/again" --train 2 --val 1
[[ $(find "$tmp/folder/train" -name '*.JPEG' | wc -l) -eq 80 ]] || fail "not 80 training images"
[[ $(find "$tmp/folder/val" -name '*.JPEG' | wc -l) -eq 500 ]] || fail "not 500 validation images"
while read -r f; do
    cmp -s "$tmp/again/$f" "$tmp/folder/$f" || fail "$f differs between a small set and a large one"
done < <(cd "$tmp/again" && find . -name '*.JPEG')
must "$make_images" --output "$tmp/other" --train 1 --val 0 --seed 2
cmp -s "$tmp/other/train/disc/disc_00000.JPEG" "$tmp/folder/train/disc/disc_00000.JPEG" &&
    fail "another seed drew the same picture"
must "$make_images" --output "$tmp/zip" --train 8 --val 50 --zip
[[ $(wc -l <"$tmp/zip/val_map.txt") -eq 500 ]] || fail "not 500 lines in val_map.txt"

# ---- calibrate -------------------------------------------------------------------------------------------------
must "$bin/swin-calib" "${model[@]}" --data-path "$tmp/folder" --num-calib-batch 10 --calib-batchsz 8 \
    --calib-output-path "$tmp/folder.h5"
must "$bin/swin-calib" "${model[@]}" --data-path "$tmp/zip" --num-calib-batch 16 --calib-batchsz 5 --threads 1 \
    --calib-output-path "$tmp/zip.h5"
cmp "$tmp/folder.h5" "$tmp/zip.h5" || fail "calibration file: folder and zip, batch 8 and 5, threads"

# ---- evaluate --------------------------------------------------------------------------------------------------
evaluate() { # name calibration-file flags...
    local name=$1 file=$2
    shift 2
    must "$bin/swin-eval" "${model[@]}" --calib "$file" --report "$tmp/$name.json" "$@"
    cp "$tmp/out" "$tmp/$name.txt"
}
evaluate folder "$tmp/folder.h5" --data-path "$tmp/folder" --precision fp32,fp16,int8,int8-sim
between "float top-1" "$(value "$tmp/folder.json" fp32 top1)" 80 97
between "images" "$(value "$tmp/folder.json" fp32 images)" 500 500
between "fp16 agreement" "$(value "$tmp/folder.json" fp16 agreement)" 99 100
for precision in int8 int8-sim; do
    between "$precision agreement" "$(value "$tmp/folder.json" $precision agreement)" 92 100
    between "$precision SQNR, dB" "$(value "$tmp/folder.json" $precision sqnr_db)" 18 45
done

evaluate part "$tmp/folder.h5" --data-path "$tmp/folder" --precision fp32,int8-sim --limit 60 --batch-size 60
evaluate part_zip "$tmp/zip.h5" --data-path "$tmp/zip" --precision fp32,int8-sim --limit 60 --batch-size 7 --threads 1
cmp "$tmp/part.json" "$tmp/part_zip.json" || fail "reports of folder and zip"
cmp "$tmp/part.txt" "$tmp/part_zip.txt" || fail "tables of folder and zip"

[[ $failed -eq 0 ]] && cat "$tmp/folder.txt"
exit $failed
