"""How far a model's accuracy is spread over the conditions that are compared with a reference."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypedDict

import numpy as np

from robustlab.evaluate.conditions import Condition
from robustlab.evaluate.metrics import CellRow, wilson
from robustlab.evaluate.outcomes import Array, Outcomes
from robustlab.evaluate.systematic import PipelineCondition, PlatformCondition

ALL = "all"
BUG = "bug"


class SpreadRow(TypedDict):
    """One model over one group of conditions; accuracies are fractions.

    `group` is what differs from the reference pipeline (decoder, colour, resizer, protocol, several), a platform, or
    ``all`` of the groups but ``bug``, which holds mistakes. `std` is that of the population. `worst` is the accuracy
    under `worst_condition`; `always` is the share of samples that are right under the reference and every condition of
    the group, with its Wilson interval.
    """

    model: str
    reference: str
    group: str
    conditions: int
    n: int
    reference_accuracy: float
    mean: float
    std: float
    worst: float
    worst_condition: str
    always: float
    always_low: float
    always_high: float
    flip_rate: float
    worst_flip_rate: float
    kl: float | None


def group_of(condition: Condition, reference: Condition) -> str:
    """The group of a condition; see `SpreadRow`."""
    if isinstance(condition, PipelineCondition) and isinstance(reference, PipelineCondition):
        return condition.pipeline.factor(reference.pipeline)
    if isinstance(condition, PlatformCondition):
        return f"platform-{condition.name}"
    return condition.key.rstrip("0123456789").rstrip("-") or condition.key


class Spread:
    """Collects which samples are right under every condition."""

    def __init__(self) -> None:
        self._correct: dict[tuple[str, str], dict[int, Array]] = {}

    def add(self, model: str, condition: str, shard: int, outcomes: Outcomes) -> None:
        """The outcomes of one shard."""
        self._correct.setdefault((model, condition), {})[shard] = np.asarray(outcomes.correct, dtype=bool)

    def rows(self, cells: list[CellRow], conditions: tuple[Condition, ...], reference: Condition) -> list[SpreadRow]:
        """A row for every model and group, ``all`` first; conditions without a comparison do not count."""
        by_name = {(row["model"], row["condition"]): row for row in cells}
        models = list(dict.fromkeys(row["model"] for row in cells))
        groups: dict[str, list[str]] = {ALL: []}
        for condition in conditions:
            if condition.key == reference.key or condition.adversarial or condition.key == "clean":
                continue
            group = group_of(condition, reference)
            groups.setdefault(group, []).append(condition.key)
            if group != BUG:
                groups[ALL].append(condition.key)
        if len(groups) == 2 and ALL in groups and groups[ALL]:  # one group alone would be said twice
            groups = {ALL: groups[ALL]}
        return [
            self._row(model, group, keys, by_name, reference.key)
            for model in models
            for group, keys in groups.items()
            if keys
        ]

    def _row(
        self, model: str, group: str, keys: list[str], cells: Mapping[tuple[str, str], CellRow], reference: str
    ) -> SpreadRow:
        rows = [cells[model, key] for key in keys]
        accuracies = np.array([row["accuracy"] for row in rows])
        worst = rows[int(accuracies.argmin())]
        always = np.logical_and.reduce([self._whole(model, key) for key in (reference, *keys)])
        low, high = wilson(int(always.sum()), len(always))
        flips = [row["flip_rate"] for row in rows if row["flip_rate"] is not None]
        divergences = [row["kl"] for row in rows if row["kl"] is not None]
        return SpreadRow(
            model=model,
            reference=reference,
            group=group,
            conditions=len(rows),
            n=len(always),
            reference_accuracy=cells[model, reference]["accuracy"],
            mean=float(accuracies.mean()),
            std=float(accuracies.std()),
            worst=worst["accuracy"],
            worst_condition=worst["condition"],
            always=float(always.mean()),
            always_low=low,
            always_high=high,
            flip_rate=float(np.mean(flips)) if flips else 0.0,
            worst_flip_rate=max(flips, default=0.0),
            kl=float(np.mean(divergences)) if divergences else None,
        )

    def _whole(self, model: str, condition: str) -> Array:
        parts = self._correct[model, condition]
        return np.concatenate([parts[index] for index in sorted(parts)])
