#!/usr/bin/env bash
# swin-export as a user meets it: the list, exit codes, messages, files whole or absent, on the embedded demo model.
set -u
cd "$(dirname "$0")/.."
source tests/support/cli.sh
need "$bin"/swin-{calib,export} "$tools/make_images"
cfg=configs/swin_demo_patch4_window7_112.yaml
ckpt=tests/demo/swin_demo.safetensors
export_to() { # FORMAT FILE [WORDS]: from the mode 1 file
    local format=$1 file=$2
    shift 2
    "$bin/swin-export" --calib "$tmp/m1.h5" --format "$format" --output "$file" "$@" >"$tmp/out" 2>"$tmp/err"
}
"$tools/make_images" --output "$tmp/images" --train 1 --val 0 >/dev/null || exit 1
for mode in 1 3; do
    "$bin/swin-calib" --cfg $cfg --resume $ckpt --data-path "$tmp/images" --num-calib-batch 1 --backend cpu --quiet --recover none \
        --int8-mode $mode --calib-output-path "$tmp/m$mode.h5" >/dev/null || exit 1
done

"$bin/swin-export" --list >"$tmp/list" || fail "--list"
formats=$(awk '{ print $1 }' "$tmp/list")
[[ $(wc -l <"$tmp/list") -eq 11 ]] || fail "$(wc -l <"$tmp/list") formats are listed"
for format in $formats; do
    file=$tmp/a_$format
    [[ $format = pytorch ]] && file=$file.npz
    export_to "$format" "$file" --resume $ckpt || fail "$format: $(cat "$tmp/err")"
    [[ -s $file ]] || fail "$format wrote nothing"
    # the same again, elsewhere, with the model named by --cfg: equal bytes
    mkdir -p "$tmp/other"
    export_to "$format" "$tmp/other/${file##*/}" --resume $ckpt --cfg $cfg || fail "$format: $(cat "$tmp/err")"
    diff -r "$file" "$tmp/other/${file##*/}" >/dev/null || fail "$format: other bytes the second time"
done
echo "$(echo "$formats" | wc -l) formats written twice"
# a configuration that leaves the number of classes open takes it from the head, as the calibration did
sed /NUM_CLASSES/d $cfg >"$tmp/open.yaml"
export_to onnx-qdq "$tmp/other/open" --resume $ckpt --cfg "$tmp/open.yaml" || fail "open.yaml: $(cat "$tmp/err")"
cmp "$tmp/a_onnx-qdq" "$tmp/other/open" || fail "onnx-qdq: other bytes with NUM_CLASSES left out"

# older toolkits' flags are noted, unless --quiet stands anywhere
export_to csv "$tmp/other/csv" --eval --local_rank 0
[[ $(grep -c "has no effect here" "$tmp/err") -eq 2 ]] || fail "two flags without effect: $(cat "$tmp/err")"
export_to csv "$tmp/other/csv" --eval --quiet
[[ ! -s $tmp/err ]] || fail "--quiet: $(cat "$tmp/err")"

x=("$bin/swin-export")
expect 2 "--format" "${x[@]}" --calib "$tmp/m1.h5"
expect 2 "--format nothing" "${x[@]}" --calib "$tmp/m1.h5" --format nothing --output "$tmp/x"
expect 2 "--output" "${x[@]}" --calib "$tmp/m1.h5" --format csv
expect 2 "--calib" "${x[@]}" --format csv --output "$tmp/x"
expect 2 "--calib" "${x[@]}" --calib "$tmp/none.h5" --format csv --output "$tmp/x"
expect 2 "--calib's" "${x[@]}" --calib "$tmp/m1.h5" --format csv --output "$tmp/m1.h5"
expect 2 "--resume" "${x[@]}" --calib "$tmp/m1.h5" --format onnx-qdq --output "$tmp/x"
expect 2 "--resume" "${x[@]}" --cfg $cfg --format onnx-float --output "$tmp/x"
expect 2 "--trt-version" "${x[@]}" --calib "$tmp/m1.h5" --format tensorrt-cache --output "$tmp/x" --trt-version 12
expect 1 "$ckpt" "${x[@]}" --calib $ckpt --format csv --output "$tmp/x"
expect 1 "$tmp/nowhere/x" "${x[@]}" --calib "$tmp/m1.h5" --format csv --output "$tmp/nowhere/x"
for format in ft-scales tensorrt-cache onnxruntime openvino-fq pytorch; do
    expect 1 "layers.0.blocks.0" "${x[@]}" --calib "$tmp/m3.h5" --format $format --output "$tmp/x"
done

