"""Learned rounding: the rectified sigmoid, the learned step, blocks, and what reconstruction has to achieve."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import robustlab as rl
from robustlab.compress.layers import CompressedLayer
from robustlab.compress.observers import weight_scale
from robustlab.compress.ptq import BRECQ, AdaRound, Method, QDrop, Work
from robustlab.compress.ptq.blocks import find_blocks
from robustlab.compress.ptq.capture import collect
from robustlab.compress.ptq.grid import held, hold, layer_scale, nearest_codes
from robustlab.compress.ptq.rounding import (
    LearnedStep,
    SoftRounding,
    annealed,
    inverse_rectified_sigmoid,
    rectified_sigmoid,
)
from robustlab.compress.quantizers import ActivationQuantizer
from robustlab.core.errors import ArgumentError
from robustlab.models import build

FAST = {"iterations": 100, "learning_rate": 0.02, "batch_size": 8}


@given(st.floats(0, 0.999))
def test_the_inverse_of_the_rectified_sigmoid_is_one(h: float) -> None:
    value = torch.tensor(h, dtype=torch.float64)
    assert float(rectified_sigmoid(inverse_rectified_sigmoid(value))) == pytest.approx(h, abs=1e-9)


@settings(deadline=None)
@given(st.integers(2, 8), st.integers(0, 1000))
def test_soft_rounding_starts_where_the_weight_is_and_ends_at_a_neighbour(bits: int, seed: int) -> None:
    weight = torch.randn(3, 4, 2, 2, generator=torch.Generator().manual_seed(seed))
    scale = weight_scale(weight, bits, "mse")
    soft = SoftRounding(bits, scale, weight)
    steps = weight / scale.reshape(3, 1, 1, 1)
    clipped = steps.clamp(-soft.largest, soft.largest)
    assert torch.allclose(soft(weight) / scale.reshape(3, 1, 1, 1), clipped, atol=1e-4)
    with torch.no_grad():
        soft.v.uniform_(-3, 3, generator=torch.Generator().manual_seed(seed))
    hard = soft.hard()
    inside = steps.abs() < soft.largest
    assert ((hard == steps.floor()) | (hard == steps.floor() + 1))[inside].all()
    assert hard.abs().max() <= soft.largest
    assert torch.equal(hard[inside] > steps.floor()[inside], (soft.v >= 0)[inside])


def test_the_regularizer_counts_what_is_undecided_and_beta_falls_along_a_line() -> None:
    soft = SoftRounding(4, torch.ones(1), torch.zeros(1, 3))
    with torch.no_grad():
        soft.v.copy_(torch.tensor([[0.0, 9.0, -9.0]]))  # h = 1/2, 1, 0
    assert float(soft.undecided(20.0)) == pytest.approx(1.0)
    assert annealed(1, 10, 0.2, 20, 2) is None
    assert annealed(2, 10, 0.2, 20, 2) == 20
    assert annealed(9, 10, 0.2, 20, 2) == 2
    assert annealed(0, 1, 0.0, 20, 2) == 20


def test_the_gradient_of_a_learned_step_is_that_of_the_rounded_value() -> None:
    quantizer = ActivationQuantizer(3)
    quantizer.set_grid(0.5, 2)  # codes 0..7 stand for -1 to 2.5
    step = LearnedStep(quantizer, 0.0, torch.Generator())
    x = torch.tensor([-3.0, -0.6, 0.2, 0.9, 7.0], requires_grad=True)
    y = step(x)
    assert torch.equal(y.detach(), quantizer(x).detach())
    for index, expected in enumerate(
        [-2.0, -1 + 1.2, 0 - 0.4, 2 - 1.8, 5.0]
    ):  # round(x/s) - x/s inside, bounds outside
        (gradient,) = torch.autograd.grad(y[index], step.step, retain_graph=True)
        assert float(gradient) == pytest.approx(expected, abs=1e-6)
    with torch.no_grad():
        step.step.fill_(-1.0)
    assert step.learned == pytest.approx(0.5e-3)


def test_dropping_quantization_leaves_that_share_of_the_elements_float() -> None:
    quantizer = ActivationQuantizer(2)
    quantizer.set_grid(1.0, 0)
    x = torch.rand(20_000, generator=torch.Generator().manual_seed(0)) + 0.01
    for drop in (0.25, 0.75):
        y = LearnedStep(quantizer, drop, torch.Generator().manual_seed(1))(x)
        kept = y == x
        assert float(kept.float().mean()) == pytest.approx(drop, abs=0.02)
        assert torch.equal(y[~kept].detach(), quantizer(x)[~kept])


def test_adaround_finds_the_best_rounding_of_a_small_layer() -> None:
    """Four weights, strongly correlated inputs: all sixteen roundings can be tried."""
    layer = nn.Linear(4, 1, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[3.0, 1.05, 1.15, 1.4]]) / 3)
    common = torch.rand(256, 1, generator=torch.Generator().manual_seed(0))
    x = common * (0.9 + 0.1 * torch.rand(256, 4, generator=torch.Generator().manual_seed(1)))
    small = rl.compress(
        _Pixels(layer), weights=3, activations=8, calibration=_as_images(x), algorithm="minmax", first_last_bits=None
    )
    compressed = small.get_submodule("layer")
    assert isinstance(compressed, CompressedLayer)
    scale = layer_scale(compressed, "minmax")  # 1/3: the weights are 3, 1.05, 1.15 and 1.4 steps
    model = _Pixels(layer)
    job = Work(small, model, ("layer",), [_as_images(x)])
    with torch.no_grad():
        target, inputs = layer(x), compressed.quantize_input(x)
    tried = {
        ups: float(
            (inputs @ ((torch.tensor([[3.0, 1, 1, 1]]) + torch.tensor([ups])) * scale).T - target).square().mean()
        )
        for ups in itertools.product((0, 1), repeat=4)
        if not ups[0]  # already at the end of the grid
    }
    best = min(tried, key=lambda ups: tried[ups])
    assert sum(best) == 1  # nearest rounding, no ups at all, is not the best one
    AdaRound(observer="minmax", iterations=300, learning_rate=0.02).apply(job)
    with torch.no_grad():
        found = float((compressed(x) - target).square().mean())
    assert found < 1.05 * tried[best] < 0.5 * tried[0, 0, 0, 0]


class _Pixels(nn.Module):
    """The first four pixels of an image through a linear layer."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, images: Tensor) -> Tensor:
        result: Tensor = self.layer(images.flatten(1)[:, :4])
        return result


