"""GTSRB (Stallkamp et al. 2012) and MNIST (LeCun et al. 1998) as the arrays that `ROBUSTLAB_DATA` holds."""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from robustlab.core.errors import DataError, check_choice
from robustlab.core.paths import data_folder
from robustlab.datasets.base import SPLITS, check_indices

_SPEEDS = (20, 30, 50, 60, 70, 80)
_GTSRB_CLASSES = (
    *(f"speed limit {speed}" for speed in _SPEEDS),
    "end of speed limit 80",
    "speed limit 100",
    "speed limit 120",
    "no passing",
    "no passing for trucks",
    "right of way at the next crossing",
    "priority road",
    "yield",
    "stop",
    "no vehicles",
    "no trucks",
    "no entry",
    "danger",
    "curve to the left",
    "curve to the right",
    "double curve",
    "bumpy road",
    "slippery road",
    "road narrows on the right",
    "road works",
    "traffic signals",
    "pedestrians",
    "children",
    "bicycles",
    "ice or snow",
    "wild animals",
    "end of all limits",
    "turn right ahead",
    "turn left ahead",
    "ahead only",
    "ahead or right",
    "ahead or left",
    "keep right",
    "keep left",
    "roundabout",
    "end of no passing",
    "end of no passing for trucks",
)


@dataclass(frozen=True)
class _Source:
    """Where the rows of every split are: (file, first row, last row or None for the end)."""

    splits: Mapping[str, tuple[str, int, int | None]]
    class_names: tuple[str, ...]
    side: int


_MNIST = "mnist/mnist_60k_train_3k_test.npz"
SOURCES = {
    "gtsrb": _Source(
        {"test": ("gtsrb/gtsrb32_test3158.npz", 0, None), "train": ("gtsrb/gtsrb32_train4300.npz", 0, None)},
        _GTSRB_CLASSES,
        32,
    ),
    "mnist": _Source({"test": (_MNIST, 60_000, None), "train": (_MNIST, 0, 60_000)}, tuple("0123456789"), 28),
}


class ArrayImages:
    """Images of one split of ``gtsrb`` or ``mnist``, held in memory as uint8; grey images give three equal channels."""

    def __init__(self, name: str, split: str = "test") -> None:
        """Read a split, ``"test"`` or ``"train"``; raises `DataError` if it is not in `ROBUSTLAB_DATA` or malformed."""
        check_choice("data", name, tuple(SOURCES))
        check_choice("split", split, SPLITS)
        source = SOURCES[name]
        self.name = name
        self.class_names = source.class_names
        self.image_size = (source.side, source.side)
        file, first, last = source.splits[split]
        pixels, labels = _read((data_folder() or Path("$ROBUSTLAB_DATA")) / file, name, source)
        self._pixels, self._labels = pixels[first:last], labels[first:last]
        if not len(self._labels):
            raise DataError(f"{name} ({split}) in {file} has {len(labels)} rows; allowed: more than {first}")
        digest = hashlib.sha256(f"{name}/{split}/{len(self._labels)}".encode())
        digest.update(np.ascontiguousarray(self._pixels).tobytes())
        digest.update(self._labels.tobytes())
        self.fingerprint = digest.hexdigest()

    def __len__(self) -> int:
        return len(self._labels)

    def batch(self, indices: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Images float32 (N, 3, H, W), multiples of 1/255, and labels int64 (N,)."""
        rows = check_indices(indices, len(self))
        images = torch.from_numpy(self._pixels[rows]).permute(0, 3, 1, 2).to(torch.float32) / 255
        return images.expand(-1, 3, -1, -1).contiguous(), torch.from_numpy(self._labels[rows].astype(np.int64))


def _read(path: Path, name: str, source: _Source) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Pixels uint8 (N, H, W, 3 or 1) and labels uint8 (N,); arrays of objects are refused."""
    if not path.is_file():
        raise DataError(f"{name} is not here: looked for {path}; set ROBUSTLAB_DATA to the folder that holds it")
    try:
        with np.load(path, allow_pickle=False) as arrays:
            x, y = np.asarray(arrays["x"]), np.asarray(arrays["y"])
    except (OSError, ValueError, KeyError, EOFError, TypeError, AttributeError, zipfile.BadZipFile) as error:
        reason = " ".join(str(error).split())
        raise DataError(f"{path} cannot be read ({reason}); allowed: an .npz file with arrays x and y") from error
    x = x[..., None] if x.ndim == 3 else x
    size = (source.side, source.side)
    if x.dtype != np.uint8 or x.ndim != 4 or x.shape[1:3] != size or x.shape[3] not in (1, 3):
        raise DataError(f"{path} holds images {x.dtype} {x.shape}; allowed: uint8 (N, {size[0]}, {size[1]}[, 3])")
    if y.ndim != 1 or y.dtype.kind not in "iu" or len(y) != len(x) or not len(y):
        raise DataError(f"{path} holds labels {y.dtype} {y.shape}; allowed: whole numbers ({len(x)},), at least one")
    if int(y.min()) < 0 or int(y.max()) >= len(source.class_names):
        top = len(source.class_names) - 1
        raise DataError(f"{path} holds labels from {y.min()} to {y.max()}; allowed: 0 to {top}")
    return x, y.astype(np.uint8)
