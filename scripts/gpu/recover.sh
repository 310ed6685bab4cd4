# What recovery takes and gives on all shared images. Sourced by gpu_check.sh: $bin, $out, $cfg, row, say, wrong, verdict, result.
# shellcheck shell=bash disable=SC2154

# one_recovery MODE NAME SECONDS DB PERCENT: a calibration with 80 images, then the integer engine on all; empty: no limit
one_recovery() {
    local m=$1 r=$2 s a b
    say "recovery: mode $m, $r"
    if ! s=$(seconds_of "recover-$m-$r" timeout 90 "$bin/swin-calib" "${common[@]}" --num-calib-batch 10 --calib-batchsz 8 \
        --recover "$r" --int8-mode "$m" --calib-output-path "$out/recover.h5"); then
        wrong "--recover $r, mode $m" "failed" "$(tail -1 "$out/recover-$m-$r.err" | cut -c1-60)"
        return
    fi
    "$bin/swin-eval" "${common[@]}" --calib "$out/recover.h5" --precision fp32,int8 --batch-size 64 --json \
        > "$out/recovered-$m-$r.txt" 2> "$out/recovered.err" ||
        { wrong "--recover $r, mode $m" "failed" "$(tail -1 "$out/recovered.err" | cut -c1-60)"; return; }
    a=$(result int8 sqnr_db "recovered-$m-$r") b=$(result int8 agreement "recovered-$m-$r")
    row "--recover $r, mode $m, whole program" "$s s" "${3:+under $3 s}" "${3:+$(verdict "$s" "$3")}"
    row "--recover $r, mode $m, SQNR on 5,000 images" "${a:0:5} dB" "${4:+$4 or more}" "${4:+$(verdict_least "$a" "$4")}"
    row "--recover $r, mode $m, agreement, top-1" "$b %, $(result int8 top1 "recovered-$m-$r")" "${5:+$5 % or more}" \
        "${5:+$(verdict_least "$b" "$5")}"
    rm -f "$out/recover.h5"
}

recover() {
    local data=${SWIN_TEST_DATA:-} ckpt
    ckpt=$data/weights/swin_tiny_patch4_window7_224_tin200_fp16.pth
    if [[ -z $data || ! -f $ckpt ]]; then
        row "recovery on 5,000 images" "no data" "SWIN_TEST_DATA" skipped
        return
    fi
    local common=(--backend cuda --cfg $cfg --resume "$ckpt" --data-path "$data/tiny-imagenet")
    one_recovery 3 none "" 36.5 ""
    one_recovery 3 fast 5 38.0 98.6
    one_recovery 3 best 60 39.0 98.8
    one_recovery 1 fast "" 33.6 ""
    one_recovery 1 best "" 34.2 ""
}
