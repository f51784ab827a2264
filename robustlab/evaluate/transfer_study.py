"""The cross-precision matrix of models on a data set, with confidence intervals, row by row on disk."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypedDict, cast

import torch
from torch import nn

from robustlab.attacks import Attack
from robustlab.attacks.transfer.matrix import transfer_rows
from robustlab.core import Progress, SilentProgress
from robustlab.core.errors import check_int, invalid
from robustlab.core.keys import sample_keys
from robustlab.core.tiles import DEFAULT_TILE
from robustlab.datasets import Dataset
from robustlab.deploy import fingerprint
from robustlab.evaluate.environment import torch_minor
from robustlab.evaluate.kept import Kept
from robustlab.evaluate.metrics import wilson
from robustlab.evaluate.plan import read_batch

VERSION = 1
"""Raised when the matrix of the same models and attack changes."""
_BATCH = 256


class MatrixRow(TypedDict):
    """A cell: accuracies are shares in [0, 1], with a 95 % Wilson interval; see `robustlab.attacks.TransferCell`."""

    source: str
    target: str
    n: int
    correct: int
    accuracy: float
    ci_low: float
    ci_high: float
    clean: float
    not_attacked: int


def transfer_study(
    attack: Attack,
    models: Mapping[str, nn.Module],
    data: Dataset,
    *,
    images: int = 256,
    seed: int = 0,
    tile: int = DEFAULT_TILE,
    kept: Path | None = None,
    progress: Progress | None = None,
) -> list[MatrixRow]:
    """All cells, source by source, on the first `images` images of `data`.

    `kept` is a file for finished rows, so that a matrix that was stopped goes on. Raises `RobustlabError` for bad
    arguments.
    """
    if not models:
        raise invalid("models", models, "a dict of at least one name and model")
    ids = range(min(check_int("images", images, 1), len(data)))
    parts = [read_batch(data, ids[start : start + _BATCH]) for start in range(0, len(ids), _BATCH)]
    shown, labels = torch.cat([x for x, _ in parts]), torch.cat([y for _, y in parts])
    keys = sample_keys(seed, attack.slug, ids)
    ledger = None if kept is None else Kept(kept)
    progress = progress or SilentProgress()
    progress.start("transfer", len(models))
    marks = {name: fingerprint(model) for name, model in models.items()}
    rows: list[MatrixRow] = []
    try:
        for source, model in models.items():
            identity = {
                "version": [VERSION, attack.version],
                "attack": repr(attack),
                "source": marks[source],
                "targets": sorted(marks.items()),
                "name": source,
                "data": [data.fingerprint, len(ids)],
                "seed": seed,
                "tile": tile,
                "torch": torch_minor(),
            }

            def make(source: str = source, model: nn.Module = model) -> list[dict[str, Any]]:
                (row,) = transfer_rows(attack, models, shown, labels, sources={source: model}, keys=keys, tile=tile)
                return [asdict(cell) for cell in row]

            cells = make() if ledger is None else ledger.get(identity, make)
            rows += [_row(cell) for cell in cells]
            progress.advance(1, f"made on {source}")
    finally:
        progress.finish()
    return rows


def _row(cell: Mapping[str, Any]) -> MatrixRow:
    low, high = wilson(cell["correct"], cell["n"])
    shares = {"accuracy": cell["correct"] / cell["n"], "clean": cell["clean"] / cell["n"]}
    return cast(MatrixRow, {**cell, **shares, "ci_low": low, "ci_high": high})


def csv_text(rows: Sequence[MatrixRow]) -> str:
    """One line for each cell."""
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, list(MatrixRow.__annotations__), lineterminator="\n")
    writer.writeheader()
    writer.writerows([dict(row) for row in rows])
    return buffer.getvalue()
