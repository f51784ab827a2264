#!/usr/bin/env bash
# sanitize.sh [CASES [SEED [ONLY]]]: the same cases with AddressSanitizer and UndefinedBehaviorSanitizer; the exit status
# is not 0 if anything is reported.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
work=$(mktemp -d "${TMPDIR:-/tmp}/robustlab-native.XXXXXX")
trap 'rm -rf "$work"' EXIT
"$here/build.sh" "$work/checks" -O1 -fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer
export ASAN_OPTIONS=${ASAN_OPTIONS:-detect_leaks=1:detect_stack_use_after_return=1} UBSAN_OPTIONS=${UBSAN_OPTIONS:-print_stacktrace=1}
"$work/checks" "$@"
echo "native kernels: no reports of AddressSanitizer and UndefinedBehaviorSanitizer"
