"""Two networks with one-bit weights and activations: a small VGG and a perceptron (FINN, Umuroglu et al. 2017).

They hold the weights of somebody else's training, which come as signs and thresholds:

    activation = +1 if the sum of the products > threshold, else -1

Here a threshold is a bias and the next layer takes the sign: sums are whole numbers, so sum > t is the same as
sum - (floor(t) + 1) >= 0. Weights are signs times a power of two near 1 / sqrt(K), which keeps sums at the size that
straight-through gradients want and every number exact. Only the deployed form (`robustlab.load`) computes with signs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import ClassVar

import torch
from torch import Tensor, nn

from robustlab.core.errors import ModelFileError
from robustlab.models.blocks import Normalize

Grid = tuple[float, float, int]

_ABOVE_HALF = 0.5 + 2.0**-24  # the next float32


class BinaryNetwork(nn.Module):
    """Its layers take the signs of their inputs, or, where `grids` names one, codes of (scale, zero point, bits)."""

    grids: ClassVar[Mapping[str, Grid]] = MappingProxyType({})


class BinaryCnv(BinaryNetwork):
    """Six unpadded 3x3 convolutions with two poolings, then three linear layers.

    The first layer sees 8-bit levels: x = 2 images - 1, as floor(128 x) + 1/2 steps of 1/128.
    Shape: images (N, 3, 32, 32) in [0, 1] -> logits (N, classes).
    """

    grids: ClassVar[Mapping[str, Grid]] = MappingProxyType({"conv0": (1 / 128, 127.5, 8)})

    def __init__(self, classes: int = 10) -> None:
        super().__init__()
        self.normalize = Normalize((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
        self.conv0 = nn.Conv2d(3, 64, 3)
        self.conv1 = nn.Conv2d(64, 64, 3)
        self.conv2 = nn.Conv2d(64, 128, 3)
        self.conv3 = nn.Conv2d(128, 128, 3)
        self.conv4 = nn.Conv2d(128, 256, 3)
        self.conv5 = nn.Conv2d(256, 256, 3)
        self.fc0 = nn.Linear(256, 512)
        self.fc1 = nn.Linear(512, 512)
        self.fc2 = nn.Linear(512, classes, bias=False)
        self.pool = nn.MaxPool2d(2)
        self.activation = nn.Hardtanh()

    def forward(self, images: Tensor) -> Tensor:
        """Logits (N, classes)."""
        x = self.activation(self.conv0(self.normalize(images)))
        x = self.pool(self.activation(self.conv1(x)))
        x = self.activation(self.conv2(x))
        x = self.pool(self.activation(self.conv3(x)))
        x = self.activation(self.conv4(x))
        x = self.activation(self.conv5(x)).flatten(1)
        x = self.activation(self.fc0(x))
        logits: Tensor = self.fc2(self.activation(self.fc1(x)))
        return logits


class BinaryLfc(BinaryNetwork):
    """Four linear layers on the signs of grey values: +1 where a pixel is above 0.5.

    Shape: images (N, C, 28, 28) in [0, 1], whose channels are averaged -> logits (N, classes).
    """

    def __init__(self, classes: int = 10, width: int = 1024) -> None:
        super().__init__()
        self.fc0 = nn.Linear(28 * 28, width)
        self.fc1 = nn.Linear(width, width)
        self.fc2 = nn.Linear(width, width)
        self.fc3 = nn.Linear(width, classes, bias=False)
        self.activation = nn.Hardtanh()

    def forward(self, images: Tensor) -> Tensor:
        """Logits (N, classes)."""
        x = images.mean(dim=1).flatten(1) - _ABOVE_HALF
        x = self.activation(self.fc0(x))
        x = self.activation(self.fc1(x))
        logits: Tensor = self.fc3(self.activation(self.fc2(x)))
        return logits


def binary_state(tensors: Mapping[str, Tensor], grids: Mapping[str, Grid], path: Path) -> dict[str, Tensor]:
    """Weights and biases of a `BinaryNetwork` from signs ``NAME.weight`` and thresholds ``NAME.threshold`` of a file.

    The last layer gives its sums: a threshold of it is not used. Raises `ModelFileError` for weights that are not
    signs, or thresholds that are not finite and one for each output.
    """
    names = sorted(key.removesuffix(".weight") for key in tensors if key.endswith(".weight"))
    extra = sorted(set(tensors) - {f"{name}.{part}" for name in names for part in ("weight", "threshold")})
    if extra or not names:
        raise ModelFileError(f"model file {path} has the tensor {extra[:1]}; allowed: NAME.weight and NAME.threshold")
    state: dict[str, Tensor] = {}
    for name in names:
        signs, threshold = tensors[f"{name}.weight"].to(torch.float64), tensors.get(f"{name}.threshold")
        if not bool((signs.abs() == 1).all()):
            raise ModelFileError(f"model file {path}: {name}.weight holds other values; allowed: -1 and +1")
        step = 2.0 ** -round(math.log2(signs[0].numel()) / 2)
        state[f"{name}.weight"] = (signs * step).to(torch.float32)
        if name == names[-1]:
            continue
        if threshold is None or threshold.shape != signs.shape[:1] or not bool(torch.isfinite(threshold).all()):
            raise ModelFileError(f"model file {path}: {name} lacks a finite threshold for each of {len(signs)} outputs")
        scale, zero_point, _ = grids.get(name, (1.0, 0.0, 1))
        bias = -(torch.floor(threshold.to(torch.float64) / scale) + 1)
        if zero_point % 1:  # every level is half a step above the number that the file means
            bias -= signs.flatten(1).sum(1) / 2
        state[f"{name}.bias"] = (bias * scale * step).to(torch.float32)
    return state
