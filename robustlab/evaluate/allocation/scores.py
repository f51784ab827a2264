"""Scores of a sensitivity: how far a network's answers are from the float one's, on images as they come or worse."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robustlab.core import Progress, SilentProgress, Tiled, frozen
from robustlab.core.errors import check_images, check_labels, invalid
from robustlab.core.keys import sample_keys
from robustlab.core.tiles import tiles
from robustlab.evaluate.conditions import check_conditions

SCORES: dict[str, tuple[str, ...]] = {
    "clean": ("clean",),
    "corruption": (
        "gaussian-noise-3",
        "brightness-3",
        "contrast-3",
        "pixelate-3",
        "jpeg-compression-3",
    ),
    "pgd": ("pgd10-linf-1of255",),
}
"""Name -> the conditions its images are shown under, in turn."""

_BATCH = 64


@dataclass(frozen=True)
class KLScore:
    """Mean Kullback-Leibler divergence KL(float || model) in nats over `images`, which both are shown alike.

    conditions: keys of what was done to the images. images: float32 (N, 3, H, W). reference: the float network's log
    probabilities, float64 (N, K). Calling it with a model gives the divergence; it is 0 for the float network.
    """

    conditions: tuple[str, ...]
    images: Tensor
    reference: Tensor

    def __call__(self, model: nn.Module) -> float:
        """KL(float || model), at least 0 up to rounding."""
        found = log_probabilities(model, self.images)
        return float(F.kl_div(found, self.reference, reduction="batchmean", log_target=True))


def log_probabilities(model: nn.Module, images: Tensor) -> Tensor:
    """float64 (N, K), computed tile by tile."""
    with frozen(model), torch.no_grad():
        logits: Tensor = Tiled(model)(images)
    return logits.double().log_softmax(1)


def score_conditions(score: str | Sequence[str]) -> tuple[str, ...]:
    """Condition keys of a name in `SCORES`, of comma-separated keys, or of a list of keys, checked.

    Raises `ArgumentError` that says what is allowed.
    """
    keys: Sequence[str] = score
    if isinstance(score, str):
        keys = SCORES.get(score) or [key.strip() for key in score.split(",")]
        if len(keys) == 1 and "-" not in keys[0] and keys[0] not in SCORES:
            allowed = "clean, corruption, pgd, or conditions such as contrast-5 or pgd20-linf-2of255, comma-separated"
            raise invalid("score", score, allowed)
    return tuple(condition.key for condition in check_conditions(keys))


def make_score(
    score: str | Sequence[str],
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    seed: int = 0,
    progress: Progress | None = None,
) -> KLScore:
    """The score on `images`, shown under the conditions of `score` in turn: image i under number i modulo their count.

    An attack is made once, on the float `model`, and all networks are shown its images: a boundary that a layer's
    rounding moves shows where images lie at the boundary, and an attack for every layer and choice would cost a
    hundred times as much. Draws are keyed by seed, condition and i.

    score: ``clean``; ``corruption`` (the five corruptions at severity 3); ``pgd`` (PGD-10 in Linf(1/255), a radius at
    which a network that was not trained against attacks still answers); or keys of other conditions.
    images: float32 (N, 3, H, W) in [0, 1]; labels: int64 (N,), used by attacks alone.
    Raises `ArgumentError` for an unknown score, and for a model whose logits are not finite on these images.
    """
    keys = score_conditions(score)
    check_images(images)
    check_labels(labels, len(images))
    if not len(images):
        raise invalid("images", "no images", "at least one image")
    progress = progress or SilentProgress()
    shown = images.clone()
    progress.start("images", len(images))
    try:
        for turn, condition in enumerate(check_conditions(keys)):
            rows = torch.arange(turn, len(images), len(keys))
            for start, stop in tiles(len(rows), _BATCH):
                part = rows[start:stop]
                draws = sample_keys(seed, condition.key, part)
                attacked = Tiled(model) if condition.depends_on_model else None
                shown[part] = condition.show(images[part], labels[part], draws, attacked).images
                progress.advance(len(part), condition.key)
    finally:
        progress.finish()
    reference = log_probabilities(model, shown)
    if not bool(torch.isfinite(reference).all()):
        raise invalid("model", "logits with NaN or infinity", "finite logits on all images")
    return KLScore(keys, shown, reference)
