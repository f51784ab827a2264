"""What flips do to a model: accuracy after each of them, and how many it takes to halve it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from robustlab.attacks._goal import finite_rows
from robustlab.attacks._victim import logits_of
from robustlab.attacks.faults._memory import Flip
from robustlab.core import Tiled
from robustlab.core.errors import check_images, check_labels, invalid
from robustlab.deploy import unoptimized


@dataclass(frozen=True)
class FaultPoint:
    """A model with its first `flips` bits flipped.

    accuracy: share of images answered right; an answer with logits that are not finite is none. not_finite: share of
    images with such logits: a model that visibly broke, which is another thing than one that answers wrong. hits: share
    of the images a targeted search is about that get its class; None without a target.
    """

    flips: int
    accuracy: float
    not_finite: float = 0.0
    hits: float | None = None


@dataclass(frozen=True)
class FaultCurve:
    """Bits flipped one after the other, and what was measured on the way.

    flips: in the order in which they are made. points: by number of flips, from 0. bits: how many there were to choose
    from. stopped: why no more bits were flipped.
    """

    flips: tuple[Flip, ...]
    points: tuple[FaultPoint, ...]
    bits: int
    stopped: str

    @property
    def clean(self) -> float:
        """Accuracy without a flip."""
        return self.points[0].accuracy

    @property
    def half(self) -> FaultPoint | None:
        """The first measured point with at most half of the clean accuracy; None where the curve does not get there."""
        return next((p for p in self.points if p.flips and p.accuracy <= self.clean / 2), None)

    @property
    def bits_to_half(self) -> int | None:
        """Flips until at most half of the clean accuracy is left, None where the curve does not get there."""
        return None if self.half is None else self.half.flips

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {**asdict(self), "bits_to_half": self.bits_to_half}


class Judge:
    """Measures a model, as it is now, on fixed images: on the kernels, in tiles."""

    def __init__(
        self,
        model: nn.Module,
        images: Tensor,
        labels: Tensor,
        *,
        target: int | None = None,
        source: int | None = None,
    ) -> None:
        """`images` (N, C, H, W), N >= 1, `labels` (N,).

        Hits are counted among images of class `source`, or, without one, of any class but `target`.
        """
        if not len(check_images(images)):
            raise invalid("images", "an empty batch", "at least one image")
        check_labels(labels, len(images))
        plain = unoptimized(model)
        self._model = plain if isinstance(plain, Tiled) else Tiled(plain)
        self._images, self._labels, self._target = images, labels, target
        self._meant = labels.ne(-1 if target is None else target) if source is None else labels.eq(source)

    def __call__(self, flips: int) -> FaultPoint:
        """The point of the model now, with `flips` bits flipped."""
        with torch.no_grad():
            logits = logits_of(self._model, self._images)
        finite = finite_rows(logits)
        answers = logits.argmax(1)
        hits = None
        if self._target is not None:
            hit = (answers == self._target) & finite & self._meant
            hits = int(hit.sum()) / max(1, int(self._meant.sum()))
        right = int(((answers == self._labels) & finite).sum())
        count = len(self._labels)
        return FaultPoint(flips, right / count, 1 - int(finite.sum()) / count, hits)
