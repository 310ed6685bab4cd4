#!/usr/bin/env bash
# What only a GPU can tell, in one command: correctness, compute-sanitizer on small shapes, calibration and
# evaluation of the shared data, speed, the peers; one table at the end.
#
#   scripts/bundle.sh; then, on the machine, with the bundle copied there: bundle/gpu_check.sh [OUT_FOLDER]
#
# SWIN_TEST_DATA     the shared test data; without it what needs it is skipped, visibly
# SWIN_CHECK_SKIP    words out of: correctness sanitizer exports (both with correctness) data speed peers
# PYTHON, PEERS      a Python with torch and timm (python3), and which peers (compile,tf32)
# The exit status says whether all was correct; a missed speed is a line of the table. Logs: OUT_FOLDER.
set -uo pipefail
cd "$(dirname "$0")" || exit 1
[[ -d bin ]] || cd .. || exit 1
out=${1:-gpu_check.out} python=${PYTHON:-python3} skip=" ${SWIN_CHECK_SKIP:-} "
mkdir -p "$out" && out=$(cd "$out" && pwd)
bin=${SWIN_BIN_DIR:-$PWD/bin}
export SWIN_SOURCE=$PWD XDG_CACHE_HOME=$out/cache
cfg=configs/swin_tiny_patch4_window7_224.yaml
bad=0 start=$SECONDS
: > "$out/table.txt"

say() { echo "[$((SECONDS - start)) s] $*" >&2; }
wanted() { [[ $skip != *" $1 "* ]]; }
row() { printf '%-46s %14s  %-22s %s\n' "$1" "$2" "$3" "$4"; }
# verdict VALUE LIMIT: a value at most the limit
verdict() { awk -v v="$1" -v l="$2" 'BEGIN { print (v ~ /^[0-9.]+$/ && v + 0 <= l + 0) ? "ok" : "MISSED" }'; }
verdict_least() { awk -v v="$1" -v l="$2" 'BEGIN { print (v ~ /^[0-9.]+$/ && v + 0 >= l + 0) ? "ok" : "MISSED" }'; }
wrong() { bad=1; row "$1" "$2" "$3" WRONG; }

machine() {
    nvidia-smi --query-gpu=name,driver_version --format=csv,noheader | head -1
}

# ---- correctness -------------------------------------------------------------------------------------------
one_test() { # its row on stdout
    local name=$1 rc passed skipped
    timeout 600 "$bin/$name" > "$out/$name.txt" 2>&1
    rc=$?
    passed=$(grep -c '\[       OK' "$out/$name.txt")
    skipped=$(grep -c '\[  SKIPPED \] test_.*' "$out/$name.txt")
    if [[ $rc -eq 0 ]]; then
        row "$name" "$passed passed" "$((skipped / 2)) skipped" ok
    else
        row "$name" "exit $rc" "$(grep -m1 -o '[a-z_]*\.c:[0-9]*: .*' "$out/$name.txt" | cut -c1-60)" WRONG
    fi
    grep -E '^  [^ ].*(error|relative|differ|equal)' "$out/$name.txt" >&2
}

# racecheck follows every access to shared memory: it gets the tests apart, side by side.
one_tool() {
    local tool=$1 filter=$2 rc
    local log="$out/$tool${filter//[^a-z_]/}.txt"
    SWIN_TEST_SMALL=1 timeout 300 compute-sanitizer --tool "$tool" --report-api-errors no --error-exitcode 9 \
        "$bin/test_cuda_ops" "$filter" > "$log" 2>&1
    rc=$?
    case $rc in
    0) row "compute-sanitizer $tool $filter" "0 errors" "" ok ;;
    124) row "compute-sanitizer $tool $filter" "too slow" "300 s" skipped ;;
    *) row "compute-sanitizer $tool $filter" "exit $rc" "$(grep -m1 SUMMARY "$log" | sed 's/=* *//')" WRONG ;;
    esac
}

# Exports against ONNX Runtime, which needs no GPU but a Python that has it.
exports() {
    SWIN_PYTHON=$python SWIN_BIN_DIR=$bin SWIN_BUILD_DIR=${bin%/bin} SWIN_PEER_IMAGES=${SWIN_PEER_IMAGES:-256} \
        timeout 500 bash tests/test_export_peers.sh > "$out/exports.txt" 2>&1
    case $? in
    0) row "exports against other engines" "$(grep -oE '[0-9]+ checks' "$out/exports.txt" | tail -1)" "" ok ;;
    77) row "exports against other engines" "" "$(grep -m1 -o 'skipped: .*' "$out/exports.txt" | cut -c1-60)" skipped ;;
    *) row "exports against other engines" "failed" "$(grep -m1 -i fail "$out/exports.txt" | cut -c1-60)" WRONG ;;
    esac
}

