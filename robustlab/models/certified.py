"""The small ReLU networks of robust and certified training, whose robustness under attack is known from elsewhere.

`ReluNet` is every chain of convolutions and two linear layers among them (CNN-A of Wong & Kolter 2018, the networks of
the OVAL and ERAN verification benchmarks); `ResNet2B` is the residual network of alpha-beta-CROWN (Wang et al. 2021).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from robustlab.core.errors import invalid
from robustlab.models.blocks import IMAGENET_MEAN, IMAGENET_STD, Normalize


class _Grey(nn.Module):
    """The mean of the channels, which stays in [0, 1]."""

    def forward(self, images: Tensor) -> Tensor:
        return images.mean(dim=1, keepdim=True)


class ReluNet(nn.Module):
    """Convolutions, each followed by a ReLU, then a hidden linear layer with a ReLU and the last linear layer.

    One entry per convolution in `outputs` (channels), `kernels`, `strides` and `paddings`. Colour images are normalised
    by `mean` and `std`; with ``channels=1`` the channels are averaged and not normalised.

    Shape: images (N, 3, size, size) in [0, 1] (any number of channels where ``channels=1``) -> logits (N, classes).
    """

    def __init__(
        self,
        outputs: Sequence[int] = (16, 32),
        kernels: Sequence[int] = (4, 4),
        strides: Sequence[int] = (2, 2),
        paddings: Sequence[int] = (1, 1),
        hidden: int = 100,
        size: int = 32,
        channels: int = 3,
        classes: int = 10,
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
    ) -> None:
        super().__init__()
        if not len(outputs) == len(kernels) == len(strides) == len(paddings):
            lengths = (len(outputs), len(kernels), len(strides), len(paddings))
            raise invalid("outputs, kernels, strides, paddings", lengths, "lists of the same length")
        if channels not in (1, 3):
            raise invalid("channels", channels, "1 or 3")
        self.normalize: nn.Module = _Grey() if channels == 1 else Normalize(mean, std)
        self.convolutions = nn.ModuleList()
        inputs, side = channels, size
        for output, kernel, stride, padding in zip(outputs, kernels, strides, paddings, strict=True):
            self.convolutions.append(nn.Conv2d(inputs, output, kernel, stride, padding))
            inputs, side = output, (side + 2 * padding - kernel) // stride + 1
        if side < 1:
            raise invalid("size", size, "images that are not smaller than what the convolutions read")
        self.hidden = nn.Linear(inputs * side * side, hidden)
        self.linear = nn.Linear(hidden, classes)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (N, classes)."""
        x = self.normalize(images)
        for convolution in self.convolutions:
            x = torch.relu(convolution(x))
        logits: Tensor = self.linear(torch.relu(self.hidden(x.flatten(1))))
        return logits


class _Block(nn.Module):
    """A residual block without batch norm."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1)
        moved = stride != 1 or inputs != outputs
        self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride)) if moved else nn.Sequential()

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.conv2(torch.relu(self.conv1(x))) + self.shortcut(x))


class ResNet2B(nn.Module):
    """A strided convolution, two residual blocks without batch norm and two linear layers, for 32x32 images.

    Shape: images (N, 3, 32, 32) in [0, 1] -> logits (N, classes).
    """

    def __init__(
        self, classes: int = 10, mean: Sequence[float] = IMAGENET_MEAN, std: Sequence[float] = IMAGENET_STD
    ) -> None:
        super().__init__()
        self.normalize = Normalize(mean, std)
        self.conv1 = nn.Conv2d(3, 8, 3, 2, 1)
        self.layer1 = nn.Sequential(_Block(8, 16, 2), _Block(16, 16, 1))
        self.linear1 = nn.Linear(16 * 8 * 8, 100)
        self.linear2 = nn.Linear(100, classes)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (N, classes)."""
        x = self.layer1(torch.relu(self.conv1(self.normalize(images)))).flatten(1)
        logits: Tensor = self.linear2(torch.relu(self.linear1(x)))
        return logits
