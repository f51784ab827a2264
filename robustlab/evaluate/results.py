"""Results: everything a report is made from, and the files it is written to."""

from __future__ import annotations

import csv
import importlib
import io
import json
import os
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from robustlab.core import StoreError
from robustlab.core.errors import invalid
from robustlab.evaluate.agreement import AgreementRow
from robustlab.evaluate.efficiency import EfficiencyRow
from robustlab.evaluate.metrics import CellRow
from robustlab.evaluate.natural import MEAN_LABELS, NaturalRow
from robustlab.evaluate.parity import ParityRow
from robustlab.evaluate.spread import SpreadRow
from robustlab.evaluate.store import FILE_NAME, Store

SCHEMA = 1
CSV_FIELDS = tuple(CellRow.__annotations__)


def format_size(count: int) -> str:
    """Bytes in powers of ten: ``812 B``, ``1.46 MB``."""
    value = float(count)
    for unit in ("B", "kB", "MB"):
        if value < 1000:
            return f"{value:.3g} {unit}"
        value /= 1000
    return f"{value:.3g} GB"


_COSTS: tuple[tuple[str, Callable[[EfficiencyRow], str]], ...] = (
    ("latency p50 / p95 ms", lambda row: f"{row['latency_p50_ms']:.2f} / {row['latency_p95_ms']:.2f}"),
    ("images per second", lambda row: f"{row['images_per_s']:,.0f}"),
    ("model size", lambda row: format_size(row["bytes"])),
    ("peak memory", lambda row: format_size(row["peak_memory_bytes"])),
)


def _share(row: NaturalRow | None) -> str:
    """A percentage ± half of its 95 % interval."""
    return "-" if row is None else f"{100 * row['value']:.1f} ±{50 * (row['ci_high'] - row['ci_low']):.1f}"


@dataclass(frozen=True)
class Example:
    """A sample as it was shown under a condition.

    `model` is the model the image was made for, None where all models were shown the same one. `predictions` are class
    numbers by model, -1 where there was none. `png` are the bytes of a file; `images` is its key in the store.
    """

    condition: str
    model: str | None
    sample: int
    label: int
    predictions: Mapping[str, int]
    png: bytes
    images: str


