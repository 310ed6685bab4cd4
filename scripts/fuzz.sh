#!/usr/bin/env bash
# Run every libFuzzer target for a short while.
#
#   scripts/fuzz.sh [SECONDS] [TARGET]...     20 seconds each, all of tests/fuzz_*.c
#
# Corpora are kept in build-fuzz/corpus/<target>, so that later runs go on from them; a crash leaves its input there.
set -euo pipefail
cd "$(dirname "$0")/.."

seconds=${1:-20}
[[ $# -gt 0 ]] && shift
scripts/setup.sh --fuzz
targets=("$@")
[[ ${#targets[@]} -gt 0 ]] || mapfile -t targets < <(cd tests && ls fuzz_*.c 2>/dev/null | sed 's/\.c$//')
if [[ ${#targets[@]} -eq 0 ]]; then
    echo "fuzz: there is no tests/fuzz_*.c"
    exit 0
fi
wanted=()
for t in "${targets[@]}"; do wanted+=(--target "$t"); done
scripts/build.sh fuzz "${wanted[@]}"

failed=0
for t in "${targets[@]}"; do
    corpus=build-fuzz/corpus/$t
    mkdir -p "$corpus"
    # A target may have seeds beside it: tests/fuzz_x.seeds/
    [[ -d tests/$t.seeds ]] && cp -n tests/"$t".seeds/* "$corpus"/
    if ! build-fuzz/fuzz/"$t" -max_total_time="$seconds" -rss_limit_mb=2048 -timeout=20 -print_final_stats=1 \
        -artifact_prefix="build-fuzz/$t-" "$corpus" >"build-fuzz/$t.log" 2>&1; then
        echo "FAILED: $t"
        tail -40 "build-fuzz/$t.log"
        failed=1
        continue
    fi
    echo "$t: $(grep -o 'number_of_executed_units: *[0-9]*' "build-fuzz/$t.log" | grep -o '[0-9]*$') inputs in" \
        "$seconds s, no fault"
done
exit $failed
