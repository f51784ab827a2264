"""CIFAR-10 (Krizhevsky 2009) from a local copy: the arrays of `ROBUSTLAB_DATA`, or the published batch files."""

from __future__ import annotations

import hashlib
import os
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from robustlab.core.errors import DataError, check_choice
from robustlab.core.paths import data_folder
from robustlab.datasets.base import SPLITS, check_indices
from robustlab.datasets.cifar_batches import read_python_batch

CLASS_NAMES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
DOWNLOAD = "mkdir -p data && curl -L https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz | tar xz -C data"

_ARRAYS = {"test": "test1000.npz", "train": "train4000.npz"}
_BATCHES = {"test": ("test_batch",), "train": tuple(f"data_batch_{i}" for i in range(1, 6))}
_SIDE = 32
_RECORD = 1 + 3 * _SIDE * _SIDE

Pixels = NDArray[np.uint8]
Reader = Callable[[Path, str], tuple[Pixels, Pixels]]


class Cifar10:
    """CIFAR-10 images of one split, 3 x 32 x 32, held in memory as uint8.

    Looked for in this order, the first that exists is used: `cifar-10-batches-bin` or `cifar-10-batches-py` in the
    folder `ROBUSTLAB_CIFAR10`; `cifar10/test1000.npz` (or `train4000.npz`) in `ROBUSTLAB_DATA`, or in
    `../shared/data` if that is not set; the two batch folders in `./data`. Nothing is ever unpickled.
    """

    name = "cifar10"
    class_names = CLASS_NAMES
    image_size = (_SIDE, _SIDE)

    def __init__(self, split: str = "test") -> None:
        """Read a split, ``"test"`` or ``"train"``; raises `DataError` if it is nowhere or malformed."""
        check_choice("split", split, SPLITS)
        folder, reader = _find(split)
        pixels, labels = reader(folder, split)
        self._pixels = pixels
        self._labels = labels
        digest = hashlib.sha256(f"cifar10/{split}/{len(labels)}".encode())
        digest.update(np.ascontiguousarray(pixels).tobytes())
        digest.update(labels.tobytes())
        self.fingerprint = digest.hexdigest()

    def __len__(self) -> int:
        return len(self._labels)

    def batch(self, indices: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Images float32 (N, 3, 32, 32), multiples of 1/255, and labels int64 (N,)."""
        rows = check_indices(indices, len(self))
        images = torch.from_numpy(self._pixels[rows]).to(torch.float32) / 255
        return images, torch.from_numpy(self._labels[rows].astype(np.int64))


def _find(split: str) -> tuple[Path, Reader]:
    """The folder to read a split from, and how."""
    looked_for: list[Path] = []

    def first(candidates: Sequence[tuple[Path, str, Reader]]) -> tuple[Path, Reader] | None:
        for folder, file, reader in candidates:
            looked_for.append(folder / file)
            if (folder / file).is_file():
                return folder, reader
        return None

    chosen = os.environ.get("ROBUSTLAB_CIFAR10")
    shared = data_folder() or Path("$ROBUSTLAB_DATA")
    candidates = _batch_folders(Path(chosen), split) if chosen else []
    if not chosen:
        candidates += [(shared / "cifar10", _ARRAYS[split], _read_arrays), *_batch_folders(Path("data"), split)]
    found = first(candidates)
    if found is None:
        places = ", ".join(str(p) for p in looked_for)
        raise DataError(
            f"cifar10 ({split}) is not here: looked for {places}; set ROBUSTLAB_DATA or ROBUSTLAB_CIFAR10 to a folder "
            f"that holds it, or download it: {DOWNLOAD}"
        )
    return found


def _batch_folders(root: Path, split: str) -> list[tuple[Path, str, Reader]]:
    return [
        (root / "cifar-10-batches-bin", _BATCHES[split][0] + ".bin", _read_binary),
        (root / "cifar-10-batches-py", _BATCHES[split][0], _read_python),
    ]


def _checked(where: Path, pixels: Any, labels: Any) -> tuple[Pixels, Pixels]:
    """Pixels uint8 (N, 3, 32, 32) and labels uint8 (N,) as they should be; otherwise raise `DataError`."""
    count = len(labels)
    if labels.ndim != 1 or labels.dtype.kind not in "iu" or count == 0:
        raise DataError(f"{where} holds labels {labels.dtype} {labels.shape}; allowed: whole numbers (N,), N >= 1")
    if pixels.dtype != np.uint8 or pixels.shape != (count, 3, _SIDE, _SIDE):
        shown = f"{pixels.dtype} {pixels.shape}"
        raise DataError(f"{where} holds images {shown}; allowed: uint8, {count} images of {_SIDE} x {_SIDE} x 3")
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= len(CLASS_NAMES):
        raise DataError(f"{where} holds labels from {low} to {high}; allowed: 0 to {len(CLASS_NAMES) - 1}")
    return np.ascontiguousarray(pixels), labels.astype(np.uint8)


def _read_arrays(folder: Path, split: str) -> tuple[Pixels, Pixels]:
    """An .npz with `x` uint8 (N, 32, 32, 3) and `y` (N,); arrays of objects are refused."""
    path = folder / _ARRAYS[split]
    try:
        arrays = np.load(path, allow_pickle=False)
        if not isinstance(arrays, np.lib.npyio.NpzFile):
            raise ValueError("a single array")
        with arrays:
            x, y = np.asarray(arrays["x"]), np.asarray(arrays["y"])
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        reason = " ".join(str(error).split())
        raise DataError(f"{path} cannot be read ({reason}); allowed: an .npz file with arrays x and y") from error
    if x.ndim != 4 or y.ndim != 1:
        raise DataError(f"{path} holds x {x.shape} and y {y.shape}; allowed: x (N, 32, 32, 3) and y (N,)")
    return _checked(path, x.transpose(0, 3, 1, 2), y)


def _read_binary(folder: Path, split: str) -> tuple[Pixels, Pixels]:
    """The published binary version: records of a label byte and 3,072 bytes, channel by channel."""
    parts = []
    for name in _BATCHES[split]:
        path = folder / f"{name}.bin"
        raw = np.frombuffer(_bytes(path), dtype=np.uint8)
        if len(raw) == 0 or len(raw) % _RECORD:
            raise DataError(f"{path} holds {len(raw)} bytes; allowed: a whole number of records of {_RECORD} bytes")
        rows = raw.reshape(-1, _RECORD)
        parts.append(_checked(path, rows[:, 1:].reshape(-1, 3, _SIDE, _SIDE), rows[:, 0]))
    return np.concatenate([p for p, _ in parts]), np.concatenate([y for _, y in parts])


def _read_python(folder: Path, split: str) -> tuple[Pixels, Pixels]:
    """The Python version, torchvision's layout, read without unpickling."""
    parts = []
    for name in _BATCHES[split]:
        path = folder / name
        data, labels = read_python_batch(_bytes(path), str(path))
        parts.append(_checked(path, data.reshape(-1, 3, _SIDE, _SIDE), labels))
    return np.concatenate([p for p, _ in parts]), np.concatenate([y for _, y in parts])


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}); allowed: a file of CIFAR-10") from error
