# What recovery takes and gives on all shared images. Sourced by gpu_check.sh: $bin, $out, $cfg, row, say, wrong, verdict, result.
# shellcheck shell=bash disable=SC2154

# one_recovery NAME CHECKPOINT MODE RECOVER SECONDS DB PERCENT: a calibration with 80 images, then the integer engine on all images; an empty
# limit: none. NAME: of files, and of rows unless it is "plain". Sets db and percent.
one_recovery() {
    local ckpt=$2 m=$3 r=$4 s what
    local name=$1-$m-$r
    what="--recover $r, mode $m"
    [[ $1 == plain ]] || what+=", $1"
    local with=(--backend cuda --cfg "$cfg" --resume "$ckpt" --data-path "$data/tiny-imagenet")
    db='' percent=''
    say "recovery: $what"
    if ! s=$(seconds_of "recover-$name" timeout 90 "$bin/swin-calib" "${with[@]}" --num-calib-batch 10 --calib-batchsz 8 \
        --recover "$r" --int8-mode "$m" --calib-output-path "$out/recover.h5"); then
        wrong "$what" "failed" "$(tail -1 "$out/recover-$name.err" | cut -c1-60)"
        return
    fi
    "$bin/swin-eval" "${with[@]}" --calib "$out/recover.h5" --precision fp32,int8 --batch-size 64 --json \
        > "$out/recovered-$name.txt" 2> "$out/recovered.err" ||
        { wrong "$what" "failed" "$(tail -1 "$out/recovered.err" | cut -c1-60)"; return; }
    db=$(result int8 sqnr_db "recovered-$name") percent=$(result int8 agreement "recovered-$name")
    row "$what, whole program" "$s s" "${5:+under $5 s}" "${5:+$(verdict "$s" "$5")}"
    row "$what, SQNR on 5,000 images" "${db:0:5} dB" "${6:+$6 or more}" "${6:+$(verdict_least "$db" "$6")}"
    row "$what, agreement, top-1" "$percent %, $(result int8 top1 "recovered-$name")" "${7:+$7 % or more}" \
        "${7:+$(verdict_least "$percent" "$7")}"
    [[ $name != plain-3-best ]] || time_recovered "${with[@]:0:4}" --resume "$ckpt"
    rm -f "$out/recover.h5"
}

# The recovered file's network (factors, scales of heads, relaxed layers) against made-up ranges, which have none of that.
time_recovered() { # flags of the model
    local b a p r
    "$bin/swin-bench" "$@" --precision int8 --batch-size 1,64 --seconds 0.3 --csv > "$out/plain.csv" 2> "$out/plain.err"
    "$bin/swin-bench" "$@" --precision int8 --batch-size 1,64 --seconds 0.3 --csv --calib "$out/recover.h5" \
        > "$out/recovered.csv" 2>> "$out/plain.err" || { wrong "swin-bench --calib" failed "$(tail -1 "$out/plain.err")"; return; }
    for b in 1 64; do
        a=$(awk -F, -v b=$b '$1 == "int8" && $2 == b { print $3 }' "$out/recovered.csv")
        p=$(awk -F, -v b=$b '$1 == "int8" && $2 == b { print $3 }' "$out/plain.csv")
        r=$(awk -v a="$a" -v p="$p" 'BEGIN { if (p + 0 > 0) printf "%.3f", a / p }')
        row "best's file, mode 3, batch $b" "$a ms" "plain mode 3 times $r" "$(grep -o 'recovery.*' "$out/plain.err" | tail -1)"
    done
}

less() { awk -v a="$1" -v b="$2" 'BEGIN { if (a != "") printf "%.2f", a - b }'; }

# Checkpoints with outlier channels (the same network, held against fast_db and fast_percent) and with outlier outputs (another one).
hard_recovery() {
    local ckpt=$1 tool=tests/tool_harden kind m
    if [[ ! -x $tool ]]; then
        row "recovery of outlier checkpoints" "no $tool" "scripts/bundle.sh" skipped
        return
    fi
    for kind in inputs outputs; do
        "$tool" "$ckpt" "$out/$kind.safetensors" $kind 2> "$out/harden.err" ||
            { wrong "an outlier checkpoint" "failed" "$(tail -1 "$out/harden.err" | cut -c1-60)"; return; }
    done
    one_recovery inputs "$out/inputs.safetensors" 3 none "" "" ""
    for m in 3 1; do
        one_recovery inputs "$out/inputs.safetensors" $m fast "" "$(less "${fast_db[m]:-}" 0.5)" "$(less "${fast_percent[m]:-}" 0.3)"
    done
    one_recovery outputs "$out/outputs.safetensors" 2 none "" "" ""
    one_recovery outputs "$out/outputs.safetensors" 1 best "" "$db" ""
    rm -f "$out"/{in,out}puts.safetensors
}

recover() {
    local data=${SWIN_TEST_DATA:-} ckpt db percent fast_db=() fast_percent=()
    ckpt=$data/weights/swin_tiny_patch4_window7_224_tin200_fp16.pth
    if [[ -z $data || ! -f $ckpt ]]; then
        row "recovery on 5,000 images" "no data" "SWIN_TEST_DATA" skipped
        return
    fi
    one_recovery plain "$ckpt" 3 none "" 36.5 ""
    one_recovery plain "$ckpt" 3 fast 5 38.0 98.6
    fast_db[3]=$db fast_percent[3]=$percent
    one_recovery plain "$ckpt" 3 best 60 39.0 98.8
    one_recovery plain "$ckpt" 1 fast "" 33.6 ""
    fast_db[1]=$db fast_percent[1]=$percent
    one_recovery plain "$ckpt" 1 best "" 34.2 ""
    hard_recovery "$ckpt"
}
