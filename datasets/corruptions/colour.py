"""Corruptions of colour that need no randomness: brightness, saturation and contrast."""

from __future__ import annotations

import torch
from torch import Tensor

from robustlab.datasets.corruptions._batch import Draws, from_unit, to_unit
from robustlab.datasets.corruptions.tables import Table


def brightness(pixels: Tensor, draws: Draws, severity: int, table: Table) -> Tensor:
    """Add to the value of HSV, keeping hue and saturation."""
    hue, saturation, value = _to_hsv(to_unit(pixels))
    return from_unit(_from_hsv(hue, saturation, value.add_(table.brightness[severity - 1]).clamp_(0, 1)))


def saturate(pixels: Tensor, draws: Draws, severity: int, table: Table) -> Tensor:
    """Multiply the saturation of HSV by a factor and add a constant, keeping hue and value."""
    factor, constant = table.saturate[severity - 1]
    hue, saturation, value = _to_hsv(to_unit(pixels))
    return from_unit(_from_hsv(hue, saturation.mul_(factor).add_(constant).clamp_(0, 1), value))


def contrast(pixels: Tensor, draws: Draws, severity: int, table: Table) -> Tensor:
    """Pull each channel towards its mean over the image."""
    # A sum of whole numbers is exact in any order, so that the mean is the same in any batch.
    total = pixels.sum(dim=(2, 3), keepdim=True, dtype=torch.int64)
    mean = total.to(torch.float64) / (255 * pixels.shape[2] * pixels.shape[3])
    return from_unit(to_unit(pixels).sub_(mean).mul_(table.contrast[severity - 1]).add_(mean))


def _to_hsv(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Hue in sixths of a turn [0, 6), saturation and value, each (N, H, W), of x (N, 3, H, W) in [0, 1].

    Hue and saturation of grey are 0. In the order of operations of scikit-image, which made the published files.
    """
    red, green, blue = x[:, 0], x[:, 1], x[:, 2]
    value = torch.maximum(torch.maximum(red, green), blue)
    chroma = value - torch.minimum(torch.minimum(red, green), blue)
    grey = chroma == 0
    divisor = chroma.masked_fill(grey, 1)
    hue = (green - blue).div_(divisor)
    second = (blue - red).div_(divisor).add_(2)
    third = (red - green).div_(divisor).add_(4)
    # Where two channels are the largest, the later one decides.
    hue = torch.where(blue == value, third, torch.where(green == value, second, hue))
    turn = hue.div_(6)
    turn = turn.sub_(turn.floor()).masked_fill_(grey, 0)
    saturation = chroma.div_(value.masked_fill(value == 0, 1))
    return turn.mul_(6), saturation, value


# For each sector of the hue, which of (value, falling, rising, low) red, green and blue are.
_SECTORS = ((0, 2, 3), (1, 0, 3), (3, 0, 2), (3, 1, 0), (2, 3, 0), (0, 3, 1))


def _from_hsv(hue: Tensor, saturation: Tensor, value: Tensor) -> Tensor:
    """RGB (N, 3, H, W) of hue in sixths of a turn, saturation and value, each (N, H, W)."""
    sector = hue.floor()
    fraction = hue - sector
    low = value * (1 - saturation)
    falling = value * (1 - fraction * saturation)
    rising = value * (1 - (1 - fraction) * saturation)
    result = torch.empty((len(hue), 3, *hue.shape[1:]), dtype=hue.dtype, device=hue.device)
    # Rounding can lift a hue just below a whole turn to 6, which is 0 again.
    index = sector.to(torch.int64).remainder_(6)
    table = torch.tensor(_SECTORS, device=hue.device)
    stacked = torch.stack([value, falling, rising, low], dim=1)
    torch.gather(stacked, 1, table[index].movedim(-1, 1), out=result)
    return result
