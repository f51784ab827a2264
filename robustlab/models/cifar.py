"""CIFAR-10 architectures: the ResNets of He et al. 2016 (section 4.2) and the small robust network CNN-A."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robustlab.core.errors import invalid
from robustlab.models.blocks import IMAGENET_MEAN, IMAGENET_STD, Normalize


class _PadShortcut(nn.Module):
    """Option A: every second pixel, zero channels added on both sides. No weights."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels

    def forward(self, x: Tensor) -> Tensor:
        return F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.channels // 2, self.channels // 2))


class _CifarBlock(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut = _PadShortcut(outputs - inputs) if inputs != outputs else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        out = torch.relu(self.bn1(self.conv1(x)))
        return torch.relu(self.bn2(self.conv2(out)) + self.shortcut(x))


class CifarResNet(nn.Module):
    """ResNet-20/32/44/56 for 32x32 images: three stages of 16, 32 and 64 channels, option-A shortcuts.

    Shape: images (N, 3, 32, 32) in [0, 1] -> logits (N, classes).
    """

    def __init__(
        self,
        depth: int = 20,
        classes: int = 10,
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
    ) -> None:
        super().__init__()
        if depth not in (20, 32, 44, 56):
            raise invalid("depth", depth, "20, 32, 44, 56")
        blocks = (depth - 2) // 6
        self.normalize = Normalize(mean, std)
        self.conv1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = self._stage(16, 16, blocks)
        self.layer2 = self._stage(16, 32, blocks)
        self.layer3 = self._stage(32, 64, blocks)
        self.linear = nn.Linear(64, classes)

    @staticmethod
    def _stage(inputs: int, outputs: int, blocks: int) -> nn.Sequential:
        first = _CifarBlock(inputs, outputs, 2 if inputs != outputs else 1)
        return nn.Sequential(first, *(_CifarBlock(outputs, outputs, 1) for _ in range(blocks - 1)))

    def forward(self, images: Tensor) -> Tensor:
        """Logits (N, classes)."""
        x = torch.relu(self.bn1(self.conv1(self.normalize(images))))
        x = self.layer3(self.layer2(self.layer1(x)))
        logits: Tensor = self.linear(x.mean(dim=(2, 3)))
        return logits


class CnnA(nn.Module):
    """The small network of certified-robustness work (Wong & Kolter 2018): two strided convolutions, two layers.

    Shape: images (N, 3, 32, 32) in [0, 1] -> logits (N, classes).
    """

    def __init__(
        self, classes: int = 10, mean: Sequence[float] = IMAGENET_MEAN, std: Sequence[float] = IMAGENET_STD
    ) -> None:
        super().__init__()
        self.normalize = Normalize(mean, std)
        self.conv1 = nn.Conv2d(3, 16, 4, 2, 1)
        self.conv2 = nn.Conv2d(16, 32, 4, 2, 1)
        self.fc1 = nn.Linear(32 * 8 * 8, 100)
        self.fc2 = nn.Linear(100, classes)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (N, classes)."""
        x = torch.relu(self.conv1(self.normalize(images)))
        x = torch.relu(self.conv2(x)).flatten(1)
        logits: Tensor = self.fc2(torch.relu(self.fc1(x)))
        return logits
