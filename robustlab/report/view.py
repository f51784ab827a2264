"""What the report shows, computed from results: plain data, no HTML and no plotting.

Results are read by name (`cells`, `efficiency`, `parity`, `run`, `examples`; rows are dataclasses or mappings with the
names of ``results.json``), so a report can be made from a live run and from a loaded file alike. What is missing
becomes None or an empty tuple; nothing here fails because a part was not measured.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Any

from robustlab.evaluate.agreement import agreement_text
from robustlab.evaluate.natural import MEAN_LABELS
from robustlab.evaluate.prediction import predicted_texts
from robustlab.report.format import condition_kind, condition_title, left_out_text


@dataclass(frozen=True)
class Cell:
    """One (model, condition): accuracy in [0, 1] with its 95 % interval, None where it was not measured.

    `flip_rate` (in [0, 1], with its interval) and `kl` (in nats) are against the suite's reference, where it has one.
    """

    model: str
    condition: str
    accuracy: float | None
    low: float | None
    high: float | None
    n: int
    correct: int | None
    gradient: str
    status: str
    seconds: float | None
    flip_rate: float | None = None
    flip_low: float | None = None
    flip_high: float | None = None
    kl: float | None = None

    @property
    def title(self) -> str:
        """The condition in words."""
        return condition_title(self.condition)

    @property
    def half_width(self) -> float | None:
        """Half the width of the interval, for a `±`."""
        return None if self.low is None or self.high is None else (self.high - self.low) / 2


@dataclass(frozen=True)
class ModelRow:
    """One model: what it costs and what it holds."""

    name: str
    scheme: str | None
    gradient: str | None
    clean: Cell | None
    worst: Cell | None
    attacks: int
    corruption: float | None
    corruptions: int
    efficiency: Mapping[str, Any]
    logits: int | None
    different: int | None

    def cost(self, name: str) -> float | None:
        """A number of this model's efficiency row, or None."""
        value = self.efficiency.get(name)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
            return None
        return float(value)


@dataclass(frozen=True)
class Prediction:
    """What one model said about one picture."""

    model: str
    name: str
    right: bool


@dataclass(frozen=True)
class Picture:
    """One image, as the bytes of a PNG, and what models said about it; `made_for` is the attacked model."""

    png: bytes
    predictions: tuple[Prediction, ...]
    made_for: str | None


@dataclass(frozen=True)
class Example:
    """One sample of the data under one condition."""

    condition: str
    sample: int
    label: str
    pictures: tuple[Picture, ...]


@dataclass(frozen=True)
class View:
    """Everything a report shows; `spread` and `natural` are the rows of ``results.json``."""

    models: tuple[ModelRow, ...]
    conditions: tuple[str, ...]
    cells: tuple[Cell, ...]
    examples: tuple[Example, ...]
    run: Mapping[str, Any]
    notes: tuple[str, ...] = ()
    spread: tuple[Mapping[str, Any], ...] = ()
    natural: tuple[Mapping[str, Any], ...] = ()

    def cell(self, model: str, condition: str) -> Cell | None:
        """The cell of this model and condition, or None."""
        return next((c for c in self.cells if c.model == model and c.condition == condition), None)

    def robustness(self, row: ModelRow, metric: str) -> tuple[float, float | None, float | None] | None:
        """(value, low, high) of a model: metric is ``worst``, ``corruption`` or the key of a condition."""
        if metric == "corruption":
            return None if row.corruption is None else (row.corruption, None, None)
        cell = row.worst if metric == "worst" else self.cell(row.name, metric)
        return None if cell is None or cell.accuracy is None else (cell.accuracy, cell.low, cell.high)


def field(row: object, name: str, default: Any = None) -> Any:
    """`row.name` or `row["name"]`, whichever there is."""
    if isinstance(row, Mapping):
        return row.get(name, default)
    return getattr(row, name, default)


def _as_mapping(row: object) -> Mapping[str, Any]:
    return row if isinstance(row, Mapping) else {k: getattr(row, k) for k in getattr(row, "__dataclass_fields__", ())}


def _number(value: Any) -> float | None:
    usable = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    return float(value) if usable else None


def _cell(row: object) -> Cell:
    accuracy = _number(field(row, "accuracy"))
    if accuracy is None and field(row, "metric") == "accuracy":
        accuracy = _number(field(row, "value"))
    correct = field(row, "correct")
    return Cell(
        model=str(field(row, "model")),
        condition=str(field(row, "condition")),
        accuracy=accuracy,
        low=_number(field(row, "ci_low")),
        high=_number(field(row, "ci_high")),
        n=int(field(row, "n") or 0),
        correct=int(correct) if isinstance(correct, int) else None,
        gradient=str(field(row, "gradient") or "none"),
        status=str(field(row, "status") or "done"),
        seconds=_number(field(row, "seconds")),
        **{name: _number(field(row, name)) for name in ("flip_rate", "flip_low", "flip_high", "kl")},
    )


