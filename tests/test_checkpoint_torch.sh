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
[ "$count" -ge 20 ] || { echo "FAILED: only $count forms were written"; exit 1; }
echo "$count forms of one checkpoint: one checkpoint_sha256, $want"