# Nothing is timed here, so all of it runs at once.
correctness() {
    local t jobs=()
    for t in "$bin"/test_cuda_*; do
        one_test "$(basename "$t")" > "$out/rows.$(basename "$t")" & jobs+=($!)
    done
    if wanted sanitizer && ! command -v compute-sanitizer > /dev/null; then
        row compute-sanitizer "not here" "" skipped > "$out/rows.z"
    elif wanted sanitizer; then
        for t in memcheck initcheck synccheck; do one_tool "$t" '*' > "$out/rows.z1$t" & jobs+=($!); done
        for t in linear linear_rows tiles norms elementwise patch_embed attention halves normalise_heads \
            observers; do
            one_tool racecheck "test_$t" > "$out/rows.z2$t" & jobs+=($!)
        done
    fi
    if wanted exports; then exports > "$out/rows.z3exports" & jobs+=($!); fi
    if wanted peers; then # compile once beforehand
        for t in 1 32 64; do
            "$python" tests/peers/timm_speed.py --only compile --batch-size $t --seconds 0.1 \
                > "$out/warm$t.txt" 2>&1 & jobs+=($!)
        done
    fi
    say "correctness: ${#jobs[@]} programs side by side"
    wait "${jobs[@]}"
    cat "$out"/rows.* >> "$out/table.txt"
    grep -q 'WRONG$' "$out/table.txt" && bad=1
}

# ---- real data ---------------------------------------------------------------------------------------------
# seconds_of NAME COMMAND: how long it took; its output goes to NAME.txt and NAME.err
seconds_of() {
    local a b rc
    a=$(date +%s.%N)
    "${@:2}" > "$out/$1.txt" 2> "$out/$1.err"
    rc=$?
    b=$(date +%s.%N)
    awk -v a="$a" -v b="$b" 'BEGIN { printf "%.2f", b - a }'
    return $rc
}
# result PRECISION KEY: of swin-eval's JSON
result() {
    tr -d '\n ' < "$out/eval.txt" | grep -o "\"$1\":{[^}]*}" | grep -o "\"$2\":[0-9.]*" | cut -d: -f2
}

data() {
    local data=${SWIN_TEST_DATA:-} ckpt
    ckpt=$data/weights/swin_tiny_patch4_window7_224_tin200_fp16.pth
    if [[ -z $data || ! -f $ckpt ]]; then
        row "calibration and evaluation" "no data" "SWIN_TEST_DATA" skipped
        return
    fi
    local common=(--backend cuda --cfg $cfg --resume "$ckpt" --data-path "$data/tiny-imagenet") b s
    for b in 8 1 40; do
        say "swin-calib, batches of $b"
        if s=$(seconds_of "calib-$b" "$bin/swin-calib" "${common[@]}" --num-calib-batch $((80 / b)) \
            --calib-batchsz "$b" --recover none --calib-output-path "$out/calib-$b.h5"); then
            [[ $b == 8 ]] && row "swin-calib, 80 images, whole program" "$s s" "under 2 s" "$(verdict "$s" 2)"
        else wrong "swin-calib --calib-batchsz $b" "failed" "$(tail -1 "$out/calib-$b.err")"; fi
    done
    if cmp -s "$out/calib-8.h5" "$out/calib-1.h5" && cmp -s "$out/calib-8.h5" "$out/calib-40.h5"; then
        row "calibration file, batches of 1, 8, 40" "equal bytes" "" ok
    else wrong "calibration file, batches of 1, 8, 40" "differ" ""; fi
    say "swin-eval, 5,000 images"
    if s=$(seconds_of eval "$bin/swin-eval" "${common[@]}" --precision fp32,fp16,bf16 --batch-size 64 \
        --json); then
        local got
        got=$(result fp32 top1)
        off=$(awk -v a="$got" 'BEGIN { d = a - 41.32; print d < 0 ? -d : d }')
        row "top-1 of 5,000 images, FP32" "$got %" "41.32 +- 0.04" "$(verdict "$off" 0.0401)"
        for b in fp16 bf16; do
            got=$(result "$b" agreement)
            if [[ $b == fp16 ]]; then
                row "agreement of fp16 with FP32" "$got %" "99.5 or more" "$(verdict_least "$got" 99.5)"
            else row "agreement of $b with FP32" "$got %" "" ""; fi
        done
    else wrong "swin-eval" "failed" "$(tail -1 "$out/eval.err")"; fi
    say "swin-bench --data-path"
    if s=$(seconds_of pipeline "$bin/swin-bench" "${common[@]}" --precision fp16 --batch-size 64 --csv); then
        got=$(awk -F, '$10 == "total" { print $11 }' "$out/pipeline.txt")
        row "5,000 images in FP16, JPEG to logits" "$got s" "under 2.5 s" "$(verdict "$got" 2.5)"
        awk -F, '$10 ~ /limited by/ { print $10 }' "$out/pipeline.txt" >&2
    else wrong "swin-bench --data-path" "failed" "$(tail -1 "$out/pipeline.err")"; fi
}

