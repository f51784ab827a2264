"""Pinned sub-gradients: at the bounds, at ties, and where nothing is finite."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from robustlab.core import subgradients as S

INF, NAN = float("inf"), float("nan")


def gradient(values: list[float], function: object, weight: float = 1.0) -> tuple[Tensor, Tensor]:
    x = torch.tensor(values, requires_grad=True)
    y = function(x)  # type: ignore[operator]
    (g,) = torch.autograd.grad((y * weight).sum(), x)
    return y.detach(), g


def test_clamp_passes_the_gradient_on_the_closed_interval() -> None:
    y, g = gradient([-0.1, 0.0, 0.5, 1.0, 1.1], lambda x: S.clamp(x, 0.0, 1.0))
    assert y.tolist() == [0.0, 0.0, 0.5, 1.0, 1.0]
    assert g.tolist() == [0.0, 1.0, 1.0, 1.0, 0.0]


def test_clamp_blocks_even_an_infinite_gradient_outside() -> None:
    _, g = gradient([-1.0, 2.0, INF], lambda x: S.clamp(x, 0.0, 1.0), INF)
    assert g.tolist() == [0.0, 0.0, 0.0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_within_has_its_bounds_and_between_has_not(dtype: torch.dtype) -> None:
    bounds = torch.tensor([-1.0, 1.0], dtype=dtype)
    outside = torch.nextafter(bounds, 2 * bounds)
    inside = torch.nextafter(bounds, 0 * bounds)
    x = torch.cat([bounds, outside, inside])
    one = torch.full_like(x, 3.0)
    assert S.within(one, x, -1.0, 1.0).tolist() == [3.0, 3.0, 0.0, 0.0, 3.0, 3.0]
    assert S.between(one, x, -1.0, 1.0).tolist() == [0.0, 0.0, 0.0, 0.0, 3.0, 3.0]


@pytest.mark.parametrize("slopes", [1, 4])
def test_prelu_is_torchs(slopes: int) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(3, 4, 5, 5, generator=generator)
    x[0, :, 0, 0] = 0.0
    slope = torch.linspace(-0.5, 1.5, slopes)
    upstream = torch.randn(x.shape, generator=generator)
    found = []
    for function in (S.prelu, torch.prelu):
        leaves = x.clone().requires_grad_(), slope.clone().requires_grad_()
        y = function(*leaves)
        found.append((y.detach(), *torch.autograd.grad(y, leaves, upstream)))
    assert torch.equal(found[0][0], found[1][0])
    assert torch.equal(found[0][1], found[1][1])
    torch.testing.assert_close(found[0][2], found[1][2])


def test_round_is_half_to_even_with_unit_gradient() -> None:
    y, g = gradient([-1.5, -0.5, 0.5, 1.5, 2.5, 0.49], S.round_ste, 3.0)
    assert y.tolist() == [-2.0, 0.0, 0.0, 2.0, 2.0, 0.0]
    assert g.tolist() == [3.0] * 6


def test_sign_has_two_values() -> None:
    assert S.hard_sign(torch.tensor([-2.0, -1e-45, -0.0, 0.0, 1e-45, INF, -INF, NAN])).tolist() == [
        -1.0, -1.0, 1.0, 1.0, 1.0, 1.0, -1.0, 1.0,
    ]  # fmt: skip
    assert S.hard_sign(torch.tensor([-NAN, NAN]).copysign(torch.tensor([-1.0, 1.0]))).tolist() == [1.0, 1.0]
    assert S.hard_sign(torch.tensor([-2, 0, 3])).tolist() == [-1, 1, 1]
    assert S.hard_sign(torch.tensor([-0.5, -0.0], dtype=torch.bfloat16)).dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("surrogate", "expected"),
    [
        ("clip", [0.0, 1.0, 1.0, 1.0, 1.0, 0.0]),
        ("approx", [0.0, 0.0, 1.0, 2.0, 0.0, 0.0]),
        ("identity", [1.0] * 6),
    ],
)
def test_sign_surrogates_at_their_bounds(surrogate: str, expected: list[float]) -> None:
    y, g = gradient([-1.5, -1.0, -0.5, 0.0, 1.0, 1.0001], lambda x: S.sign_ste(x, surrogate))
    assert y.tolist() == [-1.0, -1.0, -1.0, 1.0, 1.0, 1.0]
    assert g.tolist() == expected
    assert surrogate in S.SIGN_SURROGATES


@settings(deadline=None)
@given(st.lists(st.floats(-3, 3, width=32), min_size=1, max_size=20))
def test_approx_is_the_derivative_of_the_quadratic_it_stands_for(values: list[float]) -> None:
    x = torch.tensor(values, dtype=torch.float64, requires_grad=True)
    quadratic = torch.where(x < 0, 2 * x + x * x, 2 * x - x * x)  # Bi-Real Net, inside (-1, 1)
    (expected,) = torch.autograd.grad(quadratic.sum(), x)
    inside = x.abs() < 1
    actual = S.sign_derivative(x.detach(), "approx")
    torch.testing.assert_close(actual[inside], expected[inside])
    assert (actual[~inside] == 0).all()
