"""Grids of weights: inequalities that always hold, constants that others measured, and what is refused."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import robustlab as rl
from robustlab.compress.observers import OBSERVERS
from robustlab.compress.quantizers import WeightBinarizer, WeightQuantizer
from robustlab.compress.weight_grid import (
    FixedGrid,
    GridQuantizer,
    WeightGrid,
    WeightScheme,
    code_range,
    find_grid,
    row_grid,
)
from robustlab.core.errors import ArgumentError

REAL = Path(os.environ.get("ROBUSTLAB_DATA") or Path(__file__).parents[3] / "shared" / "data")
SCHEMES = [WeightScheme(g, s) for g in ("tensor", "channel", "group") for s in (True, False)]


def squared(weight: Tensor, quantized: Tensor) -> float:
    return float((quantized.double() - weight.double()).square().sum())


def error(weight: Tensor, bits: int, scheme: WeightScheme, rule: str = "mse") -> float:
    return squared(weight, GridQuantizer(bits, rule, scheme)(weight))


@st.composite
def weights(draw: st.DrawFn) -> Tensor:
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    channels, kernel = draw(st.sampled_from([1, 3, 64, 65, 150])), draw(st.sampled_from([(), (1, 1), (2, 3)]))
    weight = torch.randn(draw(st.integers(1, 4)), channels, *kernel, generator=generator)
    shift, power = draw(st.sampled_from([0.0, 0.3, -2.0])), draw(st.sampled_from([1, 3]))
    return weight.pow(power) + shift


@settings(max_examples=30, deadline=None)
@given(weights(), st.integers(2, 8), st.sampled_from(OBSERVERS), st.sampled_from(SCHEMES))
def test_values_are_codes_less_zero_points_times_scales(
    weight: Tensor, bits: int, rule: str, scheme: WeightScheme
) -> None:
    quantizer = GridQuantizer(bits, rule, scheme)
    grid = quantizer.grid(weight)
    codes, value = grid.codes(weight), quantizer(weight)
    low, high = code_range(bits, scheme.symmetric)
    assert low <= grid.low <= int(codes.min()) and int(codes.max()) <= grid.high == high
    assert torch.equal(codes, codes.round()) and torch.equal(grid.zero_point, grid.zero_point.round())
    assert (grid.zero_point >= low).all() and (grid.zero_point <= high).all() and (grid.scale > 0).all()
    assert len(codes.unique()) <= quantizer.levels == high - low + 1
    groups = -(-weight.shape[1] // 64) if scheme.granularity == "group" else 1
    assert grid.scale.shape == grid.zero_point.shape == (len(weight), groups)
    size = 64 if scheme.granularity == "group" else weight.shape[1]
    for k, part in enumerate(value.split(size, dim=1)):  # the same from the definition, group by group
        level = codes.split(size, dim=1)[k].flatten(1) - grid.zero_point[:, k, None]
        assert torch.equal(part.flatten(1), level * grid.scale[:, k, None])
    if scheme.granularity == "tensor":
        assert len(grid.scale.unique()) == len(grid.zero_point.unique()) == 1
    if scheme.symmetric:
        assert not grid.zero_point.any()
    again = FixedGrid(bits, scheme, grid)
    assert torch.equal(again(value), value)  # idempotent on its own grid
    assert torch.equal(again.codes(value)[0], codes)


@settings(max_examples=30, deadline=None)
@given(weights(), st.integers(2, 8), st.booleans())
def test_a_finer_grid_never_errs_more(weight: Tensor, bits: int, symmetric: bool) -> None:
    group, channel, tensor = (error(weight, bits, WeightScheme(g, symmetric)) for g in ("group", "channel", "tensor"))
    assert group <= channel * (1 + 1e-5)
    if not symmetric:
        assert channel <= tensor * (1 + 1e-5)


@settings(max_examples=30, deadline=None)
@given(weights(), st.integers(2, 8), st.sampled_from(["tensor", "channel", "group"]))
def test_an_affine_grid_never_errs_more_than_the_symmetric_one(weight: Tensor, bits: int, granularity: str) -> None:
    affine, symmetric = (error(weight, bits, WeightScheme(granularity, s)) for s in (False, True))
    assert affine <= symmetric * (1 + 1e-5)


def distributions(seed: int) -> dict[str, Tensor]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        shape = (128, 1024)
        outlier = torch.randn(shape)
        outlier[:, torch.randperm(shape[1])[:10]] *= 8
        return {
            "gauss": torch.randn(shape),
            "laplace": torch.distributions.Laplace(0.0, 1.0).sample(shape),
            "t4": torch.distributions.StudentT(4.0).sample(shape),
            "columns": outlier,
            "shifted": torch.randn(shape) + 0.3,
            "uniform": torch.rand(shape) * 2 - 1,
        }


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_channels_of_their_own_help_whatever_the_distribution(bits: int) -> None:
    for name, weight in distributions(0).items():
        part = weight[:64, :256] * torch.linspace(0.5, 2, 64)[:, None]
        tensor = error(part, bits, WeightScheme("tensor"))
        channel = squared(part, WeightQuantizer(bits, "mse")(part))
        assert error(part, bits, WeightScheme("channel")) == channel, name  # the scheme is that of `WeightQuantizer`
        assert channel < tensor, name
        assert error(part, bits, WeightScheme("group")) < channel, name
        if name == "shifted" and bits < 8:
            gain = {2: 0.75, 3: 0.85, 4: 0.9}[bits]
            assert error(part, bits, WeightScheme(symmetric=False)) < gain * channel


def centred_sign(weight: Tensor) -> Tensor:
    """sign times mean |w|, around the mean of the row."""
    mean = weight.flatten(1).mean(1).reshape(-1, *([1] * (weight.ndim - 1)))
    coder: Callable[[Tensor], Tensor] = WeightBinarizer()
    return coder(weight - mean) + mean


def grid(bits: int, rule: str) -> Callable[[Tensor], Tensor]:
    """Every row by itself: `GridQuantizer` has the grid of the whole tensor as another candidate."""

    def quantize(weight: Tensor) -> Tensor:
        scale, zero = row_grid(weight.flatten(1), bits, rule, WeightScheme(symmetric=False))
        alone = WeightGrid(scale[:, None], zero[:, None], *code_range(bits, False), weight.shape[1])
        return alone.values(alone.codes(weight))

    return quantize


LADDER: dict[str, tuple[Callable[[Tensor], Tensor], tuple[float, ...]]] = {
    "sign": (centred_sign, (0.3635, 0.4985, 0.4970, 0.5509, 0.3341, 0.2494, 0.4237, 0.3786)),
    "minmax 2 bits": (grid(2, "minmax"), (0.3876, 0.5267, 0.6422, 0.6434, 0.3584, 0.1111, 0.3718, 0.3402)),
    "mse 2 bits": (grid(2, "mse"), (0.1477, 0.2018, 0.2436, 0.3494, 0.1198, 0.1067, 0.1641, 0.1345)),
    "mse 3 bits": (grid(3, "mse"), (0.0398, 0.0696, 0.1050, 0.2086, 0.0352, 0.0201, 0.0492, 0.0383)),
    "mse 4 bits": (grid(4, "mse"), (0.0115, 0.0236, 0.0408, 0.0925, 0.0106, 0.0044, 0.0144, 0.0110)),
}
"""Relative squared errors that an independent implementation measured, with a grid per output channel that has a zero
point: six distributions of 256 x 1024 weights, then two layers of a CIFAR-10 ResNet-20."""


@pytest.mark.parametrize("name", LADDER)
def test_errors_are_those_of_an_independent_implementation(name: str) -> None:
    quantize, wanted = LADDER[name]
    draws = [distributions(seed) for seed in range(3)]
    for kind, value in zip(draws[0], wanted, strict=False):
        found = torch.tensor([squared(d[kind], quantize(d[kind])) / float(d[kind].square().sum()) for d in draws])
        # The figure is of one draw: largest values and heavy tails differ by more than .004 from draw to draw.
        assert abs(float(found.mean()) - value) <= 0.004 + 2.5 * float(found.std()), (kind, found.tolist(), value)
        if kind in ("gauss", "uniform", "shifted") and not name.startswith("minmax"):
            assert float((found - value).abs().max()) <= 0.004, kind


@pytest.mark.skipif(not REAL.is_dir(), reason="ROBUSTLAB_DATA names no folder of real data")
@pytest.mark.parametrize("name", LADDER)
def test_errors_on_a_trained_network_are_those_of_an_independent_implementation(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ROBUSTLAB_DATA", str(REAL))
    model = rl.load("robustlab:cifar_resnet20")
    quantize, wanted = LADDER[name]
    for layer, value in zip(("layer2.1.conv1", "layer3.2.conv2"), wanted[6:], strict=True):
        (weight,) = [p.detach() for n, p in model.named_parameters() if n.endswith(f"{layer}.weight")]
        assert abs(squared(weight, quantize(weight)) / float(weight.square().sum()) - value) <= 0.004


def test_a_constant_channel_is_exact_or_nearly_so() -> None:
    weight = torch.tensor([[0.0, 0.0, 0.0], [0.7, 0.7, 0.7], [-2.0, -2.0, -2.0], [1.0, 0.0, -1.0]])
    for scheme in SCHEMES:
        for rule in OBSERVERS:
            value = GridQuantizer(8, rule, scheme)(weight)
            assert torch.equal(value[0], torch.zeros(3))
            assert (value - weight).abs().max() < 0.02


def test_the_gradient_is_one_inside_the_range() -> None:
    scheme = WeightScheme("group", False)
    weight = torch.randn(2, 130, 1, 1, generator=torch.Generator().manual_seed(0))
    quantizer = FixedGrid(3, scheme, find_grid(weight * 0.5, 3, "minmax", scheme))
    leaf = weight.clone().requires_grad_(True)
    value = quantizer(leaf)
    value.sum().backward()
    assert leaf.grad is not None
    inside = (value - weight).abs() <= 0.5001 * quantizer.grid(weight).spread(quantizer.scale, weight)
    assert 0 < int(inside.sum()) < inside.numel()
    assert torch.allclose(leaf.grad, inside.float())


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"granularity": "row"}, "granularity is 'row'; allowed: tensor, channel, group"),
        ({"granularity": "group", "group_size": 96}, "group_size is 96; allowed: a multiple of 64"),
        ({"granularity": "group", "group_size": 0}, "group_size is 0"),
        ({"granularity": "channel", "group_size": 128}, "group_size is 128; allowed: 64, or granularity group"),
        ({"symmetric": 1}, "symmetric is 1; allowed: True or False"),
    ],
)
def test_bad_schemes_are_refused(arguments: dict[str, object], words: str) -> None:
    with pytest.raises(ArgumentError, match=words):
        WeightScheme(**arguments)  # type: ignore[arg-type]
