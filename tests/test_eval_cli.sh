#!/usr/bin/env bash
# swin-eval from outside: exit codes, the forms of the report, and one result whatever the layout of the data
# set, the thread count and the batch size. The first part runs the repository's demo network on drawn images;
# the second, a trained Swin-T on Tiny-ImageNet from the shared test data (SWIN_EVAL_IMAGES=500 makes it long).
set -u
cd "$(dirname "$0")/.."
source tests/support/cli.sh
need "$bin"/swin-{eval,calib} "$tools"/{make_images,tool_subset,tool_random_model}
evaluate() { expect "$1" "$2" "$bin/swin-eval" "${@:3}"; } # CODE words args...
nothing_left() { # what: no result, whole or half, under the name gone.*
    compgen -G "$tmp/gone.*" >/dev/null && fail "$1 leaves $(echo "$tmp"/gone.*)"
}

# ---- one result, however it is computed ----------------------------------------------------------
cfg=configs/swin_demo_patch4_window7_112.yaml
model=tests/demo/swin_demo.safetensors
if [[ ! -e $model ]]; then
    echo "note: no $model; random weights stand in"
    model=$tmp/random.safetensors
    "$tools/tool_random_model" "$cfg" "$model" 1 || fail "tool_random_model"
fi
for layout in folder zip; do
    flag=()
    [[ $layout == zip ]] && flag=(--zip)
    "$tools/make_images" --output "$tmp/$layout" --train 8 --val 50 "${flag[@]}" >/dev/null ||
        fail "make_images $layout"
done
net=(--cfg "$cfg" --resume "$model" --backend cpu --quiet)
"$bin/swin-calib" "${net[@]}" --data-path "$tmp/folder" --num-calib-batch 5 \
    --calib-output-path "$tmp/calib.h5" >/dev/null || fail "swin-calib"
gone=(--report "$tmp/gone.json" --dump "$tmp/gone.h5") # what a failed run must not leave
start=$SECONDS n=0
while read -r layout batch threads precision limit; do
    n=$((n + 1))
    evaluate 0 acc@1 "${net[@]}" --precision "$precision" --calib "$tmp/calib.h5" --data-path "$tmp/$layout" \
        --limit "$limit" --batch-size "$batch" --threads "$threads" \
        --report "$tmp/$n.json,$tmp/$n.csv,$tmp/$n.html" --dump "$tmp/$n.h5" --dump-images 9
    cp "$tmp/out" "$tmp/$n.txt"
    [[ $n -eq 1 ]] && continue
    like=1 # every 500 images, and every 100, are alike
    [[ $limit -eq 100 ]] && like=6
    for form in json csv html txt; do
        same "$form, $layout, batch $batch, $threads threads" "$tmp/$like.$form" "$tmp/$n.$form"
    done
    # A zip's images have no class in their names, as in the official sets: its dumps hold other names.
    [[ $layout == folder ]] && like=$((like + 1))
    same "logits and layers, $layout, batch $batch, $threads threads" "$tmp/$like.h5" "$tmp/$n.h5"
done <<EOF
zip 64 4 fp32 500
folder 64 2 fp32 500
folder 7 4 fp32 500
zip 7 1 fp32 500
folder 1 4 fp32 500
zip 64 4 fp32,bf16,int8,int8-sim 100
folder 7 4 fp32,bf16,int8,int8-sim 100
folder 1 1 fp32,bf16,int8,int8-sim 100
EOF
echo "$n runs over 500 or 100 images in $((SECONDS - start)) s; of 100:"
grep -E '^(fp32|bf16|int8)' "$tmp/6.txt"
set -- "${net[@]}" --data-path "$tmp/folder"
evaluate 0 acc@1 "$@" --precision fp32 --backend ref --limit 20
evaluate 0 acc@1 "$@" --precision int8,int8-sim --calib "$tmp/calib.h5" --weight-granularity tensor --limit 20
evaluate 0 int8 "$@" --calib "$tmp/calib.h5" --limit 20
for row in fp32 fp16 int8; do
    grep -q "^$row[ *]" "$tmp/out" || fail "no $row in the default table: $(cat "$tmp/out")"
