"""Is a foreign model shown what it was trained on? A low accuracy is checked against the usual other ways."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product

import torch
from torch import Tensor, nn

from robustlab.core import RobustlabError, frozen
from robustlab.deploy import Preprocessing
from robustlab.deploy.foreign.base import ForeignModel
from robustlab.models.blocks import IMAGENET_MEAN, IMAGENET_STD

_log = logging.getLogger(__name__)

IMAGES = 64
_DOUBTFUL = 0.5
_MORE = 0.2  # of accuracy, on 64 images: about three standard errors

_STATISTICS: tuple[tuple[tuple[float, ...], tuple[float, ...]], ...] = (
    ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
    (IMAGENET_MEAN, IMAGENET_STD),
    ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
)


@dataclass(frozen=True)
class Suspicion:
    """accuracy: as the model is; chance: 1 / classes; better: another way with a much higher accuracy, if any."""

    accuracy: float
    chance: float
    better: Preprocessing | None
    better_accuracy: float

    @property
    def text(self) -> str:
        """In words, with the options that would help."""
        start = f"only {100 * self.accuracy:.0f} % of a few clean images are right (chance: {100 * self.chance:.2g} %)"
        if self.better is None:
            return f"{start}; no usual preprocessing does much better: check classes, their order and the preprocessing"
        return (
            f"{start}; with {self.better.text} it would be {100 * self.better_accuracy:.0f} %, so the preprocessing is "
            f"probably wrong: try {self.better.options}"
        )


def alternatives(given: Preprocessing) -> Iterator[Preprocessing]:
    """The usual ways to show an image to a network, other than the given one."""
    for channels, pixel_range, (mean, std) in product(("rgb", "bgr"), (1.0, 255.0), _STATISTICS):
        order = slice(None) if channels == "rgb" else slice(None, None, -1)
        scaled = [tuple(pixel_range * v for v in values[order]) for values in (mean, std)]
        if not any(mean):
            scaled[1] = std
        other = replace(given, mean=scaled[0], std=scaled[1], pixel_range=pixel_range, channels=channels)  # type: ignore[arg-type]
        if other != given:
            yield other


def warn_of_preprocessing(name: str, model: nn.Module, images: Tensor, labels: Tensor) -> None:
    """Say in the log where a foreign model is probably not shown what it was trained on: `suspect`, of any model."""
    suspicion = suspect(model, images, labels) if isinstance(model, ForeignModel) else None
    if suspicion is not None:
        _log.warning("model %s: %s", name, suspicion.text)


def suspect(model: ForeignModel, images: Tensor, labels: Tensor) -> Suspicion | None:
    """What is odd about the accuracy of `model` on clean images (N, 3, H, W); None for one that is fine.

    Looks further below 50 % only; a model near chance is always named.
    """
    given = getattr(model, "preprocessing", None)
    if not isinstance(given, Preprocessing) or not len(images):
        return None
    accuracy, classes = _accuracy(model, images, labels)
    if accuracy >= _DOUBTFUL:
        return None
    best, found = 0.0, None
    try:
        for other in alternatives(given):
            model.preprocessing = other  # type: ignore[assignment]
            try:
                score, _ = _accuracy(model, images, labels)
            except RobustlabError:
                continue
            if score > best:
                best, found = score, other
    finally:
        model.preprocessing = given  # type: ignore[assignment]
    chance = 1 / classes
    if best >= accuracy + _MORE:
        return Suspicion(accuracy, chance, found, best)
    near = accuracy <= chance + 3 * math.sqrt(chance * (1 - chance) / len(images))
    return Suspicion(accuracy, chance, None, best) if near else None


def _accuracy(model: ForeignModel, images: Tensor, labels: Tensor) -> tuple[float, int]:
    with frozen(model), torch.no_grad():
        logits = model(images)
    return float((logits.argmax(1) == labels).float().mean()), logits.shape[1]
