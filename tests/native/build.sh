#!/usr/bin/env bash
# build.sh PROGRAM FLAGS...: compiles the kernels of the target's instruction sets and the checks into PROGRAM.
# CXX: the compiler (default g++). JOBS: how many files at a time (default: the processors).
set -euo pipefail

program=$1
shift
cxx=${CXX:-g++}
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
native=$(cd "$here/../../robustlab/kernels/native" && pwd)
work=$(mktemp -d "${TMPDIR:-/tmp}/robustlab-native.XXXXXX")
trap 'rm -rf "$work"' EXIT

accepts() { echo 'int main() {}' | "$cxx" "$@" -x c++ -fsyntax-only - 2>/dev/null; }

# What CMakeLists.txt gives every instruction set.
declare -A flags=([scalar]="")
machine=$("$cxx" -dumpmachine)
case $machine in
  x86_64*)
    avx512="-mavx512f -mavx512bw -mavx512vl -mavx512vnni -mavx512vpopcntdq"
    accepts -mavx2 -mpopcnt && flags[avx2]="-mavx2 -mpopcnt"
    # GCC's own intrinsics headers set off these two warnings
    accepts $avx512 && [ -d "$native/avx512" ] && flags[avx512]="$avx512 -Wno-maybe-uninitialized -Wno-uninitialized"
    ;;
  aarch64*) flags[neon]="" ;;
esac

common="-std=c++17 -O3 -g1 -ffp-contract=off -fno-fast-math -Wall -Wextra"
for set in "${!flags[@]}"; do
  [ "$set" = scalar ] || common+=" -DROBUSTLAB_${set^^}"
done

objects=()
{
  for set in "${!flags[@]}"; do
    for source in "$native/$set"/*.cpp; do echo "$work/$set-$(basename "$source").o ${flags[$set]} -c $source"; done
  done
  for source in "$here"/*.cpp; do echo "$work/$(basename "$source").o -c $source"; done
} >"$work/list"
# shellcheck disable=SC2016
xargs -a "$work/list" -P "${JOBS:-$(nproc)}" -L 1 "$cxx" $common "$@" -o
mapfile -t objects < <(cut -d' ' -f1 "$work/list")
"$cxx" $common "$@" "${objects[@]}" -pthread -o "$program"
