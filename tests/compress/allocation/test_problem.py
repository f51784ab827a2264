"""Problems, budgets as people say them, and the file that keeps sensitivities."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from robustlab.compress.allocation import Bits, Budget, Ledger, Problem, parse_budget
from robustlab.core import ArgumentError, StoreError

WIDTHS = (2, 3, 4, 6, 8)
SIZES = {"a": 10, "b": 40, "c": 200}


def problem(losses: dict[str, list[float]] | None = None, *, fixed: int = 7) -> Problem:
    """Three free layers and a last one of 8 bits; costs are width times size, like bytes."""
    costs: dict[str, dict[Bits, int]] = {n: {(w, w): w * size for w in WIDTHS} for n, size in SIZES.items()}
    costs["end"] = {(8, 8): 80}
    values = losses or {n: [1 / 4**w for w in WIDTHS] for n in SIZES}
    found: dict[str, dict[Bits, float]] = {
        n: dict(zip(costs[n], row, strict=True)) for n, row in {**values, "end": [0.5]}.items()
    }
    return Problem(costs, found, fixed)


LOSSES = st.fixed_dictionaries(
    {n: st.lists(st.floats(0, 5), min_size=len(WIDTHS), max_size=len(WIDTHS)) for n in SIZES}
)


@settings(max_examples=40, deadline=None)
@given(LOSSES, st.sampled_from(WIDTHS), st.integers(0, 2**31))
def test_the_solution_is_no_worse_than_uniform_or_random(losses: dict[str, list[float]], width: int, seed: int) -> None:
    made = problem(losses)
    uniform = made.uniforms()[width, width]
    budget = made.cost(uniform)
    found = made.solve(budget)
    assert made.cost(found) <= budget
    assert made.loss(found) <= made.loss(uniform) + 1e-12
    drawn = made.random(budget, seed)
    assert made.cost(drawn) <= budget
    assert made.loss(found) <= made.loss(drawn) + 1e-12
    assert drawn == made.random(budget, seed) and found == made.solve(budget)


def test_a_random_allocation_leaves_no_room_for_a_dearer_layer() -> None:
    made = problem()
    budget = made.cost(made.uniforms()[4, 4])
    drawn = [made.random(budget, seed) for seed in range(20)]
    assert len({tuple(found.items()) for found in drawn}) >= 3
    for found in drawn:
        for name, bits in found.items():
            dearer = [b for b in made.costs[name] if b > bits]
            if dearer:
                assert made.cost({**found, name: min(dearer)}) > budget


def test_fixed_layers_cost_and_are_not_decided() -> None:
    made = problem(fixed=1000)
    assert made.free == ("a", "b", "c")
    assert made.cheapest == 1000 + 80 + 2 * 250
    assert made.solve(made.cheapest) == {"a": (2, 2), "b": (2, 2), "c": (2, 2), "end": (8, 8)}
    assert made.cost(made.uniforms()[8, 8]) == 1000 + 80 + 8 * 250
    with pytest.raises(ArgumentError, match="budget is 1579 bytes; allowed: at least 1580 bytes"):
        made.solve(made.cheapest - 1)


def test_the_best_uniform_within_a_budget() -> None:
    made = problem()
    found = made.uniform_within(made.cost(made.uniforms()[6, 6]) + 1)
    assert found is not None and found[0] == (6, 6)
    assert made.uniform_within(made.cheapest - 1) is None


def test_the_order_of_the_losses_does_not_matter() -> None:
    made = problem()
    turned = {n: dict(reversed(layer.items())) for n, layer in reversed(made.losses.items())}
    budget = made.cost(made.uniforms()[3, 3])
    assert Problem(made.costs, turned, made.fixed).solve(budget) == made.solve(budget)


def test_what_does_not_fit_together_is_refused() -> None:
    with pytest.raises(ArgumentError, match="losses"):
        Problem({"a": {(2, 2): 1}}, {"a": {(3, 3): 1.0}})
    with pytest.raises(ArgumentError, match="at least one layer"):
        Problem({}, {})


@pytest.mark.parametrize(
    ("text", "budget"),
    [
        ("4bits", Budget(4.0, "bits")),
        ("3.5bits", Budget(3.5, "bits")),
        ("140392", Budget(140392.0, "bytes")),
        ("140 kB", Budget(140_000.0, "bytes")),
        ("0.14MB", Budget(140_000.0, "bytes")),
        ("300us", Budget(300_000.0, "ns")),
        ("0.3ms", Budget(300_000.0, "ns")),
        (".8x", Budget(0.8, "share")),
    ],
)
def test_budgets_are_read(text: str, budget: Budget) -> None:
    assert parse_budget(text) == budget


@pytest.mark.parametrize("text", ["", "four", "-3bits", "0bits", "4 bit", "1e3", "nanx", "0.8xx"])
def test_other_budgets_are_refused(text: str) -> None:
    with pytest.raises(ArgumentError, match=r"budget is .*4bits"):
        parse_budget(text)


def test_budgets_become_costs() -> None:
    made = problem(fixed=0)
    assert Budget(4, "bits").within(made) == 80 + 4 * 250
    assert Budget(5, "bits").within(made) == 80 + 5 * 250  # between 4 and 6, and so the mean over all weights
    assert Budget(2.5, "bits").within(made) == 80 + 625
    assert Budget(0.5, "share").within(made) == (80 + 8 * 250) // 2
    assert Budget(1234, "bytes").within(made) == 1234
    with pytest.raises(ArgumentError, match="from 2 to 8 bits"):
        Budget(9, "bits").within(made)
    with pytest.raises(ArgumentError, match="a size, as 140kB"):
        Budget(1234, "ns").within(made)
    with pytest.raises(ArgumentError, match="at least 580 bytes"):
        Budget(0.1, "share").within(made)


def test_of_several_activation_widths_the_bits_mean_the_dearest() -> None:
    costs: dict[str, dict[Bits, int]] = {"a": {(4, 4): 10, (4, 8): 12, (8, 8): 20}}
    made = Problem(costs, {"a": dict.fromkeys(costs["a"], 0.0)}, unit="ns")
    assert Budget(4, "bits").within(made) == 12


def test_a_ledger_keeps_numbers_for_its_fingerprint_alone(tmp_path: Path) -> None:
    path = tmp_path / "kept.json"
    first = Ledger(path, "one")
    assert first.get("a", "w4a4") is None and not path.exists()
    first.put("a", "w4a4", 0.1)
    assert Ledger(path, "one").get("a", "w4a4") == 0.1
    assert Ledger(path, "two").get("a", "w4a4") is None
    assert Ledger(None, "one").get("a", "w4a4") is None
    assert [p.name for p in tmp_path.iterdir()] == ["kept.json"]


@pytest.mark.parametrize(
    "content",
    [
        "no json",
        "[]",
        '{"mine": 1}',
        '{"schema": 1, "fingerprint": "one", "values": []}',
        '{"schema": 1, "fingerprint": "one", "values": {"a": 3}}',
        '{"schema": 1, "fingerprint": "one", "values": {"a": {"w4a4": "x"}}}',
        '{"schema": 1, "fingerprint": "one", "values": {"a": {"w4a4": NaN}}}',
    ],
)
def test_a_file_that_is_no_ledger_is_left_alone(content: str, tmp_path: Path) -> None:
    path = tmp_path / "kept.json"
    path.write_text(content)
    with pytest.raises(StoreError, match="no file of sensitivities"):
        Ledger(path, "one")
    assert path.read_text() == content


def test_a_ledger_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="cannot be written"):
        Ledger(tmp_path / "no" / "kept.json", "one").put("a", "w4a4", 0.1)


def test_a_ledger_is_plain_json(tmp_path: Path) -> None:
    path = tmp_path / "kept.json"
    Ledger(path, "one").put("a", "w4a4", 0.1)
    assert json.loads(path.read_text()) == {"schema": 1, "fingerprint": "one", "values": {"a": {"w4a4": 0.1}}}
