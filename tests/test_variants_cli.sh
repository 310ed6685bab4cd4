#!/usr/bin/env bash
# Swin V2 from images to INT8 in every mode, checkpoints of every library without --cfg, heads of 22k classes and
# none at all, and what is said where a checkpoint does not fit. Needs no test data.
set -u
cd "$(dirname "$0")/.."
source tests/support/cli.sh
need "$bin"/swin-{calib,eval,info} "$tools"/tool_{tiny,form}
form() { "$tools/tool_form" "$@" || fail "tool_form $*"; }

"$tools/tool_tiny" "$tmp/set" 10 || exit 1
data=(--data-path "$tmp/set" --split train --quiet)

# V2: two blocks, the second shifted; the last stage's window is the whole map.
v2=$tmp/v2.yaml
cat >"$v2" <<END
DATA: {IMG_SIZE: 64}
MODEL: {TYPE: swinv2, NAME: v2_small, NUM_CLASSES: 5,
        SWINV2: {EMBED_DIM: 32, DEPTHS: [2, 1], NUM_HEADS: [2, 4], WINDOW_SIZE: 8}}
END
form "$v2" "$tmp/v2.safetensors" official buffers
net=(--cfg "$v2" --resume "$tmp/v2.safetensors")
for backend in cpu ref; do
    for mode in 1 2 3; do
        expect 0 "attn.mha_q" "$bin/swin-calib" "${net[@]}" "${data[@]}" --backend $backend --num-calib-batch 1 \
            --calib-batchsz 8 --int8-mode $mode --calibrator max --recover none --calib-output-path "$tmp/v2.h5"
        grep -q "78 sites" "$tmp/out" || fail "V2 has not 78 sites: $(tail -1 "$tmp/out")"
        expect 0 "int8-sim" "$bin/swin-eval" "${net[@]}" "${data[@]}" --backend $backend --calib "$tmp/v2.h5" \
            --precision fp32,fp16,bf16,int8,int8-sim
        # SQNR is the last column. Each precision is near fp32, the integer ones near each other (10 images).
        awk -v what="V2 on $backend, mode $mode" '
            $NF ~ /^[0-9.]+$/ { sub(/\*$/, "", $1); db[$1] = $NF }
            END {
                int8 = db["int8"]
                sim = db["int8-sim"]
                printf "%s: fp16 %s, bf16 %s, int8 %s, int8-sim %s dB\n", what, db["fp16"], db["bf16"], int8, sim
                near = int8 - sim < 3 && sim - int8 < 3
                exit !(db["fp16"] > 35 && db["bf16"] > 18 && int8 > 15 && sim > 15 && near)
            }' "$tmp/out" || fail "V2 on $backend, mode $mode: $(cat "$tmp/out")"
    done
done

expect 0 "attn.mha_q" "$bin/swin-calib" "${net[@]}" "${data[@]}" --backend cpu --num-calib-batch 1 --int8-mode 3 \
    --recover fast --calib-output-path "$tmp/recovered.h5"
expect 0 "int8-sim" "$bin/swin-eval" "${net[@]}" "${data[@]}" --backend cpu --calib "$tmp/recovered.h5" \
    --precision int8-sim

# Every library's names, without --cfg: V1's tables tell the network, V2's need the stored coordinates.
expect 0 "names        official" "$bin/swin-info" "$tmp/v2.safetensors"
sha=$(awk '/checkpoint_sha256/ { print $2 }' "$tmp/out")
for names in timm timm-old torchvision; do
    form "$v2" "$tmp/other.safetensors" $names buffers
    expect 0 "names        ${names%-old}" "$bin/swin-info" "$tmp/other.safetensors"
    grep -q "$sha" "$tmp/out" || fail "$names: another checkpoint_sha256"
    expect 0 acc@1 "$bin/swin-eval" --resume "$tmp/other.safetensors" "${data[@]}" --backend cpu --calib "$tmp/v2.h5" \
        --precision fp32,int8-sim --limit 4
