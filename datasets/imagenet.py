"""Samples of ImageNet (Deng et al. 2009) as files: one image per class, and originals of some of them."""

from __future__ import annotations

import hashlib
import itertools
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from robustlab.core.errors import DataError, check_choice, check_int
from robustlab.core.keys import sample_keys
from robustlab.core.paths import data_folder
from robustlab.datasets.base import SPLITS, check_indices
from robustlab.datasets.pictures import JPEG_MAGIC, central_square, open_rgb

DEFAULT_SIZE = 224
TRAIN_SHARE = 5  # one image in so many is of the training split
ARCHIVE = Path("imagenet1000") / "imagenet1000_224.npz"
ORIGINALS = Path("imagenet_originals")
IMAGENET_NAMES = ("imagenet1000", "imagenet-originals")


class ImageNetSample:
    """JPEG files of ImageNet from `ROBUSTLAB_DATA`, their classes numbered 0 to 999 by WordNet id.

    ``imagenet1000``: one 224x224 file for each class, in an order that mixes the classes; the split ``"test"`` is the
    first 800 and ``"train"``, for calibration, the other 200. ``imagenet-originals``: 125 files as they were published,
    of many sizes, all of them ``"test"``; `imagenet1000` has small copies of these photos, some in its training split.
    `batch` resizes as `ImageFolder` does.
    """

    def __init__(self, name: str, split: str = "test", *, image_size: int | None = None) -> None:
        """Read the files; raises `DataError` if they are not in `ROBUSTLAB_DATA` or malformed."""
        check_choice("data", name, IMAGENET_NAMES)
        check_choice("split", split, SPLITS)
        side = DEFAULT_SIZE if image_size is None else check_int("image_size", image_size, 1, 4096)
        self.name = name
        self.image_size = (side, side)
        folder = data_folder() or Path("$ROBUSTLAB_DATA")
        files, labels, names = _read_archive(folder / ARCHIVE)
        self.class_names = tuple(names)
        if name == "imagenet-originals":
            if split == "train":
                raise DataError(
                    "imagenet-originals has no train split; allowed: test, or the train split of imagenet1000"
                )
            files, labels = _read_originals(folder / ORIGINALS, names)
        order = np.argsort(sample_keys(0, name, range(len(files))).numpy(), kind="stable")
        if name == "imagenet1000":
            boundary = len(files) - len(files) // TRAIN_SHARE
            order = order[:boundary] if split == "test" else order[boundary:]
        self._files = [files[i] for i in order]
        self._labels = [labels[i] for i in order]
        self.jpeg = all(content.startswith(JPEG_MAGIC) for content in self._files)
        digest = hashlib.sha256(f"{name}/1/{split}/{side}/{self._labels}".encode())
        for content in self._files:
            digest.update(hashlib.sha256(content).digest())
        self.fingerprint = digest.hexdigest()

    def __len__(self) -> int:
        return len(self._files)

    def files(self, indices: Sequence[int]) -> list[bytes]:
        """The bytes of the files at `indices`, in that order."""
        return [self._files[i] for i in check_indices(indices, len(self))]

    def batch(self, indices: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Images float32 (N, 3, S, S), multiples of 1/255, and labels int64 (N,); a broken file raises `DataError`."""
        rows = check_indices(indices, len(self))
        side = self.image_size[0]
        pixels = np.empty((len(rows), side, side, 3), dtype=np.uint8)
        for row, index in enumerate(rows):
            pixels[row] = central_square(open_rgb(self._files[index], f"image {index} of {self.name}"), side)
        images = torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous().to(torch.float32) / 255
        return images, torch.tensor([self._labels[i] for i in rows], dtype=torch.int64)


def _read_archive(path: Path) -> tuple[list[bytes], list[int], list[str]]:
    """Files, labels, and the names of the classes by label; arrays of objects are refused."""
    if not path.is_file():
        raise DataError(f"imagenet1000 is not here: looked for {path}; set ROBUSTLAB_DATA to the folder that holds it")
    try:
        with np.load(path, allow_pickle=False) as arrays:
            content, offsets, y, name = (np.asarray(arrays[key]) for key in ("bytes", "offsets", "y", "name"))
    except (OSError, ValueError, KeyError, EOFError, TypeError, AttributeError, zipfile.BadZipFile) as error:
        reason = " ".join(str(error).split())
        raise DataError(f"{path} cannot be read ({reason}); allowed: arrays bytes, offsets, y and name") from error
    count = len(offsets) - 1 if offsets.ndim == 1 else 0
    if content.dtype != np.uint8 or content.ndim != 1 or offsets.dtype.kind not in "iu" or count < 1:
        raise DataError(
            f"{path} holds no list of files; allowed: bytes uint8 (B,) and offsets of whole numbers (N + 1,)"
        )
    edges = [int(v) for v in offsets]
    if edges[0] != 0 or edges[-1] != len(content) or any(b <= a for a, b in itertools.pairwise(edges)):
        raise DataError(f"{path} has offsets that do not rise from 0 to {len(content)}, the number of bytes")
    labels = [int(v) for v in y] if y.dtype.kind in "iu" and y.shape == (count,) else []
    if sorted(labels) != list(range(count)) or name.dtype.kind != "U" or name.shape != (count,):
        raise DataError(f"{path} holds other labels; allowed: every class from 0 to {count - 1} once, and its name")
    names = [str(name[row]) for row in np.argsort(np.asarray(labels), kind="stable")]
    raw = content.tobytes()
    return [raw[a:b] for a, b in itertools.pairwise(edges)], labels, names


def _read_originals(folder: Path, names: Sequence[str]) -> tuple[list[bytes], list[int]]:
    """The files and the labels of the names they begin with."""
    if not folder.is_dir():
        raise DataError(f"imagenet-originals is not here: looked for {folder}; set ROBUSTLAB_DATA to what holds it")
    known = {name.partition("_")[0]: label for label, name in enumerate(names)}
    paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in (".jpeg", ".jpg"))
    if not paths:
        raise DataError(f"{folder} holds no images; allowed: .JPEG files")
    labels = []
    for path in paths:
        label = known.get(path.stem.partition("_")[0])
        if label is None:
            raise DataError(f"{path} is of no known class; allowed: names that begin with the WordNet id of a class")
        labels.append(label)
    try:
        return [path.read_bytes() for path in paths], labels
    except OSError as error:
        raise DataError(f"{error.filename} cannot be read ({error.strerror}); allowed: readable files") from error
