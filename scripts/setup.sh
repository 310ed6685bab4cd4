#!/usr/bin/env bash
# Install what building and testing need, through apt, on Debian 12 and Ubuntu 24.04. Does nothing when all is there.
#
#   scripts/setup.sh [--dry-run] [--fuzz] [--coverage] [--format] [--peers]
#
# As root, or through sudo. The last flags add the tools of scripts/fuzz.sh, coverage.sh, format.sh and test.sh --peers.
set -euo pipefail

jpeg=libjpeg62-turbo-dev
if [[ -r /etc/os-release ]] && (. /etc/os-release && [[ "${ID:-} ${ID_LIKE:-}" == *ubuntu* ]]); then
    jpeg=libjpeg-turbo8-dev
fi

# "package probe...": missing when the probe fails
needs=(
    "build-essential cc --version"
    "cmake cmake --version"
    "ninja-build ninja --version"
    "pkg-config pkg-config --version"
    "$jpeg header jpeglib.h"
    "libpng-dev pkg-config --exists libpng"
    "libzip-dev pkg-config --exists libzip"
    "libyaml-dev pkg-config --exists yaml-0.1"
    "libhdf5-dev any_hdf5"
    "libssl-dev pkg-config --exists libcrypto"
    "libjansson-dev pkg-config --exists jansson"
    "libprotobuf-c-dev pkg-config --exists libprotobuf-c"
    "protobuf-c-compiler protoc-c --version"
    "libonnx-dev any_onnx"
    "libcmocka-dev header cmocka.h"
)
dry=0
for flag in "$@"; do
    case $flag in
    --dry-run) dry=1 ;;
    --fuzz) needs+=("clang clang --version") ;;
    --coverage) needs+=("gcovr gcovr --version") ;;
    --format) needs+=("clang-format-14 clang-format-14 --version") ;;
    --peers) needs+=("python3-venv python3 -m ensurepip --version") ;;
    *)
        echo "setup.sh: unknown flag $flag" >&2
        exit 2
        ;;
    esac
done

header() { echo "#include <stdio.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <$1>" | cc -E -; }
any_hdf5() { pkg-config --exists hdf5 || pkg-config --exists hdf5-serial || header hdf5.h; }
any_onnx() { compgen -G "/usr/include/onnx/onnx*.proto" || compgen -G "/usr/local/include/onnx/onnx*.proto"; }

missing=()
for need in "${needs[@]}"; do
    read -r package probe <<<"$need"
    # shellcheck disable=SC2086 # the probe is a command and its words
    $probe >/dev/null 2>&1 || missing+=("$package")
done
if [[ ${#missing[@]} -eq 0 ]]; then
    echo "setup: nothing to install"
    exit 0
fi

echo "setup: missing: ${missing[*]}"
install=(apt-get install -y --no-install-recommends "${missing[@]}")
[[ $dry -eq 1 ]] && exit 0
if ! command -v apt-get >/dev/null; then
    echo "setup: no apt-get here; install these by hand (Debian's names): ${missing[*]}" >&2
    exit 1
fi
as_root=()
if [[ $(id -u) -ne 0 ]]; then
    if ! command -v sudo >/dev/null; then
        echo "setup: neither root nor sudo; have an administrator run: ${install[*]}" >&2
        exit 1
    fi
    as_root=(sudo)
fi
export DEBIAN_FRONTEND=noninteractive
run() { ${as_root[@]+"${as_root[@]}"} "$@" </dev/null; }
run apt-get update -qq || echo "setup: apt-get update failed; trying with the lists that are there" >&2
run "${install[@]}"
