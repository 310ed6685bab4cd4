#!/usr/bin/env bash
# What only a GPU can tell, in one command: correctness, compute-sanitizer on small shapes, calibration and
# evaluation of the shared data, speed, the peers; one table at the end.
#
#   scripts/bundle.sh; then, on the machine, with the bundle copied there: bundle/gpu_check.sh [OUT_FOLDER]
#
# SWIN_TEST_DATA     the shared test data; without it what needs it is skipped, visibly
# SWIN_CHECK_SKIP    words out of: correctness; sanitizer exports families (all with correctness); data int8 recover
#                    speed peers variants
# PYTHON, PEERS      a Python with torch and timm (python3), and which peers (compile,tf32)
# The exit status says whether all was correct; a missed speed is a line of the table. Logs: OUT_FOLDER.
set -uo pipefail
cd "$(dirname "$0")" || exit 1
parts=$PWD/gpu
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

# shellcheck disable=SC1090
for part in correctness data recover speed; do source "$parts/$part.sh" || exit 1; done

rm -f "$out"/rows.*
wanted correctness && correctness
{
    wanted data && data
    wanted int8 && int8
    wanted recover && recover
    wanted speed && speed
    wanted peers && peers
    wanted speed && versus
    wanted variants && variants
} >> "$out/table.txt"
{
    echo
    machine
    cat "$out/table.txt"
    [[ $bad == 0 ]] && echo "all correct" || echo "SOMETHING IS WRONG"
    echo "$((SECONDS - start)) s; logs in $out"
} | tee "$out/summary.txt"
exit $bad
