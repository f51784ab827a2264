"""Progressive bit search: the few bits of a deployed model that cost it most.

Rakin, He & Fan, "Bit-Flip Attack: Crushing Neural Network with Progressive Bit Search", ICCV 2019; with a target class,
Rakin et al., "T-BFA: Targeted Bit-Flip Adversarial Weight Attack", TPAMI 2021.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robustlab.attacks._goal import finite_rows
from robustlab.attacks._victim import logits_of
from robustlab.attacks.faults._gains import gains
from robustlab.attacks.faults._memory import ActivationNumber, Flip, Memory, Region
from robustlab.attacks.faults.curve import FaultCurve, Judge
from robustlab.attacks.faults.random_flips import check_parts, parts_slug
from robustlab.core import Progress, SilentProgress, Tiled, frozen
from robustlab.core.errors import ArgumentError, check_images, check_int, check_labels, check_number, invalid
from robustlab.deploy import unoptimized

_AT_ONCE = 4  # bits of a layer that are tried together where fewer do not help


@dataclass(frozen=True)
class BitSearch:
    """Flip, one after the other, the bits that raise the loss on a few images most.

    A step ranks the bits of each layer by the first-order change of the loss (the gradient of the model as deployed,
    through its surrogate), flips the best of each layer in turn and *measures* the loss on the kernel, and keeps the
    flip of the layer with the highest. Where none raises the loss, the two best of each layer are tried together, then
    three, then four. Bits of zero points and scales of activations, few as they are, are all measured.

    Attributes:
        flips: at most so many bits, at least 1.
        parts: of `robustlab.attacks.FAULT_PARTS`.
        candidates: how many of the best-ranked bits of a layer are measured one by one; 1 is the published search.
        target: a class that images are to be taken for; None: any wrong one.
        source: with a target, the class of the images that are to be taken for it; None: all images.
        stealthy: with a source, keep the answers on all other images right (T-BFA's third type).
        until: stop when this share of the clean accuracy, or less, is left; None: go on to `flips`.
        version: raised when the results of the same parameters change.

    A flip after which a logit is not finite is never kept: a model that visibly broke says nothing. The search knows
    the model and has no randomness. Raises `ArgumentError` for bad parameters.
    """

    flips: int = 20
    parts: tuple[str, ...] = ("weights",)
    candidates: int = 1
    target: int | None = None
    source: int | None = None
    stealthy: bool = False
    until: float | None = 0.5

    version = 1

    def __post_init__(self) -> None:
        check_int("flips", self.flips, 1)
        check_parts(self.parts)
        check_int("candidates", self.candidates, 1)
        if self.target is not None:
            check_int("target", self.target, 0)
        if self.source is not None:
            check_int("source", self.source, 0)
            if self.target is None or self.source == self.target:
                raise invalid("source", self.source, f"a class beside another target, which is {self.target}")
        if self.stealthy and self.source is None:
            raise invalid("stealthy", self.stealthy, "False without a source")
        if self.until is not None:
            check_number("until", self.until, 0.0, 1.0)

    @property
    def slug(self) -> str:
        """Such as ``bfa-8``, ``bfa-8-scales``."""
        return "-".join([f"bfa-{self.flips}", *parts_slug(self.parts)])

    def run(
        self,
        model: nn.Module,
        images: Tensor,
        labels: Tensor,
        *,
        judged: tuple[Tensor, Tensor] | None = None,
        progress: Progress | None = None,
    ) -> FaultCurve:
        """Search with `images` (N, C, H, W) in [0, 1] and `labels` (N,), and measure accuracy after every flip.

        Args:
            judged: images and labels that accuracy is measured on, and `until` with it; by default those of the search.

        The model is left as it was. Raises `ArgumentError` for bad arguments, a model without a gradient, or one whose
        logits on `images` are not finite to begin with.
        """
        progress = progress or SilentProgress()
        plain = unoptimized(model)
        judge = Judge(plain, *(judged or (images, labels)), target=self.target, source=self.source)
        progress.start("bit search", self.flips)
        try:
            with torch.inference_mode(False), frozen(plain), Memory(plain, self.parts) as memory:
                points, flips = [judge(0)], []
                bound = -1.0 if self.until is None else self.until * points[0].accuracy
                stopped = "all bits flipped"
                for found in _Search(self, memory, images, labels):
                    if not found:
                        stopped = "no flip raises the loss"
                        break
                    flips += found
                    points.append(judge(len(flips)))
                    progress.advance(len(found), f"{len(flips)} bits · {100 * points[-1].accuracy:.1f} %")
                    if points[-1].accuracy <= bound:
                        stopped = f"at most {self.until:g} of the accuracy left"
                        break
                return FaultCurve(tuple(flips), tuple(points), memory.bits, stopped)
        finally:
            progress.finish()

    def draw(self, model: nn.Module, images: Tensor, labels: Tensor) -> tuple[Flip, ...]:
        """The flips, in order; without measuring anything but the loss on `images`, and without `until`."""
        plain = unoptimized(model)
        with torch.inference_mode(False), frozen(plain), Memory(plain, self.parts) as memory:
            return tuple(flip for found in _Search(self, memory, images, labels) for flip in found)


class _Search:
    """Iterates over the flips that are kept, which stay in `memory`; an empty list where none helps is the last."""

    def __init__(self, search: BitSearch, memory: Memory, images: Tensor, labels: Tensor) -> None:
        if not len(check_images(images)):
            raise invalid("images", "an empty batch", "at least one image")
        check_labels(labels, len(images))
        self._search, self._memory = search, memory
        self._images, self._model = images, memory.model
        self._signs, self._classes = _wishes(search, labels)
        self._tiled = Tiled(memory.model)
        start = self._measure()
        if start is None:
            raise invalid("model", f"{type(memory.model).__name__} with logits that are not finite", "finite logits")
        self._best = start

    def __iter__(self) -> Iterator[list[Flip]]:
        left = self._search.flips
        while left:
            found = self._step(left)
            yield found
            if not found:
                return
            left -= len(found)

    def _step(self, left: int) -> list[Flip]:
        """The flips of one step, kept in the memory."""
        ranked = {region: self._ranked(region, gain) for region, gain in self._gains().items()}
        best, value = [], self._best
        for at_once in range(1, min(_AT_ONCE, left) + 1):
            for trial in self._trials(ranked, at_once):
                measured = self._try(trial)
                if measured is not None and measured > value:
                    best, value = trial, measured
            if best:
                self._memory.flip(best)
                self._best = value
                break
        return best

    def _trials(self, ranked: dict[Region, list[Flip]], at_once: int) -> Iterator[list[Flip]]:
        for region, flips in ranked.items():
            if at_once > 1:
                if len(flips) >= at_once and not isinstance(region, ActivationNumber):
                    yield flips[:at_once]
                continue
            most = len(flips) if isinstance(region, ActivationNumber) else self._search.candidates
            yield from ([flip] for flip in flips[:most])

    def _gains(self) -> dict[Region, Tensor | None]:
        """First-order gains by region; None where there are so few bits that all are measured."""
        found = gains(self._model, self._memory.regions, self._images, self._objective)
        return {r: found.get(r) for r in self._memory.regions if r in found or isinstance(r, ActivationNumber)}

    def _ranked(self, region: Region, gain: Tensor | None) -> list[Flip]:
        """The best bits of a region that are not flipped yet; only those that promise something."""
        done = {(f.element, f.bit) for f in self._memory.flipped if (f.layer, f.part) == (region.layer, region.part)}
        if gain is None:
            places = [(0, bit) for bit in range(region.bits)]
        else:
            count = min(max(self._search.candidates, _AT_ONCE) + len(done), region.size)
            values, indices = gain.topk(count)
            places = [divmod(index, region.bits) for index in indices[values > 0].tolist()]
        return [Flip(region.layer, region.part, *place) for place in places if place not in done]

    def _try(self, flips: list[Flip]) -> float | None:
        """The objective with these bits flipped as well; None if the kernels refuse or a logit is not finite."""
        try:
            self._memory.flip(flips)
        except ArgumentError:
            return None
        try:
            return self._measure()
        finally:
            self._memory.undo(len(flips))

    def _measure(self) -> float | None:
        with torch.no_grad():
            logits = logits_of(self._tiled, self._images)
        if not bool(finite_rows(logits).all()):
            return None
        return float(self._objective(logits, slice(None)).mean())

    def _objective(self, logits: Tensor, rows: slice) -> Tensor:
        if int(self._classes.max()) >= logits.shape[1]:
            raise invalid("labels or target", int(self._classes.max()), f"[0, {logits.shape[1] - 1}]")
        loss = F.cross_entropy(logits.double(), self._classes[rows], reduction="none")
        return loss * self._signs[rows]


def _wishes(search: BitSearch, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Sign (N,) and class (N,) of the cross-entropy that each image contributes to what is ascended."""
    if search.target is None:
        return torch.ones(len(labels), dtype=torch.float64), labels
    wanted = torch.full_like(labels, search.target)
    signs = -torch.ones(len(labels), dtype=torch.float64)
    if search.source is not None:
        mine = labels == search.source
        if not bool(mine.any()):
            raise invalid("source", search.source, "the label of at least one of the images")
        wanted = torch.where(mine, wanted, labels)
        if not search.stealthy:
            signs = torch.where(mine, signs, 0.0)
    return signs, wanted
