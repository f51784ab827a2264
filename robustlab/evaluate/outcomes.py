"""Outcomes: what one model answered to the images of one shard, as small arrays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from robustlab.core import L2, Ball, Linf, map_tiles
from robustlab.core.tiles import DEFAULT_TILE
from robustlab.evaluate.conditions import Condition
from robustlab.evaluate.shown import Shown

Array = NDArray[Any]
NO_PREDICTION = -1


@dataclass(frozen=True, eq=False)
class Outcomes:
    """Per-sample outcomes (n,) of one cell.

    `prediction` is -1 and `confidence` NaN where the model's logits are not finite. `linf` and `l2` are norms of what
    was added to the clean image, in image units. `attacked` is True where an attack worked on the sample.
    """

    ids: Array  # int64
    prediction: Array  # int32
    correct: Array  # bool
    confidence: Array  # float32 in [0, 1], NaN
    linf: Array  # float32
    l2: Array  # float32
    attacked: Array  # bool

    def __len__(self) -> int:
        return len(self.ids)

    def equals(self, other: Outcomes) -> bool:
        """Bit for bit the same."""
        names = [f.name for f in fields(self)]
        return all(getattr(self, n).tobytes() == getattr(other, n).tobytes() for n in names)


def join(parts: Sequence[Outcomes]) -> Outcomes:
    """The outcomes of consecutive parts of a shard as one."""
    return Outcomes(**{f.name: np.concatenate([getattr(p, f.name) for p in parts]) for f in fields(Outcomes)})


def logits_of(model: nn.Module, images: Tensor) -> Tensor:
    """Logits float64 (N, K), on the CPU."""
    with torch.no_grad():
        logits: Tensor = model(images)
    return logits.double().cpu()


def _answers(logits: Tensor) -> tuple[Array, Array]:
    """Prediction int32 (N,) and confidence float32 (N,). Ties go to the first class; softmax in double precision."""
    finite = torch.isfinite(logits).all(dim=1)
    probability = logits.masked_fill(~finite[:, None], 0.0).softmax(dim=1).amax(dim=1)
    prediction = np.where(finite.numpy(), logits.numpy().argmax(axis=1), NO_PREDICTION).astype(np.int32)
    confidence = np.where(finite.numpy(), probability.numpy(), np.nan).astype(np.float32)
    return prediction, confidence


def _norms(ball: Ball, shown: Tensor, images: Tensor) -> Array:
    """float32 (N,). In tiles: distances are computed in double precision, which would be the peak of the memory."""
    norms: Array = map_tiles(ball.distance, shown, images, size=DEFAULT_TILE).float().cpu().numpy()
    return norms


def score(
    condition: Condition, model: nn.Module, shown: Shown, images: Tensor, labels: Tensor, ids: Sequence[int]
) -> tuple[Outcomes, Tensor]:
    """Ask `model` (in tiles) about what it is shown, and compare with the labels; with the logits float64 (N, K).

    Where the condition is adversarial, a sample that could not be attacked, or whose attacked logits are not finite,
    is no success: it counts as correct exactly if it is correct without attack.
    """
    logits = logits_of(model, shown.images)
    prediction, confidence = _answers(logits)
    truth = labels.cpu().numpy()
    correct = prediction == truth
    attacked = shown.attacked.cpu().numpy().astype(bool)
    if condition.adversarial:
        attacked = attacked & (prediction != NO_PREDICTION)
        if not attacked.all():
            clean, _ = _answers(logits_of(model, images))
            correct = np.where(attacked, correct, clean == truth)
    outcomes = Outcomes(
        ids=np.asarray(ids, dtype=np.int64),
        prediction=prediction,
        correct=correct,
        confidence=confidence,
        linf=_norms(Linf(1.0), shown.images, images),
        l2=_norms(L2(1.0), shown.images, images),
        attacked=attacked,
    )
    return outcomes, logits
