"""A small residual network with moved batch norms, calibration images, and a `Work` as `compress` makes it."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import robustlab as rl
from robustlab.compress.fold import fold_batch_norms
from robustlab.compress.ptq import Work
from robustlab.compress.structure import trace
from robustlab.models import build


@pytest.fixture(scope="session")
def images() -> Callable[[int, int], Tensor]:
    """(count, seed) -> images (count, 3, 16, 16) with neighbouring pixels alike, as in photographs."""

    def draw(count: int, seed: int = 0) -> Tensor:
        coarse = torch.rand(count, 3, 4, 4, generator=torch.Generator().manual_seed(seed))
        return nn.functional.interpolate(coarse, size=16, mode="bilinear")

    return draw


@pytest.fixture(scope="session")
def network(images: Callable[[int, int], Tensor]) -> nn.Module:
    """A residual network of two blocks, eval mode; not to be changed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = build("robustlab:signs_resnet", {"classes": 5, "widths": [8, 16], "blocks": [1, 1]}).train()
        with torch.no_grad():
            for seed in range(3):
                model(images(16, seed))
            for module in model.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.weight.uniform_(0.3, 1.5)
                    module.bias.uniform_(-0.5, 0.5)
    return model.eval()


@pytest.fixture(scope="session")
def work(images: Callable[[int, int], Tensor]) -> Callable[..., Work]:
    """(model, bits) -> what a method is handed: calibrated, every layer at `bits`, plain rounding."""

    def make(model: nn.Module, bits: int, observer: str = "mse", seed: int = 0) -> Work:
        batches = [images(8, 10), images(8, 11)]
        reference = copy.deepcopy(model).eval()
        fold_batch_norms(reference, images(2, 0))
        small = rl.compress(
            model, weights=bits, activations=bits, calibration=batches, algorithm=observer, first_last_bits=None
        )
        return Work(small, reference, trace(small, batches[0][:2]).order, batches, seed)

    return make
