"""The grid: condition -> shard -> models, each cell committed to the store when it ends.

Models are only called through `Tiled`, and randomness only comes from keys, so outcomes depend neither on the batch
size nor on where a run was resumed. Images live for one batch: memory does not grow with their number.
"""

from __future__ import annotations

import io
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from robustlab.core import Progress, RobustlabError, Tiled, frozen, map_tiles
from robustlab.core.keys import sample_keys
from robustlab.core.tiles import tiles
from robustlab.evaluate.binding import judged
from robustlab.evaluate.comparison import Comparison, join_comparisons
from robustlab.evaluate.conditions import Condition
from robustlab.evaluate.listener import Listener
from robustlab.evaluate.memory import return_freed_memory, reusing_freed_memory
from robustlab.evaluate.metrics import CellRow, Tally
from robustlab.evaluate.outcomes import Outcomes, join, score
from robustlab.evaluate.plan import SHARD, Plan, Shard, Subject, read_batch
from robustlab.evaluate.reference import Reference
from robustlab.evaluate.sampling import show_to_all
from robustlab.evaluate.shown import Shown
from robustlab.evaluate.spread import Spread, SpreadRow
from robustlab.evaluate.store import Cell, Store, StoredExample

EXAMPLES = 8  # of every condition, the first samples are kept as pictures


@dataclass
class GridResult:
    """What the grid came to. `predictions` of the example samples, and `correct` bool (n,), by (model, condition)."""

    cells: list[CellRow] = field(default_factory=list)
    spread: list[SpreadRow] = field(default_factory=list)
    correct: dict[tuple[str, str], NDArray[np.bool_]] = field(default_factory=dict)
    predictions: dict[tuple[str, str], list[int]] = field(default_factory=dict)
    from_store: int = 0
    computed: int = 0


@dataclass
class _Unfinished:
    """A cell in the making."""

    subject: Subject
    tiled: Tiled
    key: str
    condition: Condition  # as it is for this model
    parts: list[Outcomes] = field(default_factory=list)
    comparisons: list[Comparison] = field(default_factory=list)
    examples: list[StoredExample] = field(default_factory=list)
    seconds: float = 0.0


def image_key(plan: Plan, subject: Subject, condition: Condition, shard: Shard) -> str:
    """The key of the images that `subject` is shown: shared by all models where they do not depend on it."""
    return plan.key(subject if condition.depends_on_model else None, condition, shard)


def encode_png(image: Tensor) -> bytes:
    """The bytes of a PNG of an image (3, H, W) in [0, 1], rounded to the nearest of 256 levels."""
    levels = (image.detach().cpu().clamp(0, 1) * 255).round().byte().permute(1, 2, 0).contiguous()
    buffer = io.BytesIO()
    Image.fromarray(np.asarray(levels)).save(buffer, format="PNG")
    return buffer.getvalue()


