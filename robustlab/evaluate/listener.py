"""Who is told of results as they come in: the command line shows a live table with it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from robustlab.evaluate.efficiency import EfficiencyRow
from robustlab.evaluate.metrics import CellRow
from robustlab.evaluate.parity import ParityRow


class Listener(Protocol):
    """Told of every row. Calls come from the evaluating thread, in order, and should be cheap."""

    def planned(self, models: Sequence[str], conditions: Sequence[str], images: int) -> None:
        """All inputs are checked; work begins."""

    def cell(self, row: CellRow) -> None:
        """A (model, condition) has one more shard: `row` is its sum so far, final once `n` is all images."""

    def efficiency(self, row: EfficiencyRow) -> None:
        """A model's speed and size are known."""

    def parity(self, row: ParityRow) -> None:
        """A deployed model was compared with its simulation."""


class SilentListener:
    """Listens to nothing."""

    def planned(self, models: Sequence[str], conditions: Sequence[str], images: int) -> None:
        """See `Listener.planned`."""

    def cell(self, row: CellRow) -> None:
        """See `Listener.cell`."""

    def efficiency(self, row: EfficiencyRow) -> None:
        """See `Listener.efficiency`."""

    def parity(self, row: ParityRow) -> None:
        """See `Listener.parity`."""
