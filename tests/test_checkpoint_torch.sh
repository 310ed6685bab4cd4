#!/usr/bin/env bash
# Checkpoints that torch itself wrote give the checkpoint_sha256 that Python computes from its definition.
set -euo pipefail
cd "$(dirname "$0")/.."
bin=${SWIN_BIN_DIR:-build/bin}
python=${SWIN_PYTHON:-python3}
if [ ! -x "$bin/swin-info" ]; then
    echo "skipped: no $bin/swin-info"
    exit 77
fi
if ! "$python" -c 'import torch' 2>/dev/null; then
    echo "skipped: no torch in $python (SWIN_PYTHON)"
    exit 77
fi
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
want=$("$python" tests/support/torch_forms.py "$folder")
count=0
for file in "$folder"/*; do
    text=$("$bin/swin-info" --quiet "$file") || { echo "FAILED: $(basename "$file") cannot be read"; exit 1; }
    got=$(awk '/checkpoint_sha256/ { print $2 }' <<<"$text")
    if [ "$got" != "$want" ]; then
        echo "FAILED: $(basename "$file"): '$got' instead of $want"
        echo "$text"
        exit 1
    fi
    count=$((count + 1))
done
# What cannot be read is named and counted: integers among the tensors, float8 tensors.
"$python" - "$folder" <<'EOF'
import sys, torch
late = {"a.weight": torch.zeros(4).to(torch.float8_e4m3fn), "b.weight": torch.zeros(4).to(torch.float8_e5m2)}
torch.save({"model": late}, sys.argv[1] + "/late.pth")
torch.save({"model": {**late, "c.weight": torch.zeros(2), "epoch": 3, "args": None}}, sys.argv[1] + "/mixed.pth")
EOF
said=$("$bin/swin-info" "$folder/late.pth" 2>&1) && { echo "FAILED: a float8 checkpoint was read"; exit 1; }
grep -q 'a.weight (torch.float8_e4m3fn): none of its 2 tensors' <<<"$said" || { echo "FAILED: float8: $said"; exit 1; }
said=$("$bin/swin-info" "$folder/mixed.pth" 2>&1 >/dev/null) || true
grep -q '2 tensors of a type that cannot be read, left out: a.weight (torch.float8_e4m3fn) the first' <<<"$said" &&
    grep -q '2 entries beside the tensors, left out: epoch (int) the first' <<<"$said" ||
    { echo "FAILED: what was left out: $said"; exit 1; }
[ "$count" -ge 20 ] || { echo "FAILED: only $count forms were written"; exit 1; }
echo "$count forms of one checkpoint: one checkpoint_sha256, $want"
