#!/usr/bin/env bash
# Random-weight models that timm, torchvision and transformers build and save, run by our programs: same logits, one
# checkpoint_sha256. SWIN_PYTHON names a Python that has them with torch and safetensors; SWIN_PEER_ALL=1: the large ones too.
set -u
cd "$(dirname "$0")/.."
python=${SWIN_PYTHON:-}
build=${SWIN_BUILD_DIR:-build}
if [[ -z $python ]] || ! "$python" -c 'import torch, safetensors' 2>/dev/null; then
    echo "skipped: SWIN_PYTHON names no Python with torch and safetensors (timm, torchvision and transformers to compare with)"
    exit 77
fi
if [[ ! -x $build/tests/tool_logits ]]; then
    echo "skipped: $build/tests/tool_logits is not built"
    exit 77
fi
"$python" tests/peers/check_families.py "$build" ${SWIN_PEER_ALL:+--all}
