#!/usr/bin/env bash
# The tests that do not fit the budget of .ci/run, in the current environment (`pip install '.[test]'` first).
# Arguments go to pytest: scripts/test_slow.sh -k training
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
exec pytest -m slow --durations=20 "$@"
