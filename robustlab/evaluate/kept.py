"""JSON values on disk by a key of everything that they depend on: what a run that was stopped does not do again."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from robustlab.core.errors import StoreError
from robustlab.evaluate.store import digest


class Kept:
    """A file of values. Raises `StoreError` for one that is something else, or cannot be written."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.reused = 0
        self._values: dict[str, Any] = {}
        if path.exists():
            wrong = f"{path} holds no results; move it away or name another folder"
            try:
                content = json.loads(path.read_text(encoding="utf-8"))
                self._values = dict(content["values"])
            except (OSError, ValueError, TypeError, KeyError) as error:
                raise StoreError(f"{wrong} ({' '.join(str(error).split())})") from error

    def get(self, identity: dict[str, Any], make: Callable[[], Any]) -> Any:
        """The value of `identity`; if it is not there it is made, and written before this returns."""
        key = digest(identity)
        if key in self._values:
            self.reused += 1
            return self._values[key]
        value = self._values[key] = json.loads(json.dumps(make()))
        partial = self.path.with_name(self.path.name + ".partial")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            partial.write_text(json.dumps({"values": self._values}) + "\n", encoding="utf-8")
            partial.replace(self.path)
        except OSError as error:
            raise StoreError(f"{self.path} cannot be written: {error.strerror or error}") from error
        return value