@dataclass(frozen=True)
class Results:
    """What an evaluation found: all but `examples` and `class_names` as in ``results.json``."""

    run: Mapping[str, Any]
    cells: list[CellRow]
    efficiency: list[EfficiencyRow]
    parity: list[ParityRow]
    examples: list[Example]
    class_names: tuple[str, ...]
    spread: list[SpreadRow] = field(default_factory=list)
    natural: list[NaturalRow] = field(default_factory=list)
    agreement: list[AgreementRow] = field(default_factory=list)

    @property
    def models(self) -> tuple[str, ...]:
        """Names in the order given."""
        return tuple(dict.fromkeys(row["model"] for row in self.cells))

    @property
    def conditions(self) -> tuple[str, ...]:
        """Keys in the order of the suite."""
        return tuple(dict.fromkeys(row["condition"] for row in self.cells))

    def cell(self, model: str, condition: str) -> CellRow:
        """The row of a model under a condition; raises `ArgumentError` if there is none."""
        for row in self.cells:
            if row["model"] == model and row["condition"] == condition:
                return row
        raise invalid(
            "cell", f"{model}, {condition}", f"models {', '.join(self.models)}; conditions {', '.join(self.conditions)}"
        )

    def as_dict(self) -> dict[str, Any]:
        """The document of ``results.json``; pictures stay in the store."""
        return {
            "schema": SCHEMA,
            "run": dict(self.run),
            "cells": self.cells,
            "efficiency": self.efficiency,
            "parity": self.parity,
            "spread": self.spread,
            "natural": self.natural,
            "agreement": self.agreement,
            "class_names": list(self.class_names),
            "examples": [
                {
                    "condition": e.condition,
                    "model": e.model,
                    "sample": e.sample,
                    "label": e.label,
                    "predictions": dict(e.predictions),
                    "images": e.images,
                }
                for e in self.examples
            ],
        }

    def to_json(self) -> str:
        """The text of ``results.json``."""
        return json.dumps(self.as_dict(), indent=1, allow_nan=False, ensure_ascii=False) + "\n"

    def to_csv(self) -> str:
        """The text of ``results.csv``: one line per cell."""
        buffer = io.StringIO()
        writer = csv.DictWriter(buffer, CSV_FIELDS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.cells)
        return buffer.getvalue()

    def write(self, out: str | Path) -> None:
        """Write ``results.json`` and ``results.csv`` to the folder `out`, each whole or not at all."""
        folder = Path(out)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            _write_atomically(folder / "results.json", self.to_json())
            _write_atomically(folder / "results.csv", self.to_csv())
        except OSError as error:
            raise invalid("out", str(out), f"a folder that can be written; {error.strerror}") from error

    def table(self) -> Table:
        """Accuracy in percent ± half the 95 % interval by condition and model, then what each model costs."""
        table = Table(box=box.SIMPLE_HEAD, header_style="bold", pad_edge=False, caption_justify="left")
        left_out = {(row["model"], row["condition"]) for row in self.run.get("left_out", ())}
        rows = {(row["model"], row["condition"]): row for row in self.cells}
        if any(row["status"] == "not_attacked" for key, row in rows.items() if key not in left_out):
            table.caption = "* some samples could not be attacked: they count as without attack"
        table.add_column("condition", no_wrap=True)
        for model in self.models:
            table.add_column(Text(model), justify="right", overflow="fold")
        for condition in self.conditions:
            pairs = [(model, condition) for model in self.models]
            table.add_row(condition, *("left out" if p in left_out else _accuracy(rows.get(p)) for p in pairs))
        self._add_spread(table)
        self._add_natural(table)
        costs = {row["model"]: row for row in self.efficiency}
        parity = {row["model"]: row for row in self.parity}
        if costs or parity:
            table.add_section()
        if costs:
            for label, text in _COSTS:
                table.add_row(label, *(text(costs[m]) if m in costs else "-" for m in self.models))
        if parity:
            different = (f"{parity[m]['different']}/{parity[m]['logits']}" if m in parity else "-" for m in self.models)
            table.add_row("logits that differ", *different)
        return table

    def _add_spread(self, table: Table) -> None:
        """Mean, deviation and worst case over what is compared with the reference."""
        if not self.spread:
            return
        compared = (
            f"accuracy, then flipped predictions and KL divergence of the logits against {self.spread[0]['reference']}"
        )
        table.caption = f"{table.caption}\n{compared}" if table.caption else compared
        groups = {(row["model"], row["group"]): row for row in self.spread}
        table.add_section()
        for group in dict.fromkeys(row["group"] for row in self.spread):
            found = [groups.get((model, group)) for model in self.models]
            count = next(row["conditions"] for row in found if row is not None)
            table.add_row(f"{group}: mean, std of {count}", *(_mean(row) for row in found))
            table.add_row(f"{group}: worst, always right", *(_worst(row) for row in found))

    def _add_natural(self, table: Table) -> None:
        """A line for every mean over corruptions, in percent."""
        found = {(row["model"], row["metric"]): row for row in self.natural}
        shown = [(metric, label) for metric, label in MEAN_LABELS if any(m == metric for _, m in found)]
        if shown:
            table.add_section()
        for metric, label in shown:
            table.add_row(label, *(_share(found.get((model, metric))) for model in self.models))

    def report(self, path: str | Path) -> None:
        """Write one self-contained HTML file."""
        # The report is a floor above this one, so it is looked up when it is asked for.
        importlib.import_module("robustlab.report").write_report(self, path)

    @classmethod
    def load(cls, out: str | Path) -> Results:
        """The results of a finished run, from the ``results.json`` and the store in its folder.

        Raises `StoreError` where there are none, or they are malformed.
        """
        folder = Path(out)
        file = folder / "results.json"
        try:
            document = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else "not JSON"
            raise StoreError(f"results {file} cannot be read: {reason}") from error
        if not isinstance(document, dict) or document.get("schema") != SCHEMA:
            raise StoreError(f"results {file} are of another schema; allowed: schema {SCHEMA}")
        if not (folder / FILE_NAME).is_file():
            raise StoreError(f"result store {folder / FILE_NAME} is missing")
        try:
            with Store(folder / FILE_NAME) as store:
                return cls(
                    run=document["run"],
                    cells=document["cells"],
                    efficiency=document["efficiency"],
                    parity=document["parity"],
                    examples=_load_examples(document["examples"], store),
                    class_names=tuple(document["class_names"]),
                    spread=document.get("spread", []),
                    natural=document.get("natural", []),
                    agreement=document.get("agreement", []),
                )
        except (KeyError, TypeError) as error:
            raise StoreError(f"results {file} are malformed: {error}") from error


def _load_examples(rows: list[dict[str, Any]], store: Store) -> list[Example]:
    pictures = {(key, e.sample): e.png for key in {r["images"] for r in rows} for e in store.examples(key)}
    known = [row for row in rows if (row["images"], row["sample"]) in pictures]
    return [Example(**row, png=pictures[row["images"], row["sample"]]) for row in known]


def _accuracy(row: CellRow | None) -> str:
    if row is None:
        return "-"
    half = 50 * (row["ci_high"] - row["ci_low"])
    mark = "" if row["status"] == "done" else " *"
    text = f"{100 * row['accuracy']:.1f} ±{half:.1f}{mark}"
    if row.get("flip_rate") is None or row["reference"] == row["condition"]:
        return text
    divergence = "-" if row["kl"] is None else f"{row['kl']:.3f}"
    return f"{text}  {100 * (row['flip_rate'] or 0):.1f}  {divergence}"


def _mean(row: SpreadRow | None) -> str:
    return "-" if row is None else f"{100 * row['mean']:.1f} {100 * row['std']:.2f}"


def _worst(row: SpreadRow | None) -> str:
    return "-" if row is None else f"{100 * row['worst']:.1f} {100 * row['always']:.1f}"


def _write_atomically(path: Path, text: str) -> None:
    """Through a temporary file of its own name: a reader, or a second process, never sees half a file."""
    handle, name = tempfile.mkstemp(prefix=path.name, suffix=".part", dir=path.parent)
    try:
        with os.fdopen(handle, "w", encoding="utf-8", newline="") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        Path(name).chmod(0o644)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
