"""Finished parts of an audit, on disk as soon as they are known."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from robustlab.core.errors import StoreError

FILE_NAME = "audit-stages.json"
_SCHEMA = 1


class Ledger:
    """JSON values by name, under a key of everything that they depend on.

    A folder holds the parts of several audits: each has its key. With `folder` None nothing is kept.
    Raises `StoreError` for a file that is no ledger: it may be something of the user's.
    """

    def __init__(self, folder: Path | None, key: str) -> None:
        self.path = None if folder is None else folder / FILE_NAME
        self.key = key
        self.reused = 0
        self._audits: dict[str, dict[str, Any]] = {}
        if self.path is not None and self.path.exists():
            self._audits = _read(self.path)

    def get(self, name: str, make: Callable[[], Mapping[str, Any]]) -> Mapping[str, Any]:
        """The value called `name`; if it is not known yet it is made, and kept before this returns."""
        parts = self._audits.setdefault(self.key, {})
        if name in parts:
            self.reused += 1
            found: Mapping[str, Any] = parts[name]
            return found
        parts[name] = json.loads(json.dumps(make()))
        self._write()
        made: Mapping[str, Any] = parts[name]
        return made

    def _write(self) -> None:
        if self.path is None:
            return
        partial = self.path.with_name(self.path.name + ".partial")
        try:
            partial.write_text(json.dumps({"schema": _SCHEMA, "audits": self._audits}) + "\n", encoding="utf-8")
            partial.replace(self.path)
        except OSError as error:
            raise StoreError(f"{self.path} cannot be written: {error.strerror or error}") from error


def _read(path: Path) -> dict[str, dict[str, Any]]:
    wrong = f"{path} is no file of an audit; move it away or name another folder"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise StoreError(f"{wrong} ({' '.join(str(error).split())})") from error
    audits = content.get("audits") if isinstance(content, dict) else None
    if content.get("schema") != _SCHEMA if isinstance(content, dict) else True:
        raise StoreError(wrong)
    if not isinstance(audits, dict) or not all(isinstance(parts, dict) for parts in audits.values()):
        raise StoreError(wrong)
    return audits