done
grep -q '^int8-sim' "$tmp/out" && fail "int8-sim in the default table: $(cat "$tmp/out")"
evaluate 0 "20 of split train" "$@" --limit 20 --split train

# ---- forms and labels ----------------------------------------------------------------------------
evaluate 0 '"fp16"' "$@" --limit 40 --batch-size 7 --precision bf16,fp16 --json \
    --report "$tmp/a.json,$tmp/a.csv,$tmp/a.html"
same "--json and the .json file" "$tmp/out" "$tmp/a.json"
grep -q '"emulated": true' "$tmp/a.json" || fail "emulation is not labelled in JSON"
grep -q '^fp16,yes,40,' "$tmp/a.csv" || fail "emulation is not labelled in CSV: $(cat "$tmp/a.csv")"
grep -q 'fp16 (emulated)' "$tmp/a.html" || fail "emulation is not labelled in HTML"
[[ $(wc -l <"$tmp/a.csv") -eq 4 ]] || fail "CSV has not one line per precision: $(cat "$tmp/a.csv")"
grep -qF -e "$(hostname)" -e "$PWD" -e "$tmp" "$tmp"/a.* "$tmp/1.json" && fail "a path or host name in a report"
evaluate 0 "fp16*" "$@" --precision fp16 --limit 8
grep -q '^fp32 ' "$tmp/out" || fail "fp32 does not run as the reference"
evaluate 0 "layers.2.blocks.1" "$@" --limit 2 --precision bf16 --layers

# ---- limits --------------------------------------------------------------------------------------
evaluate 3 "--min-agreement 100: bf16 agrees" "$@" --precision bf16 --min-agreement 100 --report "$tmp/b.json"
grep -q '^bf16' "$tmp/out" || fail "no table where a limit is missed"
[[ -s $tmp/b.json ]] || fail "no report where a limit is missed"
agreement=$(grep '^bf16' "$tmp/out" | awk '{ print $4 }')
evaluate 0 acc@1 "$@" --precision bf16 --min-agreement "$agreement" --limit 0
evaluate 0 "fp16" "$@" --precision bf16 --max-drop 99 --limit 20

# ---- images --------------------------------------------------------------------------------------
mkdir "$tmp/few"
"$tools/tool_subset" "$tmp/folder" val 60 "$tmp/few" || fail "tool_subset"
few=$tmp/few/folder
evaluate 0 '"top1"' "${net[@]}" --data-path "$few" --precision fp32 --json
cp "$tmp/out" "$tmp/sound.json"
echo "not an image" >"$few/val/c00001/broken <&>.JPEG"
evaluate 0 "left out, because they cannot be decoded: 1" "${net[@]}" --data-path "$few" --precision fp32
evaluate 0 'c00001/broken <&>.JPEG' "${net[@]}" --data-path "$few" --precision fp32 --batch-size 7 --json \
    --report "$tmp/c.html"
grep -q 'broken &lt;&amp;&gt;.JPEG' "$tmp/c.html" || fail "a name is not escaped in HTML"
same "results without the broken image" <(grep -E '"(top1|top5|images|image_list_sha256)"' "$tmp/sound.json") \
    <(grep -E '"(top1|top5|images|image_list_sha256)"' "$tmp/out")
evaluate 1 "broken <&>.JPEG" "${net[@]}" --data-path "$few" --precision fp32 --strict "${gone[@]}"
nothing_left "--strict"
find "$few/val" -type f -exec sh -c 'echo broken >"$1"' _ {} \;
evaluate 1 "can be decoded" "${net[@]}" --data-path "$few" --precision fp32 "${gone[@]}"
nothing_left "a set of broken images"
for class in a b c d e f g h i j k; do
    mkdir -p "$tmp/wide/val/$class"
    cp "$(find "$tmp/folder/val" -name '*.JPEG' | sort | head -1)" "$tmp/wide/val/$class/"
