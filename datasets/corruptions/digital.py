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


# Pillow's row-interleaved layout saves calls, its single bands save time per pixel: which one pays depends on the size.
_FEW_PIXELS = 64 * 64


def _together(planes: Planes) -> Image.Image:
    """The image of three planes uint8 (3, H, W)."""
    _, height, width = planes.shape
    if height * width > _FEW_PIXELS:
        return Image.merge("RGB", [Image.fromarray(plane) for plane in planes])
    return Image.frombytes("RGB", (width, height), planes.transpose(1, 0, 2).tobytes(), "raw", "RGB;L")


def _apart(image: Image.Image, into: Planes) -> None:
    """Write the three planes of an RGB image into uint8 (3, H, W)."""
    _, height, width = into.shape
    if height * width > _FEW_PIXELS:
        for plane, band in zip(into, "RGB", strict=True):
            plane[:] = np.frombuffer(image.tobytes("raw", band), np.uint8).reshape(height, width)
    else:
        rows = np.frombuffer(image.tobytes("raw", "RGB;L"), np.uint8)
        into[:] = rows.reshape(height, 3, width).transpose(1, 0, 2)


def pixelate(pixels: Tensor, draws: Draws, severity: int, table: Table) -> Tensor:
    """Shrink both sides by a factor (rounded down, at least one pixel) and enlarge again, both with a box filter."""
    factor = table.pixelate[severity - 1]
    size = (pixels.shape[3], pixels.shape[2])
    small = (max(1, int(size[0] * factor)), max(1, int(size[1] * factor)))
    columns, rows = (_repeated(few, many) for few, many in zip(small, size, strict=True))
    planes = pixels.cpu().contiguous().numpy()
    result = np.empty_like(planes)
    wide = np.empty((3, small[1], size[0]), np.uint8)
    for image, into in zip(planes, result, strict=True):
        coarse = _together(image).resize(small, Image.Resampling.BOX)
        if rows is None or columns is None:
            _apart(coarse.resize(size, Image.Resampling.BOX), into)
        else:
            _apart(coarse.resize((size[0], small[1]), Image.Resampling.NEAREST), wide)
            wide.take(rows, axis=1, out=into, mode="clip")
    return torch.from_numpy(result).to(pixels.device)


@lru_cache(maxsize=64)
def _repeated(few: int, many: int) -> NDArray[np.intp] | None:
    """Which of `few` pixels the box filter repeats at each of `many` places; None where it mixes two somewhere, or
    repeats others than the nearest one."""
    ramp = Image.fromarray(np.arange(few, dtype=np.float32)[None])
    boxes, nearest = (
        np.asarray(ramp.resize((many, 1), way))[0] for way in (Image.Resampling.BOX, Image.Resampling.NEAREST)
    )
    return boxes.astype(np.intp) if np.array_equal(boxes, nearest) else None


def jpeg_compression(pixels: Tensor, draws: Draws, severity: int, table: Table) -> Tensor:
    """Encode as JPEG (4:2:0, standard tables scaled to the quality) and decode again, on the CPU."""
    quality = int(table.jpeg_compression[severity - 1])
    planes = pixels.cpu().contiguous().numpy()
    result = np.empty_like(planes)
    for image, into in zip(planes, result, strict=True):
        buffer = io.BytesIO()
        _together(image).save(buffer, "JPEG", quality=quality)
        buffer.seek(0)
        decoded = Image.open(buffer, formats=("JPEG",))
        decoded.load()
        _apart(decoded, into)
    return torch.from_numpy(result).to(pixels.device)
