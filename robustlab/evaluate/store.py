"""The store of outcomes: one SQLite file, one row per cell (model x condition x shard), nothing pickled.

A cell is committed in one transaction when it ends, so a killed run loses only the cell it was in. The write-ahead log
lets several processes use one store; the same cell computed twice has the same values, and the first one stays.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from robustlab.core import StoreError
from robustlab.evaluate.outcomes import NO_PREDICTION, Array, Outcomes

SCHEMA = 1
FILE_NAME = "results.sqlite"
_APPLICATION_ID = 0x524C4142  # "RLAB": tells this store from any other program's database
_MAGIC = b"SQLite format 3\0"
_BUSY_MS = 30_000

_TABLES = {
    "cells": (
        "key TEXT PRIMARY KEY, model TEXT NOT NULL, condition TEXT NOT NULL, shard INTEGER NOT NULL, "
        "n INTEGER NOT NULL, ids BLOB NOT NULL, prediction BLOB NOT NULL, correct BLOB NOT NULL, "
        "confidence BLOB NOT NULL, linf BLOB NOT NULL, l2 BLOB NOT NULL, attacked BLOB NOT NULL, "
        "seconds REAL NOT NULL, created TEXT NOT NULL"
    ),
    "examples": (
        "images TEXT NOT NULL, sample INTEGER NOT NULL, label INTEGER NOT NULL, png BLOB NOT NULL, "
        "PRIMARY KEY (images, sample)"
    ),
    "measurements": "key TEXT PRIMARY KEY, kind TEXT NOT NULL, payload TEXT NOT NULL, created TEXT NOT NULL",
}
_BLOBS = {
    "ids": "<i8",
    "prediction": "<i4",
    "correct": "bits",
    "confidence": "<f4",
    "linf": "<f4",
    "l2": "<f4",
    "attacked": "bits",
}


def digest(parts: dict[str, object]) -> str:
    """sha256 (hex) of named values: the key of a cell or a measurement."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, allow_nan=False).encode()).hexdigest()


@dataclass(frozen=True)
class StoredExample:
    """A sample as a model is shown it: the bytes of a PNG."""

    sample: int
    label: int
    png: bytes


@dataclass(frozen=True)
class Cell:
    """A row of the store. `images` is the key of the images shown, which models share where they may."""

    key: str
    images: str
    model: str
    condition: str
    shard: int
    outcomes: Outcomes
    seconds: float


def _pack(values: Array, kind: str) -> bytes:
    return np.packbits(values).tobytes() if kind == "bits" else values.astype(kind).tobytes()


def _unpack(blob: object, kind: str, n: int, where: str) -> Array:
    size = (n + 7) // 8 if kind == "bits" else n * np.dtype(kind).itemsize
    if not isinstance(blob, bytes) or len(blob) != size:
        shown = len(blob) if isinstance(blob, bytes) else type(blob).__name__
        raise StoreError(f"{where} has {shown} bytes; allowed: {size} bytes; delete the file to start over")
    if kind == "bits":
        return np.unpackbits(np.frombuffer(blob, dtype=np.uint8), count=n).astype(bool)
    return np.frombuffer(blob, dtype=kind).astype(np.dtype(kind).newbyteorder("="))


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


