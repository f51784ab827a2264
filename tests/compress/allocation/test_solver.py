"""The exact solver, against all allocations there are."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from robustlab.compress.allocation import solve
from robustlab.core import ArgumentError

Layers = list[list[tuple[int, float]]]


def layers(costs: st.SearchStrategy[int], losses: st.SearchStrategy[float]) -> st.SearchStrategy[Layers]:
    layer = st.lists(st.tuples(costs, losses), min_size=1, max_size=4)
    return st.lists(layer, min_size=1, max_size=5)


def solved(found: Layers, budget: int) -> tuple[int, ...]:
    return solve([[c for c, _ in layer] for layer in found], [[v for _, v in layer] for layer in found], budget)


def brute_force(found: Layers, budget: int) -> float | None:
    """The least sum of losses of all allocations within the budget."""
    sums = [
        sum(loss for _, loss in picks)
        for picks in itertools.product(*found)
        if sum(cost for cost, _ in picks) <= budget
    ]
    return min(sums, default=None)


def check(found: Layers, budget: int) -> None:
    best = brute_force(found, budget)
    if best is None:
        least = sum(min(cost for cost, _ in layer) for layer in found)
        with pytest.raises(ArgumentError, match=f"at least {least}"):
            solved(found, budget)
        return
    picks = solved(found, budget)
    chosen = [layer[pick] for layer, pick in zip(found, picks, strict=True)]
    assert sum(cost for cost, _ in chosen) <= budget
    assert sum(loss for _, loss in chosen) == pytest.approx(best, abs=1e-9, rel=1e-12)


@settings(max_examples=200, deadline=None)
@given(layers(st.integers(-50, 50), st.floats(-10, 10, width=32)), st.integers(-150, 150))
def test_it_finds_what_a_search_of_all_finds(found: Layers, budget: int) -> None:
    check(found, budget)


@settings(max_examples=100, deadline=None)
@given(layers(st.integers(0, 3), st.sampled_from([0.0, 1.0, 2.0])), st.integers(0, 12))
def test_it_does_with_many_ties(found: Layers, budget: int) -> None:
    check(found, budget)
    if brute_force(found, budget) is not None:
        assert solved(found, budget) == solved(found, budget)


def test_costs_are_not_rounded() -> None:
    """One unit of a billion decides."""
    found: Layers = [[(10**9, 1.0), (10**9 + 1, 0.0)], [(10**9, 1.0), (10**9 + 1, 0.0)]]
    assert solved(found, 2 * 10**9) == (0, 0)
    assert sorted(solved(found, 2 * 10**9 + 1)) == [0, 1]
    assert solved(found, 2 * 10**9 + 2) == (1, 1)


def test_equal_losses_take_the_cheaper() -> None:
    assert solve([[5, 3, 4]], [[1.0, 1.0, 1.0]], 10) == (1,)


def test_a_network_of_many_layers_is_solved_at_once() -> None:
    costs = [[width * (index % 7 + 1) * 1009 for width in (2, 3, 4, 5, 6, 8)] for index in range(150)]
    losses = [[(index * 37 % 11 + 1) / 4**width for width in (2, 3, 4, 5, 6, 8)] for index in range(150)]
    uniform = sum(layer[2] for layer in costs)
    picks = solve(costs, losses, uniform)
    assert sum(layer[pick] for layer, pick in zip(costs, picks, strict=True)) <= uniform
    assert sum(v[pick] for v, pick in zip(losses, picks, strict=True)) < sum(values[2] for values in losses)


@pytest.mark.parametrize(
    ("costs", "losses", "said"),
    [
        ([[1, 2]], [[1.0]], "losses is"),
        ([[]], [[]], "at least one a layer"),
        ([[1.5]], [[1.0]], "cost is 1.5"),
        ([[True]], [[1.0]], "cost is True"),
        ([[1]], [[float("nan")]], "loss is nan"),
        ([[1]], [[float("inf")]], "loss is inf"),
    ],
)
def test_bad_lists_are_refused(costs: list[list[int]], losses: list[list[float]], said: str) -> None:
    with pytest.raises(ArgumentError, match=said):
        solve(costs, losses, 10)
