"""Gradients with respect to images: as torch's, and outputs to the last bit."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from robustlab.attacks import _images
from robustlab.attacks._goal import Goal
from robustlab.attacks._images import FastImageGradients
from robustlab.attacks._victim import logits_and_gradient
from robustlab.kernels import dispatch

needs_kernels = pytest.mark.skipif(dispatch.available() == ("reference",), reason="no compiled kernels")


class Network(nn.Module):
    """A convolution with something around it."""

    def __init__(self, channels: int = 3, **place: Any) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(channels, 6, 3, **place)
        self.last = nn.LazyLinear(4)

    def forward(self, images: Tensor) -> Tensor:
        """Logits."""
        logits: Tensor = self.last(torch.relu(self.convolution(images * 2 - 1)).flatten(1))
        return logits


def frozen(network: nn.Module, images: Tensor) -> nn.Module:
    """With weights from a seed, of which none wants a gradient."""
    torch.manual_seed(0)
    network(images)
    return network.eval().requires_grad_(False)


def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """The shapes that `image_gradient` is asked for from now on."""
    seen: list[tuple[int, ...]] = []
    true = _images.image_gradient

    def counted(above: Tensor, *arguments: Any) -> Tensor:
        seen.append(tuple(above.shape))
        return true(above, *arguments)

    monkeypatch.setattr(_images, "image_gradient", counted)
    return seen


@needs_kernels
@pytest.mark.parametrize(
    ("channels", "place"),
    [(3, {}), (1, {"stride": 2, "padding": 1}), (4, {"padding": 2, "bias": False}), (3, {"stride": (3, 1)})],
)
def test_attacks_get_the_gradient_of_torch(
    channels: int, place: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    images = torch.rand(3, channels, 9, 12, generator=torch.Generator().manual_seed(1))
    network = frozen(Network(channels, **place), images)
    seen, goal = calls(monkeypatch), Goal(torch.tensor([0, 1, 2]))
    logits, gradient = logits_and_gradient(network, images, goal)
    assert len(seen) == 1
    with dispatch.use_backend("reference"):
        expected_logits, expected = logits_and_gradient(network, images, goal)
    assert len(seen) == 1
    assert torch.equal(logits, expected_logits)
    torch.testing.assert_close(gradient, expected, rtol=1e-5, atol=1e-6)


@needs_kernels
@pytest.mark.parametrize(
    ("channels", "place"),
    [
        (5, {}),
        (2, {"groups": 2}),
        (3, {"dilation": 2}),
        (3, {"padding": "same"}),
        (3, {"padding": 3}),
    ],
)
def test_other_convolutions_go_their_usual_way(
    channels: int, place: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    images = torch.rand(2, channels, 9, 9)
    network = frozen(Network(channels, **place), images)
    seen = calls(monkeypatch)
    _, gradient = logits_and_gradient(network, images, Goal(torch.tensor([0, 1])))
    assert not seen and bool(gradient.any())


@needs_kernels
def test_weights_that_want_gradients_and_other_types_get_them(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = calls(monkeypatch)
    images, weight = torch.rand(1, 3, 8, 8, requires_grad=True), torch.rand(2, 3, 3, 3, requires_grad=True)
    with FastImageGradients():
        found = torch.autograd.grad(torch.conv2d(images, weight).sum(), (images, weight))
        twice = torch.autograd.grad(
            torch.conv2d(images.double(), weight.detach().double(), padding=1).square().sum(), images, create_graph=True
        )
        with torch.autocast("cpu", torch.bfloat16):
            torch.conv2d(images, weight.detach()).sum().backward()
        plain = torch.conv2d(input=images.detach(), weight=weight.detach(), stride=[2], padding=(1,))
    assert all(bool(g.any()) for g in found) and bool(torch.autograd.grad(twice[0].sum(), images)[0].any())
    assert not plain.requires_grad and not seen
