"""Noise per channel value: Gaussian, shot, impulse and speckle noise."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from robustlab.datasets.corruptions._batch import Draws, Size, from_unit, normals, places_above, to_unit, words
from robustlab.datasets.corruptions.tables import Table


def draw_normal(keys: Tensor, size: Size, severity: int, table: Table) -> Draws:
    """`noise`: float32 (N, 3, H, W), standard normal."""
    return {"noise": normals(keys, (3, *size))}


def gaussian_noise(pixels: Tensor, draws: Draws, severity: int, table: Table) -> Tensor:
    """Add a standard normal field times the severity's deviation."""
    noise = draws["noise"].to(torch.float64) * table.gaussian_noise[severity - 1]
    return from_unit(noise.add_(to_unit(pixels)))


def speckle_noise(pixels: Tensor, draws: Draws, severity: int, table: Table) -> Tensor:
    """Add a standard normal field times the value itself and the severity's deviation."""
    x = to_unit(pixels)
    noise = draws["noise"].to(torch.float64) * table.speckle_noise[severity - 1]
    return from_unit(noise.mul_(x).add_(x))


def draw_words(keys: Tensor, size: Size, severity: int, table: Table) -> Draws:
    """`words`: int32 (N, 3, H, W), 32 random bits each."""
    return {"words": words(keys, (3, *size))}


def impulse_noise(pixels: Tensor, draws: Draws, severity: int, table: Table) -> Tensor:
    """Replace a share p of the channel values, one half by black and the other by white.

    As a number in [-2^31, 2^31), a word in the lowest p / 2 of the range means black, in the next p / 2 white.
    """
    share = table.impulse_noise[severity - 1]
    black, white = (round(-(2**31) + part * 2**32) for part in (share / 2, share))
    drawn = draws["words"]
    # As bits: all ones where a value becomes white, then all zeros where it becomes black.
    bright = (drawn < white).view(torch.uint8).neg()
    kept = (drawn < black).view(torch.uint8).sub_(1)
    return bright.bitwise_or_(pixels).bitwise_and_(kept)


GUIDE_BITS = 12
_AMBIGUOUS = 256


@lru_cache(maxsize=16)
def _poisson_tables(photons: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """How to turn (level, 32 random bits) into the level that a Poisson count of that rate gives.

    Returns `guide` int16 (256 * 4096,): the level for the upper 12 bits, or 256 where a step of the distribution lies
    inside that cell; `steps` float64, increasing: level + P(count <= k), for all levels and k; `first` int64 (256,):
    where each level's steps begin; `levels` uint8: the level that count k becomes.
    """
    rates = np.arange(256) / 255.0 * photons
    most = int(photons + 12 * np.sqrt(photons) + 40)
    counts = np.arange(most)
    with np.errstate(divide="ignore", invalid="ignore"):
        logs = counts * np.log(rates)[:, None] - rates[:, None]
    logs[0] = np.where(counts == 0, 0.0, -np.inf)
    logs -= np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, most)))])
    cumulative = np.minimum(np.cumsum(np.exp(logs), axis=1), 1.0)
    cumulative[:, -1] = 1.0
    levels = (np.clip(counts / photons, 0, 1) * 255).astype(np.uint8)

    edges = np.arange(2**GUIDE_BITS + 1) / 2**GUIDE_BITS
    guide = np.empty((256, 2**GUIDE_BITS), np.int16)
    for level in range(256):
        count = np.searchsorted(cumulative[level], edges, side="right").clip(max=most - 1)
        reached = levels[count].astype(np.int16)
        guide[level] = np.where(reached[:-1] == reached[1:], reached[:-1], _AMBIGUOUS)
    steps = (cumulative + np.arange(256)[:, None]).reshape(-1)
    first = np.arange(256) * most
    return (
        torch.from_numpy(guide.reshape(-1)),
        torch.from_numpy(steps),
        torch.from_numpy(first),
        torch.from_numpy(levels),
    )


def shot_noise(pixels: Tensor, draws: Draws, severity: int, table: Table) -> Tensor:
    """Poisson counts at `photons` times the value, divided by `photons`: by inversion of the distribution.

    The law is exact to 2^-32. Most values need one look-up: there are only 256 rates, and the upper bits of the
    drawn word nearly always settle the count.
    """
    guide, steps, first, levels = (t.to(pixels.device) for t in _poisson_tables(float(table.shot_noise[severity - 1])))
    drawn, values = draws["words"].reshape(-1), pixels.reshape(-1)
    # The shift keeps the sign: half of the cells are negative and move up by half of the range.
    cells = (drawn >> (32 - GUIDE_BITS)).add_(2 ** (GUIDE_BITS - 1))
    result = guide.index_select(0, cells.add_(values.to(torch.int32) << GUIDE_BITS))
    open_ = places_above(result, _AMBIGUOUS - 1)
    if len(open_):
        value = values[open_].to(torch.int64)
        share = (drawn[open_].to(torch.float64) + (2.0**31 + 0.5)) / 2.0**32
        count = torch.searchsorted(steps, share + value, right=True) - first[value]
        result[open_] = levels[count.clamp_(0, len(levels) - 1)].to(torch.int16)
    return result.to(torch.uint8).reshape(pixels.shape)
