"""Corruptions of colour that need no randomness: brightness, saturation and contrast."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from robustlab.datasets.corruptions._batch import Draws, as_levels, from_unit, mask, pick, same, to_unit
from robustlab.datasets.corruptions.tables import Table


def brightness(pixels: Tensor, draws: Draws, severity: int, table: Table) -> Tensor:
    """Add to the value of HSV, keeping hue and saturation."""
    amount = table.brightness[severity - 1]
    return _in_hsv(pixels, lambda saturation, value: value.add_(amount).clamp_(0, 1))


def saturate(pixels: Tensor, draws: Draws, severity: int, table: Table) -> Tensor:
    """Multiply the saturation of HSV by a factor and add a constant, keeping hue and value."""
    factor, constant = table.saturate[severity - 1]
    return _in_hsv(pixels, lambda saturation, value: saturation.mul_(factor).add_(constant).clamp_(0, 1))


def contrast(pixels: Tensor, draws: Draws, severity: int, table: Table) -> Tensor:
    """Pull each channel towards its mean over the image."""
    # A sum of whole numbers is exact in any order, so that the mean is the same in any batch.
    total = pixels.sum(dim=(2, 3), dtype=torch.int64)
    mean = (total.to(torch.float64) / (255 * pixels.shape[2] * pixels.shape[3])).reshape(-1, 1)
    # What becomes of each level, channel by channel.
    levels = to_unit(torch.arange(256, dtype=torch.uint8, device=pixels.device))
    changed = from_unit((levels - mean).mul_(table.contrast[severity - 1]).add_(mean))
    first = torch.arange(0, changed.numel(), 256, dtype=torch.int32, device=pixels.device)
    index = pixels.flatten(2).to(torch.int32) + first.reshape(*pixels.shape[:2], 1)
    return changed.reshape(-1).index_select(0, index.reshape(-1)).reshape(pixels.shape)


def _in_hsv(pixels: Tensor, change: Callable[[Tensor, Tensor], object]) -> Tensor:
    """To HSV, `change` saturation and value float64 (N, H, W) in place within [0, 1], and back to uint8.

    In the order of operations of scikit-image, which made the published files. Hue and saturation of grey are 0. Of
    the three channels one gets the value and one value times (1 - saturation); only the third depends on the hue.
    """
    red, green, blue = pixels.unbind(1)
    most = torch.maximum(torch.maximum(red, green), blue)
    least = torch.minimum(torch.minimum(red, green), blue)
    # Where two channels are the largest, the later one decides.
    is_blue, is_green, grey = (mask(a == b) for a, b in ((blue, most), (green, most), (least, most)))
    value = to_unit(most)
    chroma = value - to_unit(least)
    hue = to_unit(pick(is_blue, red, pick(is_green, blue, green)))
    hue.sub_(to_unit(pick(is_blue, green, pick(is_green, red, blue))))
    # Divisors of 0 become 1.
    hue.div_((grey & 1).to(torch.float64).add_(chroma))
    shift = pick(is_blue, torch.full_like(grey, 4), is_green.bitwise_and_(2)).bitwise_and_(~grey)
    hue.add_(shift.to(torch.float64)).div_(6)
    hue.sub_(hue.floor()).mul_(6)
    saturation = chroma.div_(same(most, 0).bitwise_and_(1).to(torch.float64).add_(value))
    change(saturation, value)

    sector = hue.floor()
    fraction = hue.sub_(sector)
    index = as_levels(sector)
    zero, one, two, three, four, five = (same(index, i) for i in range(6))
    # Rounding can lift a hue just below a whole turn to 6, which is 0 again.
    zero |= same(index, 6)
    # The third channel rises from sector to sector, then falls: 1 - fraction or fraction.
    rises = (zero | two | four).bitwise_and_(1).to(torch.float64)
    third = rises.sub_(fraction).abs_().mul_(saturation).neg_().add_(1).mul_(value)
    low = saturation.neg_().add_(1).mul_(value)
    high, third, low = (as_levels(x.mul_(255)) for x in (value, third, low))
    channels = (
        pick(zero | five, high, pick(two | three, low, third)),
        pick(one | two, high, pick(four | five, low, third)),
        pick(three | four, high, pick(zero | one, low, third)),
    )
    return torch.stack(channels, dim=1)
