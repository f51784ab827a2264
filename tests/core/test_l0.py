"""The l0 ball: values are counted, the largest changes stay."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from robustlab.core import L0, ArgumentError
from robustlab.core.balls import parse_ball
from robustlab.core.keys import sample_keys


@settings(deadline=None, max_examples=25)
@given(count=st.integers(0, 80), seed=st.integers(0, 99), scale=st.sampled_from([0.1, 1.0, 1e30]))
def test_projection_keeps_the_largest_changes(count: int, seed: int, scale: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    origin = (torch.rand(4, 3, 5, 5, generator=generator) * 1.2 - 0.1).clamp(0, 1)
    x = origin + scale * torch.randn(origin.shape, generator=generator)
    ball, once = L0(count), L0(count).project(x, origin)
    assert ball.contains(once, origin).all() and torch.equal(ball.project(once, origin), once)
    clipped = (x.clamp(0, 1) - origin).abs().flatten(1)
    kept = (once != origin).flatten(1)
    assert torch.equal(once.flatten(1)[kept], x.clamp(0, 1).flatten(1)[kept])
    best = clipped.sort(dim=1, descending=True).values[:, :count].sum(dim=1)
    torch.testing.assert_close((once - origin).abs().flatten(1).sum(dim=1), best)


def test_what_is_not_finite_and_what_is_one_too_many() -> None:
    origin, x = torch.full((1, 3, 2, 2), 0.5), torch.full((1, 3, 2, 2), 0.5)
    x[0, :, 0, 0] = torch.tensor([math.nan, math.inf, 0.6])
    assert L0(1).project(x, origin)[0, :, 0, 0].tolist() == pytest.approx([0.5, 1.0, 0.5])
    assert L0(2).contains(L0(2).project(x, origin), origin).all()
    assert not L0(10**6).contains(x, origin).any()
    x[0, 0, 0, 0], x[0, 1, 0, 0] = 0.7, 0.8
    assert L0(3).contains(x, origin).all() and not L0(2).contains(x, origin).any()


def test_random_starts_change_so_many_values() -> None:
    origin, keys = torch.rand(5, 3, 4, 4), sample_keys(0, "test", range(5))
    start = L0(7).random_start(origin, keys)
    assert (L0(7).distance(start, origin) == 7).all() and L0(7).contains(start, origin).all()
    assert torch.equal(start[2:3], L0(7).random_start(origin[2:3], keys[2:3]))
    assert torch.equal(L0(0).random_start(origin, keys), origin)


def test_the_steepest_step_is_one_value() -> None:
    gradient = torch.tensor([[0.1, -3.0, 2.0], [0.0, 0.0, 0.0]]).reshape(2, 3, 1, 1)
    assert L0(1).ascent(gradient).flatten(1).tolist() == [[0.0, -1.0, 0.0], [0.0, 0.0, 0.0]]


def test_names_and_whole_numbers() -> None:
    assert parse_ball("l0-24") == L0(24) and L0(24).slug == "l0-24" and parse_ball("l0") == L0(math.inf)
    for bad in (1.5, -1, math.nan):
        with pytest.raises(ArgumentError, match="eps is"):
            L0(bad)
