"""Invariant 1: deployed equals simulated, bit for bit, per layer and for whole models at an equal tile."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import robustlab as rl
from robustlab.compress import freeze
from robustlab.compress.freeze import FrozenLayer, LayerScheme
from robustlab.core import RobustlabError, Tiled
from robustlab.deploy import PackedLayer, StraightThrough, set_surrogate, simulated_twin
from robustlab.kernels import ActivationSpec, ConvGeometry, available, use_backend
from robustlab.models import build


@pytest.fixture(autouse=True)
def seeded() -> Iterator[None]:
    """Weights that a test draws from the global generator are the same in every run, and the generator is put back."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


def random_layer(draw: st.DrawFn) -> tuple[FrozenLayer, Tensor]:
    """A frozen layer with random shape, scheme and extreme codes, and an input for it."""
    seed = draw(st.integers(0, 2**31))
    generator = torch.Generator().manual_seed(seed)
    weight_bits = draw(st.sampled_from([1, 2, 3, 4, 8]))
    groups = draw(st.sampled_from([1, 1, 2, 3]))
    per_group = draw(st.sampled_from([1, 3, 8, 17, 33, 64]))
    outputs = groups * draw(st.sampled_from([1, 5, 16, 17]))
    linear = draw(st.booleans())
    kernel = (1, 1) if linear else draw(st.sampled_from([(1, 1), (3, 3), (2, 5)]))
    limit = 1 if weight_bits == 1 else 2 ** (weight_bits - 1) - 1
    shape = (outputs, per_group if not linear else groups * per_group, *kernel)
    codes = torch.randint(-limit, limit + 1, shape, generator=generator, dtype=torch.int8)
    if draw(st.booleans()) or weight_bits == 1:
        codes = torch.where(codes < 0, -limit, limit).to(torch.int8)
    activation = None
    if weight_bits > 1:
        bits = draw(st.sampled_from([2, 4, 8]))
        zero = draw(st.sampled_from([0, 1, 2**bits - 1]))
        activation = ActivationSpec(draw(st.sampled_from([0.013, 1.0, 3.7e-5])), zero, bits)
    scale = torch.rand(outputs, generator=generator) * 0.1 + 1e-4
    bias = torch.randn(outputs, generator=generator) if draw(st.booleans()) else None
    batch = draw(st.sampled_from([1, 3]))
    spread = 1.0 if activation is None else activation.scale * 2 ** (activation.bits - 1)
    if linear:
        layer = FrozenLayer(codes.flatten(1), scale, bias, LayerScheme(weight_bits, activation, None))
        return layer, torch.randn(batch, shape[1], generator=generator) * spread
    geometry = ConvGeometry(
        draw(st.sampled_from([(1, 1), (2, 1)])), draw(st.sampled_from([(0, 0), (1, 2)])), (1, 1), groups
    )
    layer = FrozenLayer(codes, scale, bias, LayerScheme(weight_bits, activation, geometry))
    x = torch.randn(batch, groups * per_group, 6, 7, generator=generator) * spread
    if draw(st.booleans()):
        x[0, 0, 0, 0] = draw(st.sampled_from([float("nan"), float("inf"), -float("inf"), -0.0]))
    return layer, x


@st.composite
def layers(draw: st.DrawFn) -> tuple[FrozenLayer, Tensor]:
    return random_layer(draw)


@settings(max_examples=120, deadline=None)
@given(layers())
def test_every_layer_equals_its_simulation(case: tuple[FrozenLayer, Tensor]) -> None:
    layer, x = case
    packed = PackedLayer.from_frozen(layer)
    for name in available():
        with use_backend(name):
            assert torch.equal(packed(x), layer(x)), name
    assert torch.equal(packed.to_frozen().codes, layer.codes)


@settings(max_examples=40, deadline=None)
@given(layers())
def test_the_surrogate_gradient_is_autograd_of_the_simulation(case: tuple[FrozenLayer, Tensor]) -> None:
    layer, x = case
    x = torch.nan_to_num(x, nan=0.3, posinf=9.0, neginf=-9.0)
    packed = PackedLayer.from_frozen(layer)
    gradients = []
    for module in (layer, packed):
        leaf = x.clone().requires_grad_(True)
        y = module(leaf)
        (y * torch.linspace(-1, 1, y.numel()).reshape(y.shape)).sum().backward()
        assert leaf.grad is not None
        gradients.append(leaf.grad)
    scale = gradients[0].abs().max().clamp(min=1e-6)
    assert ((gradients[0] - gradients[1]).abs() / scale).max() < 1e-4


