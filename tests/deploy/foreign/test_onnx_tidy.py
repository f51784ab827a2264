"""Grids moved to where there is least to round: the same values, and a gradient through them."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("onnxruntime")

from robustlab.deploy.foreign.onnx_tidy import with_fewer_roundings
from robustlab.models.graph import GraphNetwork, GraphSpec, Step

FIRST = {"scale": 0.25, "zero_point": -128, "low": -128, "high": 127}
SECOND = {"scale": 0.4, "zero_point": 3, "low": -128, "high": 127}
POOL = {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1], "ceil_mode": 1}


def step(op: str, inputs: list[str], output: str, **attributes: Any) -> Step:
    return Step(op=op, name=output, inputs=inputs, outputs=[output], attributes=attributes)


def graph(*steps: Step) -> GraphSpec:
    return GraphSpec(input="x", output=steps[-1].outputs[0], steps=list(steps), layers={}, constants={})


def ops(spec: GraphSpec) -> list[str]:
    return [made.op for made in spec.steps]


def run(spec: GraphSpec, x: torch.Tensor) -> torch.Tensor:
    result: torch.Tensor = GraphNetwork(spec)(x)
    return result


PARTS = [step("Grid", ["x"], "a", **FIRST), step("Relu", ["x"], "r"), step("Grid", ["r"], "b", **SECOND)]
CASES = {
    "pool": graph(step("Grid", ["x"], "a", **FIRST), step("MaxPool", ["a"], "p", **POOL)),
    "two pools": graph(
        step("Grid", ["x"], "a", **FIRST), step("MaxPool", ["a"], "p", **POOL), step("MaxPool", ["p"], "q", **POOL)
    ),
    "concat": graph(*PARTS, step("Concat", ["a", "b"], "c", axis=1), step("Grid", ["c"], "g", **SECOND)),
    "concat, pool": graph(
        *PARTS, step("Concat", ["a", "b"], "c", axis=1), step("Grid", ["c"], "g", **SECOND),
        step("MaxPool", ["g"], "p", **POOL),
    ),
    "read twice": graph(
        step("Grid", ["x"], "a", **FIRST), step("MaxPool", ["a"], "p", **POOL), step("Concat", ["a", "a"], "c", axis=1),
        step("MaxPool", ["c"], "d", **POOL), step("Concat", ["p", "d"], "e", axis=1),
    ),
    "concat read twice": graph(
        *PARTS, step("Concat", ["a", "b"], "c", axis=1), step("Grid", ["c"], "g", **SECOND),
        step("Concat", ["c", "g"], "e", axis=1),
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 1 << 30), spread=st.sampled_from([0.1, 3.0, 100.0]))
def test_values_stay_equal_bit_for_bit(case: str, seed: int, spread: float) -> None:
    x = spread * torch.randn(2, 3, 7, 7, generator=torch.Generator().manual_seed(seed))
    x[0, 0, 0, 0] = torch.nan
    plain, tidy = run(CASES[case], x), run(with_fewer_roundings(CASES[case]), x)
    assert torch.equal(plain.nan_to_num(1e9), tidy.nan_to_num(1e9))


def test_a_pool_comes_first_and_a_concatenation_last() -> None:
    assert ops(with_fewer_roundings(CASES["pool"])) == ["MaxPool", "Grid"]
    assert ops(with_fewer_roundings(CASES["two pools"])) == ["MaxPool", "MaxPool", "Grid"]
    assert ops(with_fewer_roundings(CASES["concat"])) == ["Grid", "Relu", "Grid", "Grid", "Concat"]
    assert ops(with_fewer_roundings(CASES["concat, pool"]))[-2:] == ["MaxPool", "Grid"]


@pytest.mark.parametrize("case", ["read twice", "concat read twice"])
def test_what_others_read_stays(case: str) -> None:
    assert with_fewer_roundings(CASES[case]) == CASES[case]


def test_grids_of_channels_stay() -> None:
    spec = graph(step("Grid", ["x", "s", "z"], "a", low=-128, high=127, axis=1), step("MaxPool", ["a"], "p", **POOL))
    spec = spec.model_copy(update={"constants": {"s": ("float32", [3]), "z": ("float32", [3])}})
    assert with_fewer_roundings(spec) == spec


def test_the_gradient_goes_to_the_largest_value_before_rounding() -> None:
    x = torch.tensor([[0.30, 0.26], [0.31, 0.2]]).reshape(1, 1, 2, 2).requires_grad_()  # all of them round to 0.25
    tidy = with_fewer_roundings(
        graph(
            step("Grid", ["x"], "a", **FIRST),
            step("MaxPool", ["a"], "p", kernel_shape=[2, 2], strides=[2, 2], pads=[0, 0, 0, 0]),
        )
    )
    run(tidy, x).sum().backward()
    assert x.grad is not None
    assert x.grad.flatten().tolist() == [0, 0, 1, 0]


def test_each_value_is_made_once_and_before_it_is_read() -> None:
    for spec in CASES.values():
        known = {"x"}
        for made in with_fewer_roundings(spec).steps:
            assert known.issuperset(made.inputs)
            known.update(made.outputs)
        counts = Counter(name for made in with_fewer_roundings(spec).steps for name in made.outputs)
        assert set(counts.values()) == {1}