# mode 3 with all that recovery changes by default, GELU's factors among it
"$bin/swin-calib" --cfg $cfg --resume $ckpt --data-path "$tmp/images" --num-calib-batch 1 --backend cpu --quiet --int8-mode 3 \
    --calib-output-path "$tmp/fast.h5" >/dev/null || exit 1
f=("${x[@]}" --calib "$tmp/fast.h5" --resume $ckpt)
for format in onnx-qdq onnx-float onnx-fp16; do
    "${f[@]}" --format $format --output "$tmp/fast_$format" >/dev/null 2>"$tmp/err" || fail "fast, $format: $(cat "$tmp/err")"
    grep -qa 'mlp.fc2._input/inverse_factor' "$tmp/fast_$format" || fail "$format has no factors"
done
"${f[@]}" --format json --output "$tmp/fast.json" --weights-out "$tmp/fast.safetensors" >/dev/null 2>"$tmp/err" ||
    fail "fast, json: $(cat "$tmp/err")"
grep -q '"factors"' "$tmp/fast.json" || fail "json has no factors"
expect 1 "--weights-out" "${f[@]}" --format csv --output "$tmp/x"
expect 1 "--recover ranges,bias" "${f[@]}" --weights-out "$tmp/x"
for format in ft-scales ft-weights tensorrt-cache onnxruntime openvino-fq pytorch; do
    expect 1 "--int8-mode 1 or 2" "${f[@]}" --format $format --output "$tmp/x" --weights-out "$tmp/y"
done
[[ ! -e $tmp/x && ! -e $tmp/x.tmp && ! -e $tmp/y ]] || fail "a refused export left a file"

# a disk that fills up: the reason is said, and nothing stands under a final name
for format in $formats; do
    file=$tmp/full_$format
    [[ $format = pytorch ]] && file=$file.npz
    (
        trap '' XFSZ
        ulimit -f 2 # times 1024 bytes
        exec "$bin/swin-export" --calib "$tmp/m1.h5" --resume $ckpt --format "$format" --output "$file" >/dev/null
    ) 2>"$tmp/err"
    [[ $? -eq 1 ]] || fail "$format on a full disk: $(cat "$tmp/err")"
    grep -q "cannot write" "$tmp/err" || fail "$format on a full disk says: $(cat "$tmp/err")"
    [[ -z $(find "$tmp"/full_* -type f 2>/dev/null) ]] || fail "$format on a full disk left $(find "$tmp"/full_* -type f)"
done

# without --cfg and --calib the checkpoint says what network it is
"$bin/swin-export" --resume $ckpt --format onnx-float --output "$tmp/guessed.onnx" >/dev/null 2>"$tmp/err" ||
    fail "no --cfg: $(cat "$tmp/err")"
[[ $(stat -c %s "$tmp/guessed.onnx") -ge $(($(stat -c %s "$tmp/a_onnx-float") - 200)) ]] || fail "no --cfg: another network"

# another checkpoint than the one that was calibrated
"$bin/swin-export" --calib "$tmp/m1.h5" --resume $ckpt --weights-out "$tmp/same.safetensors" >/dev/null 2>&1 ||
    fail "--weights-out alone"
"$bin/swin-export" --calib "$tmp/m1.h5" --resume "$tmp/same.safetensors" --format onnx-qdq --output "$tmp/b.onnx" \
    >/dev/null 2>"$tmp/err" || fail "the written checkpoint is not the one calibrated: $(cat "$tmp/err")"
cmp -s "$tmp/b.onnx" "$tmp/a_onnx-qdq" || fail "the written checkpoint gives another model"
size=$(stat -c %s "$tmp/same.safetensors")
printf '\x41' | dd of="$tmp/same.safetensors" bs=1 seek=$((size - 2)) conv=notrunc status=none
expect 1 "another checkpoint" "${x[@]}" --calib "$tmp/m1.h5" --resume "$tmp/same.safetensors" --format onnx-qdq --output "$tmp/x"

# names of another graph; the version in the header
awk -F, 'NR > 1 && $3 == 1 && $2 != "weight" { print $1 "\tgraph/" $1 }' "$tmp/a_csv" >"$tmp/map"
export_to tensorrt-cache "$tmp/named" --name-map "$tmp/map" --trt-version 8501 || fail "--name-map: $(cat "$tmp/err")"
[[ $(head -1 "$tmp/named") = TRT-8501-EntropyCalibration2 ]] || fail "header $(head -1 "$tmp/named")"
[[ $(grep -c '^graph/layers' "$tmp/named") -eq $(wc -l <"$tmp/map") ]] || fail "names of the map"
sed -i 1d "$tmp/map"
expect 1 "no tensor for 1 enabled sites" "${x[@]}" --calib "$tmp/m1.h5" --format tensorrt-cache --output "$tmp/x" \
    --name-map "$tmp/map"

finish