class Store:
    """An open store. Use it as a context manager; raises `StoreError` in one line for whatever is wrong with it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._check_file()
        with self._errors():
            self._db = sqlite3.connect(path, timeout=_BUSY_MS / 1000, isolation_level=None)
        try:
            self._open()
        except BaseException:
            self._db.close()
            raise

    def __enter__(self) -> Store:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; what is committed stays."""
        self._db.close()

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            reason = " ".join(str(error).split())
            raise StoreError(f"result store {self.path} cannot be used: {reason}") from error

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        with self._errors():
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
            except BaseException:
                self._db.execute("ROLLBACK")
                raise
            self._db.execute("COMMIT")

    def _check_file(self) -> None:
        try:
            with self.path.open("rb") as file:
                head = file.read(len(_MAGIC))
        except FileNotFoundError:
            return
        except OSError as error:
            raise StoreError(f"result store {self.path} cannot be used: {error.strerror}") from error
        if head and head != _MAGIC:
            raise StoreError(f"result store {self.path} is not a database of robustlab; choose another folder")

    def _open(self) -> None:
        with self._errors():
            self._db.execute(f"PRAGMA busy_timeout = {_BUSY_MS}")
            # Looked at before anything is written: another program's database stays as it is.
            self._check_owner()
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute("PRAGMA synchronous = NORMAL")
        with self._transaction():
            if self._check_owner() == 0:
                for name, columns in _TABLES.items():
                    self._db.execute(f"CREATE TABLE {name} ({columns})")
                self._db.execute(f"PRAGMA application_id = {_APPLICATION_ID}")
                self._db.execute(f"PRAGMA user_version = {SCHEMA}")
        with self._errors():
            self._db.execute(f"SELECT key, model, condition, shard, n, {', '.join(_BLOBS)}, seconds FROM cells LIMIT 0")
            self._db.execute("SELECT images, sample, label, png FROM examples LIMIT 0")
            self._db.execute("SELECT key, kind, payload FROM measurements LIMIT 0")

    def _check_owner(self) -> int:
        """The schema of the store, 0 if the file is still empty."""
        owner = self._db.execute("PRAGMA application_id").fetchone()[0]
        version = int(self._db.execute("PRAGMA user_version").fetchone()[0])
        if self._db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0] == 0 and owner == 0:
            return 0
        if owner != _APPLICATION_ID:
            raise StoreError(f"result store {self.path} is another program's database; choose another folder")
        if version != SCHEMA:
            age = "a newer" if version > SCHEMA else "an older"
            raise StoreError(
                f"result store {self.path} has schema {version}, written by {age} robustlab; allowed: schema {SCHEMA}"
            )
        return version

    def get(self, key: str, ids: Sequence[int]) -> tuple[Outcomes, float] | None:
        """The outcomes and seconds of a cell, or None. Raises `StoreError` if its arrays do not fit `ids`."""
        with self._errors():
            row = self._db.execute(
                f"SELECT n, seconds, {', '.join(_BLOBS)} FROM cells WHERE key = ?", (key,)
            ).fetchone()
        if row is None:
            return None
        n, seconds, *blobs = row
        where = f"cell {key[:12]} in result store {self.path}"
        if n != len(ids) or not isinstance(seconds, float):
            raise StoreError(f"{where} has {n!r} samples; allowed: {len(ids)}; delete the file to start over")
        arrays: dict[str, Array] = {
            name: _unpack(blob, kind, n, f"{name} of {where}")
            for (name, kind), blob in zip(_BLOBS.items(), blobs, strict=True)
        }
        if arrays["ids"].tolist() != list(ids) or (arrays["prediction"] < NO_PREDICTION).any():
            raise StoreError(f"{where} holds other samples than it should; delete the file to start over")
        return Outcomes(**arrays), seconds

    def put(self, cell: Cell, examples: Sequence[StoredExample] = ()) -> None:
        """Commit a cell, and the example images it was shown, in one transaction."""
        o = cell.outcomes
        blobs = [_pack(getattr(o, name), kind) for name, kind in _BLOBS.items()]
        row = [cell.key, cell.model, cell.condition, cell.shard, len(o), *blobs, float(cell.seconds), _now()]
        columns = f"key, model, condition, shard, n, {', '.join(_BLOBS)}, seconds, created"
        marks = ", ".join("?" * len(row))
        with self._transaction():
            self._db.execute(f"INSERT INTO cells ({columns}) VALUES ({marks}) ON CONFLICT (key) DO NOTHING", row)
            self._db.executemany(
                "INSERT INTO examples (images, sample, label, png) VALUES (?, ?, ?, ?) "
                "ON CONFLICT (images, sample) DO NOTHING",
                [(cell.images, e.sample, e.label, e.png) for e in examples],
            )

    def examples(self, images: str) -> list[StoredExample]:
        """The stored example images under this key, by sample."""
        with self._errors():
            rows = self._db.execute(
                "SELECT sample, label, png FROM examples WHERE images = ? ORDER BY sample", (images,)
            ).fetchall()
        for sample, label, png in rows:
            if not (isinstance(sample, int) and isinstance(label, int) and isinstance(png, bytes)):
                raise StoreError(f"an example in result store {self.path} is malformed; delete the file to start over")
        return [StoredExample(*row) for row in rows]

    def measurement(self, key: str) -> dict[str, Any] | None:
        """A stored measurement (efficiency, parity), or None."""
        with self._errors():
            row = self._db.execute("SELECT payload FROM measurements WHERE key = ?", (key,)).fetchone()
        if row is None:
            return None
        try:
            payload = json.loads(row[0])
        except (TypeError, ValueError):
            payload = None
        if not isinstance(payload, dict):
            raise StoreError(f"a measurement in result store {self.path} is malformed; delete the file to start over")
        return payload

    def put_measurement(self, key: str, kind: str, payload: dict[str, Any]) -> None:
        """Commit a measurement."""
        text = json.dumps(payload, sort_keys=True, allow_nan=False)
        with self._transaction():
            self._db.execute(
                "INSERT INTO measurements (key, kind, payload, created) VALUES (?, ?, ?, ?) "
                "ON CONFLICT (key) DO NOTHING",
                (key, kind, text, _now()),
            )

    def count(self) -> int:
        """How many cells there are."""
        with self._errors():
            return int(self._db.execute("SELECT count(*) FROM cells").fetchone()[0])
