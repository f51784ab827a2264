"""Blurs that need no randomness: Gaussian, defocus and zoom blur."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from robustlab.datasets.corruptions._batch import Draws, as_levels, from_unit, places_above, to_unit, truncated
from robustlab.datasets.corruptions._filters import extended, gaussian, zoom
from robustlab.datasets.corruptions.tables import Table

# Up to here float64 costs little.
_FEW_PIXELS = 64 * 64
# More than the error of a sum in float32: closer than this to a whole level, the area is taken to be flat.
_FLAT = 5e-5


def gaussian_blur(pixels: Tensor, draws: Draws, severity: int, table: Table) -> Tensor:
    """Gaussian filter, cut off at four deviations; the border is repeated."""
    sigma = table.gaussian_blur[severity - 1]
    if pixels.shape[2] * pixels.shape[3] <= _FEW_PIXELS:
        return from_unit(gaussian(to_unit(pixels), sigma))
    x = gaussian(pixels.to(torch.float32), sigma, exact=False).add_(_FLAT)
    whole = x.floor()
    result = as_levels(whole)
    near = places_above(whole.sub_(x), -2 * _FLAT)
    if len(near):
        flat = result.reshape(-1)
        flat[near] = _blurred_flat(sigma).to(x.device)[flat[near].to(torch.int32)]
    return result


@lru_cache(maxsize=32)
def _blurred_flat(sigma: float) -> Tensor:
    """uint8 (256,): what a flat area of each level becomes in float64: the level, or where weights sum to less than 1
    in the last bit, often the one below."""
    levels = torch.arange(256, dtype=torch.uint8).reshape(-1, 1, 1)
    return from_unit(gaussian(to_unit(levels), sigma)).reshape(-1)


def disk(radius: float, alias: float) -> np.ndarray:
    """float64 (2R + 1, 2R + 1): a disk of total weight 1, smoothed by a small Gaussian against aliasing.

    R is 8, or the radius where that is larger; the Gaussian has 3 x 3 taps, or 5 x 5 for radii above 8.
    """
    reach, taps = (8, 1) if radius <= 8 else (int(radius), 2)
    offsets = np.arange(-reach, reach + 1)
    kernel = (offsets[:, None] ** 2 + offsets**2 <= radius**2).astype(np.float64)
    kernel /= kernel.sum()
    smooth = np.exp(-(np.arange(-taps, taps + 1) ** 2) / (2 * alias**2))
    smooth /= smooth.sum()
    for axis in (0, 1):
        padded = np.pad(kernel, [(taps, taps) if a == axis else (0, 0) for a in (0, 1)], mode="reflect")
        kernel = sum(w * np.take(padded, np.arange(i, i + 2 * reach + 1), axis) for i, w in enumerate(smooth))
    return kernel


# Some kernels weigh 1.013 in all: 255 levels times 64,000 times that is still below 2^24.
DEFOCUS_UNIT = 64_000
_TILE = 32


@lru_cache(maxsize=32)
def _folded_disk(radius: float, alias: float) -> tuple[int, Tensor]:
    """The kernel as a product for `defocus_blur`: its reach r, and float32 ((r + 1) (_TILE + 2 r), _TILE).

    Weights are counted in 64,000ths. Products with 8-bit levels and all of their sums are then whole numbers below
    2^24, which float32 holds exactly: the result does not depend on the order of additions.
    """
    kernel = disk(radius, alias)
    middle = len(kernel) // 2
    used = np.argwhere(kernel.max(axis=0) > 0.5 / DEFOCUS_UNIT).ravel()
    reach = middle - int(used[0])
    kernel = kernel[middle - reach : middle + reach + 1, middle - reach : middle + reach + 1]
    scaled = kernel * DEFOCUS_UNIT
    unit = round(scaled.sum())
    whole = np.floor(scaled)
    # The largest remainders are rounded up, symmetrically; what is left over goes to the middle.
    distance = np.arange(-reach, reach + 1) ** 2
    order = np.lexsort(((distance[:, None] + distance).ravel(), np.round(-(scaled - whole), 9).ravel()))
    missing = int(unit - whole.sum())
    rounded_up = np.zeros(whole.size, bool)
    rounded_up[order[:missing]] = True
    rounded_up = rounded_up.reshape(whole.shape)
    rounded_up &= rounded_up[::-1] & rounded_up[:, ::-1] & rounded_up[::-1, ::-1]
    whole += rounded_up
    whole[reach, reach] += unit - whole.sum()
    product = np.zeros((reach + 1, _TILE + 2 * reach, _TILE), np.float32)
    for column in range(_TILE):
        product[:, column : column + 2 * reach + 1, column] = whole[reach:]
    return reach, torch.from_numpy(product.reshape(-1, _TILE))


def defocus_blur(pixels: Tensor, draws: Draws, severity: int, table: Table) -> Tensor:
    """Correlation with a disk; the border is mirrored without repeating it."""
    reach, product = _folded_disk(*table.defocus_blur[severity - 1])
    count, channels, height, width = pixels.shape
    tiles = -(-width // _TILE)
    over = tiles * _TILE - width
    padded = extended(extended(pixels.flatten(0, 1), 1, reach, "reflect"), 2, reach + over, "reflect", torch.float32)
    padded = padded[:, :, over:]
    # The disk is symmetric: rows at the same distance above and below are added first.
    folded = padded.new_empty((count * channels, height, reach + 1, padded.shape[2]))
    folded[:, :, 0] = padded[:, reach : reach + height]
    for distance in range(1, reach + 1):
        above, below = (padded[:, reach + d : reach + d + height] for d in (-distance, distance))
        torch.add(above, below, out=folded[:, :, distance])
    result = padded.new_empty((count * channels * height, tiles * _TILE))
    product = product.to(pixels.device)
    for left in range(0, tiles * _TILE, _TILE):
        window = folded[..., left : left + _TILE + 2 * reach].reshape(len(result), -1)
        result[:, left : left + _TILE] = window @ product
    result = result[:, :width].reshape(pixels.shape)
    return truncated(result.div_(DEFOCUS_UNIT))


def zoom_blur(pixels: Tensor, draws: Draws, severity: int, table: Table) -> Tensor:
    """The mean of the image and of itself enlarged by a range of factors from 1 on, about its middle."""
    step, count = table.zoom_blur[severity - 1]
    x = pixels.flatten(0, 1).to(torch.float32)
    total = torch.zeros_like(x.mT, memory_format=torch.contiguous_format)
    for factor in np.arange(1, 1 + (count - 0.5) * step, step)[1:]:
        total.add_(zoom(x, float(factor)))
    # The factor 1 and, once more, the image itself.
    return truncated(x.mul_(2).add_(total.mT).div_(count + 1)).reshape(pixels.shape)
