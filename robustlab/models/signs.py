"""The two architectures of the bundled traffic-sign models: at most 25 MMAC and 350k parameters each at 64x64."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from robustlab.models.blocks import ChannelBias, Normalize, ShiftedPReLU


class _ResidualBlock(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        out = torch.relu(self.bn1(self.conv1(x)))
        return torch.relu(self.bn2(self.conv2(out)) + self.shortcut(x))


class SignsResNet(nn.Module):
    """A ResNet (He et al. 2016) with a stride-2 stem and one stage per width, halving the resolution in between.

    Shape: images (N, 3, H, W) in [0, 1] -> logits (N, classes).
    """

    def __init__(self, classes: int, widths: Sequence[int] = (16, 32, 64), blocks: Sequence[int] = (1, 1, 1)) -> None:
        super().__init__()
        self.normalize = Normalize((0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
        self.stem = nn.Conv2d(3, widths[0], 3, 2, 1, bias=False)
        self.bn = nn.BatchNorm2d(widths[0])
        stages: list[nn.Module] = []
        inputs = widths[0]
        for index, (width, count) in enumerate(zip(widths, blocks, strict=True)):
            for block in range(count):
                stages.append(_ResidualBlock(inputs, width, 2 if block == 0 and index > 0 else 1))
                inputs = width
        self.stages = nn.Sequential(*stages)
        self.head = nn.Linear(inputs, classes)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (N, classes)."""
        x = torch.relu(self.bn(self.stem(self.normalize(images))))
        logits: Tensor = self.head(self.stages(x).mean(dim=(2, 3)))
        return logits


class _BinaryStep(nn.Module):
    """Shift, (binary) 3x3 convolution and batch norm, with a shortcut around that one convolution.

    One shortcut per convolution: Bi-Real Net, Liu et al. 2018. Where resolution halves, the shortcut averages 2x2
    and repeats the channels, so it has no weights (ReActNet, Liu et al. 2020).
    """

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.shift = ChannelBias(inputs)
        self.conv = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn = nn.BatchNorm2d(outputs)
        self.pool: nn.Module = nn.AvgPool2d(2) if stride == 2 else nn.Identity()
        self.repeats = outputs // inputs
        self.activation = ShiftedPReLU(outputs)

    def forward(self, x: Tensor) -> Tensor:
        shortcut = self.pool(x)
        if self.repeats > 1:
            shortcut = torch.cat([shortcut] * self.repeats, dim=1)
        out: Tensor = self.activation(self.bn(self.conv(self.shift(x))) + shortcut)
        return out


class SignsBinary(nn.Module):
    """A network made to be binarized: double shortcuts, learned shifts before each sign, RPReLU after each step.

    `widths` grow by whole factors; `steps` counts the convolutions of each stage.
    Shape: images (N, 3, H, W) in [0, 1], H and W divisible by 2^(stages + 1) -> logits (N, classes).
    """

    def __init__(
        self,
        classes: int,
        stem: int = 32,
        widths: Sequence[int] = (64, 64, 128),
        steps: Sequence[int] = (2, 3, 1),
    ) -> None:
        super().__init__()
        self.normalize = Normalize((0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
        self.stem = nn.Conv2d(3, stem, 3, 2, 1, bias=False)
        self.bn = nn.BatchNorm2d(stem)
        self.activation = ShiftedPReLU(stem)
        body: list[nn.Module] = []
        inputs = stem
        for width, count in zip(widths, steps, strict=True):
            for step in range(count):
                body.append(_BinaryStep(inputs, width, 2 if step == 0 else 1))
                inputs = width
        self.body = nn.Sequential(*body)
        self.head = nn.Linear(inputs, classes)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (N, classes)."""
        x = self.activation(self.bn(self.stem(self.normalize(images))))
        logits: Tensor = self.head(self.body(x).mean(dim=(2, 3)))
        return logits
