"""The layers that are timed, and their operands. All numbers are small integers, so that every sum is exact."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class ConvCase:
    """A 3x3 convolution with padding 1 and as many outputs as inputs, batch 1."""

    channels: int
    size: int

    @property
    def label(self) -> str:
        """Such as ``conv 3x3 64@56²``."""
        return f"conv 3x3 {self.channels}@{self.size}²"

    @property
    def operations(self) -> float:
        """Products and sums."""
        return 2.0 * self.channels**2 * 9 * self.size**2


@dataclass(frozen=True)
class LinearCase:
    """A square linear layer."""

    features: int
    batch: int

    @property
    def label(self) -> str:
        """Such as ``linear 4096, batch 1``."""
        return f"linear {self.features}, batch {self.batch}"

    @property
    def operations(self) -> float:
        """Products and sums."""
        return 2.0 * self.batch * self.features**2


Case = ConvCase | LinearCase

CONVS = (ConvCase(64, 56), ConvCase(128, 28), ConvCase(256, 14), ConvCase(512, 7))
LINEARS = (LinearCase(4096, 1), LinearCase(4096, 64))


@dataclass(frozen=True)
class Operands:
    """x and weight (float32) of a case, and the exact product of the two (float32, or float64 where it must be)."""

    x: Tensor
    weight: Tensor
    exact: Tensor


def _integers(shape: tuple[int, ...], low: int, high: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(low, high + 1, shape, generator=generator, dtype=torch.int32).float()


def operands(case: Case, x_range: tuple[int, int], weight_range: tuple[int, int], *, odd: bool = False) -> Operands:
    """Seeded whole numbers in these ranges; `odd`: 2 n + 1 in their place, such as -1 and +1 from (-1, 0)."""
    if isinstance(case, ConvCase):
        x_shape: tuple[int, ...] = (1, case.channels, case.size, case.size)
        weight_shape: tuple[int, ...] = (case.channels, case.channels, 3, 3)
    else:
        x_shape, weight_shape = (case.batch, case.features), (case.features, case.features)
    x, weight = _integers(x_shape, *x_range, 0), _integers(weight_shape, *weight_range, 1)
    if odd:
        x, weight = 2 * x + 1, 2 * weight + 1
    exact = product(case, x.double(), weight.double())
    return Operands(x, weight, exact)


def product(case: Case, x: Tensor, weight: Tensor) -> Tensor:
    """What the layer of a case computes, in torch."""
    return F.conv2d(x, weight, padding=1) if isinstance(case, ConvCase) else F.linear(x, weight)
