#!/usr/bin/env bash
# swin-export against ONNX Runtime, OpenVINO and independent computations, with the Python that SWIN_PYTHON names (scripts/test.sh
# --peers makes one). The shared checkpoint and images when they are there, else the embedded demo's. SWIN_PEER_IMAGES: how
# many; below 256 the whole INT8 networks are not compared.
set -u
cd "$(dirname "$0")/.."
python=${SWIN_PYTHON:-}
if [[ -z $python ]] || ! "$python" -c 'import numpy' 2>/dev/null; then
    echo "skipped: SWIN_PYTHON names no Python with numpy"
    exit 77
fi
bin=${SWIN_BIN_DIR:-build/bin}
tools=${SWIN_BUILD_DIR:-build}/tests
data=${SWIN_TEST_DATA:-../shared/data}
tmp=$(mktemp -d "${TMPDIR:-/tmp}/swin-peers-XXXXXX")
trap 'rm -rf "$tmp"' EXIT
ckpt=$data/weights/swin_tiny_patch4_window7_224_tin200_fp16.pth
if [[ -r $ckpt ]]; then
    printf 'MODEL:\n  TYPE: swin\n  NAME: swin_tiny\n  NUM_CLASSES: 200\n' >"$tmp/model.yaml"
    cfg=$tmp/model.yaml
    images=$data/tiny-imagenet
else
    cfg=configs/swin_demo_patch4_window7_112.yaml
    ckpt=tests/demo/swin_demo.safetensors
    images=$tmp/images
    "$tools/make_images" --output "$images" --train 8 --val 77 >/dev/null || exit 1
fi
"$python" tests/peers/check_export.py --bin "$bin" --tools "$tools" --cfg "$cfg" --resume "$ckpt" --data-path "$images" \
    --work "$tmp" --images "${SWIN_PEER_IMAGES:-768}" --images2 "${SWIN_PEER_IMAGES:-256}"
