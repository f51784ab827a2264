"""How many bits halve the accuracy of models: chosen ones and random ones, part by part, with seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

from robustlab.attacks import FAULT_PARTS, BitSearch, FaultCurve, FaultPoint, Flip, RandomFlips
from robustlab.attacks.faults import Memory
from robustlab.core import Progress, SilentProgress
from robustlab.core.errors import ArgumentError, check_choice, check_int, invalid
from robustlab.core.keys import generators, sample_keys
from robustlab.datasets import Dataset
from robustlab.deploy import fingerprint
from robustlab.evaluate.environment import torch_minor
from robustlab.evaluate.kept import Kept
from robustlab.evaluate.plan import read_batch

SEARCHES = ("bfa", "random")
_BATCH = 256


@dataclass(frozen=True)
class FaultRow:
    """The curves of one model, part and search, one for each seed."""

    model: str
    part: str
    search: str
    curves: tuple[FaultCurve, ...]

    @property
    def bits(self) -> int:
        """Bits there are to flip."""
        return self.curves[0].bits

    @property
    def to_half(self) -> list[int]:
        """Bits to half of the accuracy, of the seeds that got there."""
        return sorted(curve.bits_to_half for curve in self.curves if curve.bits_to_half is not None)

    @property
    def median(self) -> float | None:
        """Median of bits to half of the accuracy; None where it is not reached by more than half of the seeds."""
        missing = len(self.curves) - len(self.to_half)
        values = [*map(float, self.to_half), *([float("inf")] * missing)]
        middle = median(values)
        return middle if middle < float("inf") else None

    @property
    def broken(self) -> int:
        """Seeds with answers that are not finite at the last point measured: models that visibly broke."""
        return sum(curve.points[-1].not_finite > 0 for curve in self.curves)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "model": self.model,
            "part": self.part,
            "search": self.search,
            "bits": self.bits,
            "bits_to_half": [curve.bits_to_half for curve in self.curves],
            "median_bits_to_half": self.median,
            "broken": self.broken,
            "curves": [curve.as_dict() for curve in self.curves],
        }


def fault_study(
    models: Mapping[str, nn.Module],
    tested: Dataset,
    training: Dataset,
    *,
    parts: Sequence[str] = ("weights", "scales"),
    searches: Sequence[str] = SEARCHES,
    images: int = 500,
    search_images: int = 128,
    flips: int = 100,
    random_flips: int = 2000,
    seeds: Sequence[int] = (0, 1, 2),
    candidates: int = 1,
    target: int | None = None,
    kept: Path | None = None,
    progress: Progress | None = None,
) -> list[FaultRow]:
    """Rows model by model, part by part, search by search.

    Args:
        models: by name; images -> logits. Each is left as it was.
        tested: accuracy is measured on its first `images` images.
        training: a search sees `search_images` of its images, drawn anew for every seed.
        parts: of `robustlab.attacks.FAULT_PARTS`, one after the other. A model without a part has no row for it.
        searches: ``bfa``, the progressive bit search, and ``random``.
        flips: at most, of the search; random_flips: at most, of random faults (or all bits, if there are fewer).
        candidates, target: of `BitSearch`.
        kept: a file for finished curves, so that a study that was stopped goes on.
        progress: told of every curve.

    Raises `RobustlabError` for bad arguments, before any work.
    """
    for name, number in (("images", images), ("search_images", search_images), ("flips", flips)):
        check_int(name, number, 1)
    check_int("random_flips", random_flips, 1)
    for part in parts:
        check_choice("part", part, FAULT_PARTS)
    for kind in searches:
        check_choice("search", kind, SEARCHES)
    ledger = None if kept is None else Kept(kept)
    progress = progress or SilentProgress()
    shown = _images(tested, range(min(images, len(tested))))
    plan = [(m, p, s) for m in models for p in parts if _bits(models[m], p) for s in searches]
    runs = {
        (p, s): [_search(s, p, flips, random_flips, seed, candidates, target) for seed in seeds] for _, p, s in plan
    }
    if not plan:
        raise invalid("parts", ", ".join(parts), "parts that at least one of the models has")
    progress.start("faults", len(plan) * len(seeds))
    rows = []
    try:
        for name, part, kind in plan:
            model, curves = models[name], []
            for seed, search in zip(seeds, runs[part, kind], strict=True):
                identity = {
                    "model": fingerprint(model),
                    "search": repr(search),
                    "version": search.version,
                    "data": [tested.fingerprint, len(shown[1])],
                    "training": [training.fingerprint, search_images] if kind == "bfa" else [],
                    "seed": seed,
                    "torch": torch_minor(),
                }

                def make(model: nn.Module = model, search: BitSearch | RandomFlips = search, seed: int = seed) -> Any:
                    if isinstance(search, RandomFlips):
                        return _at_most(search, model).run(model, *shown).as_dict()
                    known = _images(training, _drawn(len(training), search_images, seed))
                    return search.run(model, *known, judged=shown).as_dict()

                curve = _curve(make() if ledger is None else ledger.get(identity, make))
                curves.append(curve)
                half = "more" if curve.bits_to_half is None else str(curve.bits_to_half)
                progress.advance(1, f"{name} · {part} · {kind} · {half} bits")
            rows.append(FaultRow(name, part, kind, tuple(curves)))
    finally:
        progress.finish()
    return rows


def _search(
    kind: str, part: str, flips: int, random_flips: int, seed: int, candidates: int, target: int | None
) -> BitSearch | RandomFlips:
    if kind == "random":
        return RandomFlips(random_flips, parts=(part,), seed=seed)
    return BitSearch(flips, (part,), candidates=candidates, target=target)


def _bits(model: nn.Module, part: str) -> int:
    """0 where a model has no such part."""
    try:
        return Memory(model, (part,)).bits
    except ArgumentError:
        return 0


def _at_most(search: RandomFlips, model: nn.Module) -> RandomFlips:
    """No more flips than half of the bits there are: from there on flips undo what others did."""
    assert search.count is not None
    return replace(search, count=max(1, min(search.count, Memory(model, search.parts).bits // 2)))


def _drawn(available: int, count: int, seed: int) -> list[int]:
    generator = next(generators(sample_keys(seed, "fault-search-images", [0])))
    chosen: list[int] = sorted(generator.choice(available, min(count, available), replace=False).tolist())
    return chosen


def _images(data: Dataset, ids: Sequence[int]) -> tuple[Tensor, Tensor]:
    parts = [read_batch(data, list(ids[start : start + _BATCH])) for start in range(0, len(ids), _BATCH)]
    return torch.cat([images for images, _ in parts]), torch.cat([labels for _, labels in parts])


def _curve(content: dict[str, Any]) -> FaultCurve:
    """The inverse of `FaultCurve.as_dict`."""
    return FaultCurve(
        tuple(Flip(**flip) for flip in content["flips"]),
        tuple(FaultPoint(**point) for point in content["points"]),
        content["bits"],
        content["stopped"],
    )
