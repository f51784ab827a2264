"""Rounding in every form that exports have it: the same answers bit by bit, the gradient of the network without it."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import pytest
import torch
import torch.ao.quantization.fx._decomposed  # registers operators
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from robustlab.deploy.repair import Repaired

STEP, ZERO = 0.02, 3
decomposed = torch.ops.quantized_decomposed
aten = torch.ops.aten


class Network(nn.Module):
    """Its images and its hidden activations go through a function."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.weight = torch.randn(8, 3, 3, 3, generator=generator) / 5
        self.last = torch.randn(4, 8, generator=generator)
        self.function = function

    def forward(self, images: Tensor) -> Tensor:
        hidden = F.relu(F.conv2d(self.function(images), self.weight))
        return F.linear(self.function(hidden).mean((2, 3)), self.last)


IMAGES = torch.rand(4, 3, 9, 9, generator=torch.Generator().manual_seed(1))


def codes(x: Tensor) -> Tensor:
    return (torch.round(x / STEP) + ZERO).clamp(-128, 127).to(torch.int8)


def per_tensor(x: Tensor, low: int = -128, high: int = 127) -> Tensor:
    return decomposed.quantize_per_tensor(x, STEP, ZERO, low, high, torch.int8)


def back(q: Tensor, low: int = -128, high: int = 127) -> Tensor:
    return decomposed.dequantize_per_tensor(q, STEP, ZERO, low, high, torch.int8)


def per_channel(x: Tensor) -> Tensor:
    scales = torch.full((x.shape[1],), STEP)
    q = torch.quantize_per_channel(x, scales, torch.zeros(x.shape[1], dtype=torch.int64), 1, torch.qint8)
    return q.dequantize()


FORMS: dict[str, Callable[[Tensor], Tensor]] = {
    "round": lambda x: torch.round(x / STEP) * STEP,
    "half up": lambda x: torch.floor(x / STEP + 0.5) * STEP,
    "in place": lambda x: (x / STEP).round_().clamp_(-128, 127).mul_(STEP),
    "cast": lambda x: (codes(x).float() - ZERO) * STEP,
    "mixed types": lambda x: (codes(x) - ZERO) * STEP,
    "wider integers": lambda x: codes(x).to(torch.int32).sub_(ZERO).mul(STEP),
    "quantized tensor": lambda x: torch.quantize_per_tensor(x, STEP, ZERO, torch.qint8).dequantize(),
    "reshaped": lambda x: torch.quantize_per_tensor(x, STEP, ZERO, torch.qint8).flatten(1).dequantize().view(x.shape),
    "per channel": per_channel,
    "decomposed": lambda x: back(per_tensor(x)),
    "operators": lambda x: aten.mul.Tensor(aten.round.default(aten.div.Tensor(x, STEP)), STEP),
    "operators in place": lambda x: aten.mul.Tensor(aten.round_.default(aten.div.Tensor(x, STEP)), STEP),
    "operator casts": lambda x: aten.to.dtype(aten._to_copy.default(x / STEP + 0.5, dtype=torch.int32), x.dtype) * STEP,
    "fake quantize": lambda x: torch.fake_quantize_per_tensor_affine(x, STEP, ZERO, -128, 127),
}


def gradient(model: nn.Module) -> Tensor:
    images = IMAGES.clone().requires_grad_()
    return torch.autograd.grad(model(images)[:, 0].sum(), images)[0]


@pytest.mark.parametrize("form", FORMS)
def test_rounding_keeps_its_answers_and_gets_the_gradient_of_the_network_without_it(form: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # torch's own quantized types are on their way out
        model = Network(FORMS[form])
        repaired = Repaired(model, scope="rounding")
        answers = repaired(IMAGES.clone().requires_grad_()).detach()
        assert torch.equal(answers, model(IMAGES))
        assert not torch.equal(answers, Network(lambda x: x)(IMAGES))
        assert repaired.seen
        same = F.cosine_similarity(gradient(repaired).flatten(), gradient(Network(lambda x: x)).flatten(), dim=0)
    assert float(same) > 0.98


@given(low=st.integers(-100, 0), high=st.integers(10, 100))
@settings(max_examples=20, deadline=None)
def test_the_gradient_is_cut_where_a_quantizer_clamps(low: int, high: int) -> None:
    x = torch.linspace(-3, 3, 200)[None].requires_grad_()

    class Clamping(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return back(per_tensor(images, low, high), low, high)

    (given_gradient,) = torch.autograd.grad(Repaired(Clamping(), scope="rounding")(x).sum(), x)
    inside = (x / STEP + ZERO >= low - 0.5) & (x / STEP + ZERO <= high + 0.5)
    assert torch.equal(given_gradient, inside.float())


def test_rounding_alone_is_repaired_unless_more_is_asked_for() -> None:
    repaired = Repaired(Network(lambda x: torch.tanh(100 * x) * (x > 0.5)), scope="rounding")
    repaired(IMAGES.clone().requires_grad_())
    assert not repaired.seen
    stepped = Repaired(Network(lambda x: 2.0 * (x > 0.5)), scope="steps")
    assert bool((gradient(stepped) != 0).any()) and stepped.seen == {"comparison"}


def test_whole_numbers_that_index_are_left_alone() -> None:
    def indexed(x: Tensor) -> Tensor:
        order = x.flatten(2).mean((0, 1)).argsort()
        place = (x[:, :1, :1, :1] * 5).long().clamp(0, x.shape[-1] - 1).expand(-1, x.shape[1], x.shape[2], 1)
        return x.flatten(2)[:, :, order].view(x.shape) * torch.gather(x, 3, place)

    model = Network(indexed)
    repaired = Repaired(model, scope="rounding")
    assert torch.equal(repaired(IMAGES.clone().requires_grad_()), model(IMAGES))
    assert torch.equal(gradient(repaired), gradient(model))
