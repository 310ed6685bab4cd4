#!/usr/bin/env bash
# swin-calib from outside: exit codes, what it prints and where, one file for every way of running, nothing left behind.
# Needs no test data: model and pictures are made by tool_tiny.
set -u
cd "$(dirname "$0")/.."
source tests/support/cli.sh
need "$bin/swin-calib" "$tools/tool_tiny"
calib() { expect "$1" "$2" "$bin/swin-calib" "${@:3}"; } # CODE words args...

"$tools/tool_tiny" "$tmp/set" 40 || exit 1
model=(--cfg "$tmp/set/model.yaml" --resume "$tmp/set/model.safetensors")
common=("${model[@]}" --backend cpu --data-path "$tmp/set" --num-calib-batch 4)

# Usage: exit 2, and the flag is named.
calib 2 "--resume" --resume x --data-path "$tmp/set"
calib 2 "--resume" --cfg "$tmp/set/model.yaml" --resume "$tmp/none.pth" --data-path "$tmp/set"
calib 2 "--data-path" "${model[@]}"
calib 2 "--data-path" "${model[@]}" --data-path "$tmp/none"
calib 2 "--calibrator" "${common[@]}" --calibrator average
calib 2 "--percentile" "${common[@]}" --percentile 101
calib 2 "--percentile" "${common[@]}" --percentile 99.9x
calib 2 "--int8-mode" "${common[@]}" --int8-mode 4
calib 2 "--calib-batchsz" "${common[@]}" --calib-batchsz 0
calib 2 "--num-calib-batch" "${common[@]}" --num-calib-batch -1
calib 2 "--recover: fastest" "${common[@]}" --recover fastest
calib 2 "--recover" "${common[@]}" --recover equalize,,bias
calib 2 "--calib-output-path" "${common[@]}" --calib-output-path "$tmp/none/f.h5"
calib 2 "--report" "${common[@]}" --report "$tmp/r.txt"
calib 2 "--no-such-flag" "${common[@]}" --no-such-flag
cp "$tmp/set/model.safetensors" "$tmp/precious"
calib 2 "--resume's" "${common[@]}" --resume "$tmp/precious" --calib-output-path "$tmp/./precious"
calib 2 "--calib-output-path's" "${common[@]}" --report "$tmp/r.json" --calib-output-path "$tmp/r.json"
same "a checkpoint named as output" "$tmp/set/model.safetensors" "$tmp/precious"
calib 0 "--num-calib-batch" --help
# Failure: exit 1.
calib 1 "wrong" "${model[@]}" --data-path "$tmp/set" --split wrong --calib-output-path "$tmp/f.h5"
[[ -e $tmp/f.h5 || -e $tmp/f.h5.tmp ]] && fail "a failed run left a file"

# Table on stdout, progress and timings on stderr; old toolkit flags are noted.
calib 0 "layers.1.blocks.0.mlp.fc2._aftergemm" "${common[@]}" --calib --local_rank 0 --calib-output-path "$tmp/a.h5"
[[ $(grep -c '^layers\.' "$tmp/out") -eq 72 ]] || fail "not 72 lines of sites"
grep -q "images" "$tmp/err" || fail "no progress on stderr"
grep -q -e "--calib" "$tmp/err" || fail "--calib was taken silently"
"$bin/swin-calib" "${common[@]}" --quiet --calib-output-path "$tmp/q.h5" >"$tmp/out2" 2>"$tmp/err2" || fail "--quiet"
[[ -s $tmp/err2 ]] && fail "--quiet wrote to stderr: $(cat "$tmp/err2")"
same "table" "$tmp/out" "$tmp/out2"
same "file" "$tmp/a.h5" "$tmp/q.h5"

# A folder gets <MODEL.NAME>_calib.h5.
mkdir "$tmp/here"
calib 0 "tiny_test_calib.h5" "${common[@]}" --calib-output-path "$tmp/here"
same "name" "$tmp/a.h5" "$tmp/here/tiny_test_calib.h5"

# One file for every batch size, thread count and layout (32 of 40 images, spread).
for way in "4 8 1 set" "32 1 2 set" "1 32 4 set/zipped" "4 8 2 set/zipped"; do
    read -r n b t d <<<"$way"
    calib 0 "72 sites" "${model[@]}" --backend cpu --data-path "$tmp/$d" --num-calib-batch "$n" --calib-batchsz "$b" \
        --threads "$t" --calib-output-path "$tmp/b.h5"
    same "$n x $b images, $t threads, $d" "$tmp/a.h5" "$tmp/b.h5"
done

# JSON and CSV reports, the same from every run.
calib 0 '"sites"' "${common[@]}" --json --report "$tmp/r.json" --calib-output-path "$tmp/b.h5"
same "--json and --report" "$tmp/out" "$tmp/r.json"
calib 0 "72 sites" "${common[@]}" --report "$tmp/r.csv" --threads 1 --calib-output-path "$tmp/b.h5"
[[ $(wc -l <"$tmp/r.csv") -eq 73 ]] || fail "not 73 lines in r.csv"
grep -q "$tmp" "$tmp/r.json" "$tmp/r.csv" && fail "a report holds a path"
grep -qa "$tmp" "$tmp/a.h5" && fail "the calibration file holds a path"

# The other choices run and are recorded.
for c in max mse entropy; do
    calib 0 "$c, 32 images, compat" "${common[@]}" --calibrator "$c" --histogram compat --calib-output-path "$tmp/b.h5"
done
for m in 2 3; do calib 0 "int8-mode $m" "${common[@]}" --int8-mode "$m" --calib-output-path "$tmp/b.h5"; done

# Ctrl-C: exit 130, and the old file is untouched. kill -9: the same, by the rename.
for signal in INT TERM KILL; do
    cp "$tmp/a.h5" "$tmp/old.h5"
    "$bin/swin-calib" "${model[@]}" --data-path "$tmp/set" --backend ref --threads 1 --num-calib-batch 40 --calib-batchsz 1 \
        --calib-output-path "$tmp/old.h5" >/dev/null 2>&1 &
    pid=$!
    sleep 0.4
    kill -"$signal" "$pid" 2>/dev/null || fail "swin-calib had already ended before SIG$signal"
    wait "$pid"
    rc=$?
    [[ $signal = KILL || $rc -eq 130 ]] || fail "SIG$signal: exit $rc"
    same "SIG$signal" "$tmp/a.h5" "$tmp/old.h5"
    [[ -e $tmp/old.h5.tmp ]] && fail "SIG$signal left $tmp/old.h5.tmp"
done

# A disk that is full early, in the middle, at the end: exit 1, the old file is untouched.
calib 0 "72 sites" "${common[@]}" --recover none --calib-output-path "$tmp/n.h5"
for size in 1 40 $(($(wc -c <"$tmp/n.h5") / 1024 - 1)); do
    cp "$tmp/a.h5" "$tmp/old.h5"
    (
        trap '' XFSZ
        ulimit -f "$size"
        exec "$bin/swin-calib" "${common[@]}" --recover none --calib-output-path "$tmp/old.h5" >/dev/null 2>"$tmp/err"
    )
    rc=$?
    [[ $rc -eq 1 ]] || fail "a disk full after $size kB: exit $rc"
    same "a disk full after $size kB" "$tmp/a.h5" "$tmp/old.h5"
    [[ -e $tmp/old.h5.tmp ]] && fail "a disk full after $size kB left $tmp/old.h5.tmp"
done

finish
