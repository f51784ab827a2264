"""Repaired networks answer as they are, and have the gradient of the network without the mask."""

from __future__ import annotations

import runpy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robustlab.attacks._goal import Goal, margin
from robustlab.attacks._victim import logits_and_gradient
from robustlab.deploy.repair import Repaired
from robustlab.evaluate.audit.sources import Borrowed, Tempered, WithSurrogate, make_sources

# A test has no package of its own to import it from.
_toys = runpy.run_path(str(Path(__file__).parents[2] / "evaluate" / "audit" / "toys.py"))
MASKS, SIZE, Network, NoBackward, Toy = (
    _toys["MASKS"],
    _toys["SIZE"],
    _toys["Network"],
    _toys["NoBackward"],
    _toys["Toy"],
)

IMAGES, LABELS = Toy(8).batch(range(8))


def _gradient(model: nn.Module) -> Tensor:
    return logits_and_gradient(model, IMAGES, Goal(LABELS), margin)[1]


def _cosine(a: Tensor, b: Tensor) -> float:
    return float(F.cosine_similarity(a.flatten(1), b.flatten(1)).min())


@pytest.mark.parametrize("name", ["round", "zero-backward", "cut", "cut-input"])
def test_a_mask_that_keeps_the_answers_is_seen_through(name: str) -> None:
    masked = MASKS[name]
    repaired = Repaired(masked)
    images = IMAGES.clone().requires_grad_()
    torch.testing.assert_close(repaired(images).detach(), masked(IMAGES).detach(), rtol=0, atol=0)
    assert repaired.seen
    # Where a hidden layer's output was cut off, the ReLU behind it is skipped as well.
    assert _cosine(_gradient(repaired), _gradient(Network())) > (0.3 if name == "cut" else 0.999)


def test_an_honest_network_is_left_alone() -> None:
    repaired = Repaired(Network(inside=lambda x: x.clamp(min=0)))
    torch.testing.assert_close(_gradient(repaired), _gradient(Network()), rtol=0, atol=0)
    assert not repaired.seen


STEPS = {
    "sign": torch.sign,
    "method": lambda x: x.sign(),
    "where": lambda x: torch.where(x > 0, torch.ones_like(x), -torch.ones_like(x)),
    "cast": lambda x: 2 * (x >= 0).float() - 1,
    "product": lambda x: torch.ones_like(x) * (x > 0),
    "filled": lambda x: torch.ones_like(x).masked_fill(x < 0, -1.0),
    "floor": lambda x: torch.floor(8 * x),
    "hardtanh": lambda x: F.hardtanh(x, -0.01, 0.01),
    "relu6": lambda x: F.relu6(100 * x + 300),
}


class Weighted(nn.Module):
    """Two logits, w . f(x) and its negative: the margin must fall where w > 0, for every f that rises."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.weight = torch.randn(1, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1))
        self.function = function

    def forward(self, images: Tensor) -> Tensor:
        total = (self.weight * self.function(images - 0.5)).sum((1, 2, 3))
        return torch.stack([total, -total], 1)


@pytest.mark.parametrize("name", STEPS)
@pytest.mark.parametrize("smooth", [False, True])
def test_every_step_gets_a_gradient_that_points_up(name: str, smooth: bool) -> None:
    masked = Weighted(STEPS[name])
    repaired = Repaired(masked, smooth=smooth)
    images = IMAGES.clone().requires_grad_()
    logits = repaired(images)
    if not smooth:
        torch.testing.assert_close(logits.detach(), masked(IMAGES), rtol=0, atol=0)
    given = torch.autograd.grad(logits[:, 0].sum(), images)[0]
    assert float((given != 0).float().mean()) > 0.5
    assert bool((given * masked.weight >= 0).all())


def test_a_fast_wave_has_no_slope_at_the_scale_of_the_images() -> None:
    rippled = Network(before=lambda x: x + 1e-3 * torch.sin(1e5 * x))
    assert _cosine(_gradient(rippled), _gradient(Network())) < 0.5
    assert _cosine(_gradient(Repaired(rippled)), _gradient(Network())) > 0.99


def test_a_saturated_softmax_is_differentiated_warm() -> None:
    masked = MASKS["softmax"]
    assert float(_gradient(masked).flatten(1).any(1).float().mean()) < 0.5
    repaired = Repaired(masked)
    images = IMAGES.clone().requires_grad_()
    torch.testing.assert_close(repaired(images).detach(), masked(IMAGES).detach(), rtol=0, atol=0)
    assert bool(_gradient(repaired).flatten(1).any(1).all())


def test_a_backward_of_zeros_in_part_of_a_batch_is_found_sample_by_sample() -> None:
    def half(x: Tensor) -> Tensor:
        return torch.cat([NoBackward.apply(x[:4]), x[4:]])

    assert _cosine(_gradient(Repaired(Network(inside=half))), _gradient(Network())) > 0.999


def test_borrowed_logits_have_the_classes_of_the_model_and_the_gradient_of_the_other() -> None:
    clamped = MASKS["clamp"]
    borrowed = Borrowed(clamped, Network())
    for images in (IMAGES, IMAGES.clone().requires_grad_()):
        assert torch.equal(borrowed(images).argmax(1), clamped(IMAGES).argmax(1))
    assert _cosine(_gradient(borrowed), _gradient(Network())) > 0.999


def test_tempered_logits_keep_their_order_and_their_loss_a_gradient() -> None:
    saturated = MASKS["saturated"]
    tempered = Tempered(saturated)(IMAGES).detach()
    assert torch.equal(tempered.argsort(1), saturated(IMAGES).argsort(1))
    assert float((tempered.amax(1) - tempered.amin(1)).amax()) < 10.01


def test_sources_of_a_binary_model_swap_the_surrogate_and_put_it_back() -> None:
    from robustlab.deploy import PackedLayer, load

    model = load("robustlab:signs_w1a1")
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    layers = [m for m in model.modules() if isinstance(m, PackedLayer)]
    before = [layer.surrogate for layer in layers]
    sources = make_sources(model, images, 2 / 255, random=False, reference=None)
    assert [s.name for s in sources if isinstance(s.model, WithSurrogate)] == [
        "ste-clip-open",
        "ste-open",
        "ste-identity-open",
    ]
    source = next(s for s in sources if s.name == "ste-identity-open")
    with source.active() as active:
        assert {layer.surrogate.name for layer in layers} == {"ste-identity-open"}
        torch.testing.assert_close(active(images), model(images), rtol=0, atol=0)
    assert [layer.surrogate for layer in layers] == before
