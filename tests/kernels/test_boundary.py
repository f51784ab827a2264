"""FAB's step in one pass: the same values as the torch operations, and the same bits on every processor."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from robustlab.attacks.minimum_norm import _hyperplane
from robustlab.core.errors import ArgumentError
from robustlab.kernels import dispatch
from robustlab.kernels.boundary import BOUNDARY_NORMS, boundary_step, can_step

COMPILED = [name for name in dispatch.available() if name != "reference"]
needs_kernels = pytest.mark.skipif(not COMPILED, reason="no compiled kernels")


def rows(count: int, values: int, seed: int, far: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """x, origin, normal and gap; some slopes are 0, some values lie on the box, one normal is 0 altogether."""
    draw = torch.Generator().manual_seed(seed)
    origin = torch.rand(count, values, generator=draw).mul(1.2).sub(0.1).clamp(0, 1)
    x = (origin + 0.05 * torch.randn(count, values, generator=draw)).clamp(0, 1)
    normal = torch.randn(count, values, generator=draw) / values**0.5
    normal[:, ::5] = 0
    normal[-1] = 0
    return x, origin, normal, far * torch.randn(count, generator=draw)


@needs_kernels
@settings(max_examples=20, deadline=None)
@given(
    st.sampled_from(BOUNDARY_NORMS),
    st.sampled_from([1, 3, 15, 16, 17, 511, 512, 700]),
    st.integers(0, 2**16),
    st.sampled_from([0.0, 0.01, 0.3, 3.0, 100.0]),
)
def test_all_backends_take_the_step_of_the_torch_operations(norm: str, values: int, seed: int, far: float) -> None:
    given_rows = rows(5, values, seed, far)
    with dispatch.use_backend("reference"):
        assert not can_step(norm, given_rows[0])
        expected = _hyperplane.boundary_step(norm, *given_rows, alpha_max=0.1, eta=1.05)
    found = {}
    for name in COMPILED:
        with dispatch.use_backend(name):
            assert can_step(norm, given_rows[0])
            found[name] = boundary_step(norm, *given_rows, alpha_max=0.1, eta=1.05)
    for step in found.values():
        torch.testing.assert_close(step, expected, rtol=1e-5, atol=2e-5)
        assert torch.equal(step, found[COMPILED[0]])


@needs_kernels
def test_a_step_from_the_origin_lands_beyond_the_boundary_by_eta() -> None:
    x, _, normal, gap = (values[:-1] for values in rows(6, 64, 3, 0.02))
    for norm in BOUNDARY_NORMS:
        there = boundary_step(norm, x, x, normal, gap, alpha_max=0.1, eta=1.0)
        torch.testing.assert_close((normal * (there - x)).sum(dim=1), -gap, rtol=1e-4, atol=1e-6)


@needs_kernels
def test_the_number_of_threads_and_the_neighbours_change_nothing() -> None:
    given_rows = rows(9, 600, 1, 0.5)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        alone = boundary_step("linf", *given_rows, alpha_max=0.1, eta=1.05)
        torch.set_num_threads(2)
        assert torch.equal(boundary_step("linf", *given_rows, alpha_max=0.1, eta=1.05), alone)
    finally:
        torch.set_num_threads(before)
    part = boundary_step("linf", *(values[4:6] for values in given_rows), alpha_max=0.1, eta=1.05)
    assert torch.equal(part, alone[4:6])


@needs_kernels
def test_what_is_not_a_number_ends_and_stays_in_its_row() -> None:
    x, origin, normal, gap = rows(4, 33, 2, 0.5)
    clean = boundary_step("l2", x, origin, normal, gap, alpha_max=0.1, eta=1.05)
    normal[0, 3], gap[1] = torch.nan, torch.inf
    found = boundary_step("l2", x, origin, normal, gap, alpha_max=0.1, eta=1.05)
    assert torch.equal(found[2:], clean[2:])


@needs_kernels
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"norm_name": "l1"}, "norm_name"),
        ({"x": torch.zeros(2, 3, 4)}, "x is .* a float32 tensor"),
        ({"origin": torch.zeros(2, 4)}, "origin is .* a float32 tensor"),
        ({"normal": torch.zeros(2, 3, dtype=torch.float64)}, "normal is .* a float32 tensor"),
        ({"gap": torch.zeros(3)}, "gap is .* a float32 tensor"),
    ],
)
def test_what_it_cannot_take_is_named(change: dict[str, object], message: str) -> None:
    arguments: dict[str, object] = {
        "norm_name": "linf",
        "x": torch.zeros(2, 3),
        "origin": torch.zeros(2, 3),
        "normal": torch.zeros(2, 3),
        "gap": torch.zeros(2),
    }
    with pytest.raises(ArgumentError, match=message):
        boundary_step(**(arguments | change), alpha_max=0.1, eta=1.05)  # type: ignore[arg-type]


@needs_kernels
def test_no_rows_are_no_work() -> None:
    empty = torch.zeros(0, 3)
    assert boundary_step("linf", empty, empty, empty, torch.zeros(0), alpha_max=0.1, eta=1.05).shape == (0, 3)
