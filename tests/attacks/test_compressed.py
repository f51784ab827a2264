"""No masked gradients: attacks through the surrogate gradient of a compressed model beat transfer and noise."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import robustlab as rl
from robustlab.core import Tiled

EPS = rl.Linf(4 / 255)


def accuracy(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    with torch.no_grad():
        return float((Tiled(model)(images).argmax(1) == labels).double().mean())


@pytest.fixture(scope="module")
def data() -> tuple[Tensor, Tensor]:
    return rl.datasets.load_dataset("signs").batch(range(64))


@pytest.fixture(scope="module")
def transferred(data: tuple[Tensor, Tensor]) -> Tensor:
    """Adversarial images of the float model."""
    return rl.attacks.PGD(EPS, steps=10)(rl.load("robustlab:signs_float"), *data)


@pytest.mark.parametrize("name", ["signs_w8a8", "signs_w4a4", "signs_w1a1"])
def test_the_surrogate_gradient_is_no_weaker_than_transfer_or_noise(
    name: str, data: tuple[Tensor, Tensor], transferred: Tensor
) -> None:
    images, labels = data
    model = rl.load(f"robustlab:{name}")
    generator = torch.Generator().manual_seed(0)
    noise = [
        (images + (2 * torch.randint(0, 2, images.shape, generator=generator) - 1) * 4 / 255).clamp(0, 1)
        for _ in range(4)
    ]
    white_box = accuracy(model, rl.attacks.PGD(EPS, steps=10)(model, images, labels), labels)
    assert white_box <= accuracy(model, transferred, labels)
    assert white_box <= min(accuracy(model, x, labels) for x in noise)
    assert white_box < accuracy(model, images, labels) - 0.3