def tiny(seed: int = 0) -> nn.Module:
    """A residual network whose batch norms have moved."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = build("robustlab:signs_resnet", {"classes": 5, "widths": [8, 24], "blocks": [1, 1]})
        model.train()
        for _ in range(3):
            model(torch.rand(8, 3, 32, 32))
    return model.eval()


def images(count: int, seed: int = 0, size: int = 32) -> Tensor:
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(seed))


SCHEMES = [(8, 8, "mse"), (4, 4, "minmax"), (2, 3, "percentile"), (3, 8, "mse"), (1, 1, "binary")]


@pytest.mark.parametrize(("weights", "activations", "algorithm"), SCHEMES)
def test_whole_models_are_equal_at_equal_tile(weights: int, activations: int, algorithm: str) -> None:
    small = rl.compress(tiny(), weights=weights, activations=activations, algorithm=algorithm, calibration=images(16))
    deployed, simulated = rl.deploy(small), freeze(small)
    x = images(70, 1)
    with torch.no_grad():
        assert torch.equal(Tiled(deployed, 32)(x), Tiled(simulated, 32)(x))
        twin = simulated_twin(deployed)
        assert twin is not None
        assert torch.equal(Tiled(twin, 32)(x), Tiled(deployed, 32)(x))
    assert simulated_twin(tiny()) is None


def test_an_adversarial_input_is_equal_too() -> None:
    deployed = rl.deploy(rl.compress(tiny(), weights=4, activations=4, calibration=images(16)))
    labels = deployed(images(12, 3)).argmax(1)
    adversarial = rl.attacks.PGD(rl.Linf(8 / 255), steps=5)(deployed, images(12, 3), labels)
    twin = simulated_twin(deployed)
    assert twin is not None
    with torch.no_grad():
        assert torch.equal(deployed(adversarial), twin(adversarial))
        assert not torch.equal(deployed(adversarial), deployed(images(12, 3)))


def test_a_wrong_bit_is_noticed() -> None:
    deployed = rl.deploy(rl.compress(tiny(), weights=4, activations=4, calibration=images(16)))
    broken = copy.deepcopy(deployed)
    layer = next(m for m in broken.modules() if isinstance(m, PackedLayer) and m.scheme.weight_bits == 4)
    layer.packed[0] ^= 1
    with torch.no_grad():
        assert not torch.equal(broken(images(4)), deployed(images(4)))


def test_the_surrogate_is_replaceable() -> None:
    deployed = rl.deploy(rl.compress(tiny(), weights=1, activations=1, algorithm="binary", calibration=images(16)))

    def gradient() -> Tensor:
        leaf = images(2, 5).requires_grad_(True)
        deployed(leaf).square().sum().backward()
        assert leaf.grad is not None
        return leaf.grad

    before = gradient()
    set_surrogate(deployed, StraightThrough(sign="identity"))
    assert not torch.allclose(before, gradient())
    from robustlab.deploy import gradient_kind

    assert gradient_kind(deployed) == "surrogate:ste-identity"
    with pytest.raises(RobustlabError, match="packed layers"):
        set_surrogate(tiny(), StraightThrough())


def test_reduced_precision_is_refused_by_the_simulation_and_by_the_kernels() -> None:
    small = rl.compress(tiny(), weights=8, activations=8, calibration=images(16))
    simulated, deployed = freeze(small), rl.deploy(small)
    with torch.autocast("cpu", dtype=torch.bfloat16), pytest.raises(RobustlabError, match="float32"):
        simulated(images(1))
    with pytest.raises(RobustlabError, match="float32"):
        next(m for m in deployed.modules() if isinstance(m, PackedLayer))(images(1).double())
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("medium")
        with pytest.raises(RobustlabError, match="highest"):
            freeze(rl.compress(tiny(), weights=2, activations=2, calibration=images(16)))(images(1))
    finally:
        torch.set_float32_matmul_precision(before)


def test_large_sums_are_simulated_in_float64() -> None:
    codes = torch.full((2, 600), 127, dtype=torch.int8)
    scheme = LayerScheme(8, ActivationSpec(1.0, 0, 8), None)
    layer = FrozenLayer(codes, torch.ones(2), None, scheme)
    x = torch.full((1, 600), 255.0)
    x[0, 0] = 254.0
    assert torch.equal(layer(x), PackedLayer.from_frozen(layer)(x))
    assert layer(x)[0, 0] == torch.tensor(127 * (255 * 599 + 254)).float()


def test_deploy_refuses_a_float_model() -> None:
    with pytest.raises(RobustlabError, match="compressed model"):
        rl.deploy(tiny())
