"""APGD's step in one pass: the published one, with the same bits on every processor, and nothing else touched."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from robustlab.core import Linf
from robustlab.core.errors import ArgumentError
from robustlab.kernels import dispatch
from robustlab.kernels.ascent import Points, ascent_step, can_ascend

COMPILED = [name for name in dispatch.available() if name != "reference"]
needs_kernels = pytest.mark.skipif(not COMPILED, reason="no compiled kernels")
EPS, MOMENTUM = 0.1, 0.75
BALL = Linf(EPS)


def drawn(count: int, values: int, seed: int) -> tuple[Points, Tensor]:
    """Points in the ball, some on its edge or that of the box, and a gradient with zeros."""
    draw = torch.Generator().manual_seed(seed)
    origin = torch.rand(count, values, generator=draw).mul(1.2).sub(0.1).clamp(0, 1)
    near = [BALL.project(origin + 0.15 * torch.randn(count, values, generator=draw), origin) for _ in range(3)]
    slopes = torch.randn(2, count, values, generator=draw)
    slopes[:, :, ::5] = 0
    return Points(near[0], near[1], near[2], slopes[0].clone(), origin), slopes[1].clone()


def marks(count: int, seed: int) -> dict[str, Tensor]:
    """All choices of better, back and first come up."""
    draw = torch.Generator().manual_seed(seed + 1)
    flags = torch.randint(0, 2, (3, count), generator=draw).bool()
    length = torch.rand(count, generator=draw) * 2 * EPS
    return {"better": flags[0], "back": flags[1], "first": flags[2], "length": length}


def expected(points: Points, gradient: Tensor, better: Tensor, back: Tensor, first: Tensor, length: Tensor) -> Points:
    """Algorithm 1, lines 7 to 14, for every row, in doubles."""
    x, old, best, slope, origin = (t.double() for t in points.tensors())
    gradient = gradient.double()
    best = torch.where(better[:, None], x, best)
    slope = torch.where(better[:, None], gradient, slope)
    start, along = torch.where(back[:, None], best, x), torch.where(back[:, None], slope, gradient)
    step = BALL.project(start + length.double()[:, None] * along.sign(), origin)
    drawn_on = BALL.project(start + MOMENTUM * (step - start) + (1 - MOMENTUM) * (start - old), origin)
    return Points(torch.where(first[:, None], step, drawn_on), start, best, slope, origin)


@needs_kernels
@settings(max_examples=25, deadline=None)
@given(st.sampled_from([1, 15, 16, 17, 255, 256, 257, 600]), st.integers(0, 2**16))
def test_all_backends_take_the_published_step(values: int, seed: int) -> None:
    points, gradient = drawn(9, values, seed)
    rows = torch.randperm(9, generator=torch.Generator().manual_seed(seed))[:6]
    chosen = marks(6, seed)
    wanted = expected(Points(*(t[rows] for t in points.tensors())), gradient[:6], **chosen)
    found = []
    for name in COMPILED:
        moved = Points(*(t.clone() for t in points.tensors()))
        with dispatch.use_backend(name):
            assert can_ascend(points.x)
            ascent_step(moved, rows, gradient[:6], **chosen, eps=EPS, momentum=MOMENTUM)
        found.append(moved)
    others = torch.ones(9, dtype=torch.bool).index_fill_(0, rows, False)
    for moved in found:
        for now, before, then in zip(moved.tensors(), points.tensors(), wanted.tensors(), strict=True):
            torch.testing.assert_close(now[rows].double(), then, rtol=0, atol=3e-7)
            assert torch.equal(now[others], before[others])
        assert bool(BALL.contains(moved.x, moved.origin).all())
        assert all(torch.equal(a, b) for a, b in zip(moved.tensors(), found[0].tensors(), strict=True))


@needs_kernels
def test_what_is_not_a_number_stays_out_of_the_iterate() -> None:
    points, gradient = drawn(3, 40, 5)
    gradient[0, 3] = torch.nan
    chosen = {**marks(3, 0), "back": torch.zeros(3, dtype=torch.bool)}
    ascent_step(points, torch.arange(3), gradient, **chosen, eps=EPS, momentum=MOMENTUM)
    assert bool(BALL.contains(points.x, points.origin).all())


@needs_kernels
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"old": torch.zeros(2, 4)}, "old is .* a float32 tensor"),
        ({"origin": torch.zeros(3, 2).T}, "origin is .* a contiguous tensor"),
        ({"gradient": torch.zeros(1, 4)}, "gradient is .* a float32 tensor"),
        ({"rows": torch.zeros(1, dtype=torch.int32)}, "rows is .* a int64 tensor"),
        ({"better": torch.zeros(1)}, "better is .* a bool tensor"),
        ({"length": torch.zeros(2)}, "length is .* a float32 tensor"),
    ],
)
def test_what_it_cannot_take_is_named(change: dict[str, Tensor], message: str) -> None:
    points = Points(*(torch.zeros(2, 3) for _ in range(5)))
    flags = {name: torch.zeros(1, dtype=torch.bool) for name in ("better", "back", "first")}
    given_here = {"rows": torch.zeros(1, dtype=torch.int64), "gradient": torch.zeros(1, 3), "length": torch.zeros(1)}
    points = replace(points, **{name: value for name, value in change.items() if name in ("old", "origin")})
    rest = {name: value for name, value in change.items() if name not in ("old", "origin")}
    with pytest.raises(ArgumentError, match=message):
        ascent_step(points, **(flags | given_here | rest), eps=EPS, momentum=MOMENTUM)


@needs_kernels
@pytest.mark.parametrize("rows", [[-1], [2], [1, 1]])
def test_rows_that_are_not_there_or_come_twice_are_refused(rows: list[int]) -> None:
    points = Points(*(torch.zeros(2, 3) for _ in range(5)))
    flags = {name: torch.zeros(len(rows), dtype=torch.bool) for name in ("better", "back", "first")}
    with pytest.raises(ValueError, match="a row that"):
        ascent_step(
            points,
            torch.tensor(rows),
            torch.zeros(len(rows), 3),
            **flags,
            length=torch.zeros(len(rows)),
            eps=EPS,
            momentum=MOMENTUM,
        )
