"""Spatter: drops of water or mud on the lens."""

from __future__ import annotations

import torch
from torch import Tensor

from robustlab.datasets.corruptions._batch import Draws, Size, as_levels, from_unit, normals, to_unit
from robustlab.datasets.corruptions._filters import extended, gaussian
from robustlab.datasets.corruptions.edges import canny, chamfer_distance, equalize
from robustlab.datasets.corruptions.tables import Table

WATER = (175.0, 238.0, 238.0)  # pale turquoise
MUD = (63.0, 42.0, 20.0)
_FAR = 20  # distances from the drops' edges count up to here


def draw_spatter(keys: Tensor, size: Size, severity: int, table: Table) -> Draws:
    """`layer`: float64 (N, 1, H, W), how much of the drops' colour is seen where."""
    return {"layer": drops(normals(keys, size), severity, table).unsqueeze(1)}


def drops(noise: Tensor, severity: int, table: Table) -> Tensor:
    """The layer float64 (N, H, W) from a standard normal field (N, H, W)."""
    mean, deviation, blur, threshold, strength, mud = table.spatter[severity - 1]
    # In noise no sum is a whole level but for its last bit.
    liquid = gaussian((noise.to(torch.float64) * deviation).add_(mean), blur, exact=False)
    liquid.masked_fill_(liquid < threshold, 0)
    if mud:
        mask = gaussian((liquid > threshold).to(torch.float64), strength)
        return mask.masked_fill_(mask < 0.8, 0)
    levels = as_levels(liquid.mul_(255))
    distance = _sum3(chamfer_distance(canny(levels, 50, 150), _FAR)).to(torch.float64).mul_(1.0 / 9.0)
    relief = _emboss(equalize(as_levels(distance.to(torch.float32))))
    layer = (_sum3(relief) / 9).round_().mul_(levels)
    # A layer without a single drop has no maximum to be measured by, and stays empty.
    largest = layer.amax(dim=(1, 2), keepdim=True)
    return layer.div_(largest.masked_fill(largest == 0, 1)).mul_(strength).to(torch.float64)


def _around(x: Tensor) -> Tensor:
    """float32 (N, H + 2, W + 2): x with a mirrored border. All values here are exact in float32, and so are sums."""
    return extended(extended(x, 1, 1, "reflect"), 2, 1, "reflect", torch.float32)


def _sum3(x: Tensor) -> Tensor:
    """Sum of 3 x 3 pixels."""
    wide = _around(x)
    rows = wide[:, :-2] + wide[:, 1:-1] + wide[:, 2:]
    return rows[..., :-2] + rows[..., 1:-1] + rows[..., 2:]


def _emboss(x: Tensor) -> Tensor:
    """Light from one corner: a 3 x 3 filter, saturated to [0, 255]."""
    wide = _around(x)
    above, middle, below = wide[:, :-2], wide[:, 1:-1], wide[:, 2:]
    rising = middle[..., 1:-1] + middle[..., 2:] + below[..., 1:-1] + 2 * below[..., 2:]
    return rising.sub_(2 * above[..., :-2] + above[..., 1:-1] + middle[..., :-2]).clamp_(0, 255)


def spatter(pixels: Tensor, draws: Draws, severity: int, table: Table) -> Tensor:
    """Water adds its colour; mud covers what is behind it."""
    layer = draws["layer"]
    x = to_unit(pixels)
    mud = bool(table.spatter[severity - 1][5])
    colour = torch.tensor(MUD if mud else WATER, dtype=torch.float64, device=x.device).div_(255).reshape(3, 1, 1)
    if mud:
        x.mul_(1 - layer)
    return from_unit(x.add_(layer * colour))
