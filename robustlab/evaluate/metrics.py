"""Metrics of a cell: accuracy with its Wilson interval, added up over shards."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TypedDict

import numpy as np
from numpy.typing import NDArray

from robustlab.evaluate.comparison import Comparison, join_comparisons
from robustlab.evaluate.outcomes import Outcomes

Z95 = 1.959963984540054  # 97.5 % quantile of the standard normal distribution


class CellRow(TypedDict):
    """One row of `results.json`'s ``cells``.

    Accuracies are fractions in [0, 1] with a 95 % Wilson interval; `seconds` is the time the cell took, images that
    are shared between models not counted. `not_attacked` counts samples an attack could not work on; `linf_max` and
    `l2_mean` are norms of the perturbation in image units.

    Where the suite has a reference, `flip_rate` is the share of samples whose prediction is another one than under it
    (with a 95 % Wilson interval), and `kl` the mean divergence KL(reference || condition) of the softmax of the logits,
    in nats, with a 95 % interval of the normal approximation; None without a reference.
    """

    model: str
    condition: str
    metric: str
    n: int
    value: float
    ci_low: float
    ci_high: float
    correct: int
    accuracy: float
    gradient: str
    status: str
    seconds: float
    not_attacked: int
    linf_max: float
    l2_mean: float
    reference: str | None
    flips: int | None
    flip_rate: float | None
    flip_low: float | None
    flip_high: float | None
    kl: float | None
    kl_low: float | None
    kl_high: float | None


def wilson(correct: int, n: int, z: float = Z95) -> tuple[float, float]:
    """Wilson's score interval of a proportion (Wilson 1927), clipped to [0, 1]; (0, 1) where n is 0.

    >>> low, high = wilson(0, 10)
    >>> round(low, 4), round(high, 4)
    (0.0, 0.2775)
    """
    if n == 0:
        return 0.0, 1.0
    share = correct / n
    scale = 1 + z * z / n
    centre = (share + z * z / (2 * n)) / scale
    half = z / scale * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    low = 0.0 if correct == 0 else max(0.0, centre - half)
    high = 1.0 if correct == n else min(1.0, centre + half)
    return low, high


class _Compared(TypedDict):
    """The fields of a `CellRow` that a reference gives."""

    reference: str | None
    flips: int | None
    flip_rate: float | None
    flip_low: float | None
    flip_high: float | None
    kl: float | None
    kl_low: float | None
    kl_high: float | None


def _compared(reference: str | None, comparisons: list[Comparison]) -> _Compared:
    if reference is None or not comparisons:
        return _Compared(
            reference=None,
            flips=None,
            flip_rate=None,
            flip_low=None,
            flip_high=None,
            kl=None,
            kl_low=None,
            kl_high=None,
        )
    whole = join_comparisons(comparisons)
    flips, count = int(whole.flipped.sum()), len(whole.flipped)
    low, high = wilson(flips, count)
    finite = whole.divergence[np.isfinite(whole.divergence)].astype(np.float64)
    kl = float(finite.mean()) if len(finite) else None
    half = Z95 * float(finite.std(ddof=1)) / math.sqrt(len(finite)) if len(finite) > 1 else None
    return _Compared(
        reference=reference,
        flips=flips,
        flip_rate=flips / count if count else 0.0,
        flip_low=low,
        flip_high=high,
        kl=kl,
        kl_low=None if kl is None or half is None else max(0.0, kl - half),
        kl_high=None if kl is None or half is None else kl + half,
    )


@dataclass
class Tally:
    """The running sum of one (model, condition) over its shards."""

    model: str
    condition: str
    gradient: str
    adversarial: bool
    n: int = 0
    correct: int = 0
    not_attacked: int = 0
    seconds: float = 0.0
    linf_max: float = 0.0
    l2_sum: float = 0.0
    reference: str | None = None
    comparisons: list[Comparison] = field(default_factory=list)
    right: list[NDArray[np.bool_]] = field(default_factory=list)

    def add(self, outcomes: Outcomes, seconds: float, comparison: Comparison | None = None) -> None:
        """Add one shard, and how it compares with the reference."""
        if comparison is not None:
            self.comparisons.append(comparison)
        self.n += len(outcomes)
        self.correct += int(outcomes.correct.sum())
        self.right.append(outcomes.correct)
        self.not_attacked += int((~outcomes.attacked).sum()) if self.adversarial else 0
        self.seconds += seconds
        self.linf_max = max(self.linf_max, float(outcomes.linf.max(initial=0.0)))
        self.l2_sum += float(outcomes.l2.astype("float64").sum())

    def row(self) -> CellRow:
        """The cell's row so far."""
        low, high = wilson(self.correct, self.n)
        accuracy = self.correct / self.n if self.n else 0.0
        return CellRow(
            model=self.model,
            condition=self.condition,
            metric="accuracy",
            n=self.n,
            value=accuracy,
            ci_low=low,
            ci_high=high,
            correct=self.correct,
            accuracy=accuracy,
            gradient=self.gradient,
            status="not_attacked" if self.not_attacked else "done",
            seconds=round(self.seconds, 4),
            not_attacked=self.not_attacked,
            linf_max=self.linf_max,
            l2_mean=self.l2_sum / self.n if self.n else 0.0,
            **_compared(self.reference, self.comparisons),
        )
