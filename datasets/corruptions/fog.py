"""Fog: a layer of fractal noise made by the diamond-square algorithm."""

from __future__ import annotations

from torch import Tensor

from robustlab.datasets.corruptions._batch import Draws, Size, from_unit, to_unit, uniforms
from robustlab.datasets.corruptions.tables import Table

WIBBLE = 100.0


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
    count = len(noise)
    values = noise.new_zeros((count, side, side))
    step, used, wibble = side, 0, WIBBLE
    while step >= 2:
        half, cells = step // 2, side // step
        draws = noise[:, used : used + 3 * cells * cells].reshape(count, 3, cells, cells) * (wibble * wibble)
        used += 3 * cells * cells
        corners = values[:, ::step, ::step]
        across = corners + corners.roll(-1, 1)
        centres = ((across + across.roll(-1, 2)) / 4).add_(draws[:, 0])
        values[:, half::step, half::step] = centres
        below = (centres + centres.roll(1, 1)).add_(corners + corners.roll(-1, 2))
        values[:, ::step, half::step] = (below / 4).add_(draws[:, 1])
        beside = (centres + centres.roll(1, 2)).add_(corners + corners.roll(-1, 1))
        values[:, half::step, ::step] = (beside / 4).add_(draws[:, 2])
        step, wibble = half, wibble / decay
    low = values.amin(dim=(1, 2), keepdim=True)
    values.sub_(low)
    return values.div_(values.amax(dim=(1, 2), keepdim=True))


def fog(pixels: Tensor, draws: Draws, severity: int, table: Table) -> Tensor:
    """Add the layer, and scale so that the brightest value stays where it was."""
    thickness = table.fog[severity - 1][0]
    x = to_unit(pixels)
    brightest = x.amax(dim=(1, 2, 3), keepdim=True)
    x.add_((draws["layer"] * thickness).unsqueeze(1))
    return from_unit(x.mul_(brightest).div_(brightest + thickness))
