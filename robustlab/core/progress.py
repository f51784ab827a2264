"""How long work tells somebody how far it is. The library never prints; the command line passes in a bar."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Told of work as it is done. Implementations must be cheap: `advance` is called per tile or step."""

    def start(self, task: str, total: int) -> None:
        """A task of `total` units begins; tasks do not nest."""

    def advance(self, units: int = 1, note: str = "") -> None:
        """`units` more are done; `note` is a short line such as the current loss."""

    def finish(self) -> None:
        """The task ended."""


class SilentProgress:
    """Says nothing: the default everywhere."""

    def start(self, task: str, total: int) -> None:
        """See `Progress.start`."""

    def advance(self, units: int = 1, note: str = "") -> None:
        """See `Progress.advance`."""

    def finish(self) -> None:
        """See `Progress.finish`."""
