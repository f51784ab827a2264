"""A CIFAR-10 network that survives signs: ResNet-20's size, with a shortcut around every convolution."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from robustlab.core.errors import invalid
from robustlab.models.blocks import IMAGENET_MEAN, IMAGENET_STD, ChannelBias, ChannelPReLU, Normalize


class _Activation(nn.Sequential):
    """PReLU with a slope per channel, then a shift: RPReLU (ReActNet, Liu et al. 2020), whose first shift is left to
    the batch norm in front."""

    def __init__(self, channels: int) -> None:
        super().__init__(ChannelPReLU(channels), ChannelBias(channels))


class _Step(nn.Module):
    """activation(bn(conv(hardtanh(x))) + shortcut(x)): the shortcut carries what the signs of x leave out.

    Where resolution halves, the shortcut averages 2x2 and repeats the channels, so it has no weights.
    """

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.bound = nn.Hardtanh()
        self.conv = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn = nn.BatchNorm2d(outputs)
        self.pool: nn.Module = nn.AvgPool2d(2) if stride == 2 else nn.Identity()
        self.repeats = outputs // inputs
        self.activation = _Activation(outputs)

    def forward(self, x: Tensor) -> Tensor:
        shortcut = self.pool(x)
        if self.repeats > 1:
            shortcut = torch.cat([shortcut] * self.repeats, dim=1)
        out: Tensor = self.activation(self.bn(self.conv(self.bound(x))) + shortcut)
        return out


class CifarBiReal(nn.Module):
    """Bi-Real Net (Liu et al. 2018) for 32x32 images: as float it computes with clipped inputs, compressed with signs.

    Every convolution but the first has a shortcut of its own around it. Its inputs are clipped to [-1, 1], which signs
    do not see but the float network does: so its weights are a start for binary ones (ibid., section 3.3). `widths`
    grow by whole factors; `steps` counts the convolutions of each stage: with the stem and the head, (6, 6, 6) has the
    20 layers and the convolutions of ResNet-20.
    Shape: images (N, 3, H, W) in [0, 1], H and W divisible by 2^(stages - 1) -> logits (N, classes).
    """

    def __init__(
        self,
        classes: int = 10,
        widths: Sequence[int] = (16, 32, 64),
        steps: Sequence[int] = (6, 6, 6),
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
    ) -> None:
        super().__init__()
        if any(after % before for before, after in pairwise(widths)):
            raise invalid("widths", list(widths), "each a multiple of the one before it")
        self.normalize = Normalize(mean, std)
        self.stem = nn.Conv2d(3, widths[0], 3, 1, 1, bias=False)
        self.bn = nn.BatchNorm2d(widths[0])
        self.activation = _Activation(widths[0])
        body: list[nn.Module] = []
        inputs = widths[0]
        for stage, (width, count) in enumerate(zip(widths, steps, strict=True)):
            for step in range(count):
                body.append(_Step(inputs, width, 2 if stage and step == 0 else 1))
                inputs = width
        self.body = nn.Sequential(*body)
        self.head = nn.Linear(inputs, classes)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (N, classes)."""
        x = self.activation(self.bn(self.stem(self.normalize(images))))
        logits: Tensor = self.head(self.body(x).mean(dim=(2, 3)))
        return logits
