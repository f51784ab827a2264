"""Measurements that outlive the process: one JSON file, rewritten whole after every value."""

from __future__ import annotations

import json
import logging
import math
from pathlib import Path

from robustlab.core.errors import StoreError

_log = logging.getLogger(__name__)
_SCHEMA = 1


class Ledger:
    """Numbers by (layer, choice), kept in `path` under a `fingerprint` of everything they depend on.

    A file with another fingerprint is not read: its numbers belong to another model, other images or settings, and it
    is overwritten with the first new value. With `path` None nothing is kept.
    Raises `StoreError` for a file that is no ledger: it may be something of the user's.
    """

    def __init__(self, path: Path | None, fingerprint: str) -> None:
        self.path = path
        self.fingerprint = fingerprint
        self._values: dict[str, dict[str, float]] = {}
        if path is not None and path.exists():
            self._values = self._read(path)

    def get(self, layer: str, choice: str) -> float | None:
        """The number, or None if it is not known yet."""
        return self._values.get(layer, {}).get(choice)

    def put(self, layer: str, choice: str, value: float) -> None:
        """Keep a number, on disk before this returns."""
        self._values.setdefault(layer, {})[choice] = value
        if self.path is None:
            return
        content = {"schema": _SCHEMA, "fingerprint": self.fingerprint, "values": self._values}
        partial = self.path.with_name(self.path.name + ".partial")
        try:
            partial.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
            partial.replace(self.path)
        except OSError as error:
            raise StoreError(f"{self.path} cannot be written: {error.strerror or error}") from error

    def _read(self, path: Path) -> dict[str, dict[str, float]]:
        wrong = f"{path} is no file of sensitivities; move it away or name another file"
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise StoreError(f"{wrong} ({' '.join(str(error).split())})") from error
        if not isinstance(content, dict) or not {"schema", "fingerprint", "values"} <= content.keys():
            raise StoreError(wrong)
        if content["schema"] != _SCHEMA or content["fingerprint"] != self.fingerprint:
            _log.warning("%s is of another model, other images or settings: measuring anew", path)
            return {}
        values = content["values"]
        if not (isinstance(values, dict) and all(isinstance(layer, dict) for layer in values.values())):
            raise StoreError(wrong)
        if not all(_number(value) for layer in values.values() for value in layer.values()):
            raise StoreError(wrong)
        return values


def _number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
