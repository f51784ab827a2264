"""The bytes of the files behind a data set, for what works on files: decoders, platforms."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from robustlab.datasets.base import Dataset
from robustlab.datasets.relabel import Relabelled


@runtime_checkable
class FileSource(Protocol):
    """A data set whose images come from files."""

    @property
    def jpeg(self) -> bool:
        """Whether all files are JPEG."""

    def files(self, indices: Sequence[int]) -> list[bytes]:
        """The bytes of the files at `indices`, in that order."""


def file_source(data: Dataset) -> FileSource | None:
    """The files behind `data`, or None where its images are made or stored as arrays."""
    inner = data.dataset if isinstance(data, Relabelled) else data
    return inner if isinstance(inner, FileSource) else None


def lossless(images: Tensor) -> list[bytes]:
    """Images float32 (N, 3, H, W) in [0, 1], rounded to 256 levels, as the bytes of PNG files."""
    levels = (images.detach().cpu() * 255).round().byte().permute(0, 2, 3, 1).contiguous().numpy()
    return [_png(pixels) for pixels in levels]


def _png(pixels: NDArray[np.uint8]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()
