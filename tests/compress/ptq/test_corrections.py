"""Bias correction, statistics correction and cross-layer equalization keep what they promise."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import robustlab as rl
from robustlab.compress.fold import fold_batch_norms
from robustlab.compress.layers import CompressedConv2d
from robustlab.compress.ptq import BiasCorrection, CrossLayerEqualization, Work, correct_statistics
from robustlab.compress.ptq.capture import collect
from robustlab.compress.ptq.equalization import equalize
from robustlab.compress.ptq.grid import held
from robustlab.compress.ptq.pairs import find_pairs
from robustlab.compress.ptq.statistics_correction import gains
from robustlab.core.errors import ArgumentError
from robustlab.deploy import stored_bytes
from robustlab.models import build

Images = Callable[[int, int], Tensor]
MakeWork = Callable[..., Work]


def outputs(job: Work) -> list[tuple[Tensor, Tensor]]:
    """(compressed, float) outputs of every layer, float64 (rows, channels)."""
    found = []
    for name, layer, _ in job.layers():
        pair = [
            collect(m, job.batches, name, inputs=False, outputs=True)[1].double() for m in (job.model, job.reference)
        ]
        if isinstance(layer, CompressedConv2d):
            pair = [y.movedim(1, -1).flatten(0, -2) for y in pair]
        found.append((pair[0], pair[1]))
    return found


def test_bias_correction_makes_the_mean_error_of_every_layer_vanish(network: nn.Module, work: MakeWork) -> None:
    job = work(network, 3)
    before = [float((a.mean(0) - b.mean(0)).abs().max()) for a, b in outputs(job)]
    codes = [held(layer)[0] for _, layer, _ in job.layers()]
    BiasCorrection().apply(job)
    for (found, wanted), old in zip(outputs(job), before, strict=True):
        error = float((found.mean(0) - wanted.mean(0)).abs().max())
        assert error < 1e-5 * max(1.0, float(wanted.abs().max())) < old
    assert all(torch.equal(held(layer)[0], c) for (_, layer, _), c in zip(job.layers(), codes, strict=True))


@pytest.mark.parametrize("bits", [2, 4])
def test_statistics_correction_gives_every_channel_the_float_mean_and_deviation(
    bits: int, network: nn.Module, work: MakeWork
) -> None:
    job = work(network, bits)
    before = max(float((a.std(0) / b.std(0) - 1).abs().max()) for a, b in outputs(job))
    codes = [held(layer)[0] for _, layer, _ in job.layers()]
    size = stored_bytes(rl.deploy(job.model))
    correct_statistics(job)
    for found, wanted in outputs(job):
        spread = wanted.std(0, correction=0)
        assert torch.allclose(found.mean(0), wanted.mean(0), atol=1e-4 * float(spread.max()))
        assert torch.allclose(found.std(0, correction=0), spread, rtol=1e-4, atol=1e-6)
    assert before > 0.02
    assert all(torch.equal(held(layer)[0], c) for (_, layer, _), c in zip(job.layers(), codes, strict=True))
    assert stored_bytes(rl.deploy(job.model)) == size


def test_statistics_correction_helps_on_other_images(network: nn.Module, work: MakeWork, images: Images) -> None:
    job = work(network, 3, "minmax")
    with torch.no_grad():
        wanted = network(images(64, 77))
        before = float((job.model(images(64, 77)) - wanted).square().mean())
        correct_statistics(job)
        assert float((job.model(images(64, 77)) - wanted).square().mean()) < 0.8 * before


def test_constant_channels_keep_their_scale() -> None:
    found = torch.tensor([2.0, 0.0, 1.0, 1e-9], dtype=torch.float64)
    wanted = torch.tensor([1.0, 1.0, 0.0, 1.0], dtype=torch.float64)
    assert torch.equal(gains(found, wanted), torch.tensor([0.5, 1.0, 1.0, 1.0], dtype=torch.float64))


def test_a_dead_channel_survives_the_correction(work: MakeWork) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 196, 3))
    with torch.no_grad():
        model[0].weight[1] = 0  # type: ignore[index]
    job = work(model.eval(), 3)
    correct_statistics(job)
    layer = job.model.get_submodule("0")
    assert isinstance(layer, CompressedConv2d) and layer.bias is not None
    assert float(layer.bias[1].detach()) == 0 and bool(torch.isfinite(held(layer)[1]).all())


def test_equalizing_keeps_the_function_and_makes_the_ranges_equal(network: nn.Module, images: Images) -> None:
    model = copy.deepcopy(network)
    fold_batch_norms(model, images(2, 0))
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.Conv2d):
                spread = torch.logspace(-1, 1, len(module.weight))
                module.weight.mul_(spread.reshape(-1, 1, 1, 1))
        wanted = model(images(16, 5))
        equalized = copy.deepcopy(model)
        CrossLayerEqualization().prepare(equalized, images(4, 0))
        found = equalized(images(16, 5))
    assert (found - wanted).abs().max() < 1e-4 * wanted.abs().max()
    pairs = find_pairs(model)
    assert len(pairs) == 2 and all(second == first[:-1] + "2" for first, second in pairs)
    for first, second in pairs:
        rows = [equalized.get_submodule(n).get_parameter("weight").detach() for n in (first, second)]
        one, other = rows[0].abs().amax((1, 2, 3)), rows[1].abs().amax((0, 2, 3))
        assert torch.allclose(one, other, rtol=1e-4)
        old = model.get_submodule(first).get_parameter("weight").detach().abs().amax((1, 2, 3))
        assert not torch.allclose(old, one, rtol=0.2)


@pytest.mark.parametrize(
    "layers",
    [
        [nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Conv2d(6, 12, 3, groups=6), nn.ReLU(), nn.Conv2d(12, 4, 1)],
        [nn.Conv2d(3, 6, 3), nn.LeakyReLU(0.1), nn.MaxPool2d(2), nn.Flatten(), nn.ReLU(), nn.Linear(6 * 49, 4)],
        [nn.Flatten(), nn.Linear(768, 9), nn.ReLU(), nn.Dropout(0.5), nn.Linear(9, 4)],
    ],
)
def test_depthwise_flattened_and_linear_neighbours_are_equalized(layers: list[nn.Module], images: Images) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(*copy.deepcopy(layers)).eval()
    weighted = [m for m in model if isinstance(m, (nn.Conv2d, nn.Linear))]
    with torch.no_grad():
        for module in weighted:
            module.weight.normal_(generator=torch.Generator().manual_seed(1)).mul_(
                torch.logspace(-1, 1, len(module.weight)).reshape(-1, *([1] * (module.weight.ndim - 1)))
            )
        wanted = model(images(4, 1))
    pairs = find_pairs(model)
    assert len(pairs) == len(weighted) - 1
    before = [m.weight.detach().clone() for m in weighted]
    CrossLayerEqualization().prepare(model, images(2, 0))
    with torch.no_grad():
        assert (model(images(4, 1)) - wanted).abs().max() < 1e-4 * wanted.abs().max()
    assert all(not torch.allclose(m.weight, b) for m, b in zip(weighted, before, strict=True))


class _Between(nn.Module):
    """Two convolutions with something between them."""

    def __init__(self, between: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3)
        self.between = between

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.two(self.between(self.one(x)))
        return y


@pytest.mark.parametrize(
    ("between", "count"),
    [
        (torch.relu, 1),
        (lambda y: y.relu().contiguous(), 1),
        (lambda y: nn.functional.max_pool2d(nn.functional.relu(y), 2), 1),
        (nn.ReLU6(), 0),
        (nn.Sigmoid(), 0),
        (nn.BatchNorm2d(4), 0),
        (lambda y: torch.relu(y) + 1, 0),
        (lambda y: torch.relu(y) + y, 0),
        (lambda y: y.flip(1), 0),
        (lambda y: nn.functional.gelu(y), 0),
    ],
)
def test_only_scale_equivariant_neighbours_are_pairs(between: Callable[[Tensor], Tensor], count: int) -> None:
    assert len(find_pairs(_Between(between))) == count


class _Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.two(torch.relu(self.two(torch.relu(self.one(x)))))
        return y


class _Branches(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.one(x))
        z: Tensor = self.two(y) if y.sum() > 0 else y
        return z


def test_layers_that_run_twice_are_left_alone_and_what_cannot_be_traced_is_refused(images: Images) -> None:
    assert find_pairs(_Twice()) == []
    with pytest.raises(ArgumentError, match=r"model is '_Branches'; allowed: for cle a model that torch\.fx can trace"):
        rl.compress(_Branches(), weights=8, activations=8, calibration=images(2, 0), algorithm="cle")
    with pytest.raises(ArgumentError, match="no two layers"):
        rl.compress(_Twice(), weights=8, activations=8, calibration=images(2, 0), algorithm="cle")


def test_a_channel_without_weights_is_left_alone() -> None:
    one, two = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 2, 1)
    with torch.no_grad():
        one.weight[0] = 0
        two.weight[:, 1] = 0
    before = one.weight.detach().clone(), two.weight.detach().clone()
    equalize(one, two)
    assert torch.equal(one.weight[1], before[0][1]) and torch.equal(two.weight[:, 0], before[1][:, 0])
    assert not torch.equal(one.weight[2], before[0][2])
    assert bool(torch.isfinite(one.weight).all() and torch.isfinite(two.weight).all())


def test_cle_pairs_of_a_resnet_are_the_inner_convolutions_of_its_blocks() -> None:
    pairs = find_pairs(build("robustlab:cifar_resnet", {"depth": 20}).eval())
    assert pairs == []  # batch norms lie in between: they are folded first
    model = build("robustlab:cifar_resnet", {"depth": 20}).eval()
    fold_batch_norms(model, torch.rand(2, 3, 32, 32))
    inner = [f"layer{stage}.{block}.conv" for stage in (1, 2, 3) for block in range(3)]
    assert find_pairs(model) == [(f"{name}1", f"{name}2") for name in inner]
