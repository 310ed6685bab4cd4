#!/usr/bin/env bash
# The whole tool on a small network of our own, from a bare machine to a table: install, build, draw the pictures,
# calibrate, evaluate.
#
#   scripts/demo.sh [FOLDER]     where the pictures and results go; default build/demo
set -euo pipefail
cd "$(dirname "$0")/.."

out=${1:-build/demo}
model=(--cfg configs/swin_demo_patch4_window7_112.yaml --resume tests/demo/swin_demo.safetensors)

say() { echo "== $*"; }
start=$SECONDS
say "what is needed"
scripts/setup.sh

say "building (release, CPU)"
mkdir -p build "$out"
if ! scripts/build.sh release -DSWIN_CUDA=OFF --target swin-calib --target swin-eval --target swin-info \
    --target swin-export --target make_images >build/demo.log 2>&1; then
    cat build/demo.log >&2
    exit 1
fi
built=$((SECONDS - start))

say "drawing 400 training and 1000 validation images"
build/tests/make_images --output "$out/images" --train 40 --val 100

say "calibrating"
calibrate=(build/bin/swin-calib "${model[@]}" --data-path "$out/images" --int8-mode 1 --num-calib-batch 25
    --calib-batchsz 8 --calib-output-path "$out/swin_demo_calib.h5")
echo "${calibrate[*]}"
"${calibrate[@]}" >"$out/ranges.txt"
head -8 "$out/ranges.txt"
echo "... (all of it: $out/ranges.txt)"
tail -1 "$out/ranges.txt"

say "evaluating"
evaluate=(build/bin/swin-eval "${model[@]}" --data-path "$out/images" --calib "$out/swin_demo_calib.h5"
    --precision "fp32,fp16,int8,int8-sim" --report "$out/report.json")
echo "${evaluate[*]}"
"${evaluate[@]}"

say "done in $((SECONDS - start)) s, $built s of it for installing and building"
echo "images                $out/images"
echo "calibration file      $out/swin_demo_calib.h5   (look into it: build/bin/swin-info $out/swin_demo_calib.h5)"
echo "report                $out/report.json"
echo "other engines' files  build/bin/swin-export --list"
