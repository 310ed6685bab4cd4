# What must be right: our tests, compute-sanitizer, exports, models of other libraries. Sourced by gpu_check.sh: $bin, $out, $python, $cfg, row, say, wanted, wrong, verdict.
# shellcheck shell=bash disable=SC2154

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

# one_tool TOOL PROGRAM FILTER: racecheck follows every access to shared memory, so it gets the tests apart.
one_tool() {
    local tool=$1 program=$2 filter=$3 rc limit=${SWIN_CHECK_SECONDS:-300} more=()
    # its default table overflows there; larger ones for all programs at once take all of the GPU's memory
    [[ $tool-$program == synccheck-test_cuda_int8_blocks ]] && more=(--num-cuda-barriers "${SWIN_CHECK_BARRIERS:-16384}")
    local log="$out/$tool-$program${filter//[^a-z_0-9]/}.txt"
    SWIN_TEST_SMALL=1 timeout "$limit" compute-sanitizer --tool "$tool" "${more[@]}" --report-api-errors no --error-exitcode 9 \
        "$bin/$program" "$filter" > "$log" 2>&1
    rc=$?
    grep -q '^\[=*\] 0 test' "$log" && rc=none
    case $rc in
    none) row "$tool $program $filter" "no such test" "" WRONG ;;
    0) row "$tool $program $filter" "0 errors" "" ok ;;
    124) row "$tool $program $filter" "too slow" "$limit s" skipped ;;
    *) row "$tool $program $filter" "exit $rc" "$(grep -m1 SUMMARY "$log" | sed 's/=* *//')" WRONG ;;
    esac
}

sanitizers() { # their rows into files; adds to jobs
    local tool program names t
    while read -r program names; do
        for tool in memcheck initcheck synccheck; do
            one_tool $tool "$program" '*' > "$out/rows.z1$tool-$program" & jobs+=($!)
        done
        for t in $names; do
            one_tool racecheck "$program" "test_$t" > "$out/rows.z2$program-$t" & jobs+=($!)
        done
    done << 'END'
test_cuda_ops linear linear_rows tiles norms elementwise patch_embed normalise_heads
test_cuda_halves attention halves
test_cuda_observers observers observing
test_cuda_columns scale_columns moments take_rows
test_cuda_int8 norms products residuals rows factors
test_cuda_int8_attention attention own_scales own_products heads
test_cuda_int8_blocks halves blocks few
test_cuda_v2 integer_halves float_halves
END
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

# Models of other libraries on this GPU against those libraries.
families() {
    timeout 560 "$python" tests/peers/check_families.py "$PWD" --all --backend cuda > "$out/families.txt" 2>&1
    case $? in
    0) row "models of timm, torchvision, transformers" "$(tail -1 "$out/families.txt" | cut -d, -f1)" \
        "$(tail -1 "$out/families.txt" | cut -d, -f3)" ok ;;
    77) row "models of timm, torchvision, transformers" "" "no PyTorch" skipped ;;
    *) row "models of timm, torchvision, transformers" "failed" \
        "$(grep -m1 FAILED "$out/families.txt" | cut -c1-60)" WRONG ;;
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
        sanitizers
    fi
    if wanted exports; then exports > "$out/rows.z3exports" & jobs+=($!); fi
    if wanted families; then families > "$out/rows.z4families" & jobs+=($!); fi
    if wanted peers; then # compile once beforehand
        for t in 1 32 64; do
            "$python" tests/peers/timm_speed.py --only compile --batch-size $t --seconds 0.1 \
                > "$out/warm$t.txt" 2>&1 & jobs+=($!)
        done
        for t in $(wanted variants && awk '$2 != "-" { print $2 }' "$parts/variants.txt"); do
            "$python" tests/peers/timm_speed.py --only compile --batch-size 32 --seconds 0.1 --model "$t" \
                > "$out/warm-$t.txt" 2>&1 & jobs+=($!)
        done
    fi
    say "correctness: ${#jobs[@]} programs side by side"
    wait "${jobs[@]}"
    cat "$out"/rows.* >> "$out/table.txt"
    grep -q 'WRONG$' "$out/table.txt" && bad=1
}