def _as_images(x: Tensor) -> Tensor:
    return torch.cat([x.clamp(0, 1), torch.zeros(len(x), 8)], dim=1).reshape(len(x), 3, 2, 2)


def test_adaround_never_has_more_error_than_nearest_rounding(network: nn.Module, work: Callable[..., Work]) -> None:
    job = work(network, 3)
    weights = {name: layer.weight.detach().clone() for name, layer, _ in job.layers()}
    AdaRound(**FAST).apply(job)  # type: ignore[arg-type]
    ratios = []
    for name, layer, _ in job.layers():
        inputs, _ = collect(job.model, job.batches, name, inputs=True, outputs=False)
        _, targets = collect(job.reference, job.batches, name, inputs=False, outputs=True)
        codes, scale = held(layer)
        with torch.no_grad():
            found = float((layer(inputs) - targets).square().mean())
            hold(layer, nearest_codes(weights[name], scale, 3), scale)
            plain = float((layer(inputs) - targets).square().mean())
        hold(layer, codes, scale)
        assert found <= plain * (1 + 1e-6)
        ratios.append(found / plain)
    assert min(ratios) < 0.8 and sum(r < 0.95 for r in ratios) >= 4


@pytest.mark.parametrize("method", [BRECQ(**FAST), QDrop(**FAST)])  # type: ignore[arg-type]
def test_blocks_are_closer_to_float_than_with_nearest_rounding(
    method: Method, network: nn.Module, work: Callable[..., Work]
) -> None:
    job, plain = work(network, 3), work(network, 3)
    method.apply(job)
    blocks = find_blocks(job.reference, job.names, job.batches[0][:2])
    errors = []
    for name, _ in blocks:
        _, wanted = collect(job.reference, job.batches, name, inputs=False, outputs=True)
        _, found = collect(job.model, job.batches, name, inputs=False, outputs=True)
        _, before = collect(plain.model, job.batches, name, inputs=False, outputs=True)
        errors.append(float((found - wanted).square().mean() / (before - wanted).square().mean()))
    assert all(ratio < 1 for ratio in errors) and errors[-1] < 0.7


