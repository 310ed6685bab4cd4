#!/usr/bin/env bash
# Format every C, header and CUDA file with clang-format 14.
#
#   scripts/format.sh [--check]     --check changes nothing and fails where something would change
set -euo pipefail
cd "$(dirname "$0")/.."

tool=$(command -v clang-format-14 || command -v clang-format || true)
if [[ -z $tool ]]; then
    echo "format.sh: no clang-format; scripts/setup.sh --format installs it" >&2
    exit 1
fi
mapfile -t files < <(git ls-files '*.c' '*.h' '*.cu' '*.cuh')
if [[ ${1:-} == --check ]]; then
    "$tool" --dry-run --Werror "${files[@]}"
    echo "format: ${#files[@]} files are as $("$tool" --version) wants them"
else
    "$tool" -i "${files[@]}"
fi
