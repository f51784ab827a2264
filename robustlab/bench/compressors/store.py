"""The figures of a matrix as one JSON file, which a run that was stopped goes on from."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar

from robustlab.bench.compressors.cells import Cell, Latency, Quality
from robustlab.core.errors import StoreError, invalid
from robustlab.deploy import StoredBytes

SCHEMA = 1
T = TypeVar("T")


@dataclass(frozen=True)
class Settings:
    """What every figure of a matrix depends on. calibration, images: how many, counted; data: the digest of both.

    model_fingerprint: of the float model. iterations: of the algorithms that learn, None for their own.
    """

    model: str
    model_fingerprint: str
    data: str
    data_digest: str
    calibration: int
    images: int
    iterations: int | None
    seed: int
    robustlab: str
    torch: str


@dataclass
class CompressorBench:
    """The matrix: settings, the float model's accuracy (percent) and bytes, and the cells in the order of the jobs."""

    settings: Settings
    float_accuracy: float
    float_bytes: int
    cells: list[Cell] = field(default_factory=list)

    def put(self, cell: Cell) -> None:
        """Add a cell, or replace the one with its key."""
        for index, other in enumerate(self.cells):
            if other.key == cell.key:
                self.cells[index] = cell
                return
        self.cells.append(cell)

    def get(self, cell: Cell) -> Cell | None:
        """The cell with this cell's key."""
        return next((other for other in self.cells if other.key == cell.key), None)

    @property
    def errors(self) -> list[Cell]:
        """The cells without figures."""
        return [cell for cell in self.cells if cell.error]

    def as_dict(self) -> dict[str, object]:
        """For JSON."""
        return {"schema": SCHEMA, **asdict(self)}


def write(bench: CompressorBench, path: Path) -> None:
    """Write the file, whole or not at all."""
    partial = path.with_name(path.name + ".partial")
    partial.write_text(json.dumps(bench.as_dict(), indent=1) + "\n", encoding="utf-8")
    partial.replace(path)


def read(path: Path) -> CompressorBench:
    """Read what `write` wrote. Raises `StoreError` for anything else."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if found.pop("schema") != SCHEMA:
            raise ValueError(f"not schema {SCHEMA}")
        cells = [_cell(cell) for cell in found.pop("cells")]
        return CompressorBench(_made(Settings, found.pop("settings")), **found, cells=cells)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise StoreError(f"{path} holds no matrix of compressors ({error}); choose another file") from error


def resumed(path: Path | None, fresh: CompressorBench) -> CompressorBench:
    """What `path` holds already, else `fresh`. Raises `ArgumentError` where its settings are others."""
    if path is None or not path.exists():
        return fresh
    stored = read(path)
    before, now = asdict(stored.settings), asdict(fresh.settings)
    different = [name for name in now if before[name] != now[name]]
    if different:
        what = ", ".join(f"{name} {before[name]!r} instead of {now[name]!r}" for name in different)
        raise invalid("out", str(path), f"a new file, or one of the same model, data and settings; it has {what}")
    return stored


def _made(kind: type[T], values: Mapping[str, Any]) -> T:
    known = {f.name for f in fields(kind)}  # type: ignore[arg-type]
    if set(values) != known:
        raise ValueError(f"{kind.__name__} has other fields")
    return kind(**values)


def _cell(values: Mapping[str, Any]) -> Cell:
    parts: dict[str, Any] = {"quality": Quality, "stored": StoredBytes, "latency": Latency}
    nested = {name: _made(kind, values[name]) for name, kind in parts.items() if values[name] is not None}
    return _made(Cell, {**values, **nested})
