"""Walks that take turns: no sample depends on another, so every call of a model can be full until few are left."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

Turn = np.ndarray
"""int64 (m,): the walks whose turn it is."""


def take_turns(
    count: int, width: int, step: Callable[[Turn], Turn], kind: Callable[[Turn], np.ndarray] | None = None
) -> None:
    """Call ``step(turn)``, which returns who of them goes on, until none of the walks 0 .. `count` - 1 does.

    At most `width` walks go together, and of these only those with the same ``kind(turn)`` (m,) as the first. Who has
    waited longest comes first, so that walks that go on have had the same number of turns, or one more or less.
    """
    waiting = np.arange(count)
    while len(waiting):
        turn = waiting[:width]
        if kind is not None:
            kinds = kind(turn)
            other = np.flatnonzero(kinds != kinds[0])
            turn = turn[: other[0]] if len(other) else turn
        waiting = np.concatenate([waiting[len(turn) :], step(turn)])