done
evaluate 1 "labels up to 10" "${net[@]}" --data-path "$tmp/wide"
mkdir -p "$tmp/empty/val"
evaluate 1 "$tmp/empty" "${net[@]}" --data-path "$tmp/empty"
evaluate 1 "nosuchsplit" "$@" --split nosuchsplit

# ---- files that do not belong together -----------------------------------------------------------
"$tools/tool_random_model" "$cfg" "$tmp/other.safetensors" 7 || fail "tool_random_model"
evaluate 1 "checkpoint" --cfg "$cfg" --resume "$tmp/other.safetensors" --data-path "$tmp/folder" \
    --calib "$tmp/calib.h5"
head -c 3000 "$tmp/calib.h5" >"$tmp/cut.h5"
evaluate 1 "cut.h5" "$@" --calib "$tmp/cut.h5"
evaluate 2 "--calib's" "$@" --calib "$tmp/calib.h5" --dump "$tmp/calib.h5"
evaluate 2 "--dump's" "$@" --report "$tmp/one.json" --dump "$tmp/one.json"
evaluate 1 "head" "$@" --opts MODEL.NUM_CLASSES 11

# ---- numbers that cannot be ranked ---------------------------------------------------------------
"$tools/tool_random_model" "$cfg" "$tmp/large.safetensors" 1 overflow || fail "tool_random_model"
evaluate 1 "fp16: logits of" --cfg "$cfg" --resume "$tmp/large.safetensors" --data-path "$tmp/folder" --limit 9 \
    --backend cpu --precision fp16 --report "$tmp/d.json" --quiet
grep -q '"nonfinite": 9' "$tmp/d.json" || fail "bad logits are not counted: $(cat "$tmp/d.json")"

# ---- interruption, full disks --------------------------------------------------------------------
if [[ -w /dev/full ]]; then
    "$bin/swin-eval" "$@" --limit 2 --precision fp32 >/dev/full 2>"$tmp/err"
    [[ $? -eq 1 ]] || fail "a full standard output is not an error: $(cat "$tmp/err")"
fi
"$bin/swin-eval" "$@" --precision fp32 --backend ref --batch-size 1 "${gone[@]}" >/dev/null 2>"$tmp/err" &
pid=$!
for _ in $(seq 50); do
    [[ -e $tmp/gone.h5.tmp ]] && break
    sleep 0.1
done
kill -INT $pid
wait $pid
rc=$?
[[ $rc -eq 130 ]] || fail "Ctrl-C: exit $rc instead of 130: $(cat "$tmp/err")"
nothing_left "Ctrl-C"

# ---- Swin-T --------------------------------------------------------------------------------------
model=$data/weights/swin_tiny_patch4_window7_224_tin200_fp16.pth
cfg=configs/swin_tiny_patch4_window7_224.yaml
if [[ ! -e $model || ! -e $data/tiny-imagenet/val.zip ]]; then
    echo "skipped: no Swin-T and Tiny-ImageNet in the test data (SWIN_TEST_DATA)"
else
    images=${SWIN_EVAL_IMAGES:-16}
    start=$SECONDS n=0
    mkdir "$tmp/tiny"
    "$tools/tool_subset" "$data/tiny-imagenet" val "$images" "$tmp/tiny" || fail "tool_subset"
    while read -r layout batch threads; do
        n=$((n + 1))
        evaluate 0 acc@1 --cfg "$cfg" --resume "$model" --backend cpu --quiet --precision fp32 \
            --data-path "$tmp/tiny/$layout" --batch-size "$batch" --threads "$threads" \
            --report "$tmp/t$n.json" --dump "$tmp/t$n.h5"
        same "Swin-T: report, $layout, batch $batch, $threads threads" "$tmp/t1.json" "$tmp/t$n.json"
        same "Swin-T: logits and layers, $layout, batch $batch, $threads threads" "$tmp/t1.h5" "$tmp/t$n.h5"
    done <<<"zip 64 4
folder 7 4
zip 1 1"
    echo "Swin-T: $n runs over $images images in $((SECONDS - start)) s"
fi
finish
