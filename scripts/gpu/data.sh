# The shared images and checkpoint: calibration, accuracy, the way from JPEG to logits. Sourced by gpu_check.sh: $bin, $out, $python, $cfg, row, say, wanted, wrong, verdict.
# shellcheck shell=bash disable=SC2154

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
# result PRECISION KEY [LOG]: of swin-eval's JSON
result() {
    tr -d '\n ' < "$out/${3:-eval}.txt" | grep -o "\"$1\":{[^}]*}" | grep -o "\"$2\":[0-9.]*" | cut -d: -f2
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
    same_logits "${common[@]}"
    say "swin-bench --data-path"
    if s=$(seconds_of pipeline "$bin/swin-bench" "${common[@]}" --precision fp16 --batch-size 64 --csv); then
        got=$(awk -F, '$10 == "total" { print $11 }' "$out/pipeline.txt")
        row "5,000 images in FP16, JPEG to logits" "$got s" "under 2.5 s" "$(verdict "$got" 2.5)"
        awk -F, '$10 ~ /limited by/ { print $10 }' "$out/pipeline.txt" >&2
    else wrong "swin-bench --data-path" "failed" "$(tail -1 "$out/pipeline.err")"; fi
}

# The file of all logits for other batch sizes and numbers of threads.
same_logits() {
    local b
    for b in 64:4 7:1 1:16; do
        say "logits of 5,000 images, batches of ${b%:*}"
        "$bin/swin-eval" "$@" --precision fp32,fp16 --batch-size "${b%:*}" --threads "${b#*:}" --dump "$out/same-${b%:*}.h5" \
            --dump-images 0 > "$out/same.txt" 2>&1 || { wrong "swin-eval --batch-size ${b%:*}" "failed" "$(tail -1 "$out/same.txt")"; return; }
    done
    if cmp -s "$out/same-64.h5" "$out/same-7.h5" && cmp -s "$out/same-64.h5" "$out/same-1.h5"; then
        row "5,000 logits, batches 1, 7, 64, threads 16, 1, 4" "equal bytes" "" ok
    else wrong "5,000 logits, batches 1, 7, 64, threads 16, 1, 4" "differ" ""; fi
    same_layouts "$@"
    rm -f "$out"/same-*.h5
}

# The zip's images as a folder of classes: the same logits by the images' names.
same_layouts() {
    local folder=$out/as-folder said
    say "logits of 5,000 images, as a folder"
    "$python" - "$data/tiny-imagenet" "$folder" << 'END' 2> "$out/layouts.txt" || { row "zip and folder" "" "$(tail -1 "$out/layouts.txt" | cut -c1-40)" skipped; return; }
import pathlib, sys, zipfile
source, folder = map(pathlib.Path, sys.argv[1:])
names = (source / "classes.txt").read_text().split()
archive = zipfile.ZipFile(source / "val.zip")
for line in (source / "val_map.txt").read_text().splitlines():
    name, label = line.split("\t")
    to = folder / "val" / names[int(label)] / name
    to.parent.mkdir(parents=True, exist_ok=True)
    to.write_bytes(archive.read(name))
END
    "$bin/swin-eval" "$@" --data-path "$folder" --precision fp32,fp16 --batch-size 64 --dump "$out/same-folder.h5" \
        --dump-images 0 > "$out/same.txt" 2>&1 || { wrong "swin-eval on a folder" "failed" "$(tail -1 "$out/same.txt")"; return; }
    rm -rf "$folder"
    said=$("$python" - "$out/same-64.h5" "$out/same-folder.h5" << 'END' 2>&1
import sys, h5py, numpy as np
def rows(path):
    f = h5py.File(path)
    names = [n.split(b"/")[-1] for n in f["names"][:].tobytes().replace(b"\n", b"\0").split(b"\0") if n]
    order = np.argsort(names)
    return [names[i] for i in order], *(f[p + "/logits"][:][order] for p in ("fp32", "fp16"))
a, b = map(rows, sys.argv[1:])
assert a[0] == b[0], "other images"
print(len(a[0]), "equal" if all((x == y).all() for x, y in zip(a[1:], b[1:])) else "differ")
END
    )
    if [[ $said == "5000 equal" ]]; then row "5,000 logits, zip and folder" "equal" "" ok
    else wrong "5,000 logits, zip and folder" "$(tail -1 <<< "$said" | cut -c1-40)" ""; fi
}

