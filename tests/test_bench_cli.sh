#!/usr/bin/env bash
# swin-bench from outside: what it times, its forms of output, refusals. Times themselves are judged nowhere but on a
# quiet machine.
set -u
cd "$(dirname "$0")/.." || exit 1
source tests/support/cli.sh
need "$bin"/swin-{bench,calib} "$tools"/{make_images,tool_random_model}
cfg=configs/swin_demo_patch4_window7_112.yaml model=tests/demo/swin_demo.safetensors
net=(--resume "$model" --backend cpu)
time_it() { expect "$1" "$2" "$bin/swin-bench" --seconds 0.01 --batch-size 2 "${@:3}"; } # CODE words args...
# rows PRECISION...: exactly these lines of CSV with times, each time more than nothing
rows() {
    checks=$((checks + 1))
    local seen
    seen=$(awk -F, 'NR > 1 && $3 > 0 && $4 >= $3 && $5 > 0 { printf "%s ", $1 }' "$tmp/out")
    [[ $seen == "$* " ]] || fail "rows of '$seen' instead of '$*': $(cat "$tmp/out")"
}

"$tools/make_images" --output "$tmp/set" --train 2 --val 0 >/dev/null || fail "make_images"
calibrate() { # NAME flags...
    "$bin/swin-calib" "${net[@]}" --data-path "$tmp/set" --num-calib-batch 1 --calib-batchsz 4 --quiet "${@:2}" \
        --calib-output-path "$tmp/$1.h5" >/dev/null || fail "swin-calib ${*:2}"
}
calibrate 3 --int8-mode 3
calibrate 1 --int8-mode 1 --recover ranges
calibrate auto --int8-mode auto --auto-images 8 --min-sqnr 40

# ---- what is timed ---------------------------------------------------------------------------------------------
time_it 0 precision --cfg "$cfg" --backend cpu --precision fp32,int8 --csv
rows fp32 int8
time_it 0 "tensors are those of" "${net[@]}" --precision fp32 --csv # no --cfg
rows fp32
time_it 0 "3.h5: int8-mode 3" "${net[@]}" --calib "$tmp/3.h5" --precision fp32,int8 --csv
rows fp32 int8
time_it 0 "1.h5: int8-mode 1, percentile, recovery ranges, 0 sites" "${net[@]}" --calib "$tmp/1.h5" --precision int8 --csv
rows int8
time_it 0 "auto.h5: int8-mode 3" "${net[@]}" --calib "$tmp/auto.h5" --precision int8 --weight-granularity tensor --kinds --csv
rows int8
grep -q "recovery fast, [1-9][0-9]* sites of the mode in float" "$tmp/err" || fail "auto: $(cat "$tmp/err")"
time_it 0 "no precision listed needs it" "${net[@]}" --calib "$tmp/3.h5" --precision fp32 --csv
rows fp32
time_it 0 '"precision": "int8", "batch": 2, "median_ms"' "${net[@]}" --calib "$tmp/3.h5" --precision int8 --json --floors
tr -d ' \n' <"$tmp/out" | grep -q '^{"model":"swin_[^"]*","results":\[{.*},{.*}\]}$' || fail "--json: $(cat "$tmp/out")"

# ---- refusals --------------------------------------------------------------------------------------------------
"$tools/tool_random_model" "$cfg" "$tmp/other.safetensors" 1 >/dev/null || fail "tool_random_model"
time_it 2 "--resume" --cfg "$cfg" --calib "$tmp/3.h5" --precision int8
time_it 2 "--calib" "${net[@]}" --calib "$tmp/absent.h5" --precision int8
time_it 1 "3.h5" --resume "$tmp/other.safetensors" --backend cpu --calib "$tmp/3.h5" --precision int8
time_it 2 "--cfg" --backend cpu --precision int8
time_it 2 "--observers" --cfg "$cfg" --backend cpu --precision fp32,int8 --observers
expect 2 "--batch-size" "$bin/swin-bench" --cfg "$cfg" --batch-size 1,none
finish
