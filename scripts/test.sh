#!/usr/bin/env bash
# Every test that this machine can run: install what is missing, build, ctest, then the unit tests once more under the
# address and undefined-behaviour sanitizers. What was skipped is counted and said.
#
#   scripts/test.sh [--asan] [--peers] [--no-setup]
#
#   --asan      every test under the sanitizers (slow); by default only the unit tests that need no shared test data
#   --peers     make .venv with the Python packages that the comparisons with other programs need, and run those too (half
#               an hour of two cores; SWIN_PEER_IMAGES, 768 by default, makes it shorter)
#   --no-setup  install nothing
#
# Environment: SWIN_TEST_DATA (shared test data, default ../shared/data), SWIN_PYTHON (a Python for the comparisons),
# SWIN_JOBS (parallel jobs, default one for each processor).
set -euo pipefail
cd "$(dirname "$0")/.."

asan=0 peers=0 setup=1
for flag in "$@"; do
    case $flag in
    --asan) asan=1 ;;
    --peers) peers=1 ;;
    --no-setup) setup=0 ;;
    *)
        echo "test.sh: unknown flag $flag" >&2
        exit 2
        ;;
    esac
done
jobs=${SWIN_JOBS:-$(nproc)}
start=$SECONDS
say() { echo "== [$((SECONDS - start)) s] $*"; }

# A virtual environment with what the comparisons import; the toolkit itself never needs Python.
make_venv() {
    [[ -x .venv/bin/python ]] || python3 -m venv .venv
    .venv/bin/python -c 'import numpy, h5py, PIL, onnx, onnxruntime, safetensors, openvino, torch, timm' 2>/dev/null && return
    .venv/bin/python -m pip install --quiet numpy h5py pillow onnx onnxruntime safetensors
    .venv/bin/python -m pip install --quiet openvino || echo "no openvino here: its comparisons are skipped and counted"
    .venv/bin/python -m pip install --quiet torch torchvision --index-url https://download.pytorch.org/whl/cpu ||
        .venv/bin/python -m pip install --quiet torch torchvision
    .venv/bin/python -m pip install --quiet timm transformers ||
        echo "no timm or transformers here: their comparisons are skipped and counted"
}

# run_ctest FOLDER ctest-flags...: output to FOLDER/ctest.log; failures in full. Returns ctest's status.
run_ctest() {
    local folder=$1 status=0
    shift
    ctest --test-dir "$folder" --output-on-failure --no-tests=error --parallel "$jobs" "$@" </dev/null \
        >"$folder/ctest.log" 2>&1 || status=$?
    grep -vE '^(Internal ctest changing|Test project|    Start )' "$folder/ctest.log" || true
    return $status
}

# What ran inside the programs: cmocka's cases and the reasons of those that were skipped.
summary() { # build folder
    local log=$1/Testing/Temporary/LastTest.log
    [[ -f $log ]] || return 0
    # cmocka's own totals: "[  PASSED  ] 7 test(s)." and " 2 SKIPPED TEST(S)"
    total() { grep -oE "$1" "$log" | grep -oE '[0-9]+' | awk '{ n += $1 } END { print n + 0 }'; }
    echo "cases in C test programs: $(total '^\[  PASSED  \] [0-9]+ test') passed," \
        "$(total '^ *[0-9]+ FAILED TEST') failed, $(total '^ *[0-9]+ SKIPPED TEST') skipped" \
        "($(total '^skipped: [0-9]+ tests? needs? a GPU') of them for want of a GPU)"
    local reasons
    reasons=$(grep -ohE '(^|[] ])skipped: .*' "$log" | sed 's/^[] ]*//' | sort | uniq -c | sort -rn || true)
    if [[ -n $reasons ]]; then
        echo "skipped, and why (count, reason):"
        echo "$reasons"
    fi
    if grep -q '^SWIN_NVCC:.*nvcc$' "$1/CMakeCache.txt" && ! grep -q '^SWIN_CUDA:[A-Z]*=OFF' "$1/CMakeCache.txt"; then
        echo "CUDA backend: built; GPUs here: $(nvidia-smi -L 2>/dev/null | grep -c '^GPU' || true)"
    else
        echo "CUDA backend: not built here, its tests skipped (count above)"
    fi
}

setup_flags=()
[[ $peers -eq 0 ]] || setup_flags=(--peers)
[[ $setup -eq 0 ]] || scripts/setup.sh ${setup_flags[@]+"${setup_flags[@]}"}
if [[ $peers -eq 1 ]]; then
    say "Python packages for the comparisons"
    make_venv
    export SWIN_PYTHON=$PWD/.venv/bin/python
fi

mapfile -t scripts_names < <(cd tests && ls test_*.sh | sed 's/\.sh$//')
not_scripts="^($(IFS='|' && echo "${scripts_names[*]}"))$"
failed=0

say "building"
if [[ $asan -eq 1 ]]; then
    scripts/build.sh asan-ubsan
    say "every test under the sanitizers"
    run_ctest build-asan-ubsan || failed=1
    summary build-asan-ubsan
    grep 'tests passed' build-asan-ubsan/ctest.log || true
    exit $failed
fi
scripts/build.sh release
say "testing"
run_ctest build || failed=1
summary build
closing=$(grep 'tests passed' build/ctest.log || echo "ctest did not finish: see build/ctest.log")

# The whole command stays under 25 minutes on two cores.
if [[ $((SECONDS - start)) -lt 720 ]]; then
    say "unit tests under the sanitizers"
    scripts/build.sh asan-ubsan >build/asan.log 2>&1 || { cat build/asan.log && exit 1; }
    SWIN_TEST_DATA=/nonexistent run_ctest build-asan-ubsan --exclude-regex "$not_scripts" --timeout 240 || failed=1
    summary build-asan-ubsan
else
    say "no time left for the unit tests under the sanitizers: scripts/test.sh --asan runs them"
fi
say "result"
echo "$closing"
exit $failed
