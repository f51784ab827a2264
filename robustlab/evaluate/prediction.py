"""The mean corruption error of a full suite, predicted from a few of its cells.

A prediction is a weighted sum of the error rates under the mini suite's conditions, the weights fixed beforehand on
other networks. `scripts/choose_mini.py` chooses cells and weights and states the error on networks that had no part
in the choice; a suite's TOML file carries all of it in its table ``prediction``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robustlab.core.errors import invalid
from robustlab.datasets import Dataset
from robustlab.evaluate.natural import NaturalRow, half_width

PREDICTED = "predicted_"
METRICS = ("mce_unnormalised", "mce_alexnet")
_FIELDS = ("of", "images", "classes", "image_size", "calibration", "estimates")
_ESTIMATE = ("metric", "error", "error_95", "weights", "held_out")
_ROUNDING = 1e-4  # of numbers in a file


class PredictedRow(NaturalRow):
    """A row of ``natural`` that is predicted: `metric` starts with ``predicted_``.

    `of` is the suite whose metric it is. The interval combines `sampling`, half of the 95 % interval that the choice
    of images alone would give, and `prediction`, that of the prediction's own error, as independent.
    """

    of: str
    sampling: float
    prediction: float


@dataclass(frozen=True)
class HeldOut:
    """What was predicted for a network by those of other groups on other images, beside what it has in full."""

    network: str
    group: str
    full: float
    predicted: float


@dataclass(frozen=True)
class Estimate:
    """How one metric is predicted: the sum over conditions of weight x share of wrong answers.

    `error` is the root mean square of predicted minus full over the held-out networks, every group counting alike;
    `error_95` is that times Student's 97.5 % quantile for one degree of freedom less than there are groups.
    """

    metric: str
    error: float
    error_95: float
    weights: Mapping[str, float]
    held_out: tuple[HeldOut, ...]

    def row(self, of: str, model: str, correct: Mapping[str, NDArray[np.bool_]]) -> PredictedRow:
        """The prediction from bool (n,) per condition, the samples in one order."""
        parts = [weight * ~correct[key] for key, weight in self.weights.items()]
        values: NDArray[np.float64] = np.sum(parts, axis=0, dtype=np.float64)
        most = sum(self.weights.values())
        value, sampling = float(values.mean()), half_width(values, 0.0, most)
        half = math.hypot(sampling, self.error_95)
        return PredictedRow(
            model=model,
            metric=PREDICTED + self.metric,
            value=value,
            ci_low=max(0.0, value - half),
            ci_high=min(most, value + half),
            n=len(values),
            of=of,
            sampling=sampling,
            prediction=self.error_95,
        )


@dataclass(frozen=True)
class Prediction:
    """What a mini suite predicts: metrics of the suite `of`, for data of `classes` classes at `image_size`.

    `images` is how many the error of sampling was planned for; `calibration` says what networks and images the choice
    was made with.
    """

    of: str
    images: int
    classes: int
    image_size: tuple[int, int]
    calibration: str
    estimates: tuple[Estimate, ...]

    def check_data(self, suite: str, data: Dataset) -> None:
        """Raise `ArgumentError` for data of other classes or size, for which the weights say nothing."""
        found = (len(data.class_names), tuple(data.image_size))
        if found != (self.classes, self.image_size):
            height, width = data.image_size
            raise invalid(
                f"data for suite {suite}",
                f"{data.name} ({found[0]} classes, {height} x {width})",
                f"images of {self.classes} classes at {self.image_size[0]} x {self.image_size[1]}: "
                f"only there the prediction of {self.of} holds",
            )

    def rows(self, correct: Mapping[tuple[str, str], NDArray[np.bool_]]) -> list[PredictedRow]:
        """The predictions for every model, from bool (n,) per (model, condition key)."""
        rows: list[PredictedRow] = []
        for model in dict.fromkeys(name for name, _ in correct):
            mine = {key: value for (name, key), value in correct.items() if name == model and len(value)}
            rows += [e.row(self.of, model, mine) for e in self.estimates if set(e.weights) <= set(mine)]
        return rows


def predicted_texts(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """A line for people for every predicted one among the rows of ``natural``."""
    lines: list[str] = []
    for row in rows:
        if not row["metric"].startswith(PREDICTED):
            continue
        value, low, high = (100 * row[name] for name in ("value", "ci_low", "ci_high"))
        scale = "AlexNet = 100" if row["metric"].endswith("alexnet") else "un-normalised, in percent"
        causes = f"±{100 * row['sampling']:.1f} by {row['n']} images, ±{100 * row['prediction']:.1f} by the prediction"
        lines.append(
            f"{row['model']}: predicted mCE of {row['of']} ({scale}) {value:.1f}, "
            f"95 % interval {low:.1f} to {high:.1f}: {causes}"
        )
    return lines


def held_out_error(rows: Sequence[HeldOut]) -> float:
    """The root mean square error, the mean over groups of the mean over a group's networks."""
    groups = dict.fromkeys(row.group for row in rows)
    squares = [np.mean([(row.predicted - row.full) ** 2 for row in rows if row.group == group]) for group in groups]
    return float(np.sqrt(np.mean(squares)))


