"""Input diversity: a random resizing and padding of what the model is shown, keyed for every sample.

Xie et al., "Improving transferability of adversarial examples with input diversity", CVPR 2019, section 3.3.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from robustlab.attacks._victim import View
from robustlab.core.keys import derive, uniform


@dataclass(frozen=True)
class Diversity:
    """With `probability`, an image is shrunk to a random size and padded with zeros to its own size at a random place.

    Attributes:
        probability: of the transformation, in [0, 1], for each sample and step by itself.
        resize_rate: the smallest size is floor(rate * size), in (0, 1]; the largest is one below the image's own.
    """

    probability: float
    resize_rate: float

    def draw(self, keys: Tensor, step: int, device: torch.device) -> Tensor:
        """float32 (N, 4) in [0, 1): whether, size, top and left of each sample in one step."""
        return uniform(derive(keys, f"diversity{step}"), (4,), device=device)

    def view(self, draws: Tensor) -> View:
        """The transformation of the samples that `draws` (N, 4) belong to."""

        def transform(x: Tensor) -> Tensor:
            extent = torch.tensor(x.shape[2:], device=x.device)
            low = (extent * self.resize_rate).floor().clamp(min=1)
            size = torch.minimum(low + (draws[:, 1:2] * (extent - low)).floor(), extent - 1).clamp(min=1)  # (N, 2)
            start = (draws[:, 2:] * (extent - size + 1)).floor()
            changed = (draws[:, 0] < self.probability).reshape(-1, 1, 1, 1)
            return torch.where(changed, shrink(x, size, start), x)

        return transform


def shrink(x: Tensor, size: Tensor, start: Tensor) -> Tensor:
    """Bilinear resizing of each image (N, C, H, W) to `size` (N, 2), placed at `start` (N, 2) on zeros of its own size.

    The values of F.interpolate(mode="bilinear") and F.pad, with a size and a place for every sample.
    """
    axes, inside = [], []
    for axis, extent in enumerate(x.shape[2:]):
        place = torch.arange(extent, device=x.device) - start[:, axis : axis + 1]
        length = size[:, axis : axis + 1]
        inside.append((place >= 0) & (place < length))
        axes.append((2 * place + 1) / length - 1)  # grid_sample: -1 and 1 are the outer edges of the corner pixels.
    rows, columns = axes
    grid = torch.stack(
        [columns[:, None, :].expand(-1, x.shape[2], -1), rows[:, :, None].expand(-1, -1, x.shape[3])], dim=-1
    )
    sampled = F.grid_sample(x, grid.to(x.dtype), mode="bilinear", padding_mode="border", align_corners=False)
    return sampled * (inside[0][:, None, :, None] & inside[1][:, None, None, :])