done
form "$v2" "$tmp/other.safetensors" transformers
expect 0 "Swin V2" "$bin/swin-info" "$tmp/other.safetensors"
grep -q "$sha" "$tmp/out" && fail "a network whose window is unknown has a hash"
expect 1 "--cfg is needed" "$bin/swin-eval" --resume "$tmp/other.safetensors" "${data[@]}"
expect 0 acc@1 "$bin/swin-eval" --cfg "$v2" --resume "$tmp/other.safetensors" "${data[@]}" --backend cpu \
    --precision fp32

v1=$tmp/set/model.yaml
for names in official timm timm-old torchvision transformers transformers-5; do
    form "$v1" "$tmp/v1.safetensors" $names
    expect 0 acc@1 "$bin/swin-eval" --resume "$tmp/v1.safetensors" "${data[@]}" --backend cpu --precision fp32 --limit 4
done

# Another network's checkpoint, a truncated one, none.
expect 1 "leave --cfg out" "$bin/swin-eval" --cfg "$v1" --resume "$tmp/v2.safetensors" "${data[@]}"
head -c 100000 "$tmp/v1.safetensors" >"$tmp/cut.safetensors"
expect 1 "cut.safetensors" "$bin/swin-eval" --resume "$tmp/cut.safetensors" "${data[@]}"
expect 1 "neither a .pth" "$bin/swin-eval" --resume "$v1" "${data[@]}"

# A feature extractor: no evaluation, but calibration.
form "$v1" "$tmp/body.safetensors" timm no-head
expect 1 "no classification head" "$bin/swin-eval" --resume "$tmp/body.safetensors" "${data[@]}"
expect 1 "no-head" "$bin/swin-calib" --resume "$tmp/body.safetensors" "${data[@]}" \
    --calib-output-path "$tmp/body.h5"
expect 0 "72 sites" "$bin/swin-calib" --no-head --resume "$tmp/body.safetensors" "${data[@]}" --backend cpu \
    --num-calib-batch 1 --calib-output-path "$tmp/body.h5"
expect 0 "no head" "$bin/swin-info" "$tmp/body.safetensors"
expect 0 "72 sites" "$bin/swin-info" "$tmp/body.h5"

# A head of 22k classes: as it is, with the rows that a map names, with a map that is not for it.
sed 's/NUM_CLASSES: .*/NUM_CLASSES: 21841/' "$v1" >"$tmp/v1_22k.yaml"
grep -q 21841 "$tmp/v1_22k.yaml" || fail "the 22k configuration"
form "$tmp/v1_22k.yaml" "$tmp/22k.safetensors" timm
printf '%s\n' 20000 17 3 21840 9 >"$tmp/map.txt"
expect 0 "21841 classes" "$bin/swin-info" "$tmp/22k.safetensors"
expect 1 "--map22k FILE" "$bin/swin-eval" --resume "$tmp/22k.safetensors" "${data[@]}"
expect 0 acc@1 "$bin/swin-eval" --resume "$tmp/22k.safetensors" --map22k "$tmp/map.txt" "${data[@]}" \
    --backend cpu --precision fp32
expect 0 "72 sites" "$bin/swin-calib" --resume "$tmp/22k.safetensors" --map22k "$tmp/map.txt" "${data[@]}" --backend cpu \
    --num-calib-batch 1 --calib-output-path "$tmp/22k.h5"
expect 0 acc@1 "$bin/swin-eval" --resume "$tmp/22k.safetensors" --map22k "$tmp/map.txt" "${data[@]}" --backend cpu \
    --calib "$tmp/22k.h5" --precision fp32,int8-sim
expect 1 "20000 of a head that has 5" "$bin/swin-eval" --resume "$tmp/v1.safetensors" \
    --map22k "$tmp/map.txt" "${data[@]}"
expect 2 "--map22k" "$bin/swin-eval" --resume "$tmp/v1.safetensors" --map22k "$tmp/none.txt" "${data[@]}"

finish