def _cells(results: object) -> tuple[Cell, ...]:
    """All cells; one that was left out has no accuracy, as nothing attacked the model there."""
    run = field(results, "run") or {}
    left_out = {(row["model"], row["condition"]) for row in run.get("left_out") or ()}
    cells = []
    for cell in map(_cell, field(results, "cells") or ()):
        if (cell.model, cell.condition) in left_out:
            cell = replace(cell, accuracy=None, low=None, high=None, correct=None, status="left_out")
        cells.append(cell)
    return tuple(cells)


def _notes(results: object) -> tuple[str, ...]:
    """What has to be said beside the numbers: of surrogates, of what is predicted, and of what was left out."""
    agreement = [f"{agreement_text(row)}." for row in field(results, "agreement") or ()]
    left_out = (field(results, "run") or {}).get("left_out") or ()
    predicted = (f"{line}." for line in predicted_texts(field(results, "natural") or ()))
    return (*agreement, *predicted, *(f"Left out: {line}." for line in left_out_text(left_out)))


def _unique(names: Sequence[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(names))


def _model_row(name: str, cells: Sequence[Cell], results: object) -> ModelRow:
    mine = [c for c in cells if c.model == name and c.accuracy is not None]
    attacks = [c for c in mine if condition_kind(c.condition) == "attack"]
    corruptions = [c.accuracy for c in mine if condition_kind(c.condition) == "corruption" and c.accuracy is not None]
    efficiency = next((_as_mapping(r) for r in field(results, "efficiency") or () if field(r, "model") == name), {})
    parity = next((r for r in field(results, "parity") or () if field(r, "model") == name), None)
    about = _about(name, field(results, "run") or {})
    return ModelRow(
        name=name,
        scheme=about.get("scheme"),
        gradient=next((c.gradient for c in attacks if c.gradient != "none"), None),
        clean=next((c for c in mine if c.condition == "clean"), None),
        worst=min(attacks, key=lambda c: c.accuracy or 0.0) if attacks else None,
        attacks=len(attacks),
        corruption=fmean(corruptions) if corruptions else None,
        corruptions=len(corruptions),
        efficiency=efficiency,
        logits=None if parity is None else int(field(parity, "logits") or 0),
        different=None if parity is None else int(field(parity, "different") or 0),
    )


def _about(name: str, run: Mapping[str, Any]) -> Mapping[str, Any]:
    """What the run's configuration says about a model."""
    models = (run.get("configuration") or {}).get("models")
    row = models.get(name) if isinstance(models, Mapping) else None
    return row if isinstance(row, Mapping) else {}


def build_view(results: object, examples: Sequence[Example] = ()) -> View:
    """Collect what a report shows from `results` (see the module's text); examples are given as they are drawn."""
    cells = _cells(results)
    measured = [str(field(r, "model")) for r in field(results, "efficiency") or ()]
    names = _unique([c.model for c in cells] + measured)
    return View(
        models=tuple(_model_row(name, cells, results) for name in names),
        conditions=_unique([c.condition for c in cells]),
        cells=cells,
        examples=tuple(examples),
        run=field(results, "run") or {},
        notes=_notes(results),
        spread=tuple(_as_mapping(row) for row in field(results, "spread") or ()),
        natural=tuple(_as_mapping(row) for row in field(results, "natural") or ()),
    )


def natural_table(view: View) -> list[tuple[str, list[Mapping[str, Any] | None]]]:
    """Of the means over all corruptions those that were measured: the name of each, and its row for every model."""
    rows = {(row["model"], row["metric"]): row for row in view.natural}
    measured = [(metric, label) for metric, label in MEAN_LABELS if any(found == metric for _, found in rows)]
    return [(label, [rows.get((model.name, metric)) for model in view.models]) for metric, label in measured]


def pareto_front(points: Sequence[tuple[float, float]]) -> list[int]:
    """Indices of the points (cost, value) that no other point beats: none is at most as costly and better, or cheaper
    and as good. Sorted by cost; of equal points every one is kept."""
    order = sorted(range(len(points)), key=lambda i: (points[i][0], -points[i][1]))
    front: list[int] = []
    best = -math.inf
    for index in order:
        cost, value = points[index]
        if value > best or (front and points[front[-1]] == (cost, value)):
            front.append(index)
            best = max(best, value)
    return front
