"""Glass blur: pixels are moved about within a small neighbourhood, between two Gaussian blurs."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from robustlab.datasets.corruptions._batch import Draws, Size, from_unit, per_key, to_unit
from robustlab.datasets.corruptions._filters import gaussian
from robustlab.datasets.corruptions.tables import Table


def draw_glass(keys: Tensor, size: Size, severity: int, table: Table) -> Draws:
    """`source`: int64 (N, H W), the pixel that each pixel gets its colour from after all passes."""
    _, reach, passes = (int(v) for v in table.glass_blur[severity - 1])
    region = (size[0] - 2 * reach, size[1] - 2 * reach)
    shape = (passes, 2, *region)
    moves = per_key(keys, lambda g: g.integers(-reach, reach, shape, dtype=np.int8))
    return {"source": glass_source(moves, size, reach)}


def glass_source(moves: Tensor, size: Size, reach: int) -> Tensor:
    """int64 (N, H W): where each pixel's colour comes from after passes of local copying.

    `moves`: int8 (N, passes, 2, H - 2 reach, W - 2 reach), the row and column offsets in [-reach, reach) of the
    pixels from (reach + 1, reach + 1) to (H - reach, W - reach).

    Each pass of the original visits those pixels from the last to the first and copies into each what lies at its
    offset *then*: where that one was visited before, its new colour. (The original means to swap, but both sides of
    its assignment are views of one array.) Chains of copies are followed by pointer doubling instead of pixel by
    pixel, with the same result.
    """
    height, width = size
    count = len(moves)
    inside = torch.zeros(size, dtype=torch.bool)
    inside[reach + 1 : height - reach + 1, reach + 1 : width - reach + 1] = True
    inside = inside.reshape(-1)
    place = torch.arange(height * width, dtype=torch.int32)
    base = (torch.arange(count, dtype=torch.int32) * (height * width)).unsqueeze(1)
    source = (place + base).reshape(-1)
    for step in range(moves.shape[1]):
        offset = torch.zeros((count, height, width), dtype=torch.int32)
        offset[:, reach + 1 : height - reach + 1, reach + 1 : width - reach + 1] = (
            moves[:, step, 0].to(torch.int32) * width + moves[:, step, 1]
        )
        offset = offset.reshape(count, -1)
        origin = place + offset
        # Visited before, and so already changed: a pixel that comes later in the image, among those that are visited.
        follows = (offset > 0) & inside.index_select(0, origin.reshape(-1)).reshape(origin.shape)
        origin = (origin + base).reshape(-1)
        here = (place + base).reshape(-1)
        last = torch.where(follows.reshape(-1), origin, here)
        while True:
            further = last.index_select(0, last)
            if torch.equal(further, last):
                break
            last = further
        source = source.index_select(0, origin.index_select(0, last))
    return (source.reshape(count, -1) - base).to(torch.int64)


def glass_blur(pixels: Tensor, draws: Draws, severity: int, table: Table) -> Tensor:
    """Blur, move every pixel's colour to where the drawn source says, and blur again."""
    sigma = table.glass_blur[severity - 1][0]
    softened = gaussian(to_unit(pixels), sigma).mul_(255).to(torch.uint8)
    source = draws["source"].unsqueeze(1).expand(-1, pixels.shape[1], -1)
    moved = softened.flatten(2).gather(2, source).reshape(pixels.shape)
    return from_unit(gaussian(to_unit(moved), sigma))


def glass_sources(draws: Draws, size: Size, severity: int, table: Table) -> Tensor:
    """float64 (N, 2, H, W): x and y in the image of what is seen at each pixel, but for the blurs."""
    source = draws["source"].reshape(-1, *size)
    return torch.stack([source % size[1], source // size[1]], dim=1).to(torch.float64)