def test_steps_of_activations_move_with_brecq_and_stay_with_adaround(
    network: nn.Module, work: Callable[..., Work]
) -> None:
    before = {name: float(q.scale) for name, _, q in work(network, 4).layers()}
    for method, moves in ((AdaRound(iterations=20), False), (BRECQ(iterations=20, step_rate=1e-3), True)):
        job = work(network, 4)
        method.apply(job)
        moved = [float(q.scale) != before[name] for name, _, q in job.layers()]
        assert any(moved) if moves else not any(moved)


def test_the_same_seed_gives_the_same_codes_and_another_seed_others(
    network: nn.Module, work: Callable[..., Work]
) -> None:
    def codes(seed: int) -> list[Tensor]:
        job = work(network, 3, seed=seed)
        replace(QDrop(**FAST), iterations=40).apply(job)  # type: ignore[arg-type]
        return [held(layer)[0] for _, layer, _ in job.layers()]

    state = torch.random.get_rng_state()
    first, second, other = codes(0), codes(0), codes(1)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(first, other, strict=True))


def test_residual_blocks_are_found_and_other_layers_stand_alone() -> None:
    model = build("robustlab:cifar_resnet", {"depth": 20}).eval()
    names = [n for n, m in model.named_modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
    blocks = find_blocks(model, names, torch.rand(2, 3, 32, 32))
    assert [name for name, _ in blocks] == [
        "conv1",
        *(f"layer{stage}.{block}" for stage in (1, 2, 3) for block in range(3)),
        "linear",
    ]
    assert blocks[1] == ("layer1.0", ("layer1.0.conv1", "layer1.0.conv2"))
    partly = find_blocks(model, [n for n in names if n != "layer1.0.conv1"], torch.rand(2, 3, 32, 32))
    assert partly[1] == ("layer1.0.conv2", ("layer1.0.conv2",))


class _Pair(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        z: Tensor = self.two(self.one(x))
        return z if y is None else z + y


class _Uses(nn.Module):
    """A block that runs twice, one that takes two tensors, one that is plain, and a container of one."""

    def __init__(self) -> None:
        super().__init__()
        self.twice, self.pair, self.plain = _Pair(), _Pair(), _Pair()
        self.rows = nn.Sequential(nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1))

    def forward(self, x: Tensor) -> Tensor:
        x = self.twice(self.twice(x))
        return self.rows(self.plain(self.pair(x, x)))  # type: ignore[no-any-return]


def test_a_block_has_to_run_once_on_one_tensor() -> None:
    names = ["twice.one", "twice.two", "pair.one", "pair.two", "plain.one", "plain.two", "rows.0", "rows.1"]
    blocks = find_blocks(_Uses(), names, torch.rand(1, 3, 4, 4))
    assert [name for name, _ in blocks] == [
        "twice.one",
        "twice.two",
        "pair.one",
        "pair.two",
        "plain",
        "rows.0",
        "rows.1",
    ]


@pytest.mark.parametrize(
    ("method", "arguments", "word"),
    [
        (AdaRound, {"iterations": 0}, "iterations"),
        (BRECQ, {"batch_size": 0}, "batch_size"),
        (BRECQ, {"learning_rate": 0.0}, "learning_rate"),
        (BRECQ, {"step_rate": -1.0}, "step_rate"),
        (BRECQ, {"regularization": float("nan")}, "regularization"),
        (BRECQ, {"warm_up": 2.0}, "warm_up"),
        (BRECQ, {"beta": (20.0, 0.0)}, "beta"),
        (BRECQ, {"beta": (20.0,)}, "beta"),
        (QDrop, {"drop": 0.0}, "drop"),
    ],
)
def test_bad_hyper_parameters_are_refused(
    method: Callable[..., Method], arguments: dict[str, object], word: str
) -> None:
    with pytest.raises(ArgumentError, match=word):
        method(**arguments)