class _CleanImages:
    """The clean images of one batch at a time: conditions that see the same batch in turn do not make it again."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._ids: range | None = None
        self._batch: tuple[Tensor, Tensor] | None = None

    def get(self, ids: range) -> tuple[Tensor, Tensor]:
        if self._batch is None or self._ids != ids:
            self._batch = None  # let go before making the next one
            images, labels = read_batch(self._plan.data, ids)
            self._batch = images.to(self._plan.device), labels.to(self._plan.device)
            self._ids = ids
        return self._batch


class _Grid:
    """The state of one run of the grid."""

    def __init__(self, plan: Plan, store: Store, progress: Progress, listener: Listener) -> None:
        self._plan = plan
        self._store = store
        self._progress = progress
        self._listener = listener
        self._clean = _CleanImages(plan)
        self._tiled = {s.name: Tiled(s.attacked, plan.tile).eval() for s in plan.subjects}
        self._bound: dict[str, Condition] = {}  # of the condition that is being run
        self._reference = Reference(plan, store, self._tiled, self._clean.get)
        self._spread = Spread()
        self._since_returned = 0
        self.result = GridResult()

    def run(self) -> None:
        plan = self._plan
        for condition in plan.conditions:
            reference = plan.suite.reference if self._reference.compares(condition) else None
            tallies = {
                s.name: Tally(
                    s.name,
                    condition.key,
                    s.gradient if condition.needs_gradient else "none",
                    condition.adversarial or s.lacks(condition),
                    reference=reference,
                )
                for s in plan.subjects
            }
            self._bound = {s.name: plan.bound(s, condition) for s in plan.subjects}
            for shard in plan.shards():
                self._run_shard(condition, shard, tallies)
            self.result.cells.extend(tally.row() for tally in tallies.values())
            for tally in tallies.values():
                if tally.right:
                    self.result.correct[tally.model, tally.condition] = np.concatenate(tally.right)
        if self._reference.condition is not None:
            self.result.spread = self._spread.rows(self.result.cells, plan.conditions, self._reference.condition)

    def _run_shard(self, condition: Condition, shard: Shard, tallies: dict[str, Tally]) -> None:
        missing: list[_Unfinished] = []
        for subject in self._plan.subjects:
            key = self._plan.key(subject, condition, shard)
            found = self._store.get(key, shard.ids)
            compares = self._reference.compares(condition)
            comparison = self._reference.stored(condition, subject, shard) if compares and found else None
            if found is None or (compares and comparison is None):
                missing.append(_Unfinished(subject, self._tiled[subject.name], key, self._bound[subject.name]))
                continue
            self.result.from_store += 1
            self._take(tallies[subject.name], shard, *found, comparison)
            self._advance(len(shard), tallies[subject.name])
        for start, stop in tiles(len(shard), self._plan.in_flight) if missing else ():
            self._run_batch(condition, shard, shard.ids[start:stop], missing, tallies)
        if missing:
            self._return_memory(len(shard))

    def _return_memory(self, images: int) -> None:
        """Once in a whole shard's images: pages that are given back are cleared again when they are next used."""
        self._since_returned += images
        if self._since_returned >= SHARD:
            return_freed_memory()
            self._since_returned = 0

    def _run_batch(
        self, condition: Condition, shard: Shard, ids: range, missing: list[_Unfinished], tallies: dict[str, Tally]
    ) -> None:
        images, labels = self._clean.get(ids)
        keys = sample_keys(self._plan.seed, condition.key, ids)
        shared = None
        if not condition.depends_on_model:
            shared = show_to_all(condition, self._plan.data, ids, images, labels, keys)
        for cell in missing:
            begin = time.perf_counter()
            shown = shared or self._show(condition, cell, images, labels, keys)
            self._check(condition, cell.subject, shown, images, ids)
            with self._judged(condition, cell) as model:
                outcomes, logits = score(condition, model, shown, images, labels, ids)
            cell.parts.append(outcomes)
            if self._reference.compares(condition):
                cell.comparisons.append(self._reference.compare(condition, cell.subject, ids, logits))
            cell.seconds += time.perf_counter() - begin
            for row, sample in enumerate(ids):
                if sample < EXAMPLES:
                    cell.examples.append(StoredExample(sample, int(labels[row]), encode_png(shown.images[row])))
            del shown
            tally = tallies[cell.subject.name]
            if ids[-1] == shard.ids[-1]:
                self._commit(condition, shard, cell, tally)
            self._advance(len(ids), tally)

    def _show(self, condition: Condition, cell: _Unfinished, images: Tensor, labels: Tensor, keys: Tensor) -> Shown:
        if cell.subject.lacks(condition):
            nobody = labels != labels
            return Shown(images, nobody)
        return cell.condition.show(images, labels, keys, cell.tiled)

    def _judged(self, condition: Condition, cell: _Unfinished) -> AbstractContextManager[nn.Module]:
        """The model that is asked; one without a gradient is left alone by what needs one."""
        silent = cell.subject.lacks(condition) or (condition.needs_gradient and cell.subject.gradient == "none")
        return nullcontext(cell.tiled) if silent else judged(cell.condition, cell.tiled)

    def _check(self, condition: Condition, subject: Subject, shown: Shown, images: Tensor, ids: range) -> None:
        """The threat model is verified here, whatever made the images."""
        fits = shown.images.shape == images.shape and shown.images.dtype == images.dtype
        if not fits or shown.attacked.shape != (len(images),):
            raise RobustlabError(
                f"condition {condition.key} made {shown.images.dtype} {tuple(shown.images.shape)}; "
                f"allowed: {images.dtype} {tuple(images.shape)}"
            )
        inside = map_tiles(condition.contains, shown.images, images, size=self._plan.tile)
        if not bool(inside.all()):
            first = ids[int((~inside).nonzero()[0])]
            raise RobustlabError(
                f"condition {condition.key} on model {subject.name} left its threat model on {int((~inside).sum())} "
                f"of {len(ids)} images (first: sample {first}); allowed: inside it"
            )

    def _commit(self, condition: Condition, shard: Shard, cell: _Unfinished, tally: Tally) -> None:
        outcomes = join(cell.parts)
        shown = image_key(self._plan, cell.subject, condition, shard)
        row = Cell(cell.key, shown, cell.subject.name, condition.key, shard.index, outcomes, cell.seconds)
        self._store.put(row, cell.examples)
        comparison = join_comparisons(cell.comparisons) if cell.comparisons else None
        if comparison is not None:
            self._reference.put(condition, cell.subject, shard, comparison)
        self.result.computed += 1
        self._take(tally, shard, outcomes, cell.seconds, comparison)

    def _take(
        self, tally: Tally, shard: Shard, outcomes: Outcomes, seconds: float, comparison: Comparison | None
    ) -> None:
        tally.add(outcomes, seconds, comparison)
        if comparison is not None:
            self._spread.add(tally.model, tally.condition, shard.index, outcomes)
        if shard.index == 0:
            self.result.predictions[tally.model, tally.condition] = outcomes.prediction[:EXAMPLES].tolist()
        self._listener.cell(tally.row())

    def _advance(self, count: int, tally: Tally) -> None:
        accuracy = f" · {100 * tally.correct / tally.n:.1f} %" if tally.n else ""
        self._progress.advance(_tiles(count, self._plan.tile), f"{tally.model} · {tally.condition}{accuracy}")


def _tiles(count: int, tile: int) -> int:
    return -(-count // tile)


def total_tiles(plan: Plan, shards: Sequence[Shard]) -> int:
    """Units of progress of the whole grid."""
    return len(plan.subjects) * len(plan.conditions) * sum(_tiles(len(shard), plan.tile) for shard in shards)


def run_grid(plan: Plan, store: Store, progress: Progress, listener: Listener) -> GridResult:
    """Compute what the store does not have, and add everything up.

    Raises `RobustlabError` where a condition leaves its threat model. A `KeyboardInterrupt` leaves the store with all
    cells that ended.
    """
    progress.start("evaluate", total_tiles(plan, list(plan.shards())))
    try:
        with ExitStack() as stack:
            stack.enter_context(reusing_freed_memory())
            for subject in plan.subjects:
                stack.enter_context(frozen(subject.model))
            grid = _Grid(plan, store, progress, listener)
            grid.run()
    finally:
        progress.finish()
    return grid.result
