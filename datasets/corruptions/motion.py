"""Motion blur as ImageMagick makes it: a one-sided Gaussian along a line, on 16-bit levels."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from robustlab.datasets.corruptions._batch import Draws, Size, angles, positions
from robustlab.datasets.corruptions._filters import extended
from robustlab.datasets.corruptions.tables import Table

# Level v is 257 v on the 16-bit scale, where the sum is rounded; then it is divided by 257 and cut.
_HALF_STEP = 0.5 / 257
# More than the error of a sum in float32: closer than this to a step, the sum is made again in float64.
_UNSURE = 1e-3


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
    taps = 2 * math.ceil(radius) + 1
    weights = np.exp(-(np.arange(taps) ** 2) / (2.0 * sigma**2))
    weights /= weights.sum()
    offsets = _offsets(taps, directions)
    at = _reader(pixels, offsets, taps)
    total = at(0) * float(weights[0])
    for tap in range(1, taps):
        total.add_(at(tap), alpha=float(weights[tap]))
    total.add_(_HALF_STEP)
    result = total.floor()
    # A flat area lies half a step away from the next one, and is sure.
    near = positions(total.sub_(result).sub_(0.5).abs_() > 0.5 - _UNSURE)
    levels = result.to(torch.uint8)
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


def _reader(pixels: Tensor, offsets: NDArray[np.int64], margin: int) -> Callable[[int], Tensor]:
    """A function of the tap: float32 (N, C, H, W), what the tap reads at every pixel."""
    count, _, height, width = pixels.shape
    padded = extended(extended(pixels, 2, margin, "nearest"), 3, margin, "nearest", torch.float32)
    if count == 1:

        def view(tap: int) -> Tensor:
            top, left = (margin + int(offset) for offset in offsets[0, tap])
            return padded[:, :, top : top + height, left : left + width]

        return view
    # Each image has offsets of its own: one gather for all of them.
    flat, line = padded.reshape(-1), padded.shape[3]
    place = torch.arange(padded.numel(), dtype=torch.int32, device=pixels.device).reshape(padded.shape)
    place = place[:, :, margin : margin + height, margin : margin + width].contiguous()
    jumps = torch.from_numpy((offsets[..., 0] * line + offsets[..., 1]).astype(np.int32)).to(pixels.device)

    def gathered(tap: int) -> Tensor:
        index = place + jumps[:, tap].reshape(-1, 1, 1, 1)
        return flat.index_select(0, index.reshape(-1)).reshape(pixels.shape)

    return gathered


def _exactly(pixels: Tensor, offsets: NDArray[np.int64], weights: NDArray[np.float64], where: Tensor) -> Tensor:
    """uint8 (K,): the result at flat places `where` (K,), summed in float64."""
    channels, height, width = pixels.shape[1:]
    column, row = where % width, where // width % height
    plane = where // (width * height)
    moves = torch.from_numpy(offsets).to(where.device)[plane // channels]
    rows = (row[:, None] + moves[..., 0]).clamp_(0, height - 1)
    columns = (column[:, None] + moves[..., 1]).clamp_(0, width - 1)
    read = pixels.reshape(-1)[(plane[:, None] * height + rows) * width + columns].to(torch.float64)
    total = (read * torch.from_numpy(weights * 257).to(where.device)).sum(dim=1)
    return total.round_().div_(257).to(torch.uint8)