def parse_prediction(table: object, conditions: Sequence[str], source: str) -> Prediction:
    """A prediction from the table of a suite's file; raises `ArgumentError` that names field and value.

    conditions: the keys of the suite, which weights may be given to.
    """
    fields = _table(table, _FIELDS, f"prediction in suite {source}")

    def bad(name: str, allowed: str) -> Exception:
        return invalid(f"{name} of the prediction in suite {source}", fields[name], allowed)

    for name in ("of", "calibration"):
        if not isinstance(fields[name], str) or not fields[name].strip():
            raise bad(name, "text that is not empty")
    for name in ("images", "classes"):
        if type(fields[name]) is not int or fields[name] < 2:
            raise bad(name, "a whole number >= 2")
    size = fields["image_size"]
    if not isinstance(size, list) or len(size) != 2 or not all(type(side) is int and side > 0 for side in size):
        raise bad("image_size", "two whole numbers >= 1")
    if not isinstance(fields["estimates"], list) or not fields["estimates"]:
        raise bad("estimates", "at least one table")
    estimates = tuple(_estimate(each, conditions, source) for each in fields["estimates"])
    if len({estimate.metric for estimate in estimates}) < len(estimates):
        raise bad("estimates", "each metric once")
    return Prediction(
        of=fields["of"],
        images=fields["images"],
        classes=fields["classes"],
        image_size=(size[0], size[1]),
        calibration=fields["calibration"],
        estimates=estimates,
    )


def _estimate(table: object, conditions: Sequence[str], source: str) -> Estimate:
    fields = _table(table, _ESTIMATE, f"an estimate in suite {source}")

    def bad(name: str, allowed: str) -> Exception:
        return invalid(f"{name} of {fields['metric']} in suite {source}", fields[name], allowed)

    if fields["metric"] not in METRICS:
        raise bad("metric", ", ".join(METRICS))
    for name in ("error", "error_95"):
        if not _is_number(fields[name]) or not 0 < fields[name] < 1:
            raise bad(name, "a number above 0 and below 1")
    if fields["error_95"] < fields["error"]:
        raise bad("error_95", f"at least the error, {fields['error']}")
    weights = fields["weights"]
    if not isinstance(weights, dict) or not weights or not set(weights) <= set(conditions):
        raise bad("weights", f"a table with keys among {', '.join(conditions)}")
    if not all(_is_number(weight) and 0 <= weight <= 10 for weight in weights.values()):
        raise bad("weights", "numbers from 0 to 10")
    if fields["metric"] == "mce_unnormalised" and abs(sum(weights.values()) - 1) > _ROUNDING:
        raise bad("weights", "weights that sum to 1")
    held_out = _held_out(fields["held_out"])
    if held_out is None or len({row.group for row in held_out}) < 2:
        raise bad("held_out", "a list of [network, group, full, predicted] of at least two groups")
    if abs(held_out_error(held_out) - fields["error"]) > _ROUNDING:
        raise bad("error", f"that of the networks held out, {held_out_error(held_out):.4f}")
    return Estimate(fields["metric"], float(fields["error"]), float(fields["error_95"]), {**weights}, held_out)


def _held_out(rows: object) -> tuple[HeldOut, ...] | None:
    if not isinstance(rows, list):
        return None
    for row in rows:
        if not isinstance(row, list) or [isinstance(x, str) for x in row] != [True, True, False, False]:
            return None
        if not all(_is_number(x) for x in row[2:]):
            return None
    return tuple(HeldOut(*row) for row in rows)


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _table(table: object, fields: Sequence[str], what: str) -> dict[str, Any]:
    """The table, if its fields are these and no others."""
    if not isinstance(table, dict) or set(table) != set(fields):
        found = ", ".join(map(str, table)) if isinstance(table, dict) else table
        raise invalid(what, found, f"a table with {', '.join(fields)}")
    return table
