"""Fog: a layer of fractal noise made by the diamond-square algorithm."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from robustlab.datasets.corruptions._batch import Draws, Size, from_unit, to_unit, uniforms
from robustlab.datasets.corruptions.tables import Table

WIBBLE = 100.0
Grid = NDArray[np.float64]


def map_side(size: Size, table: Table) -> int:
    """Side of the noise map: the benchmark's own, or the next power of two that covers a larger image."""
    return max(table.fog_side, 1 << (max(size) - 1).bit_length())


def draw_fog(keys: Tensor, size: Size, severity: int, table: Table) -> Draws:
    """`layer`: float64 (N, H, W) in [0, 1]."""
    side = map_side(size, table)
    noise = uniforms(keys, (side * side - 1,), -1, 1)
    return {"layer": plasma(noise, side, table.fog[severity - 1][1])[:, : size[0], : size[1]]}


def plasma(noise: Tensor, side: int, decay: float) -> Tensor:
    """Fractal noise float64 (N, side, side), from 0 to 1 over each map; `side` is a power of two.

    `noise`: float64 (N, side^2 - 1), uniform in [-1, 1), used from the coarsest scale on: at every scale one square
    step and two diamond steps, each point the mean of four neighbours on a torus plus noise. The amplitude is divided
    by `decay` from scale to scale and, as in the published script, enters squared.
    """
    draws, used, wibble = noise.numpy(), 0, WIBBLE
    values = np.zeros((len(noise), 1, 1))
    while (cells := values.shape[1]) < side:
        own = draws[:, used : used + 3 * cells * cells].reshape(-1, 3, cells, cells) * (wibble * wibble)
        used += 3 * cells * cells
        finer = np.empty((len(noise), 2 * cells, 2 * cells))
        finer[:, ::2, ::2] = values
        down = values + _turned(values, 1, 1)
        centres = (down + _turned(down, 2, 1)) * 0.25 + own[:, 0]
        finer[:, 1::2, 1::2] = centres
        above = centres + _turned(centres, 1, -1)
        finer[:, ::2, 1::2] = (above + (values + _turned(values, 2, 1))) * 0.25 + own[:, 1]
        beside = centres + _turned(centres, 2, -1)
        finer[:, 1::2, ::2] = (beside + down) * 0.25 + own[:, 2]
        values, wibble = finer, wibble / decay
    values -= values.min(axis=(1, 2), keepdims=True)
    values /= values.max(axis=(1, 2), keepdims=True)
    return torch.from_numpy(values)


def _turned(x: Grid, axis: int, step: int) -> Grid:
    """What lies one place further (step 1) or before (-1) on a torus: `np.roll` without its overhead."""
    result = np.empty_like(x)
    to, source = result.swapaxes(axis, 0), x.swapaxes(axis, 0)
    if step > 0:
        to[:-1], to[-1] = source[1:], source[0]
    else:
        to[1:], to[0] = source[:-1], source[-1]
    return result


def fog(pixels: Tensor, draws: Draws, severity: int, table: Table) -> Tensor:
    """Add the layer, and scale so that the brightest value stays where it was."""
    thickness = table.fog[severity - 1][0]
    x = to_unit(pixels)
    brightest = x.amax(dim=(1, 2, 3), keepdim=True)
    x.add_((draws["layer"] * thickness).unsqueeze(1))
    return from_unit(x.mul_(brightest).div_(brightest + thickness))
