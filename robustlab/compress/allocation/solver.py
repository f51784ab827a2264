"""One choice per layer with the least total loss within a budget: the multiple-choice knapsack problem, exactly."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from robustlab.core.errors import ArgumentError, invalid


def solve(costs: Sequence[Sequence[int]], losses: Sequence[Sequence[float]], budget: int) -> tuple[int, ...]:
    """Index of the choice of every layer: least sum of losses among all whose costs sum to at most `budget`.

    costs: whole numbers, one per choice of each layer; losses: finite numbers, like costs; both may be negative.

    A dynamic programme over the layers that keeps, of all partial sums, those that no other beats in cost and loss
    (Nemhauser and Ullmann 1969). Costs are integers and never rounded, so the budget holds and the result is optimal
    up to the rounding of the sums of losses. States are at most as many as there are different sums of costs.
    Equal sums: the cheaper one, then the one whose last layers have the earlier choice.
    Raises `ArgumentError` for lists that do not match, losses that are not finite, and a budget below the cheapest.
    """
    _check(costs, losses)
    rest = [0]  # the least that the layers from here on cost
    for layer in reversed(costs):
        rest.append(rest[-1] + min(layer))
    rest.reverse()
    if rest[0] > budget:
        raise ArgumentError(f"budget is {budget}; allowed: at least {rest[0]}, the cost of the cheapest choices")
    cost, loss = np.zeros(1, dtype=np.int64), np.zeros(1)
    history: list[tuple[np.ndarray, np.ndarray]] = []  # per layer: the choice of each state, and the state before it
    for index, (prices, values) in enumerate(zip(costs, losses, strict=True)):
        count = len(prices)
        sums = (cost[:, None] + np.asarray(prices, dtype=np.int64)).ravel()
        totals = (loss[:, None] + np.asarray(values, dtype=np.float64)).ravel()
        alive = np.flatnonzero(sums + rest[index + 1] <= budget)
        order = alive[np.lexsort((totals[alive], sums[alive]))]
        ordered = totals[order]
        best = np.minimum.accumulate(np.concatenate([[math.inf], ordered[:-1]]))
        kept = order[ordered < best]
        history.append((kept % count, kept // count))
        cost, loss = sums[kept], totals[kept]
    state = len(cost) - 1  # losses fall with cost, so the last state is the best
    chosen: list[int] = []
    for choices, parents in reversed(history):
        chosen.append(int(choices[state]))
        state = int(parents[state])
    return tuple(reversed(chosen))


def _check(costs: Sequence[Sequence[int]], losses: Sequence[Sequence[float]]) -> None:
    if [len(layer) for layer in costs] != [len(layer) for layer in losses] or not all(costs):
        raise invalid("losses", [len(layer) for layer in losses], f"as many as costs, at least one a layer: {costs}")
    for layer in costs:
        for cost in layer:
            if isinstance(cost, bool) or not isinstance(cost, int):
                raise invalid("cost", cost, "a whole number")
    for values in losses:
        for value in values:
            if not math.isfinite(value):
                raise invalid("loss", value, "a finite number")
