#!/usr/bin/env bash
# The full checks of the compressors, in the current environment (`pip install '.[test]'` first): the slow tests, every
# algorithm at every bit-width on the CIFAR-10 ResNet-20, and the trainings. Takes hours; what was stopped goes on.
# Needs ROBUSTLAB_DATA. What it finds is written to docs/compressors.md and benchmarks/. The exit status is 0 only if
# every test passed, every deployed model equals its simulation and every goal is reached.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
root=$PWD
: "${ROBUSTLAB_DATA:?names the folder of real data}"
ROBUSTLAB_DATA=$(cd "$ROBUSTLAB_DATA" && pwd)
export ROBUSTLAB_DATA OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
models=$root/runs/qat
failed=()
mkdir -p "$models"

scripts/test_slow.sh tests/compress tests/bench tests/deploy || failed+=("slow tests")
# From elsewhere: the checkout's root has half of the package.
cd "$(mktemp -d)"
if [ -f "$root/benchmarks/qat.py" ]; then
  python "$root/benchmarks/qat.py" --out "$root/benchmarks/qat.json" --cache "$models" || failed+=("trainings")
fi
python "$root/benchmarks/compressors.py" --models "$models" || failed+=("matrix")

if [ ${#failed[@]} -gt 0 ]; then
  printf 'FAILED: %s\n' "${failed[@]}"
  exit 1
fi
