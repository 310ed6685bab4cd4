# What must be fast, with the peers in the same run. Sourced by gpu_check.sh: $bin, $out, $python, $cfg, row, say, wanted, wrong, verdict.
# shellcheck shell=bash disable=SC2154

median() {
    awk -F, -v p="$1" -v b="$2" '$1 == p && $2 == b && $3 != "" { print $3 }' "$out/bench.csv" | tail -1
}
peer() { awk -F, -v p="timm $1" -v b="$2" '$1 == p && $2 == b { print $3 }' "$out/peers.csv" 2> /dev/null; }

speed() {
    local bench=("$bin/swin-bench" --backend cuda --cfg $cfg) extra
    say "swin-bench"
    "${bench[@]}" --precision fp16,bf16,tf32,fp32,int8 --batch-size 1,8,32,64,256 --seconds 0.4 --tune --csv \
        > "$out/bench.csv" 2> "$out/bench.err" || wrong swin-bench failed "$(tail -1 "$out/bench.err")"
    row "FP32, batch 64" "$(median fp32 64) ms" "under 24.9 ms" "$(verdict "$(median fp32 64)" 24.9)"
    row "TF32, batch 64" "$(median tf32 64) ms" "under 9 ms" "$(verdict "$(median tf32 64)" 9)"
    ratio=$(awk -v a="$(median bf16 64)" -v b="$(median fp16 64)" 'BEGIN { printf "%.3f", a / b }')
    row "BF16 against FP16, batch 64" "$ratio" "within 1.03" "$(verdict "$ratio" 1.03)"
    "${bench[@]}" --precision fp16,fp32 --batch-size 64 --seconds 0.6 --observers --floors --csv \
        > "$out/observers.csv" 2> "$out/observers.err" ||
        wrong "swin-bench --observers" failed "$(tail -1 "$out/observers.err")"
    for p in fp16 fp32; do
        extra=$(awk -F, -v p=$p '$1 == p && $2 == 64 && $7 != "" { print $7 }' "$out/observers.csv" | tail -1)
        row "observers at every site, $p, batch 64" "+$extra ms" "at most 6 ms" "$(verdict "$extra" 6)"
    done
}

peers() {
    say "peers"
    "$python" tests/peers/timm_speed.py --only "${PEERS:-compile,tf32}" --batch-size 1,32,64 --seconds 0.7 \
        > "$out/peers.csv" 2> "$out/peers.err" ||
        row "timm" "failed" "$(tail -1 "$out/peers.err" | cut -c1-40)" skipped
}

versus() {
    local b bar p
    for b in 1 32 64; do
        p=$(peer compile "$b") bar=$([[ $b == 1 ]] && echo 1.5 || echo 1.6)
        if [[ -z $p ]]; then row "FP16, batch $b" "$(median fp16 "$b") ms" "no peer" ""; continue; fi
        row "FP16, batch $b" "$(median fp16 "$b") ms" "timm compiled $p ms" \
            "$(awk -v a="$(median fp16 "$b")" -v p="$p" -v l="$bar" \
                'BEGIN { r = p / a; printf "%.2f times, %s", r, (r >= l ? "ok" : "MISSED (" l ")") }')"
    done
    [[ -z $(peer tf32 64) ]] || row "TF32, batch 64" "$(median tf32 64) ms" "timm eager $(peer tf32 64) ms" ""
    int8_speed
}

# INT8 against our FP16 and against the peer; modes 1 and 2 against mode 3.
int8_speed() {
    local b bar p m r
    for b in 1 32 64; do
        case $b in 1) bar=2 ;; 32) bar=2.5 ;; *) bar=3 ;; esac
        p=$(peer compile "$b") r=$(quotient "$(median fp16 "$b")" "$(median int8 "$b")")
        row "INT8 mode 3, batch $b" "$(median int8 "$b") ms" "FP16 / INT8 $r" "$(times "$p" "$(median int8 "$b")" "$bar")"
    done
    for m in 1 2; do
        "$bin/swin-bench" --backend cuda --cfg $cfg --precision int8 --int8-mode $m --batch-size 1,32,64,256 --seconds 0.3 \
            --csv > "$out/bench-int8-$m.csv" 2>> "$out/bench.err"
        for b in 1 32 64 256; do
            p=$(awk -F, -v b=$b '$1 == "int8" && $2 == b && $3 != "" { print $3 }' "$out/bench-int8-$m.csv" | tail -1)
            r=$(quotient "$p" "$(median int8 "$b")")
            row "INT8 mode $m, batch $b" "$p ms" "mode 3 times $r" "$(verdict "$r" 1.15)"
        done
    done
}

quotient() { awk -v a="$1" -v b="$2" 'BEGIN { if (a != "" && b + 0 > 0) printf "%.2f", a / b }'; }
times() { # PEER OURS BAR
    awk -v p="$1" -v a="$2" -v l="$3" 'BEGIN {
        if (p == "") print "no peer"; else { r = p / a; printf "compile / it %.2f, %s", r, (r >= l ? "ok" : "MISSED (" l ")") } }'
}

# Every Swin at batch 32, random weights: FP16, INT8 and, where a bar names it, timm under torch.compile.
variants() {
    local c fp16 int8 p timm bar
    say "every Swin, batch 32"
    while read -r c timm bar; do
        "$bin/swin-bench" --backend cuda --cfg "configs/$c.yaml" --precision fp16,int8 --batch-size 32 --seconds 0.3 --csv \
            > "$out/variant.csv" 2> "$out/variant.err" ||
            { wrong "$c" "failed" "$(tail -1 "$out/variant.err" | cut -c1-60)"; continue; }
        fp16=$(awk -F, '$1 == "fp16" && $3 != "" { print $3 }' "$out/variant.csv" | tail -1)
        int8=$(awk -F, '$1 == "int8" && $3 != "" { print $3 }' "$out/variant.csv" | tail -1)
        p=
        if wanted peers && [[ $timm != - ]]; then
            p=$("$python" tests/peers/timm_speed.py --only compile --batch-size 32 --seconds 0.4 --model "$timm" \
                2> "$out/peer-$timm.err" | awk -F, '$2 == 32 { print $3 }')
        fi
        row "${c%_22kto1k*}" "$fp16 $int8 ms" "FP16/INT8 $(quotient "$fp16" "$int8")$bar compile $p" \
            "${p:+$(quotient "$p" "$fp16") $(quotient "$p" "$int8")}"
    done < "$parts/variants.txt"
}
