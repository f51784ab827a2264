"""Edge detector, distance transform and histogram equalisation on batches, in OpenCV's integer arithmetic.

Sources: J. Canny, "A computational approach to edge detection", PAMI 1986; G. Borgefors, "Distance transformations in
digital images", CVGIP 1986 (the 5 x 5 chamfer with steps 1, 1.4 and 2.1969).
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import pad

from robustlab.datasets.corruptions._filters import extended

_SHIFT = 15
_TANGENT_22 = 13573  # tan(22.5 degrees) * 2^15


def canny(levels: Tensor, low: int, high: int) -> Tensor:
    """bool (N, H, W): edges of uint8 (N, H, W), with 3 x 3 Sobel gradients and the sum of their sizes; on the CPU."""
    height, width = levels.shape[1:]
    wide = extended(extended(levels, 1, 1, "nearest"), 2, 1, "nearest", torch.int16).numpy()
    down = wide[:, :-2] + 2 * wide[:, 1:-1] + wide[:, 2:]
    across = wide[:, :, :-2] + 2 * wide[:, :, 1:-1] + wide[:, :, 2:]
    dx = down[:, :, 2:] - down[:, :, :-2]
    dy = across[:, 2:] - across[:, :-2]
    run, rise = np.abs(dx), np.abs(dy)
    around = np.zeros((len(levels), height + 2, width + 2), np.int16)
    size = np.add(run, rise, out=around[:, 1:-1, 1:-1])

    def at(i: int, j: int) -> NDArray[np.int16]:
        return around[:, 1 + i : 1 + i + height, 1 + j : 1 + j + width]

    long = run.astype(np.int32)
    flat, steepness = long * _TANGENT_22, rise.astype(np.int32) << _SHIFT
    horizontal = steepness < flat
    vertical = steepness > flat + (long << (_SHIFT + 1))
    falling = (dx ^ dy) < 0
    sloping = ~(horizontal | vertical)
    ridge = horizontal & (size > at(0, -1)) & (size >= at(0, 1))
    ridge |= vertical & (size > at(-1, 0)) & (size >= at(1, 0))
    ridge |= sloping & falling & (size > at(-1, 1)) & (size > at(1, -1))
    ridge |= sloping & ~falling & (size > at(-1, -1)) & (size > at(1, 1))
    weak = ridge & (size > low)
    edges = weak & (size > high)
    # Weak edges count where a chain of them leads to a strong one.
    while not np.array_equal(edges, weak):
        grown = _widened(_widened(edges, 1), 2) & weak
        if np.array_equal(grown, edges):
            break
        edges = grown
    return torch.from_numpy(edges)


def _widened(mask: NDArray[np.bool_], axis: int) -> NDArray[np.bool_]:
    """True also next to what is True, along one axis."""
    wide = mask.copy()
    to, source = wide.swapaxes(axis, 0), mask.swapaxes(axis, 0)
    to[1:] |= source[:-1]
    to[:-1] |= source[1:]
    return wide


@lru_cache(maxsize=4)
def _chamfer_table(limit: int) -> Tensor:
    """float32 (limit + 1, limit + 2): the distance of an offset (across, down); the last column is the limit."""
    straight, diagonal, knight = (round(step * 65536) for step in (1.0, 1.4, 2.1969))
    table = torch.full((limit + 1, limit + 2), float(limit))
    for across in range(limit + 1):
        for down in range(limit + 1):
            long, short = max(across, down), min(across, down)
            if 2 * short <= long:
                cost = (long - 2 * short) * straight + short * knight
            else:
                cost = (long - short) * knight + (2 * short - long) * diagonal
            table[across, down] = min(cost / 65536, limit)
    return table


def chamfer_distance(edges: Tensor, limit: int) -> Tensor:
    """float32 (N, H, W): chamfer distance to the nearest True of bool (N, H, W), at most `limit`.

    The chamfer distance grows with either offset, so that only the nearest edge above or below counts in each column.
    """
    height, width = edges.shape[1:]
    far = limit + 1
    down = (~edges).to(torch.int32).mul_(far)
    step = 1
    while step < min(far, height):  # after each round, right up to twice the step
        longer = down + step
        torch.minimum(down[:, step:], longer[:, :-step], out=down[:, step:])
        torch.minimum(down[:, :-step], longer[:, step:], out=down[:, :-step])
        step *= 2
    wide = pad(down, (limit, limit), value=far)
    table = _chamfer_table(limit)
    result = torch.full(edges.shape, float(limit))
    for across in range(limit):
        nearest = torch.minimum(
            wide[..., limit - across : limit - across + width], wide[..., limit + across : limit + across + width]
        )
        cost = table[across].index_select(0, nearest.reshape(-1)).reshape(result.shape)
        torch.minimum(result, cost, out=result)
    return result


def equalize(levels: Tensor) -> Tensor:
    """Histogram equalisation of each image of uint8 (N, H, W)."""
    count, total = len(levels), levels[0].numel()
    flat = levels.flatten(1).to(torch.int32) + 256 * torch.arange(count, dtype=torch.int32).unsqueeze(1)
    histogram = flat.reshape(-1).bincount(minlength=256 * count).reshape(count, 256)
    first = (histogram > 0).to(torch.int32).argmax(dim=1, keepdim=True)
    lowest = histogram.gather(1, first)
    scale = 255 / (total - lowest).clamp_(min=1).to(torch.float32)
    table = (histogram.cumsum(1) - lowest).to(torch.float32).mul_(scale).round_().clamp_(0, 255).to(torch.uint8)
    # An image of one level stays as it is.
    table = torch.where(lowest == total, first.to(torch.uint8), table)
    return table.reshape(-1).index_select(0, flat.reshape(-1)).reshape(levels.shape)
