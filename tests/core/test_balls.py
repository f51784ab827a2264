"""Balls: membership whatever goes in, exact projections, and slugs that tell radii apart."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from robustlab.core import L0, L1, L2, ArgumentError, Ball, Lattice, Linf
from robustlab.core.balls import format_eps, parse_ball, parse_eps
from robustlab.core.keys import sample_keys

BALLS: list[type[Ball]] = [Linf, L2, L1]
EPS = st.one_of(st.just(0.0), st.floats(1e-6, 4.0), st.integers(1, 300).map(lambda k: k / 255))


def images(seed: int, count: int = 4, size: int = 5) -> Tensor:
    """Random images with some values exactly on the bounds of the box."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(count, 3, size, size, generator=generator)
    return (x * 1.2 - 0.1).clamp(0, 1)


@settings(deadline=None)
@given(
    kind=st.sampled_from(BALLS), eps=EPS, seed=st.integers(0, 99), scale=st.sampled_from([1e-3, 0.1, 1.0, 1e4, 1e30])
)
def test_projection_is_inside_and_idempotent(kind: type[Ball], eps: float, seed: int, scale: float) -> None:
    ball, origin = kind(eps), images(seed)
    x = origin + scale * torch.randn(origin.shape, generator=torch.Generator().manual_seed(seed + 1))
    once = ball.project(x, origin)
    assert ball.contains(once, origin).all()
    torch.testing.assert_close(ball.project(once, origin), once, rtol=0, atol=1e-6)


@pytest.mark.parametrize("kind", BALLS)
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_projection_of_what_is_not_finite(kind: type[Ball], value: float) -> None:
    ball, origin = kind(0.1), images(0)
    x = origin.clone()
    x[:, 0] = value
    projected = ball.project(x, origin)
    assert ball.contains(projected, origin).all()
    if math.isnan(value):
        assert torch.equal(projected, origin)


def test_inside_points_are_not_moved() -> None:
    origin = images(1)
    x = (origin + 0.01 * torch.sign(torch.randn(origin.shape))).clamp(0, 1)
    assert torch.equal(Linf(0.02).project(x, origin), x)
    torch.testing.assert_close(L2(10.0).project(x, origin), x, rtol=0, atol=1e-7)


def test_projection_closed_form() -> None:
    origin = torch.full((1, 1, 1, 2), 0.5)
    x = torch.tensor([0.5 + 0.3, 0.5 + 0.4]).reshape(1, 1, 1, 2)
    torch.testing.assert_close(Linf(0.35).project(x, origin).flatten(), torch.tensor([0.8, 0.85]))
    torch.testing.assert_close(L1(0.5).project(x, origin).flatten(), torch.tensor([0.7, 0.8]))  # both 0.1 less
    torch.testing.assert_close(L1(0.1).project(x, origin).flatten(), torch.tensor([0.5, 0.6]))
    x = torch.tensor([0.9 + 0.5, 0.5 + 0.4]).reshape(
        1, 1, 1, 2
    )  # The box takes 0.4 of the first: the second keeps 0.2.
    torch.testing.assert_close(
        L1(0.3).project(x, torch.tensor([0.9, 0.5]).reshape(1, 1, 1, 2)).flatten(), torch.tensor([1.0, 0.7])
    )
    x = torch.tensor([0.5 + 0.3, 0.5 + 0.4]).reshape(1, 1, 1, 2)
    torch.testing.assert_close(L2(0.25).project(x, origin).flatten(), torch.tensor([0.65, 0.70]))  # 0.5 + (3,4)/20


