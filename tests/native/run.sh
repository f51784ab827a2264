#!/usr/bin/env bash
# run.sh [CASES [SEED [ONLY]]]: the checks of the native kernels, for every instruction set of this machine.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
work=$(mktemp -d "${TMPDIR:-/tmp}/robustlab-native.XXXXXX")
trap 'rm -rf "$work"' EXIT
"$here/build.sh" "$work/checks"
"$work/checks" "$@"
