"""Every way to write an operation: the rules that fuse it, and what looks like one and is not."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robustlab.compress.freeze import FrozenLayer, LayerScheme
from robustlab.deploy import OptimizedModel, PackedLayer, optimize
from robustlab.kernels import ConvGeometry, available, use_backend


@pytest.fixture(autouse=True)
def seeded() -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


def binary(inputs: int, outputs: int) -> PackedLayer:
    codes = torch.where(torch.rand(outputs, inputs, 3, 3) < 0.5, -1, 1).to(torch.int8)
    scheme = LayerScheme(1, None, ConvGeometry((1, 1), (1, 1)))
    return PackedLayer.from_frozen(FrozenLayer(codes, torch.rand(outputs) * 0.1, torch.randn(outputs) * 0.1, scheme))


class Apply(nn.Module):
    """A function as a module, with constants of its own."""

    def __init__(self, function: Callable[[Apply, Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function
        self.c = nn.Parameter(torch.randn(1, 16, 1, 1))
        self.flat = nn.Parameter(torch.rand(16))
        self.one = nn.Parameter(torch.rand(1))
        self.number = nn.Parameter(torch.tensor(0.7))
        self.image = nn.Parameter(torch.randn(1, 16, 8, 8))

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self, x)


FUSED: dict[str, Callable[[Apply, Tensor], Tensor]] = {
    "torch.relu": lambda m, x: torch.relu(x),
    "F.relu": lambda m, x: F.relu(x, inplace=True),
    "relu method": lambda m, x: x.relu(),
    "relu_": lambda m, x: x.relu_(),
    "clamp": lambda m, x: torch.clamp(x, -0.3, 0.7),
    "clamp low": lambda m, x: x.clamp(min=0.1),
    "clamp high": lambda m, x: x.clamp(max=0.1),
    "clamp_min": lambda m, x: x.clamp_min(-0.1),
    "clamp_max_": lambda m, x: torch.clamp_max(x, 0.3),
    "clip": lambda m, x: x.clip(0, 1),
    "relu6": lambda m, x: F.relu6(x * 9),
    "hardtanh": lambda m, x: F.hardtanh(x),
    "hardtanh with bounds": lambda m, x: F.hardtanh(x, -0.1, 0.2),
    "leaky_relu": lambda m, x: F.leaky_relu(x, 0.3),
    "negative leaky_relu": lambda m, x: F.leaky_relu(x, -0.3),
    "prelu": lambda m, x: F.prelu(x, m.flat),
    "prelu with one slope": lambda m, x: torch.prelu(x, m.one),
    "dropout": lambda m, x: F.dropout(x, 0.5, m.training),
    "dropout2d": lambda m, x: F.dropout2d(x, 0.5, training=m.training),
    "x + c": lambda m, x: x + m.c,
    "c + x": lambda m, x: m.c + x,
    "torch.add": lambda m, x: torch.add(x, m.c),
    "x - c": lambda m, x: x - m.c,
    "x * c": lambda m, x: x * m.c,
    "c * x": lambda m, x: m.c * x,
    "x / c": lambda m, x: x / m.c,
    "x + 0-dim": lambda m, x: x + m.number,
    "x * one": lambda m, x: x * m.one,
    "x + 0.1": lambda m, x: x + 0.1,
    "0.1 + x": lambda m, x: 0.1 + x,
    "x - 0.1": lambda m, x: x - 0.1,
    "x * 3": lambda m, x: 3 * x,
    "x / 3": lambda m, x: x / 3,
    "x / 0.1": lambda m, x: torch.div(x, 0.1),
    "in place": lambda m, x: x.add_(0.25).mul_(1.7).sub_(0.1).div_(3.0),
    "x += x": lambda m, x: x.add(x),
    "max_pool2d": lambda m, x: F.max_pool2d(x, 2),
    "padded max_pool2d": lambda m, x: F.max_pool2d(x, 3, stride=1, padding=1),
    "rectangular max_pool2d": lambda m, x: torch.max_pool2d(x, (2, 3), (2, 1), (1, 0)),
    "ceil without effect": lambda m, x: F.max_pool2d(x, 2, ceil_mode=True),
    "avg_pool2d": lambda m, x: F.avg_pool2d(x, 2),
    "avg_pool2d 3x3": lambda m, x: F.avg_pool2d(x, 3, 1),
    "adaptive pool of the same size": lambda m, x: F.adaptive_avg_pool2d(x, 8),
    "cat": lambda m, x: torch.cat((x, x + 1), dim=1),
    "pad": lambda m, x: F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 3, 4)),
    "pad alone": lambda m, x: F.pad(x, (0, 0, 0, 0, 0, 2), "constant", 0),
    "reshape to the same": lambda m, x: x.reshape(x.shape[0], 16, 8, 8),
    "contiguous": lambda m, x: x.contiguous(),
}

IN_TORCH: dict[str, Callable[[Apply, Tensor], Tensor]] = {
    "add with alpha": lambda m, x: torch.add(x, x, alpha=2),
    "whole image": lambda m, x: x + m.image,
    "clamp with tensors": lambda m, x: torch.clamp(x, min=m.number),
    "clamp in the wrong order": lambda m, x: torch.clamp(x, 1, -1),
    "computed slope": lambda m, x: F.prelu(x, m.flat * 2),
    "ceil": lambda m, x: F.max_pool2d(x, 3, 2, ceil_mode=True),
    "dilated": lambda m, x: F.max_pool2d(x, 2, 1, 0, 2),
    "padded average": lambda m, x: F.avg_pool2d(x, 3, 1, 1),
    "another divisor": lambda m, x: F.avg_pool2d(x, 2, divisor_override=3),
    "cat of rows": lambda m, x: torch.cat([x, x], 2),
    "padded pixels": lambda m, x: F.pad(x, (1, 1, 1, 1)),
    "padded with ones": lambda m, x: F.pad(x, (0, 0, 0, 0, 1, 1), value=1.0),
    "another slice": lambda m, x: F.pad(x[:, :, 1::2, ::2], (0, 0, 0, 0, 1, 1)),
    "1 - x": lambda m, x: 1 - x,
    "c / x": lambda m, x: m.c / (x * x + 1),
    "floor division": lambda m, x: torch.div(x, 0.3, rounding_mode="floor"),
    "transposed": lambda m, x: x.transpose(2, 3).contiguous(),
    "mean": lambda m, x: x.mean((2, 3), keepdim=True),
    "sigmoid": lambda m, x: x.sigmoid(),
    "product of values": lambda m, x: x * x.sigmoid(),
    "double": lambda m, x: x.double().float(),
}


def applied(function: Callable[[Apply, Tensor], Tensor]) -> tuple[OptimizedModel, int]:
    """A network with the function between two layers: optimized, checked, and how many programs it has."""
    model = nn.Sequential(binary(3, 16), Apply(function)).eval()
    x = torch.rand(2, 3, 8, 8)
    model.append(binary(model(x).shape[1], 8).eval())
    optimized = optimize(model.requires_grad_(False))
    for name in available():
        with use_backend(name):
            assert torch.equal(optimized(x), model(x)), name
    return optimized, len(optimized.report().segments)


@pytest.mark.parametrize("name", FUSED)
def test_every_way_to_write_an_operation_is_fused(name: str) -> None:
    optimized, count = applied(FUSED[name])
    assert count == 1, str(optimized.report())
    assert not optimized.report().in_torch


@pytest.mark.parametrize("name", IN_TORCH)
def test_what_is_something_else_stays_in_torch(name: str) -> None:
    optimized, count = applied(IN_TORCH[name])
    assert count == 2, str(optimized.report())
    assert optimized.report().in_torch
