"""Zero points that are whole or half-integer, of activations and weights: every layer is what its integers say."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor, nn

import robustlab as rl
from robustlab.compress.freeze import FrozenLayer, LayerScheme
from robustlab.compress.structure import replace
from robustlab.core.errors import ArgumentError
from robustlab.deploy import PackedLayer, fingerprint, simulated_twin
from robustlab.kernels import ActivationSpec, ConvGeometry, available, use_backend
from robustlab.models import ModelInfo, build, set_info


def doubled_levels(x: Tensor, spec: ActivationSpec) -> NDArray[np.int64]:
    """2 * (code - zero point) by the definition, in Python's numbers one by one."""
    quotient = np.asarray(x.numpy(), dtype=np.float32) / np.float32(spec.scale)
    top, levels = 2**spec.bits - 1, np.empty(quotient.shape, dtype=np.int64)
    for place, value in np.ndenumerate(quotient):
        value = 0.0 if math.isnan(value) else min(max(float(value), -1e6), 1e6)
        if spec.zero_point % 1:
            code = math.floor(value) + int(spec.zero_point + 0.5)
        else:
            code = round(value) + int(spec.zero_point)
        levels[place] = 2 * min(max(code, 0), top) - round(2 * spec.zero_point)
    return levels


def expected(layer: FrozenLayer, x: Tensor) -> Tensor:
    """fl(fl(fl(acc) * scale) + bias) with acc from whole numbers: four times the sum is an integer."""
    scheme = layer.scheme
    assert scheme.activation is not None
    inputs = torch.from_numpy(doubled_levels(x, scheme.activation)).double()
    weights = 2 * layer.codes.double() - 2 * scheme.weight_zero_point
    if scheme.geometry is None:
        four, shape = F.linear(inputs, weights), (1, -1)
    else:
        g = scheme.geometry
        four, shape = F.conv2d(inputs, weights, None, g.stride, g.padding, g.dilation, g.groups), (1, -1, 1, 1)
    assert torch.equal(four, four.round())
    y = (four / 4).float() * layer.scale.reshape(shape)
    return y if layer.bias is None else y + layer.bias.reshape(shape)


@st.composite
def layers(draw: st.DrawFn) -> tuple[FrozenLayer, Tensor]:
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    bits, weight_bits = draw(st.integers(1, 8)), draw(st.integers(1, 8))
    half = 2 ** (weight_bits - 1)
    zeros = [0] if weight_bits == 1 else [0, -0.5, -0.5, 1, -half + 0.5, half - 1]
    weight_zero = draw(st.sampled_from(zeros))
    # With groups the kernels need weights less their zero point to fit a byte.
    fits = weight_zero in (0, -0.5) and weight_bits < 8
    groups = draw(st.sampled_from([1, 1, 2])) if fits else 1
    shape = (groups * draw(st.sampled_from([1, 5, 17])), draw(st.sampled_from([1, 3, 8, 33])), 3, 2)
    low, high = (-half, half - 1) if weight_zero else (1 - half, half - 1)
    codes = torch.randint(low, high + 1, shape, generator=generator)
    if weight_bits == 1:
        codes = 2 * torch.randint(0, 2, shape, generator=generator) - 1
    zero_point = draw(st.sampled_from([0, 0.5, (2**bits - 1) / 2, 2**bits - 1.5, 2**bits - 1]))
    spec = ActivationSpec(draw(st.sampled_from([0.013, 1.0, 0.37])), zero_point, bits)
    scale = torch.rand(shape[0], generator=generator) * 0.1 + 1e-4
    bias = torch.randn(shape[0], generator=generator) if draw(st.booleans()) else None
    spread = spec.scale * 2 ** (bits - 1)
    if groups == 1 and draw(st.booleans()):
        layer = FrozenLayer(codes.flatten(1), scale, bias, LayerScheme(weight_bits, spec, None, weight_zero))
        x = torch.randn(3, codes[0].numel(), generator=generator) * spread
    else:
        geometry = ConvGeometry((1, 2), (1, 2), (1, 1), groups)
        layer = FrozenLayer(codes, scale, bias, LayerScheme(weight_bits, spec, geometry, weight_zero))
        x = torch.randn(2, groups * shape[1], 5, 4, generator=generator) * spread
    for place, value in enumerate((math.nan, math.inf, -math.inf, -0.0, spec.scale, -spec.scale)):
        x.view(-1)[place * 2] = value
    return layer, x


@settings(max_examples=150, deadline=None)
@given(layers())
def test_simulation_and_kernels_are_what_the_integers_say(case: tuple[FrozenLayer, Tensor]) -> None:
    layer, x = case
    y = expected(layer, x)
    assert torch.equal(layer(x), y)
    packed = PackedLayer.from_frozen(layer)
    assert torch.equal(packed.to_frozen().codes, layer.codes)
    for name in available():
        with use_backend(name):
            assert torch.equal(packed(x), y), name


@settings(max_examples=30, deadline=None)
@given(layers())
def test_the_surrogate_gradient_is_autograd_of_the_simulation(case: tuple[FrozenLayer, Tensor]) -> None:
    layer, x = case
    x = torch.nan_to_num(x, nan=0.3, posinf=9.0, neginf=-9.0)
    gradients = []
    for module in (layer, PackedLayer.from_frozen(layer)):
        leaf = x.clone().requires_grad_(True)
        y = module(leaf)
        (y * torch.linspace(-1, 1, y.numel()).reshape(y.shape)).sum().backward()
        assert leaf.grad is not None
        gradients.append(leaf.grad)
    scale = gradients[0].abs().max().clamp(min=1e-6)
    assert ((gradients[0] - gradients[1]).abs() / scale).max() < 1e-4


