"""Square's proposals in one pass: the bits of the torch operations, for every shape and colour."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from robustlab.attacks.black_box._squares import DRAW_LIMIT, DRAWS, LinfMoves
from robustlab.core import Lattice, Linf
from robustlab.core.errors import ArgumentError
from robustlab.core.keys import sample_keys
from robustlab.kernels import dispatch
from robustlab.kernels.squares import NUMBERS, can_paint, paint_squares

COMPILED = [name for name in dispatch.available() if name != "reference"]
needs_kernels = pytest.mark.skipif(not COMPILED, reason="no compiled kernels")


@needs_kernels
@settings(max_examples=30, deadline=None)
@given(st.sampled_from([(1, 1, 1), (1, 4, 3), (3, 8, 8), (4, 5, 9), (63, 2, 2)]), st.integers(0, 2**16), st.booleans())
def test_proposals_are_those_of_the_torch_operations(shape: tuple[int, int, int], seed: int, lattice: bool) -> None:
    draw = torch.Generator().manual_seed(seed)
    origin = torch.randint(0, 256, (7, *shape), generator=draw).float() / 255
    ball = Linf(8 / 255)
    moves = LinfMoves(Lattice(ball) if lattice else ball, origin)
    best = moves.start(torch.arange(7), sample_keys(seed, "start", range(7)))
    at = torch.randperm(7, generator=draw)[:5]
    numbers = torch.randint(0, DRAW_LIMIT, (5, DRAWS), generator=draw)
    side = int(torch.randint(1, min(shape[1:]) + 1, (), generator=draw))
    assert can_paint(best)
    painted = moves.propose(best, at, numbers, side)
    with dispatch.use_backend("reference"):
        assert not can_paint(best)
        assert torch.equal(painted, moves.propose(best, at, numbers, side))
    changed = (painted != best[at]).flatten(1).sum(dim=1)
    assert bool((changed > 0).all()) and int(changed.max()) <= shape[0] * side * side


def arguments() -> dict[str, Tensor | int]:
    """Of a call that is in order."""
    images = {name: torch.zeros(2, 3, 4, 5) for name in ("best", "low", "high")}
    rows, numbers = torch.tensor([1]), torch.zeros(1, NUMBERS, dtype=torch.int64)
    return {**images, "rows": rows, "numbers": numbers, "side": 4}


@needs_kernels
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"best": torch.zeros(2, 3)}, "best is .* a float32 tensor"),
        ({"low": torch.zeros(2, 3, 5, 4)}, "low is .* a float32 tensor"),
        ({"high": torch.zeros(2, 3, 4, 5, dtype=torch.float64)}, "high is .* a float32 tensor"),
        ({"rows": torch.zeros(1)}, "rows is .* a int64 tensor"),
        ({"numbers": torch.zeros(1, 3, dtype=torch.int64)}, "numbers is .* a int64 tensor"),
        ({"side": 5}, "side is 5"),
        ({"side": 0}, "side is 0"),
    ],
)
def test_what_it_cannot_take_is_named(change: dict[str, Tensor], message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        paint_squares(**(arguments() | change))  # type: ignore[arg-type]


@needs_kernels
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rows": torch.tensor([2])}, "a row that is not there"),
        ({"numbers": torch.full((1, NUMBERS), -1)}, "a number outside"),
        ({"numbers": torch.full((1, NUMBERS), DRAW_LIMIT)}, "a number outside"),
    ],
)
def test_values_that_lead_outside_are_refused(change: dict[str, Tensor], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        paint_squares(**(arguments() | change))  # type: ignore[arg-type]
