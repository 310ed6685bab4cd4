#!/usr/bin/env bash
# Every program: --help lists each flag with its range or choices and its default; a wrong flag, value or file
# exits 2 and the message names the flag.
set -u
bin=${SWIN_BIN_DIR:-build/bin}
failed=0 checks=0
fail() {
    echo "FAILED: $*"
    failed=1
}

common="cfg opts resume data-path backend device threads strict quiet verbose json help version"
flags_of() {
    case $1 in
    swin-calib)
        echo "split num-calib-batch calib-batchsz sample seed int8-mode calibrator percentile histogram recover"
        echo "calib-output-path report $common"
        ;;
    swin-eval)
        echo "calib precision split batch-size limit weight-granularity max-drop min-agreement layers dump"
        echo "dump-images report $common"
        ;;
    swin-export) echo "calib format output weights-out list help version" ;;
    swin-bench) echo "precision batch-size int8-mode $common" ;;
    swin-info) echo "json help version" ;;
    esac
}

# run program args...: sets rc, out, err
run() {
    "$@" >"$tmp/out" 2>"$tmp/err" </dev/null
    rc=$?
    err=$(cat "$tmp/err")
    checks=$((checks + 1))
}
# usage "words" program args...: exits 2, prints nothing on stdout, and names the words
usage() {
    local words=$1
    shift
    run "$@"
    [[ $rc -eq 2 ]] || fail "$*: exit $rc instead of 2: $err"
    grep -qF -e "$words" "$tmp/err" || fail "$*: the message lacks '$words': $err"
    [[ -s $tmp/out ]] && fail "$*: stdout is not empty"
}
has() { grep -qE "^  --$1( |\$)" "$tmp/help"; }

tmp=$(mktemp -d "${TMPDIR:-/tmp}/swin-help-XXXXXX")
trap 'rm -rf "$tmp"' EXIT

programs=0
for name in swin-calib swin-eval swin-export swin-bench swin-info; do
    p=$bin/$name
    if [[ ! -x $p ]]; then
        echo "skipped $name: not built"
        continue
    fi
    programs=$((programs + 1))
    run "$p" --help
    [[ $rc -eq 0 && ! -s $tmp/err ]] || fail "$name --help: exit $rc, stderr: $err"
    cp "$tmp/out" "$tmp/help"
    grep -q "$name - " "$tmp/help" || fail "$name --help does not say what it is"
    for flag in $(flags_of $name); do
        has "$flag" || fail "$name --help does not list --$flag"
    done
    # Each flag's line ends with [range, choices and default], but for those without effect.
    while IFS= read -r line; do
        checks=$((checks + 1))
        case $line in
        *"accepted, no effect"* | "  --help "* | "  --version "*) ;;
        *default*"]" | *"|"*"]") ;;
        *) fail "$name --help: no range or default: $line" ;;
        esac
    done < <(grep -E '^  --' "$tmp/help")
    [[ $(wc -L <"$tmp/help") -le 220 ]] || fail "$name --help: a line of $(wc -L <"$tmp/help") columns"

    run "$p" --version
    [[ $rc -eq 0 && -s $tmp/out ]] || fail "$name --version: exit $rc"
    usage "--no-such-flag" "$p" --no-such-flag
    usage "--no-such-flag" "$p" --no-such-flag=3
    usage "-x" "$p" -x
    if has threads; then
        usage "--threads" "$p" --threads 99999
        usage "--threads" "$p" --threads -1
        usage "--threads" "$p" --threads two
        usage "--threads" "$p" --threads 2x
        usage "--threads" "$p" --threads ''
        usage "--threads" "$p" --threads 99999999999999999999
        usage "--threads" "$p" --threads
        usage "--backend" "$p" --backend tpu
        usage "--backend" "$p" --backend
    fi
    if has cfg && [[ $name != swin-info && $name != swin-export ]]; then # those have other needs first
        usage "--" "$p"
        usage "--cfg" "$p" --cfg "$tmp/absent.yaml" --resume "$tmp/absent.pth" --data-path "$tmp"
        usage "--cfg" "$p" --cfg "$tmp" --resume "$tmp/absent.pth" --data-path "$tmp"
    fi
    has batch-size && usage "--batch-size" "$p" --batch-size 0
    has percentile && usage "--percentile" "$p" --percentile nan
    has percentile && usage "--percentile" "$p" --percentile 101
    has int8-mode && usage "--int8-mode" "$p" --int8-mode 4
    has calibrator && usage "--calibrator" "$p" --calibrator magic
    has max-drop && usage "--max-drop" "$p" --max-drop -1
    has min-agreement && usage "--min-agreement" "$p" --min-agreement 100.5
    has precision && usage "--precision" "$p" --precision fp32,fp17
    has precision && usage "--precision" "$p" --precision ''
done

# swin-eval's own combinations.
if [[ -x $bin/swin-eval ]]; then
    p=$bin/swin-eval
    touch "$tmp/m.yaml" "$tmp/m.pth"
    set -- --cfg "$tmp/m.yaml" --resume "$tmp/m.pth"
    usage "--resume" "$p" --cfg "$tmp/m.yaml"
    usage "--resume" "$p" --cfg "$tmp/m.yaml" --resume "$tmp/absent.pth"
    usage "--data-path" "$p" "$@"
    usage "--data-path" "$p" "$@" --data-path "$tmp/absent"
    set -- "$@" --data-path "$tmp"
    usage "--report" "$p" "$@" --report "$tmp/r.txt"
    usage "--report" "$p" "$@" --report "$tmp/r.json,"
    usage "--report" "$p" "$@" --report "$tmp/absent/r.json"
    usage "--dump" "$p" "$@" --dump "$tmp"
    usage "--calib" "$p" "$@" --precision int8-sim
    usage "--calib" "$p" "$@" --calib "$tmp/absent.h5"
    usage "--max-drop" "$p" "$@" --max-drop 1 --precision fp32,fp16
    usage "operand" "$p" "$@" operand
fi

# swin-bench's.
if [[ -x $bin/swin-bench ]]; then
    usage "--observers" "$bin/swin-bench" --cfg configs/swin_demo_patch4_window7_112.yaml --precision fp32,int8 --observers
fi

echo "$checks checks of $programs programs"
if [[ $programs -eq 0 ]]; then
    echo "skipped: no programs in $bin"
    exit 77
fi
exit $failed
