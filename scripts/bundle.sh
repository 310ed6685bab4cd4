#!/usr/bin/env bash
# Gather the programs, the tests and every shared library they need into one folder that runs on a bare machine with the
# same C library or a newer one: scripts/bundle.sh [BUILD_FOLDER] [BUNDLE_FOLDER]
#
# The CUDA driver is found at run time; the C library and the loader stay the machine's own.
set -euo pipefail
cd "$(dirname "$0")/.."
build=${1:-build} bundle=${2:-bundle}
command -v patchelf >/dev/null || { echo "bundle.sh: patchelf is needed (apt-get install patchelf)" >&2; exit 1; }

rm -rf "$bundle"
mkdir -p "$bundle/bin" "$bundle/lib" "$bundle/tests"
cp "$build"/bin/swin-* "$bundle/bin/"
for t in "$build"/tests/test_cuda_* ; do
    [[ -x $t && -f $t ]] && cp "$t" "$bundle/bin/"
done
cp -r configs "$bundle/"
mkdir -p "$bundle/tests/support"
cp -r tests/peers tests/golden "$bundle/tests/"
cp tests/support/rng.py "$bundle/tests/support/"
# What the comparisons with ONNX Runtime and with other libraries' models need.
mkdir -p "$bundle/tests/demo"
cp tests/test_export_peers.sh "$bundle/tests/"
cp tests/demo/swin_demo.safetensors "$bundle/tests/demo/"
tools=(tool_sites tool_random_model tool_logits tool_harden make_images)
cp "${tools[@]/#/$build/tests/}" "$bundle/tests/"
cp -r scripts/gpu_check.sh scripts/gpu "$bundle/"

# What the loader would find here, without the C library's own parts.
libraries() {
    ldd "$@" 2>/dev/null | awk '$2 == "=>" && $3 ~ /^\// { print $3 }' | sort -u |
        grep -vE '/(libc|libm|libpthread|libdl|librt|libresolv|ld-linux[^/]*)\.so'
}
programs=("$bundle"/bin/* "${tools[@]/#/$bundle/tests/}")
libraries "${programs[@]}" | while read -r lib; do cp -L "$lib" "$bundle/lib/"; done
for f in "${programs[@]}"; do
    strip --strip-unneeded "$f"
    patchelf --set-rpath '$ORIGIN/../lib' "$f"
done
for f in "$bundle"/lib/*; do patchelf --set-rpath '$ORIGIN' "$f"; done
du -sh "$bundle" | awk '{ print "bundle: " $1 " in " $2 }'
