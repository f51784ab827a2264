"""What is seen while an evaluation runs: a table that fills in and a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

from rich.box import SIMPLE_HEAD
from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from robustlab.report.format import condition_kind, percent_text, seconds_text

if TYPE_CHECKING:
    from robustlab.evaluate.efficiency import EfficiencyRow
    from robustlab.evaluate.metrics import CellRow
    from robustlab.evaluate.parity import ParityRow


def console(models: int = 5) -> Console:
    """Standard output; where it is no terminal, wide enough that a table of so many models is not squeezed."""
    if sys.stdout.isatty():
        return Console(highlight=False)
    return Console(width=40 + 26 * max(models, 1), highlight=False)


def relative_cost(key: str) -> float:
    """What a condition costs per image, in forward passes: an attack's step is a forward and a backward pass."""
    if condition_kind(key) != "attack":
        return 1.0
    steps = re.match(r"[a-z]+([0-9]+)-", key)
    return 1.0 + 3.0 * (int(steps[1]) if steps else 1)


class Work:
    """How much of a grid is done. Units come condition by condition, equally many each, but cost differently."""

    def __init__(self, conditions: Sequence[str], units: int) -> None:
        self._costs = [relative_cost(key) for key in conditions] or [1.0]
        self._each = max(1.0, units / len(self._costs))

    def done(self, units: float) -> float:
        """Share of the work, in [0, 1], that `units` units are."""
        whole = min(int(units / self._each), len(self._costs))
        part = units / self._each - whole
        costs = sum(self._costs[:whole]) + (self._costs[whole] * part if whole < len(self._costs) else 0.0)
        return min(1.0, costs / sum(self._costs))


class Watcher(Protocol):
    """Told of progress and of results: `robustlab.core.Progress` and `robustlab.evaluate.Listener` in one."""

    def start(self, task: str, total: int) -> None:
        """A task begins."""

    def advance(self, units: int = 1, note: str = "") -> None:
        """So much more is done."""

    def finish(self) -> None:
        """The task ended."""

    def planned(self, models: Sequence[str], conditions: Sequence[str], images: int) -> None:
        """All inputs are checked."""

    def cell(self, row: CellRow) -> None:
        """A cell has one more shard."""

    def efficiency(self, row: EfficiencyRow) -> None:
        """A model was timed."""

    def parity(self, row: ParityRow) -> None:
        """A deployed model was compared with its simulation."""


def _score(row: CellRow) -> str:
    return f"{percent_text(row['accuracy'])} ±{50 * (row['ci_high'] - row['ci_low']):.1f}"


class PlainLines:
    """One line per finished cell, for logs and pipes."""

    def __init__(self, out: Console) -> None:
        self._out = out
        self._images = 0
        self._cells = (0, 0)
        self._widths = (0, 0)

    def start(self, task: str, total: int) -> None:
        """See `Watcher`."""

    def advance(self, units: int = 1, note: str = "") -> None:
        """See `Watcher`."""

    def finish(self) -> None:
        """See `Watcher`."""

    def planned(self, models: Sequence[str], conditions: Sequence[str], images: int) -> None:
        """See `Watcher`."""
        self._images = images
        self._cells = (0, len(models) * len(conditions))
        self._widths = (max(map(len, models)), max(map(len, conditions)))
        self._line(f"{len(models)} models x {len(conditions)} conditions, {images} images")

    def cell(self, row: CellRow) -> None:
        """See `Watcher`."""
        if row["n"] < self._images:
            return
        done, total = self._cells[0] + 1, self._cells[1]
        self._cells = (done, total)
        names = f"{row['model']:<{self._widths[0]}}  {row['condition']:<{self._widths[1]}}"
        state = "" if row["status"] == "done" else f"  {row['status']}"
        self._line(f"[{done}/{total}]  {names}  {_score(row)} %  {row['seconds']:.1f} s{state}")

    def efficiency(self, row: EfficiencyRow) -> None:
        """See `Watcher`."""
        self._line(f"{row['model']}: {row['latency_p50_ms']:.2f} ms per image, {row['images_per_s']:.0f} images/s")

    def parity(self, row: ParityRow) -> None:
        """See `Watcher`."""

    def _line(self, text: str) -> None:
        self._out.print(text, markup=False, soft_wrap=True)


class LiveTable:
    """A table of models and conditions that fills in, above a bar with the time left."""

    def __init__(self, live: Live) -> None:
        self._live = live
        self._models: list[str] = []
        self._conditions: list[str] = []
        self._scores: dict[tuple[str, str], Text] = {}
        self._images = 0
        self._task = ""
        self._work: Work | None = None
        self._total = 1
        self._units = 0
        self._begin = 0.0
        self._note = ""
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=32),
            TaskProgressColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[left]}"),
            TextColumn("{task.fields[note]}", style="dim", markup=False),
        )
        self._row = self._bar.add_task("", total=1.0, left="", note="")

    def start(self, task: str, total: int) -> None:
        """See `Watcher`."""
        self._task, self._total, self._units, self._begin = task, max(total, 1), 0, time.monotonic()
        self._work = Work(self._conditions, total) if task == "evaluate" else None
        self._bar.reset(self._row, description=task, total=1.0, left="", note="")
        self._show()

    def advance(self, units: int = 1, note: str = "") -> None:
        """See `Watcher`."""
        self._units += units
        share = self._work.done(self._units) if self._work else self._units / self._total
        spent = time.monotonic() - self._begin
        left = f"about {seconds_text(spent * (1 - share) / share)} left" if share > 0.01 and share < 1 else ""
        self._bar.update(self._row, completed=share, left=left, note=note)
        self._show()

    def finish(self) -> None:
        """See `Watcher`."""
        self._show()

    def planned(self, models: Sequence[str], conditions: Sequence[str], images: int) -> None:
        """See `Watcher`."""
        self._models, self._conditions, self._images = list(models), list(conditions), images
        self._show()

    def cell(self, row: CellRow) -> None:
        """See `Watcher`."""
        final = row["n"] >= self._images
        text = _score(row) + ("" if row["status"] == "done" else " *")
        self._scores[row["model"], row["condition"]] = Text(text, style="" if final else "dim")
        self._show()

    def efficiency(self, row: EfficiencyRow) -> None:
        """See `Watcher`."""
        self._scores[row["model"], "latency p50 ms"] = Text(f"{row['latency_p50_ms']:.2f}")
        self._show()

    def parity(self, row: ParityRow) -> None:
        """See `Watcher`."""
        style = "bold red" if row["different"] else ""
        self._scores[row["model"], "logits that differ"] = Text(str(row["different"]), style=style)
        self._show()

    def table(self) -> Table:
        """The table as it is now: a row per condition, a column per model."""
        table = Table(box=SIMPLE_HEAD, header_style="bold")
        table.add_column("accuracy %", no_wrap=True)
        for model in self._models:
            table.add_column(Text(model), justify="right", overflow="fold")
        extra = [name for name in ("latency p50 ms", "logits that differ") if any(k == name for _, k in self._scores)]
        for key in [*self._conditions, *extra]:
            table.add_row(Text(key), *(self._scores.get((m, key), Text("·", style="dim")) for m in self._models))
        return table

    def _show(self) -> None:
        self._live.update(Group(self.table(), self._bar) if self._models else self._bar)


@contextmanager
def watch() -> Iterator[Watcher]:
    """A live table if standard output is a terminal (gone at the end), plain lines otherwise."""
    out = console()
    if not out.is_terminal:
        yield PlainLines(out)
        return
    with Live(console=out, refresh_per_second=6, transient=True) as live:
        yield LiveTable(live)
