"""Random networks: whatever is fused, the optimized model equals the deployed one bit for bit."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from robustlab.compress.freeze import FrozenLayer, LayerScheme
from robustlab.compress.layers import Affine
from robustlab.deploy import PackedLayer, optimize
from robustlab.kernels import ActivationSpec, ConvGeometry, available, use_backend
from robustlab.models.blocks import ChannelBias, ShiftedPReLU

Shape = tuple[int, int, int]
SCHEMES = [(1, 0), (1, 0), (1, 2), (2, 2), (4, 4), (8, 8), (3, 5)]


def packed(
    inputs: int,
    outputs: int,
    generator: torch.Generator,
    scheme: tuple[int, int] = (1, 0),
    kernel: int = 3,
    stride: int = 1,
    padding: int = 1,
    groups: int = 1,
    value: str = "zero",
    bias: bool = True,
    zero_point: float = 0.0,
) -> PackedLayer:
    """A packed convolution with random codes; (weight bits, activation bits), 0 activation bits for signs."""
    weights, activations = scheme
    limit = 1 if weights == 1 else 2 ** (weights - 1) - 1
    codes = torch.randint(-limit, limit + 1, (outputs, inputs // groups, kernel, kernel), generator=generator)
    if weights == 1:
        codes = torch.where(codes < 0, -1, 1)
    spec = None
    if activations:
        spec = ActivationSpec(4.0 / 2**activations, zero_point, activations)
    geometry = ConvGeometry((stride, stride), (padding, padding), (1, 1), groups, value)
    scale = (torch.rand(outputs, generator=generator) + 0.1) / (limit * (inputs // groups) ** 0.5 * kernel)
    shift = torch.randn(outputs, generator=generator) * 0.1 if bias else None
    frozen = FrozenLayer(codes.to(torch.int8), scale, shift, LayerScheme(weights, spec, geometry))
    return PackedLayer.from_frozen(frozen).eval()


class Shortcut(nn.Module):
    def __init__(self, front: int, back: int, stride: int) -> None:
        super().__init__()
        self.front, self.back, self.stride = front, back, stride

    def forward(self, x: Tensor) -> Tensor:
        return F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.front, self.back))


class Cat(nn.Module):
    def forward(self, *parts: Tensor) -> Tensor:
        return torch.cat(parts, 1)


class Sum(nn.Module):
    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return a + b


class SumInto(nn.Module):
    """Adds in place to a fresh tensor."""

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        a = a * 0.5
        a += b
        return a


class Sine(nn.Module):
    """Stays in torch."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.sin(x)


class Network(nn.Module):
    """Calls modules on earlier values, as `wiring` says, and returns the values named last."""

    def __init__(self, modules: list[nn.Module], wiring: list[tuple[int, ...]], results: list[int]) -> None:
        super().__init__()
        self.parts = nn.ModuleList(modules)
        self.wiring, self.results = wiring, results

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        values = [x]
        for part, operands in zip(self.parts, self.wiring, strict=True):
            values.append(part(*(values[i] for i in operands)))
        return tuple(values[i] for i in self.results)


def affine(channels: int, generator: torch.Generator) -> Affine:
    gain = torch.randn(channels, generator=generator)
    gain[torch.rand(channels, generator=generator) < 0.1] = 0
    return Affine(gain, torch.randn(channels, generator=generator) * 0.3)


def prelu(channels: int, generator: torch.Generator, negative: bool) -> nn.PReLU:
    module = nn.PReLU(channels)
    slopes = torch.rand(channels, generator=generator)
    module.weight.data = slopes - 0.5 if negative else slopes
    return module


def shifted(channels: int, generator: torch.Generator) -> ShiftedPReLU:
    module = ShiftedPReLU(channels)
    for parameter in module.parameters():
        parameter.data = torch.rand(parameter.shape, generator=generator) - 0.3 * (parameter.ndim == 4)
    return module


def channel_bias(channels: int, generator: torch.Generator) -> ChannelBias:
    module = ChannelBias(channels)
    module.bias.data = torch.randn(module.bias.shape, generator=generator) * 0.3
    return module


