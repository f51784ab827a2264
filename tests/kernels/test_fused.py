"""Convolutions with more behind them, against the same operations in torch, every one rounded."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from robustlab import kernels
from robustlab.core import ArgumentError
from robustlab.kernels import ActivationSpec, ConvGeometry, fused

BACKENDS = kernels.available()
SPECS = [None, ActivationSpec(0.1, 3, 4), ActivationSpec(0.3, 1.5, 2), ActivationSpec(0.02, 127.5, 8)]


class Layer:
    """Random weights, vectors and an input; `acc` is the exact sum, which halves of zero points make fractional."""

    def __init__(self, seed: int, spec: ActivationSpec | None, *, odd: bool = False) -> None:
        self.generator = torch.Generator().manual_seed(seed)
        self.spec, self.geometry = spec, ConvGeometry((1, 2), (1, 1), (1, 1))
        self.outputs, self.channels = [1, 16, 19][seed % 3], [3, 8, 33][seed // 3 % 3]
        self.zero_point = -0.5 if odd and spec is not None else 0.0
        self.bits = 1 if spec is None else 3
        self.x = torch.randn(2, self.channels, 6, 5, generator=self.generator)
        self.x[0, 0, 0, 0] = math.nan

    def codes(self) -> Tensor:
        shape = (self.outputs, self.channels, 3, 3)
        if self.bits == 1:
            return (2 * torch.randint(0, 2, shape, generator=self.generator) - 1).to(torch.int8)
        return torch.randint(-3, 4, shape, generator=self.generator).to(torch.int8)

    def pack(self, codes: Tensor) -> kernels.PackedWeight:
        bits = 0 if self.spec is None else self.spec.bits
        return kernels.pack_weight(codes, self.bits, activation_bits=bits, zero_point=self.zero_point)

    def vector(self, low: float = -1.0, high: float = 1.0) -> Tensor:
        return torch.rand(self.outputs, generator=self.generator) * (high - low) + low

    def levels(self, x: Tensor) -> Tensor:
        if self.spec is None:
            return torch.where(x < 0, -1.0, 1.0).double()
        zero, top = self.spec.zero_point, 2**self.spec.bits - 1
        steps = torch.nan_to_num(x / torch.full_like(x, self.spec.scale))
        codes = steps.floor() + (zero + 0.5) if zero % 1 else steps.round() + zero
        return codes.clamp(0, top).double() - zero

    def acc(self, codes: Tensor) -> Tensor:
        g = self.geometry
        sums = F.conv2d(self.levels(self.x), codes.double() - self.zero_point, None, g.stride, g.padding)
        return sums.float()


def channels(a: Tensor) -> Tensor:
    return a.reshape(1, -1, 1, 1)


cases = st.builds(Layer, st.integers(0, 2**31), st.sampled_from(SPECS), odd=st.booleans())


@pytest.mark.parametrize("backend", BACKENDS)
@given(layer=cases, biased=st.booleans())
@settings(max_examples=25, deadline=None)
def test_two_planes(backend: str, layer: Layer, biased: bool) -> None:
    first, second, s0, s1, bias = layer.codes(), layer.codes(), layer.vector(), layer.vector(), layer.vector()
    expected = layer.acc(first) * channels(s0) + layer.acc(second) * channels(s1)
    expected = expected + channels(bias) if biased else expected
    planes = (layer.pack(first), layer.pack(second))
    with kernels.use_backend(backend):
        for _ in range(2):  # built, and taken from the cache
            found = kernels.two_plane_conv2d(
                layer.x, planes, (s0, s1), bias if biased else None, layer.geometry, layer.spec
            )
            assert torch.equal(found, expected)


@pytest.mark.parametrize("backend", BACKENDS)
@given(layer=cases)
@settings(max_examples=25, deadline=None)
def test_a_factor_for_every_image(backend: str, layer: Layer) -> None:
    codes, scale, bias = layer.codes(), layer.vector(), layer.vector()
    factor = torch.nan_to_num(layer.x).abs().mean(dim=(1, 2, 3))
    expected = layer.acc(codes) * channels(scale) * factor.reshape(-1, 1, 1, 1) + channels(bias)
    with kernels.use_backend(backend):
        found = kernels.per_sample_conv2d(layer.x, layer.pack(codes), scale, factor, bias, layer.geometry, layer.spec)
    assert torch.equal(found, expected)


@pytest.mark.parametrize("backend", BACKENDS)
@given(layer=cases)
@settings(max_examples=25, deadline=None)
def test_a_factor_for_every_output(backend: str, layer: Layer) -> None:
    codes, a, bias = layer.codes(), layer.vector(), layer.vector()
    acc = layer.acc(codes)
    b, c = (torch.rand(size, generator=layer.generator) - 0.3 for size in acc.shape[2:])
    expected = acc * channels(a) * (b[:, None] * c) + channels(bias)
    with kernels.use_backend(backend):
        found = kernels.mapped_conv2d(layer.x, layer.pack(codes), (a, b, c), bias, layer.geometry, layer.spec)
    assert torch.equal(found, expected)


@pytest.mark.parametrize("backend", BACKENDS)
@given(layer=cases, affine=st.booleans(), added=st.booleans(), shifted=st.booleans())
@settings(max_examples=40, deadline=None)
def test_a_residual_network(backend: str, layer: Layer, affine: bool, added: bool, shifted: bool) -> None:
    codes, scale, bias, gain, shift = layer.codes(), *(layer.vector() for _ in range(4))
    prelu = (layer.vector(), layer.vector(-0.5, 0.5), layer.vector())
    expected = layer.acc(codes) * channels(scale) + channels(bias)
    residual = torch.randn(expected.shape, generator=layer.generator)
    expected = expected * channels(gain) + channels(shift) if affine else expected
    expected = expected + residual if added else expected
    if shifted:
        v = expected + channels(prelu[0])
        expected = torch.where(v > 0, v, channels(prelu[1]) * v) + channels(prelu[2])
    with kernels.use_backend(backend):
        found = kernels.residual_conv2d(
            layer.x,
            layer.pack(codes),
            scale,
            bias,
            layer.geometry,
            layer.spec,
            affine=(gain, shift) if affine else None,
            residual=residual if added else None,
            prelu=prelu if shifted else None,
        )
    assert torch.equal(found, expected)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("mode", kernels.PADDING_MODES)
def test_padding_before_packing_is_torchs(backend: str, mode: str) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 5, 6, 7, generator=generator)
    layer = nn.Conv2d(5, 9, 3, (2, 1), (2, 1), bias=False, padding_mode=mode)
    codes = (2 * torch.randint(0, 2, (9, 5, 3, 3), generator=generator) - 1).to(torch.int8)
    with torch.no_grad():
        layer.weight.copy_(codes)
        expected = layer(torch.where(x < 0, -1.0, 1.0))
    padded, geometry = kernels.pad_image(x, ConvGeometry((2, 1), (2, 1)), mode)
    with kernels.use_backend(backend):
        found = kernels.binary_conv2d(padded, kernels.pack_weight(codes, 1), torch.ones(9), None, geometry)
    assert torch.equal(found, expected)


@pytest.mark.parametrize("mode", kernels.PADDING_MODES)
def test_padding_of_an_image_that_is_too_small(mode: str) -> None:
    for size, pad in ((2, 2), (3, 4)):
        x = torch.zeros(1, 1, size, 9)
        fits = {"reflect": pad < size, "circular": pad <= size, "replicate": True}[mode]
        if fits:
            assert kernels.pad_image(x, ConvGeometry(padding=(pad, 0)), mode)[0].shape[2] == size + 2 * pad
        else:
            with pytest.raises(ArgumentError, match="padding"):
                kernels.pad_image(x, ConvGeometry(padding=(pad, 0)), mode)
    with pytest.raises(ArgumentError, match="mode"):
        kernels.pad_image(torch.zeros(1, 1, 2, 2), ConvGeometry(), "zeros")


def test_changed_constants_are_seen() -> None:
    """A program is taken again only for the very same numbers: also after a change in place, and of a zero's sign."""
    weight = kernels.pack_weight(torch.ones(1, 4, 1, 1, dtype=torch.int8), 1)
    x, factor, scale = torch.ones(1, 4, 1, 1), torch.ones(1), torch.zeros(1)
    for value in (2.0, 3.0, 0.0, -0.0, math.nan, 2.0):
        scale.fill_(value)
        y = kernels.per_sample_conv2d(x, weight, scale, factor, None, ConvGeometry())
        assert torch.equal(y.flatten().view(torch.int32), (4 * scale).view(torch.int32))
    kept = len(fused._cache)
    for size in range(1, 90):
        kernels.per_sample_conv2d(torch.ones(1, 4, size, 1), weight, scale, factor, None, ConvGeometry())
    assert kept <= len(fused._cache) <= 64


