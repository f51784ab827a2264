"""Metrics of a cell: accuracy with its Wilson interval, added up over shards."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TypedDict

from robustlab.evaluate.outcomes import Outcomes

Z95 = 1.959963984540054  # 97.5 % quantile of the standard normal distribution


class CellRow(TypedDict):
    """One row of `results.json`'s ``cells``.

    Accuracies are fractions in [0, 1] with a 95 % Wilson interval; `seconds` is the time the cell took, images that
    are shared between models not counted. `not_attacked` counts samples an attack could not work on; `linf_max` and
    `l2_mean` are norms of the perturbation in image units.
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

    def add(self, outcomes: Outcomes, seconds: float) -> None:
        """Add one shard."""
        self.n += len(outcomes)
        self.correct += int(outcomes.correct.sum())
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
        )
