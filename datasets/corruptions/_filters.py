"""Linear filters that several corruptions share, each in a fixed order of operations.

Every result is a function of its own image alone, bit for bit: sums are made tap by tap, never by a matrix product,
whose order of additions may change with the size of the batch.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from robustlab.datasets.corruptions._batch import Size


@lru_cache(maxsize=64)
def gaussian_weights(sigma: float, truncate: float) -> tuple[float, ...]:
    """Weights of offsets 0, 1, ..., radius of a normalised Gaussian that is cut off at `truncate` deviations."""
    radius = int(truncate * sigma + 0.5)
    offsets = np.arange(-radius, radius + 1)
    with np.errstate(divide="ignore", invalid="ignore"):
        weights = np.exp(-0.5 / (sigma * sigma) * offsets**2) if sigma > 1e-15 else np.ones(1)
    return tuple(float(w) for w in (weights / weights.sum())[len(weights) // 2 :])


def border_index(length: int, margin: int, mode: str) -> Tensor:
    """int64 (length + 2 margin,): what lies at positions -margin, ..., length + margin - 1.

    `mode`: ``nearest`` (aaa|abcd|ddd), ``symmetric`` (cba|abcd|dcb) or ``reflect`` (dcb|abcd|cba).
    """
    position = torch.arange(-margin, length + margin)
    if mode == "nearest":
        return position.clamp_(0, length - 1)
    if mode == "reflect":
        period = max(2 * length - 2, 1)
        position = position.remainder(period)
        return torch.minimum(position, period - position)
    position = position.remainder(2 * length)
    return torch.minimum(position, 2 * length - 1 - position)


def extended(x: Tensor, dim: int, margin: int, mode: str, dtype: torch.dtype | None = None) -> Tensor:
    """x with `margin` more elements at both ends of dimension `dim`; see `border_index` for the modes."""
    length = x.shape[dim]
    shape = list(x.shape)
    shape[dim] += 2 * margin
    result = torch.empty(shape, dtype=dtype or x.dtype, device=x.device)
    result.narrow(dim, margin, length).copy_(x)
    if margin:
        index = border_index(length, margin, mode).to(x.device)
        # Two thin strips: selecting the whole would cost several times the copy.
        result.narrow(dim, 0, margin).copy_(x.index_select(dim, index[:margin]))
        result.narrow(dim, margin + length, margin).copy_(x.index_select(dim, index[margin + length :]))
    return result


def gaussian(x: Tensor, sigma: float, mode: str = "nearest", truncate: float = 4.0, exact: bool = True) -> Tensor:
    """Gaussian filter over the last two dimensions of a float tensor, rows first.

    The additions are made in the order of `scipy.ndimage.gaussian_filter`, the outermost pair of taps first. If
    `exact`, each product is rounded before it is added, so that float64 input gives the very bits of SciPy, including
    those that decide which side of a whole level a flat area falls on.
    """
    weights = gaussian_weights(sigma, truncate)
    for dim in (-2, -1):
        x = _symmetric(x, weights, dim, mode, exact)
    return x


def _symmetric(x: Tensor, weights: tuple[float, ...], dim: int, mode: str, exact: bool) -> Tensor:
    radius, length = len(weights) - 1, x.shape[dim]
    padded = extended(x, dim, radius, mode) if radius else x
    result = x * weights[0]
    pair = torch.empty_like(result)
    for tap in range(radius, 0, -1):
        torch.add(padded.narrow(dim, radius - tap, length), padded.narrow(dim, radius + tap, length), out=pair)
        if exact:
            result.add_(pair.mul_(weights[tap]))
        else:
            result.add_(pair, alpha=weights[tap])
    return result


@lru_cache(maxsize=256)
def _zoom_axis(length: int, factor: float, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """Where each of `length` enlarged positions comes from: lower neighbour, upper neighbour, weight of the upper
    (length, 1)."""
    cut = int(np.ceil(length / factor))
    start = (length - cut) // 2
    enlarged = round(cut * factor)
    trim = (enlarged - length) // 2
    position = (np.arange(enlarged) * ((cut - 1) / (enlarged - 1)))[trim : trim + length]
    low = np.floor(position).astype(np.int64).clip(0, cut - 1)
    high = (low + 1).clip(max=cut - 1)
    weight = torch.from_numpy(position - low).to(dtype).unsqueeze(1)
    return torch.from_numpy(low + start), torch.from_numpy(high + start), weight


def zoom_crop(size: Size, factor: float) -> Size:
    """Height and width of the middle part that `zoom` reads."""
    height, width = (int(np.ceil(side / factor)) for side in size)
    return height, width


def _enlarged(x: Tensor, factor: float, length: int, start: int) -> Tensor:
    """Linear interpolation along the second last dimension, whose first element is position `start`."""
    low, high, weight = _zoom_axis(length, factor, x.dtype)
    below = x.index_select(x.ndim - 2, (low - start if start else low).to(x.device))
    above = x.index_select(x.ndim - 2, (high - start if start else high).to(x.device))
    # Where both neighbours are equal this is exactly their value, so that flat areas stay flat.
    return below.add_(above.sub_(below).mul_(weight.to(x.device)))


def zoom(x: Tensor, factor: float, size: Size | None = None, start: Size = (0, 0)) -> Tensor:
    """Enlarge the middle of float (..., H, W) linearly, corners on corners; the result is (..., W, H), transposed.

    Where x is only a part of an image of `size`, it begins at pixel `start` of it; see `zoom_crop`.
    """
    height, width = size or (x.shape[-2], x.shape[-1])
    rows = _enlarged(x, factor, height, start[0])
    return _enlarged(rows.mT.contiguous(), factor, width, start[1])