@settings(deadline=None, max_examples=25)
@given(eps=st.floats(0, 20), seed=st.integers(0, 99), scale=st.sampled_from([0.01, 0.3, 3.0, 1e4]))
def test_l1_projection_is_the_nearest_point_of_ball_and_box(eps: float, seed: int, scale: float) -> None:
    """No point z of ball and box lies beyond the plane through p that u - p is normal to: <u - p, z - p> <= 0."""
    generator = torch.Generator().manual_seed(seed)
    origin, ball = images(seed), L1(eps)
    x = origin + scale * torch.randn(origin.shape, generator=generator)
    nearest = ball.project(x, origin)
    away = (x.double() - nearest.double()).flatten(1)

    def gain(z: Tensor) -> Tensor:
        return (away * (z.double() - nearest.double()).flatten(1)).sum(dim=1) / away.norm(dim=1).clamp(min=1e-9)

    for _ in range(20):
        other = (
            origin
            + torch.randn(origin.shape, generator=generator)
            * (torch.rand(origin.shape, generator=generator) < 0.1)
            * eps
        )
        other = other.clamp(0, 1)  # It only shortens: scaled into the ball it stays in the box.
        share = (eps / ball.distance(other, origin).clamp(min=1e-12)).clamp(max=1).float()
        assert (gain(origin + (other - origin) * share[:, None, None, None]) <= 2e-5 * max(1, eps)).all()
    order = away.abs().argsort(dim=1, descending=True)  # The best point of all: the largest values first, to the box.
    room = torch.where(away > 0, 1 - origin.flatten(1), origin.flatten(1).double()).gather(1, order)
    spent = torch.minimum(room, (eps - room.cumsum(dim=1) + room).clamp(min=0))
    best = origin.flatten(1).double().scatter_add(1, order, spent * away.gather(1, order).sign())
    assert (gain(best.reshape(origin.shape)) <= 2e-5 * max(1, eps)).all()


def test_l1_ball_of_many_small_steps_is_not_left_by_rounding() -> None:
    origin = torch.rand(2, 3, 100, 100, generator=torch.Generator().manual_seed(0))
    x = origin + 1e-3 * torch.randn(origin.shape, generator=torch.Generator().manual_seed(1))
    for eps in (0.01, 1.0, 10.0):
        distance = L1(eps).distance(L1(eps).project(x, origin), origin)
        assert (distance <= eps).all() and (distance >= 0.9 * eps - 0.02).all()


def test_l1_steps_are_sparse_and_go_where_the_box_lets_them() -> None:
    gradient = torch.arange(1.0, 301.0).reshape(1, 3, 10, 10)
    step = L1(1.0).ascent(gradient).flatten()
    assert torch.equal(step.nonzero().flatten(), torch.tensor([297, 298, 299]))
    torch.testing.assert_close(step[297:], torch.full((3,), 1 / 3))
    x = torch.full_like(gradient, 0.5)
    x.view(-1)[298:] = 1.0
    assert torch.equal(L1(1.0).ascent(gradient, x).flatten().nonzero().flatten(), torch.tensor([295, 296, 297]))
    assert torch.equal(L1(1.0).ascent(-gradient, x).flatten().nonzero().flatten(), torch.tensor([297, 298, 299]))


@pytest.mark.parametrize("kind", BALLS)
def test_contains_is_strict_about_ball_and_box(kind: type[Ball]) -> None:
    ball, origin = kind(0.1), torch.full((1, 1, 1, 1), 0.95)
    assert ball.contains(torch.full_like(origin, 0.95 - 0.1), origin).all()
    assert not ball.contains(torch.full_like(origin, 0.95 - 0.1002), origin).any()
    assert not ball.contains(torch.full_like(origin, 1.01), origin).any()
    assert not ball.contains(torch.full_like(origin, math.nan), origin).any()


@settings(deadline=None)
@given(kind=st.sampled_from(BALLS), eps=EPS, seed=st.integers(0, 99))
def test_random_start_is_inside_and_keyed(kind: type[Ball], eps: float, seed: int) -> None:
    ball, origin, keys = kind(eps), images(seed), sample_keys(seed, "start", range(4))
    start = ball.random_start(origin, keys)
    assert ball.contains(start, origin).all()
    order = torch.tensor([2, 0, 3, 1])
    assert torch.equal(ball.random_start(origin[order], keys[order]), start[order])


