"""Fingerprints change with everything that changes a result, and costs count what is computed."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

import robustlab as rl
from robustlab.deploy import StraightThrough, fingerprint, layer_costs, set_surrogate, stored_bytes
from robustlab.models import build


@pytest.fixture(autouse=True)
def seeded() -> Iterator[None]:
    """Weights that a test draws from the global generator are the same in every run, and the generator is put back."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


def images(count: int, size: int = 16) -> Tensor:
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(0))


def net(dilation: int = 1) -> nn.Module:
    layers = nn.Sequential(
        nn.Conv2d(3, 4, 3, dilation=dilation), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)
    )
    with torch.no_grad():
        for index, parameter in enumerate(layers.parameters()):
            parameter.copy_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(index)))
    return layers


def test_the_surrogate_is_part_of_the_fingerprint() -> None:
    deployed = rl.deploy(rl.compress(net(), weights=1, activations=1, algorithm="binary", calibration=images(4)))
    other = copy.deepcopy(deployed)
    assert fingerprint(other) == fingerprint(deployed)
    set_surrogate(other, StraightThrough(sign="identity"))
    assert fingerprint(other) != fingerprint(deployed)


def test_geometry_heads_and_plain_attributes_are_part_of_the_fingerprint() -> None:
    one, two = (rl.compress(net(d), weights=8, activations=8, calibration=images(4), keep_float=["3"]) for d in (1, 2))
    assert fingerprint(one) != fingerprint(two)
    attention = nn.MultiheadAttention(16, 1)
    heads = nn.MultiheadAttention(16, 8)
    heads.load_state_dict(attention.state_dict())
    assert fingerprint(attention) != fingerprint(heads)
    model = net()
    before = fingerprint(model)
    model.temperature = 2.0  # type: ignore[assignment]
    assert fingerprint(model) != before
    model.temperature = 2.0  # type: ignore[assignment]
    model.train()
    assert fingerprint(model) != before


def test_the_layout_in_memory_is_part_of_the_fingerprint() -> None:
    model = net()
    before = fingerprint(model)
    model.to(memory_format=torch.channels_last)
    assert fingerprint(model) != before
    model.to(memory_format=torch.contiguous_format)
    assert fingerprint(model) == before


class Tokens(nn.Module):
    """A linear layer on every pixel, with the pixels folded into the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.pixel = nn.Linear(3, 8)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        count = len(x)
        y = self.pixel(x.permute(0, 2, 3, 1).reshape(-1, 3)).reshape(count, -1, 8)
        logits: Tensor = self.head(y.mean(dim=1))
        return logits


def test_costs_are_per_image_whatever_is_folded_into_the_batch() -> None:
    for count in (1, 4):
        costs = layer_costs(Tokens(), images(count))
        assert [c.macs for c in costs] == [16 * 16 * 3 * 8, 8 * 5]


def test_costs_of_a_known_network() -> None:
    """ResNet-20 of He et al. 2016 with option-A shortcuts: 40.55 MMAC and 0.27 M parameters."""
    model = build("robustlab:cifar_resnet", {"depth": 20})
    macs = sum(cost.macs for cost in layer_costs(model, torch.rand(1, 3, 32, 32)))
    assert macs == 40_551_040
    small = rl.deploy(rl.compress(model, weights=4, activations=4, calibration=torch.rand(4, 3, 32, 32)))
    costs = layer_costs(small, torch.rand(1, 3, 32, 32))
    assert sum(cost.macs for cost in costs) == macs
    ends = costs[0].macs + costs[-1].macs
    assert sum(cost.bit_operations for cost in costs) == 16 * (macs - ends) + 64 * ends
    assert stored_bytes(small) < stored_bytes(model) / 6