def test_operands_that_do_not_fit() -> None:
    weight = kernels.pack_weight(torch.ones(6, 4, 3, 3, dtype=torch.int8), 1)
    other = kernels.pack_weight(torch.ones(5, 4, 3, 3, dtype=torch.int8), 1)
    x, s, plain = torch.zeros(2, 4, 5, 5), torch.ones(6), ConvGeometry()
    bad = [
        lambda: kernels.two_plane_conv2d(x, (weight, other), (s, s[:5]), None, plain),
        lambda: kernels.two_plane_conv2d(x, (weight, weight), (s, s[:5]), None, plain),
        lambda: kernels.two_plane_conv2d(x.double(), (weight, weight), (s, s), None, plain),
        lambda: kernels.two_plane_conv2d(x, (weight, weight), (s, s), None, plain, ActivationSpec(1.0, 0, 2)),
        lambda: kernels.per_sample_conv2d(x, weight, s, torch.ones(3), None, plain),
        lambda: kernels.per_sample_conv2d(x, weight, s.double(), torch.ones(2), None, plain),
        lambda: kernels.per_sample_conv2d(x[0], weight, s, torch.ones(2), None, plain),
        lambda: kernels.mapped_conv2d(x, weight, (s, torch.ones(3), torch.ones(4)), None, plain),
        lambda: kernels.mapped_conv2d(x, weight, (s, torch.ones(3, 1), torch.ones(3)), None, plain),
        lambda: kernels.residual_conv2d(x, weight, s, None, plain, residual=torch.ones(2, 6, 3, 4)),
        lambda: kernels.residual_conv2d(x, weight, s, None, plain, residual=torch.ones(1, 6, 3, 3)),
        lambda: kernels.residual_conv2d(x, weight, s, None, plain, residual=torch.ones(6)),
        lambda: kernels.residual_conv2d(x, weight, s, None, plain, prelu=(s, s, s[:5])),
        lambda: kernels.residual_conv2d(torch.zeros(2, 3, 5, 5), weight, s, None, plain),
        lambda: kernels.residual_conv2d(torch.zeros(2, 4, 2, 5), weight, s, None, plain),
    ]
    for call in bad:
        with pytest.raises(ArgumentError):
            call()
