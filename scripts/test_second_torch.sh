#!/usr/bin/env bash
# The tests on a second torch: results must not depend on sub-gradients or defaults that torch changed between versions.
#
#   scripts/test_second_torch.sh                        the oldest torch that is supported
#   scripts/test_second_torch.sh 2.13.0 0.28.0          another torch, and the torchvision made for it
#   scripts/test_second_torch.sh 2.6.0 0.21.0 -k attack further arguments go to pytest
#
# Makes a fresh environment in a temporary folder and downloads that torch. Python: python3, or PYTHON=...
set -euo pipefail

checkout=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
torch=${1:-2.6.0}
torchvision=${2:-0.21.0}
shift $(($# < 2 ? $# : 2))

work=$(mktemp -d "${TMPDIR:-/tmp}/robustlab-torch.XXXXXX")
trap 'rm -rf "$work"' EXIT
if [ -z "${ROBUSTLAB_DATA:-}" ] && [ -d "$checkout/../shared/data" ]; then
  ROBUSTLAB_DATA=$(cd "$checkout/../shared/data" && pwd)
  export ROBUSTLAB_DATA
fi
export PIP_DISABLE_PIP_VERSION_CHECK=1 OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
unset PYTHONPATH PYTHONHOME

"${PYTHON:-python3}" -m venv "$work/venv"
export VIRTUAL_ENV="$work/venv" PATH="$work/venv/bin:$PATH"
cd "$checkout"
pip install --quiet "torch==$torch" "torchvision==$torchvision" '.[test]'
pip list | grep -E '^(torch|torchvision|numpy|robustlab) '
pytest -p no:cacheprovider "$@"
