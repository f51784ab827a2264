"""What is timed, and how: samples in turn, the shortest of each counts."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

_MOST_SHARE = 1.02  # of a peak: it was measured itself, a little too low perhaps

Sample = Callable[[], float]
"""Runs something once and returns the seconds it took."""


@dataclass(frozen=True)
class Task:
    """One thing to time.

    group: what is compared with each other, such as ``binary``. case: the shape. name: who computes, and how.
    operations: of one run, a product and a sum counting as two; bytes where the peak is ``load``. peak: what bounds it,
    such as ``avx2_bits``, or ``bits`` for the best instruction set there is, or None. Where `sample_once` is given,
    `sample` is that and `chain` runs more: the seconds of one run are the difference, shared among them.
    """

    group: str
    case: str
    name: str
    sample: Sample
    operations: float
    peak: str | None = None
    sample_once: Sample | None = None
    chain: int = 1


@dataclass(frozen=True)
class Figure:
    """A measured task: the seconds of one run."""

    group: str
    case: str
    name: str
    threads: int
    seconds: float
    operations: float
    peak: str | None = None
    share: float | None = None
    """Of the peak, times the threads; None where no peak was measured."""


@dataclass(frozen=True)
class Failure:
    """A task that was not timed, and why."""

    group: str
    case: str
    name: str
    reason: str


def wall(run: Callable[[], object]) -> Sample:
    """Samples of the time that `run` takes."""

    def sample() -> float:
        start = time.perf_counter()
        run()
        return time.perf_counter() - start

    return sample


def cpu(run: Callable[[], object]) -> Sample:
    """Samples of the processor time of the calling thread, for what takes milliseconds on one thread.

    No run of that length is left alone on a busy machine; this leaves out what other programs take from it.
    """

    def sample() -> float:
        start = time.thread_time()
        run()
        return time.thread_time() - start

    return sample


def shortest(samples: Sequence[Sample], seconds: float, rounds: int = 8) -> list[float]:
    """The shortest of many runs of each, in turn: `seconds` of runs for each, at least one a round.

    Other programs only ever make a run longer, and turns see to it that a slow moment of the machine does not hit all
    runs of one sample.
    """
    best = [float("inf")] * len(samples)
    for _ in range(rounds):
        for index, sample in enumerate(samples):
            sample()  # what ran before this has left the caches to its own data
            end = time.perf_counter() + seconds / rounds
            while True:
                best[index] = min(best[index], sample())
                if time.perf_counter() >= end:
                    break
    return best


def bound_by(peak: str | None, peaks: Mapping[str, float]) -> float | None:
    """Operations per second of one core that a task cannot exceed; None where they were not measured."""
    found = [rate for name, rate in peaks.items() if peak is not None and (name == peak or name.endswith(f"_{peak}"))]
    return max(found, default=None)


def measure(
    tasks: Sequence[Task], threads: int, peaks: Mapping[str, float], seconds: float
) -> tuple[list[Figure], list[Failure]]:
    """Time tasks in turn, `seconds` for each.

    What comes out as no time at all, or as faster than the processor can be, is a failure of the measurement: the
    difference of two runs, where other programs hit one of both more.
    """
    samples = [task.sample for task in tasks]
    samples += [task.sample_once for task in tasks if task.sample_once is not None]
    times = shortest(samples, seconds)
    once = iter(times[len(tasks) :])
    figures, failures = [], []
    for task, found in zip(tasks, times, strict=False):
        taken = found if task.sample_once is None else (found - next(once)) / task.chain
        bound = bound_by(task.peak, peaks)
        share = task.operations / taken / (bound * threads) if bound and taken > 0 else None
        if taken <= 0 or (task.sample_once is not None and share is not None and share > _MOST_SHARE):
            reason = f"not measured: the difference of two runs came out as {taken * 1e6:.3g} us"
            failures.append(Failure(task.group, task.case, task.name, reason))
            continue
        figures.append(Figure(task.group, task.case, task.name, threads, taken, task.operations, task.peak, share))
    return figures, failures
