"""The whole measurement: peaks, the kernels, the peers, threads."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field

import torch

from robustlab.bench import own, peers
from robustlab.bench.machine import Machine, fork_join, machine, peaks
from robustlab.bench.shapes import CONVS, LINEARS, Case, ConvCase
from robustlab.bench.tasks import Failure, Figure, Task, measure
from robustlab.bench.threads import alternation
from robustlab.core.errors import check_choice, check_int, invalid

SECONDS, QUICK_SECONDS = 0.4, 0.04
QUICK: tuple[Case, ...] = (ConvCase(256, 14),)


@dataclass(frozen=True)
class KernelBench:
    """What was measured. Seconds are the shortest of many runs; see `Figure` and `Failure`."""

    machine: Machine
    peaks: dict[str, float]
    """Operations per second of one core."""
    fork_join: dict[int, float]
    """Seconds, by the number of threads."""
    alternation: dict[int, float]
    """Seconds of an operation of torch and one of ours in turn, by the number of threads."""
    figures: list[Figure] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)

    def seconds(self, case: str, name: str, threads: int = 1) -> float | None:
        """Of one run, None if it was not timed."""
        return next((f.seconds for f in self.figures if (f.case, f.name, f.threads) == (case, name, threads)), None)

    def as_dict(self) -> dict[str, object]:
        """For JSON."""
        return {"schema": 1, **asdict(self)}


@contextmanager
def torch_threads(threads: int) -> Iterator[None]:
    """Run a block with that many threads of torch."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def bench_kernels(
    threads: Sequence[int] = (1, 2),
    *,
    quick: bool = False,
    peer_names: Iterable[str] | None = None,
    progress: Callable[[str], None] = lambda _: None,
) -> KernelBench:
    """Measure this machine and everything on it, in about two minutes (`quick`: one shape, a few seconds).

    threads: how many, one measurement each. peer_names: among `peers.NAMES`, those that are installed if None.
    progress: called with a line before each step. Raises `ArgumentError` for peers that are not installed.
    """
    if not threads:
        raise invalid("threads", threads, "at least one number of threads")
    for count in threads:
        check_int("threads", count, 1, 1024)
    there = peers.installed()
    wanted = there if peer_names is None else [check_choice("peers", name, there) for name in peer_names]
    seconds = QUICK_SECONDS if quick else SECONDS
    cases: tuple[Case, ...] = QUICK if quick else CONVS + LINEARS
    progress("peaks of one core")
    top = peaks()
    forks = {count: time for count in threads if (time := fork_join(count)) is not None}
    progress("torch and the kernels in turn")
    turns = alternation(threads, 4 * seconds)
    result = KernelBench(machine(), top, forks, turns)
    for count in threads:
        for case in cases:
            progress(f"{case.label}, {count} thread{'' if count == 1 else 's'}")
            _bench_case(result, case, count, wanted, seconds)
    return result


def _bench_case(result: KernelBench, case: Case, threads: int, names: Iterable[str], seconds: float) -> None:
    """All tasks of a case in turn, so that their ratios come from the same moments."""
    with torch_threads(threads), torch.inference_mode():
        found = [*own.tasks(case), *(task for name in names for task in peers.peer(name)(case, threads))]
        result.failures.extend(task for task in found if isinstance(task, Failure))
        tasks = [task for task in found if isinstance(task, Task)]
        figures, failures = measure(tasks, threads, result.peaks, seconds)
        result.figures.extend(figures)
        result.failures.extend(failures)