# ---- speed -------------------------------------------------------------------------------------------------
median() {
    awk -F, -v p="$1" -v b="$2" '$1 == p && $2 == b && $3 != "" { print $3 }' "$out/bench.csv" | tail -1
}
peer() { awk -F, -v p="timm $1" -v b="$2" '$1 == p && $2 == b { print $3 }' "$out/peers.csv" 2> /dev/null; }

speed() {
    local bench=("$bin/swin-bench" --backend cuda --cfg $cfg) extra
    say "swin-bench"
    "${bench[@]}" --precision fp16,bf16,tf32,fp32 --batch-size 1,8,32,64 --seconds 0.6 --tune --csv \
        > "$out/bench.csv" 2> "$out/bench.err" || wrong swin-bench failed "$(tail -1 "$out/bench.err")"
    row "FP32, batch 64" "$(median fp32 64) ms" "under 24.9 ms" "$(verdict "$(median fp32 64)" 24.9)"
    row "TF32, batch 64" "$(median tf32 64) ms" "under 9 ms" "$(verdict "$(median tf32 64)" 9)"
    ratio=$(awk -v a="$(median bf16 64)" -v b="$(median fp16 64)" 'BEGIN { printf "%.3f", a / b }')
    row "BF16 against FP16, batch 64" "$ratio" "within 1.03" "$(verdict "$ratio" 1.03)"
    "${bench[@]}" --precision fp16,fp32 --batch-size 64 --seconds 0.6 --observers --floors --csv \
        > "$out/observers.csv" 2> "$out/observers.err" ||
        wrong "swin-bench --observers" failed "$(tail -1 "$out/observers.err")"
    for p in fp16 fp32; do
        extra=$(awk -F, -v p=$p '$1 == p && $2 == 64 && $7 != "" { print $7 }' "$out/observers.csv" | tail -1)
        row "observers at every site, $p, batch 64" "+$extra ms" "at most 6 ms" "$(verdict "$extra" 6)"
    done
}

peers() {
    say "peers"
    "$python" tests/peers/timm_speed.py --only "${PEERS:-compile,tf32}" --batch-size 1,32,64 --seconds 0.7 \
        > "$out/peers.csv" 2> "$out/peers.err" ||
        row "timm" "failed" "$(tail -1 "$out/peers.err" | cut -c1-40)" skipped
}

versus() {
    local b bar p
    for b in 1 32 64; do
        p=$(peer compile "$b") bar=$([[ $b == 1 ]] && echo 1.5 || echo 1.6)
        if [[ -z $p ]]; then row "FP16, batch $b" "$(median fp16 "$b") ms" "no peer" ""; continue; fi
        row "FP16, batch $b" "$(median fp16 "$b") ms" "timm compiled $p ms" \
            "$(awk -v a="$(median fp16 "$b")" -v p="$p" -v l="$bar" \
                'BEGIN { r = p / a; printf "%.2f times, %s", r, r >= l ? "ok" : "MISSED (" l ")" }')"
    done
    [[ -z $(peer tf32 64) ]] || row "TF32, batch 64" "$(median tf32 64) ms" "timm eager $(peer tf32 64) ms" ""
}

rm -f "$out"/rows.*
wanted correctness && correctness
{
    wanted data && data
    wanted speed && speed
    wanted peers && peers
    wanted speed && versus
} >> "$out/table.txt"
{
    echo
    machine
    cat "$out/table.txt"
    [[ $bad == 0 ]] && echo "all correct" || echo "SOMETHING IS WRONG"
    echo "$((SECONDS - start)) s; logs in $out"
} | tee "$out/summary.txt"
exit $bad
