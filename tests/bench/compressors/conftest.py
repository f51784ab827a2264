"""A small network with every kind of layer, images for it, and the trained model that a file can hold."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

Images = Callable[[int, int], Tensor]


class Small(nn.Module):
    """Inputs of both signs and behind ReLU: a grouped dilated, a depthwise, an uneven convolution, a residual block."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, 2, 1, bias=False)
        self.bn = nn.BatchNorm2d(8)
        self.grouped = nn.Conv2d(8, 12, 3, 1, 2, dilation=2, groups=2, bias=False)
        self.bn1 = nn.BatchNorm2d(12)
        self.conv1 = nn.Conv2d(12, 12, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(12)
        self.conv2 = nn.Conv2d(12, 12, 1)
        self.depthwise = nn.Conv2d(12, 12, 3, 1, 1, groups=12)
        self.uneven = nn.Conv2d(12, 10, (3, 2), (2, 1), (1, 0))
        self.head = nn.Linear(10, 4)

    def forward(self, images: Tensor) -> Tensor:
        x = F.hardtanh(self.bn(self.stem(images * 4 - 2)))
        x = F.hardtanh(self.bn1(self.grouped(x)))
        x = F.hardtanh(self.conv2(F.relu(self.bn2(self.conv1(x)))) + x)
        x = self.uneven(F.hardtanh(self.depthwise(x))).mean(dim=(2, 3))
        logits: Tensor = self.head(x)
        return logits


@pytest.fixture(scope="session")
def images() -> Images:
    """(count, seed) -> images (count, 3, 16, 16) with neighbouring pixels alike."""

    def draw(count: int, seed: int = 0) -> Tensor:
        coarse = torch.rand(count, 3, 4, 4, generator=torch.Generator().manual_seed(seed))
        return F.interpolate(coarse, size=16, mode="bilinear")

    return draw


@pytest.fixture(scope="session")
def network(images: Images) -> nn.Module:
    """Eval mode, norms that have moved; not to be changed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Small().train()
        with torch.no_grad():
            for seed in range(3):
                model(images(16, seed))
            for module in model.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.weight.uniform_(0.5, 1.5)
                    module.bias.uniform_(-0.5, 0.5)
            logits = model.eval()(images(64, 9))
            model.head.weight *= 3 / logits.std()
            model.head.bias -= model(images(64, 9)).mean(0)  # so that predictions are of more than one class
    return model.eval()