class _Maker:
    """Makes a random network module by module."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.schemes = self.pick([(1, 0)], SCHEMES)
        self.chained = self.pick(True, False, False)
        self.generator = torch.Generator().manual_seed(seed)
        self.shapes: list[Shape] = [(self.pick(3, 8, 16, 20), *self.pick((8, 8), (9, 6), (4, 4), (17, 16)))]
        self.modules: list[nn.Module] = []
        self.wiring: list[tuple[int, ...]] = []

    def pick(self, *choices: Any) -> Any:
        return self.random.choice(choices)

    def add(self, module: nn.Module, operands: tuple[int, ...], shape: tuple[int, ...]) -> None:
        self.modules.append(module)
        self.wiring.append(operands)
        self.shapes.append((shape[0], shape[1], shape[2]))

    def step(self) -> None:
        source = max(0, len(self.shapes) - 1 - self.pick(0, 0, 0, 1, 2, 5))
        kinds = [self.conv] * 3 + [self.steps] * 3 + [self.sum] * 2 + [self.pool, self.cat, self.shortcut, self.torch]
        if self.chained:
            source, kinds = len(self.shapes) - 1, [self.conv] * 3 + [self.steps] * 3 + [self.pool] * 2
        self.pick(*kinds)(source, *self.shapes[source])

    def conv(self, source: int, c: int, h: int, w: int) -> None:
        kernel = self.pick(1, 3, 3)
        stride, padding = self.pick(1, 1, 2), self.pick(kernel // 2, kernel // 2, 0)
        if min(h, w) + 2 * padding < kernel:
            return
        scheme = self.pick(*self.schemes)
        value = "zero" if scheme[1] else self.pick("zero", "zero", "one", "neg_one")
        groups = self.pick(1, 1, 1, c)
        outputs = self.pick(c, 8, 16, 33) if groups == 1 else c
        zero = self.pick(0, 0, 1, 0.5) if scheme[1] else 0
        bias = self.pick(True, False)
        layer = packed(c, outputs, self.generator, scheme, kernel, stride, padding, groups, value, bias, zero)
        self.add(layer, (source,), (outputs, *((n + 2 * padding - kernel) // stride + 1 for n in (h, w))))

    def steps(self, source: int, c: int, h: int, w: int) -> None:
        g = self.generator
        module = self.pick(
            nn.ReLU(), nn.ReLU6(), nn.Hardtanh(), nn.Identity(), nn.LeakyReLU(0.1), affine(c, g), affine(c, g),
            prelu(c, g, False), prelu(c, g, True), shifted(c, g), channel_bias(c, g),
        )  # fmt: skip
        self.add(module, (source,), (c, h, w))

    def sum(self, source: int, c: int, h: int, w: int) -> None:
        others = [i for i, shape in enumerate(self.shapes) if shape == (c, h, w)]
        self.add(self.pick(Sum(), Sum(), SumInto()), (source, self.pick(*others)), (c, h, w))

    def pool(self, source: int, c: int, h: int, w: int) -> None:
        module, kernel, stride, padding = self.pick(
            (nn.MaxPool2d, 2, 2, 0), (nn.MaxPool2d, 3, 2, 1), (nn.AvgPool2d, 2, 2, 0)
        )
        if min(h, w) >= 2:
            shape = (c, *((n + 2 * padding - kernel) // stride + 1 for n in (h, w)))
            self.add(module(kernel, stride, padding), (source,), shape)

    def cat(self, source: int, c: int, h: int, w: int) -> None:
        others = [i for i, shape in enumerate(self.shapes) if shape[1:] == (h, w) and shape[0] + c <= 80]
        if others:
            other = self.pick(*others)
            self.add(Cat(), (source, other), (c + self.shapes[other][0], h, w))

    def shortcut(self, source: int, c: int, h: int, w: int) -> None:
        front, back, stride = self.pick((1, 2, 1), (4, 4, 2), (0, 3, 2))
        if c <= 40:
            shape = (c + front + back, -(-h // stride), -(-w // stride))
            self.add(Shortcut(front, back, stride), (source,), shape)

    def torch(self, source: int, c: int, h: int, w: int) -> None:
        if self.pick(True, False):
            self.add(Sine(), (source,), (c, h, w))


def network(seed: int, count: int) -> tuple[Network, Tensor]:
    maker = _Maker(seed)
    for _ in range(count):
        maker.step()
    results = [len(maker.shapes) - 1]
    if maker.pick(True, False):
        results.append(maker.random.randrange(len(maker.shapes)))
    x = torch.randn(maker.pick(1, 2, 5), *maker.shapes[0], generator=maker.generator)
    special = maker.pick(None, None, float("nan"), float("inf"), -float("inf"), -0.0)
    if special is not None:
        x[0, 0, 0, 0] = special
        x[-1, -1, -1, -1] = special
    return Network(maker.modules, maker.wiring, results).eval().requires_grad_(False), x


def equal(a: Tensor, b: Tensor) -> bool:
    """`torch.equal` that takes NaN for NaN."""
    return a.shape == b.shape and a.dtype == b.dtype and bool(((a == b) | (a.isnan() & b.isnan())).all())


def check(seed: int, count: int) -> None:
    model, x = network(seed, count)
    optimized = optimize(model)
    before = x.clone()
    for name in available():
        with use_backend(name):
            for found, expected in zip(optimized(x), model(x), strict=True):
                same = equal(found, expected)
                assert same, (name, optimized.report())
    assert equal(x, before)
    reason = optimized.report().reason
    assert reason is None or "no packed layer" in reason, reason


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 25))
def test_random_networks_are_equal(seed: int, count: int) -> None:
    check(seed, count)


@pytest.mark.slow
@settings(max_examples=3000, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 30))
def test_many_random_networks_are_equal(seed: int, count: int) -> None:
    check(seed, count)
