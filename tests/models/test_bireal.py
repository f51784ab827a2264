"""The network for signs: ResNet-20's size, two-sided inputs, and the same bits in every form."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import robustlab as rl
from robustlab.compress import freeze
from robustlab.core.errors import ArgumentError
from robustlab.models import build


def small() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return build("robustlab:cifar_bireal", {"classes": 3, "widths": [4, 8, 16], "steps": [1, 2, 1]})


def images(count: int = 6) -> torch.Tensor:
    return torch.rand(count, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def test_its_convolutions_are_those_of_resnet_20() -> None:
    def shapes(model: nn.Module) -> list[tuple[int, ...]]:
        return [tuple(m.weight.shape) for m in model.modules() if isinstance(m, (nn.Conv2d, nn.Linear))]

    assert shapes(build("robustlab:cifar_bireal")) == shapes(build("robustlab:cifar_resnet", {"depth": 20}))


def test_every_convolution_but_the_first_has_a_shortcut_around_it() -> None:
    model = small()
    with torch.no_grad():
        for step in model.body:
            step.conv.weight.zero_()
            x = torch.randn(2, step.conv.in_channels, 8, 8)
            shortcut = step.activation(step.pool(x).repeat(1, step.repeats, 1, 1))
            assert torch.equal(step(x), shortcut)


def test_its_float_form_clips_what_signs_see() -> None:
    step = small().body[0]
    x = torch.randn(2, 4, 8, 8) * 3
    with torch.no_grad():
        expected = step.activation(step.bn(step.conv(x.clamp(-1, 1))) + x)
        assert torch.equal(step(x), expected)


@pytest.mark.parametrize("algorithm", ["bireal", "react"])
def test_deployed_and_optimized_give_the_bits_of_the_simulation(algorithm: str) -> None:
    model = rl.compress(small(), weights=1, activations=1, algorithm=algorithm, calibration=images())
    simulated, deployed = freeze(model), rl.deploy(model)
    with torch.no_grad():
        expected = simulated(images())
        assert torch.equal(deployed(images()), expected)
        assert torch.equal(rl.optimize(deployed, (3, 16, 16))(images()), expected)


def test_widths_that_do_not_repeat_are_refused() -> None:
    for widths in ([16, 24], [32, 16]):
        with pytest.raises(ArgumentError, match="widths"):
            build("robustlab:cifar_bireal", {"widths": widths, "steps": [1, 1]})