def test_random_start_fills_the_ball() -> None:
    origin, keys = torch.full((4000, 1, 1, 2), 0.5), sample_keys(3, "fill", range(4000))
    linf = (Linf(0.2).random_start(origin, keys) - origin).flatten()
    assert abs(float(linf.mean())) < 0.005
    assert float(linf.std()) == pytest.approx(0.2 / math.sqrt(3), rel=0.03)
    radius = L2(0.2).distance(L2(0.2).random_start(origin, keys), origin)  # uniform in a disc: E r = 2/3 eps
    assert float(radius.mean()) == pytest.approx(0.2 * 2 / 3, rel=0.03)
    assert float(radius.max()) > 0.19
    start = L1(0.2).random_start(origin, keys)  # Uniform in a square on its corner: E r = 2/3 eps, E |x| = eps / 3.
    radius = L1(0.2).distance(start, origin)
    assert float(radius.mean()) == pytest.approx(0.2 * 2 / 3, rel=0.03)
    assert float((start - origin).abs().mean()) == pytest.approx(0.2 / 3, rel=0.03)
    assert abs(float((start - origin).mean())) < 0.005


@settings(deadline=None)
@given(seed=st.integers(0, 99), scale=st.sampled_from([1e-30, 1.0, 1e30]))
def test_ascent_has_unit_norm_and_points_uphill(seed: int, scale: float) -> None:
    gradient = scale * torch.randn(3, 2, 4, 4, generator=torch.Generator().manual_seed(seed))
    zero = torch.zeros_like(gradient)
    for ball in (Linf(1.0), L2(1.0), L1(1.0)):
        step = ball.ascent(gradient)
        torch.testing.assert_close(ball.distance(step, zero), torch.ones(3, dtype=torch.float64), rtol=1e-6, atol=0)
        assert ((step * gradient).flatten(1).sum(1) > 0).all()
        assert torch.equal(ball.ascent(zero), zero)
    dual = gradient.flatten(1).abs().sum(1)  # max of <g, d> over the l_inf ball is the l_1 norm
    torch.testing.assert_close((Linf(1.0).ascent(gradient) * gradient).flatten(1).sum(1), dual)


@settings(deadline=None)
@given(eps=st.floats(0, 100, allow_nan=False))
def test_radius_text_is_exact(eps: float) -> None:
    text = format_eps(eps)
    assert set(text) <= set("abcdefghijklmnopqrstuvwxyz0123456789.+-")
    assert parse_eps(text) == eps


@pytest.mark.parametrize("k", range(1, 255))
def test_radius_text_of_levels(k: int) -> None:
    assert format_eps(k / 255) == (f"{k}of255" if k % 51 else str(k / 255))  # 51/255 is 0.2
    assert parse_eps(f"{k}of255") == k / 255
    assert parse_eps(format_eps((k + 0.5) / 255)) == (k + 0.5) / 255


def test_slugs_and_bad_radii() -> None:
    assert [b.slug for b in (Linf(8 / 255), L2(0.5), L2(1), Linf(0.0))] == ["linf-8of255", "l2-0.5", "l2-1", "linf-0"]
    assert [parse_ball(b.slug) for b in (Linf(8 / 255), L2(math.inf))] == [Linf(8 / 255), L2(math.inf)]
    assert Linf(8 / 255 + 1e-9).slug != Linf(8 / 255).slug
    for bad in (-1.0, math.nan, -math.inf, "8/255", None, True):
        with pytest.raises(ArgumentError, match="eps is"):
            Linf(bad)  # type: ignore[arg-type]
    assert format_eps(0.5 / 255) == "0.5of255"
    for text in ("", "8/255", "-1", "1e", "of255", "0x1"):
        with pytest.raises(ArgumentError, match="8of255"):
            parse_eps(text)


@pytest.mark.parametrize("ball", [Linf(0.1), L2(0.5), L1(2.0), L0(3.0), Lattice(Linf(8 / 255))], ids=lambda b: b.slug)
def test_an_empty_batch_is_a_batch(ball: Ball) -> None:
    nothing = torch.zeros(0, 3, 4, 4)
    assert ball.contains(nothing, nothing).shape == ball.distance(nothing, nothing).shape == (0,)
    assert (
        ball.project(nothing, nothing).shape
        == ball.random_start(nothing, sample_keys(0, "x", [])).shape
        == (0, 3, 4, 4)
    )
