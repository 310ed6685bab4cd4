# tests/support/cli.sh - what the tests of programs share; sourced from the repository's root, with `set -u`.
#
# Sets bin, tools, data (shared test data), tmp (removed at exit), failed and checks. A test ends with `finish`.
bin=${SWIN_BIN_DIR:-build/bin}
tools=${SWIN_BUILD_DIR:-build}/tests
data=${SWIN_TEST_DATA:-../shared/data}
failed=0 checks=0
tmp=$(mktemp -d "${TMPDIR:-/tmp}/swin-$(basename "$0" .sh)-XXXXXX") || exit 1
trap 'rm -rf "$tmp"' EXIT

fail() {
    echo "FAILED: $*"
    failed=1
}

# need PROGRAM...: skip the test where one is not built
need() {
    local program
    for program; do
        [[ -x $program ]] && continue
        echo "skipped: $program is not built"
        exit 77
    done
}

# expect CODE words command...: it exits with CODE, and its output ($tmp/out) or message ($tmp/err) contains the words
expect() {
    local code=$1 words=$2 rc
    shift 2
    checks=$((checks + 1))
    "$@" >"$tmp/out" 2>"$tmp/err" </dev/null
    rc=$?
    [[ $rc -eq $code ]] || fail "exit $rc instead of $code: $*: $(head -c 700 "$tmp/err")"
    grep -qF -e "$words" "$tmp/out" "$tmp/err" ||
        fail "no '$words' from $*: $(cat "$tmp/out" "$tmp/err" | head -c 700)"
}

same() { # what file file
    checks=$((checks + 1))
    cmp "$2" "$3" >"$tmp/cmp" 2>&1 || fail "$1: $(cat "$tmp/cmp")"
}

finish() {
    echo "$checks checks"
    exit "$failed"
}
