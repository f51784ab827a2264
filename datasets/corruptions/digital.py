"""Pixelation and JPEG compression: Pillow's own resizer and codec, as in the published scripts."""

from __future__ import annotations

import io
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from robustlab.datasets.corruptions._batch import Draws
from robustlab.datasets.corruptions.tables import Table

Planes = NDArray[np.uint8]


def _together(planes: Planes) -> Image.Image:
    """The image of three planes uint8 (3, H, W); Pillow interleaves faster than NumPy."""
    return Image.merge("RGB", [Image.fromarray(plane) for plane in planes])


def pixelate(pixels: Tensor, draws: Draws, severity: int, table: Table) -> Tensor:
    """Shrink both sides by a factor (rounded down, at least one pixel) and enlarge again, both with a box filter."""
    factor = table.pixelate[severity - 1]
    size = (pixels.shape[3], pixels.shape[2])
    small = (max(1, int(size[0] * factor)), max(1, int(size[1] * factor)))
    columns, rows = (_enlarging(few, many) for few, many in zip(small, size, strict=True))
    planes = pixels.cpu().contiguous().numpy()
    result = np.empty_like(planes)
    for image, into in zip(planes, result, strict=True):
        coarse = _together(image).resize(small, Image.Resampling.BOX)
        for plane, channel in zip(into, coarse.split(), strict=True):
            if rows is None or columns is None:
                plane[:] = np.asarray(channel.resize(size, Image.Resampling.BOX))
            else:
                np.asarray(channel).take(columns, axis=1).take(rows, axis=0, out=plane)
    return torch.from_numpy(result).to(pixels.device)


@lru_cache(maxsize=64)
def _enlarging(few: int, many: int) -> NDArray[np.intp] | None:
    """Which of `few` pixels the box filter repeats at each of `many` places; None where it mixes two somewhere."""
    ramp = Image.fromarray(np.arange(few, dtype=np.float32)[None])
    index = np.asarray(ramp.resize((many, 1), Image.Resampling.BOX))[0]
    return index.astype(np.intp) if np.array_equal(index, np.rint(index)) else None


def jpeg_compression(pixels: Tensor, draws: Draws, severity: int, table: Table) -> Tensor:
    """Encode as JPEG (4:2:0, standard tables scaled to the quality) and decode again, on the CPU."""
    quality = int(table.jpeg_compression[severity - 1])
    planes = pixels.cpu().contiguous().numpy()
    result = np.empty_like(planes)
    for image, into in zip(planes, result, strict=True):
        buffer = io.BytesIO()
        _together(image).save(buffer, "JPEG", quality=quality)
        buffer.seek(0)
        into[:] = np.asarray(Image.open(buffer, formats=("JPEG",))).transpose(2, 0, 1)
    return torch.from_numpy(result).to(pixels.device)