def test_levels_of_a_half_integer_grid() -> None:
    """Two bits around 1.5: levels -1.5, -0.5, 0.5, 1.5, every number to the nearest, ties up, NaN like 0."""
    spec = ActivationSpec(1.0, 1.5, 2)
    layer = FrozenLayer(torch.ones(1, 1), torch.ones(1), None, LayerScheme(1, spec, None))
    x = torch.tensor([-9.0, -1.0, -0.01, -0.0, 0.0, 0.99, 1.0, 9.0, math.nan]).reshape(-1, 1)
    levels = [-1.5, -0.5, -0.5, 0.5, 0.5, 0.5, 1.5, 1.5, 0.5]
    assert layer(x).flatten().tolist() == levels
    assert PackedLayer.from_frozen(layer)(x).flatten().tolist() == levels


def test_whole_zero_points_are_shown_as_before() -> None:
    spec = ActivationSpec(0.5, 3.0, 4)
    assert spec == ActivationSpec(0.5, 3, 4)
    assert repr(spec) == "ActivationSpec(scale=0.5, zero_point=3, bits=4)"
    assert repr(ActivationSpec(0.5, 3.5, 4)) == "ActivationSpec(scale=0.5, zero_point=3.5, bits=4)"
    assert repr(LayerScheme(4, spec, None)) == f"LayerScheme(weight_bits=4, activation={spec!r}, geometry=None)"
    assert "weight_zero_point=-0.5" in repr(LayerScheme(4, spec, None, -0.5))


@pytest.mark.parametrize("zero_point", [-0.5, 3.25, 15.5, 16, math.nan, True, "3"])
def test_bad_zero_points_of_activations(zero_point: object) -> None:
    with pytest.raises(ArgumentError, match="zero_point"):
        ActivationSpec(1.0, zero_point, 4)  # type: ignore[arg-type]


@pytest.mark.parametrize(("bits", "zero_point"), [(1, -0.5), (2, 1.5), (4, 0.25), (8, -128.5), (3, math.inf)])
def test_bad_zero_points_of_weights(bits: int, zero_point: float) -> None:
    with pytest.raises(ArgumentError, match="zero_point"):
        LayerScheme(bits, ActivationSpec(1.0, 0, 8), None, zero_point)


def test_scales_that_the_unit_does_not_divide_are_refused() -> None:
    scheme = LayerScheme(2, ActivationSpec(1.0, 0.5, 8), None, -0.5)
    assert scheme.unit == 4
    codes = torch.ones(1, 3)
    PackedLayer(codes, torch.tensor([2.0**-126]), None, scheme)
    with pytest.raises(ArgumentError, match="scale"):
        PackedLayer(codes, torch.tensor([3 * 2.0**-149]), None, scheme)
    PackedLayer(codes, torch.tensor([3 * 2.0**-149]), None, LayerScheme(2, ActivationSpec(1.0, 0, 8), None))


def half_integer_model(weight_bits: int, bits: int) -> nn.Module:
    """A residual network on odd lattices, as DoReFa's: every level is a half-integer times its scale."""
    arguments = {"classes": 5, "widths": [8, 12], "blocks": [1, 1]}
    model = build("robustlab:signs_resnet", arguments)
    generator, half = torch.Generator().manual_seed(0), 2 ** (weight_bits - 1)
    spec = ActivationSpec(4 / 2**bits, (2**bits - 1) / 2, bits)
    for name, layer in list(model.named_modules()):
        if isinstance(layer, (nn.Conv2d, nn.Linear)):
            geometry = None
            if isinstance(layer, nn.Conv2d):
                geometry = ConvGeometry(layer.stride, layer.padding, layer.dilation)  # type: ignore[arg-type]
            codes = torch.randint(-half, half, layer.weight.shape, generator=generator)
            scale = torch.rand(len(codes), generator=generator) / (half * 2**bits)
            replace(model, name, PackedLayer(codes, scale, None, LayerScheme(weight_bits, spec, geometry, -0.5)).eval())
    return set_info(model.eval(), ModelInfo("half", "robustlab:signs_resnet", arguments, input_size=(16, 16)))


@pytest.mark.parametrize(("weight_bits", "bits"), [(2, 2), (3, 4), (8, 8), (4, 1)])
def test_optimized_models_keep_half_integers(weight_bits: int, bits: int) -> None:
    model = half_integer_model(weight_bits, bits)
    x = torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    optimized = rl.optimize(model)
    for name in available():
        with torch.no_grad(), use_backend(name):
            assert torch.equal(optimized(x), model(x)), name
    assert optimized.report().segments
    with torch.no_grad():
        twin = simulated_twin(model)
        assert twin is not None
        assert torch.equal(twin(x), model(x))


def test_files_hold_half_integers(tmp_path: Path) -> None:
    model = half_integer_model(3, 4)
    again = rl.load(rl.save(model, tmp_path / "half.safetensors"))
    x = torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        assert torch.equal(again(x), model(x))
    assert fingerprint(again) == fingerprint(model)
