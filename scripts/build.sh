#!/usr/bin/env bash
# Configure and build.
#
#   scripts/build.sh [release|debug|asan-ubsan|tsan|coverage|fuzz] [--target NAME]... [-DNAME=VALUE]...
#
# release goes to build/, every other kind to build-<kind>/. Kinds are the files in scripts/cmake/.
set -euo pipefail
cd "$(dirname "$0")/.."

kind=release
if [[ $# -gt 0 && $1 != -* ]]; then
    kind=$1
    shift
fi
if [[ ! -f scripts/cmake/$kind.cmake ]]; then
    echo "build.sh: no kind '$kind'; there are: $(cd scripts/cmake && echo ./*.cmake | sed 's/\.\///g; s/\.cmake//g')" >&2
    exit 2
fi
folder=build
[[ $kind == release ]] || folder=build-$kind

configure=() targets=()
# Said each time, because a folder remembers what the last run said (scripts/demo.sh says OFF).
if [[ $kind == release || $kind == debug ]]; then configure+=(-DSWIN_CUDA=AUTO); fi
while [[ $# -gt 0 ]]; do
    case $1 in
    --target)
        targets+=(--target "${2:?--target wants a name}")
        shift
        ;;
    -D*) configure+=("$1") ;;
    *)
        echo "build.sh: unknown flag $1" >&2
        exit 2
        ;;
    esac
    shift
done

generator=()
if [[ ! -f $folder/CMakeCache.txt ]] && command -v ninja >/dev/null; then generator=(-G Ninja); fi
cmake -B "$folder" -C "scripts/cmake/$kind.cmake" ${generator[@]+"${generator[@]}"} \
    ${configure[@]+"${configure[@]}"}
cmake --build "$folder" --parallel "${SWIN_JOBS:-$(nproc)}" ${targets[@]+"${targets[@]}"}
