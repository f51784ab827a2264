#!/usr/bin/env bash
# build.sh PROGRAM FLAGS...: compiles the kernels of the target's instruction sets, their driver and the checks into
# PROGRAM. CXX: the compiler (default g++). JOBS: how many files at a time (default: the processors).
set -euo pipefail

program=$1
shift
cxx=${CXX:-g++}
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
checkout=$(cd "$here/../.." && pwd)
native=$checkout/robustlab/kernels/native
work=$(mktemp -d "${TMPDIR:-/tmp}/robustlab-native.XXXXXX")
trap 'rm -rf "$work"' EXIT

# The flags that CMakeLists.txt gives an instruction set.
flags_of() { sed -n "s/^ *instruction_set($1 *\(.*\))/\1/p" "$checkout/CMakeLists.txt"; }
accepts() { echo 'int main() {}' | "$cxx" "$@" -x c++ -fsyntax-only - 2>/dev/null; }

case $("$cxx" -dumpmachine) in
  x86_64*) candidates="avx2 avx512" ;;
  aarch64*) candidates=neon ;;
  *) candidates= ;;
esac
common="-std=c++17 -g1 -ffp-contract=off -fno-fast-math -Wall -Wextra"
for set in $candidates; do
  # shellcheck disable=SC2046
  if accepts $(flags_of "$set"); then
    common+=" -DROBUSTLAB_${set^^}"
    for source in "$native/$set"/*.cpp; do
      # GCC's own intrinsics headers set off these two warnings
      echo "$set-$(basename "$source").o -O3 $(flags_of "$set") -Wno-maybe-uninitialized -Wno-uninitialized -c $source"
    done
  fi
done >"$work/list"
for source in "$native"/scalar/*.cpp; do echo "scalar-$(basename "$source").o -O3 -c $source"; done >>"$work/list"
# all but the Python module
for source in $(grep -L -e nanobind -e peaks "$native"/*.cpp); do echo "$(basename "$source").o -O2 -c $source"; done >>"$work/list"
for source in "$here"/*.cpp; do echo "check-$(basename "$source").o -O1 -c $source"; done >>"$work/list"
sed -i "s|^|$work/|" "$work/list"

while read -r line; do
  # flags given to this script come last but for the source, so that they win
  echo "-o ${line% -c *} $* -c ${line##* -c }"
done <"$work/list" >"$work/commands"
# shellcheck disable=SC2086
xargs -a "$work/commands" -P "${JOBS:-$(nproc)}" -L 1 "$cxx" $common
# shellcheck disable=SC2046,SC2086
"$cxx" $common "$@" $(cut -d' ' -f1 "$work/list") -pthread -ldl -o "$program"
