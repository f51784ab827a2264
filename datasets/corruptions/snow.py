"""Snow: flakes of thresholded noise, blurred along the wind, over a whitened image."""

from __future__ import annotations

import torch
from torch import Tensor

from robustlab.core.keys import derive
from robustlab.datasets.corruptions._batch import Draws, Size, angles, from_unit, mask, normals, to_unit
from robustlab.datasets.corruptions._filters import zoom, zoom_crop
from robustlab.datasets.corruptions.motion import along_lines
from robustlab.datasets.corruptions.tables import Table


def draw_snow(keys: Tensor, size: Size, severity: int, table: Table) -> Draws:
    """`flakes`: uint8 (N, 1, H, W), the layer that is added."""
    factor = table.snow[severity - 1][2]
    noise, wind = normals(keys, zoom_crop(size, factor)), angles(derive(keys, "angle"), -135, -45)
    return {"flakes": flakes(noise, wind, size, severity, table)}


def flakes(noise: Tensor, wind: Tensor, size: Size, severity: int, table: Table) -> Tensor:
    """The layer of snow from the middle of a standard normal field: see `zoom_crop` for its shape (N, h, w)."""
    mean, deviation, factor, threshold, radius, sigma, _ = table.snow[severity - 1]
    layer = (noise.to(torch.float64) * deviation).add_(mean)
    if factor != 1:
        start = tuple((side - cut) // 2 for side, cut in zip(size, noise.shape[1:], strict=True))
        layer = zoom(layer, factor, size, (start[0], start[1])).mT
    sparse = mask(layer >= torch.full_like(layer, threshold))
    levels = from_unit(layer).bitwise_and_(sparse)
    return along_lines(levels.unsqueeze(1).contiguous(), radius, sigma, wind)


def snow(pixels: Tensor, draws: Draws, severity: int, table: Table) -> Tensor:
    """Whiten the image, and add the flakes twice: as drawn and turned by half a turn."""
    weight = table.snow[severity - 1][6]
    red, green, blue = (to_unit(channel) for channel in pixels.unbind(1))
    grey = (red * 0.299).add_(green * 0.587).add_(blue * 0.114).mul_(1.5).add_(0.5)
    layer = to_unit(draws["flakes"].squeeze(1))
    turned = layer.flip((1, 2))
    result = torch.empty_like(pixels)
    # Channel by channel: what is between the steps stays in the cache.
    for i, x in enumerate((red, green, blue)):
        whitened = torch.maximum(x, grey).mul_(1 - weight)
        result[:, i] = from_unit(x.mul_(weight).add_(whitened).add_(layer).add_(turned))
    return result
