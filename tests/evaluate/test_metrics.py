from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from robustlab.evaluate.metrics import Z95, Tally, wilson
from robustlab.evaluate.outcomes import Outcomes


def test_wilson_at_the_ends_has_a_closed_form() -> None:
    for n in (1, 10, 500):
        z2 = Z95 * Z95
        assert wilson(0, n) == pytest.approx((0.0, z2 / (n + z2)), abs=1e-12)
        assert wilson(n, n) == pytest.approx((n / (n + z2), 1.0), abs=1e-12)


def test_wilson_known_values() -> None:
    # Newcombe 1998, table I, method 3: 81/263, 15/148, 0/20, 1/29.
    known = {
        (81, 263): (0.2553, 0.3662),
        (15, 148): (0.0624, 0.1605),
        (0, 20): (0.0, 0.1611),
        (1, 29): (0.0061, 0.1718),
    }
    for (correct, n), interval in known.items():
        assert wilson(correct, n) == pytest.approx(interval, abs=5e-5)


@given(st.integers(1, 10_000), st.data())
def test_wilson_bounds_solve_the_score_equation(n: int, data: st.DataObject) -> None:
    correct = data.draw(st.integers(0, n))
    low, high = wilson(correct, n)
    share = correct / n
    assert 0 <= low <= share <= high <= 1
    for bound in (low, high):
        if 0 < bound < 1:
            assert abs(share - bound) == pytest.approx(Z95 * math.sqrt(bound * (1 - bound) / n), rel=1e-6, abs=1e-9)
    mirrored = wilson(n - correct, n)
    assert mirrored == pytest.approx((1 - high, 1 - low), abs=1e-12)


def test_nothing_measured_says_nothing() -> None:
    assert wilson(0, 0) == (0.0, 1.0)


def outcomes(correct: list[bool], attacked: list[bool], l2: list[float]) -> Outcomes:
    n = len(correct)
    return Outcomes(
        ids=np.arange(n),
        prediction=np.zeros(n, np.int32),
        correct=np.array(correct),
        confidence=np.ones(n, np.float32),
        linf=np.array(l2, np.float32) / 2,
        l2=np.array(l2, np.float32),
        attacked=np.array(attacked),
    )


def test_tally_adds_shards() -> None:
    tally = Tally("m", "pgd", "exact", adversarial=True)
    tally.add(outcomes([True, False], [True, True], [1.0, 3.0]), 0.5)
    assert tally.row()["status"] == "done"
    tally.add(outcomes([True, True], [True, False], [0.0, 0.0]), 0.25)
    row = tally.row()
    assert (row["n"], row["correct"], row["accuracy"], row["value"]) == (4, 3, 0.75, 0.75)
    assert (row["ci_low"], row["ci_high"]) == wilson(3, 4)
    assert (row["status"], row["not_attacked"], row["seconds"]) == ("not_attacked", 1, 0.75)
    assert (row["linf_max"], row["l2_mean"]) == (1.5, 1.0)


def test_only_attacks_can_fail_to_attack() -> None:
    tally = Tally("m", "clean", "none", adversarial=False)
    tally.add(outcomes([True], [False], [0.0]), 0.1)
    assert (tally.row()["status"], tally.row()["not_attacked"]) == ("done", 0)
