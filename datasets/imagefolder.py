"""A folder of pictures, one sub-folder per class."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from robustlab.core.errors import DataError, check_choice, check_int
from robustlab.core.keys import sample_keys
from robustlab.datasets.base import SPLITS, check_indices
from robustlab.datasets.pictures import JPEG_MAGIC, central_square, open_rgb

EXTENSIONS = (".bmp", ".jpeg", ".jpg", ".png", ".ppm", ".webp")
DEFAULT_SIZE = 224
_SPLIT_FOLDERS = {"train": ("train",), "test": ("test", "val")}


class ImageFolder:
    """Images below `root`, decoded when asked for; the sub-folders that hold any, sorted, are the classes.

    Each is made RGB, resized so that its shorter side is `image_size` (bicubic, antialiased) and cropped to the
    centre square; of one longer than 8:1, only the central 8:1 part is resized. If `root` has folders `train`, and
    `test` or `val`, of classes, a split is read from those; otherwise all images are the test split.
    """

    name = "imagefolder"

    def __init__(self, root: str | Path, split: str = "test", *, image_size: int | None = None) -> None:
        """List and hash the files; raises `DataError` for a missing path, a split that is not there or no images."""
        check_choice("split", split, SPLITS)
        side = DEFAULT_SIZE if image_size is None else check_int("image_size", image_size, 1, 4096)
        self.image_size = (side, side)
        self._root = _split_root(Path(root), split)
        self._files = _shuffled(_images_below(self._root))
        if not self._files:
            raise DataError(
                f"{self._root} holds no images; allowed: class sub-folders of {', '.join(EXTENSIONS)} files"
            )
        self.class_names = tuple(sorted({f.relative_to(self._root).parts[0] for f in self._files}))
        position = {name: i for i, name in enumerate(self.class_names)}
        self._labels = [position[f.relative_to(self._root).parts[0]] for f in self._files]
        self.fingerprint, self.jpeg = _fingerprint(self._root, self._files, side)

    def __len__(self) -> int:
        return len(self._files)

    def batch(self, indices: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Images float32 (N, 3, S, S), multiples of 1/255, and labels int64 (N,); a broken file raises `DataError`."""
        rows = check_indices(indices, len(self))
        side = self.image_size[0]
        pixels = np.empty((len(rows), side, side, 3), dtype=np.uint8)
        for row, index in enumerate(rows):
            pixels[row] = central_square(open_rgb(_read(self._files[index]), str(self._files[index])), side)
        images = torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous().to(torch.float32) / 255
        return images, torch.tensor([self._labels[i] for i in rows], dtype=torch.int64)

    def files(self, indices: Sequence[int]) -> list[bytes]:
        """The bytes of the files at `indices`, in that order."""
        return [_read(self._files[i]) for i in check_indices(indices, len(self))]


def _images_below(root: Path) -> list[Path]:
    """Image files in sub-folders of `root`, sorted by path; hidden files and folders do not count."""
    found = [
        path
        for path in root.rglob("*")
        if path.suffix.lower() in EXTENSIONS
        and len(parts := path.relative_to(root).parts) > 1
        and not any(part.startswith(".") for part in parts)
        and path.is_file()
    ]
    return sorted(found, key=lambda path: path.relative_to(root).parts)


def _split_root(root: Path, split: str) -> Path:
    if not root.is_dir():
        raise DataError(
            f"imagefolder {root} is not a folder; allowed: a folder with one sub-folder of images per class"
        )
    # A split folder holds class folders: images directly in it mean that "train" is itself a class name.
    folders = {
        kind: [root / name for name in names if (root / name).is_dir() and _images_below(root / name)]
        for kind, names in _SPLIT_FOLDERS.items()
    }
    if folders[split]:
        return folders[split][0]
    other = folders["train" if split == "test" else "test"]
    if split == "test" and not other:
        return root
    names = " or ".join(_SPLIT_FOLDERS[split])
    raise DataError(f"imagefolder {root} has no {split} split; allowed: a folder {names} with class sub-folders in it")


def _shuffled(files: list[Path]) -> list[Path]:
    """The same files in an order that depends on their number alone: the first so many are a sample of all classes."""
    order = np.argsort(sample_keys(0, "imagefolder", range(len(files))).numpy(), kind="stable")
    return [files[index] for index in order]


def _fingerprint(root: Path, files: Sequence[Path], side: int) -> tuple[str, bool]:
    """Of every file's name and content; and whether all files are JPEG."""
    digest = hashlib.sha256(f"imagefolder/4/{side}".encode())
    jpeg = True
    for file in files:
        content = _read(file)
        digest.update(f"\0{file.relative_to(root).as_posix()}\0{len(content)}\0".encode())
        digest.update(hashlib.sha256(content).digest())
        jpeg = jpeg and content.startswith(JPEG_MAGIC)
    return digest.hexdigest(), jpeg


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}); allowed: readable image files") from error
