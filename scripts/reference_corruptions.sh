#!/usr/bin/env bash
# Build the pinned environment in which imagecorruptions 1.1.2 runs, and run the driver in it.
#
#   scripts/reference_corruptions.sh                     build (once) and print the environment's Python
#   scripts/reference_corruptions.sh DRIVER [ARG...]     build (once) and run DRIVER with that Python
#
# The package cannot be imported with setuptools >= 82 (it needs pkg_resources), three of its functions fail with
# today's scikit-image and NumPy 2, and it pulls a second OpenCV: so it has an environment of its own, in
# ROBUSTLAB_REFERENCE (default: ~/.cache/robustlab/imagecorruptions-1.1.2). PYTHON names the interpreter (3.10 or 3.11).
set -euo pipefail

python=${PYTHON:-python3}
folder=${ROBUSTLAB_REFERENCE:-${XDG_CACHE_HOME:-$HOME/.cache}/robustlab/imagecorruptions-1.1.2}
packages=(
  "setuptools==80.9.0" "numpy==1.26.4" "scipy==1.11.4" "scikit-image==0.21.0" "pillow==11.3.0"
  "opencv-python-headless==4.10.0.84"
)

unset PYTHONPATH PYTHONHOME
if [ ! -e "$folder/ready" ]; then
  {
    rm -rf "$folder"
    "$python" -m venv "$folder"
    export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_INPUT=1 PIP_QUIET=1
    "$folder/bin/python" -m pip install --only-binary :all: "${packages[@]}"
    # Without its dependencies: opencv-python (with a GUI) would replace the headless one.
    "$folder/bin/python" -m pip install --no-deps --no-build-isolation "imagecorruptions==1.1.2"
    "$folder/bin/python" -W ignore -c "import imagecorruptions"
    touch "$folder/ready"
  } >&2
fi
if [ $# -eq 0 ]; then
  printf '%s\n' "$folder/bin/python"
else
  exec "$folder/bin/python" -W ignore "$@"
fi