# near A B LIMIT: whether two numbers are so close
near() {
    awk -v a="$1" -v b="$2" -v l="$3" 'BEGIN { d = a - b; if (d < 0) d = -d; print (a != "" && b != "" && d <= l) ? "ok" : "MISSED" }'
}

# The integer engine against its simulation on all images, in each mode.
int8() {
    local data=${SWIN_TEST_DATA:-} ckpt m
    ckpt=$data/weights/swin_tiny_patch4_window7_224_tin200_fp16.pth
    if [[ -z $data || ! -f $ckpt ]]; then
        row "INT8 on 5,000 images" "no data" "SWIN_TEST_DATA" skipped
        return
    fi
    local common=(--backend cuda --cfg $cfg --resume "$ckpt" --data-path "$data/tiny-imagenet")
    for m in 1 2 3; do
        say "INT8, mode $m, 5,000 images"
        "$bin/swin-calib" "${common[@]}" --num-calib-batch 10 --calib-batchsz 8 --recover none --int8-mode $m \
            --calib-output-path "$out/int8-$m.h5" > "$out/int8-calib-$m.txt" 2>&1 &&
            "$bin/swin-eval" "${common[@]}" --calib "$out/int8-$m.h5" --precision fp32,fp16,int8,int8-sim \
                --batch-size 64 --json --dump "$out/int8-dump-$m.h5" --dump-images 0 \
                > "$out/int8-$m.txt" 2> "$out/int8-$m.err" ||
            { wrong "INT8, mode $m" "failed" "$(tail -1 "$out/int8-$m.err" | cut -c1-60)"; continue; }
        int8_rows $m
    done
    pipelines "${common[@]}"
}

int8_rows() {
    local m=$1 a b c d
    a=$(result int8 sqnr_db "int8-$m") b=$(result int8-sim sqnr_db "int8-$m")
    c=$(result int8 agreement "int8-$m") d=$(result int8-sim agreement "int8-$m")
    row "mode $m, SQNR against FP32" "${a:0:5} dB" "int8-sim ${b:0:5}" "$(near "$a" "$b" 0.3)"
    row "mode $m, agreement with FP32" "$c %" "int8-sim $d" "$(near "$c" "$d" 0.5)"
    row "mode $m, top-1" "$(result int8 top1 "int8-$m") %" "FP16 $(result fp16 top1 "int8-$m")" ""
    a=$("$python" -c 'import sys, h5py, numpy as n
f = h5py.File(sys.argv[1]); x, y = (f[e + "/logits"][:].astype(float) for e in ("int8", "int8-sim"))
print("%.2f" % (10 * n.log10((y ** 2).sum() / ((x - y) ** 2).sum())))' "$out/int8-dump-$m.h5" 2> /dev/null)
    rm -f "$out/int8-dump-$m.h5"
    row "mode $m, SQNR between INT8 and int8-sim" "${a:-no h5py} dB" "int8-sim + 2" \
        "$(verdict_least "$a" "$(awk -v b="$b" 'BEGIN { print b + 2 }')")"
}

# From JPEG to logits, FP16 and INT8 side by side in one pass over the images.
pipelines() {
    local s
    "$bin/swin-eval" "$@" --calib "$out/int8-3.h5" --precision fp16,int8 --batch-size 64 > "$out/both.txt" \
        2> "$out/both.err" || { wrong "FP16 and INT8 side by side" "failed" "$(tail -1 "$out/both.err" | cut -c1-60)"; return; }
    s=$(grep -o 'images in [0-9.]* s' "$out/both.err" | grep -o '[0-9.]*')
    row "5,000 images, FP32, FP16 and INT8 side by side" "$s s" "under 3 s without FP32" ""
    "$bin/swin-bench" "$@" --precision int8 --batch-size 64 --csv > "$out/pipeline8.txt" 2> "$out/pipeline8.err"
    s=$(awk -F, '$10 == "total" { print $11 }' "$out/pipeline8.txt")
    row "5,000 images in INT8, JPEG to logits" "$s s" "under 3 s" "$(verdict "$s" 3)"
}
