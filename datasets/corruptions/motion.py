"""Motion blur as ImageMagick makes it: a one-sided Gaussian along a line, on 16-bit levels."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from robustlab.datasets.corruptions._batch import Draws, Size, angles, as_levels, places_above
from robustlab.datasets.corruptions.tables import Table

# Level v is 257 v on the 16-bit scale, where the sum is rounded; then it is divided by 257 and cut.
_HALF_STEP = 0.5 / 257
# Taps at the end of less weight than this in all are left out of the sums in float32.
_LITTLE = 1e-7


def draw_motion(keys: Tensor, size: Size, severity: int, table: Table) -> Draws:
    """`angle`: float64 (N,), in degrees, uniform in [-45, 45)."""
    return {"angle": angles(keys, -45, 45)}


def motion_blur(pixels: Tensor, draws: Draws, severity: int, table: Table) -> Tensor:
    """Blur each image along its own angle."""
    radius, sigma = table.motion_blur[severity - 1]
    return along_lines(pixels, radius, sigma, draws["angle"])


def along_lines(pixels: Tensor, radius: float, sigma: float, directions: Tensor) -> Tensor:
    """Motion blur of uint8 (N, C, H, W), image i along `directions[i]` degrees; the border is repeated.

    Tap i of 2 radius + 1 has weight exp(-i^2 / (2 sigma^2)), normalised, and reads the pixel that lies
    (ceil(i cos - 1/2), ceil(i sin - 1/2)) columns and rows away. The sum is rounded to 16 bits and then cut to 8.
    The result is that of float64 sums: float32 sums decide where they can.
    """
    weights = np.exp(-(np.arange(2 * math.ceil(radius) + 1) ** 2) / (2.0 * sigma**2))
    weights /= weights.sum()
    taps = int((weights[::-1].cumsum()[::-1] > _LITTLE).sum())
    offsets = _offsets(len(weights), directions)
    at = _reader(pixels, offsets[:, :taps])
    first, *others = weights[:taps].tolist()
    total = at(0) * first
    for tap, weight in enumerate(others, 1):
        total.add_(at(tap), alpha=weight)
    total.add_(_HALF_STEP)
    result = total.floor()
    # No sum in float32 errs by more: closer than this to a step, it is made again in float64. A flat area lies half a
    # step away from the next one, and is sure.
    unsure = 255 * ((taps + 3) * 2.0**-24 + _LITTLE)
    near = places_above(total.sub_(result).sub_(0.5).abs_(), 0.5 - unsure)
    levels = as_levels(result)
    if len(near):
        levels.reshape(-1)[near] = _exactly(pixels, offsets, weights, near)
    return levels


def _offsets(taps: int, directions: Tensor) -> NDArray[np.int64]:
    """Rows and columns (N, taps, 2) from a pixel to the one that each tap reads."""
    radians = np.deg2rad(directions.cpu().numpy())[:, None]
    along = np.arange(taps)
    both = np.stack([np.sin(radians), np.cos(radians)], axis=2) * along[:, None]
    offsets: NDArray[np.int64] = np.ceil(both - 0.5).astype(np.int64)
    return offsets


def _reader(pixels: Tensor, offsets: NDArray[np.int64]) -> Callable[[int], Tensor]:
    """A function of the tap: float32 (N, C, H, W), what the tap reads at every pixel."""
    count, _, height, width = pixels.shape
    # All offsets contain (0, 0): this is how far up and left, and down and right, the taps reach.
    (top, left), (bottom, right) = (-offsets.min(axis=(0, 1))).tolist(), offsets.max(axis=(0, 1)).tolist()
    padded = _framed(pixels, top, bottom, left, right)
    if count == 1:
        start = (offsets[0] @ padded.stride()[2:] + top * padded.stride(2) + left).tolist()
        return lambda tap: padded.as_strided(pixels.shape, padded.stride(), start[tap])
    # Each image has offsets of its own: one gather for all of them.
    flat, line = padded.reshape(-1), padded.shape[3]
    place = torch.arange(padded.numel(), dtype=torch.int32, device=pixels.device).reshape(padded.shape)
    place = place[:, :, top : top + height, left : left + width].contiguous()
    jumps = torch.from_numpy((offsets[..., 0] * line + offsets[..., 1]).astype(np.int32)).to(pixels.device)

    def gathered(tap: int) -> Tensor:
        index = place + jumps[:, tap].reshape(-1, 1, 1, 1)
        return flat.index_select(0, index.reshape(-1)).reshape(pixels.shape)

    return gathered


def _framed(pixels: Tensor, top: int, bottom: int, left: int, right: int) -> Tensor:
    """float32 pixels with more rows and columns, in which the border is repeated."""
    count, channels, height, width = pixels.shape
    shape = (count, channels, top + height + bottom, left + width + right)
    result = torch.empty(shape, dtype=torch.float32, device=pixels.device)
    rows = result[:, :, top : top + height]
    rows[..., left : left + width] = pixels
    rows[..., :left] = pixels[..., :1]
    rows[..., left + width :] = pixels[..., -1:]
    result[:, :, :top] = rows[:, :, :1]
    result[:, :, top + height :] = rows[:, :, -1:]
    return result


def _exactly(pixels: Tensor, offsets: NDArray[np.int64], weights: NDArray[np.float64], where: Tensor) -> Tensor:
    """uint8 (K,): the result at flat places `where` (K,), summed in float64."""
    channels, height, width = pixels.shape[1:]
    line, column = np.divmod(where.cpu().numpy(), width)
    plane, row = np.divmod(line, height)
    rows, columns = (
        (row[:, None] + offsets[plane // channels, :, 0]),
        (column[:, None] + offsets[plane // channels, :, 1]),
    )
    place = (plane[:, None] * height + rows.clip(0, height - 1)) * width + columns.clip(0, width - 1)
    read = pixels.cpu().numpy().reshape(-1).take(place).astype(np.float64)
    total = (read * (weights * 257)).sum(axis=1)
    return torch.from_numpy((np.rint(total) / 257).astype(np.uint8)).to(where.device)
