"""The benchmark: what is timed is right, shares follow from the figures, and the command writes what it shows."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from robustlab.bench import Failure, Figure, bench_kernels, kernel_table, own, peers
from robustlab.bench.peers.check import checked
from robustlab.bench.shapes import ConvCase, LinearCase, operands, product
from robustlab.bench.table import columns, time_text
from robustlab.bench.tasks import Task, bound_by, measure, shortest, wall
from robustlab.cli.app import run
from robustlab.core.errors import ArgumentError
from robustlab.kernels import available, use_backend

SMALL = ConvCase(32, 7)
PEAKS = {"avx2_bits": 1e9, "avx512_bits": 4e9, "clock": 1e9}


def test_samples_take_turns_and_the_shortest_counts() -> None:
    calls: list[str] = []

    def sample(name: str, times: Iterator[float]) -> float:
        calls.append(name)
        return next(times)

    # of the two runs in a round the first only warms up
    first, second = iter([1.0, 3.0, 1.0, 2.0, 1.0, 4.0]), iter([0.0, 7.0, 0.0, 6.0, 0.0, 5.0])
    assert shortest([lambda: sample("a", first), lambda: sample("b", second)], 0.0, rounds=3) == [2.0, 5.0]
    assert calls == ["a", "a", "b", "b"] * 3


def test_a_chain_is_the_difference_shared_among_its_layers() -> None:
    task = Task("g", "c", "n", lambda: 9.0, 1e9, "avx2_bits", lambda: 1.0, 4)
    (figure,), failures = measure([task], 2, PEAKS, 0.0)
    assert not failures
    assert figure.seconds == 2.0
    assert figure.share == pytest.approx(1e9 / 2.0 / (1e9 * 2))


@pytest.mark.parametrize(("many", "once"), [(1.0, 1.5), (1.0, 1.0), (1.0, 1.0 - 1e-4)])
def test_a_difference_that_cannot_be_is_not_a_figure(many: float, once: float) -> None:
    task = Task("g", "c", "n", lambda: many, 1e9, "avx2_bits", lambda: once, 4)
    figures, (failure,) = measure([task], 2, PEAKS, 0.0)
    assert figures == [] and failure.name == "n" and "difference" in failure.reason


@pytest.mark.parametrize(
    ("peak", "rate"), [("avx2_bits", 1e9), ("bits", 4e9), ("codes", None), (None, None), ("clock", 1e9)]
)
def test_a_peak_is_named_or_the_best_of_its_kind(peak: str | None, rate: float | None) -> None:
    assert bound_by(peak, PEAKS) == rate


@pytest.mark.parametrize("case", [SMALL, LinearCase(64, 3)])
def test_operands_are_exact(case: ConvCase | LinearCase) -> None:
    values = operands(case, (-7, 7), (-7, 7))
    assert torch.equal(product(case, values.x, values.weight).double(), values.exact)
    signs = operands(case, (-1, 0), (-1, 0), odd=True)
    assert set(signs.x.unique().tolist()) == set(signs.weight.unique().tolist()) == {-1.0, 1.0}


@pytest.mark.parametrize("backend", available())
def test_what_is_timed_of_ours_is_right(backend: str) -> None:
    with use_backend(backend):
        found = [*own.tasks(SMALL), *own.tasks(LinearCase(64, 3))]
    assert [task for task in found if isinstance(task, Failure)] == []
    assert {task.group for task in found} == {"binary", "packing", "w1a2", "w2a2", "w1a8", "w4a8", "w8a8"}


@pytest.mark.parametrize("name", peers.installed())
@pytest.mark.parametrize("case", [SMALL, LinearCase(64, 3)])
def test_what_is_timed_of_peers_is_right(name: str, case: ConvCase | LinearCase) -> None:
    found = list(peers.peer(name)(case, 1))
    assert found
    for task in found:
        assert isinstance(task, Task), task
        assert 0 < task.sample() < 10


def test_a_wrong_peer_is_reported_and_not_timed() -> None:
    task = Task("fp32", "c", "wrong", wall(lambda: None), 1.0)
    expected = torch.tensor([100.0, 3.0])
    assert checked(task, np.array([100.0, 3.0]), expected, exact=True) is task
    assert checked(task, np.array([100.0005, 3.0]), expected, exact=False) is task
    failed = [
        checked(task, np.array([100.0005, 3.0]), expected, exact=True),
        checked(task, np.array([101.0, 3.0]), expected, exact=False),
        checked(task, np.array([[100.0, 3.0]]), expected, exact=False),
        checked(task, np.array([np.nan, 3.0]), expected, exact=False),
    ]
    assert all(isinstance(f, Failure) for f in failed)


def test_the_whole_measurement_and_its_table() -> None:
    lines: list[str] = []
    bench = bench_kernels((1,), quick=True, peer_names=("torch",), progress=lines.append)
    assert bench.failures == []
    names = {figure.name for figure in bench.figures}
    assert {"robustlab binary, bits to bits", "robustlab w8a8, codes to codes", "torch fp32"} <= names
    assert all(figure.seconds > 0 for figure in bench.figures)
    assert len(lines) == 3
    text = kernel_table(bench)
    assert all(name in text for name in names)
    assert bench.seconds("conv 3x3 256@14²", "torch fp32") is not None
    assert bench.seconds("conv 3x3 256@14²", "torch fp32", 3) is None


@pytest.mark.parametrize(("threads", "names"), [((), None), ((0,), None), ((1,), ("nothing",))])
def test_bad_arguments_are_refused(threads: tuple[int, ...], names: tuple[str, ...] | None) -> None:
    with pytest.raises(ArgumentError):
        bench_kernels(threads, peer_names=names)


def test_text() -> None:
    assert columns([["a", "1"], ["bb", "22"]], right=(1,)) == ["a    1", "bb  22"]
    assert columns([]) == []
    assert [time_text(t) for t in (92.5e-6, 4.21e-3)] == ["92.5 us", "4.21 ms"]


def test_the_command_writes_its_figures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "bench.json"
    assert run(["bench", "kernels", "--quick", "--no-peers", "--threads", "1", "--out", str(out)]) == 0
    shown = capsys.readouterr().out
    found = json.loads(out.read_text(encoding="utf-8"))
    assert found["schema"] == 1
    assert {f["name"] for f in found["figures"]} <= {line.split("  ")[1] for line in shown.splitlines() if "  " in line}
    assert Figure(**found["figures"][0]).threads == 1


@pytest.mark.parametrize("text", ["0", "1,x", "", "1.5", "2000"])
def test_bad_threads_are_one_line(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["bench", "kernels", "--threads", text]) == 2
    assert "--threads" in capsys.readouterr().err
