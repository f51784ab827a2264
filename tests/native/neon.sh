#!/usr/bin/env bash
# neon.sh [--required] [CASES [SEED [ONLY]]]: the checks for 64-bit ARM, cross-compiled and run in an emulator. Without
# the compiler or the emulator it says so and ends well, unless --required is given.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
required=no
if [ "${1:-}" = --required ]; then
  required=yes
  shift
fi
export CXX=${CXX_AARCH64:-aarch64-linux-gnu-g++}
emulator=${QEMU_AARCH64:-qemu-aarch64}
for tool in "$CXX" "$emulator"; do
  if ! command -v "$tool" >/dev/null; then
    echo "native kernels on 64-bit ARM: skipped, no $tool (Debian: g++-aarch64-linux-gnu, qemu-user)"
    [ "$required" = no ]
    exit
  fi
done
work=$(mktemp -d "${TMPDIR:-/tmp}/robustlab-native.XXXXXX")
trap 'rm -rf "$work"' EXIT
"$here/build.sh" "$work/checks"
"$emulator" -L "/usr/$("$CXX" -dumpmachine)" "$work/checks" "$@"
